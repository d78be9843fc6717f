"""Rotary positions in a Hugging Face config: bases, shares and rescaled frequencies, in old and new spelling.

rope_scaling      the old object: how frequencies are rescaled, beside `rope_theta` in the config itself
rope_parameters   the new one: the same with the base in it; in Gemma 3 one for each type of layer
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from sys import float_info
from typing import Any, Final, NamedTuple, get_args

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import RopeType
from parambudget.arch.rope_scaling import (
    RopeScaling,
    longrope_attention_factor,
    yarn_attention_factor,
    yarn_strength,
)
from parambudget.errors import ConfigError
from parambudget.formats.hf.rules import read_object
from parambudget.formats.hf.schema import ABSENT, Config, ConfigSchema, Fields
from parambudget.units import short_repr

_PARAMETERS: Final = {"rope_theta": "rope_theta", "rotary_fraction": "partial_rotary_factor"}
"""Our fields, and their keys in a `rope_parameters` object."""
_ORIGINAL: Final = "original_max_position_embeddings"
_QUERY_GROWTH: Final = "llama_4_scaling_beta"
_MSCALES: Final = ("short_mscale", "long_mscale")
"""Phi-3.5-MoE's keys in place of the attention factor. Its class never uses the long factors."""


class RopeObjects(NamedTuple):
    """The rotary objects of a config: that of all layers or of global ones, and that of local layers."""

    main: Mapping[str, Any]
    local: Mapping[str, Any]


@dataclass(frozen=True)
class Rescaling:
    """Our fields of the rescaling, and what of it they cannot express."""

    fields: Fields
    unsupported: tuple[str, ...] = ()


def rope_objects(schema: ConfigSchema, document: Mapping[str, Any]) -> RopeObjects:
    """The objects that count: `rope_scaling` wins over `rope_parameters`, as in the classes.

    In Gemma 3, which has one for full and one for local attention, `rope_scaling` changes that for full
    attention, beside a `rope_type` that is there already: the older key `type` says nothing then.
    """
    scaling, parameters = read_object(document, "rope_scaling"), read_object(document, "rope_parameters")
    if "rope_theta" not in schema.keys:
        return RopeObjects({}, {})
    if "rope_theta_local" in schema.keys:
        full = dict(schema.default_rope_parameters) or {"rope_type": "default"}
        if parameters.get("full_attention") is not None:
            full = read_object(parameters, "full_attention")
        sliding = read_object(parameters, "sliding_attention")
        return RopeObjects(full | scaling, sliding | scaling if schema.rescales_local_layers else sliding)
    if not schema.reads_rope_scaling and "rope_parameters" in document and "rope_type" not in parameters:
        raise ConfigError(
            "rope_parameters has no rope_type, which the class needs; give it one or leave it out"
        )
    main = scaling or parameters or schema.default_rope_parameters
    if any(isinstance(value, dict) for value in main.values()):
        raise ConfigError("rope_parameters differ from layer to layer, which the class does not support")
    return RopeObjects(main, {})


def rope_keys(schema: ConfigSchema, rope: RopeObjects) -> dict[str, Any]:
    """The class's own rotary keys as its objects set them; an object wins over keys outside it."""
    fields = {"rope_theta"} if "rope_theta_local" in schema.keys else schema.keys
    keys = {
        schema.keys[field]: rope.main[key]
        for field, key in _PARAMETERS.items()
        if field in fields and key in rope.main
    }
    if "rope_theta" in rope.local:
        keys[schema.keys["rope_theta_local"]] = rope.local["rope_theta"]
    if schema.object_rotary_share is not None:
        for field, place in (("rotary_fraction", rope.main), ("rotary_fraction_local", rope.local)):
            share = place.get("partial_rotary_factor", schema.object_rotary_share)
            keys[schema.keys[field]] = float(share) if type(share) is int else share
    if _rope_type(schema, rope.main) == "proportional" and "rotary_fraction" in schema.keys:
        keys[schema.keys["rotary_fraction"]] = 1.0  # the share is that of the pairs: `rope_proportion`
    return keys


