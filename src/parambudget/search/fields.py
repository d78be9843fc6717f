"""What `solve` and `resize` take by keyword, for type checkers: no code reads this file when it runs.

One key per field of a model: a size that a lattice searches is an axis, anything else one value.
None stands for what is not given. Three keys more describe an axis without being a size.
"""

from __future__ import annotations

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
from parambudget.search.axis import AxisLike, RatioLike


class SearchFields(TypedDict, total=False):
    """Axes and choices of a search; a test holds the keys to the fields of a model."""

    kv_groups: AxisLike | None
    """Query heads per key/value head; 1 is multi-head."""
    ffn_ratio: RatioLike | None
    """Bounds on FFN width / dim: "1:6", "8/3:4", 4."""
    multiple: int | str | None
    """Granularity of FFN and expert widths, and of dim in ranges without a step."""

    dim: AxisLike | None
    n_layers: AxisLike | None
    n_heads: AxisLike | None
    n_kv_heads: AxisLike | None
    head_dim: AxisLike | None
    intermediate_size: AxisLike | None
    n_experts: AxisLike | None
    n_experts_per_token: AxisLike | None
    expert_intermediate_size: AxisLike | None
    n_shared_experts: AxisLike | None

    vocab_size: int | None
    context_length: int | None
    tied: bool | None
    position: PositionEncoding | None
    position_offset: int | None
    embedding_dim: int | None
    embedding_norm: bool | None
    norm: NormType | None
    norm_weight: bool | None
    norm_bias: bool | None
    norm_placement: NormPlacement | None
    final_norm: bool | None
    block: BlockLayout | None
    qk_norm: QKNormScope | None
    qk_norm_bias: bool | None
    attention_sinks: bool | None
    gated: bool | None
    qkv_bias: bool | None
    attention_out_bias: bool | None
    ffn_bias: bool | None
    head_bias: bool | None
    activation: ActivationName | None
    ffn_clamp: float | None
    window: int | None
    window_pattern: tuple[AttentionSpan, ...] | None
    rope_theta: float | None
    rope_theta_local: float | None
    rotary_pattern: tuple[RotaryUse, ...] | None
    rotary_fraction: float | None
    rotary_interleaved: bool | None
    norm_eps: float | None
    logit_multiplier: float | None
    logit_softcap: float | None
    embedding_multiplier: float | None
    residual_multiplier: float | None
    attention_multiplier: float | None
    attention_softcap: float | None
    qkv_clip: float | None
    init_std: float | None
    zero_init_out: bool | None
    shared_intermediate_size: int | None
    shared_expert_gate: bool | None
    expert_bias: bool | None
    router_bias: bool | None
    router_scores: RouterScores | None
    correction_bias: bool | None
    norm_expert_weights: bool | None
    routing_multiplier: float | None
    n_expert_groups: int | None
    n_groups_per_token: int | None
    fused_experts: bool | None
    n_first_dense: int | None
    moe_pattern: tuple[FFNKind, ...] | None
    kv_lora_rank: int | None
    q_lora_rank: int | None
    qk_nope_head_dim: int | None
    qk_rope_head_dim: int | None
    v_head_dim: int | None
    rope_type: RopeType | None
    rope_factor: float | None
    rope_original_context: int | None
    rope_attention_factor: float | None
    rope_beta_fast: float | None
    rope_beta_slow: float | None
    rope_truncate: bool | None
    rope_low_freq_factor: float | None
    rope_high_freq_factor: float | None
    rope_short_factors: tuple[float, ...] | None
    rope_long_factors: tuple[float, ...] | None
    rope_recompute_cache: bool | None
    rope_proportion: float | None

    moe: MoEConfig | None
    mla: MLAConfig | None
    rope_scaling: RopeScaling | None
