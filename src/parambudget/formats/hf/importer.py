"""A Hugging Face config.json as a model: read exactly, or refused with the reason; never guessed."""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from parambudget.arch.blocks import CountedParts
from parambudget.arch.config import MIXERS
from parambudget.arch.defaults import unsupported_note
from parambudget.arch.dims import mixer_words
from parambudget.arch.validation import LARGEST_SIZE, MOST_LAYERS
from parambudget.errors import ConfigError
from parambudget.formats.hf.families.registry import find_family
from parambudget.formats.hf.multimodal import language_model
from parambudget.formats.hf.rotary import notes_on_type, rescaling, rope_keys, rope_objects
from parambudget.formats.hf.rules import fraction_of_head, read_object
from parambudget.formats.hf.schema import ABSENT, ANY, NESTED_OBJECTS, Config, ConfigSchema, Fields
from parambudget.formats.imported import Imported
from parambudget.units import short_repr


def from_hf(document: Mapping[str, Any], name: str) -> Imported:
    """The model that a config.json describes, by its `model_type`; `name` stands for it in messages.

    A missing key has the class's own default. A key that the class does not read is noted. An unknown type is
    refused, and so is a key that would change the count in a way that is not modelled.
    """
    try:
        place, config, notes = language_model(document)
        model_type = config["model_type"]
        schema = find_family(model_type, document.get("auto_map")).config
        if config.get("per_layer_config") and "per_layer_config" not in schema.defaults:
            raise ConfigError("per_layer_config gives layers sizes of their own, which is not modelled")
        imported = _import_config(schema, _with_own_keys(schema, config), model_type)
        if unread := sorted(key for key in _unread_rope_keys(schema) if config.get(key)):
            notes = (*notes, f"{model_type} reads rope_parameters, and not {', '.join(unread)}")
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    if document.get("auto_map"):
        notes = (*notes, f"code of its author (auto_map) is never run; read as any {model_type}")
    if place is None:
        return replace(imported, notes=(*notes, *imported.notes))
    note = f"of this {short_repr(document['model_type'])} only the {place} is read, a {model_type}"
    return replace(imported, notes=(note, *notes, *imported.notes))


def _with_own_keys(schema: ConfigSchema, document: Mapping[str, Any]) -> dict[str, Any]:
    """The config with aliases replaced by the class's own keys, and the objects inside flattened."""
    given = {key: value for key, value in document.items() if key not in schema.aliases}
    # In the order of the document, as the class sets them; it takes a null n_embed for one that is not there.
    for alias, value in document.items():
        if alias in schema.aliases and not (alias == "n_embed" and value is None):
            given[schema.aliases[alias]] = value
    outside = _unread_rope_keys(schema)
    if "rope_scaling" in outside:
        read_object(given, "rope_scaling")  # the class refuses another type, read or not
    given = {key: value for key, value in given.items() if key not in outside}
    for outer in NESTED_OBJECTS:
        if any(key.startswith(f"{outer}.") for key in schema.defaults):
            given |= {f"{outer}.{key}": value for key, value in read_object(given, outer).items()}
    return given


def _unread_rope_keys(schema: ConfigSchema) -> set[str]:
    """The usual keys of rotary positions that the class does not read, because it has them in an object."""
    if schema.rope_only_in_objects:
        bases = (schema.keys[field] for field in ("rope_theta", "rope_theta_local"))
        return {"rope_scaling", "partial_rotary_factor", "local_partial_rotary_factor", *bases}
    return set() if schema.reads_rope_scaling else {"rope_scaling"}


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
    is_built = not fields.keys() & CountedParts.model_fields.keys()
    notes = _import_notes(schema, given, model_type, unsupported, is_built=is_built)
    return Imported(fields, (*notes, *notes_on_type(schema, rope)), tuple(unsupported))


def _with_class_conventions(fields: Fields) -> Fields:
    """What null or absence means to the classes: multi-head attention, heads that fill the width, 4 * dim."""
    named = {word for words in map(mixer_words, fields.get("mixer_pattern", ())) for word in words}
    for kind, block in MIXERS.items():
        if kind not in named:  # its sizes have no effect
            fields = {name: value for name, value in fields.items() if name not in block.model_fields}
    fields.setdefault("n_kv_heads", fields["n_heads"])
    fields.setdefault("head_dim", fields["dim"] // fields["n_heads"])
    if fields.get("gated") is False:
        fields.setdefault("intermediate_size", 4 * fields["dim"])
    fields.setdefault("norm_bias", False)
    fields.setdefault("final_norm", True)
    if fields.get("position", "rotary") == "rotary":
        if "rope_theta" in fields:
            fields["rope_theta"] = float(fields["rope_theta"])
        fields |= _even_rotary_widths(fields)
    else:
        for name in ("rope_theta", "rope_theta_local", "rotary_pattern", "rotary_fraction_local"):
            fields.pop(name, None)
    if "window" not in fields:
        for name in ("rope_theta_local", "rotary_fraction_local"):
            fields.pop(name, None)
    if fields.get("rotary_fraction_local") == fields.get("rotary_fraction", 1.0):
        fields.pop("rotary_fraction_local", None)
    return fields


def _even_rotary_widths(fields: Mapping[str, Any]) -> Fields:
    """The same rotations over even widths, of layers with a window by themselves where those have a share,
    a base or heads of their own."""
    fraction, theta = fields.get("rotary_fraction", 1.0), fields.get("rope_theta", 10_000.0)
    of_local_layers = {"rotary_fraction_local", "rope_theta_local", "global_head_dim"} & fields.keys()
    if "window" not in fields or not of_local_layers:
        return _even_rotary_width(fields["head_dim"], fraction, theta)
    local = _even_rotary_width(
        fields["head_dim"], fields.get("rotary_fraction_local", fraction),
        fields.get("rope_theta_local", theta),
    )  # fmt: skip
    of_both = _even_rotary_width(fields.get("global_head_dim", fields["head_dim"]), fraction, theta)
    if of_both and not local:  # what they had in common stays theirs
        local = {"rotary_fraction": fields.get("rotary_fraction_local", fraction)}
    return of_both | {f"{name}_local": value for name, value in local.items()}


def _even_rotary_width(head_dim: int, fraction: float, theta: float) -> Fields:
    """The same rotation of a head over an even width.

    The classes have a frequency for every second element, the last of an odd number d included: theta to the
    power of -2i/d, which is theta^((d+1)/d) to the power of -2i/(d+1).
    """
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
    "xielu": "xielu",
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


_TYPE_NAMES: Final = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a name", list: "a list",
    dict: "an object",
}  # fmt: skip


