"""The lattice of experts and latents: the published rule, what is no point, and each departure's price."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import parambudget as pb
from parambudget.search.engine import Search
from parambudget.search.lattice import MOST_ROWS, build_lattice
from parambudget.search.score import ExpertWeights, experts_term
from parambudget.search.space import SearchSpace

MIXED = dict(n_experts=8, n_experts_per_token=2, dim=[128, 192], n_layers="2:6", vocab_size=1000, multiple=16)
EXPERTS = ("olmoe-1b-7b", "qwen3-30b-a3b", "deepseek-v2-lite", "gpt-oss-20b", "glm-4.5-air")


def test_depths_without_a_layer_of_experts_are_no_points():
    space = SearchSpace.declare(10**8, MIXED | {"n_first_dense": 3})
    assert space.flags()["n_layers"] == "4:6"


def test_the_width_of_a_projected_embedding_is_no_width_of_the_model():
    space = SearchSpace.declare(10**8, {"dim": "256:1024:256", "embedding_dim": 512})
    assert space.dim.values == (256, 768, 1024)


def test_latent_heads_are_free_of_dim_and_their_parts_follow_from_the_size():
    space = SearchSpace.declare(5 * 10**9, {"kv_lora_rank": 512})
    assert space.flags() | {"qk_nope_head_dim": "128", "qk_rope_head_dim": "64", "v_head_dim": "128"} == (
        space.flags()
    )
    assert space.n_heads is not None
    small = SearchSpace.declare(10**8, {"kv_lora_rank": 512, "v_head_dim": 32})
    assert small.choices.mla.qk_nope_head_dim == 32


@pytest.mark.parametrize("name", EXPERTS)
def test_the_box_holds_depth_width_and_mix_of_the_published_model(name: str):
    m = pb.preset(name)
    counted = pb.count(m)
    space = SearchSpace.declare(
        counted.total, {"n_shared_experts": m.moe.n_shared_experts}, active=counted.active
    )
    assert m.n_layers in space.n_layers.values
    assert space.dim.values[0] <= m.dim <= space.dim.values[-1]
    assert m.moe.n_experts in space.n_experts.values
    assert m.moe.n_experts_per_token in space.n_experts_per_token.values
    assert m.moe.expert_intermediate_size % space.multiple == 0
    assert 2 <= m.active_ffn_width / m.dim <= 8


@pytest.mark.parametrize("name", EXPERTS)
def test_what_is_active_of_a_total_is_guessed_to_within_a_half(name: str):
    m = pb.preset(name)
    space = SearchSpace.declare(
        pb.count(m).total, {**m.moe.model_dump(include={"n_experts", "n_experts_per_token"})}
    )
    assert 0.5 < space.size / pb.count(m).active < 1.5


@settings(max_examples=60, deadline=None)
@given(st.integers(10**7, 2 * 10**12), st.floats(0.02, 0.9))
def test_the_box_of_any_two_budgets_is_small_enough_to_search(target: int, share: float):
    lattice = build_lattice(SearchSpace.declare(target, {}, active=max(1, int(target * share))))
    assert 0 < len(lattice.n_layers) * len(lattice.first) <= MOST_ROWS


def point(**changes: int) -> tuple[Any, int]:
    sizes = dict(n_experts=64, n_experts_per_token=8, expert_intermediate_size=1024, dim=2048, n_layers=16)
    model = pb.model(**sizes | changes)
    space = SearchSpace.declare(10**9, {name: sizes[name] for name in sizes} | changes | {"head_dim": 64})
    return Search(space, pb.count(model).total).nearest_candidates(1), 10**9


@pytest.mark.parametrize(
    ("change", "cost"),
    [
        ({}, 0.0), ({"n_experts": 60}, 2.0), ({"n_experts": 96}, 1.0), ({"n_experts_per_token": 6}, 1.0),
        ({"n_experts_per_token": 4}, 1.5), ({"n_experts_per_token": 3}, 3.0),
        ({"n_experts": 8, "n_experts_per_token": 2}, 1.0), ({"n_experts": 16, "n_experts_per_token": 4}, 2.0),
        ({"n_experts": 16, "n_experts_per_token": 1}, 5.0), ({"expert_intermediate_size": 1000}, 3.0),
        ({"expert_intermediate_size": 2176}, 1.0),
    ],
)  # fmt: skip
def test_each_departure_of_experts_has_its_price(change: dict[str, int], cost: float):
    points, size = point(**change)
    assert float(experts_term(points, size)[0]) == pytest.approx(cost)


@pytest.mark.parametrize("name", list(ExpertWeights.__dataclass_fields__))
def test_every_weight_of_experts_moves_the_score_of_some_shape(name: str):
    strange = [
        point(n_experts=60, n_experts_per_token=3, expert_intermediate_size=3000)[0],
        point(n_experts=8)[0],
    ]
    doubled = ExpertWeights(**{name: 2 * getattr(ExpertWeights(), name)})
    assert any(experts_term(p, 10**9, doubled)[0] > experts_term(p, 10**9)[0] for p in strange)
