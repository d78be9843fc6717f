"""Published decoders by name, each with the exact count of the published model."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets import gpt, llama, moe
from parambudget.arch.presets.row import Preset
from parambudget.errors import ConfigError

__all__ = ["PRESETS", "TABLE", "Preset", "find", "preset"]

TABLE: Final = gpt.ROWS + llama.ROWS + moe.ROWS

PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {row.name: row for row in sorted(TABLE, key=lambda row: row.name)}
)


def preset(name: str) -> ModelConfig:
    """The published model of that name; case, `_` for `-` and a leading owner (`Qwen/`) do not matter."""
    return find(name).model


def find(name: str) -> Preset:
    """The table's row of that name, with its count and source; an unknown name lists the nearest."""
    owner, _, own = name.rpartition("/")
    key = (name if owner.startswith(".") or "/" in owner else own).lower().replace("_", "-")
    if key in PRESETS:
        return PRESETS[key]
    from difflib import get_close_matches

    near = get_close_matches(key, PRESETS, n=5, cutoff=0.0)
    raise ConfigError(f"unknown preset {name!r}; the nearest are {', '.join(near)}")
