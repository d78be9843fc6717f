"""From a budget to models: what a practitioner would nod at, exact counts, and answers that help."""

import json
import re
from fractions import Fraction
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import parambudget as pb
from parambudget import solve
from parambudget.arch.config import BLOCKS, FIELDS, ModelConfig
from parambudget.errors import ConfigError, InputError, NoSolution
from parambudget.search.fields import SearchFields
from parambudget.search.score import usual_aspect
from parambudget.search.solutions import Solutions
from parambudget.search.space import AXIS_SETTINGS
from parambudget.units import parse_count

TERMS = ("aspect", "ffn", "heads", "width", "depth", "kv")
TARGETS = ("60M", "125M", "350M", "760M", "1.3B", "2.7B", "7B", "13B", "70B")

first_rows = pytest.mark.parametrize("target", TARGETS)


@pytest.fixture(scope="module")
def answers() -> dict[str, Solutions]:
    return {target: solve(target) for target in TARGETS}


@pytest.fixture
def first(answers: dict[str, Solutions], target: str) -> ModelConfig:
    return answers[target][0].model


@first_rows
def test_the_first_row_has_an_even_number_of_heads_a_multiple_of_4_or_8(first: ModelConfig, target: str):
    size = parse_count(target)
    assert first.n_heads % (8 if size >= 3e9 else 4 if size >= 350e6 else 2) == 0


@first_rows
def test_the_first_row_has_heads_of_128_from_1b_and_of_64_or_128_below(first: ModelConfig, target: str):
    assert first.head_dim in ((128,) if parse_count(target) >= 1e9 else (64, 128))


@first_rows
def test_the_first_row_has_heads_that_fill_its_width(first: ModelConfig):
    assert first.n_heads * first.head_dim == first.dim


@first_rows
def test_the_first_row_has_a_round_width(first: ModelConfig, target: str):
    size = parse_count(target)
    assert first.dim % (512 if size >= 7e9 else 256 if size >= 1e9 else 128 if size >= 100e6 else 64) == 0


@first_rows
def test_the_first_row_has_an_even_number_of_layers(first: ModelConfig):
    assert first.n_layers % 2 == 0


@first_rows
def test_the_first_row_shares_kv_heads_in_groups_of_1_2_4_or_8(first: ModelConfig):
    assert first.kv_group in (1, 2, 4, 8)


@first_rows
def test_the_first_row_is_grouped_from_3b(first: ModelConfig, target: str):
    assert first.kv_group > 1 or parse_count(target) < 3e9


@first_rows
def test_the_first_row_has_an_ffn_near_the_prior_and_aligned(first: ModelConfig, target: str):
    assert first.intermediate_size % (256 if parse_count(target) >= 1e9 else 128) == 0
    assert 2.67 <= first.intermediate_size / first.dim <= 5.42  # 5 and 95 % of the published gated models


@first_rows
def test_the_first_row_has_a_usual_aspect_ratio(first: ModelConfig):
    ratio = first.dim / first.n_layers / float(usual_aspect(pb.count(first).body))
    assert 1 / 1.5 < ratio < 1.5


@first_rows
def test_the_answers_are_labelled_and_differ_in_kind(answers: dict[str, Solutions], target: str):
    assert {"deep", "wide", "balanced"} == {solution.label for solution in answers[target]}


@first_rows
def test_better_scores_come_first(answers: dict[str, Solutions], target: str):
    scores = [solution.total_score for solution in answers[target]]
    assert scores == sorted(scores)


def ffn_class(model: ModelConfig) -> int:
    bounds = (Fraction(n, 6) for n in (13, 19, 23, 27, 33, 42))
    return sum(model.intermediate_size >= bound * model.dim for bound in bounds)


def traits(model: ModelConfig) -> tuple[int, ...]:
    return model.n_layers, model.dim, model.n_kv_heads, ffn_class(model)


@settings(max_examples=25, deadline=None)
@given(st.integers(3_000_000, 200_000_000_000), st.integers(2, 9))
def test_any_two_shown_differ_in_two_traits_and_count_what_they_say(target: int, top: int):
    found = solve(target, top=top, vocab_size=8192, tolerance="1%")
    assert 1 <= len(found) <= top
    for one, other in combinations(found, 2):
        assert sum(a != b for a, b in zip(traits(one.model), traits(other.model), strict=True)) >= 2
    for solution in found:
        assert solution.counted == pb.count(solution.model).total
        assert solution.error == solution.counted - target
        assert abs(solution.error) <= target / 100


@pytest.mark.parametrize("counted", ["total", "body"])
def test_the_budget_may_mean_the_total_or_the_body(counted: Any):
    best = solve("350M", counted=counted)[0]
    assert best.counted == getattr(pb.count(best.model), counted)
    assert abs(best.error) <= 350_000_000 * 0.005


