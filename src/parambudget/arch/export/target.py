"""What a model is written as, and why it is not: one line that says what comes nearest and what it lacks."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from parambudget.arch.config import ModelConfig
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Difference, differences

_MOST_NAMED: Final = 3
"""Differences that are named and not only counted."""


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
    file: str = "config.json"
    """What the tool calls the file."""


@dataclass(frozen=True)
class Attempt:
    """A model in another tool's words, read again."""

    export: Export
    read: ModelConfig


def chosen(model: ModelConfig, attempts: Iterable[Callable[[], Attempt]], told: str) -> Export:
    """The first attempt that is the model when it is read again; if there is none, one that differs only in
    what a `ModelConfig` cannot say; otherwise `ConfigError` with what the nearest one lacks. `told` says in
    the message what has been searched, such as "no class of transformers"."""
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
        if not found:
            alike.append(made.export)
        misses.append((found, made.export))
    if alike:
        return alike[0]
    if not misses:
        raise ConfigError(f"{told} can say this model: {broken[0]}")
    lacks, nearest = min(misses, key=lambda miss: len(miss[0]))
    which = f"the nearest, {nearest.name}," if len(misses) > 1 else nearest.name
    raise ConfigError(f"{told} is this model: {which} {_lack(lacks)}")


def _lack(found: Sequence[Difference]) -> str:
    """What the nearest has otherwise, and what to change."""
    told = [
        f"has {one.field}={_short(one.got)} where the model has {_short(one.wanted)}"
        for one in found[:_MOST_NAMED]
    ]
    if len(found) > _MOST_NAMED:
        told.append(f"differs in {len(found) - _MOST_NAMED} more")
    return f"{', '.join(told)}; {_remedy(found)} to export it so"


def _remedy(found: Sequence[Difference]) -> str:
    if len(found) > 1:
        return "change these fields"
    (one,) = found
    return f"leave {one.field} out" if one.got is None else f"set {one.field} to {_short(one.got)}"


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    said = ",".join(map(str, value)) if isinstance(value, tuple) else repr(value)
    return said if len(said) < 60 else f"{said[:57]}..."
