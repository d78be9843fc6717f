"""Experts and latent attention of a Hugging Face config: from several of its keys to some of our fields."""

from collections.abc import Callable, Sequence
from typing import Any

from parambudget.errors import ConfigError
from parambudget.formats.hf.layer_rules import shortest_pattern
from parambudget.formats.hf.schema import Config


def said(c: Config, key: str) -> Any:
    """The key's value, refused where the class has none either."""
    if c[key] is None:
        raise ConfigError(f"{key} is missing, and the class has no default for it; give it")
    return c[key]


def in_every_layer(n_experts: str) -> Callable[[Config], dict[str, Any]]:
    """Experts in every layer, as wide as `intermediate_size` says: Mixtral and most after it."""

    def read(c: Config) -> dict[str, Any]:
        return {
            "n_experts": said(c, n_experts),
            "n_experts_per_token": said(c, "num_experts_per_tok"),
            "expert_intermediate_size": c["intermediate_size"],
        }

    return read


def qwen(c: Config) -> dict[str, Any]:
    """Experts in every `decoder_sparse_step`th layer that `mlp_only_layers` does not name."""
    step, dense = c["decoder_sparse_step"], c["mlp_only_layers"] or []
    if not step:
        raise ConfigError("decoder_sparse_step is 0; give the layers from one with experts to the next")
    if any(type(layer) is not int for layer in dense):
        raise ConfigError("mlp_only_layers may hold numbers of layers, counted from 0")
    without = set(dense) if c["num_experts"] else set(range(c["num_hidden_layers"]))
    experts = _where([(at + 1) % step == 0 and at not in without for at in range(c["num_hidden_layers"])])
    return experts and experts | {
        "n_experts": c["num_experts"],
        "n_experts_per_token": c["num_experts_per_tok"],
        "expert_intermediate_size": c["moe_intermediate_size"],
        "norm_expert_weights": c["norm_topk_prob"],
    }


def qwen2(c: Config) -> dict[str, Any]:
    """The same, and one shared expert of its own width behind a gate."""
    experts = qwen(c)
    width = c["shared_expert_intermediate_size"]
    if experts and not width:
        raise ConfigError(
            "shared_expert_intermediate_size is 0, which leaves a gate on nothing; give a width"
        )
    shared = {"n_shared_experts": 1, "shared_intermediate_size": width, "shared_expert_gate": True}
    return experts and experts | shared


def deepseek(c: Config) -> dict[str, Any]:
    """Experts from `first_k_dense_replace` on, and shared ones of the same width."""
    first = said(c, "first_k_dense_replace")
    experts = _where([at >= first for at in range(c["num_hidden_layers"])])
    if not c["n_shared_experts"] and c.get("mlp_bias"):
        raise ConfigError("mlp_bias without shared experts leaves a bias of nothing; set one of them")
    return experts and experts | {
        "n_experts": c["n_routed_experts"],
        "n_experts_per_token": said(c, "num_experts_per_tok"),
        "expert_intermediate_size": c["moe_intermediate_size"],
        "n_shared_experts": c["n_shared_experts"],
        "routing_multiplier": c["routed_scaling_factor"],
    }


def deepseek2(c: Config) -> dict[str, Any]:
    """DeepSeek-V2's router: softmax, not divided by its sum; experts of all groups, or of the best by their
    best expert."""
    method = c["topk_method"]
    if method not in ("greedy", "group_limited_greedy"):
        raise ConfigError(f"topk_method is {method!r}; only 'greedy' and 'group_limited_greedy' are read")
    experts = deepseek(c)
    groups = _groups(c) if method == "group_limited_greedy" else {}
    return experts and experts | groups | {"norm_expert_weights": False}


def deepseek3(c: Config) -> dict[str, Any]:
    """DeepSeek-V3's router: sigmoid, a bias for the choice, experts of the best groups by their two best."""
    router = {
        "router_scores": "sigmoid", "correction_bias": True,
        "norm_expert_weights": bool(c["norm_topk_prob"]),
    }  # fmt: skip
    experts = deepseek(c)
    return experts and experts | router | _groups(c)


def latent(c: Config) -> dict[str, Any]:
    """Multi-head latent attention; every head has keys of its own whatever `num_key_value_heads` says."""
    names = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    return {name: said(c, name) for name in names} | {
        "q_lora_rank": c["q_lora_rank"],
        "n_kv_heads": c["num_attention_heads"],
        "head_dim": c["qk_nope_head_dim"] + c["qk_rope_head_dim"],
        "qkv_bias": c["attention_bias"],
        "attention_out_bias": c["attention_bias"],
    }


def interleaved(c: Config) -> dict[str, Any]:
    """DeepSeek-V3 turns neighbours together, unless told otherwise."""
    return {"rotary_interleaved": bool(c["rope_interleave"])}


def glm4(c: Config) -> dict[str, Any]:
    """GLM-4.5 may norm queries and keys."""
    return {"qk_norm": "head" if c["use_qk_norm"] else "none"}


def _groups(c: Config) -> dict[str, Any]:
    return {"n_expert_groups": said(c, "n_group"), "n_groups_per_token": said(c, "topk_group")}


def _where(layers: Sequence[bool]) -> dict[str, Any]:
    """Which layers have experts, as our two fields say it; nothing where none has."""
    if not any(layers):
        return {}
    first = list(layers).index(True)
    if all(layers[first:]):
        return {"n_first_dense": first}
    return {"moe_pattern": shortest_pattern(["experts" if there else "dense" for there in layers])}
