"""What a Hugging Face config may not say, in one line each: other kinds of model, wrong kinds of value."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

from parambudget.arch.validation import LARGEST_SIZE, MOST_LAYERS
from parambudget.errors import ConfigError
from parambudget.formats.hf.schema import ABSENT, Config, Family, kind_of

_OTHER_MODALITIES: Final = ("text_config", "vision_config", "audio_config")
_SAID: Final = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a name", list: "a list"
}  # fmt: skip


def refuse_other_models(kind: Any, document: Mapping[str, Any], families: Mapping[str, Family]) -> None:
    """Refuses what is no decoder-only language model, and types that are not known."""
    if any(isinstance(document.get(key), dict) for key in _OTHER_MODALITIES):
        raise ConfigError(f"a multimodal config ({kind!r}); give its text_config, the language model's own")
    if document.get("is_encoder_decoder"):
        raise ConfigError(f"an encoder-decoder config ({kind!r}); only decoder-only models are counted")
    if not isinstance(kind, str) or kind not in families:
        near = get_close_matches(str(kind)[:100], families, n=3, cutoff=0.5)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise ConfigError(
            f"model_type {_short(kind)} is not read by this version{hint}; known are {', '.join(families)}"
        )
    if document.get("per_layer_config"):
        raise ConfigError("per_layer_config gives layers sizes of their own, which is not modelled")


def refuse_wrong_values(family: Family, config: Config, given: Mapping[str, Any], kind: str) -> None:
    """Refuses a string where the class has a number and the like, before arithmetic meets it."""
    for key, default in family.defaults.items():
        value = config[key]
        if value is not None:
            _refuse_kind(key, value, kind_of(key, default))
        elif key in given and given[key] is None and not (default is None or key in family.nullable):
            what = "leave it out" if default is ABSENT else f"it must be {_SAID[kind_of(key, default)]}"
            raise ConfigError(f"{key} is null, which the class does not take; {what}")
    for key, allowed in family.only.items():
        if config[key] != allowed:
            raise ConfigError(
                f"{key}={config[key]!r} changes the parameters of {kind} in a way that is not modelled; "
                f"only {allowed!r} is read"
            )
    key = family.keys["n_layers"]
    if not 1 <= config[key] <= MOST_LAYERS:
        raise ConfigError(f"{key} is {config[key]}; it must be 1 to {MOST_LAYERS:,}")
    _refuse_heads(family, config)


def _refuse_kind(key: str, value: Any, wanted: type) -> None:
    kinds: tuple[type, ...] = (int, float) if wanted is float else (wanted,)
    if not isinstance(value, kinds) or isinstance(value, bool) != (wanted is bool):
        raise ConfigError(f"{key} is {_short(value)}; it must be {_SAID[wanted]}")
    if isinstance(value, int) and wanted is int and not 0 <= value <= LARGEST_SIZE:
        raise ConfigError(f"{key} is {_short(value)}; it must be 0 to {LARGEST_SIZE:,}")


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) < 60 else f"{said[:57]}..."


def _refuse_heads(family: Family, config: Config) -> None:
    """Heads that do not fill the width and do not say their own."""
    of_width, of_heads, of_head = (family.keys.get(name, "") for name in ("dim", "n_heads", "head_dim"))
    dim, heads = config[of_width], config[of_heads]
    for key, value in ((of_width, dim), (of_heads, heads)):
        if value < 1:
            raise ConfigError(f"{key} is {value}; it must be 1 or more")
    latent = config.get("kv_lora_rank") is not None  # its heads have widths of their own
    said = family.heads == "fit" or latent or config.get(of_head) is not None
    if dim % heads and (family.heads == "divide" or not said):
        hint = f", or give {of_head}" if of_head and family.heads != "divide" else ""
        raise ConfigError(
            f"{heads} heads do not divide the width of {dim}; change {of_heads} or {of_width}{hint}"
        )
