"""Rules about a mixture of experts: which layers have one, its experts and its router."""

from collections.abc import Sequence
from typing import Final

from parambudget.errors import ConfigError
from parambudget.formats.hf.layer_rules import (
    expert_layers,
    read_first,
    require_one_per_layer,
    require_value,
    shortest_pattern,
)
from parambudget.formats.hf.schema import TOP_K_KEYS, Config, Fields
from parambudget.units import short_repr

_N_EXPERTS_KEYS: Final = (
    "n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts", "ffn_config.moe_num_experts",
)  # fmt: skip
_N_SHARED_KEYS: Final = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
_WIDTH_KEYS: Final = ("moe_intermediate_size", "ffn_config.ffn_hidden_size", "intermediate_size")
_COUNTED_CORRECTION: Final = {"correction_bias": True, "correction_counted": True}
_SCALE_KEYS: Final = (
    "routed_scaling_factor", "router_scaling_factor", "route_scale", "moe_routed_scaling_factor",
)  # fmt: skip


def routed_experts(c: Config, has_experts: Sequence[bool]) -> Fields:
    """Experts in those layers; nothing if no layer has any."""
    placement = _expert_placement(has_experts)
    return placement and placement | {
        "n_experts": read_first(c, _N_EXPERTS_KEYS),
        "n_experts_per_token": read_first(c, TOP_K_KEYS),
        "expert_intermediate_size": read_first(c, _WIDTH_KEYS),
    }


def experts_everywhere(c: Config) -> Fields:
    """Experts in every layer: Mixtral and most after it."""
    return routed_experts(c, [True] * read_first(c, ("num_hidden_layers", "n_layers")))


def qwen_moe(c: Config) -> Fields:
    """Experts in every `decoder_sparse_step`th layer that `mlp_only_layers` does not name."""
    step, dense = c["decoder_sparse_step"], c["mlp_only_layers"] or []
    if not step:
        raise ConfigError(
            "decoder_sparse_step is 0; give the number of layers from one with experts to the next"
        )
    if any(type(layer) is not int for layer in dense):
        raise ConfigError("mlp_only_layers must list layer numbers, counted from 0")
    without = set(dense) if c["num_experts"] else set(range(c["num_hidden_layers"]))
    has_experts = [(at + 1) % step == 0 and at not in without for at in range(c["num_hidden_layers"])]
    experts = routed_experts(c, has_experts)
    return experts and experts | {"norm_expert_weights": c["norm_topk_prob"]}


def qwen3_vl_moe(c: Config) -> Fields:
    """The same; the weights of the chosen experts always sum to 1."""
    return qwen_moe({**c, "norm_topk_prob": True})


def qwen3_5_moe(c: Config) -> Fields:
    """Qwen3.5: experts as in Qwen2-MoE, in all layers; the weights of the chosen ones always sum to 1."""
    everywhere = {"decoder_sparse_step": 1, "mlp_only_layers": None, "norm_topk_prob": True}
    return qwen2_moe({**c, **everywhere})


def qwen2_moe(c: Config) -> Fields:
    """The same, and one shared expert of its own width behind a gate."""
    experts = qwen_moe(c)
    width = c["shared_expert_intermediate_size"]
    if experts and not width:
        raise ConfigError(
            "shared_expert_intermediate_size is 0, but the class has a gate for a shared expert; give a width"
        )
    return experts and experts | _shared_expert(width) | {"shared_expert_gate": True}


def shared_expert(c: Config) -> Fields:
    """One shared expert of its own width; none if that is 0."""
    return _shared_expert(read_first(c, ("shared_intermediate_size", "shared_expert_intermediate_size")))


def _shared_expert(width: int) -> Fields:
    return {"n_shared_experts": 1, "shared_intermediate_size": width} if width else {}


def sparse_mixer(_: Config) -> Fields:
    """Phi-3.5-MoE's router chooses two experts, whatever `num_experts_per_tok` says."""
    return {"n_experts_per_token": 2}


def deepseek_moe(c: Config) -> Fields:
    """Experts in all layers but some dense ones, and shared experts of the same width."""
    experts, n_shared = routed_experts(c, expert_layers(c)), read_first(c, _N_SHARED_KEYS, 0)
    if not n_shared and c.get("mlp_bias"):
        raise ConfigError(
            "mlp_bias is true, but there are no shared experts to give biases to; change one of the two"
        )
    return experts and experts | {
        "n_shared_experts": n_shared,
        "routing_multiplier": read_first(c, _SCALE_KEYS, 1.0),
    }


