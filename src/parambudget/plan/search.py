"""The complete search: every point of the lattice is accounted for, none is enumerated.

For fixed other sizes the count is affine in the FFN width and in the depth, count = a + n_layers * (b + c *
ffn), so three readings of the table per column give every row, and in each row only the two FFN widths beside
the budget can be nearest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any, Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Size, with_sizes
from parambudget.cost.count import body, total
from parambudget.errors import InputError, NoSolution
from parambudget.plan.arrays import Ints
from parambudget.plan.lattice import Lattice, expand
from parambudget.plan.space import Counted, SearchSpace

_ROWS_AT_ONCE: Final = 2**20
_NONE: Final = 2**62
"""A distance that no point has: counts stay below it, see `_refuse_overflow`."""
_COUNTERS: Final[dict[Counted, Callable[[Any], Size]]] = {"total": total, "body": body}


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


@dataclass(frozen=True)
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
        self._coefficients = _coefficients(space.choices, self.lattice, _COUNTERS[counted])

    def solve(self, tolerance: Fraction) -> tuple[Certificate, Points]:
        """The certificate, and every point with |count - target| <= tolerance * target."""
        low, high = ceil(self.target * (1 - tolerance)), floor(self.target * (1 + tolerance))
        found, nearest = [], _Nearest()
        for rows in self._rows():
            nearest = nearest.merge(rows.nearest(self.target))
            found.append(rows.between(low, high))
        points = _joined(found)
        certificate = Certificate(
            self.target, self.counted, tolerance, self.space.flags(), self.lattice.n_points, len(points),
            nearest.error, nearest.ties, nearest.following if nearest.following < _NONE else None,
        )  # fmt: skip
        return certificate, points

    def nearest(self, n: int) -> Points:
        """The n nearest points and all that tie with the last of them, nearest first; fewer where there are
        fewer."""
        distances = np.concatenate([rows.distances(self.target) for rows in self._rows()])
        # n points lie within the n-th of these distances; with fewer of them, the whole lattice is taken.
        reach = int(np.partition(distances, n - 1)[n - 1]) if n <= len(distances) else _NONE // 2
        points = _joined([rows.between(self.target - reach, self.target + reach) for rows in self._rows()])
        return points.at(np.argsort(np.abs(points.counted - self.target), kind="stable"))

    def extent(self) -> tuple[int, int]:
        """The least and the greatest count on the lattice."""
        ends = [(int(rows.base.min()), int(rows.top.max())) for rows in self._rows()]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def _rows(self) -> "Iterator[_Rows]":
        """The rows of the lattice, a bounded number at a time."""
        lattice, (outside, per_layer, per_width) = self.lattice, self._coefficients
        depths = max(1, _ROWS_AT_ONCE // len(lattice.dim))
        first, step = per_layer + per_width * lattice.first, per_width * lattice.step
        span = (lattice.run - 1) * step
        for start in range(0, len(lattice.n_layers), depths):
            layers = lattice.n_layers[start : start + depths, None]
            base = outside + layers * first
            yield _Rows(lattice, layers, base, base + layers * span, step)


@dataclass(frozen=True)
class _Nearest:
    """The least distance seen so far, how many points have it, and the next distinct one."""

    error: int = _NONE
    ties: int = 0
    following: int = _NONE

    def merge(self, other: "_Nearest") -> "_Nearest":
        error = min(self.error, other.error)
        ties = sum(one.ties for one in (self, other) if one.error == error)
        beyond = [self.following, other.following] + [one.error for one in (self, other) if one.error > error]
        return _Nearest(error, ties, min(beyond))


@dataclass(frozen=True)
class _Rows:
    """Rows of the lattice: depth l and column c count base[l, c] + i * n_layers[l] * step[c], the last of
    them top[l, c]."""

    lattice: Lattice
    n_layers: Ints
    base: Ints
    top: Ints
    step: Ints

    def distances(self, target: int) -> Ints:
        """|count - target| of each row's points next to the target: one on each side, or the end of a row on
        one side."""
        return np.concatenate([distance for distance, _ in self._beside(target)])

    def nearest(self, target: int) -> _Nearest:
        """The nearest of all points: only a row's neighbours of the target can be it."""
        sides = self._beside(target)
        error = min(int(distance.min(initial=_NONE)) for distance, _ in sides)
        ties, following = 0, _NONE
        for distance, row in sides:
            tied = np.flatnonzero(distance == error)
            ties += len(tied)
            following = min(following, int(distance.min(initial=_NONE, where=distance != error)))
            if len(tied):
                following = min(
                    following, self._one_step_out(row[tied] if row is not None else tied, target, error)
                )
        return _Nearest(error, ties, following)

    def between(self, low: int, high: int) -> Points:
        """Every point that counts low..high."""
        rows = np.flatnonzero((self.base <= high) & (self.top >= low))
        layer, column, base, slope = self._at(rows)
        first = np.maximum(-((base - low) // slope), 0)
        many = np.minimum((high - base) // slope, self.lattice.run[column] - 1) - first + 1
        row = np.repeat(np.arange(len(many)), many)
        i = np.arange(len(row)) - np.repeat(np.cumsum(many) - many, many) + first[row]
        at, lattice = column[row], self.lattice
        return Points(
            n_layers=self.n_layers[layer[row], 0],
            dim=lattice.dim[at],
            head_dim=lattice.head_dim[at],
            n_heads=lattice.n_heads[at],
            n_kv_heads=lattice.n_kv_heads[at],
            intermediate_size=lattice.first[at] + i * lattice.step,
            counted=base[row] + i * slope[row],
        )

    def _beside(self, target: int) -> list[tuple[Ints, Ints | None]]:
        """Distances to the target and the flat index of the row of each (None: every row in order).

        Rows that lie wholly on one side give their nearer end; rows around the target one point at or below,
        one above.
        """
        outside = np.maximum(self.base - target, target - self.top).ravel()
        around = np.flatnonzero(outside <= 0)
        outside[around] = _NONE
        _, _, base, slope = self._at(around)
        below = (target - base) % slope
        above = np.where(self.top.ravel()[around] > target, slope - below, _NONE)
        return [(outside, None), (below, around), (above, around)]

    def _at(self, rows: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Depth index, column index, base and slope of rows given by their flat index."""
        layer = rows // self.base.shape[1]
        column = rows - layer * self.base.shape[1]
        return layer, column, self.base.ravel()[rows], self.n_layers[layer, 0] * self.step[column]

    def _one_step_out(self, rows: Ints, target: int, error: int) -> int:
        """The least distance beyond `error` of the points next to those at `error` in the given rows."""
        _, _, base, slope = self._at(rows)
        top = self.top.ravel()[rows]
        least = _NONE
        for count in (target - error - slope, target + error + slope):
            is_point = (count >= base) & (count <= top) & ((count - base) % slope == 0)
            if is_point.any():
                least = min(least, error + int(slope[is_point].min()))
        return least


def _joined(found: list[Points]) -> Points:
    return Points(
        *(np.concatenate(values) for values in zip(*(p.__dict__.values() for p in found), strict=True))
    )


def _coefficients(
    choices: ModelConfig, lattice: Lattice, counter: Callable[[Any], Size]
) -> tuple[Ints, Ints, Ints]:
    """a, b, c of count = a + n_layers * (b + c * ffn) per column: three evaluations in one reading of the
    table, not algebra, so that the search stays right when a new tensor joins the table."""
    columns = {name: getattr(lattice, name) for name in ("dim", "head_dim", "n_heads", "n_kv_heads")}
    _refuse_overflow(choices, lattice, counter)

    depths_widths = np.array([[[0], [1], [1]], [[0], [0], [1]]])
    m = with_sizes(choices, n_layers=depths_widths[0], intermediate_size=depths_widths[1], **columns)
    outside, one_layer, one_wide = np.broadcast_to(counter(m), (3, len(lattice.dim)))
    return outside, one_layer - outside, one_wide - one_layer


def _refuse_overflow(choices: ModelConfig, lattice: Lattice, counter: Callable[[Any], Size]) -> None:
    """The largest corner in exact Python ints: beyond 2**62 the arrays would wrap around silently."""
    names = ("n_layers", "dim", "head_dim", "n_heads", "n_kv_heads")
    corner = {name: int(getattr(lattice, name).max()) for name in names}
    widest = int((lattice.first + (lattice.run - 1) * lattice.step).max())
    if counter(with_sizes(choices, intermediate_size=widest, **corner)) >= 2**62:
        raise InputError(
            "the largest model of the lattice has more than 4.6e18 parameters; lower the upper ends"
        )


def _empty(space: SearchSpace) -> str:
    flags = ", ".join(f"{name} {text}" for name, text in space.flags().items())
    return (
        f"the lattice is empty: no combination of {flags} makes a model; "
        "let head_dim divide dim and the kv group divide n_heads, or widen ffn_ratio"
    )
