"""Numbers that a law takes: refused when they make no sense, compared with the range a law was fitted in."""

import math
from dataclasses import dataclass

import numpy as np

from parambudget.arch.dims import Size
from parambudget.errors import InputError
from parambudget.units import format_count, shorten


@dataclass(frozen=True)
class FittedRange:
    """Where a law holds, both ends included."""

    low: float
    high: float

    def warning(self, value: float, what: str) -> str | None:
        """One line when `value` lies outside, None when it lies within."""
        if self.contains(value):
            return None
        return f"{format_quantity(value)} {what}: outside the law's range ({self}), extrapolated"

    def contains(self, value: float) -> bool:
        """Whether the law holds at `value`."""
        return self.low <= value <= self.high

    def clamp(self, value: float) -> float:
        """`value`, or the end of the range that is nearest to it."""
        return min(self.high, max(self.low, value))

    def __str__(self) -> str:
        return f"{format_quantity(self.low)} to {format_quantity(self.high)}"


def require_positive(value: object, what: str) -> float:
    """`value` as a float, finite and above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InputError(f"{what} is {shorten(repr(value))}; it must be a number above 0")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not 0 < number < math.inf:
        raise InputError(f"{what} is {number:g}; it must be a finite number above 0")
    return number


def require_all_positive(value: Size, what: str) -> Size:
    """`value` as a float, or as an array of them where it is an array; all finite and above 0."""
    if not isinstance(value, np.ndarray):
        return require_positive(value, what)
    if value.dtype.kind not in "iuf":
        raise InputError(f"{what} is an array of {value.dtype}; it must contain numbers above 0")
    numbers = value.astype(np.float64)
    wrong = ~((numbers > 0) & (numbers < math.inf))
    if wrong.any():
        raise InputError(
            f"{what} contains {numbers[wrong][0]:g}; every value must be a finite number above 0"
        )
    return numbers


def as_float(number: Size) -> Size:
    """A NumPy scalar as a float; an array as it is."""
    return number if isinstance(number, np.ndarray) else float(number)


def format_quantity(number: float) -> str:
    """Counts as people write them; FLOPs of a whole run, which outgrow the letters, as powers of ten."""
    return format_count(number) if number < 1e16 else f"{number:.2g}"