def test_the_answer_does_not_depend_on_how_the_lattice_is_written():
    as_text = solve("350M", n_layers="20:24:2", dim="896:1152:64", head_dim="64,128", kv_groups="1,2,4")
    as_lists = solve(
        350_000_000,
        kv_groups=[4, 2, 1],
        head_dim=[128, 64],
        dim=[1152, 1088, 1024, 960, 896],
        n_layers=range(20, 25, 2),
    )
    assert as_text == as_lists


def test_the_lattice_of_the_certificate_given_back_answers_the_same():
    found = solve("1.3B")
    assert solve("1.3B", **found.certificate.lattice) == found


def test_fixed_sizes_and_choices_are_kept():
    found = solve(
        "350M", n_layers=24, head_dim=64, qk_norm="head", vocab_size=32000, tied=False, rope_theta=5e5
    )
    for solution in found:
        m = solution.model
        assert (m.n_layers, m.head_dim, m.qk_norm, m.vocab_size, m.tied) == (24, 64, "head", 32000, False)
        assert m.rope_theta == 5e5


def test_that_tying_was_assumed_is_told_only_when_it_was():
    assert solve("350M").tying_was_assumed
    assert not solve("350M", tied=True).tying_was_assumed


def test_closest_puts_the_least_error_first():
    found = solve("350M", rank="closest", vocab_size=32768)
    errors = [abs(solution.error) for solution in found]
    assert errors == sorted(errors)
    assert errors[0] == found.certificate.best_error
    for one, other in combinations(found, 2):
        assert sum(a != b for a, b in zip(traits(one.model), traits(other.model), strict=True)) >= 2


@pytest.mark.parametrize("target", [1, 10**6, 10**12])
def test_closest_answers_where_nothing_is_within_tolerance(target: int):
    lattice = {"n_layers": "2:4", "dim": "256:512:128", "head_dim": 64, "kv_groups": 1, "tied": True}
    with pytest.raises(NoSolution):
        solve(target, **lattice)
    found = solve(target, rank="closest", **lattice)
    assert abs(found[0].error) == found.certificate.best_error
    assert found.certificate.within_tolerance == 0


def test_closest_shows_all_that_differ_where_the_lattice_holds_fewer_than_asked():
    found = solve("350M", rank="closest", n_layers=24, dim=1024, n_kv_heads=16, head_dim=64, top=100)
    assert {ffn_class(solution.model) for solution in found} == set(range(7))


def test_closest_looks_beyond_the_nearest_where_these_are_all_of_one_kind():
    lattice = {"n_layers": [2, 9], "dim": 512, "n_kv_heads": 8, "head_dim": 64, "multiple": 1}
    one, other = solve("30M", rank="closest", top=2, **lattice)
    assert one.model.n_layers != other.model.n_layers
    assert ffn_class(one.model) != ffn_class(other.model)


def test_a_budget_within_no_reach_names_the_nearest_and_a_tolerance_that_suffices():
    lattice = {"n_layers": 24, "dim": 1024, "head_dim": 64, "kv_groups": 1, "tied": True, "multiple": 512}
    with pytest.raises(NoSolution) as caught:
        solve("350M", tolerance="0.1%", **lattice)
    message = str(caught.value)
    assert re.fullmatch(
        r"no model within 0\.1% of 350,000,000 total parameters; nearest is [\d,]+ \([+-]\d\.\d{3} %: "
        r"24 layers, dim 1024, 16/16 heads of 64, FFN \d+\); allow tolerance [\d.]+%, more layers or "
        r"widths, or multiple 256",
        message,
    )
    allowed = re.search(r"allow tolerance ([\d.]+%)", message)
    assert allowed
    assert (
        solve("350M", tolerance=allowed[1], **lattice)[0].counted
        == pb.solve("350M", rank="closest", **lattice)[0].counted
    )


@pytest.mark.parametrize(
    ("target", "fields", "relax"),
    [
        ("10M", {"n_layers": "2:4"}, r"smallest .*: lower n_layers, dim or ffn_ratio, or vocab_size "
                                     r"\(its embedding alone is [\d,]+\)$"),
        ("1M", {"n_layers": 90, "vocab_size": 8}, r"smallest .*: lower n_layers, dim or ffn_ratio$"),
        ("3B", {"n_layers": "2:4"}, r"largest .*: raise the upper end of n_layers, dim or ffn_ratio$"),
    ],
)  # fmt: skip
def test_a_budget_beyond_the_lattice_says_which_end_to_move(target: str, fields: dict[str, Any], relax: str):
    with pytest.raises(NoSolution, match=relax) as caught:
        solve(target, dim="512:1024:64", **fields)
    assert "\n" not in str(caught.value)


