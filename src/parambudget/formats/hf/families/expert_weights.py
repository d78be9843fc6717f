"""Names of experts, routers and latent attention that several families share.

Published files have one tensor for each matrix of each expert. The classes of transformers 5 have all experts
of a layer in one, and sometimes other names: both are read, the names of the files are written.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from parambudget.formats.hf.schema import (
    ATTENTION,
    GATED_MLP,
    PRE_NORMS,
    Layout,
    TensorNames,
    WeightNames,
    llama_weights,
)

GATES_AND_UPS: Final = ("ffn.experts.*.gate.weight", "ffn.experts.*.up.weight")
SEPARATE_EXPERTS: Final[Mapping[str, TensorNames]] = {
    "mlp.experts.*.gate_proj": "ffn.experts.*.gate", "mlp.experts.*.up_proj": "ffn.experts.*.up",
    "mlp.experts.*.down_proj": "ffn.experts.*.down",
}  # fmt: skip
FUSED_EXPERTS: Final[Mapping[str, TensorNames]] = {
    "mlp.experts.gate_up_proj": GATES_AND_UPS, "mlp.experts.down_proj": "ffn.experts.*.down.weight",
}  # fmt: skip
FUSED_LAYOUTS: Final[Mapping[str, Layout]] = dict.fromkeys(FUSED_EXPERTS, "stacked_experts")
MIXTRAL_EXPERTS: Final[Mapping[str, TensorNames]] = {
    "block_sparse_moe.gate": "ffn.router", "block_sparse_moe.experts.*.w1": "ffn.experts.*.gate",
    "block_sparse_moe.experts.*.w2": "ffn.experts.*.down",
    "block_sparse_moe.experts.*.w3": "ffn.experts.*.up",
    "block_sparse_moe.e_score_correction_bias": "ffn.correction",
}  # fmt: skip
ROUTER: Final[Mapping[str, TensorNames]] = {
    "mlp.gate": "ffn.router", "mlp.gate.e_score_correction_bias": "ffn.correction",
}  # fmt: skip
SHARED_EXPERTS: Final[Mapping[str, TensorNames]] = {
    "mlp.shared_experts.gate_proj": "ffn.shared.gate", "mlp.shared_experts.up_proj": "ffn.shared.up",
    "mlp.shared_experts.down_proj": "ffn.shared.down",
}  # fmt: skip
QWEN2_SHARED_EXPERT: Final[Mapping[str, TensorNames]] = {
    "mlp.shared_expert.gate_proj": "ffn.shared.gate", "mlp.shared_expert.up_proj": "ffn.shared.up",
    "mlp.shared_expert.down_proj": "ffn.shared.down", "mlp.shared_expert_gate": "ffn.shared_gate",
}  # fmt: skip
LATENT_ATTENTION: Final[Mapping[str, TensorNames]] = {
    "self_attn.q_proj": "attention.q", "self_attn.q_a_proj": "attention.q_down",
    "self_attn.q_a_layernorm": "attention.q_latent_norm", "self_attn.q_b_proj": "attention.q_up",
    "self_attn.kv_a_proj_with_mqa": "attention.kv_down",
    "self_attn.kv_a_layernorm": "attention.kv_latent_norm", "self_attn.kv_b_proj": "attention.kv_up",
    "self_attn.o_proj": "attention.out",
}  # fmt: skip

INDEXED_LATENT_ATTENTION: Final[Mapping[str, TensorNames]] = {
    **LATENT_ATTENTION, "self_attn.indexer.wq_b": "indexer.q", "self_attn.indexer.wk": "indexer.k",
    "self_attn.indexer.k_norm": "indexer.k_norm", "self_attn.indexer.weights_proj": "indexer.head_weights",
}  # fmt: skip


def moe_weights(
    attention: Mapping[str, TensorNames], router: Mapping[str, TensorNames], *,
    in_class: Mapping[str, TensorNames] | None = None, norms: Mapping[str, TensorNames] = PRE_NORMS,
    layouts: Mapping[str, Layout] | None = None, norm_offset: int = 0,
) -> WeightNames:  # fmt: skip
    """Names of experts one by one; as an alternative, all of a layer in one tensor.

    `router` has the names of router and shared experts in files, `in_class` those that the class has for
    them where it has others.
    """

    def with_experts(experts: Mapping[str, TensorNames], router: Mapping[str, TensorNames]) -> WeightNames:
        return llama_weights(
            attention, GATED_MLP, norms, router, experts, layouts=layouts, norm_offset=norm_offset
        )

    fused = with_experts(FUSED_EXPERTS, router if in_class is None else in_class)
    fused = replace(fused, layouts={**fused.layouts, **FUSED_LAYOUTS})
    return replace(with_experts(SEPARATE_EXPERTS, router), alternatives=(fused,))


def mixtral_weights(
    router: Mapping[str, TensorNames], attention: Mapping[str, TensorNames] = ATTENTION
) -> WeightNames:
    """Mixtral's names of experts one by one; as an alternative, those of the class, which has names of its
    own for the router and all experts of a layer in one tensor."""
    fused = llama_weights(attention, PRE_NORMS, router, FUSED_EXPERTS, layouts=FUSED_LAYOUTS)
    return replace(llama_weights(attention, PRE_NORMS, MIXTRAL_EXPERTS), alternatives=(fused,))


def granitemoe_weights(
    gate_up: str, down: str, router: str, others: Mapping[str, TensorNames] | None = None
) -> WeightNames:
    """Granite's names of experts, which are stacked in files too, and of what else a layer has."""
    block: dict[str, TensorNames] = {
        f"block_sparse_moe.{gate_up}": GATES_AND_UPS,
        f"block_sparse_moe.{down}": "ffn.experts.*.down.weight",
        f"block_sparse_moe.{router}": "ffn.router",
    }
    layouts: dict[str, Layout] = {f"block_sparse_moe.{name}": "stacked_experts" for name in (gate_up, down)}
    return llama_weights(ATTENTION, PRE_NORMS, block, others or {}, layouts=layouts)
