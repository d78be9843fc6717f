"""What Megatron-LM builds from its arguments, as our fields.

Only for arguments that `megatron` writes. Source: megatron-core 0.16.1, megatron/core/transformer/ and
models/gpt/gpt_model.py; translation of arguments: megatron/training/arguments.py at commit 000c4ac24f61.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from parambudget.errors import ConfigError

_JUDGED_BY: Final = {"softmax": 1, "sigmoid": 2}
"""Experts by which a `ModelConfig` judges a group of experts."""


def built(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the model; raises `ConfigError` for what Megatron itself refuses."""
    a = arguments
    layernorm = a["--normalization"] == "LayerNorm"
    bias = "--disable-bias-linear" not in a
    fields: dict[str, Any] = {
        "dim": a["--hidden-size"], "n_layers": a["--num-layers"], "n_heads": a["--num-attention-heads"],
        "vocab_size": a["--vocab-size"], "context_length": a["--max-position-embeddings"],
        "intermediate_size": a["--ffn-hidden-size"], "norm_eps": a["--norm-epsilon"],
        "tied": "--untie-embeddings-and-output-weights" not in a,
        "norm": "layernorm" if layernorm else "rmsnorm", "norm_bias": layernorm,
        "qkv_bias": bias or "--add-qkv-bias" in a, "attention_out_bias": bias, "ffn_bias": bias,
        "attention_sinks": a.get("--softmax-type") == "learnable", "init_std": a["--init-method-std"],
    }  # fmt: skip
    fields |= _attention(a) | _positions(a) | _ffn(a)
    return fields | (_experts(a, bias) if "--num-experts" in a else {})


def _attention(a: Mapping[str, Any]) -> dict[str, Any]:
    if "--multi-latent-attention" in a:
        # None of its projections but the last has a bias.
        return {
            "qkv_bias": False, "kv_lora_rank": a["--kv-lora-rank"], "q_lora_rank": a.get("--q-lora-rank"),
            "qk_nope_head_dim": a["--qk-head-dim"], "qk_rope_head_dim": a["--qk-pos-emb-head-dim"],
            "v_head_dim": a["--v-head-dim"],
        }  # fmt: skip
    fields: dict[str, Any] = {
        "head_dim": a["--kv-channels"],
        "n_kv_heads": a.get("--num-query-groups", a["--num-attention-heads"]),
        "qk_norm": "head" if "--qk-layernorm" in a else "none",
    }
    if "--window-size" in a:
        fields["window"] = int(a["--window-size"].partition(",")[0]) + 1
        if "--window-attn-skip-freq" in a:
            local = _over_layers(a["--window-attn-skip-freq"])
            fields["window_pattern"] = ["local" if there else "global" for there in local]
    return fields


def _positions(a: Mapping[str, Any]) -> dict[str, Any]:
    latent = "--multi-latent-attention" in a
    kind = a["--position-embedding-type"]
    if kind != "rope":
        if latent:
            raise ConfigError("latent attention there has rotary positions; set position to 'rotary'")
        return {"position": "learned" if kind == "learned_absolute" else "none"}
    fields: dict[str, Any] = {
        "rope_theta": float(a["--rotary-base"]), "rotary_fraction": a["--rotary-percent"],
        # Latent attention turns neighbours, whatever is asked for.
        "rotary_interleaved": latent or "--rotary-interleaved" in a,
    }  # fmt: skip
    if "--no-rope-freq" in a and not latent:
        fields["rotary_pattern"] = [
            "none" if skip else "rotary" for skip in _over_layers(a["--no-rope-freq"])
        ]
    return fields


def _ffn(a: Mapping[str, Any]) -> dict[str, Any]:
    if "--quick-geglu" in a:
        clamp = a.get("--activation-func-clamp-value")
        return {"gated": True, "activation": "quick_gelu", "ffn_clamp": clamp}
    if "--swiglu" in a:
        return {"gated": True, "activation": "silu"}
    if "--squared-relu" in a:
        return {"gated": False, "activation": "relu2"}
    # The fused form, with the tanh approximation, needs the bias.
    fused = "--no-bias-gelu-fusion" not in a and "--disable-bias-linear" not in a
    if fused and "--num-experts" in a:
        raise ConfigError("experts there have no gelu_tanh without a gate; use activation 'gelu'")
    return {"gated": False, "activation": "gelu_tanh" if fused else "gelu"}


def _experts(a: Mapping[str, Any], bias: bool) -> dict[str, Any]:
    scores, chosen = a["--moe-router-score-function"], a["--moe-router-topk"]
    shared = a.get("--moe-shared-expert-intermediate-size", 0)
    first = "--moe-router-pre-softmax" in a
    if scores == "softmax" and chosen == 1 and not first:
        raise ConfigError("one expert per token needs norm_expert_weights=false there; set it")
    if scores == "softmax" and "--moe-router-enable-expert-bias" in a:
        raise ConfigError("correction_bias needs router_scores='sigmoid' there; set one of them")
    if shared and bias:
        raise ConfigError("shared experts have no biases there; set attention_out_bias and ffn_bias to false")
    _refuse_other_groups(a, scores, chosen)
    fields: dict[str, Any] = {
        "n_experts": a["--num-experts"], "n_experts_per_token": chosen, "router_scores": scores,
        "expert_intermediate_size": a["--moe-ffn-hidden-size"], "expert_bias": bias, "router_bias": bias,
        "norm_expert_weights": chosen > 1 if scores == "sigmoid" else not first,
        "correction_bias": "--moe-router-enable-expert-bias" in a,
        "routing_multiplier": a.get("--moe-router-topk-scaling-factor", 1.0),
        "n_expert_groups": a.get("--moe-router-num-groups", 1),
        "n_groups_per_token": a.get("--moe-router-group-topk", 1),
        "shared_expert_gate": "--moe-shared-expert-gate" in a,
    }  # fmt: skip
    if shared:
        fields |= {"n_shared_experts": 1, "shared_intermediate_size": shared}
    if "--moe-layer-freq" in a:
        there = _over_layers(a["--moe-layer-freq"])
        fields["moe_pattern"] = ["experts" if one else "dense" for one in there]
    return fields


def _refuse_other_groups(a: Mapping[str, Any], scores: str, chosen: int) -> None:
    """Megatron judges a group by as many experts as a token takes from each group on average."""
    if "--moe-router-num-groups" not in a:
        return
    by = chosen // a["--moe-router-group-topk"]
    # Of a group with fewer experts all are judged.
    most = a["--num-experts"] // a["--moe-router-num-groups"]
    if by != min(_JUDGED_BY[scores], most):
        raise ConfigError(
            f"a group of experts is judged there by its best {by} (n_experts_per_token // "
            f"n_groups_per_token), and in this model by its best {_JUDGED_BY[scores]}; change one of the two"
        )


def _over_layers(runs: str) -> list[bool]:
    """The list over the layers that such as ([0]*1+[1]*23) stands for."""
    return [there == "1" for there, times in re.findall(r"\[(\d)\]\*(\d+)", runs) for _ in range(int(times))]
