"""The complete search: every point of the lattice is accounted for, none is enumerated.

For fixed other sizes the count is affine in the width (see `search.engine`) and grows with the width and the
depth. So the points of a column that count from `low` to `high` are consecutive depths and, under each of
them, consecutive widths: two divisions. The points that also meet a second budget, of what a token meets,
are those widths that both leave: each budget is an interval of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Size, active_expert_width, has_dense_layers, n_moe_layers
from parambudget.arch.sizes import with_sizes
from parambudget.cost.params import active as count_active
from parambudget.cost.params import body, total
from parambudget.errors import InputError, NoSolution
from parambudget.search.certificate import Certificate, least_two
from parambudget.search.lattice import Floats, Ints, Lattice, Points, expand, misses
from parambudget.search.space import Counted, SearchSpace

MOST: Final = 2**53
"""No point counts as much: floats hold every integer up to here."""
_LAYERS: Final = np.array([[0.0], [1.0], [1.0]])
_WIDTHS: Final = np.array([[0.0], [0.0], [1.0]])

Counter = Callable[[Any], Size]


@dataclass(frozen=True, eq=False)
class Kind:
    """Layers of one kind: how many there are at each depth, and what one of them counts in each column."""

    n_layers: Floats
    narrowest: Floats
    step: Floats


@dataclass(frozen=True, eq=False)
class Affine:
    """What every point of a lattice counts. Floats, all of them whole."""

    outside: Floats
    kinds: tuple[Kind, ...]
    widest: tuple[Floats, ...]
    """One layer of each kind at the greatest width."""

    @classmethod
    def of(cls, space: SearchSpace, lattice: Lattice, counter: Counter) -> "Affine":
        """Three evaluations for each kind, not algebra, so that the search stays right when a new tensor
        joins the table."""
        depths, columns = lattice.n_layers.astype(np.float64), len(lattice.first)
        kinds, outside = [], np.empty(columns)
        for n_layers, layers in _kinds(space.choices, depths):
            narrowest, step = np.empty(columns), np.empty(columns)
            for choices, here in _by_shared_experts(space.choices, lattice):
                m = _dims(choices, lattice, here, layers)
                empty, one_layer, one_wide = np.broadcast_to(counter(m), (3, len(lattice.first[here])))
                outside[here], step[here] = empty, (one_wide - one_layer) * lattice.step
                narrowest[here] = one_layer - empty + (one_wide - one_layer) * lattice.first[here]
            kinds.append(Kind(n_layers, narrowest, step))
        widest = tuple(kind.narrowest + (lattice.run - 1) * kind.step for kind in kinds)
        found = cls(outside, tuple(kinds), widest)
        if found.extent()[1] >= MOST:
            raise InputError(
                "the largest model of the lattice has 9.0e15 or more parameters; lower the upper ends"
            )
        return found

    def extent(self) -> tuple[float, float]:
        """The least and the greatest count on the lattice."""
        least, greatest = self.outside, self.outside
        for kind, widest in zip(self.kinds, self.widest, strict=True):
            least, greatest = least + kind.n_layers[0] * kind.narrowest, greatest + kind.n_layers[-1] * widest
        return float(least.min()), float(greatest.max())

    def depths(self, columns: slice, low: int, high: int) -> tuple[Any, Any]:
        """For some columns the first and the end of the depths at which they can count low..high.

        Deeper counts more, so these are consecutive. With layers of two kinds they are all: only the widths
        then tell.
        """
        depths = self.kinds[0].n_layers
        if len(self.kinds) > 1:
            every = np.zeros(len(self.outside[columns]), dtype=np.int64)
            return every, every + len(depths)
        outside, narrowest = self.outside[columns], self.kinds[0].narrowest[columns]
        shallowest = np.searchsorted(depths, (low - outside) / self.widest[0][columns], "left")
        return shallowest, np.searchsorted(depths, (high - outside) / narrowest, "right")

    def row(self, column: Ints, depth: Ints) -> tuple[Floats, Floats]:
        """What columns at depths count at the narrowest, and what each further width adds."""
        first, *others = self.kinds
        n_layers = first.n_layers[depth]
        base, slope = self.outside[column] + n_layers * first.narrowest[column], n_layers * first.step[column]
        for kind in others:
            n_layers = kind.n_layers[depth]
            base, slope = base + n_layers * kind.narrowest[column], slope + n_layers * kind.step[column]
        return base, slope


def _kinds(choices: ModelConfig, depths: Floats) -> list[tuple[Floats, dict[str, Any]]]:
    """Every kind of layer: how many at each depth, and the layers of its three evaluations."""
    if choices.moe is None or not has_dense_layers(choices.moe):
        return [(depths, {"n_layers": _LAYERS})]
    experts = np.asarray(n_moe_layers(choices.moe, depths))
    return [
        (depths - experts, {"n_layers": _LAYERS, "n_dense_layers": _LAYERS, "n_moe_layers": 0.0}),
        (experts, {"n_layers": _LAYERS, "n_dense_layers": 0.0, "n_moe_layers": _LAYERS}),
    ]


def _by_shared_experts(choices: ModelConfig, lattice: Lattice) -> list[tuple[ModelConfig, Any]]:
    """The columns with each number of shared experts, which to the table is a choice and no array."""
    shared = lattice.columns.get("n_shared_experts")
    if shared is None:
        return [(choices, slice(None))]
    return [(choices.replace(n_shared_experts=n), shared == n) for n in np.unique(shared).tolist()]


def _dims(choices: ModelConfig, lattice: Lattice, here: Any, layers: dict[str, Any]) -> Any:
    """The columns as models of the three evaluations."""
    sizes = {name: values[here].astype(np.float64) for name, values in lattice.columns.items()}
    if choices.moe is None:
        return with_sizes(choices, intermediate_size=_WIDTHS, **sizes, **layers)
    sizes |= {"expert_intermediate_size": _WIDTHS, "n_shared_experts": choices.moe.n_shared_experts}
    m = with_sizes(choices, **sizes, **layers)
    if "intermediate_size" in sizes:
        return m
    return with_sizes(choices, **sizes, **layers, intermediate_size=m.active_ffn_width)


MOST_COMPARED: Final = 10_000_000
_ROWS_AT_ONCE: Final = 2**20
_FEW: Final = 2**16
"""Points that are looked at in no time."""
_WHOLE: Final = 2**60
"""A distance from two budgets is a whole number of parts of each, of which it has so many."""
COUNTERS: Final[dict[Counted, Callable[[Any], Size]]] = {
    "total": total, "body": body, "active": count_active,
}  # fmt: skip

_Box = list[tuple[int, int]]
"""The least and the greatest count, of each budget."""


class Search:
    """One lattice held against one budget, or against two: a count and what is active of it."""

    def __init__(
        self, space: SearchSpace, target: int, counted: Counted = "total", active: int | None = None
    ) -> None:
        self.space, self.target, self.counted, self.active = space, target, counted, active
        self.lattice = expand(space)
        if not self.lattice.n_points:
            raise NoSolution(_empty(space))
        counters = [COUNTERS[counted], *([count_active] if active is not None else [])]
        self.targets = [target, *([active] if active is not None else [])]
        self._counts = [Affine.of(space, self.lattice, counter) for counter in counters]

    def certificate(self, tolerance: Fraction) -> Certificate:
        """What the search of the whole lattice shows."""
        errors, counts = self._errors(self._bounds(tolerance))
        within = len(errors)
        # All up to some distance, so two distinct ones tell; where they are fewer, farther points are needed.
        while (errors == errors[:1]).all() and len(errors) < self.lattice.n_points:
            errors, counts = self._errors(self._reach(len(errors) + 1))
        best, ties, following = least_two(errors, counts, self.targets)
        return Certificate(
            self.target, self.counted, tolerance, self.space.flags(), self.lattice.n_points, within,
            best, ties, following, self.active,
        )  # fmt: skip

    def within(self, tolerance: Fraction) -> Points:
        """Every point with |count - target| <= tolerance * target, of each budget."""
        return self._points(self._bounds(tolerance))

    def nearest(self, n: int) -> Points:
        """The n nearest points and all that tie with the last of them, nearest first; fewer where there are
        fewer."""
        points = self._points(self._reach(n))
        errors = misses(points.counts(), self.targets)
        if len(points) > n:
            near = errors <= np.partition(errors, n - 1)[n - 1]
            points, errors = points.at(near), errors[near]
        return points.at(np.argsort(errors, kind="stable"))

    def everything(self, at_once: int) -> Iterator[Points]:
        """Every point of the lattice, about `at_once` at a time."""
        deepest = len(self.lattice.n_layers) * max(1, int(self.lattice.run.max()))
        whole = [(0, int(affine.extent()[1])) for affine in self._counts]
        for rows in self._rows(whole, columns=max(1, at_once // deepest)):
            yield rows.points()

    def extent(self) -> tuple[int, int]:
        """The least and the greatest count on the lattice."""
        least, greatest = self._counts[0].extent()
        return int(least), int(greatest)

    def _bounds(self, tolerance: Fraction) -> _Box:
        slack = [target * tolerance.numerator // tolerance.denominator for target in self.targets]
        return [(t - s, t + s) for t, s in zip(self.targets, slack, strict=True)]

    def _reach(self, n: int) -> _Box:
        """Counts equally far below and above each target, with n points or more between, or all there are."""
        outside, nearest_end = 0, 0
        for target, unit, affine in zip(self.targets, self._units, self._counts, strict=True):
            smallest, largest = map(int, affine.extent())
            nearest_end = min(max(target, smallest), largest)
            outside = max(outside, -(-abs(target - nearest_end) * _WHOLE // unit))
        further = (nearest_end if self.active is None else _WHOLE) >> 20
        wanted, least = min(n, self.lattice.n_points), outside - 1
        while not self._hold(self._around(outside + further), wanted):
            least, further = outside + further, 8 * further + 1
        return self._around(self._narrowed(least, outside + further, wanted))

    def _narrowed(self, least: int, most: int, wanted: int) -> int:
        """A distance up to `most` that holds the points wanted and hardly many more; `least` holds fewer."""
        while most - least > 1 and self._hold(self._around(most), 64 * wanted + _FEW):
            middle = (least + most) // 2
            least, most = (least, middle) if self._hold(self._around(middle), wanted) else (middle, most)
        return most

    def _hold(self, box: _Box, wanted: int) -> bool:
        """Whether so many points or more are in the box."""
        many = 0
        for columns in self._pieces():
            many += self._piece(columns, box).n_points
            if many >= wanted:
                return True
        return False

    @property
    def _units(self) -> list[int]:
        """What distances are parts of: the targets themselves where there are two, else single parameters."""
        return self.targets if self.active is not None else [_WHOLE]

    def _around(self, distance: int) -> _Box:
        """All counts up to that distance from the targets."""
        off = [distance * unit // _WHOLE for unit in self._units]
        return [(t - d, t + d) for t, d in zip(self.targets, off, strict=True)]

    def _errors(self, box: _Box) -> tuple[Any, list[Ints]]:
        """The errors of all points in the box, and what they count against each budget."""
        parts = [rows.counts() for rows in self._rows(box)]
        counts = [np.concatenate(of_budget) for of_budget in zip(*parts, strict=True)]
        return misses(counts, self.targets), counts

    def _points(self, box: _Box) -> Points:
        return Points.joined([rows.points() for rows in self._rows(box)])

    def _rows(self, box: _Box, columns: int | None = None) -> "Iterator[_Rows]":
        """All points in the box, a bounded number of rows or of columns at a time."""
        many = 0
        for piece in self._pieces(columns):
            rows = self._piece(piece, box)
            many += rows.n_points
            if many > MOST_COMPARED:
                low, high = max(box[0][0], 0), min(box[0][1], MOST)
                raise InputError(
                    f"more than {MOST_COMPARED:,} points of the lattice have {low:,} to {high:,} parameters; "
                    "give a smaller tolerance, larger steps or fewer values"
                )
            yield rows

    def _pieces(self, columns: int | None = None) -> Iterator[slice]:
        """The columns of the lattice, so many at a time."""
        at_once = columns or max(1, _ROWS_AT_ONCE // len(self.lattice.n_layers))
        for start in range(0, len(self.lattice.first), at_once):
            yield slice(start, start + at_once)

    def _piece(self, columns: slice, box: _Box) -> "_Rows":
        """The points of some columns that are in the box."""
        bounds = [(max(low, 0), min(high, MOST)) for low, high in box]
        ends = [affine.depths(columns, *of) for affine, of in zip(self._counts, bounds, strict=True)]
        shallowest, deepest = ends[0]
        for start, stop in ends[1:]:
            shallowest, deepest = np.maximum(shallowest, start), np.minimum(deepest, stop)
        column, depth = _unrolled(shallowest, np.maximum(deepest - shallowest, 0))
        column += columns.start
        # So are the widths in a row. Rounded, these quotients are exact: one of integers below 2**53 is never
        # nearer to a whole number than a float can tell.
        first, last = np.zeros(len(column)), self.lattice.run[column] - 1.0
        lines = []
        for affine, (low, high) in zip(self._counts, bounds, strict=True):
            base, slope = affine.row(column, depth)
            first = np.maximum(np.ceil((low - base) / slope), first)
            last = np.minimum(np.floor((high - base) / slope), last)
            lines.append((base, slope))
        many = np.maximum(last - first + 1, 0).astype(np.int64)
        return _Rows(self.lattice, column, depth, lines, first, many)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Points of the lattice, a row each for a column under one depth: its points first, first + 1, ...,
    `many` of them, where point i has the width lattice.first + i * lattice.step and counts base + i * slope
    against each budget. Floats, all of them whole."""

    lattice: Lattice
    column: Ints
    depth: Ints
    lines: list[tuple[Floats, Floats]]
    first: Floats
    many: Ints

    @property
    def n_points(self) -> int:
        return int(self.many.sum())

    def counts(self) -> list[Ints]:
        """What each point counts, against each budget."""
        row, i = _unrolled(self.first, self.many)
        return [(base[row] + i * slope[row]).astype(np.int64) for base, slope in self.lines]

    def points(self) -> Points:
        """The points themselves."""
        row, i = _unrolled(self.first, self.many)
        at = self.column[row]
        sizes = {name: values[at] for name, values in self.lattice.columns.items()}
        width = self.lattice.first[at] + i.astype(np.int64) * self.lattice.step
        if "n_experts" not in sizes:
            sizes["intermediate_size"] = width
        else:
            sizes["expert_intermediate_size"] = width
            met = active_expert_width(SimpleNamespace(**({"shared_intermediate_size": None} | sizes)))
            sizes.setdefault("intermediate_size", met)
        counted, *active = self.counts()
        return Points(
            n_layers=self.lattice.n_layers[self.depth[row]], counted=counted,
            active=active[0] if active else None, **sizes,
        )  # fmt: skip


def _unrolled(start: Any, many: Ints) -> tuple[Ints, Any]:
    """For every k the numbers start[k], start[k] + 1, ..., many[k] of them: their k, and they themselves."""
    k = np.repeat(np.arange(len(many)), many)
    return k, np.arange(len(k)) + (start + many - np.cumsum(many))[k]


def _empty(space: SearchSpace) -> str:
    flags = ", ".join(f"{name} {text}" for name, text in space.flags().items())
    return (
        f"the lattice is empty: no combination of {flags} makes a model; "
        "let head_dim divide dim and the kv group divide n_heads, widen ffn_ratio or lower multiple"
    )
