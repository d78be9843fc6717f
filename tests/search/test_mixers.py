"""Searches for models with a mixer other than attention: complete, and the mixer in proportion to dim."""

from fractions import Fraction

import pytest
from support.hybrids import HYBRID, LINEAR_MIXERS, MAMBA, MAMBA2, SIDE_BY_SIDE

import parambudget as pb
from parambudget.arch.config import flat_fields
from parambudget.arch.dims import whole_layer_share
from parambudget.arch.mixers.proportions import mixer_sizes_at
from parambudget.cost.params import total
from parambudget.render.solutions import solution_rows
from parambudget.search.engine import Search
from parambudget.search.score import aspect
from parambudget.search.space import SearchSpace, choices_of, share_of_whole_layers

AXES = {
    "n_layers": "3:7", "dim": "24:96:24", "head_dim": 12, "kv_groups": 1, "intermediate_size": "32:160:32",
    "vocab_size": 96,
}  # fmt: skip


def enumerated(fields: dict[str, object]) -> list[pb.ModelConfig]:
    """Every model of the axes, its mixer as many heads in proportion as HYBRID has at its dim."""
    models = []
    for n_layers in range(3, 8):
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


@pytest.mark.parametrize("like", [MAMBA, HYBRID.replace(ffn_pattern=["none"])], ids=["mamba", "hybrid"])
def test_without_an_ffn_every_depth_and_width_is_searched_once(like):
    axes = {"n_layers": "3:42:3", "dim": "24:96:24", "vocab_size": 96}
    if like is not MAMBA:
        axes |= {"head_dim": 12, "kv_groups": 1}
    search = Search(SearchSpace.declare(90_000, choices_of(like) | axes), 90_000)
    heads = {dim: {"n_heads": dim // 12, "n_kv_heads": dim // 12} for dim in range(24, 97, 24)}
    if like is MAMBA:
        heads = {dim: {"head_dim": dim} for dim in heads}
    models = [
        like.replace(n_layers=n, dim=dim, **heads[dim], **mixer_sizes_at(like, dim))
        for n in range(3, 43, 3)
        for dim in range(24, 97, 24)
    ]  # fmt: skip
    for tolerance in (Fraction(1, 50), Fraction(1, 5), Fraction(2)):
        close = sorted(c for c in map(total, models) if abs(c - 90_000) <= tolerance * 90_000)
        assert sorted(search.candidates_within(tolerance).counted.tolist()) == close
    assert close
    certificate = search.certificate(Fraction(1, 5))
    assert certificate.lattice_points == len(models)
    errors = sorted({abs(total(model) - 90_000) for model in models})
    assert (certificate.best_error, certificate.next_best_error) == tuple(errors[:2])


MAMBAS = ("mamba-130m", "mamba-790m", "mamba-1.4b", "mamba-2.8b", "falcon-mamba-7b", "mamba2-1.3b")


@pytest.mark.parametrize("name", MAMBAS)
def test_a_published_mamba_is_the_first_answer_for_its_own_size(name):
    published = pb.preset(name)
    first = pb.solve(total(published), like=name)[0]
    assert first.error == 0
    assert first.model == published


def test_without_an_ffn_the_score_and_the_screen_know_none():
    found = pb.solve("130M", like="mamba-130m", top=3)
    assert all(one.score.keys() == {"aspect", "width", "depth"} for one in found)
    assert not {"n_heads", "head_dim", "intermediate_size"} & found.rows()[0].keys()
    headings, *rows = solution_rows(found, wide=True)
    assert headings[:5] == ["#", "shape", "layers", "dim", "total"]
    assert {len(row) for row in rows} == {len(headings)}
    assert not any("FFN" in str(one) for one in found)
    assert "ffn_ratio" not in found.certificate.lattice


def test_widths_of_an_ffn_that_no_layer_has_are_refused():
    for given in ({"intermediate_size": 512}, {"ffn_ratio": "2:4"}):
        with pytest.raises(pb.ConfigError, match=r"no layer has an FFN, so \w+ has no effect; leave it out"):
            pb.solve("100M", like="mamba-130m", **given)


def test_what_bounds_a_search_without_an_ffn_is_named():
    with pytest.raises(pb.NoSolution, match=r"raise the upper end of n_layers or dim$"):
        pb.solve("1B", like="mamba-130m", n_layers="1:8", dim="64:512")


def test_a_model_without_an_ffn_is_resized_in_depth_and_width():
    found = {one.label: one.model for one in pb.resize("mamba2-130m", "100M", tolerance="5%")}
    assert found.keys() == {"narrower", "shallower", "balanced"}
    assert found["narrower"].n_layers == 24
    assert found["shallower"].dim == 768
    assert {m.mamba2.mamba2_n_heads * 64 for m in found.values()} == {2 * m.dim for m in found.values()}
    grown = {one.label for one in pb.resize("mamba2-130m", "200M", tolerance="5%")}
    assert grown == {"wider", "deeper", "balanced"}


def test_depths_without_every_kind_of_layer_are_no_points(recwarn):
    """There the sizes of heads or of the FFN would count nothing, and one model would be many points."""
    axes = {"dim": 48, "head_dim": 12, "kv_groups": 1, "ffn_ratio": "2:4", "multiple": 8, "tolerance": "99%"}
    found = pb.solve("60K", like=HYBRID, n_layers="1:5", **axes)
    assert found.certificate.lattice["n_layers"] == "3:5"
    for patterns in (
        {"ffn_pattern": ["none", "none", "ffn"]},
        {"mixer_pattern": ["none", "none", "attention"]},
    ):
        plain = pb.solve("60K", vocab_size=96, n_layers="1:5", **patterns, **axes)
        assert plain.certificate.lattice["n_layers"] == "3:5"
    one_layer = pb.preset("nemotron-h-8b").replace(n_layers=1, dim=512)
    with pytest.raises(pb.NoSolution, match="nearest is"):
        pb.resize("nemotron-h-8b", total(one_layer), tolerance="0%")
    assert [str(each.message) for each in recwarn] == []
    with pytest.raises(pb.ConfigError, match=r"n_layers 2 is too few for every kind .* use 3 or more"):
        pb.solve("60K", like=HYBRID, n_layers=2)


def test_the_nearest_to_a_model_that_is_resized_is_another_one():
    n = total(pb.preset("mamba-370m"))
    with pytest.raises(pb.NoSolution, match=r"nearest is 378,183,680 \(\+1\.795 %: 49 layers, dim 1024\)"):
        pb.resize("mamba-370m", n + 1, tolerance="0%")


def test_experts_in_the_place_of_no_ffn_are_refused():
    for given in ({"active": "100M"}, {"n_experts": 8}):
        with pytest.raises(pb.ConfigError, match=f"so {next(iter(given))} has no effect"):
            pb.solve("300M", like="mamba-370m", **given)


@pytest.mark.parametrize("name", ["mamba-370m", "bamba-9b", "lfm2-350m"])
def test_a_pattern_without_its_mixer_drops_the_sizes_of_that(name):
    changed = pb.preset(name).replace(mixer_pattern=["attention"])
    assert changed.mixer is None
    assert pb.count(name, mixer_pattern=["attention"]).model == changed
    found = pb.solve(total(changed), like=name, mixer_pattern=["attention"], tolerance="3%", top=1)
    assert found[0].model.mixer is None
    assert pb.resize(name, 2 * total(changed), mixer_pattern=["attention"], tolerance="9%")


def test_a_budget_is_searched_without_an_ffn():
    found = pb.solve(budget=pb.Budget(hours=2), machine="h100", like="mamba-130m", top=2)
    assert {one.model.ffn_pattern for one in found} == {("none",)}
    assert found.certificate.feasible > 100


@pytest.mark.parametrize(
    ("like", "n_layers", "whole"),
    [
        (MAMBA, 8, 4),
        (HYBRID, 6, 6),
        (SIDE_BY_SIDE, 4, 4),
        (MAMBA2.replace(ffn_pattern=["ffn", "none", "ffn"]), 3, 2.5),
        (MAMBA2.replace(mixer_pattern=["mamba2", "none"], ffn_pattern=["none", "ffn"]), 6, 3),
    ],
)
def test_layers_with_a_mixer_or_an_ffn_alone_count_half(like, n_layers, whole):
    model = like.replace(n_layers=n_layers)
    share = whole_layer_share(model.mixer_pattern, model.ffn_pattern)
    assert share == pytest.approx(whole / n_layers)
    assert aspect(model, model.dim, n_layers) == pytest.approx(model.dim / whole)
    assert share_of_whole_layers(flat_fields(model)) == share


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
        assert solution.score.keys() == {"aspect", "ffn", "width", "depth"}
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
