"""Every choice of a few models, one by one: refused, or exported and built by transformers with its count."""

from typing import Literal, get_args, get_origin

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from parambudget.arch.config import FIELDS, ModelConfig, flat_fields
from parambudget.arch.defaults import with_defaults
from parambudget.arch.presets.registry import preset
from parambudget.cost.params import total
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Export
from parambudget.formats.hf.exporter import EXPORTABLE, to_hf
from parambudget.formats.hf.importer import from_hf

logging.set_verbosity_error()
SIZES = dict(
    dim=64, n_layers=3, n_heads=4, n_kv_heads=4, head_dim=16, intermediate_size=256, vocab_size=40,
    context_length=16,
)  # fmt: skip
EXPERTS = dict(n_experts=6, n_experts_per_token=2, expert_intermediate_size=24)
LATENTS = dict(
    n_experts=8, n_experts_per_token=2, expert_intermediate_size=24, n_expert_groups=2, n_groups_per_token=1,
    n_first_dense=1, kv_lora_rank=24, q_lora_rank=20, qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10,
    head_dim=20,
)  # fmt: skip
MODELS = {
    "llama": preset("llama-3-8b").replace(**SIZES),
    "gpt2": preset("gpt2").replace(**SIZES),
    "gpt_neox": preset("pythia-70m").replace(**SIZES),
    "olmo": preset("olmo-1b").replace(**SIZES),
    "mixtral": preset("mixtral-8x7b-v0.1").replace(**SIZES | EXPERTS),
    "deepseek_v3": preset("deepseek-v3").replace(**SIZES | LATENTS),
}
NUMBERS = {
    "window": 5, "embedding_dim": 48, "position_offset": 2, "ffn_clamp": 7.0, "qkv_clip": 8.0,
    "logit_softcap": 30.0, "attention_softcap": 50.0, "residual_multiplier": 0.5, "logit_multiplier": 0.25,
    "embedding_multiplier": 3.0, "attention_multiplier": 0.5, "rope_theta": 5e5, "rotary_fraction": 0.5,
    "norm_eps": 1e-3, "shared_intermediate_size": 8, "routing_multiplier": 2.0, "head_dim": 20,
}  # fmt: skip
INITIALISATION = ("init_std", "zero_init_out", "fused_experts")
WITHOUT_EFFECT = {
    ("mixtral", "ffn_bias"), ("gpt2", "rope_theta"), ("gpt2", "rotary_fraction"),
    ("gpt2", "rotary_interleaved"),
}  # fmt: skip
"""Fields of layers or positions that the model does not have."""


def other_values() -> list[tuple[str, object]]:
    """Every field that is a choice, with each of its values, and some with a number."""
    choices = {
        name: (True, False) if info.annotation is bool else get_args(info.annotation)
        for name, info in FIELDS.items()
        if info.annotation is bool or get_origin(info.annotation) is Literal
    }
    return [(name, value) for name, values in choices.items() for value in values] + [*NUMBERS.items()]


def built_parameters(made: Export) -> int:
    """Parameters of the model that transformers builds, shared ones once."""
    keywords = dict(made.document)
    config = AutoConfig.for_model(keywords.pop("model_type"), **keywords)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert type(model).__name__ == made.document["architectures"][0]
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("kind", "model"), MODELS.items(), ids=MODELS)
def test_a_model_with_another_choice_is_refused_or_says_so_and_is_built_with_its_count(kind, model):
    assert to_hf(model).name == kind
    accepted = 0
    for name, value in other_values():
        try:
            changed = model.replace(**{name: value})
            made = to_hf(changed)
        except ConfigError:
            continue
        accepted += 1
        assert built_parameters(made) == total(changed), (name, value)
        if name not in INITIALISATION and (kind, name) not in WITHOUT_EFFECT:
            assert read_back(made).get(name) == pytest.approx(flat_fields(changed).get(name)), (name, value)
    assert accepted > 10


def read_back(made: Export) -> dict[str, object]:
    model: ModelConfig = with_defaults(from_hf(made.document, "config.json").fields).model
    return flat_fields(model)


def test_every_dropout_that_a_class_would_have_is_written_as_none():
    for kind, family in EXPORTABLE.items():
        defaults = AutoConfig.for_model(kind).to_dict()
        dropout = [key for key, value in defaults.items() if "drop" in key and value]
        dropout = [key for key in dropout if not key.startswith(("classifier", "summary"))]
        assert sorted(dropout) == sorted(family.dropout_keys), kind
