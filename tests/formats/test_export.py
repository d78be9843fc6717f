"""A model exported to another tool is the same model, or is refused in one line."""

import json

import pytest
import torch
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.hf_configs import SCHEMAS, class_counts, configs, shrink
from support.strategies import hybrids, models
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

import parambudget as pb
from parambudget.arch.config import ModelConfig, flat_fields
from parambudget.arch.defaults import with_defaults
from parambudget.arch.presets.registry import PRESETS
from parambudget.cost.params import count, total
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import differences, text_of, write_into
from parambudget.formats.hf.exporter import EXPORTABLE, to_hf
from parambudget.formats.hf.families.registry import FAMILIES
from parambudget.formats.hf.families.remote_code import REMOTE_CODE_FAMILIES
from parambudget.formats.hf.families.text_parts import TEXT_PART_FAMILIES
from parambudget.formats.hf.importer import from_hf
from parambudget.formats.litgpt import from_litgpt, to_litgpt
from parambudget.formats.megatron import from_megatron, to_megatron

logging.set_verbosity_error()
few = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
COUNTED = {kind: family.model_class for kind, family in FAMILIES.items() if family.weights is None}
"""Types that are counted and not built, and their classes."""
READ_ONLY = {*REMOTE_CODE_FAMILIES, *TEXT_PART_FAMILIES}
BUILT_KINDS = [kind for kind in SCHEMAS if kind not in COUNTED and kind not in READ_ONLY]
every_kind = pytest.mark.parametrize("kind", BUILT_KINDS)
COPIES = {"kimi_k2": "deepseek_v3", "mobilellm": "llama"}
"""Types whose class is remote code, and the type of an equivalent class."""
TOOLS = {"hf": to_hf, "litgpt": to_litgpt, "megatron": to_megatron}
TINY = {
    "dim": 32, "n_layers": 4, "n_heads": 4, "intermediate_size": 40, "vocab_size": 50, "context_length": 24
}  # fmt: skip
MOE = {"n_experts": 8, "n_experts_per_token": 4, "expert_intermediate_size": 20}
SIGMOID = MOE | {"router_scores": "sigmoid", "correction_bias": True}
MLA = {"kv_lora_rank": 16, "q_lora_rank": 12, "v_head_dim": 8, "rotary_interleaved": True}
LINEAR = {"rope_type": "linear", "rope_factor": 2.0}
LLAMA3 = {"rope_type": "llama3", "rope_factor": 8.0, "rope_original_context": 8192}
YARN = {"rope_type": "yarn", "rope_factor": 40.0, "rope_original_context": 4096}


def tiny(**fields: object) -> ModelConfig:
    return pb.model(**TINY | fields)


def our_counts(model: ModelConfig) -> tuple[dict[str, int], int]:
    breakdown = count(model)
    return {name: n for name, n in breakdown.by_component.items() if n}, breakdown.active


def read_back(to: str, document: dict) -> ModelConfig:
    """The model that a tool builds from a document, by our reading of its code."""
    if to == "hf":
        return with_defaults(from_hf(document, "").fields).model
    return with_defaults((from_litgpt if to == "litgpt" else from_megatron)(document)).model


BUILT = [name for name, row in PRESETS.items() if row.source.split("counted: ")[1] not in COUNTED.values()]


@pytest.mark.parametrize("name", BUILT)
def test_every_preset_is_exported_and_read_back_the_same(name):
    model = PRESETS[name].model
    read = read_back("hf", to_hf(model).document)
    assert differences(model, read) == []
    assert our_counts(read) == our_counts(model)


@pytest.mark.parametrize("name", ["gpt2", "pythia-70m", "smollm2-135m", "qwen3-0.6b", "gemma-3-270m"])
def test_the_folder_of_a_preset_loads_in_transformers_with_the_published_count(name, tmp_path):
    write_into(tmp_path, to_hf(PRESETS[name].model))
    with torch.device("meta"):
        loaded = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert sum(parameter.numel() for parameter in loaded.parameters()) == PRESETS[name].published_count


