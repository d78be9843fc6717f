"""The complete search: every point of the lattice is accounted for, none is enumerated.

For fixed other sizes the count is affine in the FFN width and in the depth, count = a + n_layers * (b + c *
ffn), and grows with both. So three evaluations of the table give every point of a column, and those that
count from `low` to `high` are consecutive depths and, under each of them, consecutive widths: two divisions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Size, with_sizes
from parambudget.cost.count import active, body, total
from parambudget.errors import InputError, NoSolution
from parambudget.plan.arrays import Floats, Ints
from parambudget.plan.lattice import Lattice, expand
from parambudget.plan.space import Counted, SearchSpace

MOST_COMPARED: Final = 10_000_000
_ROWS_AT_ONCE: Final = 2**20
_MOST: Final = 2**53
"""No point counts as much, see `_coefficients`: floats hold every integer up to here."""
_DEPTHS: Final = np.array([[0.0], [1.0], [1.0]])
_WIDTHS: Final = np.array([[0.0], [0.0], [1.0]])
COUNTERS: Final[dict[Counted, Callable[[Any], Size]]] = {"total": total, "body": body, "active": active}


@dataclass(frozen=True)
class Certificate:
    """What a complete search of the lattice has shown."""

    target: int
    counted: Counted
    tolerance: Fraction
    lattice: dict[str, str]
    """Every axis as flag text."""
    lattice_points: int
    within_tolerance: int
    best_error: int
    """|count - target| of the nearest point."""
    ties: int
    """Points at best_error, the first included."""
    next_best_error: int | None
    """The next distinct error; None when every point ties."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; the tolerance as a float."""
        return self.__dict__ | {"tolerance": float(self.tolerance)}


@dataclass(frozen=True, eq=False)
class Points:
    """Points of a lattice as equally long arrays."""

    n_layers: Ints
    dim: Ints
    head_dim: Ints
    n_heads: Ints
    n_kv_heads: Ints
    intermediate_size: Ints
    counted: Ints

    def __len__(self) -> int:
        return len(self.counted)

    def at(self, index: Any) -> "Points":
        """The points at an index array or mask."""
        return Points(**{name: values[index] for name, values in self.__dict__.items()})

    def sizes(self, i: int) -> dict[str, int]:
        """The sizes of point i as plain ints, ready for `ModelConfig.replace`."""
        return {name: int(values[i]) for name, values in self.__dict__.items() if name != "counted"}


