"""Weights from and to Hugging Face: the same logits both ways, or one line that says why not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.hf_configs import CONSTANT
from support.hf_families import gpt
from support.tiny_hf_models import FAMILIES, shrunk
from support.tiny_model import random_tokens
from transformers import AutoModelForCausalLM, PreTrainedModel

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets.registry import preset
from parambudget.cost.params import count
from parambudget.errors import ConfigError, InputError, ParambudgetError
from parambudget.formats.hf.exporter import to_hf
from parambudget.formats.hf.weights import fill_from_pretrained, load_pretrained, save_pretrained
from parambudget.nn.transformer import Transformer

pytestmark = pytest.mark.usefixtures("one_thread")

EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}
"""Other implementations do not cap scores, and require rows of 16 bytes."""
LLAMA = preset("llama-3-8b").replace(
    dim=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, intermediate_size=24, vocab_size=30,
    context_length=8,
)  # fmt: skip


def random_class(model_class: type[PreTrainedModel], config: object) -> PreTrainedModel:
    theirs = model_class(config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in theirs.state_dict().items():
        if not CONSTANT.search(name):
            tensor.normal_(0, 0.2, generator=generator)
    return theirs


def save_with_transformers(folder: Path, model: ModelConfig = LLAMA) -> Path:
    """A folder as transformers writes it."""
    config = transformers.AutoConfig.for_model(**to_hf(model).document)
    random_class(transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config).save_pretrained(folder)
    return folder


def logits(module: torch.nn.Module, model: ModelConfig) -> torch.Tensor:
    with torch.no_grad():
        found = module(random_tokens(model))
    return found if isinstance(found, torch.Tensor) else found.logits


def load_with_transformers(folder: Path) -> PreTrainedModel:
    """The model of a folder; every tensor of the class must be in the files, and no others."""
    theirs, problems = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **EAGER)
    problems["missing_keys"] = {name for name in problems["missing_keys"] if not CONSTANT.search(name)}
    assert not any(problems.values()), problems
    return theirs.eval()


def assert_both_ways(theirs: PreTrainedModel, model: ModelConfig, folder: Path, *, fused: bool) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    theirs.save_pretrained(folder / "theirs")
    ours = load_pretrained(folder / "theirs")
    if fused and model.moe:
        stacked = Transformer(ours.model.replace(fused_experts=True))
        config = json.loads((folder / "theirs" / "config.json").read_text())
        save_pretrained(ours, config, folder / "single")
        fill_from_pretrained(stacked, folder / "single")
        ours = stacked.eval()
    expected = logits(theirs, model)
    torch.testing.assert_close(logits(ours, model), expected, rtol=0, atol=1e-4)
    config = json.loads((folder / "theirs" / "config.json").read_text())
    save_pretrained(ours, config, folder / "ours")
    torch.testing.assert_close(
        logits(load_with_transformers(folder / "ours"), model), expected, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@settings(max_examples=3, database=None)
@given(data=st.data())
def test_weights_go_both_ways_with_the_same_logits(family, data, tmp_path_factory):
    model = shrunk(data.draw, family)
    theirs = random_class(family.model_class, family.config(model))
    assert_both_ways(theirs, model, tmp_path_factory.mktemp("both"), fused=data.draw(st.booleans()))


def test_codegen_stores_its_heads_in_four_blocks(tmp_path):
    model = preset("codegen-350m").replace(
        dim=64, n_layers=2, n_heads=8, n_kv_heads=8, head_dim=8, intermediate_size=40, vocab_size=30,
        context_length=8, rotary_fraction=0.5, rotary_interleaved=True,
    )  # fmt: skip
    theirs = random_class(
        transformers.CodeGenForCausalLM, gpt(transformers.CodeGenConfig, model, n_inner=40, rotary_dim=4)
    )
    assert_both_ways(theirs, model, tmp_path, fused=False)


@pytest.mark.parametrize(
    ("kind", "choices"),
    {
        "arcee": {"gated": False, "activation": "relu2"},
        "seed_oss": {"qkv_bias": True, "attention_out_bias": True},
        "gemma": {"embedding_multiplier": 4.0, "activation": "gelu_tanh"},
    }.items(),
)  # fmt: skip
def test_classes_that_export_chooses_take_the_weights(kind, choices, tmp_path):
    model = LLAMA.replace(**choices)
    config = transformers.AutoConfig.for_model(**to_hf(model, kind).document)
    theirs = random_class(transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config)
    assert_both_ways(theirs, model, tmp_path, fused=False)


REMOTE_CODE = {
    "chatglm": (
        "glm",
        {"multi_query_attention": True, "add_qkv_bias": True},
        {"attention_bias": True, "rms_norm_eps": 1e-5},
        {
            "model.embed_tokens": "transformer.embedding.word_embeddings",
            "model.norm": "transformer.encoder.final_layernorm", "lm_head": "transformer.output_layer",
            "model.layers": "transformer.encoder.layers", "self_attn.o_proj": "self_attention.dense",
            "self_attn.qkv": "self_attention.query_key_value", "mlp.gate_up_proj": "mlp.dense_h_to_4h",
            "mlp.down_proj": "mlp.dense_4h_to_h",
        },
    ),
    "internlm2": (
        "llama",
        {"bias": False},
        {"attention_bias": False},
        {
            "model.embed_tokens": "model.tok_embeddings", "lm_head": "output",
            "self_attn.o_proj": "attention.wo", "self_attn.qkv": "attention.wqkv",
            "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
            "mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm",
            "post_attention_layernorm": "ffn_norm",
        },
    ),
    "qwen": (
        "qwen2",
        {"intermediate_size": 48},
        {"num_key_value_heads": 4},
        {
            "model.embed_tokens": "transformer.wte", "model.norm": "transformer.ln_f",
            "model.layers": "transformer.h", "self_attn.o_proj": "attn.c_proj",
            "self_attn.qkv": "attn.c_attn", "mlp.up_proj": "mlp.w1",
            "mlp.gate_proj": "mlp.w2", "mlp.down_proj": "mlp.c_proj",
            "input_layernorm": "ln_1", "post_attention_layernorm": "ln_2",
        },
    ),
}  # fmt: skip
"""Types of remote code: the type that computes the same, keys of both, and the names of its tensors in the
files of the first."""


@pytest.mark.parametrize("kind", REMOTE_CODE)
def test_weights_of_remote_code_are_read_with_the_logits_of_the_class_that_computes_the_same(kind, tmp_path):
    like, own_keys, keys, names = REMOTE_CODE[kind]
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "intermediate_size": 24, "vocab_size": 30, "max_position_embeddings": 16,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "pad_token_id": None,
    }  # fmt: skip
    theirs_config = transformers.AutoConfig.for_model(like, **sizes | keys)
    theirs = random_class(transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(theirs_config)], theirs_config)
    files = {}
    held = dict(theirs.state_dict())
    for name in [name for name in held if ".q_proj." in name]:
        q, k, v = (held.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv")
        if kind == "internlm2":  # group by group: two queries, the key, the value
            q, k, v = (tensor.view(2, -1, 32) for tensor in (q, k, v))
            held[name.replace("q_proj", "qkv")] = torch.cat((q, k, v), dim=1).reshape(-1, 32)
        else:
            held[name.replace("q_proj", "qkv")] = torch.cat((q, k, v))
    for name, tensor in held.items():
        for old, new in names.items():
            name = name.replace(old, new)
        files[name] = tensor.contiguous()
    save_file(files, tmp_path / "model.safetensors")
    config = sizes | {"model_type": kind} | own_keys
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = load_pretrained(tmp_path)
    torch.testing.assert_close(logits(ours, ours.model), logits(theirs, ours.model), rtol=0, atol=1e-4)


def test_a_large_model_is_written_in_several_files(tmp_path):
    ours = load_pretrained(save_with_transformers(tmp_path / "theirs"))
    config = to_hf(ours.model).document
    files = save_pretrained(ours, config, tmp_path / "ours", shard_bytes=3000)
    shards = [load_file(tmp_path / "ours" / name) for name in files if name.endswith(".safetensors")]
    bytes_of = [sum(tensor.nbytes for tensor in shard.values()) for shard in shards]
    index = json.loads((tmp_path / "ours" / "model.safetensors.index.json").read_text())
    assert len(shards) > 1
    assert max(bytes_of) <= 3000
    assert sum(bytes_of) == index["metadata"]["total_size"] == 4 * count(ours.model).total
    for again in (load_pretrained(tmp_path / "ours"), load_with_transformers(tmp_path / "ours")):
        torch.testing.assert_close(logits(again, LLAMA), logits(ours, LLAMA), rtol=0, atol=1e-5)


def rewrite(folder: Path, change) -> None:
    """Change the weights of a folder as a mapping."""
    path = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}, path)


def test_files_without_the_head_prefix_and_with_old_masks_are_read(tmp_path):
    model = preset("gpt2").replace(
        dim=16, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=8, intermediate_size=64, vocab_size=30,
        context_length=8,
    )  # fmt: skip
    folder = save_with_transformers(tmp_path / "theirs", model)
    expected = logits(load_pretrained(folder), model)
    rewrite(folder, lambda tensors: {name.removeprefix("transformer."): tensors[name] for name in tensors})
    rewrite(folder, lambda tensors: tensors | {"h.0.attn.bias": torch.ones(1, 1, 8, 8)})
    assert torch.equal(logits(load_pretrained(folder), model), expected)


def test_half_precision_is_read_into_float32(tmp_path):
    folder = save_with_transformers(tmp_path / "theirs")
    rewrite(folder, lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()})
    ours = load_pretrained(folder)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(logits(ours, LLAMA), logits(theirs, LLAMA), rtol=0, atol=1e-5)


def test_a_tied_head_that_is_stored_too_is_accepted_if_it_equals_the_embedding(tmp_path):
    model = LLAMA.replace(tied=True)
    folder = save_with_transformers(tmp_path / "theirs", model)
    expected = logits(load_pretrained(folder), model)
    rewrite(
        folder, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    )
    assert torch.equal(logits(load_pretrained(folder), model), expected)
    rewrite(folder, lambda tensors: tensors | {"lm_head.weight": tensors["lm_head.weight"] + 1})
    with pytest.raises(InputError, match=r"tie_word_embeddings, but lm_head.weight differs from model"):
        load_pretrained(folder)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_index(folder: Path, places: object) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def infinite_in_one_place(tensor: torch.Tensor) -> torch.Tensor:
    spoilt = tensor.bfloat16()
    spoilt[-1, -1] = -torch.inf
    return spoilt


UP = "model.layers.1.mlp.up_proj.weight"
BROKEN = {
    "truncated": (truncate, r"every .safetensors file in it complete\?"),
    "missing": (
        lambda folder: rewrite(folder, lambda tensors: {k: tensors[k] for k in tensors if k != UP}),
        rf"its weights lack {UP}; use",
    ),
    "superfluous": (
        lambda folder: rewrite(folder, lambda tensors: tensors | {"model.layers.2.x": torch.ones(1)}),
        r"its weights also have model.layers.2.x; use",
    ),
    "of another shape": (
        lambda folder: change_config(folder, intermediate_size=23),
        r"mlp.gate_proj.weight has shape \(24, 16\) in the file and \(23, 16\) in the m",
    ),
    "of another class": (
        lambda folder: change_config(folder, model_type="qwen3"),
        r"weights lack .*q_norm",
    ),
    "of an unknown class": (lambda folder: change_config(folder, model_type="nonsense"), r"nonsense"),
    "quantized": (
        lambda folder: rewrite(folder, lambda tensors: tensors | {UP: tensors[UP].to(torch.int8)}),
        rf"stores {UP} as I8; give weights that are not quantized",
    ),
    "with a tensor that is not a number": (
        lambda folder: rewrite(folder, lambda tensors: tensors | {UP: tensors[UP] * torch.nan}),
        rf"^{UP} in .*model.safetensors has values that are not finite; its training diverged",
    ),
    "with one infinite value in half precision": (
        lambda folder: rewrite(folder, lambda tensors: tensors | {UP: infinite_in_one_place(tensors[UP])}),
        rf"^{UP} in .* has values that are not finite",
    ),
    "with a value beyond float32": (
        lambda folder: rewrite(folder, lambda tensors: tensors | {UP: tensors[UP].double() + 1e300}),
        rf"^{UP} in .* has values that are not finite",
    ),
    "in a pickle": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        r"are pytorch_model.bin, a pickle, which can run code when it is read; only safetensors",
    ),
    "for llama.cpp": (
        lambda folder: (folder / "model.safetensors").rename(folder / "model-Q4.gguf"),
        r"are model-Q4.gguf, a file of llama.cpp; only safetensors",
    ),
    "of an adapter": (
        lambda folder: (folder / "model.safetensors").rename(folder / "adapter_model.safetensors"),
        r"is an adapter \(LoRA .* of its base model",
    ),
    "with a function that cannot be said": (
        lambda folder: change_config(folder, is_causal=False),
        r"config.json: a model here cannot express attention to later tokens \(is_causal\), so",
    ),
    "of several modalities": (
        lambda folder: change_config(folder, text_config={"model_type": "llama"}),
        r"holds a multimodal model, whose weights are not read; its text_config can be counted",
    ),
    "without weights": (lambda folder: (folder / "model.safetensors").unlink(), r"has neither model.safe"),
    "without config": (
        lambda folder: (folder / "config.json").unlink(),
        r"has generation_config.json and no config.json; put the model's",
    ),
    "with an index of nothing": (
        lambda folder: write_index(folder, {}),
        r"its weights lack model.embed_to",
    ),
    "with an index that is none": (
        lambda folder: write_index(folder, [1]),
        r"has no weight_map from tensors",
    ),
    "with an index that leads away": (lambda folder: write_index(folder, {UP: "../x"}), r"has no weight_map"),
    "with an index of files that are not there": (
        lambda folder: write_index(folder, {UP: "gone.safetensors"}),
        r"gone.safetensors",
    ),
}


def test_an_old_index_beside_a_whole_file_is_not_read(tmp_path):
    folder = save_with_transformers(tmp_path / "theirs")
    expected = logits(load_pretrained(folder), LLAMA)
    index = {"weight_map": {UP: "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(logits(load_pretrained(folder), LLAMA), expected)


@pytest.mark.parametrize(("spoil", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_folder_is_refused_in_one_line(spoil, message, tmp_path):
    folder = save_with_transformers(tmp_path / "theirs")
    spoil(folder)
    with pytest.raises(ParambudgetError, match=message) as refused:
        load_pretrained(folder)
    assert "\n" not in str(refused.value)


def test_a_class_without_a_place_for_a_tensor_is_refused_and_nothing_is_written(tmp_path):
    qwen3 = Transformer(LLAMA.replace(qk_norm="head"))
    with pytest.raises(ConfigError, match=r"'llama' cannot hold .*layers.0.attention.q_norm.weight"):
        save_pretrained(qwen3, to_hf(LLAMA).document, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_completed_is_not_written_at_all(tmp_path):
    with pytest.raises(InputError, match="nothing was written"):
        save_pretrained(
            Transformer(LLAMA), to_hf(LLAMA).document, tmp_path / "out", {"no/such/folder.json": "{}"}
        )
    assert list(tmp_path.iterdir()) == []
