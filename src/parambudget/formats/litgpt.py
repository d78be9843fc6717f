"""A model as litgpt's model_config.yaml: exactly, or refused with the reason.

The config is read back as what litgpt builds from it (`from_litgpt`), and refused unless that is the model.

Source: Lightning-AI/litgpt 0.5.13 (PyPI), litgpt/config.py and litgpt/model.py.
"""

from math import isclose
from typing import Any, Final

from parambudget.arch.blocks import MoEConfig
from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import with_defaults
from parambudget.arch.description import NORM_NAMES
from parambudget.arch.rope_scaling import RopeScaling
from parambudget.formats.equivalence import Attempt, Export, first_equivalent
from parambudget.formats.hf.schema import Fields

LitGPTConfig = dict[str, Any]
"""A model_config.yaml by its keys."""

_BARE_NORM_NAME: Final = "OLMo"
"""litgpt's LayerNorm has no parameters in models whose name contains this."""
_N_SCORES_PER_GROUP: Final = 2
"""The number of experts whose scores rank a group: DeepSeek-V3."""


def to_litgpt(model: ModelConfig) -> Export:
    """The model_config.yaml of this model; raises `ConfigError` with what litgpt lacks."""
    config = _litgpt_config(model)
    notes = []
    if model.tied:
        extra = f"{model.vocab_size * model.dim:,}"
        notes.append(
            "a litgpt config cannot tie the head: give litgpt pretrain --train.tie_embeddings true; without "
            f"it the model has {extra} more parameters"
        )
    export = Export("litgpt", config, tuple(notes), file="model_config.yaml")

    def attempt() -> Attempt:
        return Attempt(export, with_defaults(from_litgpt(config) | {"tied": model.tied}).model)

    return first_equivalent(model, [attempt], "no config of litgpt")


def _litgpt_config(m: ModelConfig) -> LitGPTConfig:
    config: LitGPTConfig = {
        "name": "custom" if m.norm_weight else f"custom {_BARE_NORM_NAME}",
        "hf_config": {},
        "block_size": m.context_length,
        "n_layer": m.n_layers,
        "n_embd": m.dim,
        "vocab_size": m.vocab_size,
        # Given, because otherwise litgpt pads it to a multiple of 512.
        "padded_vocab_size": m.vocab_size,
        "norm_class_name": NORM_NAMES[m.norm],
        "norm_eps": m.norm_eps,
        "norm_1": m.norm_placement != "reordered",
        "norm_2": m.norm_placement != "reordered",
        "post_attention_norm": m.norm_placement in ("sandwich", "reordered"),
        "post_mlp_norm": m.norm_placement in ("sandwich", "reordered"),
        "parallel_residual": m.block != "sequential",
        "shared_attention_norm": m.block == "parallel_shared_norm",
        "bias": m.attention_out_bias,
        "attn_bias": m.qkv_bias,
        "lm_head_bias": m.head_bias,
        "scale_embeddings": isclose(m.embedding_multiplier, m.dim**0.5) and m.dim > 1,
    }
    config |= _attention_config(m) | _mlp_config(m) | (_moe_config(m, m.moe) if m.moe else {})
    if m.logit_softcap is not None:
        config["final_logit_softcapping"] = m.logit_softcap
    return config


