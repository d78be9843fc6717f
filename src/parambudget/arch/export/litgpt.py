"""A model as litgpt's model_config.yaml, exact or refused.

Written and read again, as for Hugging Face: `_read` says what litgpt builds from the keys, so that what it
does not know, and a model has, is refused. Source: litgpt/config.py and litgpt/model.py of litgpt 0.5.13.
"""

from collections.abc import Mapping
from typing import Any, Final

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import complete
from parambudget.arch.export.target import Attempt, Export, chosen
from parambudget.errors import ConfigError

VERSION: Final = "litgpt 0.5.13"
_UNSCALED_NAME: Final = "OLMo"
"""In a name, it makes litgpt's LayerNorms have neither scale nor shift."""
_BEST_OF_A_GROUP: Final = 2
"""Experts by which a group is judged, where the scores are sigmoids (see `build.experts`)."""


def to_litgpt(model: ModelConfig) -> Export:
    """The config that litgpt builds as this model. Its file cannot say that the head is tied: a note does."""
    untied = model.replace(tied=False)
    made = chosen(untied, [lambda: _attempt(untied)], f"{VERSION} has no such model", "its nearest")
    return Export(made.name, made.document, _notes(model), made.unsaid)


def _attempt(model: ModelConfig) -> Attempt:
    document = _written(model)
    return Attempt(Export("litgpt", document), complete(_read(document)).model)


def _notes(model: ModelConfig) -> tuple[str, ...]:
    if not model.tied:
        return ()
    return (
        "litgpt ties the head in its training settings, not in this file: run litgpt pretrain with "
        "--train.tie_embeddings true, or it has a head of its own, "
        f"{model.vocab_size * model.dim:,} parameters more",
    )


def _written(m: ModelConfig) -> dict[str, Any]:
    behind = m.norm_placement in ("reordered", "sandwich")
    document = {
        "name": "parambudget" if m.norm_weight else f"parambudget-{_UNSCALED_NAME}",
        "block_size": m.context_length, "n_layer": m.n_layers, "n_embd": m.dim, "n_head": m.n_heads,
        "n_query_groups": m.n_kv_heads, "head_size": m.head_dim, "intermediate_size": m.intermediate_size,
        # Both, or the vocabulary would be padded to a multiple of 512.
        "vocab_size": m.vocab_size, "padded_vocab_size": m.vocab_size,
        "norm_class_name": "RMSNorm" if m.norm == "rmsnorm" else "LayerNorm", "norm_eps": m.norm_eps,
        "norm_1": m.norm_placement != "reordered", "norm_2": m.norm_placement != "reordered",
        "post_attention_norm": behind, "post_mlp_norm": behind, "norm_qk": m.qk_norm != "none",
        "norm_qk_type": "olmo2" if m.qk_norm == "full" else "default",
        "parallel_residual": m.block != "sequential",
        "shared_attention_norm": m.block == "parallel_shared_norm", "bias": m.ffn_bias,
        "attn_bias": m.qkv_bias, "lm_head_bias": m.head_bias, "rotary_percentage": m.rotary_fraction,
        "rope_base": _whole(m.rope_theta), "rope_interleave": m.rotary_interleaved,
        "mlp_class_name": _ffn_class(m),
        "gelu_approximate": "tanh" if m.activation == "gelu_tanh" else "none",
        "scale_embeddings": m.embedding_multiplier != 1,
    }  # fmt: skip
    if m.attention_multiplier is not None:
        document["attention_scores_scalar"] = _whole(m.attention_multiplier**-2)
    for key, value in (
        ("attention_logit_softcapping", m.attention_softcap),
        ("final_logit_softcapping", m.logit_softcap),
    ):
        document |= {key: value} if value is not None else {}
    return document | _of_windows(m) | _of_experts(m) | _of_latents(m)


def _whole(number: float) -> float | int:
    """The whole number that a float stands for up to rounding, where it does."""
    return round(number) if abs(number - round(number)) < 1e-9 * number else number


def _ffn_class(m: ModelConfig) -> str:
    if m.moe:
        return "LLaMAMoE"
    if not m.gated:
        return "GptNeoxMLP"
    return "LLaMAMLP" if m.activation == "silu" else "GemmaMLP"


def _of_windows(m: ModelConfig) -> dict[str, Any]:
    local = [int(m.is_local(layer)) for layer in range(m.n_layers)]
    if not any(local):
        return {}
    base = {} if m.rope_theta_local is None else {"rope_local_base_freq": m.rope_theta_local}
    indices = {"rope_indices": local} if base else {}
    return {"sliding_window_size": m.window, "sliding_window_indices": local} | base | indices


