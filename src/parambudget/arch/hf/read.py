"""A Hugging Face config.json as a model: exact, or refused with the reason; never a guess."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from parambudget.arch.hf.family import Family
from parambudget.arch.hf.gpt_like import GPT_LIKE
from parambudget.arch.hf.llama_like import LLAMA_LIKE
from parambudget.errors import ConfigError

FAMILIES: Final[Mapping[str, Family]] = dict(sorted({**GPT_LIKE, **LLAMA_LIKE}.items()))
ACTIVATIONS: Final = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh", "relu": "relu", "relu2": "relu2",
}  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """The fields of the model, and what a person should know about how they were read."""

    fields: dict[str, Any]
    notes: tuple[str, ...]


def from_hf(document: Mapping[str, Any], name: str) -> Imported:
    """The model that a config.json describes, by its `model_type`; `name` stands in messages.

    What is missing has the class's own default. A key that the class does not read is noted; an unknown type,
    or a,
    key that would change the count in a way that is not modelled, is refused.
    """
    kind = document["model_type"]
    if kind not in FAMILIES:
        raise ConfigError(_unknown(kind, document, name))
    family = FAMILIES[kind]
    given = {family.aliases.get(key, key): value for key, value in document.items()}
    config = {
        **family.defaults,
        **_rope(given),
        **{key: value for key, value in given.items() if key in family.defaults},
    }
    for key, allowed in family.only.items():
        if config[key] != allowed:
            raise ConfigError(
                f"{name}: {key}={config[key]!r} changes the parameters of {kind} in a way that is not "
                f"modelled; only {allowed!r} is read"
            )
    fields = {field: config[key] for field, key in family.keys.items() if config[key] is not None}
    fields |= dict(family.fixed)
    if "activation" in fields:
        fields["activation"] = _activation(fields["activation"], name)
    _refuse_wrong_types(family, config, name)
    if family.derive:
        fields |= family.derive(config)
    if fields.get("position", "rotary") == "rotary":
        fields["rope_theta"] = float(config.get("rope_theta", 10_000.0))
    return Imported(_complete(fields, name), _notes(family, config, given, kind))


def _rope(given: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings, which newer configs keep in one object."""
    nested = given.get("rope_parameters") or {}
    nested = nested.get("full_attention", nested) if isinstance(nested, dict) else {}
    return {key: nested[key] for key in ("rope_theta", "partial_rotary_factor") if key in nested}


def _complete(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """What null or absence means to the classes: multi-head attention, heads that fill the width, 4 * dim."""
    dim, heads = fields.get("dim"), fields.get("n_heads")
    if type(dim) is not int or type(heads) is not int or heads < 1:
        return fields  # the config's own check names what is wrong
    fields.setdefault("n_kv_heads", heads)
    if "head_dim" not in fields and dim % heads:
        raise ConfigError(
            f"{name}: {heads} heads do not divide the width of {dim}; the class would refuse it too",
        )
    fields.setdefault("head_dim", dim // heads)
    if fields.get("gated") is False:
        fields.setdefault("intermediate_size", 4 * dim)
    fields.setdefault("norm_bias", False)
    return fields


def _refuse_wrong_types(family: Family, config: Mapping[str, Any], name: str) -> None:
    """A string where the class has a number, and the like: named here, before arithmetic meets it."""
    for key, default in family.defaults.items():
        value = config[key]
        wanted: tuple[type, ...] = (int, float) if type(default) in (int, float) else (type(default),)
        if default is None or value is None:
            continue
        if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
            raise ConfigError(f"{name}: {key} is {value!r}; it must be {_said(default)}")


def _said(default: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}
    return kinds.get(type(default), "an object")


def _activation(written: Any, name: str) -> str:
    if written not in ACTIVATIONS:
        raise ConfigError(f"{name}: activation {written!r} is not known; use one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[written]


def _notes(family: Family, config: Mapping[str, Any], given: Mapping[str, Any], kind: str) -> tuple[str, ...]:
    """What the count does not show: functions that cannot be said, keys that the class does not read."""
    unsaid = [f"{key}={config[key]!r}" for key, value in family.unsaid.items() if config[key] != value]
    if given.get("rope_scaling"):
        unsaid.append("rope_scaling")
    notes = []
    if unsaid:
        notes.append(f"counted exactly, but built without {', '.join(unsaid)}: a model with other logits")
    inert = sorted(key for key in given if _looks_like_a_size(key) and key not in family.defaults)
    if inert:
        notes.append(f"not read by {kind}: {', '.join(inert)}")
    return tuple(notes)


def _looks_like_a_size(key: str) -> bool:
    """Whether a key could be taken for part of the architecture; the others (token ids, dropout, dtype) are
    silent."""
    words = (
        "num_",
        "n_",
        "hidden",
        "intermediate",
        "head",
        "layer",
        "expert",
        "_dim",
        "_rank",
        "ffn",
        "bias",
        "norm",
    )
    silent = (
        "dropout",
        "token",
        "initializer",
        "num_labels",
        "n_ctx",
        "layer_types",
        "use_cache",
        "chunk",
        "num_beam",
    )
    return any(word in key for word in words) and not any(word in key for word in silent)


def _unknown(kind: Any, document: Mapping[str, Any], name: str) -> str:
    if "text_config" in document or "vision_config" in document:
        return f"{name} is a multimodal config ({kind!r}); give its text_config, the language model's own"
    if document.get("is_encoder_decoder"):
        return f"{name} is an encoder-decoder config ({kind!r}); only decoder-only models are counted"
    near = get_close_matches(str(kind), FAMILIES, n=3, cutoff=0.5)
    hint = f"; near it are {', '.join(near)}" if near else ""
    return f"{name}: model_type {kind!r} is not read by this version{hint}; known are {', '.join(FAMILIES)}"
