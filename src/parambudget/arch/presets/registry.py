"""Published models by name, each with the exact count of the published weights."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from warnings import warn

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets import counted, gpt, hybrid, llama, moe, state_space
from parambudget.arch.presets.row import Preset
from parambudget.errors import ConfigError, UnsupportedWarning, nearest_in_words, suggest

TABLE: Final = gpt.ROWS + llama.ROWS + moe.ROWS + hybrid.ROWS + state_space.ROWS + counted.ROWS

PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {row.name: row for row in sorted(TABLE, key=lambda row: row.name)}
)


def preset(name: str) -> ModelConfig:
    """The published model of that name; case, `_` for `-` and a leading owner (`Qwen/`) do not matter.

    Warns where it computes more than a `ModelConfig` can express.
    """
    row = preset_row(name)
    for note in row.notes:
        warn(f"{row.name}: {note}", UnsupportedWarning, stacklevel=2)
    return row.model


def preset_row(name: str) -> Preset:
    """The row of that name, with count and source; the error for an unknown name lists the nearest."""
    owner, _, own = name.rpartition("/")
    key = (name if owner.startswith(".") or "/" in owner else own).lower().replace("_", "-")
    if key in PRESETS:
        return PRESETS[key]
    near = suggest(key, PRESETS, most=5, cutoff=0)
    raise ConfigError(f"unknown preset {name!r}; {nearest_in_words(near)}")
