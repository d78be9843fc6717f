"""A model's shape in words, the same in every message, table and report."""

from typing import Final

from parambudget.arch.config import ModelConfig
from parambudget.units import count_phrase

NORM_NAMES: Final = {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}
"""As papers, torch and the tools that build on it write them."""


def shape_in_words(m: ModelConfig) -> str:
    """Depth, width, heads and FFN, each only where some layer has it: `24 layers, dim 896, 14/2 heads of 64,
    FFN 3584`."""
    layers = count_phrase(m.n_layers, "layer")
    heads = [f"{m.n_heads}/{m.n_kv_heads} heads of {m.head_dim}"] if m.n_attention_layers else []
    return ", ".join((layers, f"dim {m.dim}", *heads, *ffn_in_words(m)))


def ffn_in_words(m: ModelConfig, name: str = "FFN") -> list[str]:
    """The FFN, or the experts in its place and the dense layers beside them: `FFN 3584`, or
    `8 experts of FFN 14336, 2 per token`; nothing where no layer has one."""
    if not m.n_ffn_layers:
        return []
    if m.moe is None:
        return [f"{name} {m.intermediate_size}"]
    moe = m.moe
    experts = f"{moe.n_experts} experts of {name} {moe.expert_intermediate_size}"
    experts += f", {moe.n_experts_per_token} per token"
    if moe.n_shared_experts:
        width = moe.shared_intermediate_size or moe.expert_intermediate_size
        experts += f" and {moe.n_shared_experts} shared of {width}"
    if moe.experts_beside_ffn:
        return [f"{name} {m.intermediate_size}", f"beside it {experts}"]
    if not m.n_dense_layers:
        return [experts]
    return [experts, f"{name} {m.intermediate_size} in {count_phrase(m.n_dense_layers, 'dense layer')}"]
