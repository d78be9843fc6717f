"""When two models are the same, and how a model is exported only as itself.

An export is read back as a model and compared with the original, field by field.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parambudget._files import atomic_write
from parambudget.arch.blocks import BranchMultipliers
from parambudget.arch.config import FIELDS, ModelConfig, flat_fields, require_module
from parambudget.arch.dims import pattern_at
from parambudget.arch.rope_scaling import RopeScaling
from parambudget.errors import ConfigError, InputError
from parambudget.units import LONGEST_VALUE, shorten

_INITIALISATION_FIELDS: Final = ("init_std", "zero_init_out")
"""Fields that matter for the initial weights only."""
_LAYOUT_FIELDS: Final = ("fused_experts", "n_first_dense")
"""Fields that are redundant, or that decide how tensors are laid out."""
_ROTARY_FIELDS: Final = (
    "rope_theta", "rotary_fraction", "rotary_fraction_local", "rotary_interleaved", "rotary_pattern",
)  # fmt: skip
_ATTENTION_FIELDS: Final = (
    "n_heads", "n_kv_heads", "head_dim", "qkv_bias", "attention_out_bias", "attention_multiplier",
    "attention_softcap", "attention_gate", "attention_sinks", "qk_norm", "qk_norm_bias", "qkv_clip",
    *_ROTARY_FIELDS,
)  # fmt: skip
"""Fields without effect where no layer has attention."""
_FFN_FIELDS: Final = ("gated", "channel_mix", "activation", "ffn_bias", "ffn_clamp")
_TOLERANCE: Final = 1e-9
"""Relative difference of floats that count as equal: a square root, squared and written as text."""


@dataclass(frozen=True)
class FieldDifference:
    """A field in which two models differ."""

    field: str
    wanted: Any
    got: Any


def differences(wanted: ModelConfig, got: ModelConfig) -> list[FieldDifference]:
    """Where the models differ in count or function, in the order of the fields; empty if they are the same.

    Initial weights are not a difference, nor is whether experts are stored in one tensor.
    """
    ours, theirs = canonical_fields(wanted), canonical_fields(got)
    if wanted.position != got.position:
        names = (*_ROTARY_FIELDS, "rope_theta_local", *RopeScaling.model_fields)
        ours |= {name: theirs.get(name) for name in names}
    elif ours["rope_type"] != theirs["rope_type"]:
        names = ("rope_theta_local", *RopeScaling.model_fields)
        ours |= {name: theirs.get(name) for name in names if name != "rope_type"}
    if (ours["window"] is None) != (theirs["window"] is None):
        names = ("window_pattern", "window_kind", "rope_theta_local", "rotary_fraction_local")
        ours |= {name: theirs.get(name) for name in names}
    our_fields, their_fields = flat_fields(wanted), flat_fields(got)
    found = []
    for field in FIELDS:
        if _are_equal(ours.get(field), theirs.get(field)):
            continue
        pair = _readable_value(our_fields, ours, field), _readable_value(their_fields, theirs, field)
        # Equal values of different models can differ in effect, such as a fraction of heads of other widths.
        pair = (ours.get(field), theirs.get(field)) if pair[0] == pair[1] else pair
        found.append(FieldDifference(field, *pair))
    return found


def canonical_fields(m: ModelConfig) -> dict[str, Any]:
    """The fields of a model in a form that is the same for all models that compute the same: patterns written
    out layer by layer, shared experts merged into one, defaults filled in, None for fields without effect."""
    fields = flat_fields(m)
    for name in (*_INITIALISATION_FIELDS, *_LAYOUT_FIELDS):
        fields.pop(name, None)
    layers = range(m.n_layers)
    fields["mixer_pattern"] = tuple(pattern_at(m.mixer_pattern, layer) for layer in layers)
    fields["ffn_pattern"] = tuple(pattern_at(m.ffn_pattern, layer) for layer in layers)
    for name in ("delta_norm_eps", "lightning_norm_eps"):
        if fields.get(name, 0) is None:
            fields[name] = m.norm_eps
    local = tuple(m.is_local(layer) and m.has_attention(layer) for layer in layers)
    fields["window"] = m.window if any(local) else None
    fields["window_pattern"] = local
    if m.position == "rotary":
        fields["rotary_fraction"] = m.rotary_width(local=all(local))
        fields["rotary_fraction_local"] = m.rotary_width(local=True) if any(local) else None
        fields["rotary_pattern"] = tuple(m.rotates(layer) for layer in layers)
        # Without a base of their own, local layers have the rescaled angles of the others.
        shared = m.rope_theta if m.rope_scaling is None else None
        fields["rope_theta_local"] = (m.rope_theta_local or shared) if any(local) else None
    else:
        fields |= dict.fromkeys(_ROTARY_FIELDS)
    if m.rope_scaling is None:
        fields["rope_type"] = "none"
    else:
        fields["rope_attention_factor"] = m.rotary_scale
    if m.attention_multiplier is None:
        fields["attention_multiplier"] = m.head_dim**-0.5
    fields |= _canonical_heads(m, local)
    if m.mla is not None:
        fields["latent_norm_eps"] = m.norm_eps if m.mla.latent_norm_eps is None else m.mla.latent_norm_eps
    if m.indexer is not None:
        fields["indexer_pattern"] = tuple(m.has_indexer(layer) for layer in layers)
    fields["qk_norm_bias"] = m.qk_norm != "none" and (
        m.norm_bias if m.qk_norm_bias is None else m.qk_norm_bias
    )
    fields["mixer_pattern"] = tuple(m.mixer_pattern[layer % len(m.mixer_pattern)] for layer in layers)
    fields["ffn_pattern"] = tuple(m.has_ffn(layer) for layer in layers)
    if m.mamba is not None and m.mamba.mamba_norm != "none":
        fields["mamba_norm_eps"] = m.norm_eps if m.mamba.mamba_norm_eps is None else m.mamba.mamba_norm_eps
    fields |= dict(BranchMultipliers() if m.multipliers is None else m.multipliers)
    if not m.n_attention_layers:
        fields |= dict.fromkeys(_ATTENTION_FIELDS)
        if m.position != "learned":
            fields |= {"position": "none", "context_length": None}
    return fields | _canonical_ffn_fields(m)


def _canonical_heads(m: ModelConfig, local: Sequence[bool]) -> dict[str, Any]:
    """The heads of layers without a window, and what else few models have."""
    fields: dict[str, Any] = {}
    heads = m.heads(local.index(False)) if any(local) and not all(local) else (None, None, None)
    fields |= zip(("global_n_heads", "global_n_kv_heads", "global_head_dim"), heads, strict=True)
    if m.value_head_dim is None and m.mla is None:
        widths = {m.heads(layer)[2] for layer in range(m.n_layers)}
        fields["value_head_dim"] = m.head_dim if widths == {m.head_dim} else None
    if m.per_layer_embedding_dim is not None:
        fields["per_layer_vocab_size"] = m.per_layer_vocab_size or m.vocab_size
    fields["window_kind"] = m.window_kind if any(local) else None
    if not any(m.scales_queries(layer) for layer in range(m.n_layers)):
        fields |= {"query_scale": "none", "query_scale_strength": None, "query_scale_length": None}
    if m.position != "sinusoidal":
        fields["sinusoidal_theta"] = None
    return fields


def _canonical_ffn_fields(m: ModelConfig) -> dict[str, Any]:
    moe = m.moe
    fields: dict[str, Any] = {} if m.n_dense_layers else {"intermediate_size": None}
    if not m.n_ffn_layers:
        fields |= dict.fromkeys(_FFN_FIELDS)
    if moe is None:
        return fields
    if not m.n_dense_layers and not moe.n_shared_experts and moe.expert_latent_size is None:
        fields["ffn_bias"] = False
    shared = moe.shared_expert_width
    fields |= {"n_shared_experts": int(shared > 0), "shared_intermediate_size": shared}
    fields["moe_pattern"] = tuple(m.has_experts(layer) for layer in range(m.n_layers))
    if moe.n_groups_per_token == moe.n_expert_groups:
        fields |= {"n_expert_groups": 1, "n_groups_per_token": 1}
    return fields


def _are_equal(wanted: object, got: object) -> bool:
    if isinstance(wanted, float) and isinstance(got, float):
        return math.isclose(wanted, got, rel_tol=_TOLERANCE)
    return bool(wanted == got)


def _readable_value(fields: dict[str, Any], canonical: dict[str, Any], field: str) -> Any:
    """The field's value as the model has it, or in canonical form where it is None."""
    value = fields.get(field)
    return canonical.get(field) if value is None and not isinstance(canonical.get(field), tuple) else value