def first_deepseek_moe(c: Config) -> Fields:
    """DeepSeekMoE: the same, none where `n_routed_experts` is null."""
    if c["n_routed_experts"] is None:
        return {}
    experts = deepseek_moe({**c, "n_shared_experts": c["n_shared_experts"] or 0})
    return experts and experts | {"norm_expert_weights": c["norm_topk_prob"]}


def flint_moe(c: Config) -> Fields:
    """Flint: experts as in Qwen3-MoE behind a sigmoid, and one shared expert; the first two layers are dense
    unless `mlp_only_layers` names others."""
    dense = [0, 1] if c["mlp_only_layers"] is None else c["mlp_only_layers"]
    experts = qwen_moe({**c, "mlp_only_layers": dense})
    return experts and experts | shared_expert(c) | {"router_scores": "sigmoid"}


def mellum_moe(c: Config) -> Fields:
    """Mellum: experts in the layers that `mlp_layer_types` calls sparse; without that list, in all."""
    experts = routed_experts(c, expert_layers({**c, "num_dense_layers": 0}))
    return experts and experts | {"norm_expert_weights": c["norm_topk_prob"]}


def kolibri_moe(c: Config) -> Fields:
    """Kolibri: experts everywhere behind a sigmoid with a correction, and one shared expert."""
    return (
        experts_everywhere(c)
        | shared_expert(c)
        | {
            "router_scores": "sigmoid",
            "correction_bias": True,
            "correction_on_logits": True,
            "norm_expert_weights": c["norm_topk_prob"],
        }
    )


def deepseek_v2_moe(c: Config) -> Fields:
    """DeepSeek-V2's router: softmax whose chosen weights are not renormalised; it chooses among all experts,
    or among those of the groups with the best single expert."""
    method = c["topk_method"]
    if method not in ("greedy", "group_limited_greedy"):
        raise ConfigError(
            f"topk_method is {method!r}; only 'greedy' and 'group_limited_greedy' are supported"
        )
    experts = deepseek_moe(c)
    groups = _expert_groups(c) if method == "group_limited_greedy" else {}
    return experts and experts | groups | {"norm_expert_weights": False}


def deepseek_v3_moe(c: Config) -> Fields:
    """DeepSeek-V3's router: sigmoid with a bias that counts for the choice only; where there are groups, it
    chooses among the experts of those whose best two are best."""
    experts = deepseek_moe(c)
    groups = _expert_groups(c) if "n_group" in c else {}
    return experts and experts | groups | {
        "router_scores": "sigmoid",
        "correction_bias": True,
        "norm_expert_weights": bool(c.get("norm_topk_prob", True)),
    }


def lfm2_moe(c: Config) -> Fields:
    """LFM2-MoE: a sigmoid, with a correction unless switched off."""
    experts = routed_experts(c, expert_layers(c))
    return experts and experts | {
        "router_scores": "sigmoid",
        "correction_bias": c["use_expert_bias"],
        "norm_expert_weights": c["norm_topk_prob"],
        "routing_multiplier": c["routed_scaling_factor"],
    }


def beam_moe(c: Config) -> Fields:
    """The same router; the first three layers are dense unless `mlp_layer_types` says otherwise."""
    return deepseek_v3_moe({**c, "num_dense_layers": 3})


def counted_sigmoid_moe(c: Config) -> Fields:
    """The same router in classes that count its corrections: AFM, Laguna."""
    experts = deepseek_v3_moe(c)
    return experts and experts | _COUNTED_CORRECTION


def laguna_moe(c: Config) -> Fields:
    """Laguna: one shared expert of its own width."""
    experts = counted_sigmoid_moe(c)
    return experts and experts | shared_expert(c)


def mimo_moe(c: Config) -> Fields:
    """The same router; a null for its scale means 1."""
    return deepseek_v3_moe({**c, "routed_scaling_factor": c["routed_scaling_factor"] or 1.0})


def axk2_moe(c: Config) -> Fields:
    """The same router; no groups means one."""
    return deepseek_v3_moe({**c, "n_group": c["n_group"] or 1, "topk_group": c["topk_group"] or 1})


def minimax_m3_moe(c: Config) -> Fields:
    """MiniMax-M3: the same router; experts in every layer unless a list says otherwise, one shared expert of
    its own width, and dense layers too."""
    types, flags = c["mlp_layer_types"], c["moe_layer_freq"]
    if types is None:
        flags = [1] * c["num_hidden_layers"] if flags is None else flags
        types = ["sparse" if flag else "dense" for flag in flags]
    own = {"mlp_layer_types": types, "moe_intermediate_size": c["intermediate_size"], "norm_topk_prob": True}
    experts = deepseek_v3_moe({**c, **own})
    return experts and experts | _shared_expert(c["shared_intermediate_size"])


