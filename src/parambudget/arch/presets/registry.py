"""Published models by name, each with the exact count of the published weights."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets import gpt, llama, moe
from parambudget.arch.presets.row import Preset
from parambudget.errors import ConfigError, nearest_in_words, suggest

TABLE: Final = gpt.ROWS + llama.ROWS + moe.ROWS

PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {row.name: row for row in sorted(TABLE, key=lambda row: row.name)}
)


def preset(name: str) -> ModelConfig:
    """The published model of that name; case, `_` for `-` and a leading owner (`Qwen/`) do not matter."""
    return preset_row(name).model


def preset_row(name: str) -> Preset:
    """The row of that name, with count and source; the error for an unknown name lists the nearest."""
    owner, _, own = name.rpartition("/")
    key = (name if owner.startswith(".") or "/" in owner else own).lower().replace("_", "-")
    if key in PRESETS:
        return PRESETS[key]
    near = suggest(key, PRESETS, most=5, cutoff=0)
    raise ConfigError(f"unknown preset {name!r}; {nearest_in_words(near)}")