_MOST_NAMED: Final = 3
"""Differences that a message names; further ones are only counted."""


@dataclass(frozen=True)
class Export:
    """A model in the format of another tool."""

    name: str
    """The class or tool that it is written for."""
    document: dict[str, Any]
    """The content of the file, by key."""
    notes: tuple[str, ...] = ()
    """What a person should know about it."""
    unsupported: tuple[str, ...] = ()
    """What the tool computes beyond the model: the count is the same, the logits are not."""
    file: str = "config.json"
    """The tool's name for the file."""
    text: str | None = None
    """The content of the file, where it is not the document in a common form."""


@dataclass(frozen=True)
class Attempt:
    """An export, and the model that it is when it is read back."""

    export: Export
    read: ModelConfig


def first_equivalent(model: ModelConfig, attempts: Iterable[Callable[[], Attempt]], scope: str) -> Export:
    """The first attempt that is the model when it is read back; if there is none, the first that differs only
    in what a `ModelConfig` cannot express; otherwise `ConfigError` with what the closest one lacks.

    `scope` is what the message says was tried, such as "no class of transformers". Raises `ConfigError` too
    for a model that is counted and not built.
    """
    require_module(model)
    misses: list[tuple[list[FieldDifference], Export]] = []
    same_fields: list[Export] = []
    errors: list[str] = []
    for attempt in attempts:
        try:
            made = attempt()
        except ConfigError as error:
            errors.append(str(error))
            continue
        found = differences(model, made.read)
        if not found and not made.export.unsupported:
            return made.export
        if not found:
            same_fields.append(made.export)
        misses.append((found, made.export))
    if same_fields:
        return same_fields[0]
    if not misses:
        raise ConfigError(f"{scope} can express this model: {errors[0]}")
    lacks, closest = min(misses, key=lambda miss: len(miss[0]))
    name = f"the closest, {closest.name}," if len(misses) > 1 else closest.name
    raise ConfigError(f"{scope} is equivalent to this model: {name} {_describe_differences(lacks)}")


