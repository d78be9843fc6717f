"""A model as arguments of Megatron-LM's pretrain_gpt.py, exact or refused.

Written and read again, as for Hugging Face: `_read` says what Megatron builds from the arguments, so that
what it does not know, and a model has, is refused. Source: megatron/training/arguments.py, megatron/training/
argument_utils.py and megatron/core/transformer/ of megatron-core 0.19.2.
"""

from collections.abc import Mapping
from typing import Any, Final

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import complete
from parambudget.arch.export.target import Attempt, Export, chosen
from parambudget.errors import ConfigError

VERSION: Final = "Megatron-LM (core 0.19.2)"


def to_megatron(model: ModelConfig) -> Export:
    """The arguments with which Megatron builds this model; True stands for a flag without a value."""
    return chosen(model, [lambda: _attempt(model)], f"{VERSION} has no such model", "its nearest")


def _attempt(model: ModelConfig) -> Attempt:
    document = _written(model)
    notes = (
        "with --tensor-model-parallel-size T Megatron pads the vocabulary to a multiple of T, and the "
        f"tokenizer must have {model.vocab_size:,} entries: more or fewer are another model",
    )
    return Attempt(Export("Megatron-LM", document, notes), complete(_read(document)).model)


def _biased(m: ModelConfig) -> bool:
    """Whether the matrices behind attention have biases; Megatron has one switch for all of them."""
    return m.ffn_bias if m.moe is None else m.moe.expert_bias


def _written(m: ModelConfig) -> dict[str, Any]:
    bias = _biased(m)
    arguments = {
        "num-layers": m.n_layers, "hidden-size": m.dim, "ffn-hidden-size": m.intermediate_size,
        "num-attention-heads": m.n_heads, "kv-channels": m.head_dim,
        "group-query-attention": m.n_kv_heads != m.n_heads,
        "num-query-groups": m.n_kv_heads if m.n_kv_heads != m.n_heads else False,
        "seq-length": m.context_length, "max-position-embeddings": m.context_length,
        # Or the vocabulary would be padded to a multiple of 128.
        "vocab-size": m.vocab_size, "make-vocab-size-divisible-by": 1,
        "untie-embeddings-and-output-weights": not m.tied,
        "normalization": "RMSNorm" if m.norm == "rmsnorm" else "LayerNorm", "norm-epsilon": m.norm_eps,
        "qk-layernorm": m.qk_norm != "none" or m.mla is not None,
        "disable-bias-linear": not bias, "add-qkv-bias": m.qkv_bias and not bias,
        # Megatron has dropout of 0.1 unless told.
        "attention-dropout": 0.0, "hidden-dropout": 0.0, "init-method-std": m.init_std,
    }  # fmt: skip
    arguments |= _activation(m) | _positions(m) | _experts(m) | _latents(m)
    return {name: value for name, value in arguments.items() if value is not False and value is not None}


def _activation(m: ModelConfig) -> dict[str, Any]:
    named = {("silu", True): "swiglu", ("relu2", False): "squared-relu", ("quick_gelu", True): "quick-geglu"}
    name = named.get((m.activation, m.gated))
    arguments: dict[str, Any] = {name: True} if name else {}
    # Its fused kernel of bias and gelu is the tanh form, and the only one beside SwiGLU's.
    fused = m.activation == "gelu_tanh" and m.moe is None
    arguments["no-bias-gelu-fusion"] = _biased(m) and not fused and name != "swiglu"
    if m.ffn_clamp is not None:
        arguments |= {"activation-func-clamp-value": m.ffn_clamp, "glu-linear-offset": 1.0}
    if m.attention_sinks:
        arguments["softmax-type"] = "learnable"
    return arguments


def _positions(m: ModelConfig) -> dict[str, Any]:
    kinds = {"rotary": "rope", "learned": "learned_absolute", "none": "none"}
    arguments: dict[str, Any] = {"position-embedding-type": kinds.get(m.position, "none")}
    if m.position == "rotary":
        arguments |= {
            "rotary-base": round(m.rope_theta), "rotary-percent": m.rotary_fraction,
            # In latent attention neighbours turn together whether told or not.
            "rotary-interleaved": m.rotary_interleaved and m.mla is None,
        }  # fmt: skip
        still = [int(not m.rotates(layer)) for layer in range(m.n_layers)]
        arguments["no-rope-freq"] = _listed(still) if any(still) else None
    local = [int(m.is_local(layer)) for layer in range(m.n_layers)]
    if m.window is not None and any(local):
        # Tokens to the left and right beside the query's own.
        arguments["window-size"] = f"{m.window - 1},0"
        arguments["window-attn-skip-freq"] = _listed(local) if not all(local) else None
    return arguments


