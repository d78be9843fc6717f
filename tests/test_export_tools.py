"""The same model for litgpt and Megatron-LM: written as they read it, or refused with what lacks."""

import shlex

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import models

from parambudget.arch.config import FIELDS, ModelConfig
from parambudget.arch.defaults import complete
from parambudget.arch.export.files import as_arguments, as_yaml
from parambudget.arch.export.litgpt import to_litgpt
from parambudget.arch.export.megatron import to_megatron
from parambudget.arch.presets import PRESETS, preset
from parambudget.errors import ConfigError

LLAMA = preset("llama-3-8b")
TOOLS = {"litgpt": to_litgpt, "megatron": to_megatron}
each_tool = pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
NOT_SAID_THERE = {
    # Fields that a llama can have another value of, and that neither tool can say.
    "residual_multiplier": 0.5, "logit_multiplier": 0.5, "qkv_clip": 8.0, "embedding_dim": 512,
    "embedding_norm": True, "position": "alibi", "final_norm": False, "norm_placement": "post",
    "activation": "relu",
}  # fmt: skip


# What they say of a model that their own projects have a config of


def test_litgpt_s_own_config_of_llama_3():
    """As under Llama-3-8B in litgpt/config.py of litgpt 0.5.13, which calls 256 of its entries padding."""
    own = dict(
        block_size=8192, vocab_size=128256, padded_vocab_size=128256, n_layer=32, n_head=32, n_embd=4096,
        n_query_groups=8, rotary_percentage=1.0, parallel_residual=False, bias=False,
        norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", intermediate_size=14336, rope_base=500000,
    )  # fmt: skip
    document = to_litgpt(LLAMA).document
    assert {key: document[key] for key in own} == own


def test_megatron_s_own_arguments_of_llama_3():
    """As in examples/llama/train_llama3_8b_h100_fp8.sh, but for the base and norms that are Llama's."""
    own = {
        "num-layers": 32, "hidden-size": 4096, "ffn-hidden-size": 14336, "num-attention-heads": 32,
        "group-query-attention": True, "num-query-groups": 8, "kv-channels": 128,
        "position-embedding-type": "rope", "rotary-base": 500000, "rotary-percent": 1.0,
        "attention-dropout": 0.0, "hidden-dropout": 0.0, "swiglu": True, "disable-bias-linear": True,
        "untie-embeddings-and-output-weights": True, "normalization": "RMSNorm",
    }  # fmt: skip
    document = to_megatron(LLAMA).document
    assert {key: document[key] for key in own} == own


def test_megatron_s_gpt_2_needs_no_flag_for_what_it_does_by_itself():
    document = to_megatron(preset("gpt2")).document
    told = ("swiglu", "disable-bias-linear", "untie-embeddings-and-output-weights", "no-bias-gelu-fusion")
    assert not set(told) & set(document)
    assert document["position-embedding-type"] == "learned_absolute"


def test_experts_and_latents_of_deepseek_v3_in_megatron_s_words():
    document = to_megatron(preset("deepseek-v3")).document
    assert document["moe-layer-freq"].startswith("[0,0,0,1,1")
    own = {
        "num-experts": 256, "moe-router-topk": 8, "moe-ffn-hidden-size": 2048, "qk-layernorm": True,
        "moe-shared-expert-intermediate-size": 2048, "moe-router-score-function": "sigmoid",
        "moe-router-enable-expert-bias": True, "moe-router-topk-scaling-factor": 2.5,
        "moe-router-num-groups": 8, "moe-router-group-topk": 4, "multi-latent-attention": True,
        "q-lora-rank": 1536, "kv-lora-rank": 512, "qk-head-dim": 128, "qk-pos-emb-head-dim": 64,
        "v-head-dim": 128,
    }  # fmt: skip
    assert {key: document[key] for key in own} == own


# What pads and what ties


@pytest.mark.parametrize("vocab_size", [50257, 128256, 101])
def test_no_vocabulary_is_padded(vocab_size):
    model = LLAMA.replace(vocab_size=vocab_size)
    litgpt, megatron = to_litgpt(model).document, to_megatron(model)
    assert litgpt["vocab_size"] == litgpt["padded_vocab_size"] == vocab_size
    assert megatron.document["vocab-size"] == vocab_size
    assert megatron.document["make-vocab-size-divisible-by"] == 1
    assert f"the tokenizer must have {vocab_size:,} entries" in megatron.notes[0]


