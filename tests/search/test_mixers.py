"""Searches for models with a mixer other than attention: complete, and the mixer in proportion to dim."""

from fractions import Fraction

import pytest
from support.hybrids import HYBRID, LINEAR_MIXERS, MAMBA, MAMBA2

import parambudget as pb
from parambudget.arch.mixers.proportions import mixer_sizes_at
from parambudget.cost.params import total
from parambudget.render.solutions import solution_rows
from parambudget.search.engine import Search
from parambudget.search.space import SearchSpace, choices_of

AXES = {
    "n_layers": "1:7", "dim": "24:96:24", "head_dim": 12, "kv_groups": 1, "intermediate_size": "32:160:32",
    "vocab_size": 96,
}  # fmt: skip


def enumerated(fields: dict[str, object]) -> list[pb.ModelConfig]:
    """Every model of the axes, its mixer as many heads in proportion as HYBRID has at its dim."""
    models = []
    for n_layers in range(1, 8):
        for dim in (24, 48, 72, 96):
            heads = max(1, round(2 * dim / 48 + 1e-9)) if "mixer_dim" in fields else 2
            for width in range(32, 161, 32):
                models.append(
                    HYBRID.replace(
                        n_layers=n_layers, dim=dim, n_heads=dim // 12, n_kv_heads=dim // 12,
                        intermediate_size=width, delta_n_key_heads=heads, delta_n_value_heads=2 * heads,
                    )
                )  # fmt: skip
    return models


def test_state_spaces_grow_with_the_width():
    assert mixer_sizes_at(MAMBA, 96) == {"mamba_inner_size": 192, "mamba_dt_rank": 8}
    assert mixer_sizes_at(MAMBA2, 72) == {"mamba2_n_heads": 10}  # 4.5 heads in each of 2 groups, rounded up


def test_a_search_without_an_ffn_is_refused():
    with pytest.raises(pb.ConfigError, match="with ffn_pattern=none no layer has one"):
        pb.solve("300M", like="mamba2-130m")


@pytest.mark.parametrize("fixed", [False, True])
def test_every_model_of_the_lattice_is_found(fixed):
    fields = choices_of(HYBRID) | AXES
    if fixed:
        del fields["mixer_dim"]
    for target in (20_000, 90_000, 250_000):
        search = Search(SearchSpace.declare(target, fields), target)
        found = search.candidates_within(Fraction(1, 10))
        expected = [total(model) for model in enumerated(fields) if abs(total(model) - target) <= target / 10]
        assert sorted(found.counted.tolist()) == sorted(expected)
        assert expected or not len(found)


RWKV = LINEAR_MIXERS["rwkv alone"]


def test_without_attention_every_shape_is_searched_once():
    """Heads, which no layer has, are no axis: one as wide as the model, as in its config."""
    axes = {"n_layers": "1:7", "dim": "24:96:24", "intermediate_size": "32:160:32", "vocab_size": 96}
    search = Search(SearchSpace.declare(250_000, choices_of(RWKV) | axes), 250_000)
    found = search.candidates_within(Fraction(1, 10))
    expected = [
        total(RWKV.replace(n_layers=n, dim=dim, head_dim=dim, intermediate_size=f, rwkv_inner_size=inner))
        for n in range(1, 8)
        for dim, inner in ((24, 28), (48, 56), (72, 84), (96, 112))
        for f in range(32, 161, 32)
    ]
    close = [count for count in expected if abs(count - 250_000) <= 25_000]
    assert sorted(found.counted.tolist()) == sorted(close)
    assert close
    assert search.certificate(Fraction(1, 10)).lattice_points == len(expected)


def test_without_attention_the_score_knows_no_heads_and_the_screen_shows_none():
    found = pb.solve("300K", like=RWKV, tolerance="5%", top=3)
    for solution in found:
        assert (solution.model.n_heads, solution.model.head_dim) == (1, solution.model.dim)
        assert solution.score["heads"] == solution.score["kv"] == 0
        assert "heads" not in str(solution)
    assert not {"heads/kv", "head"} & set(solution_rows(found, wide=True)[0])


def test_a_model_without_attention_is_made_narrower_by_any_width():
    found = {
        solution.label: solution.model for solution in pb.resize(RWKV, "150K", tolerance="5%", multiple=8)
    }
    assert found["narrower"].dim < 48
    assert found["narrower"].rwkv.rwkv_inner_size == (56 * found["narrower"].dim + 24) // 48


@pytest.mark.parametrize("kind", ["rg_lru", "lightning_attention"])
def test_models_of_one_mixer_are_searched_with_and_without_positions(kind):
    for position in ("rotary", "none"):
        like = LINEAR_MIXERS[kind].replace(mixer_pattern=[kind], position=position)
        found = pb.solve("300K", like=like, tolerance="5%", vocab_size=96, top=2)
        assert {pattern for one in found for pattern in one.model.mixer_pattern} == {kind}
        assert {one.model.n_heads for one in found} == {1}


def test_heads_that_no_layer_has_are_refused():
    for heads in ({"n_heads": 8}, {"head_dim": 64}, {"kv_groups": 2}, {"n_kv_heads": 4}):
        with pytest.raises(pb.ConfigError, match=r"no layer has attention, so \w+ has no effect"):
            pb.solve("100M", like="rwkv-4-169m", **heads)
    with pytest.raises(pb.ConfigError, match="mixer_pattern"):
        pb.solve("30M", vocab_size=1000, mixer_pattern="attention")


def test_a_size_of_a_mixer_that_is_given_is_fixed_by_resize_too():
    found = pb.resize("rwkv-4-169m", "100M", rwkv_inner_size=512)
    assert {one.model.rwkv.rwkv_inner_size for one in found} == {512}
    assert len({one.model.dim for one in found}) > 1


def test_heads_fit_what_other_layers_or_choices_ask_of_them():
    for one in pb.solve("5B", like="gemma-4-31b", top=5):
        assert one.model.n_heads % one.model.global_n_kv_heads == 0
    for one in pb.solve("3M", vocab_size=4096, differential_attention=True, top=5):
        assert one.model.n_kv_heads % 2 == 0


def test_a_mixer_keeps_its_proportion_to_dim():
    for solution in pb.solve("400K", like=HYBRID, tolerance="5%", top=5):
        net = solution.model.gated_delta_net
        assert net.delta_n_key_heads == max(1, (4 * solution.model.dim + 48) // 96)
        assert net.delta_n_value_heads == 2 * net.delta_n_key_heads
        assert solution.model.mixer_pattern == HYBRID.mixer_pattern
        assert pb.verify(solution.model).differences == ()


def test_sizes_that_are_given_stay():
    found = pb.solve("400K", like=HYBRID, tolerance="5%", delta_n_key_heads=1, delta_n_value_heads=1)
    assert {solution.model.gated_delta_net.delta_n_key_heads for solution in found} == {1}


def test_a_model_brought_to_another_size_has_its_mixer_in_proportion():
    found = pb.resize(HYBRID, "180K", tolerance="10%", multiple=8)
    assert "narrower" in {solution.label for solution in found}
    for solution in found:
        n_key_heads = solution.model.gated_delta_net.delta_n_key_heads
        assert n_key_heads == max(1, (4 * solution.model.dim + 48) // 96)