def _listed(layers: list[int]) -> str:
    return f"[{','.join(map(str, layers))}]"


def _experts(m: ModelConfig) -> dict[str, Any]:
    if m.moe is None:
        return {}
    moe = m.moe
    with_experts = [int(m.has_experts(layer)) for layer in range(m.n_layers)]
    shared = moe.n_shared_experts * (moe.shared_intermediate_size or moe.expert_intermediate_size)
    grouped = moe.n_groups_per_token < moe.n_expert_groups
    scaled = moe.routing_multiplier != 1
    return {
        "num-experts": moe.n_experts, "moe-router-topk": moe.n_experts_per_token,
        "moe-ffn-hidden-size": moe.expert_intermediate_size,
        "moe-layer-freq": _listed(with_experts) if not all(with_experts) else None,
        "moe-shared-expert-intermediate-size": shared or None,
        "moe-shared-expert-gate": moe.shared_expert_gate,
        "moe-router-score-function": moe.router_scores,
        "moe-router-enable-expert-bias": moe.correction_bias,
        "moe-router-pre-softmax": moe.router_scores == "softmax" and not moe.norm_expert_weights,
        "moe-router-topk-scaling-factor": moe.routing_multiplier if scaled else None,
        "moe-router-num-groups": moe.n_expert_groups if grouped else None,
        "moe-router-group-topk": moe.n_groups_per_token if grouped else None,
    }  # fmt: skip


def _latents(m: ModelConfig) -> dict[str, Any]:
    if m.mla is None:
        return {}
    return {
        "multi-latent-attention": True, "q-lora-rank": m.mla.q_lora_rank, "kv-lora-rank": m.mla.kv_lora_rank,
        "qk-head-dim": m.mla.qk_nope_head_dim, "qk-pos-emb-head-dim": m.mla.qk_rope_head_dim,
        # Its fused rotation is for rescaled frequencies only, which it has unless told.
        "v-head-dim": m.mla.v_head_dim, "rope-type": "rope", "no-rope-fusion": True,
    }  # fmt: skip