def test_a_tie_that_litgpt_s_file_cannot_say_is_told_with_what_it_costs():
    assert to_litgpt(LLAMA).notes == ()
    note = to_litgpt(LLAMA.replace(tied=True)).notes[0]
    assert "--train.tie_embeddings true" in note
    assert f"{LLAMA.vocab_size * LLAMA.dim:,} parameters more" in note


def test_megatron_ties_unless_told():
    flag = "untie-embeddings-and-output-weights"
    assert flag in to_megatron(LLAMA).document
    assert flag not in to_megatron(LLAMA.replace(tied=True)).document


# What they cannot say


@each_tool
@pytest.mark.parametrize(("field", "value"), NOT_SAID_THERE.items(), ids=NOT_SAID_THERE)
def test_what_a_tool_cannot_say_is_refused_by_name(tool, field, value):
    with pytest.raises(ConfigError) as refused:
        tool(LLAMA.replace(**{field: value}))
    assert f"{field}=" in str(refused.value)
    assert " to export it" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("tool", "name", "told"),
    [
        ("litgpt", "gpt2", "its nearest has position='rotary' where the model has 'learned'; set position"),
        ("litgpt", "kimi-k2", "router_scores='softmax' where the model has 'sigmoid'"),
        ("litgpt", "deepseek-v2-lite", "no latent attention without compressed queries; give q_lora_rank"),
        ("megatron", "pythia-70m", "block='sequential' where the model has 'parallel'; set block"),
        ("megatron", "deepseek-v2", "judges a group by its 2 best experts"),
        ("megatron", "olmo-2-7b", "norm_placement='pre' where the model has 'reordered'"),
    ],
)
def test_why_a_published_model_is_refused(tool, name, told):
    with pytest.raises(ConfigError, match="has no such model: ") as refused:
        TOOLS[tool](preset(name))
    assert told in str(refused.value)


@each_tool
@settings(max_examples=200, deadline=None)
@given(model=models(), name=st.sampled_from([*PRESETS]), data=st.data())
def test_a_published_model_with_one_choice_of_another_is_written_or_refused_in_one_line(
    tool, model, name, data
):
    choice = data.draw(st.sampled_from([name for name in ModelConfig.model_fields if name in FIELDS]))
    try:
        changed = preset(name).replace(**{choice: getattr(model, choice)})
        written = tool(changed)
    except ConfigError as error:
        told = str(error)
    else:
        told = f"{written.name} has all {len(written.document)} words for it"
    assert "\n" not in told


# How it is written


@settings(max_examples=50, deadline=None)
@given(name=st.sampled_from([*PRESETS]), eps=st.floats(1e-12, 1), theta=st.integers(1, 10**8))
def test_the_yaml_says_what_was_meant(name, eps, theta):
    try:
        document = to_litgpt(PRESETS[name].model.replace(norm_eps=eps)).document
    except ConfigError:
        return
    document |= {"rope_base": theta}
    assert yaml.safe_load(as_yaml(document)) == document


@pytest.mark.parametrize("name", ["llama-3-8b", "deepseek-v3", "gpt-oss-20b"])
def test_the_arguments_are_one_bash_array(name):
    document = to_megatron(preset(name)).document
    text = as_arguments(document)
    assert text.startswith("MODEL_ARGS=(\n")
    assert text.endswith("\n)\n")
    words = iter(shlex.split(text.removeprefix("MODEL_ARGS=(").removesuffix(")\n")))
    read = {word.removeprefix("--"): document[word[2:]] is True or next(words) for word in words}
    assert read == {key: value if value is True else str(value) for key, value in document.items()}


def test_defaults_of_ours_are_models_that_both_tools_have():
    model = complete({"dim": 896, "n_layers": 24, "n_heads": 14}).model
    assert to_litgpt(model).document["mlp_class_name"] == "LLaMAMLP"
    assert to_megatron(model).document["swiglu"] is True
