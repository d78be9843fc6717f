"""Every point measured, the best of them kept: for budgets that no count decides (hours, arithmetic, memory).

The best points differ by less than what is predicted can tell, so all that lie within a stated band of the
best are kept; the shape score then orders them as it orders the models of a count.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims
from parambudget.errors import NoSolution
from parambudget.plan.arrays import Bools, Floats
from parambudget.plan.points import Points, models

AT_ONCE: Final = 2**17
"""Points that are measured together: the arrays stay in the cache."""
_BINS_PER_OCTAVE: Final = 2


@dataclass(frozen=True, eq=False)
class Measured:
    """What some points are predicted to do, an array entry each."""

    value: Floats
    """What is minimised."""
    possible: Bools
    """Which may be chosen at all."""
    figures: dict[str, Floats]
    """What else is worth showing."""

    def at(self, index: Any) -> "Measured":
        """The entries at an index array or mask."""
        return Measured(
            self.value[index], self.possible[index], {name: v[index] for name, v in self.figures.items()}
        )


Measure = Callable[[Dims], Measured]


@dataclass(frozen=True, eq=False)
class Swept:
    """What measuring every point has shown."""

    points: Points
    """All points within the band of the best."""
    measured: Measured
    n_points: int
    possible: int
    best: float
    by_size: dict[int, float]
    """The least value among the possible points of each size, two sizes an octave, by the mean count."""


def sweep(
    pieces: Iterable[Points], choices: ModelConfig, measure: Measure, band: Callable[[float], float]
) -> Swept:
    """Measure all points; `band` gives the greatest value that counts as equal to the best.

    Raises `NoSolution` where no point is possible.
    """
    kept: list[tuple[Points, Measured]] = []
    best, n_points, n_possible = np.inf, 0, 0
    bins: dict[int, float] = {}
    alike = ((piece.at(here), m) for piece in pieces for here, m in models(choices, piece))
    for piece, m in alike:
        measured = measure(m)
        n_points += len(piece)
        points, measured = piece.at(measured.possible), measured.at(measured.possible)
        if not len(points):
            continue
        n_possible += len(points)
        _note(bins, points, measured.value)
        best = min(best, float(measured.value.min()))
        near = measured.value <= band(best)
        kept.append((points.at(near), measured.at(near)))
    if not n_possible:
        raise NoSolution(f"none of the {n_points:,} points is possible")
    pool, values = _joined(kept)
    near = values.value <= band(best)
    sizes = {round(2 ** (i / _BINS_PER_OCTAVE)): value for i, value in sorted(bins.items())}
    return Swept(pool.at(near), values.at(near), n_points, n_possible, best, sizes)


def _note(bins: dict[int, float], points: Points, values: Floats) -> None:
    """Keep the least value of every size."""
    size = np.rint(np.log2(points.counted) * _BINS_PER_OCTAVE).astype(np.int64)
    for i in np.unique(size).tolist():
        bins[i] = min(bins.get(i, np.inf), float(values[size == i].min()))


def _joined(kept: list[tuple[Points, Measured]]) -> tuple[Points, Measured]:
    points = Points.joined([part for part, _ in kept])
    parts = [measured for _, measured in kept]
    figures = {name: np.concatenate([part.figures[name] for part in parts]) for name in parts[0].figures}
    return points, Measured(
        np.concatenate([part.value for part in parts]), np.concatenate([part.possible for part in parts]),
        figures,
    )  # fmt: skip
