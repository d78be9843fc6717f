"""A model as a Hugging Face config.json: of the first class that is the model, or refused with the reason.

The tables of the importer are inverted, and the result is imported again: a class is taken only if that gives
the same model. There is one source of truth, and a wrong key can cause a refusal, but never a wrong export.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import sqrt
from sys import float_info
from typing import Any, Final

from parambudget.arch.config import ModelConfig, flat_fields
from parambudget.arch.defaults import with_defaults
from parambudget.arch.dims import MixerKind
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Attempt, Export, first_equivalent
from parambudget.formats.hf import rules
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
    if FAMILIES[model_type].model_class is not None and FAMILIES[model_type].weights is not None
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
    values |= {
        key: _KEYS[key](model)
        for key in (*schema.defaults, *family.unused_keys)
        if key in _KEYS and key not in values
    }
    config = {key: value for key, value in values.items() if value is not None or _accepts_null(schema, key)}
    if config.get("use_sliding_window") is False:
        for key in ("layer_types", "sliding_window"):
            config.pop(key, None)
    if "layer_types" in schema.defaults and config.get("sliding_window", 0) is None:
        # The classes make a mask of this width although no layer uses it.
        del config["sliding_window"]
    if "mamba_n_heads" in schema.defaults:
        # Without a layer of Mamba-2 the classes still want heads that fill its width; one always does.
        config.setdefault("mamba_n_heads", 1)
    if rules.qwen_ffn in schema.rules:
        config["intermediate_size"] = 2 * model.intermediate_size
    if "layer_types" in config:
        words = schema.exported_layer_words
        config["layer_types"] = [words.get(word, word) for word in _layer_types(model)]
    rope = rope_parameters(schema, model) if "rope_theta" in schema.keys else {}
    if schema.rope_only_in_objects:
        plain: dict[str, Any] = {"rope_type": "default"}
        full, sliding = dict(rope or plain), dict(plain)
        if schema.object_rotary_share is not None:
            full["partial_rotary_factor"] = config.pop(schema.keys["rotary_fraction"])
            local_share = config.pop(schema.keys["rotary_fraction_local"], None)
            sliding["partial_rotary_factor"] = local_share or full["partial_rotary_factor"]
        config["rope_parameters"] = {
            "full_attention": full | {"rope_theta": config.pop("rope_theta")},
            "sliding_attention": sliding | {"rope_theta": config.pop(schema.keys["rope_theta_local"])},
        }
    elif schema.default_rope_parameters:
        rope = rope or {"rope_type": "default"}
        config["rope_parameters"] = rope | {"rope_theta": config.pop("rope_theta")}
    elif rope:
        config["rope_scaling"] = rope
    if schema.has_latent_attention and model.mla:
        # The classes divide the heads by num_key_value_heads, which they do not use otherwise.
        config |= {"num_key_value_heads": model.n_heads, "head_dim": model.mla.qk_rope_head_dim}
        if "layer_group_size" in schema.defaults and model.gated_delta_net:
            config["head_dim"] = model.gated_delta_net.delta_key_dim
    return {
        "architectures": [family.model_class],
        "model_type": model_type,
        **_nest(config),
        **dict.fromkeys(family.dropout_keys, 0.0),
        # There is no tokenizer: the ids that some classes have by default would not fit a small vocabulary.
        **dict.fromkeys(family.token_keys),
    }


def _accepts_null(schema: ConfigSchema, key: str) -> bool:
    default = schema.defaults.get(key, ABSENT)
    return default is None or key in schema.nullable


def _nest(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with keys such as attn_config.clip_qkv moved into their objects."""
    nested: dict[str, Any] = {}
    for key, value in config.items():
        *outer, inner = key.split(".")
        place = nested
        for name in outer:
            place = place.setdefault(name, {})
        place[inner] = value
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


def _indexer_field(name: str) -> _Value:
    """A field of the indexer; None without one."""
    return lambda m: getattr(m.indexer, name, None)


def _indexer_types(m: ModelConfig) -> list[str]:
    return ["full" if m.has_indexer(layer) else "shared" for layer in range(m.n_layers)]


