"""From the many points that meet a budget to the few worth showing: ordered, different from each other,
labelled."""

from fractions import Fraction
from typing import Final

import numpy as np

from parambudget.plan.arrays import Bools, Floats, Ints, Strings
from parambudget.plan.points import Points, misses

LABELS: Final = ("deep", "balanced", "wide")

# A third of a normal distribution lies on each side of this many standard deviations.
_THIRD: Final = 0.43

_OF_EXPERTS: Final = (
    "n_experts", "n_experts_per_token", "n_shared_experts", "expert_intermediate_size"
)  # fmt: skip

FFN_CLASSES: Final = tuple(Fraction(n, 6) for n in (13, 19, 23, 27, 33, 42))
"""Bounds between the classes of intermediate_size / dim, whose middles are near 2, 8/3, 3.5, 4, 5, 6 and 8.
"""


def order(points: Points, score: Floats, target: int, active: int | None = None, *, closest: bool) -> Ints:
    """Indices from best to worst. By score then error, or by error then score; ties by fewer layers, smaller
    dim, smaller head_dim, more kv heads, smaller FFN and fewer experts, so that the answer never depends on
    how the lattice was written."""
    # Rounded, so that the last bit of a logarithm does not order what is equal.
    rounded = np.round(score, 6)
    error = misses(points.counts(), [target] if active is None else [target, active])
    first = (error, rounded) if closest else (rounded, error)
    ties = (
        points.n_layers,
        points.dim,
        points.head_dim,
        points.n_heads,
        -points.n_kv_heads,
        points.intermediate_size,
        *(getattr(points, name) for name in _OF_EXPERTS if getattr(points, name) is not None),
    )
    found: Ints = np.lexsort((*reversed(ties), *reversed(first)))
    return found


def diverse(points: Points, ranked: Ints, n: int, labels: Strings | None = None) -> Ints:
    """n of the ranking that differ from each other, in the order of the ranking, its first always among them.

    Any two differ in at least two of layers, dim, kv heads and FFN class, and not only in kv heads and FFN
    class; where the lattice leaves fewer of these free, in all that are. With `labels`, the best of each
    label is among them if n allows. The number of experts is one more trait, as good as layers or dim.
    """
    traits, free = _traits(points)[:, ranked], free_traits(points)
    of_shape = len(traits) - 2
    differ_in, shape_is_free = max(1, min(2, int(free.sum()))), bool(free[:of_shape].any())
    open_ = np.ones(len(ranked), dtype=bool)
    wanted = (
        [] if labels is None else [labels[ranked] == name for name in dict.fromkeys(labels[ranked].tolist())]
    )
    chosen: list[int] = []
    while len(chosen) < n and open_.any():
        within = next((here for here in wanted if not here[chosen].any() and (here & open_).any()), True)
        pick = int(np.argmax(open_ & within))
        chosen.append(pick)
        different = traits != traits[:, pick : pick + 1]
        open_ &= different.sum(axis=0) >= differ_in
        if shape_is_free:
            open_ &= different[:of_shape].any(axis=0)
        open_[pick] = False
    return ranked[np.sort(np.array(chosen, dtype=np.int64))]


def free_traits(points: Points) -> Bools:
    """Which of layers, dim, experts, kv heads and FFN class are not the same for all points."""
    traits = _traits(points)
    free: Bools = (traits != traits[:, :1]).any(axis=1)
    return free


def _traits(points: Points) -> Ints:
    experts = [] if points.n_experts is None else [points.n_experts]
    return np.stack([points.n_layers, points.dim, *experts, points.n_kv_heads, ffn_class(points)])


def ffn_class(points: Points) -> Ints:
    """Class of each point's FFN ratio, 0 for the narrowest."""
    ratio = points.ffn_width / points.dim
    found: Ints = np.digitize(ratio, [float(bound) for bound in FFN_CLASSES])
    return found


def labels(aspect_deviation: Floats) -> Strings:
    """deep, balanced or wide: the thirds of dim / n_layers around what is conventional at that size."""
    named: Strings = np.array(LABELS)[np.digitize(aspect_deviation, (-_THIRD, _THIRD))]
    return named
