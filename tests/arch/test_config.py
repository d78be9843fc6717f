"""The model's config: validated once, closed, frozen; what is left out is filled in by convention."""

import json
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.strategies import hybrids, models

import parambudget as pb
from parambudget.arch.config import BLOCKS, ModelConfig
from parambudget.arch.defaults import DERIVED, ffn_convention, usual_depth, with_defaults
from parambudget.arch.fields import ModelFields
from parambudget.arch.presets.registry import PRESETS
from parambudget.arch.validation import divisors
from parambudget.errors import ConfigError

SIZES = {
    "dim": 896,
    "n_layers": 24,
    "n_heads": 14,
    "n_kv_heads": 14,
    "head_dim": 64,
    "intermediate_size": 3584,
}


def refusal(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.read(SIZES | changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dim": 0}, "dim is 0; it must be greater than or equal to 1"),
        ({"dim": -896}, "dim is -896; it must be greater than or equal to 1"),
        ({"dim": 2**31 + 1}, "dim is 2147483649; it must be less than or equal to 2147483648"),
        ({"dim": "896"}, "dim is '896'; it must be a valid integer"),
        ({"dim": 896.0}, "dim is 896.0; it must be a valid integer"),
        ({"dim": True}, "dim is True; it must be a valid integer"),
        ({"dim": None}, "dim is None; it must be a valid integer"),
        ({"n_layers": 10_001}, "n_layers is 10001; it must be less than or equal to 10000"),
        ({"tied": 1}, "tied is 1; it must be a valid boolean"),
        ({"position": "xpos"}, 'position is \'xpos\'; it must be "rotary", "learned", "sinusoidal", "alibi"'),
        ({"rope_theta": 0}, "rope_theta is 0; it must be greater than 0"),
        ({"rope_theta": float("inf")}, "rope_theta is inf; it must be a finite number"),
        ({"rotary_fraction": 1.5}, "rotary_fraction is 1.5; it must be less than or equal to 1"),
        ({"dim": "x" * 100}, f"dim is '{'x' * 56}...; it must be a valid integer"),
        ({"n_layer": 24}, "unknown field 'n_layer'; did you mean 'n_layers'?"),
        ({"zzz": 1}, "unknown field 'zzz'; see `help(pb.ModelConfig)`"),
        ({"n_kv_heads": 4}, "n_kv_heads=4 does not divide n_heads=14; use one of [1, 2, 7, 14]"),
        ({"norm_bias": True}, "norm_bias=true needs norm='layernorm' with norm_weight=true; set one of them"),
        ({"norm_bias": True, "norm": "layernorm", "norm_weight": False}, "norm_bias=true needs norm="),
        ({"block": "parallel", "norm_placement": "post"}, "block='parallel' with norm_placement='post' is "),
        ({"block": "parallel_shared_norm", "norm_placement": "reordered"}, "block='parallel_shared_norm' sh"),
        ({"head_dim": 1}, "rotary positions need 2 or more of head_dim=1 rotated, got 1 "
                          "(rotary_fraction=1.0); raise rotary_fraction or set position='none'"),
        ({"head_dim": 63}, "rotary positions rotate pairs, and 63 of head_dim=63 would be rotated; "
                           "use an even head_dim, another rotary_fraction, or position='none'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(changes: dict[str, Any], says: str):
    assert refusal(**changes).startswith(says)


def test_a_missing_size_is_told_with_its_meaning():
    with pytest.raises(ConfigError) as caught:
        ModelConfig.read({"dim": 896})
    assert str(caught.value) == "n_layers is missing (transformer blocks); give it"


LINEAR = {"rope_type": "linear", "rope_factor": 2.0}
LLAMA3 = {"rope_type": "llama3", "rope_factor": 8.0, "rope_original_context": 8192}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_type": "linear"}, "rope_type='linear' needs rope_factor; give it"),
        ({"rope_factor": 2.0}, "rope_type is missing (method that rescales rotary frequencies for a "),
        ({"rope_type": "su"}, 'rope_type is \'su\'; it must be "none", "linear", "dynamic", "yarn", "llama'),
        (LINEAR | {"rope_factor": 0}, "rope_factor is 0; it must be greater than 0"),
        (LINEAR | {"rope_beta_fast": 4.0},
         "rope_beta_fast has no meaning with rope_type='linear', only with yarn; leave it out"),
        (LINEAR | {"rope_original_context": 8}, "only with yarn, llama3, longrope; leave it out"),
        (LINEAR | {"position": "alibi"},
         "rope_type='linear' rescales rotary positions, and position is 'alibi'; use rope_type='none'"),
        ({"rope_type": "none", "rope_factor": 2.0}, "rope_factor has no meaning with rope_type='none'"),
        ({"rope_type": "longrope", "rope_original_context": 9, "rope_short_factors": [1.0],
          "rope_long_factors": [2.0]},
         "rope_short_factors has 1 entry, and 32 pairs of each head are rotated; give one per pair"),
        (LINEAR | {"rope_type": "dynamic", "head_dim": 2}, "needs 2 or more rotated pairs, got 1"),
        (LLAMA3 | {"rope_type": "yarn", "rope_theta": 1.0}, "rope_theta is 1, at which all pairs turn alike"),
        ({"rope_type": "proportional", "rope_proportion": 0.01}, "rotates none of 32 pairs; raise it"),
    ],
)  # fmt: skip
def test_a_rescaling_of_rotary_positions_is_checked(fields, message):
    with pytest.raises(ConfigError) as refused:
        ModelConfig(**SIZES).replace(**fields)
    assert message in str(refused.value)


def test_another_type_of_rescaling_starts_from_its_own_fields():
    llama3 = ModelConfig(**SIZES).replace(**LLAMA3)
    assert llama3.replace(rope_factor=4.0).rope_scaling.rope_original_context == 8192
    assert llama3.replace(**LINEAR) == ModelConfig(**SIZES).replace(**LINEAR)
    assert llama3.replace(rope_type="none") == ModelConfig(**SIZES)


def test_the_attention_factors_of_yarn_and_longrope():
    """DeepSeek-V3's 40 and Phi-3's 128k, by hand."""
    yarn = ModelConfig(**SIZES).replace(rope_type="yarn", rope_factor=40.0, rope_original_context=4096)
    assert yarn.rotary_scale == pytest.approx(1.3688879)
    factors = {"rope_short_factors": (1.0,) * 32, "rope_long_factors": (2.0,) * 32}
    longrope = yarn.replace(rope_type="longrope", rope_original_context=4096, **factors)
    assert longrope.replace(context_length=131072).rotary_scale == pytest.approx(1.1902381)
    assert longrope.replace(context_length=4096).rotary_scale == 1


def test_an_odd_head_is_fine_without_rotary_positions():
    assert ModelConfig(**SIZES | {"head_dim": 63}, position="none").head_dim == 63


def test_a_config_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        ModelConfig(**SIZES).dim = 1  # type: ignore[misc]


def test_a_replacement_is_validated():
    model = ModelConfig(**SIZES)
    assert model.replace(n_kv_heads=7).kv_group == 2
    with pytest.raises(ConfigError, match="n_kv_heads=3 does not divide n_heads=14"):
        model.replace(n_kv_heads=3)


def test_keyword_arguments_have_the_names_and_types_of_the_fields():
    keywords = get_type_hints(ModelFields)
    fields = {
        name: hint
        for cls in (ModelConfig, *BLOCKS.values())
        for name, hint in get_type_hints(cls).items()
        if name in cls.model_fields
    }
    assert keywords == fields
    assert not ModelFields.__required_keys__


@given(models(rare=True) | hybrids())
def test_any_model_reads_back_from_its_own_json(model: ModelConfig):
    assert ModelConfig.model_validate_json(model.model_dump_json()) == model
    assert ModelConfig.read(model.model_dump()) == model


@given(st.integers(1, 5000))
def test_the_divisors_are_all_and_ascending(n: int):
    assert divisors(n) == [k for k in range(1, n + 1) if n % k == 0]


def test_the_planning_notes_first_option_is_completed_by_convention():
    completed = with_defaults({"dim": 896, "n_layers": 24, "n_heads": 14})
    model = completed.model
    assert (model.head_dim, model.n_kv_heads, model.intermediate_size) == (64, 14, 2560)
    assert (model.vocab_size, model.context_length, model.tied) == (50257, 1024, True)
    assert completed.defaulted == (
        "head_dim", "n_kv_heads", "intermediate_size", "vocab_size", "context_length", "tied", "norm_bias",
        "final_norm", "activation",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "heads"),
    [
        ({"dim": 1024}, (16, 64)),
        ({"dim": 2048}, (16, 128)),
        ({"dim": 2112}, (33, 64)),
        ({"dim": 896, "head_dim": 128}, (7, 128)),
        ({"dim": 896, "n_heads": 7}, (7, 128)),
        ({"dim": 896, "n_heads": 10, "head_dim": 64}, (10, 64)),
    ],
)
def test_heads_are_derived_from_what_is_given(given: dict[str, int], heads: tuple[int, int]):
    model = with_defaults({"n_layers": 2} | given).model
    assert (model.n_heads, model.head_dim) == heads


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"dim": 900}, "n_heads is missing, and the usual head_dim=64 does not divide dim=900; give n_heads, "
                       "such as one of [1, 2, 3, 4, "),
        ({"dim": 896, "head_dim": 100}, "head_dim=100 does not divide dim=896; give n_heads, such as one "),
        ({"dim": 896, "n_heads": 9}, "n_heads=9 does not divide dim=896; give head_dim as well, or use n_"),
        ({"dim": 0}, "dim is 0; it must be greater than or equal to 1"),
        ({"dim": "896"}, "dim is '896'; it must be a valid integer"),
        ({"dim": 896, "n_heads": 0}, "n_heads is 0; it must be greater than or equal to 1"),
        ({}, "dim is missing (model width: the size of the residual stream); give it"),
    ],
)  # fmt: skip
def test_what_cannot_be_completed_is_told_in_one_line(given: dict[str, Any], says: str):
    with pytest.raises(ConfigError) as caught:
        with_defaults({"n_layers": 2} | given)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("dim", "gated", "width"),
    [(4096, True, 11008), (4096, False, 16384), (896, True, 2560), (768, False, 3072)],
)
def test_the_conventional_ffn_is_8_thirds_of_the_width_gated_and_4_plain(dim: int, gated: bool, width: int):
    assert ffn_convention(dim, gated) == width
    assert with_defaults({"dim": dim, "n_layers": 2, "gated": gated}).model.intermediate_size == width


