"""Small models with mixers other than attention."""

from typing import Final

import parambudget as pb

HYBRID = pb.model(
    dim=48, n_layers=6, n_heads=4, n_kv_heads=2, vocab_size=96, context_length=128,
    mixer_pattern=["gated_delta_net", "gated_delta_net", "attention"], attention_gate="element",
    delta_n_key_heads=2, delta_n_value_heads=4, delta_key_dim=8, delta_value_dim=12,
)  # fmt: skip
_LIKE: Final = HYBRID.replace(
    gated_delta_net=None, mixer_pattern=["attention"], attention_gate="none"
).model_dump()  # fmt: skip


def _with(kind: str, **fields: object) -> pb.ModelConfig:
    return pb.model(**_LIKE | {"mixer_pattern": [kind, kind, "attention"]} | fields)


LINEAR_MIXERS: Final = {
    "gated_delta_net": HYBRID,
    "channel decays": HYBRID.replace(
        delta_n_key_heads=4, delta_gate_rank=6, delta_channel_decay=True, delta_gate_activation="sigmoid",
        delta_negative_eigenvalues=True, delta_norm_eps=1e-3,
    ),
    "norms before mixers alone": HYBRID.replace(norm_placement="reordered", mixer_pre_norm=True),
    "short_convolution": _with("short_convolution", short_conv_width=3, short_conv_bias=True),
    "lightning_attention": _with(
        "lightning_attention", lightning_n_heads=4, lightning_head_dim=12, norm_placement="stream",
        stream_multiplier=1.5, context_length=256,
    ),
    "rg_lru": _with("rg_lru", lru_n_blocks=3, lru_block_width=12),
    "rwkv": _with(
        "rwkv", rwkv_inner_size=36, channel_mix=True, gated=False, activation="relu2", norm="layernorm",
        embedding_norm=True, ffn_bias=True,
    ),
    "rwkv alone": _with(
        "rwkv", rwkv_inner_size=56, mixer_pattern=["rwkv"], position="none", tied=False, gated=False,
    ),
}  # fmt: skip
"""One for each mixer that is linear in what it keeps."""
MAMBA2 = pb.model(
    dim=48, n_layers=3, n_heads=4, n_kv_heads=2, vocab_size=96, context_length=128,
    mixer_pattern=["mamba2", "attention", "mamba2"], mamba2_n_heads=6, mamba2_head_dim=16,
    mamba2_state_dim=24, mamba2_n_groups=2,
)  # fmt: skip
MAMBA = pb.model(
    dim=48, n_layers=3, n_heads=1, vocab_size=96, context_length=320, position="none", ffn_pattern=["none"],
    mixer_pattern=["mamba"], mamba_inner_size=96, mamba_dt_rank=4, mamba_state_dim=8,
)  # fmt: skip
SIDE_BY_SIDE = MAMBA2.replace(
    mixer_pattern=["attention+mamba2"], mamba2_norm="none", mixer_in_multiplier=1.2, mixer_out_multiplier=0.9,
    attention_in_multiplier=0.8, attention_out_multiplier=0.7, ffn_gate_multiplier=0.6,
    ffn_out_multiplier=0.5, mamba2_multipliers=[0.9, 1.1, 0.8, 1.2, 1.3],
)  # fmt: skip
LATENT_EXPERTS = MAMBA2.replace(
    ffn_pattern=["ffn", "none", "ffn"], n_experts=4, n_experts_per_token=2, expert_intermediate_size=40,
    expert_latent_size=24, n_shared_experts=1, gated=False, activation="relu2",
)  # fmt: skip
STATE_SPACES = {
    "mamba": MAMBA, "mamba with norms": MAMBA.replace(mamba_norm="scaled"), "mamba2": MAMBA2,
    "mamba2 with biases": MAMBA2.replace(mamba2_in_bias=True, mamba2_out_bias=True, mamba2_dt_min=0.01),
    "side by side": SIDE_BY_SIDE, "latent experts": LATENT_EXPERTS,
}  # fmt: skip