def _check_values(schema: ConfigSchema, config: Config, given: Mapping[str, Any], model_type: str) -> None:
    """Refuse a string where the class has a number and the like, before arithmetic meets it."""
    for key, default in schema.defaults.items():
        value = config[key]
        if value is not None:
            _check_type(key, value, schema.accepted_types(key))
            _check_numbers_in_list(key, value, default)
        elif key in given and given[key] is None and not (default is None or key in schema.nullable):
            what = (
                "leave it out"
                if default is ABSENT
                else f"it must be {_TYPE_NAMES[schema.accepted_types(key)[0]]}"
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


def _check_type(key: str, value: object, accepted: tuple[type, ...]) -> None:
    types = (*accepted, int) if float in accepted else accepted
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in accepted):
        names = " or ".join(_TYPE_NAMES[kind] for kind in accepted)
        raise ConfigError(f"{key} is {short_repr(value)}; it must be {names}")
    if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
        raise ConfigError(f"{key} is {short_repr(value)}; it must be a finite number")
    if isinstance(value, int) and int in accepted and not 0 <= value <= LARGEST_SIZE:
        raise ConfigError(f"{key} is {short_repr(value)}; it must be 0 to {LARGEST_SIZE:,}")


def _check_numbers_in_list(key: str, value: object, default: object) -> None:
    """Refuse a list with infinity or NaN, unless the class's own has infinity, as limits of steps have."""
    if not isinstance(value, list) or (isinstance(default, list) and math.inf in default):
        return
    if any(isinstance(one, float) and not math.isfinite(one) for one in value):
        raise ConfigError(f"{key} is {short_repr(value)}; it must have finite numbers alone")


def _check_heads(schema: ConfigSchema, config: Config) -> None:
    """Refuse heads that do not divide the width, where the class refuses them."""
    dim_key, heads_key, head_dim_key = (schema.keys.get(name, "") for name in ("dim", "n_heads", "head_dim"))
    # A class without attention has no heads.
    dim, heads = config[dim_key], config.get(heads_key, 1)
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
    "attn_config.kv_n_heads", "ffn_config.ffn_hidden_size", "ffn_config.moe_num_experts",
    "ffn_config.moe_top_k", "first_k_dense_replace", "index_head_dim",
    "index_n_heads", "kv_lora_rank", "moe_intermediate_size", "moe_k",
    "moe_num_experts", "moe_num_shared_experts", "moe_topk", "n_routed_experts", "n_shared_experts",
    "num_dense_layers", "num_experts", "num_experts_per_tok", "num_kv_heads", "num_local_experts",
    "num_shared_experts", "q_lora_rank", "shared_expert_intermediate_size", "shared_intermediate_size",
})  # fmt: skip
_KEYS_WITHOUT_NOTE: Final = re.compile(
    r"""_?(name_or_path|architectures|auto_map|model_type|transformers_version|torch_dtype|dtype|prefix
    |quantization_config|compression_config|rope_scaling|rope_parameters|rope_theta
    |original_max_position_embeddings|attn_config|ffn_config|verbose
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
    schema: ConfigSchema,
    given: Mapping[str, Any],
    model_type: str,
    unsupported: Sequence[str],
    *,
    is_built: bool,
) -> tuple[str, ...]:
    """What the count does not show: functions that cannot be expressed, keys that the class does not read."""
    notes = []
    if unsupported:
        notes.append(unsupported_note(unsupported, is_built=is_built))
    unread = sorted(key for key, value in given.items() if _deserves_note(key, value, schema))
    if unread:
        notes.append(f"keys that {model_type} does not read: {', '.join(unread)}")
    return (*notes, *_notes_on_heads(given), *_notes_on_defaults(schema, given))


def _notes_on_defaults(schema: ConfigSchema, given: Mapping[str, Any]) -> list[str]:
    """Sizes and ties that are missing from the config."""
    sizes = {schema.keys[field] for field in _SIZE_FIELDS if field in schema.keys} | _SIZE_KEYS
    sizes -= schema.required_values.keys()
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
    together = [what for rule in schema.unsupported_rules for what in rule(config)]
    return [*keys, *together, *schema.always_unsupported]


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
