"""A model as it was read from another tool's file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Imported:
    """The fields of the model, and what a person should know about how they were read."""

    fields: dict[str, Any]
    notes: tuple[str, ...]
    unsupported: tuple[str, ...] = ()
    """What the file's model computes and the fields cannot express; the count is the same."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Fields that the file leaves open, each with what to say to a person who does not give it."""