def _read(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The model that Megatron builds from these arguments."""
    a = arguments
    layernorm = a["normalization"] == "LayerNorm"
    bias, latent = "disable-bias-linear" not in a, "multi-latent-attention" in a
    if latent and bias:
        raise ConfigError("Megatron's latent attention has biases on its output alone; use ffn_bias=false")
    fields = {
        "dim": a["hidden-size"], "n_layers": a["num-layers"], "n_heads": a["num-attention-heads"],
        "n_kv_heads": a.get("num-query-groups", a["num-attention-heads"]), "head_dim": a["kv-channels"],
        "intermediate_size": a["ffn-hidden-size"], "vocab_size": a["vocab-size"],
        "context_length": a["max-position-embeddings"],
        "tied": "untie-embeddings-and-output-weights" not in a,
        "norm": "layernorm" if layernorm else "rmsnorm", "norm_bias": layernorm,
        "norm_eps": a["norm-epsilon"], "qk_norm": "head" if "qk-layernorm" in a and not latent else "none",
        "qkv_bias": not latent and (bias or "add-qkv-bias" in a),
        "attention_out_bias": bias, "ffn_bias": bias,
        "attention_sinks": a.get("softmax-type") == "learnable",
        "ffn_clamp": a.get("activation-func-clamp-value"),
    }  # fmt: skip
    return (
        fields | _read_activation(a, bias=bias) | _read_positions(a) | _read_experts(a, bias) | _read_mla(a)
    )


def _read_activation(a: Mapping[str, Any], *, bias: bool) -> dict[str, Any]:
    if "swiglu" in a:
        return {"gated": True, "activation": "silu"}
    if "quick-geglu" in a:
        return {"gated": True, "activation": "quick_gelu"}
    if "squared-relu" in a:
        return {"gated": False, "activation": "relu2"}
    fused = bias and "no-bias-gelu-fusion" not in a
    return {"gated": False, "activation": "gelu_tanh" if fused else "gelu"}


def _read_positions(a: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {"rope": "rotary", "learned_absolute": "learned", "none": "none"}
    fields: dict[str, Any] = {"position": kinds[a["position-embedding-type"]]}
    if fields["position"] == "rotary":
        fields |= {
            "rope_theta": float(a["rotary-base"]), "rotary_fraction": a["rotary-percent"],
            "rotary_interleaved": "rotary-interleaved" in a or "multi-latent-attention" in a,
        }  # fmt: skip
        if "no-rope-freq" in a:
            words = {1: "none", 0: "rotary"}
            fields["rotary_pattern"] = tuple(words[still] for still in _layers(a["no-rope-freq"]))
    if "window-size" in a:
        fields["window"] = int(a["window-size"].split(",")[0]) + 1
        if "window-attn-skip-freq" in a:
            words = {1: "local", 0: "global"}
            fields["window_pattern"] = tuple(words[local] for local in _layers(a["window-attn-skip-freq"]))
    return fields


def _layers(listed: str) -> list[int]:
    return [int(number) for number in listed.strip("[]").split(",")]


def _read_experts(a: Mapping[str, Any], bias: bool) -> dict[str, Any]:
    if "num-experts" not in a:
        return {}
    top, softmax = a["moe-router-topk"], a["moe-router-score-function"] == "softmax"
    shared, before = a.get("moe-shared-expert-intermediate-size", 0), "moe-router-pre-softmax" in a
    _refuse_routing(a, bias)
    kinds = ("dense", "experts")
    pattern = tuple(kinds[there] for there in _layers(a["moe-layer-freq"])) if "moe-layer-freq" in a else None
    return {
        "moe": {
            "n_experts": a["num-experts"],
            "n_experts_per_token": top,
            "expert_intermediate_size": a["moe-ffn-hidden-size"],
            "n_shared_experts": int(shared > 0),
            "shared_intermediate_size": shared or None,
            "shared_expert_gate": "moe-shared-expert-gate" in a,
            "expert_bias": bias,
            "router_bias": bias,
            "router_scores": a["moe-router-score-function"],
            "correction_bias": "moe-router-enable-expert-bias" in a,
            "norm_expert_weights": not before if softmax else top > 1,
            "routing_multiplier": a.get("moe-router-topk-scaling-factor", 1.0),
            "n_expert_groups": a.get("moe-router-num-groups", 1),
            "n_groups_per_token": a.get("moe-router-group-topk", 1),
            "moe_pattern": pattern or ("experts",),
        }
    }


def _refuse_routing(a: Mapping[str, Any], bias: bool) -> None:
    """What Megatron's own checks refuse, and groups that it judges by other numbers of experts."""
    top, softmax = a["moe-router-topk"], a["moe-router-score-function"] == "softmax"
    if top == 1 and softmax and "moe-router-pre-softmax" not in a:
        raise ConfigError("Megatron takes one expert per token only with norm_expert_weights=false; set that")
    if softmax and "moe-router-enable-expert-bias" in a:
        raise ConfigError(
            "Megatron has a correction bias only beside router_scores='sigmoid'; set one of them"
        )
    if bias and "moe-shared-expert-intermediate-size" in a:
        raise ConfigError("Megatron has no biases where there are shared experts; set ffn_bias=false")
    by = top // a["moe-router-group-topk"] if "moe-router-group-topk" in a else None
    if by is not None and by != (1 if softmax else 2):
        raise ConfigError(
            f"Megatron judges a group by its {by} best experts (n_experts_per_token / n_groups_per_token), "
            f"and the model by its {'best' if softmax else 'two best'}; change one of the two"
        )


def _read_mla(a: Mapping[str, Any]) -> dict[str, Any]:
    if "multi-latent-attention" not in a:
        return {}
    return {
        "mla": {
            "q_lora_rank": a.get("q-lora-rank"),
            "kv_lora_rank": a["kv-lora-rank"],
            "qk_nope_head_dim": a["qk-head-dim"],
            "qk_rope_head_dim": a["qk-pos-emb-head-dim"],
            "v_head_dim": a["v-head-dim"],
        }
    }
