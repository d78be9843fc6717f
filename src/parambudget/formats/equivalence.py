"""When two models are the same: what their fields come to, and where they differ."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parambudget._files import atomic_write
from parambudget.arch.config import FIELDS, ModelConfig, flat_fields
from parambudget.errors import ConfigError, InputError

_ONLY_THE_START: Final = ("init_std", "zero_init_out")
"""Fields that decide the initial weights and nothing after."""
_ONLY_THE_FORM: Final = ("fused_experts", "n_first_dense")
"""Fields that say what others say too, or how tensors are laid out."""
_ONLY_ROTARY: Final = ("rope_theta", "rotary_fraction", "rotary_interleaved", "rotary_pattern")
_CLOSE: Final = 1e-9
"""Relative difference of floats that are one number: a square root, squared and written as text."""


@dataclass(frozen=True)
class Difference:
    """One field that two models say differently."""

    field: str
    wanted: Any
    got: Any


def differences(wanted: ModelConfig, got: ModelConfig) -> list[Difference]:
    """Where the models differ in count or function, in the order of the fields; nothing where both are one.

    Initial weights are no difference, nor is whether the matrices of experts lie in one tensor.
    """
    ours, theirs = meaning(wanted), meaning(got)
    if wanted.position != got.position:
        ours |= {name: theirs.get(name) for name in (*_ONLY_ROTARY, "rope_theta_local")}
    say_ours, say_theirs = flat_fields(wanted), flat_fields(got)
    found = []
    for field in FIELDS:
        if _one(ours.get(field), theirs.get(field)):
            continue
        pair = _said(say_ours, ours, field), _said(say_theirs, theirs, field)
        # The same words of different models, such as a share of heads of other widths.
        pair = (ours.get(field), theirs.get(field)) if pair[0] == pair[1] else pair
        found.append(Difference(field, *pair))
    return found


def meaning(m: ModelConfig) -> dict[str, Any]:
    """The fields of a model, those that come to the same in the same form: patterns layer by layer, shared
    experts as one, a scale or share worked out; None for what nothing reads."""
    fields = flat_fields(m)
    for name in (*_ONLY_THE_START, *_ONLY_THE_FORM):
        fields.pop(name, None)
    layers = range(m.n_layers)
    local = tuple(m.is_local(layer) for layer in layers)
    fields["window"] = m.window if any(local) else None
    fields["window_pattern"] = local
    if m.position == "rotary":
        fields["rotary_fraction"] = m.rotary_dim
        fields["rotary_pattern"] = tuple(m.rotates(layer) for layer in layers)
        fields["rope_theta_local"] = (m.rope_theta_local or m.rope_theta) if any(local) else None
    else:
        fields |= dict.fromkeys(_ONLY_ROTARY)
    if m.attention_multiplier is None:
        fields["attention_multiplier"] = m.head_dim**-0.5
    fields["qk_norm_bias"] = m.qk_norm != "none" and (
        m.norm_bias if m.qk_norm_bias is None else m.qk_norm_bias
    )
    return fields | _of_ffn(m)


def _of_ffn(m: ModelConfig) -> dict[str, Any]:
    moe = m.moe
    fields: dict[str, Any] = {} if m.n_dense_layers else {"intermediate_size": None}
    if moe is None:
        return fields
    if not m.n_dense_layers and not moe.n_shared_experts:
        fields["ffn_bias"] = False
    shared = moe.shared_expert_width
    fields |= {"n_shared_experts": int(shared > 0), "shared_intermediate_size": shared}
    fields["moe_pattern"] = tuple(m.has_experts(layer) for layer in range(m.n_layers))
    if moe.n_groups_per_token == moe.n_expert_groups:
        fields |= {"n_expert_groups": 1, "n_groups_per_token": 1}
    return fields


def _one(wanted: Any, got: Any) -> bool:
    if isinstance(wanted, float) and isinstance(got, float):
        return math.isclose(wanted, got, rel_tol=_CLOSE)
    return bool(wanted == got)


def _said(fields: dict[str, Any], means: dict[str, Any], field: str) -> Any:
    """The field as it was said, or what it comes to where it was not."""
    said = fields.get(field)
    return means.get(field) if said is None and not isinstance(means.get(field), tuple) else said


_MOST_NAMED: Final = 3
"""Differences that are named and not only counted."""


@dataclass(frozen=True)
class Export:
    """A model in another tool's words."""

    name: str
    """Of the class or tool that it is written for."""
    document: dict[str, Any]
    """What is written, by key."""
    notes: tuple[str, ...] = ()
    """What a person should know about it."""
    unsaid: tuple[str, ...] = ()
    """What the other tool computes and the model does not say: same count, other logits."""
    file: str = "config.json"
    """What the tool calls the file."""