def test_the_embedding_is_not_blamed_where_the_budget_counts_the_body():
    with pytest.raises(NoSolution, match=r"lower n_layers, dim or ffn_ratio$"):
        solve("1M", counted="body", n_layers="2:4", dim="512:1024:64")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"target": "350X"}, "target '350X' is not a count"),
        ({"target": 0}, "target '0' is out of range"),
        ({"tolerance": 5}, "tolerance '5' is ambiguous"),
        ({"counted": "all"}, "counted is 'all'; use total or body or active"),
        ({"rank": "best"}, "rank is 'best'; use shape or closest or loss or speed or memory or size"),
        ({"top": 0}, "top is 0; use a whole number from 1 to 1000"),
        ({"top": True}, "top is True; use a whole number from 1 to 1000"),
        ({"top": 1001}, "top is 1001; use a whole number from 1 to 1000"),
        ({"dims": 896}, "unknown field 'dims'; did you mean 'dim'?"),
        ({"target": "1000T"}, "the largest model in the search space has 9.0e15 parameters or more"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(asked: dict[str, Any], says: str):
    with pytest.raises(InputError) as caught:
        solve(**({"target": "350M"} | asked))
    assert str(caught.value).startswith(says)


def test_like_takes_the_choices_of_a_model_and_searches_all_sizes():
    found = pb.solve("1B", like="qwen3-0.6b")
    assert {s.model.qk_norm for s in found} == {"head"}
    assert {s.model.vocab_size for s in found} == {151936}
    assert {s.model.tied for s in found} == {True}
    assert not found.tying_was_assumed


def test_a_field_beside_like_wins():
    found = pb.solve("1B", like="qwen3-0.6b", vocab_size=32000)
    assert {s.model.vocab_size for s in found} == {32000}
    assert {s.model.qk_norm for s in found} == {"head"}


def test_a_field_of_none_beside_like_counts_as_not_given():
    assert {s.model.tied for s in pb.solve("1B", like="qwen3-0.6b", tied=None)} == {True}


def test_a_current_model_is_for_resize():
    with pytest.raises(ConfigError, match=r"^solve takes no current model; use resize\(current, target\)$"):
        pb.solve("1B", current="gpt2")


def test_an_unknown_keyword_is_refused_without_a_list_of_all_fields():
    with pytest.raises(ConfigError) as caught:
        pb.solve("1B", zzz=1)
    assert str(caught.value) == (
        "unknown field 'zzz'; use an axis or a field of a model, see `help(pb.ModelConfig)`"
    )


def test_the_keywords_of_a_search_are_the_fields_of_a_model_and_three_of_axes():
    assert {*SearchFields.__annotations__} == {*FIELDS, *BLOCKS, *AXIS_SETTINGS}


def test_solutions_are_a_sequence():
    found = solve("350M", top=3)
    assert len(found) == 3
    assert list(found) == [found[0], found[1], found[2]]
    assert list(found[:2]) == [found[0], found[1]]
    assert found[:2].certificate == found.certificate
    assert repr(found[3:]) == ""
    assert found[-1] in found


def test_the_score_of_a_solution_is_the_sum_of_its_terms():
    best = solve("350M")[0]
    assert tuple(best.score) == TERMS
    assert best.total_score == pytest.approx(sum(best.score.values()))


def test_a_solution_shows_itself_in_one_line():
    assert repr(solve("350M", n_layers=24, dim=1024, kv_groups=4, intermediate_size=3200)[0]) == (
        "balanced: 24 layers, dim 1024, 16/4 heads of 64, FFN 3200: 350,357,504 parameters (+357,504)"
    )


def test_a_solution_stands_wherever_a_model_does(tmp_path):
    best = solve("350M", top=1)[0]
    assert pb.count(best).total == best.total == best.counted
    assert pb.model(best, tied=False).tied is False
    best.save(tmp_path / "model.json")
    assert pb.model(tmp_path / "model.json") == best.model
    provenance = json.loads((tmp_path / "model.json").read_text())["provenance"]
    assert (provenance["label"], provenance["count"], provenance["error"]) == (
        best.label, best.counted, best.error,
    )  # fmt: skip


def test_the_rows_of_solutions_have_the_counted_quantity_as_a_column():
    row = solve("350M", counted="body", top=1).rows()[0]
    assert list(row) == [
        "label", "n_layers", "dim", "n_heads", "n_kv_heads", "head_dim", "intermediate_size", "body", "error",
        "score",
    ]  # fmt: skip


def test_solutions_render_in_a_notebook_and_as_a_frame():
    found = solve("350M", top=2)
    assert found._repr_html_().count("<tr>") == 3
    frame = found.to_pandas()
    assert frame["total"].tolist() == [solution.counted for solution in found]


def test_the_json_of_solutions_holds_certificate_models_and_scores():
    found = solve("350M", top=2)
    written = found.as_dict()
    assert set(written) == {"certificate", "solutions"}
    assert written["certificate"]["lattice"] == found.certificate.lattice
    first = written["solutions"][0]
    assert ModelConfig(**first["model"]) == found[0].model
    assert first["total"] == first["counted"] == found[0].counted
    assert set(first["score_terms"]) == set(TERMS)
    assert first["score"] == pytest.approx(sum(first["score_terms"].values()), abs=1e-5)
