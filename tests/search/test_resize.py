"""From a current model to a budget: each way keeps what it promises and is exact, or says why not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.cost.flops import flops_per_token
from parambudget.errors import InputError, NoSolution
from parambudget.search.solutions import Solutions

NOTE = pb.model(dim=1024, n_layers=24, n_heads=16, intermediate_size=4096)
SHRINKING = ("narrower", "shallower", "thinner", "balanced")
GROWING = ("wider", "deeper", "fatter", "balanced")
SIZES = {"dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "intermediate_size"}


@pytest.fixture(scope="module")
def note() -> Solutions:
    return pb.resize(NOTE, "350M")


@pytest.fixture(scope="module")
def grown() -> Solutions:
    return pb.resize(NOTE, "600M")


def way(found: Solutions, name: str) -> ModelConfig:
    return next(solution.model for solution in found if solution.label == name)


def test_the_planning_notes_model_is_told_its_true_count(note: Solutions):
    assert note.current is not None
    assert note.current.model == NOTE
    assert note.current.counted == 454_166_528


def test_the_planning_note_has_all_four_ways_to_350m(note: Solutions):
    assert tuple(solution.label for solution in note) == SHRINKING
    assert note.current is not None
    assert note.current.unavailable == {}


@pytest.mark.parametrize("name", SHRINKING)
def test_every_way_of_the_planning_note_is_exact_and_within_tolerance(note: Solutions, name: str):
    solution = next(solution for solution in note if solution.label == name)
    assert pb.count(solution.model).total == solution.counted == 350_000_000 + solution.error
    assert abs(solution.error) <= 350_000_000 * 0.005


def test_narrower_keeps_the_layers_and_lowers_the_width(note: Solutions):
    assert way(note, "narrower").n_layers == 24
    assert way(note, "narrower").dim < 1024


def test_shallower_keeps_the_width_and_lowers_the_layers(note: Solutions):
    assert way(note, "shallower").dim == 1024
    assert way(note, "shallower").n_layers < 24


def test_thinner_keeps_layers_width_and_heads_and_narrows_the_ffn(note: Solutions):
    thin = way(note, "thinner")
    assert (thin.n_layers, thin.dim, thin.n_heads) == (24, 1024, 16)
    assert thin.intermediate_size < 4096


def test_balanced_lowers_both_and_keeps_the_aspect_ratio(note: Solutions):
    balanced = way(note, "balanced")
    assert balanced.n_layers < 24
    assert balanced.dim < 1024
    assert balanced.dim / balanced.n_layers == pytest.approx(1024 / 24, rel=0.05)


@pytest.mark.parametrize("name", ["narrower", "shallower", "balanced"])
def test_the_ffn_ratio_stays_near_where_another_size_moves(note: Solutions, name: str):
    model = way(note, name)
    assert model.intermediate_size / model.dim == pytest.approx(4, rel=0.15)


def test_too_small_a_model_has_the_four_ways_up(grown: Solutions):
    assert tuple(solution.label for solution in grown) == GROWING
    wider, deeper, fatter, balanced = (solution.model for solution in grown)
    assert (wider.n_layers, wider.dim > 1024) == (24, True)
    assert (deeper.dim, deeper.n_layers > 24) == (1024, True)
    assert (fatter.dim, fatter.n_layers, fatter.n_heads) == (1024, 24, 16)
    assert fatter.intermediate_size > 4096
    assert balanced.dim / balanced.n_layers == pytest.approx(1024 / 24, rel=0.05)


def test_the_change_is_the_difference_from_the_current_model(note: Solutions):
    assert note.current is not None
    for solution in note:
        assert note.current.change(solution.model) == {
            "total": solution.counted - 454_166_528,
            "flops_per_token": flops_per_token(solution.model) - flops_per_token(NOTE),
            "n_layers": solution.model.n_layers - 24,
        }


def test_the_json_shows_the_current_model_and_each_change(note: Solutions):
    written = note.as_dict()
    assert written["current"]["counted"] == written["current"]["total"] == 454_166_528
    assert written["current"]["flops_per_token"] == flops_per_token(NOTE)
    assert [entry["label"] for entry in written["solutions"]] == list(SHRINKING)
    for entry in written["solutions"]:
        assert entry["change"]["total"] == entry["total"] - 454_166_528


def test_tying_is_the_current_models_and_not_assumed(note: Solutions):
    assert not note.tying_was_assumed


def test_the_certificate_is_of_the_one_lattice_that_holds_every_way(note: Solutions):
    certificate = note.certificate
    assert certificate.lattice["n_layers"] == "1:24"
    assert certificate.lattice["dim"] == "64:1024:64"
    assert certificate.within_tolerance >= len(note)
    assert certificate.best_error <= min(abs(solution.error) for solution in note)


@pytest.mark.parametrize("target", ["300M", "1B"])
def test_heads_that_do_not_fill_the_width_keep_their_share_of_it(target: str):
    now = pb.preset("qwen3-0.6b")
    found = pb.resize("qwen3-0.6b", target)
    for solution in found:
        model = solution.model
        assert (model.head_dim, model.kv_group, model.qk_norm) == (128, 2, "head")
        share = model.n_heads * model.head_dim / model.dim
        assert share == pytest.approx(now.n_heads * now.head_dim / now.dim, rel=0.15)
    kept = [s.model for s in found if s.label in ("shallower", "thinner", "deeper", "fatter")]
    assert {model.n_heads for model in kept} == {16}


@pytest.mark.parametrize("target", ["3B", "10B"])
def test_multi_query_attention_stays_multi_query(target: str):
    found = pb.resize("falcon-7b", target)
    assert len(found) == 4
    assert {solution.model.n_kv_heads for solution in found} == {1}


def test_a_way_that_does_not_exist_is_named_with_its_reason():
    found = pb.resize("gpt2-medium", "200M")
    assert [solution.label for solution in found] == ["narrower", "shallower", "balanced"]
    assert found.current is not None
    assert list(found.current.unavailable) == ["thinner"]
    assert found.current.unavailable["thinner"].startswith(
        "the nearest with narrower FFN, same dim and layers is "
    )
    assert found.as_dict()["current"]["unavailable"] == found.current.unavailable


def test_a_balanced_way_that_would_not_be_balanced_is_named():
    found = pb.resize("gpt2-medium", "200M", n_layers=[4, 8, 24], dim=[960, 1024])
    assert found.current is not None
    assert found.current.unavailable["balanced"] == (
        "none with smaller dim and fewer layers, same aspect ratio is within 0.5%"
    )


def test_a_single_layer_has_no_shallower_way():
    found = pb.resize(NOTE.replace(n_layers=1), "40M", tolerance="5%")
    assert found.current is not None
    assert found.current.unavailable["shallower"] == "the search space has no n_layers other than 1"


def test_a_lattice_without_the_current_width_has_no_way_that_keeps_it():
    found = pb.resize(NOTE, "350M", dim="512:960:64")
    assert found.current is not None
    assert found.current.unavailable["shallower"] == "the search space has no dim of 1024"


def test_a_budget_that_no_way_meets_names_the_nearest_once():
    with pytest.raises(
        NoSolution, match=r"^no model within 0\.5% of 1,000,000 total.*smallest.*vocab"
    ) as caught:
        pb.resize("gpt2", "1M")
    assert str(caught.value).count("nearest is") == 1


def test_where_only_other_heads_would_meet_the_budget_every_way_says_why_not():
    with pytest.raises(NoSolution) as caught:
        pb.resize("qwen3-0.6b", "380M", n_layers=28, dim=1024)
    reasons = str(caught.value).split("; ")
    assert reasons[0] == "no narrower model: the search space has no dim other than 1024"
    assert reasons[1] == "no shallower model: the search space has no n_layers other than 28"
    assert reasons[2].startswith("no thinner model: the nearest with narrower FFN, same dim and layers is ")


def test_a_model_within_tolerance_already_is_left_alone():
    with pytest.raises(InputError) as caught:
        pb.resize(NOTE, "454M")
    assert str(caught.value) == (
        "the current model has 454,166,528 total parameters, already within 0.5% of 454,000,000 (+0.037 %); "
        "give a smaller `tolerance` to change it anyway"
    )


def test_a_smaller_tolerance_changes_it_all_the_same():
    found = pb.resize(NOTE, "453M", tolerance="0.1%")
    assert {abs(solution.error) <= 453_000 for solution in found} == {True}


def test_a_thousandfold_growth_is_refused():
    with pytest.raises(InputError, match=r"more than 1,000 times that; start from a larger model"):
        pb.resize("gpt2", "1000T")


def test_the_budget_may_mean_the_body():
    found = pb.resize(NOTE, "400M", counted="body")
    assert found.current is not None
    assert found.current.counted == pb.count(NOTE).body
    assert found[0].label == "narrower"
    for solution in found:
        assert pb.count(solution.model).body == solution.counted
    assert [s.label for s in pb.resize(NOTE, "440M", counted="body")] == list(GROWING)


def test_axes_and_choices_of_ones_own_replace_the_derived_ones():
    found = pb.resize(NOTE, "350M", kv_groups=4, multiple=128, ffn_ratio="3:5")
    for solution in found:
        model = solution.model
        assert model.kv_group == 4
        assert model.intermediate_size % 128 == 0
        assert 3 <= model.intermediate_size / model.dim <= 5
    listed = pb.resize(NOTE, "350M", n_kv_heads=2, intermediate_size="2048:4096:64", tolerance="1%")
    assert {solution.model.n_kv_heads for solution in listed} == {2}


def test_a_granularity_of_zero_is_refused():
    with pytest.raises(InputError, match="multiple is 0; sizes start at 1"):
        pb.resize(NOTE, "350M", multiple=0)


@pytest.mark.parametrize("name", ["rank", "top", "like", "budget"])
def test_what_only_a_search_takes_is_refused_by_its_own_name(name: str):
    with pytest.raises(InputError, match=rf"^resize takes no {name}: it gives one answer per direction"):
        pb.resize("gpt2", "350M", **{name: 3})


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["gpt2", "qwen3-0.6b", "smollm2-135m", "olmo-1b", "pythia-410m", "falcon-7b"]),
    st.floats(0.3, 4),
)
def test_every_way_from_any_model_keeps_all_but_the_sizes(name: str, factor: float):
    now = pb.preset(name)
    target = int(pb.count(now).total * factor)
    if abs(factor - 1) <= 0.011:
        return
    found = pb.resize(now, target, tolerance="1%")
    for solution in found:
        model = solution.model
        assert pb.count(model).total == solution.counted
        assert abs(solution.error) <= target / 100
        assert model.model_dump(exclude=SIZES) == now.model_dump(exclude=SIZES)
        assert model.head_dim == now.head_dim
    names = SHRINKING if factor < 1 else GROWING
    assert found.current is not None
    assert {*(solution.label for solution in found), *found.current.unavailable} == set(names)
