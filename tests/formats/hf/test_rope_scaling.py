"""Rescaled rotary angles: the logits of transformers within and beyond the original context, both ways."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import with_defaults
from parambudget.errors import ConfigError
from parambudget.formats.hf.exporter import EXPORTABLE, to_hf
from parambudget.formats.hf.importer import from_hf
from parambudget.formats.hf.weights import load_pretrained, save_pretrained
from parambudget.nn.kv_cache import kv_cache
from parambudget.nn.transformer import Transformer

pytestmark = pytest.mark.usefixtures("one_thread")

ORIGINAL, EXTENDED, SHORT = 40, 96, 32
"""Tokens of the context, before and after its extension, and of a sequence within the first."""
PAIRS = 4
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "yarn": YARN | {"beta_fast": 4.0, "beta_slow": 0.5, "truncate": False},
    "yarn with an attention factor": YARN | {"attention_factor": 0.8},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "longrope": {
        "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.6], "long_factor": [1.2, 2.0, 3.0, 4.5],
        "original_max_position_embeddings": ORIGINAL,
    },
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "factor": 1.5},
}  # fmt: skip
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 24, "vocab_size": 40, "pad_token_id": None, "bos_token_id": None,
    "eos_token_id": None, "max_position_embeddings": EXTENDED, "sliding_window": 7, "rms_norm_eps": 1e-6,
}  # fmt: skip
HALVES = {"head_dim": 16, "partial_rotary_factor": 0.5}
OF_WIDTH_32 = {"partial_rotary_factor": 0.5, "num_attention_heads": 2, "num_key_value_heads": 2}
EXPERTS = {
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 12, "n_shared_experts": 1, "experts_implementation": "eager",
}  # fmt: skip
OF_DEEPSEEK = EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
LATENTS = OF_DEEPSEEK | {
    "kv_lora_rank": 12, "q_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 8, "v_head_dim": 10,
}  # fmt: skip
WIDE = {"head_dim": 8}
FAMILIES = {
    "arcee": {}, "cohere": {}, "cohere2": {}, "granite": {}, "llama": {}, "olmo": {}, "olmo2": {},
    "qwen2": {}, "smollm3": {}, "starcoder2": {}, "gemma": WIDE, "gemma2": WIDE, "gemma3_text": WIDE, "mistral": WIDE,
    "qwen3": WIDE, "seed_oss": WIDE, "glm": HALVES, "glm4": HALVES, "nemotron": HALVES, "phi": OF_WIDTH_32,
    "phi3": OF_WIDTH_32, "stablelm": OF_WIDTH_32, "gpt_neox": OF_WIDTH_32 | {"rotary_pct": 0.5},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2}, "mixtral": EXPERTS | WIDE,
    "qwen2_moe": EXPERTS, "olmoe": EXPERTS, "granitemoe": EXPERTS, "qwen3_moe": EXPERTS | WIDE,
    "gpt_oss": EXPERTS | WIDE, "glm4_moe": OF_DEEPSEEK | HALVES, "deepseek_v2": LATENTS,
    "deepseek_v3": LATENTS,
}  # fmt: skip
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}


def hf_config(kind: str, rope: dict, **more: object) -> dict:
    """A small config of the class."""
    context = ORIGINAL if rope.get("rope_type") == "dynamic" else EXTENDED
    own = {"original_max_position_embeddings": ORIGINAL} if kind == "phi3" else {}
    sizes = SIZES | {"max_position_embeddings": context} | FAMILIES[kind] | own
    return {"model_type": kind, "rope_scaling": dict(rope), **sizes} | more


def random_class(config: dict) -> PreTrainedModel:
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), **EAGER).eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in theirs.state_dict().values():
        tensor.normal_(0, 0.2, generator=generator)
    return theirs


def tokens(n: int) -> torch.Tensor:
    return torch.randint(SIZES["vocab_size"], (1, n), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(module: torch.nn.Module, n: int) -> torch.Tensor:
    found = module(tokens(n))
    return found if isinstance(found, torch.Tensor) else found.logits


def assert_the_same(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """The shorter sequence first, because the class keeps the angles of the longest one."""
    for n in (SHORT, EXTENDED):
        torch.testing.assert_close(logits(ours, n), logits(theirs, n), rtol=0, atol=1e-4)


def assert_both_ways(config: dict, folder: Path) -> ModelConfig:
    theirs = random_class(config)
    theirs.save_pretrained(folder / "theirs")
    ours = load_pretrained(folder / "theirs")
    assert_the_same(ours, theirs)
    made = to_hf(ours.model, config["model_type"])
    assert not made.unsupported
    save_pretrained(ours, made.document, folder / "ours")
    assert_the_same(ours, AutoModelForCausalLM.from_pretrained(folder / "ours", **EAGER).eval())
    return ours.model


def carries(kind: str, scaling: str) -> bool:
    if kind == "phi3":
        return scaling == "longrope"
    return scaling != "proportional" or kind not in ("phi", "stablelm")


@pytest.mark.parametrize(
    ("kind", "scaling"), [(kind, name) for kind in FAMILIES for name in SCALINGS if carries(kind, name)]
)
def test_the_logits_are_those_of_the_class_both_ways(kind, scaling, tmp_path):
    model = assert_both_ways(hf_config(kind, SCALINGS[scaling]), tmp_path)
    assert model.rope_scaling.rope_type == scaling.split()[0]
