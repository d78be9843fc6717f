"""The largest and the smallest of sizes, element by element where they are arrays."""

from collections.abc import Iterable
from functools import reduce

import numpy as np

from parambudget.arch.dims import Size


def largest(sizes: Iterable[Size]) -> Size:
    """Plain ints stay plain: they do not overflow."""
    return reduce(lambda a, b: np.maximum(a, b) if _are_arrays(a, b) else max(a, b), sizes)


def smallest(sizes: Iterable[Size]) -> Size:
    """Plain ints stay plain."""
    return reduce(lambda a, b: np.minimum(a, b) if _are_arrays(a, b) else min(a, b), sizes)


def _are_arrays(a: Size, b: Size) -> bool:
    return isinstance(a, np.ndarray) or isinstance(b, np.ndarray)
