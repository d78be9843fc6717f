"""The parameters of a class of transformers: what `from_class.py` counts, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from typing_extensions import TypedDict

from parambudget._tabular import Tabular

ClassComponent = Literal["embedding", "mixer", "ffn", "experts", "router", "norm", "lm_head", "other"]
CLASS_COMPONENTS: Final[tuple[ClassComponent, ...]] = get_args(ClassComponent)


class ClassCountDocument(TypedDict):
    """The parameters that a class of transformers has for a config. Without the fields of a model, so that no
    other command reads it."""

    counted_from: str
    """The class and the version of transformers that was installed."""
    model_type: str
    """That of the config."""
    total: int
    """Unique parameters: a tied head once, no buffers."""
    active: int | None
    """Parameters used per token: the total without the experts that a token skips. null where the class does
    not say how many experts a token uses."""
    components: dict[ClassComponent, int]
    """Parameters by module; they sum to the total. A mixer is attention or what stands in its place; other is
    what is not of the language model, such as an image encoder, and what no name tells."""
    notes: list[str]
    """How active was counted, and what the class does not have."""


@dataclass(frozen=True, repr=False)
class ClassCount(Tabular):
    """The parameters of a class of transformers, built from a config on the meta device. Exact ints."""

    model_type: str
    model_class: str
    """Its name in transformers."""
    version: str
    """That of transformers."""
    total: int
    """Unique parameters: a tied head once, no buffers."""
    active: int | None
    """Parameters used per token: the total without the experts that a token skips. None where the class does
    not say how many experts a token uses."""
    by_component: Mapping[ClassComponent, int]
    """By module; sums to the total. A mixer is attention or what stands in its place; other is what is not of
    the language model, such as an image encoder, and what no name tells."""
    notes: tuple[str, ...] = ()
    """How active was counted, and what the class does not have."""

    @property
    def counted_from(self) -> str:
        """The class and the version that was counted, in words."""
        return f"the class {self.model_class} of transformers {self.version}"

    def rows(self) -> list[dict[str, Any]]:
        """One dict per component that has parameters, and the total."""
        rows: list[dict[str, Any]] = [
            {"component": name, "parameters": count, "share": count / self.total}
            for name, count in self.by_component.items()
            if count
        ]
        return [*rows, {"component": "total", "parameters": self.total, "share": 1.0}]

    def as_dict(self) -> ClassCountDocument:
        """Plain JSON values."""
        return {
            "counted_from": self.counted_from,
            "model_type": self.model_type,
            "total": self.total,
            "active": self.active,
            "components": dict(self.by_component),
            "notes": list(self.notes),
        }
