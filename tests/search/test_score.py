"""The shape score: what each departure from the usual costs, and that the usual costs nothing."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets.registry import preset, preset_row
from parambudget.cost.params import body, total
from parambudget.search.lattice import Candidates
from parambudget.search.score import (
    ASPECT,
    ScoreWeights,
    aspect_deviation,
    aspect_spread,
    shape_score,
    usual_aspect,
)

SMALL = {
    "dim": 1024,
    "n_layers": 24,
    "n_heads": 16,
    "n_kv_heads": 4,
    "head_dim": 64,
    "intermediate_size": 3584,
}
LARGE = {
    "dim": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 8,
    "head_dim": 128,
    "intermediate_size": 14336,
}


def points(*models: ModelConfig) -> Candidates:
    names = ("n_layers", "dim", "head_dim", "n_heads", "n_kv_heads", "intermediate_size")
    sizes = (np.array([getattr(model, name) for model in models]) for name in names)
    return Candidates(*sizes, counted=np.array([total(model) for model in models]))


def scored(
    sizes: dict[str, int], size: float, weights: ScoreWeights | None = None, **choices: Any
) -> dict[str, float]:
    model = ModelConfig(**sizes, **choices)
    terms = shape_score(model, points(model), int(size), weights or ScoreWeights())
    return {name: float(values[0]) for name, values in terms.items()}


@pytest.mark.parametrize(
    ("sizes", "size"), [(SMALL, 350e6), (LARGE, 8e9)], ids=["below a billion", "eight billion"]
)
def test_a_usual_shape_costs_next_to_nothing(sizes: dict[str, int], size: float):
    score = scored(sizes, size)
    assert tuple(score) == ("aspect", "ffn", "heads", "width", "depth", "kv")
    assert sum(score.values()) < 0.2


@pytest.mark.parametrize(
    ("change", "term", "cost"),
    [
        ({"intermediate_size": 3584 + 64}, "ffn", 3.0),
        ({"n_heads": 15, "n_kv_heads": 15, "head_dim": 64, "dim": 960}, "heads", 4.0 + 3.0),
        ({"n_heads": 18, "n_kv_heads": 9, "dim": 1152}, "heads", 3.0),
        ({"n_heads": 32, "n_kv_heads": 8, "head_dim": 32}, "heads", 4.0),
        ({"dim": 1088, "n_heads": 16, "head_dim": 68}, "width", 1.0),
        ({"n_layers": 23}, "depth", 3.0),
        ({"n_layers": 22}, "depth", 1.5),
        ({"n_heads": 12, "n_kv_heads": 4, "head_dim": 128, "dim": 1536}, "kv", 1.0),
        ({"n_heads": 12, "n_kv_heads": 6, "head_dim": 128, "dim": 1536}, "kv", 1.0),
    ],
)  # fmt: skip
def test_each_departure_below_a_billion_has_its_price(change: dict[str, int], term: str, cost: float):
    assert scored(SMALL | change, 350e6)[term] == pytest.approx(cost, abs=0.2)
    assert scored(SMALL, 350e6)[term] == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize(
    ("change", "term", "cost"),
    [
        ({"intermediate_size": 14336 + 128}, "ffn", 3.0),
        ({"n_heads": 36, "n_kv_heads": 9, "dim": 4608}, "heads", 3.0),
        ({"n_heads": 64, "n_kv_heads": 16, "head_dim": 64}, "heads", 4.0),
        ({"dim": 4352, "head_dim": 136}, "width", 1.0),
        ({"n_kv_heads": 32}, "kv", 2.0),
        ({"n_kv_heads": 16}, "kv", 1.0),
        ({"n_kv_heads": 2}, "kv", 2.0),
        ({"n_kv_heads": 4}, "kv", 1.0),
    ],
)  # fmt: skip
def test_each_departure_at_eight_billion_has_its_price(change: dict[str, int], term: str, cost: float):
    assert scored(LARGE | change, 8e9)[term] - scored(LARGE, 8e9)[term] == pytest.approx(cost, abs=0.2)


@pytest.mark.parametrize(
    ("dim", "unit", "size"), [(64, 64, 60e6), (128, 128, 100e6), (256, 256, 1e9), (512, 512, 7e9)]
)
def test_the_width_is_to_be_a_rounder_number_the_larger_the_model(dim: int, unit: int, size: float):
    sizes = SMALL | {"head_dim": 64, "n_heads": 8, "n_kv_heads": 8}
    assert scored(sizes | {"dim": 4 * dim}, size)["width"] == 0
    assert scored(sizes | {"dim": 4 * dim + unit // 2}, size)["width"] == 1


def test_a_plain_ffn_is_usual_at_four_times_the_width():
    plain = {"gated": False, "activation": "gelu"}
    assert scored(SMALL | {"intermediate_size": 4096}, 350e6, **plain)["ffn"] == pytest.approx(0, abs=1e-9)
    assert scored(SMALL | {"intermediate_size": 3072}, 350e6, **plain)["ffn"] > 4


def test_heads_that_do_not_fill_the_width_cost_by_how_far_they_miss():
    half, double = (scored(SMALL | {"n_heads": n, "n_kv_heads": 4}, 350e6)["heads"] for n in (8, 32))
    assert half == pytest.approx(double)
    assert half == pytest.approx((np.log(2) / 0.35) ** 2)


@pytest.mark.parametrize("name", [field.name for field in fields(ScoreWeights)])
def test_every_weight_moves_the_score_of_some_shape(name: str):
    strange = {"dim": 4160, "n_layers": 31, "n_heads": 65, "n_kv_heads": 13, "head_dim": 64,
               "intermediate_size": 20000}  # fmt: skip
    multi_head = LARGE | {"n_kv_heads": 32}
    doubled = replace(ScoreWeights(), **{name: 2 * getattr(ScoreWeights(), name)})
    for_all = [
        sum(scored(sizes, 8e9, w).values())
        for sizes in (strange, multi_head)
        for w in (ScoreWeights(), doubled)
    ]
    assert for_all[0] < for_all[1] or for_all[2] < for_all[3]


def test_the_centre_passes_through_its_knots_and_is_level_beyond_them():
    assert [float(usual_aspect(knot)) for knot in ASPECT] == pytest.approx(list(ASPECT.values()))
    assert usual_aspect(1e3) == pytest.approx(ASPECT[10e6])
    assert usual_aspect(1e15) == pytest.approx(ASPECT[400e9])


@given(st.integers(10**7, 4 * 10**11))
def test_the_centre_lies_between_the_extreme_knots(count: int):
    assert min(ASPECT.values()) - 1e-9 <= usual_aspect(count) <= max(ASPECT.values()) + 1e-9


def test_small_models_spread_wider_around_the_centre():
    assert float(aspect_spread(1e9 - 1)) > float(aspect_spread(1e9))


def test_the_deviation_is_zero_at_the_centre_negative_for_deep_and_positive_for_wide():
    model = ModelConfig(**LARGE)
    size = body(model)
    deviation = aspect_deviation(model, points(model))[0]
    expected = np.log(4096 / 32 / usual_aspect(size)) / aspect_spread(size)
    assert deviation == pytest.approx(float(expected))
    deep, wide = model.replace(n_layers=64), model.replace(n_layers=16)
    assert aspect_deviation(model, points(deep))[0] < -1
    assert aspect_deviation(model, points(wide))[0] > 1


@pytest.mark.parametrize("name", ["llama-3-8b", "llama-3-70b", "llama-3.2-3b", "gpt2-medium"])
def test_well_known_shapes_are_not_exotic(name: str):
    model = preset(name)
    terms = shape_score(model, points(model), preset_row(name).published_count)
    assert sum(float(term[0]) for term in terms.values()) < 4