def rescaling(
    schema: ConfigSchema, rope: RopeObjects, config: Config, given: Mapping[str, Any], fields: Fields
) -> Rescaling:
    """How the class rescales its rotary angles.

    `config` has the class's defaults, `given` is the document itself, and `fields` are those read so far.
    """
    local = _rope_type(schema, rope.local)
    unsupported = [] if local == "default" else [f"rescaled rotary frequencies of local layers ({local})"]
    kind = _rope_type(schema, rope.main)
    original = _original_context(schema, rope, config, given)
    growth: Fields = {}
    if schema.rope_scales_queries:
        growth = _query_growth(_Reader(rope.main, kind, fields["context_length"], original))
    if rope.local.get("partial_rotary_factor", 1) != 1 and schema.object_rotary_share is None:
        unsupported.append("a rotary share of local layers (partial_rotary_factor)")
    if kind == "default" or "rope_theta" not in schema.keys or fields.get("position", "rotary") != "rotary":
        return Rescaling(growth, tuple(unsupported))
    if kind not in schema.rope_types:
        return Rescaling(growth, (*unsupported, f"rescaled rotary frequencies ({kind})"))
    reader = _Reader(rope.main, kind, fields["context_length"], original, schema.rope_mscales)
    read, lost = _READERS[kind](reader)
    key = schema.keys.get("rotary_fraction", "partial_rotary_factor")
    default = schema.defaults.get(key)
    share = rope.main.get("partial_rotary_factor", given.get(key, None if default is ABSENT else default))
    if kind == "proportional":
        read["rope_proportion"] = 1.0 if share is None else share
        if schema.rotates_fixed_width and read["rope_proportion"] != 1:
            lost.append(f"proportional frequencies of a share of {short_repr(share)}")
    elif share not in (None, 1) and "rotary_fraction" not in schema.keys:
        lost.append(f"rescaled frequencies of a share of {short_repr(share)} of each head")
    elif kind in ("dynamic", "yarn") and int(fields["head_dim"] * (1 if share is None else share)) % 2:
        lost.append(f"{kind} frequencies of an odd number of elements")
    if kind == "yarn" and "rope_theta_local" in schema.keys:
        read["rope_truncate"] = True  # the class looks for the key outside the object
    if schema.rope_recomputes_cache and kind == "longrope":
        read["rope_recompute_cache"] = True
    if "rope_theta_local" in fields and "rope_theta_local" not in schema.keys:
        lost.append(f"rescaled rotary frequencies of local layers ({kind})")
    read = {name: value for name, value in read.items() if value is not None} | {"rope_type": kind}
    if schema.has_latent_attention:
        read |= _latent_score_scale(reader, fields)
    return Rescaling(read | growth, (*unsupported, *lost))


def _query_growth(reader: "_Reader") -> Fields:
    """What queries beyond the original context grow by."""
    strength = reader.number(_QUERY_GROWTH)
    if not strength:
        return {}
    if strength < 0:
        raise ConfigError(f"{_QUERY_GROWTH} is {strength:g}; it must be 0 or more")
    return {
        "query_scale": "log", "query_scale_strength": strength, "query_scale_length": reader.original_context,
    }  # fmt: skip


def _rope_type(schema: ConfigSchema, rope: Mapping[str, Any]) -> str:
    kind = rope.get("rope_type", rope.get("type", "default"))
    return schema.rope_type_aliases.get(kind, kind) if isinstance(kind, str) else short_repr(kind)


def notes_on_type(schema: ConfigSchema, rope: RopeObjects) -> list[str]:
    """What to know of an object with `rope_type` and another `type`, which the classes do not read then."""
    kind, ignored = _rope_type(schema, rope.main), rope.main.get("type")
    if ignored is None or _rope_type(schema, {"type": ignored}) == kind:
        return []
    return [f"rotary positions have rope_type {kind}, so the class does not read their type {ignored}"]


