"""All families that are read, by `model_type`."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from parambudget.errors import ConfigError, suggest
from parambudget.formats.hf.families.counted import COUNTED_FAMILIES
from parambudget.formats.hf.families.counted_moe import COUNTED_MOE_FAMILIES
from parambudget.formats.hf.families.deepseek import DEEPSEEK_FAMILIES
from parambudget.formats.hf.families.gpt import GPT_FAMILIES
from parambudget.formats.hf.families.hybrid import HYBRID_FAMILIES
from parambudget.formats.hf.families.linear_mixers import LINEAR_MIXER_FAMILIES
from parambudget.formats.hf.families.llama import LLAMA_FAMILIES
from parambudget.formats.hf.families.llama_kin import LLAMA_KIN
from parambudget.formats.hf.families.moe import MOE_FAMILIES
from parambudget.formats.hf.families.remote_code import REMOTE_CODE_FAMILIES
from parambudget.formats.hf.families.sliding_window import SLIDING_WINDOW_FAMILIES
from parambudget.formats.hf.families.sparse_attention import SPARSE_ATTENTION_FAMILIES
from parambudget.formats.hf.families.state_space import STATE_SPACE_FAMILIES
from parambudget.formats.hf.families.text_parts import TEXT_PART_FAMILIES
from parambudget.formats.hf.schema import Family
from parambudget.units import shorten

FAMILIES: Final[Mapping[str, Family]] = dict(
    sorted(
        {
            **GPT_FAMILIES,
            **LLAMA_FAMILIES,
            **LLAMA_KIN,
            **SLIDING_WINDOW_FAMILIES,
            **MOE_FAMILIES,
            **DEEPSEEK_FAMILIES,
            **SPARSE_ATTENTION_FAMILIES,
            **COUNTED_FAMILIES,
            **COUNTED_MOE_FAMILIES,
            **TEXT_PART_FAMILIES,
            **HYBRID_FAMILIES,
            **LINEAR_MIXER_FAMILIES,
            **STATE_SPACE_FAMILIES,
            **REMOTE_CODE_FAMILIES,
        }.items()
    )
)


def find_family(model_type: object, own_code: object = None) -> Family:
    """The family of a `model_type`; raises `ConfigError` with the true reason and what to do instead.

    `own_code` is what the config has under `auto_map`: the names of its author's code.
    """
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    what = f"model_type {shorten(repr(model_type), 30)} is not supported"
    if hint := class_hint(model_type):
        raise ConfigError(f"{what}; {hint}")
    if own_code:
        raise ConfigError(
            f"{what}: what it builds is in code of its author (auto_map), which is never run; convert it to "
            "a type of transformers, or give the fields of the model"
        )
    near = suggest(str(model_type), FAMILIES)
    raise ConfigError(f"{what}; {'did you mean ' + ', '.join(near) + '?' if near else _where_to_look()}")


def _where_to_look() -> str:
    """Where the types are listed, and what counts others, as far as is known without transformers."""
    listed = f"docs/families.md lists the {len(FAMILIES)} types that are"
    if find_spec("transformers") is not None:
        return listed
    return f"{listed}, and where transformers is installed `pb.count_class()` counts all that it has"


def class_hint(model_type: object) -> str | None:
    """What to do about a type that is not read, where a class of transformers may count it; None where the
    installed version has no such type."""
    spec = find_spec("transformers") if isinstance(model_type, str) else None
    if spec is None or spec.origin is None:
        return None
    # Its files, and not itself: importing it takes seconds.
    tables = (Path(spec.origin).parent / "models" / "auto").glob("*_auto.py")
    mappings = (Path(spec.origin).parent / "models" / "auto").glob("*_mappings.py")
    if any(f'"{model_type}"' in table.read_text(encoding="utf-8") for table in (*mappings, *tables)):
        return "`pb.count_class()` counts it from its class in transformers"
    return None
