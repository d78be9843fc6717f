"""A sweep measures every point of a lattice: held against plain enumeration."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.lattices import Declared, declared

from parambudget.arch.dims import Dims
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import total
from parambudget.errors import NoSolution
from parambudget.planning.compute_budget import AT_ONCE, Measurement, sweep
from parambudget.search.engine import Search
from parambudget.search.space import SearchSpace

some = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def measure(m: Dims) -> Measurement:
    """Most FLOPs for the parameters, among models of an even count."""
    counts = np.asarray(total(m))
    value = counts / flops_per_token(m)
    return Measurement(value, counts % 2 == 0)


def band(best: float) -> float:
    return best * 1.01


@some
@given(declared(), st.integers(1, 5_000))
def test_everything_is_every_point_once_whatever_the_pieces(lattice: Declared, at_once: int):
    counts = lattice.counts()
    assume(counts)
    rows = []
    for points in lattice.search(1_000).all_points(at_once):
        rows += [(*points.sizes(i).values(), int(points.counted[i])) for i in range(len(points))]
    assert len(rows) == len(counts)
    assert {row[:-1]: row[-1] for row in rows} == counts


@some
@given(declared())
def test_the_best_of_a_sweep_is_the_best_of_all_possible_points(lattice: Declared):
    models = list(lattice.models().values())
    assume(models)
    values = {m: total(m) / flops_per_token(m) for m in models if total(m) % 2 == 0}
    search = lattice.search(1_000)
    if not values:
        with pytest.raises(NoSolution, match="none of the"):
            sweep(search.all_points(1_000), search.space.choices, measure, band)
        return
    swept = sweep(search.all_points(1_000), search.space.choices, measure, band)
    best = min(values.values())
    assert swept.best == pytest.approx(best, rel=1e-12)
    assert (swept.n_points, swept.n_possible) == (len(models), len(values))
    found = [search.space.choices.replace(**swept.points.sizes(i)) for i in range(len(swept.points))]
    assert set(found) == {m for m, value in values.items() if value <= band(swept.best)}
    assert swept.values.tolist() == pytest.approx([values[m] for m in found])
    assert min(swept.by_size.values()) == swept.best


def test_by_size_is_the_best_of_each_half_octave():
    search = Search(_space(), 10**6)
    pieces = search.all_points(AT_ONCE)
    by_total = lambda m: Measurement(1.0 / np.asarray(total(m)), total(m) > 0)  # noqa: E731
    swept = sweep(pieces, search.space.choices, by_total, band)
    sizes = list(swept.by_size)
    assert sizes == sorted(sizes)
    assert all(1.39 < after / before < 1.43 for before, after in pairwise(sizes))
    # The larger the better here, so the value of a size is that of its largest model.
    for size, value in swept.by_size.items():
        assert 2**-0.26 < (1 / value) / size < 2**0.26


def _space() -> SearchSpace:
    fields = {"n_layers": "1:40", "dim": "64:512:32", "vocab_size": 128, "ffn_ratio": "2:4"}
    return SearchSpace.declare(10**6, fields)
