"""One field of a model changed, as a slider or a box does it: what follows from the field follows along."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from parambudget.arch.config import BLOCKS, FIELDS, ModelConfig, flat_fields
from parambudget.arch.defaults import DERIVED, DERIVED_IN_BLOCKS, with_defaults
from parambudget.arch.mixers.proportions import mixer_sizes_at
from parambudget.arch.sizes import sizes_of
from parambudget.arch.style import STYLES, StyleName, with_style
from parambudget.arch.validation import LARGEST_SIZE, divisors
from parambudget.errors import ConfigError
from parambudget.formats.source import changed_fields

NEW_BLOCKS: Final[Mapping[str, Mapping[str, int]]] = {
    "moe": {"n_experts": 8, "n_experts_per_token": 2},
    "mla": {"kv_lora_rank": 512},
}
"""What a block begins with when it is switched on: the experts of Mixtral, the latent of DeepSeek-V2."""
_EXCLUDED_BY_MLA: Final = ("n_kv_heads", "head_dim", "n_heads", "qk_norm", "qkv_clip")


@dataclass(frozen=True)
class ModelEdit:
    """The model after a change, and what else changed with it, a sentence each."""

    model: ModelConfig
    notes: tuple[str, ...] = ()


def change_field(model: ModelConfig, name: str, value: object) -> ModelEdit:
    """The model with a field changed, or with a block (`moe`, `mla`) switched on or off.

    Fields at their conventional value stay so. The heads follow the width where they fill it, and the
    key/value heads stay a divisor of the query heads; the sizes of a mixer stay in proportion to the width.
    None gives a field its conventional value or its default. Raises `ConfigError` where it has neither, or
    where the model then contradicts itself.
    """
    given = _explicit_fields(model)
    if name in BLOCKS:
        return ModelEdit(with_defaults(_with_block(given, name, on=bool(value))).model)
    if value is None:
        if FIELDS[name].is_required() and name not in (*DERIVED, *DERIVED_IN_BLOCKS):
            raise ConfigError(f"{name} is empty; give a size")
        given.pop(name, None)
    else:
        given[name] = value
    notes = []
    if name == "dim":
        notes += _follow_width(given, model, value)
    if name in ("dim", "n_heads"):
        notes += _follow_heads(given)
    return ModelEdit(with_defaults(given).model, tuple(notes))


def apply_style(model: ModelConfig, style: StyleName) -> ModelEdit:
    """The model with the choices of a style, and its own sizes, blocks and `rope_theta`; the note names every
    value that is another one now. Raises `ConfigError` where the style cannot have the sizes."""
    own = {
        *sizes_of(model),
        "rope_theta",
        *(name for block in BLOCKS.values() for name in block.model_fields),
    }
    if "tied" not in STYLES[style].fields:  # it goes by the size, and the sizes stay
        own.add("tied")
    kept = {name: value for name, value in _explicit_fields(model).items() if name in own}
    styled = with_defaults(with_style(style, kept)).model
    before, after = flat_fields(model), flat_fields(styled)
    replaced = [
        f"{name} is now {after[name]} (was {value})"
        for name, value in before.items()
        if name in after and after[name] != value
    ]
    if not replaced:
        return ModelEdit(styled)
    return ModelEdit(styled, (f"style {style}: {', '.join(replaced)}",))


def _explicit_fields(model: ModelConfig) -> dict[str, Any]:
    """The fewest fields that give the model, with its heads spelled out: they need not fill the width."""
    given = changed_fields(model)
    if model.mla is None and model.n_attention_layers:
        given |= {"n_heads": model.n_heads, "head_dim": model.head_dim}
    return given


def _with_block(given: dict[str, Any], name: str, *, on: bool) -> dict[str, Any]:
    own = BLOCKS[name].model_fields
    kept = {key: value for key, value in given.items() if key not in own}
    if name == "mla":
        kept = {key: value for key, value in kept.items() if key not in _EXCLUDED_BY_MLA}
    return kept | (dict(NEW_BLOCKS[name]) if on else {})


def _follow_width(given: dict[str, Any], model: ModelConfig, dim: object) -> list[str]:
    """Heads that filled the old width fill the new one, if a whole number of them does; a mixer keeps its
    proportion."""
    if not isinstance(dim, int) or not 0 < dim <= LARGEST_SIZE:
        return []
    notes = []
    fill = model.n_attention_layers and model.mla is None and model.n_heads * model.head_dim == model.dim
    if fill and dim % model.head_dim == 0:
        given["n_heads"] = dim // model.head_dim
        notes.append(f"n_heads is now {given['n_heads']}: heads of {model.head_dim} fill the width")
    before = flat_fields(model)
    sizes = {name: size for name, size in mixer_sizes_at(model, dim).items() if size != before[name]}
    given |= sizes
    return notes + [f"{name} is now {size}, in proportion to the width" for name, size in sizes.items()]


def _follow_heads(given: dict[str, Any]) -> list[str]:
    heads, kv_heads = given.get("n_heads"), given.get("n_kv_heads")
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or not 0 < heads <= LARGEST_SIZE:
        return []
    if heads % kv_heads == 0:
        return []
    given["n_kv_heads"] = max(number for number in divisors(heads) if number <= kv_heads)
    return [f"n_kv_heads is now {given['n_kv_heads']}: it must divide n_heads={heads}"]
