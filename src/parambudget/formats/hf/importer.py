"""A Hugging Face config.json as a model: exact, or refused with the reason; never a guess."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from parambudget.arch.hf.latent_like import LATENT_LIKE
from parambudget.arch.hf.notes import notes_on, unsaid_by
from parambudget.arch.hf.refuse import refuse_other_models, refuse_wrong_values
from parambudget.arch.hf.rotation import read_object, rotary_keys
from parambudget.errors import ConfigError
from parambudget.formats.hf.families.gpt import GPT_LIKE
from parambudget.formats.hf.families.llama import LLAMA_LIKE
from parambudget.formats.hf.families.moe import EXPERTS_LIKE
from parambudget.formats.hf.families.sliding_window import WINDOWED_LIKE
from parambudget.formats.hf.rules import share_of
from parambudget.formats.hf.schema import ABSENT, Family

FAMILIES: Final[Mapping[str, Family]] = dict(
    sorted({**GPT_LIKE, **LLAMA_LIKE, **WINDOWED_LIKE, **EXPERTS_LIKE, **LATENT_LIKE}.items())
)
ACTIVATIONS: Final = {
    "gelu": "gelu", "gelu_accurate": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_new": "gelu_tanh",
    "gelu_python": "gelu", "gelu_python_tanh": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu", "relu": "relu", "relu2": "relu2", "silu": "silu", "swish": "silu",
}  # fmt: skip
UNSAID_ACTIVATIONS: Final = (
    "gelu_10", "hardswish", "laplace", "leaky_relu", "linear", "mish", "relu6", "sigmoid", "sqrtsoftplus",
    "tanh",
)  # fmt: skip
"""Functions of the classes that `ModelConfig` cannot say, without parameters of their own."""


@dataclass(frozen=True)
class Imported:
    """The fields of the model, and what a person should know about how they were read."""

    fields: dict[str, Any]
    notes: tuple[str, ...]
    unsaid: tuple[str, ...] = ()
    """What the class computes and the fields cannot say; the count is the same."""


def from_hf(document: Mapping[str, Any], name: str) -> Imported:
    """The model that a config.json describes, by its `model_type`; `name` stands in messages.

    What is missing has the class's own default. A key that the class does not read is noted; an unknown type,
    or a key that would change the count in a way that is not modelled, is refused.
    """
    kind = document["model_type"]
    try:
        refuse_other_models(kind, document, FAMILIES)
        return _read(FAMILIES[kind], _given(FAMILIES[kind], document), kind)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _given(family: Family, document: Mapping[str, Any]) -> dict[str, Any]:
    """The config under the class's own keys; an object of keys for attention taken apart."""
    given = {key: value for key, value in document.items() if key not in family.aliases}
    for alias, key in family.aliases.items():
        # The class takes a null n_embed for one that is not there.
        if alias in document and not (alias == "n_embed" and document[alias] is None):
            given[key] = document[alias]
    if any(key.startswith("attn_config.") for key in family.defaults):
        given |= {f"attn_config.{key}": value for key, value in read_object(given, "attn_config").items()}
    return given


def _read(family: Family, given: Mapping[str, Any], kind: str) -> Imported:
    of_rotation, unsaid = rotary_keys(family, given)
    config = {
        **{key: None if value is ABSENT else value for key, value in family.defaults.items()},
        **{key: value for key, value in given.items() if key in family.defaults},
        **of_rotation,
    }
    refuse_wrong_values(family, config, given, kind)
    fields = {field: config[key] for field, key in family.keys.items() if config[key] is not None}
    fields |= family.fixed
    if "activation" in family.keys:
        key = family.keys["activation"]
        unsaid += [f"{key}={config[key]!r}"] if config[key] in UNSAID_ACTIVATIONS else []
        fields["activation"] = _activation(fields, config[key])
    for rule in family.derive:
        fields |= {field: value for field, value in rule(config).items() if value is not None}
    unsaid = [*unsaid_by(family, config), *unsaid]
    return Imported(_complete(fields), notes_on(family, given, kind, unsaid), tuple(unsaid))


def _complete(fields: dict[str, Any]) -> dict[str, Any]:
    """What null or absence means to the classes: multi-head attention, heads that fill the width, 4 * dim."""
    fields.setdefault("n_kv_heads", fields["n_heads"])
    fields.setdefault("head_dim", fields["dim"] // fields["n_heads"])
    if fields.get("gated") is False:
        fields.setdefault("intermediate_size", 4 * fields["dim"])
    fields.setdefault("norm_bias", False)
    fields.setdefault("final_norm", True)
    if fields.get("position", "rotary") == "rotary":
        if "rope_theta" in fields:
            fields["rope_theta"] = float(fields["rope_theta"])
        turned = int(fields["head_dim"] * fields.get("rotary_fraction", 1.0))
        if turned % 2 and turned < fields["head_dim"]:
            # The classes have a frequency for every second element, the last of an odd number included.
            fields["rotary_fraction"] = share_of(fields["head_dim"], turned + 1)
    else:
        for name in ("rope_theta", "rope_theta_local", "rotary_pattern"):
            fields.pop(name, None)
    if "window" not in fields:
        fields.pop("rope_theta_local", None)
    return fields


def _activation(fields: Mapping[str, Any], written: str) -> str:
    if written in UNSAID_ACTIVATIONS:
        return "silu" if fields.get("gated", True) else "gelu"
    if written not in ACTIVATIONS:
        raise ConfigError(f"activation {written!r} is not known; use one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[written]
