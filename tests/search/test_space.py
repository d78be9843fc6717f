"""The declared lattice: the published default rule, what is refused, and axes that print as flags."""

from fractions import Fraction
from math import ceil, floor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parambudget.arch.presets.registry import preset, preset_row
from parambudget.errors import ConfigError, InputError
from parambudget.search.space import SearchSpace, choices_of

USUAL = {"head_dim": "64,128", "kv_groups": "1,2,4,8", "ffn_ratio": "2:8"}


@pytest.mark.parametrize(
    ("target", "flags"),
    [
        (20_000_000, {"n_layers": "3:32", "dim": "128:800:32", "multiple": "32", "head_dim": "32,64"}),
        (350_000_000, {"n_layers": "6:60", "dim": "384:2368:64", "multiple": "64"}),
        (7 * 10**9, {"n_layers": "13:119", "dim": "1152:7424:128", "multiple": "128"}),
        (70 * 10**9, {"n_layers": "22:201", "dim": "2816:17920:256", "multiple": "256"}),
    ],
)
def test_without_sizes_the_lattice_is_the_published_box(target: int, flags: dict[str, str]):
    assert SearchSpace.declare(target, {}).flags() == USUAL | flags


@given(st.integers(10**6, 10**13))
def test_the_box_follows_from_the_target_by_the_published_formula(target: int):
    layers, width = 0.225 * target**0.228, 0.640 * target**0.382
    space = SearchSpace.declare(target, {})
    assert space.n_layers.values == tuple(range(max(1, floor(layers / 3)), ceil(3 * layers) + 1))
    assert space.dim.values[0] <= max(width / 3, space.multiple) < space.dim.values[0] + space.multiple + 1
    assert space.dim.values[-1] - space.multiple < 2 * width <= space.dim.values[-1]
    assert all(dim % space.multiple == 0 for dim in space.dim.values)


@pytest.mark.parametrize("name", ["gpt2", "llama-3-8b", "smollm2-135m", "olmo-2-13b", "llama-3.1-405b"])
def test_the_box_holds_the_published_shape_of_its_size(name: str):
    model = preset(name)
    space = SearchSpace.declare(preset_row(name).published_count, {})
    assert model.n_layers in space.n_layers.values
    assert model.dim in space.dim.values
    assert model.head_dim in space.head_dim.values


@pytest.mark.parametrize(("target", "tied"), [(999_999_999, True), (1_000_000_000, False)])
def test_the_head_is_tied_below_a_billion_and_untied_from_there(target: int, tied: bool):
    assert SearchSpace.declare(target, {}).choices.tied is tied


@pytest.mark.parametrize("tied", [True, False])
def test_a_stated_tying_is_kept_at_any_size(tied: bool):
    assert SearchSpace.declare(10**9, {"tied": tied}).choices.tied is tied
    assert SearchSpace.declare(10**8, {"tied": tied}).choices.tied is tied


def test_vocabulary_and_context_have_the_package_defaults():
    choices = SearchSpace.declare(10**8, {}).choices
    assert (choices.vocab_size, choices.context_length) == (50257, 1024)


def test_a_given_dim_leaves_all_depths_that_the_budget_could_fill():
    assert SearchSpace.declare(350_000_000, {"dim": 1024}).flags()["n_layers"] == "1:42"


def test_a_given_depth_leaves_all_widths_that_the_budget_could_fill():
    assert SearchSpace.declare(350_000_000, {"n_layers": 24}).flags()["dim"] == "128:1408:64"


def test_ranges_of_dim_and_ffn_run_over_multiples_and_others_over_all():
    space = SearchSpace.declare(
        350_000_000, {"dim": "100:300", "intermediate_size": "200:400", "n_layers": "4:6", "multiple": 100}
    )
    assert space.dim.values == (100, 200, 300)
    assert space.intermediate_size is not None
    assert space.intermediate_size.values == (200, 300, 400)
    assert space.n_layers.values == (4, 5, 6)


def test_fields_that_are_none_count_as_not_given():
    asked: dict[str, Any] = {
        "dim": None,
        "tied": None,
        "multiple": None,
        "kv_groups": None,
        "ffn_ratio": None,
    }
    assert SearchSpace.declare(10**8, asked) == SearchSpace.declare(10**8, {})


def test_listed_ffn_widths_are_not_bounded_by_a_ratio_unless_one_is_given():
    listed = {"intermediate_size": "100,9000"}
    assert SearchSpace.declare(10**8, listed).ffn_ratio is None
    assert SearchSpace.declare(10**8, listed | {"ffn_ratio": "2:4"}).ffn_ratio == (2, 4)


