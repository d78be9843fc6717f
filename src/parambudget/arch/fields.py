"""The fields of a model as keyword arguments, so that editors complete them and type checkers know them."""

from typing import TypedDict

from parambudget.arch.blocks import MLAConfig, MoEConfig
from parambudget.arch.dims import (
    ActivationName,
    AttentionSpan,
    BlockLayout,
    FFNKind,
    NormPlacement,
    NormType,
    PositionEncoding,
    QKNormScope,
    RopeType,
    RotaryUse,
    RouterScores,
)
from parambudget.arch.rope_scaling import RopeScaling


class ModelFields(TypedDict, total=False):
    """One key per field of `ModelConfig` and of its blocks; a test holds names and types equal to theirs."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    context_length: int
    tied: bool
    position: PositionEncoding
    position_offset: int
    embedding_dim: int | None
    embedding_norm: bool
    norm: NormType
    norm_weight: bool
    norm_bias: bool
    norm_placement: NormPlacement
    final_norm: bool
    block: BlockLayout
    qk_norm: QKNormScope
    qk_norm_bias: bool | None
    attention_sinks: bool
    gated: bool
    qkv_bias: bool
    attention_out_bias: bool
    ffn_bias: bool
    head_bias: bool
    activation: ActivationName
    ffn_clamp: float | None
    window: int | None
    window_pattern: tuple[AttentionSpan, ...]
    rope_theta: float
    rope_theta_local: float | None
    rotary_pattern: tuple[RotaryUse, ...]
    rotary_fraction: float
    rotary_interleaved: bool
    norm_eps: float
    logit_multiplier: float
    logit_softcap: float | None
    embedding_multiplier: float
    residual_multiplier: float
    attention_multiplier: float | None
    attention_softcap: float | None
    qkv_clip: float | None
    init_std: float
    zero_init_out: bool
    moe: MoEConfig | None
    mla: MLAConfig | None
    rope_scaling: RopeScaling | None

    # moe: the fields of the block by their own names
    n_experts: int
    n_experts_per_token: int
    expert_intermediate_size: int
    n_shared_experts: int
    shared_intermediate_size: int | None
    shared_expert_gate: bool
    expert_bias: bool
    router_bias: bool
    router_scores: RouterScores
    correction_bias: bool
    norm_expert_weights: bool
    routing_multiplier: float
    n_expert_groups: int
    n_groups_per_token: int
    fused_experts: bool
    n_first_dense: int
    moe_pattern: tuple[FFNKind, ...]

    # mla: the fields of the block by their own names
    kv_lora_rank: int
    q_lora_rank: int | None
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int

    # rope_scaling: the fields of the block by their own names
    rope_type: RopeType
    rope_factor: float | None
    rope_original_context: int | None
    rope_attention_factor: float | None
    rope_beta_fast: float
    rope_beta_slow: float
    rope_truncate: bool
    rope_low_freq_factor: float
    rope_high_freq_factor: float
    rope_short_factors: tuple[float, ...] | None
    rope_long_factors: tuple[float, ...] | None
    rope_recompute_cache: bool
    rope_proportion: float