@every_kind
@few
@given(data=st.data())
def test_a_random_model_of_every_class_loads_in_transformers_with_its_count(kind, data):
    model = with_defaults(from_hf(data.draw(configs(kind)), "").fields).model
    assume(model.moe or kind != "cohere2_moe")  # without experts it is of no class but this
    for made in (to_hf(model), to_hf(model, COPIES.get(kind, kind))):
        assert class_counts(made.document) == our_counts(model)
        assert made.document["architectures"] == [EXPORTABLE[made.name].model_class]


@pytest.mark.parametrize("to", TOOLS)
@settings(max_examples=60, deadline=None)
@given(model=models(rare=True) | hybrids())
def test_any_model_is_the_same_there_or_refused_in_one_line(to, model):
    try:
        made = TOOLS[to](model)
    except ConfigError as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is not None:
        assert ("\n" in refusal, "; " in refusal) == (False, True)
        return
    read = read_back(to, made.document).replace(tied=model.tied)
    assert our_counts(read) == our_counts(model)


@settings(max_examples=60, deadline=None)
@given(model=models(), other=models())
def test_models_without_a_difference_have_the_same_count(model, other):
    """Otherwise a wrong export could pass: every export is checked by `differences`."""
    theirs = flat_fields(other)
    for name, value in flat_fields(model).items():
        if theirs.get(name, value) == value:
            continue
        try:
            changed = model.replace(**{name: theirs[name]})
        except ConfigError:
            continue
        assert differences(model, changed) or our_counts(model) == our_counts(changed), name


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in BUILT_KINDS
        # MiniMax has windows in all layers with attention, and OLMo Hybrid refuses attention in all.
        if "layer_types" in SCHEMAS[kind].defaults and kind not in ("minimax", "olmo_hybrid")
    ],
)
def test_a_model_without_windows_runs_in_a_class_that_has_them(kind):
    config = {"model_type": kind, "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    model = with_defaults(from_hf(shrink(None, config), "").fields).model
    assert not model.n_local_layers
    document = to_hf(model, kind).document
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**document), attn_implementation="eager")
    assert theirs(torch.ones(1, 4).long()).logits.shape == (1, 4, 30)


def test_every_class_is_one_that_transformers_has():
    classes = {kind: family.model_class for kind, family in EXPORTABLE.items()}
    assert {kind: MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind] for kind in classes} == classes
    assert set(SCHEMAS) - set(EXPORTABLE) == {*COPIES, *COUNTED, *READ_ONLY}


@pytest.mark.parametrize("export", TOOLS.values(), ids=TOOLS)
def test_a_model_that_is_counted_and_not_built_is_refused(export):
    with pytest.raises(ConfigError, match=r"with n_altup_streams, .* is counted and not built"):
        export(PRESETS["gemma-3n-e2b"].model)