def test_the_usual_depth_is_that_of_the_published_dense_models():
    dense = {
        (p.model.dim, p.model.n_layers)
        for p in PRESETS.values()
        # The depths of models whose layers have heads or embeddings of their own are no guide.
        if p.model.moe is None and p.model.mla is None and p.model.counted_parts is None
        if p.model.n_attention_layers == p.model.n_ffn_layers == p.model.n_layers
        if p.model.global_head_dim is None
    }
    line = np.polyfit(*np.log(sorted(dense)).T, 1)
    widths = np.array([256, 1024, 4096, 16384])
    assert np.exp(np.polyval(line, np.log(widths))) == pytest.approx(0.548 * widths**0.519, rel=0.03)
    assert [usual_depth(dim) for dim in (1, 768, 896, 4096)] == [2, 18, 18, 42]
    assert with_defaults({"dim": 896}).defaulted[0] == "n_layers"


@pytest.mark.parametrize(
    ("given", "derived"),
    [
        ({}, {"norm_bias": False, "final_norm": True, "activation": "silu"}),
        ({"norm": "layernorm"}, {"norm_bias": True}),
        ({"norm": "layernorm", "norm_weight": False}, {"norm_bias": False}),
        ({"norm_placement": "post"}, {"final_norm": False}),
        ({"gated": False}, {"activation": "gelu"}),
    ],
)
def test_choices_that_follow_from_others(given: dict[str, Any], derived: dict[str, Any]):
    model = with_defaults({"dim": 64, "n_layers": 2} | given).model
    assert {name: getattr(model, name) for name in derived} == derived
    assert set(derived) <= set(DERIVED)


