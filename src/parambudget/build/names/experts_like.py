"""Names of the classes with experts.

Files have a tensor for each matrix of each expert; the classes keep all of a layer in one, which is read too.
Read from what the classes of transformers 5 save, and held against them in tests/formats/test_hf_weights.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from parambudget.build.names.llama_like import ATTENTION, BEFORE, FFN, HEAD_NORMS, LLAMA, TOP
from parambudget.build.names.names import Names, Parts
from parambudget.build.names.ways import ALTERNATING, STACKED

_GATES_AND_UPS: Final = ("ffn.experts.*.gate.weight", "ffn.experts.*.up.weight")
_SINGLE: Final[Mapping[str, Parts]] = {
    "mlp.experts.*.gate_proj": "ffn.experts.*.gate", "mlp.experts.*.up_proj": "ffn.experts.*.up",
    "mlp.experts.*.down_proj": "ffn.experts.*.down",
}  # fmt: skip
_FUSED: Final[Mapping[str, Parts]] = {
    "mlp.experts.gate_up_proj": _GATES_AND_UPS, "mlp.experts.down_proj": "ffn.experts.*.down.weight",
}  # fmt: skip
_ROUTED: Final[Mapping[str, Parts]] = {
    "mlp.gate": "ffn.router", "mlp.gate.e_score_correction_bias": "ffn.correction",
}  # fmt: skip
_SHARED: Final[Mapping[str, Parts]] = {
    "mlp.shared_experts.gate_proj": "ffn.shared.gate", "mlp.shared_experts.up_proj": "ffn.shared.up",
    "mlp.shared_experts.down_proj": "ffn.shared.down",
}  # fmt: skip
_SHARED_IN_QWEN2: Final[Mapping[str, Parts]] = {
    "mlp.shared_expert.gate_proj": "ffn.shared.gate", "mlp.shared_expert.up_proj": "ffn.shared.up",
    "mlp.shared_expert.down_proj": "ffn.shared.down", "mlp.shared_expert_gate": "ffn.shared_gate",
}  # fmt: skip
_LATENT: Final[Mapping[str, Parts]] = {
    "self_attn.q_proj": "attention.q", "self_attn.q_a_proj": "attention.q_down",
    "self_attn.q_a_layernorm": "attention.q_latent_norm", "self_attn.q_b_proj": "attention.q_up",
    "self_attn.kv_a_proj_with_mqa": "attention.kv_down",
    "self_attn.kv_a_layernorm": "attention.kv_latent_norm", "self_attn.kv_b_proj": "attention.kv_up",
    "self_attn.o_proj": "attention.out",
}  # fmt: skip
_IN_MIXTRAL: Final[Mapping[str, Parts]] = {
    "block_sparse_moe.gate": "ffn.router", "block_sparse_moe.experts.*.w1": "ffn.experts.*.gate",
    "block_sparse_moe.experts.*.w2": "ffn.experts.*.down",
    "block_sparse_moe.experts.*.w3": "ffn.experts.*.up",
}  # fmt: skip


def _names(attention: Mapping[str, Parts], routed: Mapping[str, Parts], single: Mapping[str, Parts]) -> Names:
    """Single experts, or those of a layer in one tensor."""

    def form(experts: Mapping[str, Parts]) -> Names:
        return Names(
            TOP, "model.layers", {**attention, **FFN, **BEFORE, **routed, **experts}, "model.",
            ways=dict.fromkeys(_FUSED, STACKED),
        )  # fmt: skip

    return replace(form(single), others=(form(_FUSED),))


def _like_mixtral(router: str) -> Names:
    """Other words for single experts; `router` is the class's own name of it."""
    fused = {**ATTENTION, **BEFORE, router: "ffn.router", **_FUSED}
    return replace(
        LLAMA,
        block={**ATTENTION, **BEFORE, **_IN_MIXTRAL},
        others=(replace(LLAMA, block=fused, ways=dict.fromkeys(_FUSED, STACKED)),),
    )


def _granitemoe(gate_up: str, down: str, router: str) -> Names:
    names: dict[str, Parts] = {
        gate_up: _GATES_AND_UPS,
        down: "ffn.experts.*.down.weight",
        router: "ffn.router",
    }
    return replace(
        LLAMA,
        block={**ATTENTION, **BEFORE, **{f"block_sparse_moe.{name}": ours for name, ours in names.items()}},
        ways={f"block_sparse_moe.{name}": STACKED for name in (gate_up, down)},
    )


_DEEPSEEK: Final = _names(_LATENT, {**_ROUTED, **_SHARED}, _SINGLE)
_IN_GPT_OSS: Final[Mapping[str, Parts]] = {
    **_FUSED,
    "mlp.experts.gate_up_proj_bias": ("ffn.experts.*.gate.bias", "ffn.experts.*.up.bias"),
    "mlp.experts.down_proj_bias": "ffn.experts.*.down.bias",
}

EXPERTS_LIKE: Final[Mapping[str, Names]] = {
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "glm4_moe": _names({**ATTENTION, **HEAD_NORMS}, {**_ROUTED, **_SHARED}, _SINGLE),
    "gpt_oss": replace(
        LLAMA,
        block={
            **ATTENTION, "self_attn.sinks": "attention.sinks", **BEFORE, "mlp.router": "ffn.router",
            **_IN_GPT_OSS,
        },
        ways=dict.fromkeys(_IN_GPT_OSS, ALTERNATING),
    ),
    "granitemoe": replace(
        _granitemoe("input_linear.weight", "output_linear.weight", "router.layer"),
        others=(_granitemoe("experts.gate_up_proj", "experts.down_proj", "router"),),
    ),
    "kimi_k2": _DEEPSEEK,
    "mixtral": _like_mixtral("mlp.gate"),
    "olmoe": _names({**ATTENTION, **HEAD_NORMS}, _ROUTED, _SINGLE),
    "phimoe": _like_mixtral("mlp.router"),
    "qwen2_moe": _names(ATTENTION, {**_ROUTED, **_SHARED_IN_QWEN2}, _SINGLE),
    "qwen3_moe": _names({**ATTENTION, **HEAD_NORMS}, _ROUTED, _SINGLE),
}  # fmt: skip
