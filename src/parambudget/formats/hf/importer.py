"""A Hugging Face config.json as a model: exact, or refused with the reason; never a guess."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from parambudget.arch.hf.latent_like import LATENT_LIKE
from parambudget.arch.validation import LARGEST_SIZE, MOST_LAYERS
from parambudget.errors import ConfigError, suggest
from parambudget.formats.hf.families.gpt import GPT_LIKE
from parambudget.formats.hf.families.llama import LLAMA_LIKE
from parambudget.formats.hf.families.moe import EXPERTS_LIKE
from parambudget.formats.hf.families.sliding_window import WINDOWED_LIKE
from parambudget.formats.hf.rules import read_object, rotary_keys, share_of
from parambudget.formats.hf.schema import ABSENT, ANY, Config, Family, kind_of

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
        near = suggest(str(kind), families)
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


_COUNTED_FIELDS: Final = (
    "dim",
    "n_layers",
    "n_heads",
    "n_kv_heads",
    "intermediate_size",
    "vocab_size",
    "tied",
)
_COUNTED_KEYS: Final = frozenset({
    "first_k_dense_replace", "kv_lora_rank", "moe_intermediate_size", "n_routed_experts", "n_shared_experts",
    "num_experts", "num_experts_per_tok", "num_kv_heads", "num_local_experts", "q_lora_rank",
    "shared_expert_intermediate_size",
})  # fmt: skip
_SILENT: Final = re.compile(
    r"""_?(name_or_path|architectures|auto_map|model_type|transformers_version|torch_dtype|dtype|prefix
    |quantization_config|compression_config|rope_scaling|rope_parameters|rope_theta|attn_config|verbose
    |is_decoder|is_encoder_decoder|task_specific_params|problem_type|tokenizer_class|n_ctx|per_layer_config
    |label2id|id2label|num_labels|pretraining_tp|classifier.*|summary_.*|output_.*|return_.*|use_cache|chunk_.*
    |.*dropout.*|.*pdrop|layerdrop|init_device|.*token.*|unk_.*|.*aux_loss.*|.*jitter.*|.*z_loss.*|ep_size
    |gradient_checkpointing|.*softmax_in_fp32|.*_fusion|skip_bias_add.*|offset_alibi|slow_but_exact
    |hidden_act_.*|model_max_length|max_sequence_length|attn_implementation|cache_implementation
    |experts_implementation|.*initializer.*|reorder_and_upcast_attn|torchscript|rotary|hf_.*|sep_.*|eos_.*
    |bos_.*|pad_.*|vocab_file|max_length|min_length|temperature|top_k|top_p|do_sample|num_beams)""",
    re.VERBOSE,
)
"""Keys that say nothing about the architecture: training, files, tokens, generation."""


def notes_on(family: Family, given: Mapping[str, Any], kind: str, unsaid: Sequence[str]) -> tuple[str, ...]:
    """What the count does not show: functions that cannot be said, keys that the class does not read."""
    notes = []
    if unsaid:
        notes.append(f"counted exactly, but built without {', '.join(unsaid)}: a model with other logits")
    unread = sorted(key for key, value in given.items() if _worth_a_note(key, value, family))
    if unread:
        notes.append(f"not read by {kind}: {', '.join(unread)}")
    return (*notes, *_of_other_heads(given), *_left_to_the_class(family, given))


def _left_to_the_class(family: Family, given: Mapping[str, Any]) -> list[str]:
    """Sizes and ties that the config does not say."""
    sizes = {family.keys[field] for field in _COUNTED_FIELDS if field in family.keys} | _COUNTED_KEYS
    absent = [key for key in family.defaults if key in sizes and key not in given]
    said = [f"{key}={json.dumps(family.defaults[key])}" for key in absent]
    return [f"left to the class: {', '.join(said)}"] if said else []


def unsaid_by(family: Family, config: Config) -> list[str]:
    """What the class computes and `ModelConfig` cannot say."""
    told = [
        family.wording.get(key, f"{key}={config[key]!r}")
        for key, value in family.unsaid.items()
        if config[key] != value and (config[key] or value)
    ]
    return [*told, *family.always_unsaid]


def _worth_a_note(key: str, value: Any, family: Family) -> bool:
    """A key that the class does not read; null, false and nothing say nothing."""
    if key in family.defaults or not value or key in ("num_nextn_predict_layers", "num_mtp_layers"):
        return False
    if key in family.inert:
        return family.inert[key] is not ANY and family.inert[key] != value
    return not _SILENT.fullmatch(key)


def _of_other_heads(given: Mapping[str, Any]) -> list[str]:
    """Heads other than the one over the vocabulary."""
    notes = []
    if given.get("num_nextn_predict_layers"):
        notes.append("layers for predicting further tokens are no part of the class: not counted")
    architectures = given.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    if names and not any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        notes.append(f"counted with a head over the vocabulary, not as {names[0]}")
    return notes


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