@pytest.mark.parametrize("name", ["gpt2", "opt-125m", "gpt-neo-125m", "pythia-70m", "phi-1.5", "bloom-560m"])
def test_an_exported_config_has_no_dropout_and_no_tokens_of_another_tokenizer(name, tmp_path):
    write_into(tmp_path, to_hf(PRESETS[name].model))
    theirs = AutoConfig.from_pretrained(tmp_path).to_dict()
    of_other_heads = ("summary_first_dropout", "classifier_dropout")
    assert [key for key in theirs if "drop" in key and theirs[key] and key not in of_other_heads] == []
    assert [theirs[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")] == [None] * 3


@pytest.mark.parametrize(
    ("to", "fields", "message"),
    [
        ("hf", {"head_bias": True}, "the closest, llama, has head_bias=False where"),
        ("hf", {"logit_softcap": 30.0}, "leave logit_softcap out to export it"),
        ("hf", {"logit_softcap": 30.0, "qkv_clip": 8.0}, "change these fields to export it"),
        ("litgpt", {"position": "learned"}, "set position to 'rotary' to export it"),
        ("litgpt", {"position": "alibi"}, "litgpt has position='rotary' where the model has 'alibi'"),
        ("litgpt", YARN, "litgpt has rope_type='none' where the model has 'yarn'; set rope_type to 'none'"),
        ("megatron", YARN, "Megatron-LM has rope_type='none' where the model has 'yarn'; set rope_type to "),
        ("megatron", LLAMA3 | {"rope_original_context": 4096}, "set rope_original_context to 8192 to export"),
        ("megatron", LINEAR | {"rope_factor": 2.5}, "rope_factor=2.0 where the model has 2.5"),
        ("litgpt", {"rope_theta": 999.5}, "rope_theta=1000.0 where the model has 999.5"),
        ("litgpt", {"kv_lora_rank": 16}, "q_lora_rank=16 where the model has nothing"),
        ("litgpt", MOE | {"norm_expert_weights": False}, "norm_expert_weights=True where"),
        ("megatron", {"block": "parallel"}, "set block to 'sequential' to export it"),
        ("megatron", {"qk_norm": "full"}, "set qk_norm to 'head' to export it"),
        ("megatron", {"gated": False, "activation": "gelu_tanh"}, "activation='gelu' where the model has "),
        ("megatron", MOE | {"n_experts_per_token": 1}, "one expert per token needs norm_"),
        ("megatron", SIGMOID | {"n_expert_groups": 4, "n_groups_per_token": 3}, "ranks a group of "),
        ("megatron", MLA | {"position": "none"}, "latent attention in Megatron-LM has rotary positions"),
    ],
    ids=str,
)  # fmt: skip
def test_a_refusal_says_what_the_tool_lacks_and_what_to_change(to, fields, message):
    with pytest.raises(ConfigError) as refused:
        TOOLS[to](tiny(**fields))
    assert message in str(refused.value)


def test_no_tool_pads_the_vocabulary():
    assert to_litgpt(tiny()).document["padded_vocab_size"] == 50
    assert to_megatron(tiny()).document["--make-vocab-size-divisible-by"] == 1


def test_a_note_says_how_to_tie_the_head_in_litgpt():
    (note,) = to_litgpt(tiny(tied=True)).notes
    assert "--train.tie_embeddings true" in note
    assert f"{50 * 32:,} more parameters" in note
    assert to_litgpt(tiny(tied=False)).notes == ()


def test_the_litgpt_file_is_yaml_with_numbers_for_numbers():
    for fields in ({"norm_eps": 1e-6}, MLA | SIGMOID, {"window": 5, "window_pattern": ("local", "global")}):
        made = to_litgpt(tiny(**fields))
        assert yaml.safe_load(text_of(made)) == made.document


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({"window": 5, "window_pattern": ("local", "global")},
         {"--window-size": "4,0", "--window-attn-skip-freq": "([1]*1+[0]*1+[1]*1+[0]*1)"}),
        ({"tied": False}, {"--untie-embeddings-and-output-weights": True}),
        ({"head_dim": 12, "n_kv_heads": 2},
         {"--kv-channels": 12, "--group-query-attention": True, "--num-query-groups": 2}),
        ({"qkv_bias": True}, {"--disable-bias-linear": True, "--add-qkv-bias": True}),
        (SIGMOID | {"n_expert_groups": 4, "n_groups_per_token": 2, "n_first_dense": 1, "n_shared_experts": 2},
         {"--moe-router-num-groups": 4, "--moe-router-group-topk": 2, "--moe-layer-freq": "([0]*1+[1]*3)",
          "--moe-shared-expert-intermediate-size": 40, "--moe-router-enable-expert-bias": True}),
        (MLA, {"--qk-head-dim": 8, "--qk-pos-emb-head-dim": 4, "--v-head-dim": 8, "--q-lora-rank": 12,
               "--kv-lora-rank": 16, "--qk-layernorm": True, "--rope-type": "rope"}),
        ({"activation": "quick_gelu", "ffn_clamp": 7.0},
         {"--quick-geglu": True, "--activation-func-clamp-value": 7.0, "--glu-linear-offset": 1.0}),
        (LINEAR, {"--rotary-seq-len-interpolation-factor": 2}),
        (LLAMA3, {"--use-rope-scaling": True, "--rope-scaling-factor": 8.0}),
        (MLA | YARN | {"rope_attention_factor": 1.0},
         {"--rope-type": "yarn", "--rotary-scaling-factor": 40.0, "--mscale": 0.0, "--mscale-all-dim": 0.0}),
        ({"rotary_pattern": ("rotary", "none")}, {"--no-rope-freq": "([0]*1+[1]*1+[0]*1+[1]*1)"}),
    ],
    ids=str,
)  # fmt: skip
def test_megatron_gets_its_own_arguments(fields, arguments):
    document = to_megatron(tiny(**fields)).document
    assert {name: document.get(name) for name in arguments} == arguments


