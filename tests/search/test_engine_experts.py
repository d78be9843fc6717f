"""The search of lattices with experts is complete, against one budget and against two: held against plain
enumeration."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.lattices import COUNTS, NAMES, OfExperts, of_experts

from parambudget.arch.config import ModelConfig
from parambudget.cost.params import active, total
from parambudget.errors import ConfigError, NoSolution
from parambudget.search import engine as search_module
from parambudget.search.certificate import two_least_errors
from parambudget.search.engine import Search
from parambudget.search.lattice import Candidates, count_errors

Point = tuple[int, ...]


def every_lattice(examples: int) -> Any:
    """Random lattices that hold a point or more."""
    limits = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    return lambda test: limits(given(of_experts(), st.data())(test))


def enumerated(lattice: OfExperts) -> dict[Point, ModelConfig]:
    models = lattice.models()
    assume(0 < len(models) <= 250)
    return models


def as_set(points: Candidates) -> set[Point]:
    rows = [tuple(points.sizes(i)[name] for name in NAMES) for i in range(len(points))]
    assert len(set(rows)) == len(rows), "a point was found twice"
    return set(rows)


def near(data: st.DataObject, counts: list[int]) -> int:
    """A point's count, near one, or anywhere up to twice the largest."""
    count = st.sampled_from(sorted(set(counts)))
    off = count.flatmap(lambda c: st.integers(max(c - 30, 1), c + 30))
    return data.draw(count | off | st.integers(1, 2 * max(counts)))


def two_budgets(data: st.DataObject, models: dict[Point, ModelConfig]) -> tuple[int, int]:
    target = near(data, [total(m) for m in models.values()])
    return target, min(target, near(data, [active(m) for m in models.values()]))


def told(errors: list[Any]) -> tuple[Any, int, Any]:
    """The least error, how many have it, and the next distinct one."""
    distinct = sorted(set(errors))
    return distinct[0], errors.count(distinct[0]), distinct[1] if len(distinct) > 1 else None


@every_lattice(50)
def test_the_certificate_of_one_budget_is_that_of_counting_every_point(
    lattice: OfExperts, data: st.DataObject
):
    models, counted = enumerated(lattice), data.draw(st.sampled_from(("total", "body", "active")))
    counts = [COUNTS[counted](m) for m in models.values()]
    target, tolerance = near(data, counts), data.draw(st.sampled_from((Fraction(0), Fraction(1, 20))))
    certificate = lattice.search(target, counted).certificate(tolerance)
    errors = [abs(count - target) for count in counts]
    assert certificate.lattice_points == len(models)
    assert certificate.within_tolerance == sum(error <= tolerance * target for error in errors)
    assert (certificate.best_error, certificate.ties, certificate.next_best_error) == told(errors)


@every_lattice(60)
def test_the_certificate_of_two_budgets_is_that_of_counting_every_point(
    lattice: OfExperts, data: st.DataObject
):
    models = enumerated(lattice)
    target, second = two_budgets(data, models)
    tolerance = data.draw(st.sampled_from((Fraction(0), Fraction(1, 1000), Fraction(1, 10), Fraction(1, 2))))
    certificate = lattice.search(target, second=second).certificate(tolerance)
    errors = [
        max(Fraction(abs(total(m) - target), target), Fraction(abs(active(m) - second), second))
        for m in models.values()
    ]
    assert certificate.lattice_points == len(models)
    assert certificate.within_tolerance == sum(error <= tolerance for error in errors)
    assert (certificate.best_error, certificate.ties, certificate.next_best_error) == told(errors)


@every_lattice(40)
def test_the_points_within_both_budgets_are_all_that_are_and_no_others(
    lattice: OfExperts, data: st.DataObject
):
    models = enumerated(lattice)
    target, second = two_budgets(data, models)
    share = data.draw(st.fractions(0, Fraction(99, 100), max_denominator=200))
    points = lattice.search(target, second=second).candidates_within(share)
    assert as_set(points) == {
        sizes
        for sizes, m in models.items()
        if abs(total(m) - target) <= share * target and abs(active(m) - second) <= share * second
    }
    for i in range(len(points)):
        model = models[tuple(points.sizes(i)[name] for name in NAMES)]
        assert (points.counted[i], points.active[i]) == (total(model), active(model))


