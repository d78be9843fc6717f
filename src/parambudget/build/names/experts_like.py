"""Names of tensors in checkpoints of classes with experts or latent attention.

Read from the classes of transformers 5.24; the names are those of published checkpoints, which keep every
expert's matrices apart also where the class itself joins them.
"""

from typing import Final

from parambudget.build.names.llama_like import AROUND, ATTENTION, FFN, NORMS
from parambudget.build.names.rows import ALTERNATING, BARE, OF_EXPERTS, TURNED, Row, plain

_LAYER: Final = "model.layers.*"
_LLAMA: Final = AROUND | ATTENTION | NORMS
_EXPERTS: Final = {
    "layers.*.ffn.router": f"{_LAYER}.mlp.gate",
    "layers.*.ffn.experts.*.gate": f"{_LAYER}.mlp.experts.*.gate_proj",
    "layers.*.ffn.experts.*.up": f"{_LAYER}.mlp.experts.*.up_proj",
    "layers.*.ffn.experts.*.down": f"{_LAYER}.mlp.experts.*.down_proj",
}
_W: Final = f"{_LAYER}.block_sparse_moe.experts.*"
_MIXTRAL: Final = {
    "layers.*.ffn.router": f"{_LAYER}.block_sparse_moe.gate",
    "layers.*.ffn.experts.*.gate": f"{_W}.w1",
    "layers.*.ffn.experts.*.up": f"{_W}.w3",
    "layers.*.ffn.experts.*.down": f"{_W}.w2",
}


def _shared(theirs: str) -> dict[str, str]:
    return {
        f"layers.*.ffn.shared.{one}": f"{_LAYER}.mlp.{theirs}.{one}_proj" for one in ("gate", "up", "down")
    }


_QWEN: Final = _LLAMA | FFN | _EXPERTS
_DEEPSEEK: Final = _QWEN | _shared("shared_experts")
_LATENTS: Final = {
    "layers.*.attention.q_down": f"{_LAYER}.self_attn.q_a_proj",
    "layers.*.attention.q_latent_norm": f"{_LAYER}.self_attn.q_a_layernorm",
    "layers.*.attention.q_up": f"{_LAYER}.self_attn.q_b_proj",
    "layers.*.attention.kv_down": f"{_LAYER}.self_attn.kv_a_proj_with_mqa",
    "layers.*.attention.kv_latent_norm": f"{_LAYER}.self_attn.kv_a_layernorm",
    "layers.*.attention.kv_up": f"{_LAYER}.self_attn.kv_b_proj",
}
_CORRECTION: Final = plain(
    {"layers.*.ffn.correction": f"{_LAYER}.mlp.gate.e_score_correction_bias"}, endings=BARE
)
_DEEPSEEK_V3: Final = plain(_DEEPSEEK | _LATENTS) + _CORRECTION
_OF_ALL: Final = {".weight": "", ".bias": "_bias"}
"""Tensors of all experts that have no module of their own."""

EXPERTS_LIKE: Final[dict[str, tuple[Row, ...]]] = {
    "deepseek_v2": plain(_DEEPSEEK | _LATENTS),
    "deepseek_v3": _DEEPSEEK_V3,
    "kimi_k2": _DEEPSEEK_V3,
    "glm4_moe": plain(_DEEPSEEK) + _CORRECTION,
    "gpt_oss": (
        *plain(_LLAMA | {"layers.*.ffn.router": f"{_LAYER}.mlp.router"}),
        *plain({"layers.*.attention.sinks": f"{_LAYER}.self_attn.sinks"}, endings=BARE),
        *plain({"layers.*.ffn.experts.down": f"{_LAYER}.mlp.experts.down_proj"}, TURNED, _OF_ALL),
        Row(
            f"{_LAYER}.mlp.experts.gate_up_proj",
            ("layers.*.ffn.experts.gate", "layers.*.ffn.experts.up"),
            ALTERNATING,
            _OF_ALL,
        ),
    ),
    "granitemoe": (
        *plain(
            _LLAMA
            | {
                "layers.*.ffn.router": f"{_LAYER}.block_sparse_moe.router.layer",
                "layers.*.ffn.experts.down": f"{_LAYER}.block_sparse_moe.output_linear",
            }
        ),
        Row(
            f"{_LAYER}.block_sparse_moe.input_linear",
            ("layers.*.ffn.experts.gate", "layers.*.ffn.experts.up"),
            OF_EXPERTS,
            {".weight": ".weight"},
        ),
    ),
    "mixtral": plain(_LLAMA | _MIXTRAL),
    "olmoe": plain(_QWEN),
    "phimoe": plain(_LLAMA | _MIXTRAL),
    "qwen2_moe": plain(
        _QWEN | _shared("shared_expert") | {"layers.*.ffn.shared_gate": f"{_LAYER}.mlp.shared_expert_gate"}
    ),
    "qwen3_moe": plain(_QWEN),
}