@pytest.mark.parametrize(
    ("fields", "adjustments"),
    [
        (LINEAR, {"factor": 2.0}),
        (
            LLAMA3,
            {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_seq_len": 8192},
        ),
        ({}, None),
    ],
)
def test_litgpt_gets_its_own_names_of_a_rescaling(fields, adjustments):
    assert to_litgpt(tiny(**fields)).document.get("rope_adjustments") == adjustments


def test_a_router_of_sigmoids_without_groups_is_one_with_all_of_two_groups_in_litgpt():
    document = to_litgpt(tiny(**SIGMOID)).document
    assert (document["n_expert_groups"], document["n_topk_groups"]) == (2, 2)


def test_a_class_with_the_same_count_and_another_function_is_exported_with_a_note():
    config = shrink(None, {"model_type": "recurrent_gemma"})
    model = with_defaults(from_hf(config, "").fields).model.replace(activation="silu")
    (note,) = to_hf(model, "recurrent_gemma").notes
    assert "same count, but computes the same activation of recurrences (hidden_activation)" in note


def test_an_unknown_class_and_an_unsuitable_one_are_refused():
    with pytest.raises(ConfigError, match=r"cannot export to model_type 'llama4'; use one of llama, mistral"):
        to_hf(tiny(), "llama4")
    with pytest.raises(ConfigError, match="mixtral is a class with experts, and this model has none"):
        to_hf(tiny(), "mixtral")


def test_the_command_writes_a_file_once_and_prints_otherwise(run, tmp_path):
    folder = tmp_path / "a" / "b"
    code, out, _ = run("export", "gpt2", "--to", "hf", "-o", folder)
    assert (code, out) == (0, f"wrote {folder / 'config.json'}: gpt2, 124,439,808 parameters\n")
    assert run("count", folder / "config.json", "--expect", 124_439_808, "--tolerance", "0%")[0] == 0
    code, _, err = run("export", "gpt2", "-o", folder)
    assert (code, "replace it with --force" in err) == (2, True)
    assert run("export", "gpt2", "-o", folder, "--force")[0] == 0
    assert json.loads(run("export", "gpt2")[1]) == json.loads((folder / "config.json").read_text())


def test_the_command_says_the_same_as_json(run):
    code, out, err = run("export", "llama-3.2-1b", "--to", "litgpt", "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["total"] == total(PRESETS["llama-3.2-1b"].model)
    assert document["document"]["n_embd"] == 2048
    assert "tie_embeddings" in document["notes"][0]
    _, out, err = run("export", "llama-3.2-1b", "--to", "litgpt")
    assert (yaml.safe_load(out), err) == (document["document"], f"note: {document['notes'][0]}\n")


def test_the_command_refuses_in_one_line(run):
    for arguments in (["gpt2", "--to", "litgpt"], ["gpt2", "--to", "megatron", "--model-type", "gpt2"]):
        code, out, err = run("export", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_an_unknown_dtype_is_refused_with_the_list(tmp_path):
    message = "`dtype` is 'q4_0'; use 'f32', 'f16', 'bf16', 'q8_0'"
    with pytest.raises(ConfigError, match=message):
        pb.export("gpt2", "gguf", out=tmp_path, dtype="q4_0")