@given(models(rare=True) | hybrids())
def test_a_complete_model_has_nothing_filled_in(model: ModelConfig):
    completed = with_defaults(model.model_dump())
    assert completed.model == model
    assert completed.defaulted == ()


@pytest.mark.parametrize("number", [np.int64, np.int8, np.uint16])
def test_numbers_of_numpy_are_taken_for_sizes(number):
    model = pb.model(dim=number(64), n_layers=number(3), tied=np.bool_(False), norm_eps=np.float32(0.5))
    assert model == pb.model(dim=64, n_layers=3, tied=False, norm_eps=0.5)
    assert {type(model.dim), type(model.n_layers)} == {int}
    assert pb.count(model, n_layers=number(5)).model.n_layers == 5
    experts = pb.model(dim=64, n_layers=3, moe={"n_experts": number(8), "n_experts_per_token": number(2)})
    assert (experts.moe.n_experts, experts.moe.n_experts_per_token) == (8, 2)
    found = pb.solve("3M", vocab_size=number(100), mixer_pattern=["mamba"], mamba_inner_size=number(64),
                     mamba_dt_rank=8, tolerance="9%", top=number(1))  # fmt: skip
    assert len(found) == 1
    assert json.dumps(found.as_dict())
    assert pb.plan(model, "h100", hours=1, batch_size=number(8)).step.batch_size == 8


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"ffn_pattern": "none"}, "ffn_pattern is 'none'; give a sequence of ffn, none, such as ('none',)"),
        ({"ffn_pattern": 3}, "ffn_pattern is 3; give a sequence of ffn, none, such as ('ffn',)"),
        ({"window_pattern": "local", "window": 8}, "such as ('local',)"),
        ({"mixer_pattern": ["mamba"]}, "sizes are missing; set mamba_inner_size and mamba_dt_rank"),
        ({"mixer_pattern": ["rwkv"]}, "names rwkv, whose sizes are missing; set rwkv_inner_size"),
    ],
)
def test_a_pattern_that_cannot_be_is_told_its_words(fields, problem):
    with pytest.raises(ConfigError) as error:
        pb.model(dim=64, n_layers=3, **fields)
    assert str(error.value).endswith(problem)


def test_without_attention_there_is_one_head_that_nobody_has_to_give():
    fields = {"mixer_pattern": ["mamba"], "mamba_inner_size": 64, "mamba_dt_rank": 8, "ffn_pattern": ["none"]}
    completed = with_defaults({"dim": 96, "n_layers": 3} | fields)
    assert (completed.model.n_heads, completed.model.head_dim) == (1, 96)
    assert not {"n_heads", "n_kv_heads", "head_dim", "intermediate_size"} & set(completed.defaulted)
