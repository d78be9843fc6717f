"""Rotary settings of a Hugging Face config, which stand beside the other keys or in an object apart."""

from collections.abc import Mapping
from typing import Any, Final

from parambudget.errors import ConfigError
from parambudget.formats.hf.schema import Family

_IN_AN_OBJECT: Final = {"rope_theta": "rope_theta", "rotary_fraction": "partial_rotary_factor"}
"""Our fields, and the keys that say them in an object."""


def rotary_keys(family: Family, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The family's keys for what an object says of rotation, and what of it `ModelConfig` cannot say.

    The object wins over keys beside it, and `rope_scaling` over `rope_parameters`, as in the classes.
    """
    scaling, parameters = read_object(given, "rope_scaling"), read_object(given, "rope_parameters")
    if "rope_theta" not in family.keys:
        return {}, []
    if "rope_theta_local" in family.keys:
        return _by_kind_of_layer(scaling, parameters)
    held = scaling or parameters or family.usual_rotation
    if any(isinstance(value, dict) for value in held.values()):
        raise ConfigError("rope_parameters differ from layer to layer, which the class does not read")
    names = {key: family.keys[name] for name, key in _IN_AN_OBJECT.items() if name in family.keys}
    return {name: held[key] for key, name in names.items() if key in held}, _rescaled(held)


def _by_kind_of_layer(
    scaling: Mapping[str, Any], parts: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Gemma 3: an object for full layers and one for local ones; `rope_scaling` is of full ones."""
    full, local = {**read_object(parts, "full_attention"), **scaling}, read_object(parts, "sliding_attention")
    named = {"rope_theta": full, "rope_local_base_freq": local}
    said = {key: held["rope_theta"] for key, held in named.items() if "rope_theta" in held}
    return said, _rescaled(full) + _rescaled(local)


def read_object(given: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under a key, empty where there is none."""
    held = given.get(key)
    if held is None:
        return {}
    if not isinstance(held, dict):
        raise ConfigError(f"{key} is {held!r}; it must be an object or null")
    return held


def _rescaled(held: Mapping[str, Any]) -> list[str]:
    """Frequencies other than the plain ones."""
    kind = held.get("rope_type", held.get("type", "default"))
    return [] if kind == "default" else [f"rescaled rotary frequencies ({kind})"]
