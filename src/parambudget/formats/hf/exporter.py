"""A model as a Hugging Face config.json: of the first class that is the model, or refused with the reason.

The tables of the importer are inverted, and the result is imported again: a class is taken only if that gives
the same model. There is one source of truth, and a wrong key can cause a refusal, but never a wrong export.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from parambudget.arch.config import ModelConfig, flat_fields
from parambudget.arch.defaults import with_defaults
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Attempt, Export, first_equivalent
from parambudget.formats.hf.families.registry import FAMILIES
from parambudget.formats.hf.importer import from_hf
from parambudget.formats.hf.rotary import rope_parameters
from parambudget.formats.hf.schema import ABSENT, ConfigSchema, Family

_EXPORT_ORDER: Final = (
    "llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox", "olmo2", "gemma", "gemma2", "gemma3_text",
    "phi3", "phi", "gpt_neo", "gptj", "opt", "starcoder2", "falcon", "bloom", "mpt", "gpt_bigcode",
    "stablelm", "smollm3", "olmo", "cohere", "cohere2", "granite", "glm", "glm4", "nemotron", "arcee",
    "seed_oss", "codegen", "openai-gpt", "mixtral", "qwen3_moe", "qwen2_moe", "deepseek_v3", "deepseek_v2",
    "glm4_moe", "olmoe", "gpt_oss", "granitemoe", "phimoe",
)  # fmt: skip
"""The order in which classes are tried: plain and widely supported ones first, new families last."""
EXPORTABLE: Final[Mapping[str, Family]] = {
    model_type: FAMILIES[model_type]
    for model_type in (*_EXPORT_ORDER, *(name for name in FAMILIES if name not in _EXPORT_ORDER))
    if FAMILIES[model_type].model_class is not None
}


def to_hf(model: ModelConfig, model_type: str | None = None) -> Export:
    """The config.json of the first class that is this model, or of the one that `model_type` asks for.

    What a class computes beyond the model is a note. Raises `ConfigError` with what the closest class lacks.
    """
    if model_type is not None and model_type not in EXPORTABLE:
        raise ConfigError(f"cannot export to model_type {model_type!r}; use one of {', '.join(EXPORTABLE)}")
    model_types = EXPORTABLE if model_type is None else (model_type,)
    suitable = [name for name in model_types if _has_required_blocks(EXPORTABLE[name].config, model)]
    if not suitable:
        required = "latent attention" if FAMILIES[str(model_type)].config.has_latent_attention else "experts"
        raise ConfigError(f"{model_type} is a class with {required}, and this model has none; use another")
    scope = "no class of transformers" if model_type is None else f"no config of {model_type}"
    return first_equivalent(model, [partial(_attempt, name, model) for name in suitable], scope)


def _has_required_blocks(schema: ConfigSchema, model: ModelConfig) -> bool:
    """Whether the model has the latent attention or the experts that the class cannot do without."""
    if schema.has_latent_attention and model.mla is None:
        return False
    return model.moe is not None or not schema.has_only_moe_layers


def _attempt(model_type: str, model: ModelConfig) -> Attempt:
    family = EXPORTABLE[model_type]
    document = _hf_config(model_type, family, model)
    imported = from_hf(document, model_type)
    note = (
        f"{family.model_class} has the same count, but computes {', '.join(imported.unsupported)}, so its "
        "logits differ"
    )
    notes = (note,) if imported.unsupported else ()
    export = Export(model_type, document, notes, imported.unsupported)
    return Attempt(export, with_defaults(imported.fields).model)


def _hf_config(model_type: str, family: Family, model: ModelConfig) -> dict[str, Any]:
    """The class's keys with the model's values."""
    schema = family.config
    fields = flat_fields(model)
    values = {key: fields.get(field) for field, key in schema.keys.items()}
    if "activation" in schema.keys:
        values[schema.keys["activation"]] = _activation(model)
    if schema.keys.get("rope_theta_local"):
        values[schema.keys["rope_theta_local"]] = model.rope_theta_local or model.rope_theta
    values |= {key: _KEYS[key](model) for key in schema.defaults if key in _KEYS and key not in values}
    config = {key: value for key, value in values.items() if value is not None or _accepts_null(schema, key)}
    if config.get("use_sliding_window") is False:
        for key in ("layer_types", "sliding_window"):
            config.pop(key, None)
    if "layer_types" in schema.defaults and config.get("sliding_window", 0) is None:
        # The classes make a mask of this width although no layer uses it.
        del config["sliding_window"]
    rope = rope_parameters(schema, model) if "rope_theta" in schema.keys else {}
    if schema.default_rope_parameters:
        rope = rope or {"rope_type": "default"}
        config["rope_parameters"] = rope | {"rope_theta": config.pop("rope_theta")}
    elif rope:
        config["rope_scaling"] = rope
    if schema.has_latent_attention and model.mla:
        # The classes divide the heads by num_key_value_heads, which they do not use otherwise.
        config |= {"num_key_value_heads": model.n_heads, "head_dim": model.mla.qk_rope_head_dim}
    return {
        "architectures": [family.model_class],
        "model_type": model_type,
        **_nest(config),
        **dict.fromkeys(family.dropout_keys, 0.0),
        # There is no tokenizer: the ids that some classes have by default would not fit a small vocabulary.
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    }


def _accepts_null(schema: ConfigSchema, key: str) -> bool:
    default = schema.defaults.get(key, ABSENT)
    return default is None or key in schema.nullable


def _nest(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with keys such as attn_config.clip_qkv moved into their object."""
    nested: dict[str, Any] = {}
    for key, value in config.items():
        outer, _, inner = key.partition(".")
        if inner:
            nested.setdefault(outer, {})[inner] = value
        else:
            nested[key] = value
    return nested


