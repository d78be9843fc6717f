"""The search is complete: held against plain enumeration, published figures and CP-SAT."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.cp_sat import Budget, least_error, points_within
from support.lattices import Declared, declared

from parambudget.cost.params import count
from parambudget.errors import InputError, NoSolution
from parambudget.search import engine as search_module
from parambudget.search.engine import Search
from parambudget.search.lattice import Candidates
from parambudget.search.space import SearchSpace

WORKED: dict[str, Any] = {
    "vocab_size": 32768, "tied": True, "n_layers": "4:64", "dim": "256:4096:64", "head_dim": "64,128",
    "kv_groups": "1,2,3,4,6,8", "ffn_ratio": "1:6", "multiple": 64,
}  # fmt: skip
SEVENTY: dict[str, Any] = {
    "vocab_size": 128256, "tied": False, "n_layers": "24:160", "dim": "2048:16384:128",
    "head_dim": "64,128", "kv_groups": "1,2,4,8,16", "ffn_ratio": "2:6", "multiple": 256,
}  # fmt: skip
HALF_PERCENT = Fraction(1, 200)


def every_lattice(examples: int) -> Any:
    """Random lattices that hold a point or more."""
    limits = settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    return lambda test: limits(given(declared(), st.data())(test))


def as_set(points: Candidates) -> set[tuple[int, ...]]:
    rows = [list(points.sizes(i).values()) for i in range(len(points))]
    assert len({tuple(row) for row in rows}) == len(rows), "a point was found twice"
    return {tuple(row) for row in rows}


def some_counts(lattice: Declared) -> dict[Any, int]:
    counts = lattice.counts()
    assume(counts)
    return counts


def budget(data: st.DataObject, counts: dict[Any, int]) -> int:
    """A target: a point's count, or near one, or anywhere."""
    near = st.sampled_from(sorted(counts.values())).flatmap(lambda c: st.integers(max(c - 50, 1), c + 50))
    return data.draw(
        st.sampled_from(sorted(counts.values())) | near | st.integers(1, 2 * max(counts.values()))
    )


@every_lattice(150)
def test_the_certificate_is_that_of_counting_every_point(lattice: Declared, data: st.DataObject):
    counts = some_counts(lattice)
    target = budget(data, counts)
    tolerance = data.draw(st.sampled_from([Fraction(0), Fraction(1, 1000), Fraction(1, 20), Fraction(1, 2)]))
    errors = sorted(abs(n - target) for n in counts.values())
    distinct = sorted(set(errors))
    certificate = lattice.search(target).certificate(tolerance)
    assert certificate.lattice_points == len(counts)
    assert certificate.best_error == distinct[0]
    assert certificate.ties == errors.count(distinct[0])
    assert certificate.next_best_error == (distinct[1] if len(distinct) > 1 else None)
    assert certificate.within_tolerance == sum(error <= tolerance * target for error in errors)


@every_lattice(100)
def test_the_points_within_tolerance_are_all_that_are_and_no_others(lattice: Declared, data: st.DataObject):
    counts = some_counts(lattice)
    target = budget(data, counts)
    tolerance = data.draw(st.fractions(0, 1, max_denominator=1000).filter(lambda share: share < 1))
    expected = {sizes for sizes, n in counts.items() if abs(n - target) <= tolerance * target}
    points = lattice.search(target).candidates_within(tolerance)
    assert as_set(points) == expected
    assert [counts[tuple(points.sizes(i).values())] for i in range(len(points))] == points.counted.tolist()


@every_lattice(60)
def test_a_point_exactly_at_the_tolerance_is_within_it(lattice: Declared, data: st.DataObject):
    counts = some_counts(lattice)
    target = budget(data, counts)
    sizes = data.draw(st.sampled_from(sorted(counts)))
    edge = Fraction(abs(counts[sizes] - target), target)
    assume(0 < edge < 1)
    search = lattice.search(target)
    assert sizes in as_set(search.candidates_within(edge))
    assert sizes not in as_set(search.candidates_within(edge - Fraction(1, 10**12)))


@every_lattice(100)
def test_the_nearest_n_come_in_order_with_all_that_tie_with_the_last(lattice: Declared, data: st.DataObject):
    counts = some_counts(lattice)
    target, n = budget(data, counts), data.draw(st.integers(1, 40))
    errors = {sizes: abs(counted - target) for sizes, counted in counts.items()}
    last = sorted(errors.values())[min(n, len(errors)) - 1]
    points = lattice.search(target).nearest_candidates(n)
    assert as_set(points) == {sizes for sizes, error in errors.items() if error <= last}
    found = np.abs(points.counted - target)
    assert (np.diff(found) >= 0).all()