class Search:
    """One lattice held against one budget."""

    def __init__(self, space: SearchSpace, target: int, counted: Counted = "total") -> None:
        self.space, self.target, self.counted = space, target, counted
        self.lattice = expand(space)
        if not self.lattice.n_points:
            raise NoSolution(_empty(space))
        self._depths = self.lattice.n_layers.astype(np.float64)
        self._coefficients = _coefficients(space.choices, self.lattice, COUNTERS[counted])

    def certificate(self, tolerance: Fraction) -> Certificate:
        """What the search of the whole lattice shows."""
        errors = self._errors(*self._bounds(tolerance))
        within = len(errors)
        # All up to some distance, so two distinct ones tell; where they are fewer, farther points are needed.
        while (errors == errors[:1]).all() and len(errors) < self.lattice.n_points:
            errors = self._errors(*self._reach(len(errors) + 1))
        best = errors.min()
        others = errors[errors > best]
        return Certificate(
            self.target, self.counted, tolerance, self.space.flags(), self.lattice.n_points, within,
            int(best), len(errors) - len(others), int(others.min()) if len(others) else None,
        )  # fmt: skip

    def within(self, tolerance: Fraction) -> Points:
        """Every point with |count - target| <= tolerance * target."""
        return self._points(*self._bounds(tolerance))

    def nearest(self, n: int) -> Points:
        """The n nearest points and all that tie with the last of them, nearest first; fewer where there are
        fewer."""
        points = self._points(*self._reach(n))
        errors = np.abs(points.counted - self.target)
        if len(points) > n:
            near = errors <= np.partition(errors, n - 1)[n - 1]
            points, errors = points.at(near), errors[near]
        return points.at(np.argsort(errors, kind="stable"))

    def everything(self, at_once: int) -> Iterator[Points]:
        """Every point of the lattice, about `at_once` at a time."""
        _, largest = self.extent()
        deepest = len(self.lattice.n_layers) * max(1, int(self.lattice.run.max()))
        for rows in self._rows(0, largest, columns=max(1, at_once // deepest)):
            yield Points(*rows.points())

    def extent(self) -> tuple[int, int]:
        """The least and the greatest count on the lattice."""
        depths, (outside, narrowest, widest, _) = self._depths, self._coefficients
        return int((outside + depths[0] * narrowest).min()), int((outside + depths[-1] * widest).max())

    def _bounds(self, tolerance: Fraction) -> tuple[int, int]:
        slack = self.target * tolerance.numerator // tolerance.denominator
        return self.target - slack, self.target + slack

    def _reach(self, n: int) -> tuple[int, int]:
        """Counts equally far below and above the target, with n points or more between, or all there are."""
        smallest, largest = self.extent()
        nearest_end = min(max(self.target, smallest), largest)
        outside, further = abs(self.target - nearest_end), nearest_end >> 20
        while True:
            low, high = self.target - outside - further, self.target + outside + further
            if sum(rows.n_points for rows in self._rows(low, high)) >= min(n, self.lattice.n_points):
                return low, high
            further = 8 * further + 1

    def _errors(self, low: int, high: int) -> Ints:
        counts = np.concatenate([rows.counts() for rows in self._rows(low, high)])
        errors: Ints = np.abs(counts - self.target)
        return errors

    def _points(self, low: int, high: int) -> Points:
        arrays = zip(*(rows.points() for rows in self._rows(low, high)), strict=True)
        return Points(*(np.concatenate(parts) for parts in arrays))

    def _rows(self, low: int, high: int, columns: int | None = None) -> "Iterator[_Rows]":
        """All points that count low..high, a bounded number of rows or of columns at a time."""
        low, high, many = max(low, 0), min(high, _MOST), 0
        at_once = columns or max(1, _ROWS_AT_ONCE // len(self.lattice.n_layers))
        for start in range(0, len(self.lattice.dim), at_once):
            rows = self._piece(slice(start, start + at_once), low, high)
            many += rows.n_points
            if many > MOST_COMPARED:
                raise InputError(
                    f"more than {MOST_COMPARED:,} points of the lattice have {low:,} to {high:,} parameters; "
                    "give a smaller tolerance, larger steps or fewer values"
                )
            yield rows

    def _piece(self, columns: slice, low: int, high: int) -> "_Rows":
        """The points of some columns that count low..high."""
        outside, narrowest, widest, step = (part[columns] for part in self._coefficients)
        # Deeper counts more, so the depths at which a column can meet low..high are consecutive.
        shallowest = np.searchsorted(self._depths, (low - outside) / widest, "left")
        deepest = np.searchsorted(self._depths, (high - outside) / narrowest, "right")
        column, depth = _unrolled(shallowest, np.maximum(deepest - shallowest, 0))
        n_layers = self._depths[depth]
        base, slope = outside[column] + n_layers * narrowest[column], n_layers * step[column]
        column += columns.start
        # So are the widths in a row. Rounded, these quotients are exact: one of integers below 2**53 is never
        # nearer to a whole number than a float can tell.
        first = np.maximum(np.ceil((low - base) / slope), 0)
        last = np.minimum(np.floor((high - base) / slope), self.lattice.run[column] - 1)
        many = np.maximum(last - first + 1, 0).astype(np.int64)
        return _Rows(self.lattice, column, n_layers, base, slope, first, many)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Points of the lattice, a row each for a column under one depth: its points first, first + 1, ...,
    `many` of them, where point i has the FFN width lattice.first + i * lattice.step and counts
    base + i * slope. Floats, all of them whole."""

    lattice: Lattice
    column: Ints
    n_layers: Floats
    base: Floats
    slope: Floats
    first: Floats
    many: Ints

    @property
    def n_points(self) -> int:
        return int(self.many.sum())

    def counts(self) -> Ints:
        """What each point counts."""
        row, i = _unrolled(self.first, self.many)
        counts: Ints = (self.base[row] + i * self.slope[row]).astype(np.int64)
        return counts

    def points(self) -> tuple[Ints, ...]:
        """The fields of `Points`."""
        row, i = _unrolled(self.first, self.many)
        lattice, at, width = self.lattice, self.column[row], i.astype(np.int64)
        sizes = (lattice.dim, lattice.head_dim, lattice.n_heads, lattice.n_kv_heads)
        return (
            self.n_layers[row].astype(np.int64), *(size[at] for size in sizes),
            lattice.first[at] + width * lattice.step, self.counts(),
        )  # fmt: skip


def _unrolled(start: Any, many: Ints) -> tuple[Ints, Any]:
    """For every k the numbers start[k], start[k] + 1, ..., many[k] of them: their k, and they themselves."""
    k = np.repeat(np.arange(len(many)), many)
    return k, np.arange(len(k)) + (start + many - np.cumsum(many))[k]


def _coefficients(
    choices: ModelConfig, lattice: Lattice, counter: Callable[[Any], Size]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Per column the count outside the layers, that of one layer at the narrowest and at the widest FFN, and
    its step between: three evaluations in one reading of the table, not algebra, so that the search stays
    right when a new tensor joins the table."""
    # As floats, which hold every integer up to 2**53 and beyond do not wrap around.
    names = ("dim", "head_dim", "n_heads", "n_kv_heads")
    columns = {name: getattr(lattice, name).astype(np.float64) for name in names}
    m = with_sizes(choices, n_layers=_DEPTHS, intermediate_size=_WIDTHS, **columns)
    outside, one_layer, one_wide = np.broadcast_to(counter(m), (3, len(lattice.dim)))
    per_width = one_wide - one_layer
    narrowest, step = one_layer - outside + per_width * lattice.first, per_width * lattice.step
    widest = narrowest + (lattice.run - 1) * step
    if (outside + lattice.n_layers[-1] * widest).max() >= _MOST:
        raise InputError(
            "the largest model of the lattice has 9.0e15 or more parameters; lower the upper ends"
        )
    return outside, narrowest, widest, step


def _empty(space: SearchSpace) -> str:
    flags = ", ".join(f"{name} {text}" for name, text in space.flags().items())
    return (
        f"the lattice is empty: no combination of {flags} makes a model; "
        "let head_dim divide dim and the kv group divide n_heads, widen ffn_ratio or lower multiple"
    )
