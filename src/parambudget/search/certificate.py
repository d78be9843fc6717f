"""What a complete search of a lattice has shown."""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import NotRequired

import numpy as np
from typing_extensions import TypedDict

from parambudget.search.lattice import Bools, Floats, Ints
from parambudget.search.options import CountKind, Rank

Error = int | Fraction
"""A distance from a target in parameters; with two targets the larger relative error."""


class TargetCertificateDocument(TypedDict):
    """What a complete search has shown of how near a model can come to a target."""

    target: int
    """Parameters that were asked for."""
    active: NotRequired[int]
    """The second target, for the parameters used per token."""
    counted: CountKind
    """What the target counts: all parameters, those of the body, or those used per token."""
    tolerance: float
    """How far off the target a model may be, as a share of it."""
    lattice: dict[str, str]
    """Every size that was searched, as the text of its flag."""
    lattice_points: int
    """Models that were counted: all there are in the lattice."""
    within_tolerance: int
    """Models within the tolerance."""
    best_error: float
    """Of the nearest model, in parameters; with two targets the larger of the two relative errors."""
    ties: int
    """Models at that error."""
    next_best_error: float | None
    """The next larger error; null where all models have the same."""


class BudgetCertificateDocument(TypedDict):
    """What a complete search has shown where a budget alone was given."""

    objective: Rank
    """What was ranked by: loss has the least first, size the greatest."""
    counted: CountKind
    """What `by_size` counts."""
    lattice: dict[str, str]
    """Every size that was searched, as the text of its flag."""
    lattice_points: int
    """Models that were counted: all there are in the lattice."""
    feasible: int | None
    """Models that fit in the memory; null where no memory limits them."""
    best: float | None
    """The best value of the objective. A loss includes the penalty of unusual aspect ratios."""
    by_size: dict[int, float] | None
    """The best loss by number of parameters, two sizes an octave."""


CertificateDocument = TargetCertificateDocument | BudgetCertificateDocument


@dataclass(frozen=True, kw_only=True, repr=False)
class Certificate:
    """What a complete search of the lattice has shown: how near a count comes to its target, or, where any
    size may be the answer, the best value of what was predicted of every point.

    The fields of the kind that was not asked for are None.
    """

    counted: CountKind
    lattice: dict[str, str]
    """Every axis as flag text."""
    lattice_points: int

    target: int | None = None
    tolerance: Fraction | None = None
    within_tolerance: int | None = None
    best_error: Error | None = None
    """Of the nearest point |count - target|; with two targets the larger of the two relative errors."""
    ties: int | None = None
    """Points at best_error, the first included."""
    next_best_error: Error | None = None
    """The next distinct error; None when every point ties."""
    active: int | None = None
    """The second target, for the active count."""

    objective: Rank | None = None
    """loss: least; size: greatest."""
    feasible: int | None = None
    """Points that fit in the memory."""
    best: float | None = None
    """Of the objective, among all points: a loss includes the penalty of unusual aspect ratios."""
    by_size: dict[int, float] | None = None
    """The best of every size, two sizes an octave."""

    def __repr__(self) -> str:
        """Only the fields that apply."""
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if value is not None)
        return f"Certificate({fields})"

    def as_dict(self) -> CertificateDocument:
        """Plain JSON values; the tolerance and errors of two targets as floats."""
        if self.target is None:
            assert self.objective is not None
            return {
                "objective": self.objective, "counted": self.counted, "lattice": self.lattice,
                "lattice_points": self.lattice_points, "feasible": self.feasible, "best": self.best,
                "by_size": self.by_size,
            }  # fmt: skip
        assert self.tolerance is not None
        assert self.within_tolerance is not None
        assert self.best_error is not None
        assert self.ties is not None
        document: TargetCertificateDocument = {
            "target": self.target, "counted": self.counted, "tolerance": _as_json(self.tolerance),
            "lattice": self.lattice, "lattice_points": self.lattice_points,
            "within_tolerance": self.within_tolerance, "best_error": _as_json(self.best_error),
            "ties": self.ties,
            "next_best_error": None if self.next_best_error is None else _as_json(self.next_best_error),
        }  # fmt: skip
        return document if self.active is None else {**document, "active": self.active}


def two_least_errors(
    errors: Ints | Floats, counts: list[Ints], targets: list[int]
) -> tuple[Error, int, Error | None]:
    """The least error, how many points have it, and the next distinct one or None; all exact.

    `errors` are those of `lattice.count_errors`: with two targets floats keep the order of the exact shares,
    but two that differ may look equal.
    """
    best = errors.min()
    others = errors > best
    if len(counts) == 1:
        ties = len(errors) - np.count_nonzero(others)
        return int(best), int(ties), int(errors[others].min()) if others.any() else None
    first = _exact_shares(errors == best, counts, targets)
    if len(first) > 1:
        return first[0][0], first[0][1], first[1][0]
    if not others.any():
        return *first[0], None
    return *first[0], _exact_shares(errors == errors[others].min(), counts, targets)[0][0]


def _exact_shares(where: Bools, counts: list[Ints], targets: list[int]) -> list[tuple[Fraction, int]]:
    """The distinct exact shares of some points in order, and how many points have each."""
    off = [np.abs(count[where] - target) for count, target in zip(counts, targets, strict=True)]
    pairs = Counter(zip(*(distances.tolist() for distances in off), strict=True))
    shares: Counter[Fraction] = Counter()
    for pair, n_points in pairs.items():
        shares[max(Fraction(d, target) for d, target in zip(pair, targets, strict=True))] += n_points
    return sorted(shares.items())


def _as_json(value: Error) -> int | float:
    return float(value) if isinstance(value, Fraction) else value