@every_lattice(60)
def test_a_search_in_pieces_finds_the_same(lattice: Declared, data: st.DataObject):
    counts = some_counts(lattice)
    whole = lattice.search(target := budget(data, counts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_module, "_ROWS_AT_ONCE", data.draw(st.integers(1, 12)))
        pieces = lattice.search(target)
        assert pieces.certificate(HALF_PERCENT) == whole.certificate(HALF_PERCENT)
        assert as_set(pieces.candidates_within(Fraction(1, 3))) == as_set(
            whole.candidates_within(Fraction(1, 3))
        )
        assert as_set(pieces.nearest_candidates(5)) == as_set(whole.nearest_candidates(5))


@every_lattice(100)
def test_the_lattice_of_a_certificate_read_back_gives_the_same_certificate(
    lattice: Declared, data: st.DataObject
):
    counts = some_counts(lattice)
    target = budget(data, counts)
    certificate = lattice.search(target).certificate(HALF_PERCENT)
    again = replace(lattice, fields=dict(certificate.lattice)).search(target)
    assert again.certificate(HALF_PERCENT) == certificate


@every_lattice(40)
def test_every_point_is_a_valid_model_of_that_count(lattice: Declared, data: st.DataObject):
    models = lattice.models()
    assume(models)
    search = lattice.search(10**6)
    points = search.nearest_candidates(data.draw(st.integers(1, 10)))
    for i in range(len(points)):
        model = search.space.choices.replace(**points.sizes(i))
        assert model == models[tuple(points.sizes(i).values())]
        counted = count(model)
        assert points.counted[i] == (counted.total if lattice.counted == "total" else counted.body)


@every_lattice(60)
def test_the_extent_is_the_least_and_the_greatest_count(lattice: Declared, data: st.DataObject):
    counts = some_counts(lattice)
    extent = lattice.search(budget(data, counts)).extent()
    assert extent == (min(counts.values()), max(counts.values()))


def test_the_worked_example_is_as_published():
    c = Search(SearchSpace.declare(350_000_000, WORKED), 350_000_000).certificate(Fraction(1, 1000))
    assert (c.lattice_points, c.best_error, c.ties, c.next_best_error) == (2_311_900, 640, 4, 2_240)
    assert c.within_tolerance == 373


@pytest.mark.parametrize(("tolerance", "within"), [("0.001", 373), ("0.005", 1_695), ("0.01", 3_380)])
def test_the_worked_example_holds_as_many_points_as_published(tolerance: str, within: int):
    search = Search(SearchSpace.declare(350_000_000, WORKED), 350_000_000)
    assert search.certificate(Fraction(tolerance)).within_tolerance == within
    assert len(search.candidates_within(Fraction(tolerance))) == within


def test_the_70b_lattice_is_as_published():
    c = Search(SearchSpace.declare(70 * 10**9, SEVENTY), 70 * 10**9).certificate(HALF_PERCENT)
    assert (c.lattice_points, c.best_error, c.ties, c.next_best_error) == (10_905_885, 7_168, 4, 38_400)


def test_an_uneven_list_of_ffn_widths_is_searched_like_one_width_at_a_time():
    fields = WORKED | {"ffn_ratio": None}
    widths = [1000, 2816, 4224, 4225]
    target = 350_000_000
    listed = Search(SearchSpace.declare(target, fields | {"intermediate_size": widths}), target)
    alone = [
        Search(SearchSpace.declare(target, fields | {"intermediate_size": width}), target) for width in widths
    ]
    assert listed.certificate(HALF_PERCENT).lattice_points == sum(s.lattice.n_points for s in alone)
    assert as_set(listed.candidates_within(HALF_PERCENT)) == set().union(
        *(as_set(s.candidates_within(HALF_PERCENT)) for s in alone)
    )


@pytest.mark.parametrize("target", [60_000_000, 350_000_000, 1_234_567_891])
def test_cp_sat_proves_the_same_least_error_on_the_worked_lattice(target: int):
    lattice = Budget(target, 32768, True, range(4, 65), range(256, 4097, 64), (1, 2, 3, 4, 6, 8), (1, 6), 64)
    search = Search(SearchSpace.declare(target, WORKED), target)
    assert search.certificate(HALF_PERCENT).best_error == least_error(lattice)


@pytest.mark.parametrize("target", [3_000_000, 7_654_321, 20_000_000])
def test_cp_sat_finds_as_many_points_within_tolerance_on_a_small_lattice(target: int):
    lattice = Budget(target, 5000, False, range(2, 9), range(128, 513, 64), (1, 2, 4), (2, 5), 32)
    fields = {
        "vocab_size": 5000, "tied": False, "n_layers": "2:8", "dim": "128:512:64", "head_dim": "64,128",
        "kv_groups": "1,2,4", "ffn_ratio": "2:5", "multiple": 32,
    }  # fmt: skip
    search = Search(SearchSpace.declare(target, fields), target)
    certificate = search.certificate(Fraction(1, 50))
    assert certificate.best_error == least_error(lattice)
    assert certificate.within_tolerance == points_within(lattice, target // 50)


def test_a_lattice_of_too_many_rows_is_refused():
    space = SearchSpace.declare(10**9, {"n_layers": "1:1000", "dim": "64:64000:1", "head_dim": "2:64"})
    with pytest.raises(InputError, match=r"more than 100,000,000 rows; use larger steps or fewer values$"):
        Search(space, 10**9)


@pytest.mark.parametrize("sizes", [{"dim": 2**26, "n_layers": 10_000}, {"dim": 2**28, "n_layers": 1}])
def test_counts_beyond_what_floats_hold_are_refused(sizes: dict[str, int]):
    space = SearchSpace.declare(10**15, sizes | {"head_dim": 64})
    with pytest.raises(InputError, match=r"9\.0e15 parameters or more; lower the upper ends$"):
        Search(space, 10**15)


def test_counts_just_below_the_limit_are_exact():
    sizes = {"n_layers": 1, "head_dim": 2, "n_heads": 1, "kv_groups": 1, "vocab_size": 3, "tied": True}
    target = 9 * 10**15
    fields = sizes | {"dim": 2**21, "intermediate_size": f"{2**30 - 1}:{2**30 + 1}:1"}
    search = Search(SearchSpace.declare(target, fields), target)
    points = search.nearest_candidates(3)
    exact = [2**21 * (3 + 1 + 2 + 8 + 3 * ffn) for ffn in (2**30 + 1, 2**30, 2**30 - 1)]
    assert points.counted.tolist() == exact


def test_a_target_far_beyond_the_lattice_still_has_its_nearest_points():
    fields = {"n_layers": "1:4", "dim": 64, "head_dim": 64, "kv_groups": 1, "tied": True, "vocab_size": 100}
    search = Search(SearchSpace.declare(10**18, fields | {"multiple": 64}), 10**18)
    certificate, (_, largest) = search.certificate(HALF_PERCENT), search.extent()
    assert certificate.best_error == 10**18 - largest
    assert (certificate.ties, certificate.within_tolerance) == (1, 0)
    assert search.nearest_candidates(1).counted.tolist() == [largest]


def test_more_points_within_tolerance_than_can_be_compared_are_refused():
    fields = {"n_layers": "10:20", "dim": 4096, "head_dim": 128, "multiple": 1, "ffn_ratio": "1:500"}
    search = Search(SearchSpace.declare(10**11, fields), 10**11)
    with pytest.raises(
        InputError, match=r"more than 10,000,000 shapes in the search space have [\d,]+ to [\d,]+ param"
    ):
        search.certificate(Fraction(9, 10))
    assert search.certificate(Fraction(1, 1000)).best_error < 10**6


def test_an_empty_lattice_says_which_axes_do_not_meet():
    space = SearchSpace.declare(10**6, {"dim": 96, "head_dim": 64, "n_layers": 2})
    with pytest.raises(
        NoSolution, match="the search space is empty: no combination of n_layers 2, dim 96, "
    ) as e:
        Search(space, 10**6)
    assert "\n" not in str(e.value)


def test_a_lattice_of_one_point_has_no_next_error():
    fields = {"n_layers": 2, "dim": 64, "head_dim": 64, "kv_groups": 1, "intermediate_size": 128}
    certificate = Search(SearchSpace.declare(10**6, fields), 10**6).certificate(HALF_PERCENT)
    assert (certificate.lattice_points, certificate.ties, certificate.next_best_error) == (1, 1, None)


def test_a_certificate_is_plain_json_values():
    certificate = Search(SearchSpace.declare(350_000_000, WORKED), 350_000_000).certificate(HALF_PERCENT)
    written = certificate.as_dict()
    assert written["tolerance"] == 0.005
    assert written["lattice"]["dim"] == "256:4096:64"
    assert set(written) == {
        "target", "counted", "tolerance", "lattice", "lattice_points", "within_tolerance", "best_error",
        "ties", "next_best_error",
    }  # fmt: skip