def _attention_scale(m: ModelConfig) -> float:
    return m.head_dim**-0.5 if m.attention_multiplier is None else m.attention_multiplier


def _original_context(m: ModelConfig) -> int:
    extended_from = m.rope_scaling and m.rope_scaling.rope_original_context
    return extended_from or m.context_length


def _mixer_field(name: str) -> _Value:
    """A field of the mixer other than attention; None without one, or with another."""
    return lambda m: getattr(m.mixer, name, None)


_MIXER_WORDS: Final[Mapping[MixerKind, str]] = {
    "gated_delta_net": "linear_attention", "short_convolution": "conv",
    "lightning_attention": "linear_attention", "rg_lru": "recurrent", "rwkv": "linear_attention",
    "mamba": "linear_attention", "mamba2": "linear_attention",
}  # fmt: skip
"""What the classes call a mixer in their lists over the layers."""


def _layer_types(m: ModelConfig) -> list[str]:
    local = "chunked_attention" if m.window_kind == "chunked" else "sliding_attention"
    mixers = [m.mixer_kind(layer) for layer in range(m.n_layers)]
    spans = [local if m.is_local(layer) else "full_attention" for layer in range(m.n_layers)]
    return [_MIXER_WORDS[kind] if kind else span for kind, span in zip(mixers, spans, strict=True)]


def _block_types(m: ModelConfig) -> list[str]:
    return ["attention" if m.has_attention(layer) else "recurrent" for layer in range(m.n_layers)]


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


def _layers_block_type(m: ModelConfig) -> list[str]:
    """What each layer of Nemotron-H has: its mixer, or its FFN."""
    ffns = ["moe" if m.has_experts(layer) else "mlp" for layer in range(m.n_layers)]
    layers = enumerate(zip(_layer_types(m), ffns, strict=True))
    return [mixer if m.has_mixing(layer) else ffn for layer, (mixer, ffn) in layers]


def _attention_layers(m: ModelConfig) -> list[int]:
    return [layer for layer in range(m.n_layers) if m.has_attention(layer)]


def _moe_layers(m: ModelConfig) -> list[int]:
    return [layer for layer in range(m.n_layers) if m.has_experts(layer)]


def _period(layers: Sequence[int], n_layers: int) -> int:
    """The layers from one of them to the next; a period in which no other comes if there are fewer."""
    return layers[1] - layers[0] if len(layers) > 1 else n_layers + 1


def _offset(layers: Sequence[int], n_layers: int) -> int:
    """The first of them; where there are none, a layer after the last."""
    return layers[0] if layers else n_layers


def _multiplier(name: str) -> _Value:
    """A factor of the branches; 1 without any."""
    return lambda m: getattr(m.multipliers, name, 1.0)


def _inner_ratio(m: ModelConfig) -> int | None:
    """How many times as wide as the model its state spaces are, rounded down."""
    if m.mamba is not None:
        return m.mamba.mamba_inner_size // m.dim
    return None if m.mamba2 is None else m.mamba2.mamba2_n_heads * m.mamba2.mamba2_head_dim // m.dim


def _step_limits(m: ModelConfig) -> list[float] | None:
    """The shortest and the longest step; null, and so left out, for those of the classes."""
    if m.mamba2 is None or (m.mamba2.mamba2_dt_min == 0 and m.mamba2.mamba2_dt_max is None):
        return None
    # JSON has no infinity.
    return [m.mamba2.mamba2_dt_min, m.mamba2.mamba2_dt_max or float_info.max]


def _last_moe_layer(m: ModelConfig) -> int:
    return max((layer for layer in range(m.n_layers) if m.has_experts(layer)), default=0)


def _moe_layer_interval(m: ModelConfig) -> int:
    """The layers from one with experts to the next."""
    layers = [layer for layer in range(m.n_layers) if m.has_experts(layer)]
    return layers[1] - layers[0] if len(layers) > 1 else 1


def _mlp_layer_types(m: ModelConfig) -> list[str]:
    return ["sparse" if m.has_experts(layer) else "dense" for layer in range(m.n_layers)]


