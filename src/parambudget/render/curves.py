"""What pictures have in common, whether matplotlib draws them or a browser."""

from collections.abc import Iterator, Sequence
from typing import Final

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart with every kind of colour vision. Source: Okabe and Ito 2008, Color Universal Design."""
NEIGHBOURS: Final = (0.5, 0.7, 1.4, 2.0)
"""Counts, as shares of the target, whose curves stand around the target's own in the landscape."""
_SMOOTH_SHARE: Final = 0.1
"""The share of the updates so far that a smoothed loss averages."""


def running_means(values: Sequence[float]) -> Iterator[float]:
    """Means over the latest share of the values so far: on a logarithmic axis, always the same distance."""
    mean = 0.0
    for n, value in enumerate(values, 1):
        mean += (value - mean) / max(1.0, _SMOOTH_SHARE * n)
        yield mean
