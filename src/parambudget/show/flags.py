"""Fields of a model as the flags that say them."""

from collections.abc import Mapping
from typing import Any, Final

from parambudget.arch.config import ModelConfig
from parambudget.formats.source import changed_fields

_PAIRS: Final = {"tied": ("--tied", "--untied"), "gated": ("--gated", "--plain")}


def switch(name: str) -> tuple[str, str]:
    """The flags that set a field of true or false: `--qkv-bias` and `--no-qkv-bias`."""
    dashed = name.replace("_", "-")
    return _PAIRS.get(name, (f"--{dashed}", f"--no-{dashed}"))


def flags(model: ModelConfig) -> str:
    """The shortest flags that say this model."""
    return as_flags(changed_fields(model))


def as_flags(fields: Mapping[str, Any]) -> str:
    """The flags that say these fields; what is absent (None) needs none."""
    words = []
    for name, value in fields.items():
        if isinstance(value, bool):
            words.append(switch(name)[not value])
        elif isinstance(value, tuple):
            words.append(f"--{name.replace('_', '-')} {','.join(value)}")
        elif value is not None:
            words.append(f"--{name.replace('_', '-')} {value}")
    return " ".join(words)