def _activation(m: ModelConfig) -> str:
    """The function's name in the classes."""
    return "gelu_pytorch_tanh" if m.activation == "gelu_tanh" else m.activation


_Value = Callable[[ModelConfig], Any]
"""A key's value for a model; None is written as null where the class accepts that, and else left out."""


def _moe_field(name: str) -> _Value:
    """A field of the experts; None without experts."""
    return lambda m: getattr(m.moe, name, None)


def _mla_field(name: str) -> _Value:
    """A field of latent attention."""
    return lambda m: getattr(m.mla, name)


def _attention_scale(m: ModelConfig) -> float:
    return m.head_dim**-0.5 if m.attention_multiplier is None else m.attention_multiplier


def _original_context(m: ModelConfig) -> int:
    extended_from = m.rope_scaling and m.rope_scaling.rope_original_context
    return extended_from or m.context_length


def _layer_types(m: ModelConfig) -> list[str]:
    return ["sliding_attention" if m.is_local(layer) else "full_attention" for layer in range(m.n_layers)]


def _shared_expert_width(m: ModelConfig) -> int:
    """The width of all shared experts together."""
    if m.moe is None:
        return 0
    return m.moe.shared_expert_width


def _n_shared_experts(m: ModelConfig) -> int | None:
    """The number of shared experts if each is as wide as a routed one."""
    return _shared_expert_width(m) // m.moe.expert_intermediate_size if m.moe else None


def _n_first_dense_layers(m: ModelConfig) -> int:
    return next((layer for layer in range(m.n_layers) if m.has_experts(layer)), m.n_layers)


