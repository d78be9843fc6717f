"""What an hour of an accelerator is rented for: ranges, each with its source and date.

Prices halve or double within a year. A figure made of one is printed with "as of", and a price that is given
takes the place of the range.
"""

import math
from dataclasses import dataclass
from datetime import date
from typing import Final

from parambudget.cost.hardware import Accelerator
from parambudget.errors import InputError

_READ: Final = date(2026, 11, 22)


@dataclass(frozen=True)
class Price:
    """US dollars for an hour of one accelerator."""

    low: float
    high: float
    source: str
    read_on: date | None
    """None for a price that was given."""
    median: float | None = None
    """Where the source has one."""

    @property
    def middle(self) -> float:
        """The median, or else the geometric mean: as many times above the low end as below the high one."""
        return math.sqrt(self.low * self.high) if self.median is None else self.median


_SEEN: Final = "published on-demand prices, from marketplaces to hyperscalers"
_RECALLED: Final = "as commonly offered; not checked against a price list"
_PRICES: Final = {
    "a100-40-sxm": (0.8, 2.0, _RECALLED),
    "a100-80-sxm": (0.8, 3.0, f"{_SEEN}, May 2026"),
    "a100-80-pcie": (0.8, 3.0, f"{_SEEN}, May 2026, of the SXM version"),
    "h100-sxm": (2.0, 5.0, f"{_SEEN}, May 2026"),
    "h100-pcie": (1.8, 3.0, _RECALLED),
    "h100-nvl": (2.2, 3.5, _RECALLED),
    "h200-sxm": (2.5, 7.0, f"{_SEEN}, March to May 2026"),
    "b200": (4.5, 8.0, "around the 6.03 of Spheron, March 2026"),
    "gb200": (4.5, 10.0, "around half of the 9.08 that Spheron asks for two, March 2026"),
    "l40s": (0.8, 2.0, _RECALLED),
    "a10g": (0.5, 1.3, _RECALLED),
    "rtx-3090": (0.15, 0.4, _RECALLED),
    "rtx-4090": (0.3, 0.8, _RECALLED),
    "rtx-5090": (0.45, 1.2, _RECALLED),
    "mi300x": (1.9, 4.0, _RECALLED),
}
_MEDIANS: Final = {"h100-sxm": 2.95}


def price_of(accelerator: Accelerator) -> Price:
    """What an hour of it costs to rent, as of the date in the answer."""
    if accelerator.name not in _PRICES:
        raise InputError(f"no price is known for {accelerator.name}; give one in US dollars per hour")
    low, high, source = _PRICES[accelerator.name]
    return Price(low, high, source, _READ, _MEDIANS.get(accelerator.name))


def given_price(dollars_per_hour: float) -> Price:
    """A price that somebody named; 0 for an accelerator of one's own."""
    if not (math.isfinite(dollars_per_hour) and dollars_per_hour >= 0):
        raise InputError(f"price {dollars_per_hour:g} is not one; use US dollars per hour, 0 or more")
    return Price(dollars_per_hour, dollars_per_hour, "given", None)
