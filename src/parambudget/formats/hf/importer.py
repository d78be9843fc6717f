"""A Hugging Face config.json as a model: read exactly, or refused with the reason; never guessed."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from parambudget.arch.validation import LARGEST_SIZE, MOST_LAYERS
from parambudget.errors import ConfigError
from parambudget.formats.hf.families.registry import find_family
from parambudget.formats.hf.rotary import notes_on_type, rescaling, rope_keys, rope_objects
from parambudget.formats.hf.rules import fraction_of_head, read_object
from parambudget.formats.hf.schema import ABSENT, ANY, Config, ConfigSchema, Fields
from parambudget.formats.imported import Imported
from parambudget.units import short_repr


def from_hf(document: Mapping[str, Any], name: str) -> Imported:
    """The model that a config.json describes, by its `model_type`; `name` stands for it in messages.

    A missing key has the class's own default. A key that the class does not read is noted. An unknown type is
    refused, and so is a key that would change the count in a way that is not modelled.
    """
    try:
        key, text_config = language_model(document)
        model_type = text_config["model_type"]
        schema = find_family(model_type).config
        if text_config.get("per_layer_config"):
            raise ConfigError("per_layer_config gives layers sizes of their own, which is not modelled")
        imported = _import_config(schema, _with_own_keys(schema, text_config), model_type)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    if key is None:
        return imported
    note = f"of this {short_repr(document['model_type'])} only the {key} is read, a {model_type}"
    return replace(imported, notes=(note, *imported.notes))


def _with_own_keys(schema: ConfigSchema, document: Mapping[str, Any]) -> dict[str, Any]:
    """The config with aliases replaced by the class's own keys, and the object for attention flattened."""
    given = {key: value for key, value in document.items() if key not in schema.aliases}
    for alias, key in schema.aliases.items():
        # The class takes a null n_embed for one that is not there.
        if alias in document and not (alias == "n_embed" and document[alias] is None):
            given[key] = document[alias]
    if any(key.startswith("attn_config.") for key in schema.defaults):
        given |= {f"attn_config.{key}": value for key, value in read_object(given, "attn_config").items()}
    return given


def _import_config(schema: ConfigSchema, given: Mapping[str, Any], model_type: str) -> Imported:
    """The model of a config that has the class's own keys."""
    rope = rope_objects(schema, given)
    config = {
        **{key: None if value is ABSENT else value for key, value in schema.defaults.items()},
        **{key: value for key, value in given.items() if key in schema.defaults},
        **rope_keys(schema, rope),
    }
    _check_values(schema, config, given, model_type)
    unsupported = []
    fields = {field: config[key] for field, key in schema.keys.items() if config[key] is not None}
    fields |= schema.fixed
    if "activation" in schema.keys:
        key = schema.keys["activation"]
        if config[key] in _UNSUPPORTED_ACTIVATIONS:
            unsupported.append(f"{key}={config[key]!r}")
        fields["activation"] = _activation(fields, config[key])
    for rule in schema.rules:
        fields |= {field: value for field, value in rule(config).items() if value is not None}
    fields = _with_class_conventions(fields)
    rescaled = rescaling(schema, rope, config, given, fields)
    fields |= rescaled.fields
    unsupported = [*_unsupported_keys(schema, config), *unsupported, *rescaled.unsupported]
    if not given.get("is_causal", True):
        unsupported.append("attention to later tokens (is_causal)")
    notes = _import_notes(schema, given, model_type, unsupported)
    return Imported(fields, (*notes, *notes_on_type(schema, rope)), tuple(unsupported))


def _with_class_conventions(fields: Fields) -> Fields:
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
        fields |= _even_rotary_width(fields)
    else:
        for name in ("rope_theta", "rope_theta_local", "rotary_pattern"):
            fields.pop(name, None)
    if "window" not in fields:
        fields.pop("rope_theta_local", None)
    return fields


def _even_rotary_width(fields: Mapping[str, Any]) -> Fields:
    """The same rotation over an even width.

    The classes have a frequency for every second element, the last of an odd number d included: theta to the
    power of -2i/d, which is theta^((d+1)/d) to the power of -2i/(d+1).
    """
    head_dim, fraction = fields["head_dim"], fields.get("rotary_fraction", 1.0)
    theta = fields.get("rope_theta", 10_000.0)
    if not (0 < fraction <= 1 and 0 < theta <= _LARGEST_THETA):
        return {}  # the model's own error names it
    rotary_dim = int(head_dim * fraction)
    if rotary_dim % 2 == 0 or rotary_dim == head_dim:
        return {}
    even = fraction_of_head(head_dim, rotary_dim + 1)
    return {"rotary_fraction": even, "rope_theta": theta ** ((rotary_dim + 1) / rotary_dim)}


