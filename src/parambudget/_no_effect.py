"""Settings that change nothing where others have certain values, and the sentence that says so."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from parambudget.units import short_repr

Values = TypeVar("Values")


@dataclass(frozen=True)
class NoEffect(Generic[Values]):
    """A row of a table of such settings."""

    settings: tuple[str, ...]
    applies: Callable[[Values], bool]
    """Whether they change nothing with these values of all settings."""
    reason: str
    """Ends the sentence "x has no effect: "."""


def without_effect(
    table: Iterable[NoEffect[Values]], given: Mapping[str, object], values: Values
) -> Iterator[str]:
    """A sentence for every row that applies to what is given, a setting once: with the first of its rows."""
    unsaid = dict(given)
    for row in table:
        if unsaid.keys().isdisjoint(row.settings) or not row.applies(values):
            continue
        named = [f"`{name}={_format(unsaid.pop(name))}`" for name in row.settings if name in unsaid]
        yield f"{' and '.join(named)} {'has' if len(named) == 1 else 'have'} no effect: {row.reason}"


def _format(value: object) -> str:
    return (
        f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else short_repr(value)
    )
