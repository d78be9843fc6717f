"""What a model is written as, and why it is not: one line that says what comes nearest and what it lacks."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from parambudget.arch.config import ModelConfig
from parambudget.arch.export.meaning import Difference, differences
from parambudget.errors import ConfigError

_MOST_NAMED: Final = 3
"""Differences that are named; the others are counted."""


@dataclass(frozen=True)
class Export:
    """A model in another tool's words."""

    name: str
    """Of the class or tool that it is written for."""
    document: dict[str, Any]
    """What is written, by key."""
    notes: tuple[str, ...] = ()
    """What a person should know about it."""
    unsaid: tuple[str, ...] = ()
    """What the other tool computes and the model does not say: same count, other logits."""


@dataclass(frozen=True)
class Attempt:
    """A model in another tool's words, read again."""

    export: Export
    read: ModelConfig


def chosen(model: ModelConfig, attempts: Iterable[Callable[[], Attempt]], told: str, nearest: str) -> Export:
    """The first attempt that is the model when it is read again; if there is none, one that differs only in
    what a `ModelConfig` cannot say; otherwise `ConfigError` with what the nearest one lacks.

    `told` says that there is none, and `nearest`, with the name of an export in it, which one comes nearest.
    """
    misses: list[tuple[list[Difference], Export]] = []
    alike: list[Export] = []
    broken: list[str] = []
    for attempt in attempts:
        try:
            made = attempt()
        except ConfigError as error:
            broken.append(str(error))
            continue
        found = differences(model, made.read)
        if not found and not made.export.unsaid:
            return made.export
        if found:
            misses.append((found, made.export))
        else:
            alike.append(made.export)
    if alike:
        return alike[0]
    if not misses:
        raise ConfigError(f"{told}: {broken[0]}")
    lacks, miss = min(misses, key=lambda each: len(each[0]))
    raise ConfigError(f"{told}: {nearest.format(miss.name)} has {_lack(lacks)}")


def _lack(found: Sequence[Difference]) -> str:
    """What the nearest has otherwise, and what to change."""
    told = [f"{one.field}={_short(one.got)} where the model has {_short(one.wanted)}" for one in found]
    if len(found) == 1:
        return f"{told[0]}; set {found[0].field} to {_short(found[0].got)} to export it"
    rest = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return f"{', '.join(told[:_MOST_NAMED])}{rest}; change these fields to export it"


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    said = ",".join(map(str, value)) if isinstance(value, tuple) else repr(value)
    return said if len(said) < 60 else f"{said[:57]}..."