_LARGEST_THETA: Final = 1e100
_ACTIVATIONS: Final = {
    "gelu": "gelu", "gelu_accurate": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_new": "gelu_tanh",
    "gelu_python": "gelu", "gelu_python_tanh": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu", "relu": "relu", "relu2": "relu2", "silu": "silu", "swish": "silu",
}  # fmt: skip
_UNSUPPORTED_ACTIVATIONS: Final = (
    "gelu_10", "hardswish", "laplace", "leaky_relu", "linear", "mish", "relu6", "sigmoid", "sqrtsoftplus",
    "tanh",
)  # fmt: skip
"""Functions of the classes that `ModelConfig` cannot express; they have no parameters of their own."""


def _activation(fields: Mapping[str, Any], name: str) -> str:
    if name in _UNSUPPORTED_ACTIVATIONS:
        return "silu" if fields.get("gated", True) else "gelu"
    if name not in _ACTIVATIONS:
        raise ConfigError(f"activation {name!r} is not supported; use one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


_TEXT_CONFIGS: Final = ("text_config", "llm_config", "language_config")
_OTHER_MODALITIES: Final = ("vision_config", "audio_config")
_TYPE_NAMES: Final = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a name", list: "a list"
}  # fmt: skip


def language_model(document: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
    """The config of the language model in a multimodal one, and its key there; in any other None and itself.

    Raises `ConfigError` for anything but a decoder-only language model.
    """
    model_type = short_repr(document["model_type"])
    if document.get("is_encoder_decoder"):
        raise ConfigError(f"an encoder-decoder config ({model_type}); only decoder-only models are counted")
    key = next((key for key in _TEXT_CONFIGS if isinstance(document.get(key), dict)), None)
    if key is None:
        if any(isinstance(document.get(name), dict) for name in _OTHER_MODALITIES):
            raise ConfigError(
                f"a multimodal config ({model_type}) without text_config; give the language model's own"
            )
        return None, document
    # Its ties are those of the whole model, which has the output head.
    outer = {name: document[name] for name in ("tie_word_embeddings",) if name in document}
    text_config = outer | document[key]
    if "model_type" not in text_config:
        raise ConfigError(
            f"a multimodal config ({model_type}) whose {key} has no model_type; add that of its class"
        )
    if text_config.get("is_encoder_decoder"):
        raise ConfigError(f"an encoder-decoder config ({model_type}); only decoder-only models are counted")
    return key, text_config


def _check_values(schema: ConfigSchema, config: Config, given: Mapping[str, Any], model_type: str) -> None:
    """Refuse a string where the class has a number and the like, before arithmetic meets it."""
    for key, default in schema.defaults.items():
        value = config[key]
        if value is not None:
            _check_type(key, value, schema.value_type(key))
        elif key in given and given[key] is None and not (default is None or key in schema.nullable):
            what = (
                "leave it out" if default is ABSENT else f"it must be {_TYPE_NAMES[schema.value_type(key)]}"
            )
            raise ConfigError(f"{key} is null, which the class does not accept; {what}")
    for key, required in schema.required_values.items():
        if config[key] != required:
            raise ConfigError(
                f"{key}={config[key]!r} changes the parameters of {model_type} in a way that is not "
                f"modelled; only {required!r} is supported"
            )
    key = schema.keys["n_layers"]
    if not 1 <= config[key] <= MOST_LAYERS:
        raise ConfigError(f"{key} is {config[key]}; it must be 1 to {MOST_LAYERS:,}")
    _check_heads(schema, config)


def _check_type(key: str, value: object, wanted: type) -> None:
    types: tuple[type, ...] = (int, float) if wanted is float else (wanted,)
    if not isinstance(value, types) or isinstance(value, bool) != (wanted is bool):
        raise ConfigError(f"{key} is {short_repr(value)}; it must be {_TYPE_NAMES[wanted]}")
    if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
        raise ConfigError(f"{key} is {short_repr(value)}; it must be a finite number")
    if isinstance(value, int) and wanted is int and not 0 <= value <= LARGEST_SIZE:
        raise ConfigError(f"{key} is {short_repr(value)}; it must be 0 to {LARGEST_SIZE:,}")


def _check_heads(schema: ConfigSchema, config: Config) -> None:
    """Refuse heads that do not divide the width, where the class refuses them."""
    dim_key, heads_key, head_dim_key = (schema.keys.get(name, "") for name in ("dim", "n_heads", "head_dim"))
    dim, heads = config[dim_key], config[heads_key]
    for key, value in ((dim_key, dim), (heads_key, heads)):
        if value < 1:
            raise ConfigError(f"{key} is {value}; it must be 1 or more")
    latent = config.get("kv_lora_rank") is not None  # the heads of latent attention have widths of their own
    width_is_known = schema.uneven_heads == "round_down" or latent or config.get(head_dim_key) is not None
    if dim % heads and (schema.uneven_heads == "refuse" or not width_is_known):
        hint = f", or give {head_dim_key}" if head_dim_key and schema.uneven_heads != "refuse" else ""
        raise ConfigError(
            f"{heads_key}={heads} does not divide {dim_key}={dim}; change {heads_key} or {dim_key}{hint}"
        )


_SIZE_FIELDS: Final = ("dim", "n_layers", "n_heads", "n_kv_heads", "intermediate_size", "vocab_size", "tied")
_SIZE_KEYS: Final = frozenset({
    "first_k_dense_replace", "kv_lora_rank", "moe_intermediate_size", "n_routed_experts", "n_shared_experts",
    "num_experts", "num_experts_per_tok", "num_kv_heads", "num_local_experts", "q_lora_rank",
    "shared_expert_intermediate_size",
})  # fmt: skip
_KEYS_WITHOUT_NOTE: Final = re.compile(
    r"""_?(name_or_path|architectures|auto_map|model_type|transformers_version|torch_dtype|dtype|prefix
    |quantization_config|compression_config|rope_scaling|rope_parameters|rope_theta
    |original_max_position_embeddings|attn_config|verbose
    |is_decoder|is_encoder_decoder|task_specific_params|problem_type|tokenizer_class|n_ctx|per_layer_config
    |label2id|id2label|num_labels|pretraining_tp|classifier.*|summary_.*|output_.*|return_.*|use_cache|chunk_.*
    |.*dropout.*|.*pdrop|layerdrop|init_device|.*token.*|unk_.*|.*aux_loss.*|.*jitter.*|.*z_loss.*|ep_size
    |gradient_checkpointing|is_causal|.*softmax_in_fp32|.*_fusion|skip_bias_add.*|offset_alibi|slow_but_exact
    |hidden_act_.*|model_max_length|max_sequence_length|attn_implementation|cache_implementation
    |experts_implementation|.*initializer.*|reorder_and_upcast_attn|torchscript|rotary|hf_.*|sep_.*|eos_.*
    |bos_.*|pad_.*|vocab_file|max_length|min_length|temperature|top_k|top_p|do_sample|num_beams)""",
    re.VERBOSE,
)
"""Keys that say nothing about the architecture: training, files, tokens, generation."""


def _import_notes(
    schema: ConfigSchema, given: Mapping[str, Any], model_type: str, unsupported: Sequence[str]
) -> tuple[str, ...]:
    """What the count does not show: functions that cannot be expressed, keys that the class does not read."""
    notes = []
    if unsupported:
        notes.append(f"counted exactly, but built without {', '.join(unsupported)}, so its logits differ")
    unread = sorted(key for key, value in given.items() if _deserves_note(key, value, schema))
    if unread:
        notes.append(f"keys that {model_type} does not read: {', '.join(unread)}")
    return (*notes, *_notes_on_heads(given), *_notes_on_defaults(schema, given))


def _notes_on_defaults(schema: ConfigSchema, given: Mapping[str, Any]) -> list[str]:
    """Sizes and ties that are missing from the config."""
    sizes = {schema.keys[field] for field in _SIZE_FIELDS if field in schema.keys} | _SIZE_KEYS
    missing = [key for key in schema.defaults if key in sizes and key not in given]
    defaults = [f"{key}={json.dumps(schema.defaults[key])}" for key in missing]
    return [f"missing keys have the defaults of the class: {', '.join(defaults)}"] if defaults else []


def _unsupported_keys(schema: ConfigSchema, config: Config) -> list[str]:
    """What the class computes and `ModelConfig` cannot express."""
    keys = [
        schema.descriptions.get(key, f"{key}={config[key]!r}")
        for key, supported in schema.unsupported.items()
        if config[key] != supported and (config[key] or supported)
    ]
    return [*keys, *schema.always_unsupported]


def _deserves_note(key: str, value: object, schema: ConfigSchema) -> bool:
    """Whether the class ignores a key that looks as if it mattered; null, false and empty never do."""
    if key in schema.defaults or not value or key in ("num_nextn_predict_layers", "num_mtp_layers"):
        return False
    if key in schema.ignored_keys:
        return schema.ignored_keys[key] is not ANY and schema.ignored_keys[key] != value
    return not _KEYS_WITHOUT_NOTE.fullmatch(key)


def _notes_on_heads(given: Mapping[str, Any]) -> list[str]:
    """Heads other than the usual output head over the vocabulary."""
    notes = []
    if given.get("num_nextn_predict_layers"):
        notes.append("layers for multi-token prediction are not part of the class and are not counted")
    architectures = given.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    if names and not any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        notes.append(f"counted with a language-modelling head, not as {names[0]}")
    return notes
