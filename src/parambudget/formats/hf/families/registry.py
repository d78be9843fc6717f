"""All families that are read, by `model_type`."""

from collections.abc import Mapping
from typing import Final

from parambudget.errors import ConfigError, suggest
from parambudget.formats.hf.families.gpt import GPT_FAMILIES
from parambudget.formats.hf.families.llama import LLAMA_FAMILIES
from parambudget.formats.hf.families.moe import MOE_FAMILIES
from parambudget.formats.hf.families.sliding_window import SLIDING_WINDOW_FAMILIES
from parambudget.formats.hf.schema import Family
from parambudget.units import shorten

FAMILIES: Final[Mapping[str, Family]] = dict(
    sorted({**GPT_FAMILIES, **LLAMA_FAMILIES, **SLIDING_WINDOW_FAMILIES, **MOE_FAMILIES}.items())
)


def find_family(model_type: object) -> Family:
    """The family of a `model_type`; raises `ConfigError` with the closest known ones."""
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    near = suggest(str(model_type), FAMILIES)
    hint = f"did you mean {', '.join(near)}?" if near else f"supported are {', '.join(FAMILIES)}"
    raise ConfigError(f"model_type {shorten(repr(model_type), 30)} is not supported; {hint}")