@pytest.mark.parametrize(
    ("ratio", "text"),
    [("1:6", "1:6"), ("2.5:3", "2.5:3"), ("8/3:4", "8/3:4"), ("2.71828182:3", "135914091/50000000:3")],
)
def test_the_bounds_of_the_ratio_are_printed_exactly(ratio: str, text: str):
    assert SearchSpace.declare(10**8, {"ffn_ratio": ratio}).flags()["ffn_ratio"] == text


@given(st.fractions(Fraction(1, 100), 100, max_denominator=10**9), st.fractions(0, 10, max_denominator=10**9))
def test_any_ratio_reads_back_from_its_text(low: Fraction, width: Fraction):
    space = SearchSpace.declare(10**8, {"ffn_ratio": (low, low + width)})
    assert SearchSpace.declare(10**8, dict(space.flags())) == space


@pytest.mark.parametrize("target", [20 * 10**6, 350 * 10**6, 7 * 10**9, 10**12])
def test_the_flags_of_a_space_declare_it_again(target: int):
    space = SearchSpace.declare(target, {})
    assert SearchSpace.declare(target, space.flags() | {"tied": space.choices.tied}) == space


def test_free_heads_and_consecutive_widths_read_back():
    space = SearchSpace.declare(
        10**8, {"n_heads": "8:16", "n_kv_heads": "2,8", "dim": "640:644:1", "intermediate_size": [5, 6, 7]}
    )
    assert space.flags()["dim"] == "640:644:1"
    assert space.flags()["intermediate_size"] == "5:7:1"
    assert SearchSpace.declare(10**8, dict(space.flags())) == space


def test_odd_heads_are_no_points_under_rotary_positions():
    assert SearchSpace.declare(10**8, {"head_dim": "63:66"}).head_dim.values == (64, 66)
    assert SearchSpace.declare(10**8, {"head_dim": "63:66", "position": "none"}).head_dim.values[0] == 63


def test_heads_with_an_odd_rotated_share_are_no_points():
    space = SearchSpace.declare(10**8, {"head_dim": "32,40,44", "rotary_fraction": 0.25})
    assert space.head_dim.values == (32, 40)


def test_heads_with_other_pairs_than_the_factors_of_longrope_are_no_points():
    choices = choices_of(preset("phi-4-mini"))
    assert SearchSpace.declare(10**8, choices).head_dim.values == (128,)


def test_the_choices_of_a_model_leave_out_its_sizes():
    choices = choices_of(preset("qwen3-0.6b"))
    assert choices["qk_norm"] == "head"
    assert choices["vocab_size"] == 151936
    assert not {"dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "intermediate_size"} & set(choices)
    space = SearchSpace.declare(10**9, choices)
    assert choices_of(space.choices) == choices


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"kv_groups": 2, "n_kv_heads": 4},
            "`kv_groups` and `n_kv_heads` both set the number of key/value heads; give one of them",
        ),
        ({"multiple": 0}, "multiple is 0; sizes start at 1"),
        ({"multiple": True}, "multiple is True; use whole sizes"),
        ({"multiple": 64.0}, "multiple is 64.0; use whole sizes"),
        ({"multiple": "x"}, "multiple 'x' is not a whole number"),
        ({"multiple": "64,128"}, "`multiple` is '64,128'; use one whole number, such as 64"),
        ({"multiple": 2**32}, "`multiple` is 4294967296; use one whole number, such as 64"),
        ({"n_layers": 10_001}, "n_layers is 10,001; at most 10,000"),
        ({"dim": 2**31 + 1}, "dim is 2,147,483,649; at most 2,147,483,648"),
        ({"intermediate_size": 2**32}, "intermediate_size is 4,294,967,296; at most 2,147,483,648"),
        ({"head_dim": 63}, "head_dim 63 leaves an odd width to rotate; use even values, or `position=none`"),
        ({"n_layer": 24}, "unknown field 'n_layer'; did you mean 'n_layers'?"),
        ({"vocab_size": 0}, "vocab_size is 0; it must be greater than or equal to 1"),
        ({"vocab_size": "32000"}, "vocab_size is '32000'; it must be a valid integer"),
        ({"tied": "yes"}, "tied is 'yes'; it must be a valid boolean"),
        ({"position": "xpos"}, "position is 'xpos'; it must be"),
        ({"rotary_fraction": "half"}, "rotary_fraction is 'half'; it must be a valid number"),
        ({"norm_bias": True}, "norm_bias=true needs norm='layernorm'"),
        ({"ffn_ratio": "6:1"}, "ffn_ratio '6:1' runs from high to low"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_line(fields: dict[str, Any], says: str):
    with pytest.raises(InputError) as caught:
        SearchSpace.declare(10**8, fields)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_a_contradiction_is_a_config_error():
    with pytest.raises(ConfigError):
        SearchSpace.declare(10**8, {"kv_groups": 2, "n_kv_heads": 4})