def _attention_config(m: ModelConfig) -> LitGPTConfig:
    config: LitGPTConfig = {
        "n_head": m.n_heads,
        "head_size": m.head_dim,
        "n_query_groups": m.n_kv_heads,
        "norm_qk": m.qk_norm != "none",
        "norm_qk_type": "olmo2" if m.qk_norm == "full" else "default",
        "rope_base": round(m.rope_theta),
        "rotary_percentage": 0.0 if m.position == "none" else m.rotary_fraction,
        "rope_interleave": m.rotary_interleaved,
    }
    if m.rope_scaling is not None and m.rope_scaling.rope_type in ("linear", "llama3"):
        config["rope_adjustments"] = _rope_adjustments(m.rope_scaling)
    if m.attention_multiplier is not None:
        config["attention_scores_scalar"] = max(round(m.attention_multiplier**-2), 1)
    if m.attention_softcap is not None:
        config["attention_logit_softcapping"] = m.attention_softcap
    if m.n_local_layers:
        local = [int(m.is_local(layer)) for layer in range(m.n_layers)]
        config |= {"sliding_window_size": m.window, "sliding_window_indices": local}
        if m.rope_theta_local is not None:
            config |= {"rope_local_base_freq": m.rope_theta_local, "rope_indices": local}
    if m.mla:
        config["latent_attention"] = m.mla.model_dump()
    return config


def _rope_adjustments(scaling: RopeScaling) -> LitGPTConfig:
    """The rescalings that it shares with others: its YaRN divides the fast pairs, not the slow ones."""
    factor = {"factor": scaling.rope_factor}
    if scaling.rope_type != "llama3":
        return factor
    return factor | {
        "low_freq_factor": scaling.rope_low_freq_factor,
        "high_freq_factor": scaling.rope_high_freq_factor,
        "original_max_seq_len": scaling.rope_original_context,
    }


def _mlp_config(m: ModelConfig) -> LitGPTConfig:
    gated = "LLaMAMLP" if m.activation == "silu" else "GemmaMLP"
    config: LitGPTConfig = {
        "mlp_class_name": "LLaMAMoE" if m.moe else gated if m.gated else "GptNeoxMLP",
        "intermediate_size": m.intermediate_size,
    }
    if m.activation == "gelu_tanh":
        config["gelu_approximate"] = "tanh"
    return config


