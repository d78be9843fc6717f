"""The complete search: every point of the lattice is accounted for, none is enumerated.

For fixed other sizes the count is affine in the width (see `AffineCount`) and grows with the width and the
depth. So the points of a column that count from `low` to `high` are consecutive depths and, under each of
them, consecutive widths: two divisions. The points that also meet a second target, for the active count, are
the widths that both leave: each target is an interval of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Final, TypeVar

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import (
    Dims,
    LayerTensors,
    Size,
    active_expert_width,
    count_layers,
    has_ffn_layers,
    layer_tensors,
    repetition,
)
from parambudget.arch.sizes import with_sizes
from parambudget.cost.params import active as count_active
from parambudget.cost.params import body, total
from parambudget.errors import InputError, NoSolution
from parambudget.search.certificate import Certificate, two_least_errors
from parambudget.search.lattice import Candidates, Floats, Index, Ints, Lattice, build_lattice, count_errors
from parambudget.search.options import CountKind
from parambudget.search.space import SearchSpace

LARGEST_COUNT: Final = 2**53
"""No point counts as much: floats hold every integer up to here."""
MOST_COMPARED: Final = 10_000_000
COUNTERS: Final[dict[CountKind, Callable[[Dims], Size]]] = {
    "total": total, "body": body, "active": count_active,
}  # fmt: skip

_ROWS_AT_ONCE: Final = 2**20
_FEW: Final = 2**16
"""Points that are looked at in no time."""
_WHOLE: Final = 2**60
"""A distance from two targets is a whole number of parts of each, of which it has so many."""
_LAYERS: Final = np.array([[0.0], [1.0], [1.0]])
_WIDTHS: Final = np.array([[0.0], [0.0], [1.0]])

Numbers = TypeVar("Numbers", Ints, Floats)
_Bounds = list[tuple[int, int]]
"""The least and the greatest count, for each target."""


class Search:
    """One lattice searched for one target, or for two: a count and its active part."""

    def __init__(
        self, space: SearchSpace, target: int, counted: CountKind = "total", active: int | None = None
    ) -> None:
        self.space, self.target, self.counted, self.active = space, target, counted, active
        self.lattice = build_lattice(space)
        if not self.lattice.n_points:
            raise NoSolution(_empty_lattice_message(space))
        counters = [COUNTERS[counted], *([count_active] if active is not None else [])]
        self.targets = [target, *([active] if active is not None else [])]
        self._counts = [AffineCount.measure(space, self.lattice, counter) for counter in counters]

    def certificate(self, tolerance: Fraction) -> Certificate:
        """What the search of the whole lattice shows."""
        errors, counts = self._errors(self._tolerance_bounds(tolerance))
        within = len(errors)
        # All up to some distance, so two distinct ones tell; with fewer, farther points are needed.
        while (errors == errors[:1]).all() and len(errors) < self.lattice.n_points:
            errors, counts = self._errors(self._bounds_of_nearest(len(errors) + 1))
        best, ties, following = two_least_errors(errors, counts, self.targets)
        return Certificate(
            counted=self.counted, lattice=self.space.flags(), lattice_points=self.lattice.n_points,
            target=self.target, tolerance=tolerance, within_tolerance=within, best_error=best, ties=ties,
            next_best_error=following, active=self.active,
        )  # fmt: skip

    def candidates_within(self, tolerance: Fraction) -> Candidates:
        """Every point with |count - target| <= tolerance * target, for each target."""
        return self._candidates(self._tolerance_bounds(tolerance))

    def nearest_candidates(self, n: int) -> Candidates:
        """The n nearest points and all that tie with the last of them, nearest first; fewer where there are
        fewer."""
        points = self._candidates(self._bounds_of_nearest(n))
        errors = count_errors(points.counts(), self.targets)
        if len(points) > n:
            near = errors <= np.partition(errors, n - 1)[n - 1]
            points, errors = points.select(near), errors[near]
        return points.select(np.argsort(errors, kind="stable"))

    def all_points(self, at_once: int) -> Iterator[Candidates]:
        """Every point of the lattice, about `at_once` at a time."""
        per_column = len(self.lattice.n_layers) * max(1, int(self.lattice.run.max()))
        whole = [(0, int(count.extent()[1])) for count in self._counts]
        for rows in self._rows(whole, columns=max(1, at_once // per_column)):
            yield rows.points()

    def extent(self) -> tuple[int, int]:
        """The least and the greatest count on the lattice."""
        least, greatest = self._counts[0].extent()
        return int(least), int(greatest)

    def _tolerance_bounds(self, tolerance: Fraction) -> _Bounds:
        slack = [target * tolerance.numerator // tolerance.denominator for target in self.targets]
        return [(t - s, t + s) for t, s in zip(self.targets, slack, strict=True)]

    def _bounds_of_nearest(self, n: int) -> _Bounds:
        """Counts equally far below and above each target, with n points or more between, or all there are."""
        outside, nearest_end = 0, 0
        for target, unit, count in zip(self.targets, self._units, self._counts, strict=True):
            smallest, largest = map(int, count.extent())
            nearest_end = min(max(target, smallest), largest)
            outside = max(outside, -(-abs(target - nearest_end) * _WHOLE // unit))
        further = (nearest_end if self.active is None else _WHOLE) >> 20
        wanted, least = min(n, self.lattice.n_points), outside - 1
        while not self._holds(self._bounds_at(outside + further), wanted):
            least, further = outside + further, 8 * further + 1
        return self._bounds_at(self._smallest_distance(least, outside + further, wanted))

    def _smallest_distance(self, least: int, most: int, wanted: int) -> int:
        """A distance up to `most` that holds the points wanted and hardly many more; `least` holds fewer."""
        while most - least > 1 and self._holds(self._bounds_at(most), 64 * wanted + _FEW):
            middle = (least + most) // 2
            enough = self._holds(self._bounds_at(middle), wanted)
            least, most = (least, middle) if enough else (middle, most)
        return most

    def _holds(self, bounds: _Bounds, wanted: int) -> bool:
        """Whether so many points or more are within the bounds."""
        n_points = 0
        for columns in self._column_slices():
            n_points += self._rows_of(columns, bounds).n_points
            if n_points >= wanted:
                return True
        return False

    @property
    def _units(self) -> list[int]:
        """What distances are parts of: the targets themselves where there are two, else single parameters."""
        return self.targets if self.active is not None else [_WHOLE]

    def _bounds_at(self, distance: int) -> _Bounds:
        """All counts up to that distance from the targets."""
        off = [distance * unit // _WHOLE for unit in self._units]
        return [(t - d, t + d) for t, d in zip(self.targets, off, strict=True)]

    def _errors(self, bounds: _Bounds) -> tuple[Ints | Floats, list[Ints]]:
        """The errors of all points within the bounds, and their counts for each target."""
        parts = [rows.counts() for rows in self._rows(bounds)]
        counts = [np.concatenate(of_target) for of_target in zip(*parts, strict=True)]
        return count_errors(counts, self.targets), counts

    def _candidates(self, bounds: _Bounds) -> Candidates:
        return Candidates.concatenate([rows.points() for rows in self._rows(bounds)])

    def _rows(self, bounds: _Bounds, columns: int | None = None) -> "Iterator[_Rows]":
        """All points within the bounds, a bounded number of rows or of columns at a time."""
        n_points = 0
        for column_slice in self._column_slices(columns):
            rows = self._rows_of(column_slice, bounds)
            n_points += rows.n_points
            if n_points > MOST_COMPARED:
                low, high = max(bounds[0][0], 0), min(bounds[0][1], LARGEST_COUNT)
                raise InputError(
                    f"more than {MOST_COMPARED:,} shapes in the search space have {low:,} to {high:,} "
                    "parameters; give a smaller tolerance, larger steps or fewer values"
                )
            yield rows

    def _column_slices(self, columns: int | None = None) -> Iterator[slice]:
        """The columns of the lattice, so many at a time."""
        at_once = columns or max(1, _ROWS_AT_ONCE // len(self.lattice.n_layers))
        for start in range(0, len(self.lattice.first), at_once):
            yield slice(start, start + at_once)

    def _rows_of(self, columns: slice, bounds: _Bounds) -> "_Rows":
        """The points of some columns that are within the bounds."""
        possible = [(max(low, 0), min(high, LARGEST_COUNT)) for low, high in bounds]
        ends = [count.depths(columns, *of) for count, of in zip(self._counts, possible, strict=True)]
        shallowest, deepest = ends[0]
        for start, stop in ends[1:]:
            shallowest, deepest = np.maximum(shallowest, start), np.minimum(deepest, stop)
        column, depth = _unroll(shallowest, np.maximum(deepest - shallowest, 0))
        column += columns.start
        # So are the widths in a row. Rounded, these quotients are exact: one of integers below 2**53 is never
        # nearer to a whole number than a float can tell.
        first, last = np.zeros(len(column)), self.lattice.run[column] - 1.0
        lines = []
        for count, (low, high) in zip(self._counts, possible, strict=True):
            base, slope = count.row(column, depth)
            first = np.maximum(np.ceil((low - base) / slope), first)
            last = np.minimum(np.floor((high - base) / slope), last)
            lines.append((base, slope))
        n_widths = np.maximum(last - first + 1, 0).astype(np.int64)
        return _Rows(self.lattice, column, depth, lines, first, n_widths)


@dataclass(frozen=True, eq=False)
class AffineLayers:
    """Layers that count alike: how many there are at each depth, and what one of them counts in each
    column."""

    n_layers: Floats
    narrowest: Floats
    step: Floats


@dataclass(frozen=True, eq=False)
class AffineCount:
    """What every point of a lattice counts. Floats, all of them whole."""

    outside: Floats
    groups: tuple[AffineLayers, ...]
    widest: tuple[Floats, ...]
    """One layer of each group at the greatest width."""

    @classmethod
    def measure(cls, space: SearchSpace, lattice: Lattice, counter: Callable[[Dims], Size]) -> "AffineCount":
        """Three evaluations for each group, not algebra, so that the search stays right when a new tensor
        joins the table."""
        depths, columns = lattice.n_layers.astype(np.float64), len(lattice.first)
        has_widths = has_ffn_layers(space.choices)
        groups, outside = [], np.empty(columns)
        for n_layers, layers in _layer_groups(space.choices, depths):
            narrowest, step = np.empty(columns), np.empty(columns)
            for choices, here in _columns_by_shared_experts(space.choices, lattice):
                m = _evaluation_dims(choices, lattice, here, layers)
                empty, one_layer, one_wide = np.broadcast_to(counter(m), (3, len(lattice.first[here])))
                # Without an FFN a column has one width; another would add nothing, and a quotient needs more.
                per_width = one_wide - one_layer if has_widths else 1.0
                outside[here], step[here] = empty, per_width * lattice.step
                narrowest[here] = one_layer - empty + (one_wide - one_layer) * lattice.first[here]
            groups.append(AffineLayers(n_layers, narrowest, step))
        widest = tuple(group.narrowest + (lattice.run - 1) * group.step for group in groups)
        count = cls(outside, tuple(groups), widest)
        if count.extent()[1] >= LARGEST_COUNT:
            raise InputError(
                "the largest model in the search space has 9.0e15 parameters or more; lower the upper ends"
            )
        return count

    def extent(self) -> tuple[float, float]:
        """The least and the greatest count on the lattice."""
        least, greatest = self.outside, self.outside
        for group, widest in zip(self.groups, self.widest, strict=True):
            least = least + group.n_layers[0] * group.narrowest
            greatest = greatest + group.n_layers[-1] * widest
        return float(least.min()), float(greatest.max())

    def depths(self, columns: slice, low: int, high: int) -> tuple[Ints, Ints]:
        """For some columns the first and the end of the depths at which they can count low..high.

        Deeper counts more, so these are consecutive. With several groups of layers they are all depths: only
        the widths then tell.
        """
        depths = self.groups[0].n_layers
        if len(self.groups) > 1:
            first = np.zeros(len(self.outside[columns]), dtype=np.int64)
            return first, first + len(depths)
        outside, narrowest = self.outside[columns], self.groups[0].narrowest[columns]
        shallowest = np.searchsorted(depths, (low - outside) / self.widest[0][columns], "left")
        return shallowest, np.searchsorted(depths, (high - outside) / narrowest, "right")

    def row(self, column: Ints, depth: Ints) -> tuple[Floats, Floats]:
        """What columns at depths count at the narrowest, and what each further width adds."""
        first, *others = self.groups
        n_layers = first.n_layers[depth]
        base, slope = self.outside[column] + n_layers * first.narrowest[column], n_layers * first.step[column]
        for group in others:
            n_layers = group.n_layers[depth]
            base, slope = base + n_layers * group.narrowest[column], slope + n_layers * group.step[column]
        return base, slope


def _layer_groups(choices: ModelConfig, depths: Floats) -> list[tuple[Floats, dict[str, Size]]]:
    """Every group of layers: how many at each depth, and the layers of its three evaluations."""
    kinds = [layer_tensors(choices, layer) for layer in repetition(choices)]
    if len(set(kinds)) == 1:
        return [(depths, {"n_layers": _LAYERS})]

    def how_many(kind: LayerTensors) -> Floats:
        return np.asarray(count_layers(choices, depths, lambda layer: layer_tensors(choices, layer) == kind))

    return [
        (
            how_many(kind),
            {"n_layers": _LAYERS, **{name: has * _LAYERS for name, has in kind._asdict().items()}},
        )
        for kind in dict.fromkeys(kinds)
    ]


def _columns_by_shared_experts(choices: ModelConfig, lattice: Lattice) -> list[tuple[ModelConfig, Index]]:
    """The columns with each number of shared experts, which to the table is a choice and not an array."""
    shared = lattice.columns.get("n_shared_experts")
    if shared is None:
        return [(choices, slice(None))]
    return [(choices.replace(n_shared_experts=n), shared == n) for n in np.unique(shared).tolist()]


def _evaluation_dims(choices: ModelConfig, lattice: Lattice, here: Index, layers: dict[str, Size]) -> Dims:
    """The columns as models of the three evaluations."""
    sizes: dict[str, Size] = {
        name: values[here].astype(np.float64) for name, values in lattice.columns.items()
    }
    if choices.moe is None:
        return with_sizes(choices, intermediate_size=_WIDTHS, **sizes, **layers)
    sizes |= {"expert_intermediate_size": _WIDTHS, "n_shared_experts": choices.moe.n_shared_experts}
    m = with_sizes(choices, **sizes, **layers)
    if "intermediate_size" in sizes:
        return m
    return with_sizes(choices, **sizes, **layers, intermediate_size=m.active_ffn_width)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Points of the lattice, a row each for a column under one depth: its points first, first + 1, ...,
    `n_widths` of them, where point i has the width lattice.first + i * lattice.step and counts base + i *
    slope for each target. Floats, all of them whole."""

    lattice: Lattice
    column: Ints
    depth: Ints
    lines: list[tuple[Floats, Floats]]
    first: Floats
    n_widths: Ints

    @property
    def n_points(self) -> int:
        return int(self.n_widths.sum())

    def counts(self) -> list[Ints]:
        """The count of each point, for each target."""
        row, i = _unroll(self.first, self.n_widths)
        return [(base[row] + i * slope[row]).astype(np.int64) for base, slope in self.lines]

    def points(self) -> Candidates:
        """The points themselves."""
        row, i = _unroll(self.first, self.n_widths)
        at = self.column[row]
        sizes = {name: values[at] for name, values in self.lattice.columns.items()}
        width = self.lattice.first[at] + i.astype(np.int64) * self.lattice.step
        if "n_experts" not in sizes:
            sizes["intermediate_size"] = width
        else:
            sizes["expert_intermediate_size"] = width
            active_width = active_expert_width(
                SimpleNamespace(**({"shared_intermediate_size": None} | sizes))
            )
            sizes.setdefault("intermediate_size", active_width)
        counted, *active = self.counts()
        sizes |= {"n_layers": self.lattice.n_layers[self.depth[row]], "counted": counted}
        return Candidates.of(sizes | ({"active": active[0]} if active else {}))


def _unroll(start: Numbers, lengths: Ints) -> tuple[Ints, Numbers]:
    """For every k the numbers start[k], start[k] + 1, ..., lengths[k] of them: their k, and the numbers."""
    k = np.repeat(np.arange(len(lengths)), lengths)
    return k, np.arange(len(k)) + (start + lengths - np.cumsum(lengths))[k]


def _empty_lattice_message(space: SearchSpace) -> str:
    flags = ", ".join(f"{name} {text}" for name, text in space.flags().items())
    return (
        f"the search space is empty: no combination of {flags} makes a model; "
        "let head_dim divide dim and the kv group divide n_heads, widen ffn_ratio or lower multiple"
    )
