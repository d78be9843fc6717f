"""One axis of the lattice: a value, a list or an inclusive range, parsed from flag text and written back."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from operator import index
from typing import Final, SupportsIndex

from parambudget.errors import ConfigError
from parambudget.units import parse_size

_MOST_VALUES: Final = 1_000_000

AxisLike = int | str | Iterable[int]
RatioLike = str | float | tuple[float | str | Fraction, float | str | Fraction]


@dataclass(frozen=True)
class Axis:
    """The values that one size may take, ascending and distinct, and the flag text that names them."""

    values: tuple[int, ...]
    text: str

    @classmethod
    def parse(cls, given: AxisLike, name: str, step: int | None = None, least: int = 1) -> "Axis":
        """An axis from `896`, `64,128`, `lo:hi`, `lo:hi:step`, an int or any ints, none below `least`.

        Ranges include both ends. With a `step`, a range that gives none runs over the multiples of that step.
        """
        if not isinstance(given, str):
            return cls.from_values(given if isinstance(given, Iterable) else [given], name, step, least)
        if ":" not in given:
            parts = given.split(",")
            if dashed := re.fullmatch(r" *(\d+) *(?:-|\.\.) *(\d+) *", given):
                raise ConfigError(
                    f"{name} {given!r} is not a range; ranges are written {dashed[1]}:{dashed[2]}"
                )
            if any(len(part) > 1 and part.startswith("0") for part in parts):
                number = given.replace(",", "")
                raise ConfigError(
                    f"{name} {given!r} could be a list or one number; write {number} if it is one"
                )
            return cls.from_values([parse_size(part, name) for part in parts], name, step, least)
        parts = given.split(":")
        if len(parts) > 3 or not all(parts):
            raise ConfigError(
                f"{name} {given!r} is not a range; use lo:hi or lo:hi:step, such as 256:4096:64"
            )
        low, high, *rest = (parse_size(part, name) for part in parts)
        if rest and rest[0] < 1:
            raise ConfigError(f"{name} {given!r} has a step of {rest[0]}; use 1 or more")
        if low > high:
            raise ConfigError(f"{name} {given!r} runs from high to low; write {high}:{low}")
        _require_least(low, name, least)
        start = low if rest or step is None else -(-low // step) * step
        values = range(start, high + 1, rest[0] if rest else step or 1)
        if not values:
            raise ConfigError(
                f"{name} {given!r} contains no multiple of {step}; widen the range or change multiple"
            )
        return cls.from_values(values, name, step, least)

    @classmethod
    def from_values(cls, values: Iterable[int], name: str, step: int | None = None, least: int = 1) -> "Axis":
        """An axis of these values; its text is the shortest that reads back to them with that `step`."""
        if isinstance(values, range) and len(values) > _MOST_VALUES:
            raise ConfigError(
                f"{name} has {len(values):,} values; at most {_MOST_VALUES:,} are searched, use a larger step"
            )
        ascends = isinstance(values, range) and values.step > 0
        distinct = tuple(values if ascends else sorted(set(_whole_numbers(values, name))))
        if not distinct:
            raise ConfigError(f"{name} has no values; use a size such as 896, 64,128 or 256:4096:64")
        _require_least(distinct[0], name, least)
        return cls(distinct, _flag_text(distinct, step or 1))


def parse_ratio(given: RatioLike) -> tuple[Fraction, Fraction]:
    """Bounds on intermediate_size / dim from `a:b`, as exact rationals; `8/3:4` and `2.5:6` are fine, `4`
    means 4:4."""
    if isinstance(given, int | float):
        given = str(given)
    parts = given.split(":") if isinstance(given, str) else list(given)
    try:
        bounds = [
            part if isinstance(part, Fraction) else Fraction(_checked_ratio(str(part))) for part in parts
        ]
    except (ValueError, ZeroDivisionError):
        bounds = []
    if len(bounds) not in (1, 2) or any(not 0 < bound <= 1000 for bound in bounds):
        raise ConfigError(
            f"ffn_ratio {given!r} is not a pair of ratios; use a:b with numbers above 0, such as 1:6 or 8/3:4"
        )
    low, high = bounds[0], bounds[-1]
    if low > high:
        raise ConfigError(f"ffn_ratio {given!r} runs from high to low; write {high}:{low}")
    return low, high


def _checked_ratio(text: str) -> str:
    """The text of a ratio, unless its digits or its exponent would fill the memory."""
    if not re.fullmatch(r"[0-9.]{1,40}(/[0-9.]{1,40})?(e-?[0-9])?", text):
        raise ValueError
    return text


def _require_least(value: int, name: str, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name} is {value}; sizes start at {least}")


def _whole_numbers(values: Iterable[SupportsIndex], name: str) -> list[int]:
    """Any whole numbers, NumPy's too, as Python's own."""
    given = list(values)
    try:
        whole = [index(value) for value in given]
    except TypeError:
        whole = []
    if len(whole) < len(given) or any(isinstance(value, bool) for value in given):
        shown = ", ".join(map(repr, given[:3]))
        raise ConfigError(f"{name} is {shown}; use whole sizes, such as 896, 64,128 or 256:4096:64")
    return whole


def _flag_text(values: tuple[int, ...], usual_step: int) -> str:
    if len(values) > 2:
        step = values[1] - values[0]
        if values == tuple(range(values[0], values[-1] + 1, step)):
            return f"{values[0]}:{values[-1]}" + (f":{step}" if (step, usual_step) != (1, 1) else "")
    return ",".join(map(str, values))