def _attention_types(m: ModelConfig) -> list[Any]:
    words = ["local" if m.is_local(layer) else "global" for layer in range(m.n_layers)]
    period = len(m.window_pattern) if m.window else 1
    return [[words[:period], m.n_layers // period]] if m.n_layers % period == 0 else [[words, 1]]


def _n_parallel_norms(m: ModelConfig) -> int | None:
    return {"parallel": 2, "parallel_shared_norm": 1}.get(m.block)


def _openai_gpt_activation(m: ModelConfig) -> str:
    return {"gelu_tanh": "gelu", "gelu": "exact gelu"}.get(m.activation, m.activation)


_KEYS: Final[Mapping[str, _Value]] = {
    # Biases
    "attention_bias": lambda m: m.qkv_bias, "attention_out_bias": lambda m: m.attention_out_bias,
    "mlp_bias": lambda m: m.ffn_bias, "bias": lambda m: m.qkv_bias,
    "use_bias": lambda m: m.qkv_bias, "enable_bias": lambda m: m.qkv_bias,
    # Norms and their places
    "use_qk_norm": lambda m: m.qk_norm != "none", "qk_layernorm": lambda m: m.qk_norm != "none",
    "use_parallel_residual": lambda m: m.block != "sequential",
    "parallel_attn": lambda m: m.block != "sequential", "num_ln_in_parallel_attn": _n_parallel_norms,
    "do_layer_norm_before": lambda m: m.norm_placement == "pre",
    "_remove_final_layer_norm": lambda m: m.norm_placement == "pre" and not m.final_norm,
    "layer_norm_elementwise_affine": lambda m: m.norm_weight,
    # Heads and scores
    "num_kv_heads": lambda m: m.n_kv_heads, "multi_query": lambda m: m.n_kv_heads == 1,
    "new_decoder_architecture": lambda m: m.n_kv_heads not in (1, m.n_heads) or m.block == "parallel",
    "query_pre_attn_scalar": lambda m: round(_attention_scale(m) ** -2),
    "attention_multiplier": _attention_scale, "scale_attn_weights": lambda m: m.attention_multiplier != 1,
    "attn_config.clip_qkv": lambda m: m.qkv_clip,
    "attn_config.softmax_scale": lambda m: m.attention_multiplier,
    "q_lora_rank": _mla_field("q_lora_rank"), "kv_lora_rank": _mla_field("kv_lora_rank"),
    "qk_nope_head_dim": _mla_field("qk_nope_head_dim"), "qk_rope_head_dim": _mla_field("qk_rope_head_dim"),
    "v_head_dim": _mla_field("v_head_dim"),
    # Positions and windows
    "alibi": lambda m: m.position == "alibi", "rotary_dim": lambda m: m.rotary_dim,
    "rope_interleave": lambda m: m.rotary_interleaved,
    "no_rope_layers": lambda m: [int(m.rotates(layer)) for layer in range(m.n_layers)],
    "original_max_position_embeddings": _original_context,
    "sliding_window": lambda m: m.window, "use_sliding_window": lambda m: m.n_local_layers > 0,
    "layer_types": _layer_types, "window_size": lambda m: m.window, "attention_types": _attention_types,
    # Multipliers and widths
    "embedding_multiplier": lambda m: m.embedding_multiplier,
    "residual_multiplier": lambda m: m.residual_multiplier,
    "logits_scaling": lambda m: 1 / m.logit_multiplier,
    "word_embed_proj_dim": lambda m: m.embedding_width, "afn": _openai_gpt_activation,
    "ffn_hidden_size": lambda m: m.intermediate_size,
    # Experts; a class without dense layers calls their width intermediate_size
    "intermediate_size": _moe_field("expert_intermediate_size"),
    "moe_intermediate_size": _moe_field("expert_intermediate_size"),
    "num_local_experts": _moe_field("n_experts"), "num_experts": _moe_field("n_experts"),
    "n_routed_experts": _moe_field("n_experts"), "num_experts_per_tok": _moe_field("n_experts_per_token"),
    "norm_topk_prob": _moe_field("norm_expert_weights"), "decoder_sparse_step": lambda _: 1,
    "mlp_only_layers": lambda m: [layer for layer in range(m.n_layers) if not m.has_experts(layer)],
    "first_k_dense_replace": _n_first_dense_layers, "n_shared_experts": _n_shared_experts,
    "shared_expert_intermediate_size": _shared_expert_width,
    "routed_scaling_factor": _moe_field("routing_multiplier"), "n_group": _moe_field("n_expert_groups"),
    "topk_group": _moe_field("n_groups_per_token"),
    "topk_method": lambda m: "group_limited_greedy" if m.moe and m.moe.n_expert_groups > 1 else "greedy",
}  # fmt: skip
"""Keys whose value is not simply one of our fields."""