def hy_v3_moe(c: Config) -> Fields:
    """The same router. Without shared experts its class has one that is as wide as a dense layer."""
    n_shared = require_value(c, "num_shared_experts")
    # The rule of DeepSeek-V3 would miss the expert that `mlp_bias` gives biases to.
    experts = deepseek_v3_moe({**c, "num_shared_experts": n_shared or 1})
    return experts and experts | ({} if n_shared else _shared_expert(c["intermediate_size"]))


def cohere2_moe(c: Config) -> Fields:
    """Command A+: experts as wide as `intermediate_size` says, and dense layers that may have a width of
    their own; its sigmoid scores need no correction."""
    scores = c["expert_selection_fn"]
    if scores not in ("softmax", "sigmoid"):
        raise ConfigError(f"expert_selection_fn is {scores!r}; only 'softmax' and 'sigmoid' are supported")
    own = c["prefix_dense_intermediate_size"]
    experts = deepseek_moe(c)
    return {"intermediate_size": c["intermediate_size"] if own is None else own} | (
        experts
        and experts
        | {"router_scores": scores, "norm_expert_weights": scores == "softmax" or c["norm_topk_prob"]}
    )


def ernie_moe(c: Config) -> Fields:
    """Ernie 4.5: experts in every `moe_layer_interval`th layer from a first to a last one."""
    first, last, step = (c[f"moe_layer_{name}"] for name in ("start_index", "end_index", "interval"))
    if not step:
        raise ConfigError(
            "moe_layer_interval is 0; give the number of layers from one with experts to the next"
        )
    if type(last) is not int or last < -1:
        raise ConfigError(f"moe_layer_end_index is {short_repr(last)}; it must be a layer's number, or -1")
    last = c["num_hidden_layers"] - 1 if last == -1 else last
    layers = range(c["num_hidden_layers"])
    experts = routed_experts(c, [first <= at <= last and (at + 1) % step == 0 for at in layers])
    return experts and experts | {"n_shared_experts": c["moe_num_shared_experts"], **_COUNTED_CORRECTION}


def llama4_moe(c: Config) -> Fields:
    """Llama 4: experts, one of them shared, in the layers of `moe_layers`, by default in every nth."""
    n_layers, step = c["num_hidden_layers"], c["interleave_moe_layer_step"]
    layers = c["moe_layers"]
    if layers is None:
        if not step:
            raise ConfigError(
                "interleave_moe_layer_step is 0; give the number of layers from one with experts to the next"
            )
        layers = range(step - 1, n_layers, step)
    if any(type(layer) is not int for layer in layers):
        raise ConfigError("moe_layers must list layer numbers, counted from 0")
    experts = routed_experts(c, [at in layers for at in range(n_layers)])
    return experts and experts | {
        "n_shared_experts": 1,
        "router_scores": "sigmoid",
        "norm_expert_weights": False,
        "weights_on_inputs": True,
    }


def hunyuan_moe(c: Config) -> Fields:
    """Hunyuan: experts everywhere, and a shared one of the same width. The number of experts per token may be
    a list over the layers."""
    top_k = c["moe_topk"]
    if isinstance(top_k, list):
        require_one_per_layer("moe_topk", top_k, c["num_hidden_layers"])
        if any(type(n) is not int or n != top_k[0] for n in top_k):
            raise ConfigError("moe_topk differs from layer to layer, which is not modelled; give one number")
        top_k = top_k[0]
    return experts_everywhere({**c, "moe_topk": top_k}) | {"n_shared_experts": 1}


def dbrx_moe(c: Config) -> Fields:
    """DBRX keeps these in an object of its own, and can normalize weights by other norms than their sum."""
    order, activation = c["ffn_config.moe_normalize_expert_weights"], c["ffn_config.ffn_act_fn"] or {}
    if order not in (None, 1):
        raise ConfigError(f"moe_normalize_expert_weights is {order}; only 1 and null are supported")
    name = activation.get("name", "silu")
    if name != "silu":
        raise ConfigError(f"ffn_act_fn is {name!r}; only 'silu' is supported")
    return experts_everywhere(c) | {"norm_expert_weights": order is not None}


def _expert_groups(c: Config) -> Fields:
    return {
        "n_expert_groups": require_value(c, "n_group"),
        "n_groups_per_token": require_value(c, "topk_group"),
    }


def _expert_placement(has_experts: Sequence[bool]) -> Fields:
    """Which layers have experts, as one of our two fields; empty if none has."""
    if not any(has_experts):
        return {}
    first = list(has_experts).index(True)
    if all(has_experts[first:]):
        return {"n_first_dense": first}
    return {"moe_pattern": shortest_pattern(["experts" if moe else "dense" for moe in has_experts])}
