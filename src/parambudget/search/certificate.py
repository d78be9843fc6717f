"""What a complete search of a lattice has shown."""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from parambudget.search.lattice import Ints
from parambudget.search.space import Counted


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
    best_error: int | Fraction
    """Of the nearest point |count - target|; with two budgets the larger of the two shares that it is off by.
    """
    ties: int
    """Points at best_error, the first included."""
    next_best_error: int | Fraction | None
    """The next distinct error; None when every point ties."""
    active: int | None = None
    """The second budget, of what a token meets."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; the tolerance and errors of two budgets as floats."""
        written = {name: _plain(value) for name, value in self.__dict__.items()}
        return {name: value for name, value in written.items() if name != "active" or value is not None}


def least_two(errors: Any, counts: list[Ints], targets: list[int]) -> tuple[Any, int, Any]:
    """The least error, how many points have it, and the next distinct one or None; all exact.

    `errors` are those of `points.misses`: floats of two budgets keep the order of the exact shares, but two
    that differ may look equal.
    """
    best = errors.min()
    others = errors > best
    if len(counts) == 1:
        ties = len(errors) - np.count_nonzero(others)
        return int(best), int(ties), int(errors[others].min()) if others.any() else None
    first = _exact(errors == best, counts, targets)
    if len(first) > 1:
        return first[0][0], first[0][1], first[1][0]
    if not others.any():
        return *first[0], None
    return *first[0], _exact(errors == errors[others].min(), counts, targets)[0][0]


def _exact(where: Any, counts: list[Ints], targets: list[int]) -> list[tuple[Any, int]]:
    """The distinct exact shares of some points in order, and how many points have each."""
    off = [np.abs(some[where] - target) for some, target in zip(counts, targets, strict=True)]
    pairs = Counter(zip(*(each.tolist() for each in off), strict=True))
    found: Counter[Any] = Counter()
    for pair, many in pairs.items():
        found[max(Fraction(d, target) for d, target in zip(pair, targets, strict=True))] += many
    return sorted(found.items())


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Fraction) else value