def _of_experts(m: ModelConfig) -> dict[str, Any]:
    if m.moe is None:
        return {}
    moe = m.moe
    dense = next((layer for layer in range(m.n_layers) if m.has_experts(layer)), m.n_layers)
    shared = moe.n_shared_experts * (moe.shared_intermediate_size or moe.expert_intermediate_size)
    fields: dict[str, Any] = {
        "n_expert": moe.n_experts, "n_expert_per_token": moe.n_experts_per_token,
        "moe_intermediate_size": moe.expert_intermediate_size, "norm_topk_prob": moe.norm_expert_weights,
        "routed_scaling_factor": moe.routing_multiplier,
    }  # fmt: skip
    if dense:
        fields["first_k_dense_replace"] = dense
    if shared:
        fields["n_shared_expert"] = shared // moe.expert_intermediate_size
    if moe.router_scores == "sigmoid" and moe.n_expert_groups > 1:
        fields |= {
            "n_expert_groups": moe.n_expert_groups, "n_topk_groups": moe.n_groups_per_token,
            "n_topk_scores_per_group": _BEST_OF_A_GROUP,
        }  # fmt: skip
    return fields


def _of_latents(m: ModelConfig) -> dict[str, Any]:
    return {"latent_attention": m.mla.model_dump()} if m.mla else {}


def _read(document: Mapping[str, Any]) -> dict[str, Any]:
    """The model that litgpt builds from these keys."""
    d = document
    layernorm = d["norm_class_name"] == "LayerNorm"
    affine = not (layernorm and _UNSCALED_NAME in d["name"])
    gated = d["mlp_class_name"] != "GptNeoxMLP"
    gelu = "gelu_tanh" if d["gelu_approximate"] == "tanh" else "gelu"
    fields = {
        "dim": d["n_embd"], "n_layers": d["n_layer"], "n_heads": d["n_head"],
        "n_kv_heads": d["n_query_groups"], "head_dim": d["head_size"],
        "intermediate_size": d["intermediate_size"], "vocab_size": d["padded_vocab_size"],
        "context_length": d["block_size"], "tied": False, "position": "rotary",
        "norm": "layernorm" if layernorm else "rmsnorm", "norm_weight": affine,
        "norm_bias": layernorm and affine, "norm_eps": d["norm_eps"], "norm_placement": _placement(d),
        "block": _block(d), "qk_norm": _qk_norm(d), "gated": gated,
        "activation": "silu" if d["mlp_class_name"] in ("LLaMAMLP", "LLaMAMoE") else gelu,
        "qkv_bias": d["bias"] or d["attn_bias"], "attention_out_bias": d["bias"], "ffn_bias": d["bias"],
        "head_bias": d["lm_head_bias"], "rope_theta": float(d["rope_base"]),
        "rotary_fraction": d["rotary_percentage"], "rotary_interleaved": d["rope_interleave"],
        "embedding_multiplier": d["n_embd"] ** 0.5 if d["scale_embeddings"] else 1.0,
        "attention_softcap": d.get("attention_logit_softcapping"),
        "logit_softcap": d.get("final_logit_softcapping"),
    }  # fmt: skip
    if "attention_scores_scalar" in d:
        fields["attention_multiplier"] = d["attention_scores_scalar"] ** -0.5
    if "sliding_window_size" in d:
        words = tuple("local" if local else "global" for local in d["sliding_window_indices"])
        fields |= {"window": d["sliding_window_size"], "window_pattern": words}
        fields |= {"rope_theta_local": d.get("rope_local_base_freq")}
    return fields | _read_experts(d) | _read_latents(d)


def _placement(d: Mapping[str, Any]) -> str:
    if not d["norm_1"]:
        return "reordered"
    return "sandwich" if d["post_attention_norm"] else "pre"


def _block(d: Mapping[str, Any]) -> str:
    if not d["parallel_residual"]:
        return "sequential"
    return "parallel_shared_norm" if d["shared_attention_norm"] else "parallel"


def _qk_norm(d: Mapping[str, Any]) -> str:
    if not d["norm_qk"]:
        return "none"
    return "full" if d["norm_qk_type"] == "olmo2" else "head"


def _read_experts(d: Mapping[str, Any]) -> dict[str, Any]:
    if not d.get("n_expert"):
        return {}
    grouped = "n_expert_groups" in d
    return {
        "moe": {
            "n_experts": d["n_expert"],
            "n_experts_per_token": d["n_expert_per_token"],
            "expert_intermediate_size": d["moe_intermediate_size"],
            "n_shared_experts": d.get("n_shared_expert", 0),
            "expert_bias": d["bias"],
            "router_scores": "sigmoid" if grouped else "softmax",
            "correction_bias": grouped,
            # Without groups it is the softmax of the chosen, whatever norm_topk_prob says.
            "norm_expert_weights": d["norm_topk_prob"] if grouped else True,
            "routing_multiplier": d["routed_scaling_factor"],
            "n_expert_groups": d.get("n_expert_groups", 1),
            "n_groups_per_token": d.get("n_topk_groups", 1),
            "n_first_dense": d.get("first_k_dense_replace", 0),
        }
    }


def _read_latents(d: Mapping[str, Any]) -> dict[str, Any]:
    held = d.get("latent_attention")
    if held is None:
        return {}
    if held["q_lora_rank"] is None:
        raise ConfigError("litgpt has no latent attention without compressed queries; give q_lora_rank")
    if d["norm_class_name"] != "RMSNorm" or d["bias"]:
        raise ConfigError(
            "litgpt's latents have RMSNorms, and biases on every matrix if the FFN has; use none"
        )
    return {"mla": dict(held)}