def _original_context(
    schema: ConfigSchema, rope: RopeObjects, config: Config, given: Mapping[str, Any]
) -> Any:
    """The context before its extension; outside of the object the key wins, where the class looks there."""
    inside = rope.main.get(_ORIGINAL)
    if "rope_theta_local" in schema.keys:
        return inside
    outside = config[_ORIGINAL] if _ORIGINAL in schema.defaults else given.get(_ORIGINAL)
    return inside if outside is None else outside


@dataclass(frozen=True)
class _Reader:
    """The values of one object, checked."""

    rope: Mapping[str, Any]
    kind: str
    context_length: int
    original: Any
    has_mscales: bool = False

    @property
    def original_context(self) -> int:
        """The context before its extension; the class takes the extended one where none is given."""
        value = self.context_length if self.original is None else self.original
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < 1:
            raise ConfigError(f"{_ORIGINAL} is {short_repr(value)}; it must be a whole number of tokens")
        return int(value)

    def number(self, key: str) -> float | None:
        """A number; None where it is missing or null."""
        value = self.rope.get(key)
        if value is None:
            return None
        # A comparison, because math.isfinite fails for an int of more than 308 digits.
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not -float_info.max <= value <= float_info.max:
            raise ConfigError(f"{key} of {self.kind} rotary positions is {short_repr(value)}; give a number")
        return float(value)

    def require(self, key: str) -> float:
        """A number that the class does not do without."""
        value = self.number(key)
        if value is None:
            raise ConfigError(f"{key} is missing, which {self.kind} rotary positions need; give it")
        return value

    def numbers(self, key: str) -> list[float]:
        """A list of numbers that the class does not do without."""
        value = self.rope.get(key)
        if not isinstance(value, list):
            raise ConfigError(
                f"{key} of {self.kind} rotary positions is {short_repr(value)}; give a list of numbers"
            )
        return [_Reader({key: one}, self.kind, self.context_length, None).require(key) for one in value]


Read = tuple[Fields, list[str]]
"""Our fields, None for what is not given, and what they cannot express."""


def _read_factor(r: _Reader) -> Read:
    return {"rope_factor": r.require("factor")}, []


def _read_proportional(r: _Reader) -> Read:
    return {"rope_factor": r.number("factor")}, []


def _read_llama3(r: _Reader) -> Read:
    return {
        "rope_factor": r.require("factor"),
        "rope_original_context": r.original_context,
        "rope_low_freq_factor": r.require("low_freq_factor"),
        "rope_high_freq_factor": r.require("high_freq_factor"),
    }, []


def _read_yarn(r: _Reader) -> Read:
    factor, attention = r.number("factor"), r.number("attention_factor")
    if factor is None:
        factor = r.context_length / r.original_context
    strength, base = r.number("mscale"), r.number("mscale_all_dim")
    if attention is None and strength and base:
        attention = yarn_attention_factor(factor, strength) / yarn_attention_factor(factor, base)
    return {
        "rope_factor": factor,
        "rope_original_context": r.original_context,
        "rope_attention_factor": None if attention == yarn_attention_factor(factor) else attention,
        "rope_beta_fast": r.number("beta_fast") or None,
        "rope_beta_slow": r.number("beta_slow") or None,
        "rope_truncate": bool(r.rope.get("truncate", True)),
    }, []


def _read_longrope(r: _Reader) -> Read:
    attention, factor, lost = r.number("attention_factor"), r.number("factor"), []
    short, long = r.numbers("short_factor"), r.numbers("long_factor")
    if attention is None:
        # Written down, so that a model with another context_length keeps it.
        factor = r.context_length / r.original_context if factor is None else factor
        attention = longrope_attention_factor(factor, r.original_context)
    if r.has_mscales:
        attention, other = (r.require(key) for key in _MSCALES)
        lost = [f"long_mscale={other}"] if other != attention else []
        lost += ["short rotary factors at every length"] if short != long else []
    return {
        "rope_original_context": r.original_context,
        "rope_attention_factor": attention,
        "rope_short_factors": short,
        "rope_long_factors": long,
    }, lost