def _layer_rope_thetas(m: ModelConfig) -> list[float]:
    """The rotary base of each layer, 0 for one without positions."""
    local = m.rope_theta_local or m.rope_theta
    bases = [local if m.is_local(layer) else m.rope_theta for layer in range(m.n_layers)]
    return [base if m.rotates(layer) else 0.0 for layer, base in enumerate(bases)]


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
    "use_post_norm": lambda m: m.norm_placement == "sandwich",
    "use_qk_norm": lambda m: m.qk_norm != "none", "qk_layernorm": lambda m: m.qk_norm != "none",
    "use_parallel_residual": lambda m: m.block != "sequential",
    "parallel_attn": lambda m: m.block != "sequential", "num_ln_in_parallel_attn": _n_parallel_norms,
    "do_layer_norm_before": lambda m: m.norm_placement == "pre",
    "_remove_final_layer_norm": lambda m: m.norm_placement == "pre" and not m.final_norm,
    "layer_norm_elementwise_affine": lambda m: m.norm_weight,
    "rms_norm_eps": lambda m: m.norm_eps if m.norm == "rmsnorm" else None,
    "layer_norm_eps": lambda m: m.norm_eps,
    # Heads and scores
    "num_kv_heads": lambda m: m.n_kv_heads,
    "num_key_value_heads": lambda m: m.global_n_kv_heads or m.n_kv_heads,  # MiMo-V2-Flash
    "global_head_dim": lambda m: m.global_head_dim or m.head_dim,
    "num_global_key_value_heads": lambda m: m.global_n_kv_heads,
    "attention_k_eq_v": lambda m: m.global_keys_as_values,
    "num_kv_shared_layers": lambda m: m.n_kv_shared_layers,
    "use_double_wide_mlp": lambda m: m.kv_shared_ffn_factor == 2,
    "hidden_size_per_layer_input": lambda m: m.per_layer_embedding_dim or 0,
    "vocab_size_per_layer_input": lambda m: m.per_layer_vocab_size or m.vocab_size,
    "num_attention_heads_per_layer": lambda m: [m.heads(layer)[0] for layer in range(m.n_layers)],
    "gating": lambda m: "per-head" if m.attention_gate == "head" else "per-element",
    "mup_enabled": lambda m: m.embedding_multiplier != 1,
    "attn_temperature_tuning": lambda m: m.query_scale != "none",
    "attn_scale": lambda m: m.query_scale_strength, "floor_scale": lambda m: m.query_scale_length,
    "multi_query": lambda m: m.n_kv_heads == 1,
    "new_decoder_architecture": lambda m: m.n_kv_heads not in (1, m.n_heads) or m.block == "parallel",
    "query_pre_attn_scalar": lambda m: round(_attention_scale(m) ** -2),
    "attention_multiplier": _attention_scale, "scale_attn_weights": lambda m: m.attention_multiplier != 1,
    "attn_config.clip_qkv": lambda m: m.qkv_clip, "attn_config.rope_theta": lambda m: m.rope_theta,
    "attn_config.softmax_scale": lambda m: m.attention_multiplier,
    "q_lora_rank": _mla_field("q_lora_rank"), "kv_lora_rank": _mla_field("kv_lora_rank"),
    "qk_nope_head_dim": _mla_field("qk_nope_head_dim"), "qk_rope_head_dim": _mla_field("qk_rope_head_dim"),
    "v_head_dim": _mla_field("v_head_dim"),
    "index_n_heads": _indexer_field("n_index_heads"), "index_head_dim": _indexer_field("index_head_dim"),
    "index_topk": _indexer_field("index_top_k"), "indexer_types": _indexer_types,
    # Positions and windows
    "alibi": lambda m: m.position == "alibi", "rotary_dim": lambda m: m.rotary_dim,
    "rope_interleave": lambda m: m.rotary_interleaved,
    "no_rope_layers": lambda m: [int(m.rotates(layer)) for layer in range(m.n_layers)],
    "original_max_position_embeddings": _original_context, "layer_rope_theta": _layer_rope_thetas,
    "prefix_dense_sliding_window_pattern": lambda _: 1,
    "sliding_window": lambda m: m.window, "use_sliding_window": lambda m: m.n_local_layers > 0,
    "attention_chunk_size": lambda m: m.window,
    "layer_types": _layer_types, "window_size": lambda m: m.window, "attention_types": _attention_types,
    # Mixers other than attention
    "linear_num_key_heads": _mixer_field("delta_n_key_heads"),
    "linear_num_value_heads": _mixer_field("delta_n_value_heads"),
    "linear_key_head_dim": _mixer_field("delta_key_dim"),
    "linear_value_head_dim": _mixer_field("delta_value_dim"),
    "linear_conv_kernel_dim": _mixer_field("delta_conv_width"),
    "linear_head_dim": _mixer_field("delta_key_dim"), "linear_num_heads": _mixer_field("delta_n_key_heads"),
    "linear_allow_neg_eigval": _mixer_field("delta_negative_eigenvalues"),
    "short_conv_kernel_size": _mixer_field("delta_conv_width"), "layer_group_size": lambda _: 6,
    "kda_safe_gate": lambda m: m.gated_delta_net and m.gated_delta_net.delta_decay_bound is not None,
    "kda_lower_bound": lambda m: -(getattr(m.mixer, "delta_decay_bound", None) or 5.0),
    "conv_L_cache": _mixer_field("short_conv_width"), "conv_bias": _mixer_field("short_conv_bias"),
    "lru_width": lambda m: m.rg_lru and m.rg_lru.lru_n_blocks * m.rg_lru.lru_block_width,
    "conv1d_width": _mixer_field("lru_conv_width"), "attention_window_size": lambda m: m.window,
    "block_types": _block_types, "block_auto_adjust_ff_dim": lambda _: False,
    **dict.fromkeys(
        ("full_attn_alpha_factor", "linear_attn_alpha_factor", "mlp_alpha_factor"),
        lambda m: m.stream_multiplier,
    ),
    **dict.fromkeys(
        ("full_attn_beta_factor", "linear_attn_beta_factor", "mlp_beta_factor"),
        lambda m: m.residual_multiplier,
    ),
    "use_sandwich_norm": lambda m: m.norm_placement == "sandwich",
    "use_attention_gate": lambda m: m.attention_gate != "none",
    "rescale_every": lambda _: 0,
    # State spaces
    "expand": _inner_ratio, "time_step_limit": _step_limits, "mamba_expand": _inner_ratio,
    "mamba_d_head": _mixer_field("mamba2_head_dim"), "time_step_rank": _mixer_field("mamba_dt_rank"),
    "mamba_d_ssm": lambda m: m.mamba2 and m.mamba2.mamba2_n_heads * m.mamba2.mamba2_head_dim,
    "mamba_dt_rank": _mixer_field("mamba_dt_rank"), "projectors_bias": _mixer_field("mamba2_out_bias"),
    "mamba_rms_norm": lambda m: m.mamba2 and m.mamba2.mamba2_norm != "none",
    "mamba_norm_before_gate": lambda m: m.mamba2 and m.mamba2.mamba2_norm != "after_gate",
    "attn_layer_indices": _attention_layers, "layers_block_type": _layers_block_type,
    "attn_layer_period": lambda m: _period(_attention_layers(m), m.n_layers),
    "attn_layer_offset": lambda m: _offset(_attention_layers(m), m.n_layers),
    "expert_layer_period": lambda m: _period(_moe_layers(m), m.n_layers),
    "expert_layer_offset": lambda m: _offset(_moe_layers(m), m.n_layers),
    "position_embedding_type": lambda m: "rope" if m.position == "rotary" else None,
    "attention_in_multiplier": _multiplier("attention_in_multiplier"),
    "attention_out_multiplier": _multiplier("attention_out_multiplier"),
    "ssm_in_multiplier": _multiplier("mixer_in_multiplier"),
    "ssm_out_multiplier": _multiplier("mixer_out_multiplier"),
    "mlp_multipliers": lambda m: [
        _multiplier(name)(m) for name in ("ffn_gate_multiplier", "ffn_out_multiplier")
    ],
    "ssm_multipliers": lambda m: m.mamba2 and list(m.mamba2.mamba2_multipliers),
    "key_multiplier": lambda m: _attention_scale(m) * sqrt(m.head_dim),
    # Multipliers and widths
    "scale_embedding": lambda m: m.embedding_multiplier != 1,
    "scale_depth": lambda m: m.residual_multiplier * sqrt(m.n_layers),
    "dim_model_base": lambda m: round(m.logit_multiplier * m.dim),
    "embedding_multiplier": lambda m: m.embedding_multiplier,
    "residual_multiplier": lambda m: m.residual_multiplier,
    "logits_scaling": lambda m: 1 / m.logit_multiplier,
    "word_embed_proj_dim": lambda m: m.embedding_width, "afn": _openai_gpt_activation,
    "ffn_hidden_size": lambda m: m.intermediate_size,
    # Experts; a class without dense layers calls their width intermediate_size
    "intermediate_size": _moe_field("expert_intermediate_size"),
    "moe_intermediate_size": _moe_field("expert_intermediate_size"),
    "enable_moe_block": lambda m: m.moe is not None, "top_k_experts": _moe_field("n_experts_per_token"),
    "moe_layers": lambda m: [layer for layer in range(m.n_layers) if m.has_experts(layer)],
    "num_local_experts": lambda m: m.moe.n_experts if m.moe else 0, "num_experts": _moe_field("n_experts"),
    "n_routed_experts": _moe_field("n_experts"), "num_experts_per_tok": _moe_field("n_experts_per_token"),
    "norm_topk_prob": _moe_field("norm_expert_weights"), "decoder_sparse_step": lambda _: 1,
    "mlp_only_layers": lambda m: [layer for layer in range(m.n_layers) if not m.has_experts(layer)],
    "first_k_dense_replace": _n_first_dense_layers, "n_shared_experts": _n_shared_experts,
    "shared_expert_intermediate_size": _shared_expert_width,
    "route_scale": _moe_field("routing_multiplier"),
    "moe_routed_scaling_factor": _moe_field("routing_multiplier"), "num_dense_layers": _n_first_dense_layers,
    "routed_scaling_factor": _moe_field("routing_multiplier"), "n_group": _moe_field("n_expert_groups"),
    "topk_group": _moe_field("n_groups_per_token"),
    "topk_method": lambda m: "group_limited_greedy" if m.moe and m.moe.n_expert_groups > 1 else "greedy",
    "moe_layer_start_index": _n_first_dense_layers, "moe_layer_end_index": _last_moe_layer,
    "moe_layer_interval": _moe_layer_interval, "moe_k": _moe_field("n_experts_per_token"),
    "moe_num_experts": _moe_field("n_experts"), "moe_topk": _moe_field("n_experts_per_token"),
    "use_expert_bias": _moe_field("correction_bias"),
    "num_shared_experts": _n_shared_experts, "moe_num_shared_experts": _n_shared_experts,
    "shared_intermediate_size": lambda m: _shared_expert_width(m) if m.moe else m.intermediate_size,
    "moe_shared_expert_intermediate_size": _shared_expert_width,
    "moe_latent_size": _moe_field("expert_latent_size"),
    "router_scaling_factor": _moe_field("routing_multiplier"), "mlp_layer_types": _mlp_layer_types,
    "expert_selection_fn": _moe_field("router_scores"), "shared_expert_combination_strategy": lambda _: "sum",
    "prefix_dense_intermediate_size": lambda m: m.intermediate_size,
    "ffn_config.ffn_hidden_size": _moe_field("expert_intermediate_size"),
    "ffn_config.moe_num_experts": _moe_field("n_experts"),
    "ffn_config.moe_top_k": _moe_field("n_experts_per_token"),
    "ffn_config.moe_normalize_expert_weights": lambda m: 1.0 if m.moe and m.moe.norm_expert_weights else None,
}  # fmt: skip
"""Keys whose value is not simply one of our fields."""
