"""What a model says under the keys of Hugging Face configs that are more than one of our fields.

The other way round from `rules`, `layers` and `routing`. Nothing rests on it: what is written is read again,
and is refused unless it is the model (see `write`).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from parambudget.arch.config import ModelConfig

Key = Callable[[ModelConfig], Any]
"""From a model to the value of a key; None: the key is null where the class takes that, and else left out."""

_ACTIVATIONS: Final = {"gelu_tanh": "gelu_pytorch_tanh"}
"""Names of the classes for functions that we call otherwise."""


def activation(m: ModelConfig) -> str:
    """The function's name in the classes."""
    return _ACTIVATIONS.get(m.activation, m.activation)


def of_experts(name: str) -> Key:
    """A field of the experts, if there are any."""
    return lambda m: getattr(m.moe, name, None)


def of_latents(name: str) -> Key:
    """A field of latent attention."""
    return lambda m: getattr(m.mla, name)


def scale(m: ModelConfig) -> float:
    """The scale of the attention scores, whether it was said or not."""
    return m.head_dim**-0.5 if m.attention_multiplier is None else m.attention_multiplier


def layer_types(m: ModelConfig) -> list[str]:
    """Which layers have the window."""
    return ["sliding_attention" if m.is_local(layer) else "full_attention" for layer in range(m.n_layers)]


def shared_width(m: ModelConfig) -> int:
    """Width of all shared experts together."""
    if m.moe is None:
        return 0
    return m.moe.n_shared_experts * (m.moe.shared_intermediate_size or m.moe.expert_intermediate_size)


def _n_shared(m: ModelConfig) -> int | None:
    """Shared experts as if each were as wide as a routed one."""
    return shared_width(m) // m.moe.expert_intermediate_size if m.moe else None


def _n_first_dense(m: ModelConfig) -> int:
    return next((layer for layer in range(m.n_layers) if m.has_experts(layer)), m.n_layers)


def _alternating(m: ModelConfig) -> list[Any]:
    kinds = ["local" if m.is_local(layer) else "global" for layer in range(m.n_layers)]
    period = len(m.window_pattern) if m.window else 1
    return [[kinds[:period], m.n_layers // period]] if m.n_layers % period == 0 else [[kinds, 1]]


def _falcon_norms(m: ModelConfig) -> int | None:
    return {"parallel": 2, "parallel_shared_norm": 1}.get(m.block)


def _afn(m: ModelConfig) -> str:
    return {"gelu_tanh": "gelu", "gelu": "exact gelu"}.get(m.activation, m.activation)


KEYS: Final[Mapping[str, Key]] = {
    # Biases
    "attention_bias": lambda m: m.qkv_bias, "attention_out_bias": lambda m: m.attention_out_bias,
    "mlp_bias": lambda m: m.ffn_bias, "bias": lambda m: m.qkv_bias,
    "use_bias": lambda m: m.qkv_bias, "enable_bias": lambda m: m.qkv_bias,
    # Norms and the order of things
    "use_qk_norm": lambda m: m.qk_norm != "none", "qk_layernorm": lambda m: m.qk_norm != "none",
    "use_parallel_residual": lambda m: m.block != "sequential",
    "parallel_attn": lambda m: m.block != "sequential", "num_ln_in_parallel_attn": _falcon_norms,
    "do_layer_norm_before": lambda m: m.norm_placement == "pre",
    "_remove_final_layer_norm": lambda m: m.norm_placement == "pre" and not m.final_norm,
    "layer_norm_elementwise_affine": lambda m: m.norm_weight,
    # Heads and scores
    "num_kv_heads": lambda m: m.n_kv_heads, "multi_query": lambda m: m.n_kv_heads == 1,
    "new_decoder_architecture": lambda m: m.n_kv_heads not in (1, m.n_heads) or m.block == "parallel",
    "query_pre_attn_scalar": lambda m: round(scale(m) ** -2), "attention_multiplier": scale,
    "scale_attn_weights": lambda m: m.attention_multiplier != 1,
    "attn_config.clip_qkv": lambda m: m.qkv_clip,
    "attn_config.softmax_scale": lambda m: m.attention_multiplier,
    "q_lora_rank": of_latents("q_lora_rank"), "kv_lora_rank": of_latents("kv_lora_rank"),
    "qk_nope_head_dim": of_latents("qk_nope_head_dim"), "qk_rope_head_dim": of_latents("qk_rope_head_dim"),
    "v_head_dim": of_latents("v_head_dim"),
    # Positions and windows
    "alibi": lambda m: m.position == "alibi", "rotary_dim": lambda m: m.rotary_dim,
    "rope_interleave": lambda m: m.rotary_interleaved,
    "no_rope_layers": lambda m: [int(m.rotates(layer)) for layer in range(m.n_layers)],
    "sliding_window": lambda m: m.window, "use_sliding_window": lambda m: m.n_local_layers > 0,
    "layer_types": layer_types, "window_size": lambda m: m.window, "attention_types": _alternating,
    # Multipliers and widths
    "embedding_multiplier": lambda m: m.embedding_multiplier,
    "residual_multiplier": lambda m: m.residual_multiplier,
    "logits_scaling": lambda m: 1 / m.logit_multiplier,
    "word_embed_proj_dim": lambda m: m.embedding_dim or m.dim, "afn": _afn,
    "ffn_hidden_size": lambda m: m.intermediate_size,
    # Experts; a class that has nothing else calls their width intermediate_size
    "intermediate_size": of_experts("expert_intermediate_size"),
    "moe_intermediate_size": of_experts("expert_intermediate_size"),
    "num_local_experts": of_experts("n_experts"), "num_experts": of_experts("n_experts"),
    "n_routed_experts": of_experts("n_experts"), "num_experts_per_tok": of_experts("n_experts_per_token"),
    "norm_topk_prob": of_experts("norm_expert_weights"), "decoder_sparse_step": lambda _: 1,
    "mlp_only_layers": lambda m: [layer for layer in range(m.n_layers) if not m.has_experts(layer)],
    "first_k_dense_replace": _n_first_dense, "n_shared_experts": _n_shared,
    "shared_expert_intermediate_size": shared_width,
    "routed_scaling_factor": of_experts("routing_multiplier"), "n_group": of_experts("n_expert_groups"),
    "topk_group": of_experts("n_groups_per_token"),
    "topk_method": lambda m: "group_limited_greedy" if m.moe and m.moe.n_expert_groups > 1 else "greedy",
}  # fmt: skip
"""Keys that are not one of our fields taken as it is, and what the model says under them."""