_READERS: Final = {
    "linear": _read_factor, "dynamic": _read_factor, "proportional": _read_proportional,
    "llama3": _read_llama3, "yarn": _read_yarn, "longrope": _read_longrope,
}  # fmt: skip


def _latent_score_scale(r: _Reader, fields: Fields) -> Fields:
    """DeepSeek multiplies attention scores by the square of an attention factor, if `mscale_all_dim` is
    given."""
    strength = r.number("mscale_all_dim")
    if not strength:
        return {}
    factor = yarn_attention_factor(r.require("factor"), strength)
    return {"attention_multiplier": fields["head_dim"] ** -0.5 * factor**2}


def rope_parameters(schema: ConfigSchema, m: ModelConfig) -> dict[str, Any]:
    """The model's rescaling as an object of the class; empty if it has none."""
    scaling = m.rope_scaling
    if scaling is None:
        return {"rope_type": "default"} | _growth_parameters(m) if schema.rope_scales_queries else {}
    parameters: dict[str, Any] = {"rope_type": scaling.rope_type}
    if scaling.rope_type in ("yarn", "llama3", "longrope"):
        parameters[_ORIGINAL] = scaling.rope_original_context
    for field, key in _KEYS.items():
        value = getattr(scaling, field)
        if value is not None and (field in _ALWAYS[scaling.rope_type] or value != _default(field)):
            parameters[key] = list(value) if isinstance(value, tuple) else value
    if schema.rope_scales_queries:
        parameters = _growth_parameters(m) | parameters
    if schema.rope_mscales:
        parameters |= dict.fromkeys(_MSCALES, m.rotary_scale)
    if schema.has_latent_attention and m.attention_multiplier is not None:
        parameters |= _latent_mscales(scaling, m.attention_multiplier * sqrt(m.head_dim))
        if "mscale" in parameters:
            del parameters["attention_factor"]
    return parameters


def _growth_parameters(m: ModelConfig) -> dict[str, Any]:
    """Without which a class whose queries grow fails."""
    grows = m.query_scale == "log"
    return {
        _ORIGINAL: m.query_scale_length if grows else m.context_length,
        _QUERY_GROWTH: m.query_scale_strength if grows else 0.0,
    }


_KEYS: Final = {
    "rope_factor": "factor", "rope_attention_factor": "attention_factor", "rope_beta_fast": "beta_fast",
    "rope_beta_slow": "beta_slow", "rope_truncate": "truncate", "rope_low_freq_factor": "low_freq_factor",
    "rope_high_freq_factor": "high_freq_factor", "rope_short_factors": "short_factor",
    "rope_long_factors": "long_factor", "rope_proportion": "partial_rotary_factor",
}  # fmt: skip
"""Our fields, and their keys in the object."""
_ALWAYS: Final[Mapping[str, tuple[str, ...]]] = dict.fromkeys(get_args(RopeType), ("rope_factor",)) | {
    "yarn": ("rope_factor", "rope_beta_fast", "rope_beta_slow", "rope_truncate"),
    "llama3": ("rope_factor", "rope_low_freq_factor", "rope_high_freq_factor"),
    "longrope": ("rope_short_factors", "rope_long_factors"),
    "proportional": ("rope_factor", "rope_proportion"),
}
"""What is written even where it is the default."""


def _default(field: str) -> Any:
    return RopeScaling.model_fields[field].default


def _latent_mscales(scaling: RopeScaling, scale: float) -> dict[str, Any]:
    """The keys with which DeepSeek's class multiplies its scores by `scale`."""
    strength = yarn_strength(scaling.rope_factor or 1.0, sqrt(scale))
    if not strength:
        return {}
    # As in its own configs, where both are the same, which makes the attention factor 1.
    return {"mscale_all_dim": strength} | ({"mscale": strength} if scaling.rope_attention_factor == 1 else {})