def _moe_config(m: ModelConfig, moe: MoEConfig) -> LitGPTConfig:
    shared = moe.shared_expert_width
    config: LitGPTConfig = {
        "n_expert": moe.n_experts,
        "n_expert_per_token": moe.n_experts_per_token,
        "moe_intermediate_size": moe.expert_intermediate_size,
        "n_shared_expert": shared // moe.expert_intermediate_size,
        "routed_scaling_factor": moe.routing_multiplier,
        "norm_topk_prob": moe.norm_expert_weights,
        "first_k_dense_replace": next(layer for layer in range(m.n_layers) if m.has_experts(layer)),
    }
    if moe.router_scores == "sigmoid" and moe.n_experts > 1:
        # Its sigmoid router needs two groups or more; choosing all of them is the same as having none.
        groups = moe.n_expert_groups
        if groups == moe.n_groups_per_token:
            groups = next(k for k in range(2, moe.n_experts + 1) if moe.n_experts % k == 0)
        chosen_groups = groups if moe.n_groups_per_token == moe.n_expert_groups else moe.n_groups_per_token
        config |= {
            "n_expert_groups": groups,
            "n_topk_groups": chosen_groups,
            "n_topk_scores_per_group": min(_N_SCORES_PER_GROUP, moe.n_experts // groups),
        }
    return config


def from_litgpt(config: LitGPTConfig) -> Fields:
    """Our fields of the model that litgpt's GPT builds from a config, except whether its head is tied."""
    layernorm = config["norm_class_name"] == "LayerNorm"
    bare = layernorm and _BARE_NORM_NAME in config["name"]
    placement = {(True, False): "pre", (True, True): "sandwich", (False, True): "reordered"}
    fields: Fields = {
        "dim": config["n_embd"], "n_layers": config["n_layer"], "vocab_size": config["padded_vocab_size"],
        "context_length": config["block_size"], "intermediate_size": config["intermediate_size"],
        "norm": "layernorm" if layernorm else "rmsnorm", "norm_weight": not bare,
        "norm_bias": layernorm and not bare, "norm_eps": config["norm_eps"],
        "norm_placement": placement[config["norm_1"], config["post_mlp_norm"]],
        "final_norm": True, "block": _block(config), "qkv_bias": config["bias"] or config["attn_bias"],
        "attention_out_bias": config["bias"], "ffn_bias": config["bias"], "head_bias": config["lm_head_bias"],
        "embedding_multiplier": config["n_embd"] ** 0.5 if config["scale_embeddings"] else 1.0,
        "logit_softcap": config.get("final_logit_softcapping"),
    }  # fmt: skip
    kind = config["mlp_class_name"]
    gelu = "gelu_tanh" if config.get("gelu_approximate") == "tanh" else "gelu"
    fields["gated"] = kind != "GptNeoxMLP"
    fields["activation"] = gelu if kind in ("GptNeoxMLP", "GemmaMLP") else "silu"
    fields |= _attention_fields(config)
    return fields | (_moe_fields(config) if kind == "LLaMAMoE" else {})


def _block(config: LitGPTConfig) -> str:
    if not config["parallel_residual"]:
        return "sequential"
    return "parallel_shared_norm" if config["shared_attention_norm"] and config["norm_1"] else "parallel"


def _attention_fields(config: LitGPTConfig) -> Fields:
    fields: Fields = {
        "n_heads": config["n_head"], "n_kv_heads": config["n_query_groups"], "head_dim": config["head_size"],
        "position": "rotary", "rope_theta": float(config["rope_base"]),
        "rotary_interleaved": config["rope_interleave"],
    }  # fmt: skip
    if "attention_scores_scalar" in config:
        fields["attention_multiplier"] = config["attention_scores_scalar"] ** -0.5
    fields["attention_softcap"] = config.get("attention_logit_softcapping")
    fields |= _rope_scaling_fields(config.get("rope_adjustments"))
    latents = config.get("latent_attention")
    if latents:
        # Its latents have RMSNorms, and queries always start from one; no window, and all of them turn.
        no_queries = {"q_lora_rank": latents["q_lora_rank"] or latents["kv_lora_rank"]}
        return fields | {"mla": dict(latents) | no_queries}
    if config["rotary_percentage"]:
        fields["rotary_fraction"] = config["rotary_percentage"]
    else:
        fields["position"] = "none"
    if config["norm_qk"]:
        fields["qk_norm"] = "full" if config["norm_qk_type"] == "olmo2" else "head"
    if "sliding_window_size" in config:
        words = ["local" if flag else "global" for flag in config["sliding_window_indices"]]
        fields |= {"window": config["sliding_window_size"], "window_pattern": words}
        fields["rope_theta_local"] = config.get("rope_local_base_freq")
    return fields


def _rope_scaling_fields(adjustments: LitGPTConfig | None) -> Fields:
    if adjustments is None:
        return {}
    if "low_freq_factor" not in adjustments:
        return {"rope_type": "linear", "rope_factor": adjustments["factor"]}
    return {
        "rope_type": "llama3", "rope_factor": adjustments["factor"],
        "rope_low_freq_factor": adjustments["low_freq_factor"],
        "rope_high_freq_factor": adjustments["high_freq_factor"],
        "rope_original_context": adjustments["original_max_seq_len"],
    }  # fmt: skip


def _moe_fields(config: LitGPTConfig) -> Fields:
    fields: Fields = {
        "n_experts": config["n_expert"], "n_experts_per_token": config["n_expert_per_token"],
        "expert_intermediate_size": config["moe_intermediate_size"],
        "n_shared_experts": config["n_shared_expert"], "routing_multiplier": config["routed_scaling_factor"],
        "n_first_dense": config["first_k_dense_replace"], "expert_bias": config["bias"],
    }  # fmt: skip
    if "n_expert_groups" in config:
        fields |= {
            "router_scores": "sigmoid", "correction_bias": True,
            "norm_expert_weights": config["norm_topk_prob"],
            "n_expert_groups": config["n_expert_groups"], "n_groups_per_token": config["n_topk_groups"],
        }  # fmt: skip
    return fields