@every_lattice(25)
def test_the_nearest_to_two_budgets_come_in_order_with_all_that_tie(lattice: OfExperts, data: st.DataObject):
    models, n = enumerated(lattice), data.draw(st.integers(1, 20))
    target, second = two_budgets(data, models)
    errors = {
        sizes: max(Fraction(abs(total(m) - target), target), Fraction(abs(active(m) - second), second))
        for sizes, m in models.items()
    }
    last = sorted(errors.values())[min(n, len(errors)) - 1]
    points = lattice.search(target, second=second).nearest_candidates(n)
    assert as_set(points) == {sizes for sizes, error in errors.items() if error <= last}
    found = count_errors(points.counts(), [target, second])
    assert (found[1:] >= found[:-1]).all()


@every_lattice(15)
def test_every_point_becomes_a_model_of_its_choices(lattice: OfExperts, data: st.DataObject):
    models = enumerated(lattice)
    search = lattice.search(near(data, [total(m) for m in models.values()]))
    points = search.nearest_candidates(3)
    for i in range(len(points)):
        sizes = points.sizes(i)
        assert search.space.choices.replace(**sizes) == models[tuple(sizes[name] for name in NAMES)]


@every_lattice(25)
def test_the_lattice_read_back_from_its_flags_is_the_same(lattice: OfExperts, data: st.DataObject):
    models = enumerated(lattice)
    target, second = two_budgets(data, models)
    space = lattice.search(target, second=second).space
    again = lattice.search(target, second=second).space.declare(
        target, lattice.choices | dict(space.flags()) | _latents(space.choices), active=second
    )
    assert again == space


def _latents(choices: ModelConfig) -> dict[str, int]:
    """Widths of latents are printed as text and, being no axes, read as numbers."""
    return {} if choices.mla is None else {name: value for name, value in choices.mla if value is not None}


@every_lattice(15)
def test_a_search_in_pieces_finds_the_same(lattice: OfExperts, data: st.DataObject):
    models = enumerated(lattice)
    target, second = two_budgets(data, models)
    whole = lattice.search(target, second=second)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_module, "_ROWS_AT_ONCE", data.draw(st.integers(1, 12)))
        pieces: Search = lattice.search(target, second=second)
        assert pieces.certificate(Fraction(1, 5)) == whole.certificate(Fraction(1, 5))


def test_shares_that_differ_beyond_what_floats_tell_are_told_apart():
    target, second = 10**12 + 39, 10**12 + 61  # without a common divisor
    off = pow(second, -1, target)
    nearer = (off * second - 1) // target
    assert Fraction(off, target) - Fraction(nearer, second) == Fraction(1, target * second)
    counts = [np.array([target - off, target]), np.array([second, second + nearer])]
    errors = count_errors(counts, [target, second])
    assert errors[0] == errors[1]
    expected = (Fraction(nearer, second), 1, Fraction(off, target))
    assert two_least_errors(errors, counts, [target, second]) == expected


def test_no_combination_that_routes_is_said():
    fields = {"n_experts": 8, "n_experts_per_token": 6, "n_expert_groups": 4, "n_groups_per_token": 2}
    with pytest.raises(ConfigError, match="n_experts_per_token=6 experts: they have 4 of n_experts=8"):
        OfExperts({}, fields, None, "", 64).search(10**9)


def test_a_lattice_without_a_point_is_said():
    fields = {"n_experts": 8, "n_experts_per_token": 2, "dim": 96, "head_dim": 64, "n_layers": 2}
    with pytest.raises(NoSolution, match="the search space is empty: no combination of n_layers 2, dim 96, "):
        OfExperts({}, fields, None, "", 64).search(10**7)