def _describe_differences(found: Sequence[FieldDifference]) -> str:
    """What the closest export has instead, and what to change."""
    found = sorted(found, key=lambda one: one.field != "mixer_pattern")  # much else follows from it
    named = [
        f"has {one.field}={_format_value(one.got)} where the model has {_format_value(one.wanted)}"
        for one in found[:_MOST_NAMED]
    ]
    if len(found) > _MOST_NAMED:
        named.append(f"differs in {len(found) - _MOST_NAMED} more")
    return f"{', '.join(named)}; {_suggest_change(found)} to export it"


def _suggest_change(found: Sequence[FieldDifference]) -> str:
    if len(found) > 1:
        return "change these fields"
    (one,) = found
    return f"leave {one.field} out" if one.got is None else f"set {one.field} to {_format_value(one.got)}"


def _format_value(value: object) -> str:
    if value is None:
        return "nothing"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else repr(value)
    return shorten(text, LONGEST_VALUE)


def text_of(export: Export) -> str:
    """The content of the tool's file."""
    return export.text if export.text is not None else _FORMATTERS[export.file](export.document)


def write_into(folder: Path, export: Export, *, force: bool = False) -> Path:
    """Write the file into a folder, which is created if necessary. An existing file is replaced with `force`
    only."""
    path = folder / export.file
    refuse_overwrite(path, force=force)
    make_folder(folder)
    atomic_write(path, text_of(export))
    return path


def refuse_overwrite(path: Path, *, force: bool) -> None:
    """Refuse to replace an existing file without `force`."""
    if not force and os.path.lexists(path):
        raise InputError(
            f"{path} already exists; choose another folder with `out`, or replace it with `force`"
        )


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, if they do not exist."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create {folder}: {error.strerror}; choose another one with `out`") from None


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


def _yaml(document: Mapping[str, Any]) -> str:
    """Keys with JSON values. YAML 1.1 reads those too, except for numbers like 1e-05."""
    return "".join(f"{key}: {_yaml_value(value)}\n" for key, value in document.items())


def _yaml_value(value: Any) -> str:
    text = json.dumps(value)
    if isinstance(value, float) and "e" in text and "." not in text:
        return text.replace("e", ".0e")
    return text


def _arguments(document: Mapping[str, Any]) -> str:
    """One argument a line; a true one is a flag without a value."""
    return "".join(f"{name}\n" if value is True else f"{name} {value}\n" for name, value in document.items())


_FORMATTERS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "config.json": _json,
    "model_config.yaml": _yaml,
    "megatron_args.txt": _arguments,
}