@dataclass(frozen=True)
class Attempt:
    """A model in another tool's words, read again."""

    export: Export
    read: ModelConfig


def chosen(model: ModelConfig, attempts: Iterable[Callable[[], Attempt]], told: str) -> Export:
    """The first attempt that is the model when it is read again; if there is none, one that differs only in
    what a `ModelConfig` cannot say; otherwise `ConfigError` with what the nearest one lacks. `told` says in
    the message what has been searched, such as "no class of transformers"."""
    misses: list[tuple[list[Difference], Export]] = []
    alike: list[Export] = []
    broken: list[str] = []
    for attempt in attempts:
        try:
            made = attempt()
        except ConfigError as error:
            broken.append(str(error))
            continue
        found = differences(model, made.read)
        if not found and not made.export.unsaid:
            return made.export
        if not found:
            alike.append(made.export)
        misses.append((found, made.export))
    if alike:
        return alike[0]
    if not misses:
        raise ConfigError(f"{told} can say this model: {broken[0]}")
    lacks, nearest = min(misses, key=lambda miss: len(miss[0]))
    which = f"the nearest, {nearest.name}," if len(misses) > 1 else nearest.name
    raise ConfigError(f"{told} is this model: {which} {_lack(lacks)}")


def _lack(found: Sequence[Difference]) -> str:
    """What the nearest has otherwise, and what to change."""
    told = [
        f"has {one.field}={_short(one.got)} where the model has {_short(one.wanted)}"
        for one in found[:_MOST_NAMED]
    ]
    if len(found) > _MOST_NAMED:
        told.append(f"differs in {len(found) - _MOST_NAMED} more")
    return f"{', '.join(told)}; {_remedy(found)} to export it so"


def _remedy(found: Sequence[Difference]) -> str:
    if len(found) > 1:
        return "change these fields"
    (one,) = found
    return f"leave {one.field} out" if one.got is None else f"set {one.field} to {_short(one.got)}"


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    said = ",".join(map(str, value)) if isinstance(value, tuple) else repr(value)
    return said if len(said) < 60 else f"{said[:57]}..."


def text_of(export: Export) -> str:
    """The document as the tool's file has it."""
    return _FORMS[export.file](export.document)


def write_into(folder: Path, export: Export, *, force: bool = False) -> Path:
    """Write the file into a folder, which is made if need be; a file that is there stays unless told."""
    path = folder / export.file
    require_free(path, force=force)
    make_folder(folder)
    atomic_write(path, text_of(export))
    return path


def require_free(path: Path, *, force: bool) -> None:
    """Refuse to write over a file without being told to."""
    if not force and os.path.lexists(path):
        raise InputError(f"{path} is there already; choose another --out, or --force to replace it")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if they are not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder}: {error.strerror}; choose another one with --out") from None


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


def _yaml(document: Mapping[str, Any]) -> str:
    """Keys with JSON values, which YAML 1.1 reads too, but for numbers like 1e-05."""
    return "".join(f"{key}: {_yaml_value(value)}\n" for key, value in document.items())


def _yaml_value(value: Any) -> str:
    said = json.dumps(value)
    if isinstance(value, float) and "e" in said and "." not in said:
        return said.replace("e", ".0e")
    return said


def _arguments(document: Mapping[str, Any]) -> str:
    """One argument a line; true is a flag without a value."""
    return "".join(f"{name}\n" if value is True else f"{name} {value}\n" for name, value in document.items())


_FORMS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "config.json": _json,
    "model_config.yaml": _yaml,
    "megatron_args.txt": _arguments,
}
