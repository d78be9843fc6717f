"""What `solve` and `resize` take by keyword, for type checkers: no code reads this file when it runs.

One key per field of a model: a size that a lattice searches is an axis, anything else one value.
None stands for what is not given. Three keys more describe an axis without being a size.
"""

from __future__ import annotations

from typing import TypedDict

from parambudget.arch.blocks import BranchMultipliers, CountedParts, IndexerConfig, MLAConfig, MoEConfig
from parambudget.arch.dims import (
    ActivationName,
    AttentionGate,
    AttentionSpan,
    BlockIndexerUse,
    BlockLayout,
    FFNKind,
    FFNUse,
    GateActivation,
    GateNorm,
    HeadTransform,
    IndexerUse,
    LatentGate,
    LayerMixer,
    NormPlacement,
    NormType,
    PositionEncoding,
    QKNormScope,
    QueryScale,
    RopeType,
    RotaryUse,
    RouterScores,
    StateNorm,
    WindowKind,
)
from parambudget.arch.mixers.config import (
    GatedDeltaNetConfig,
    LightningAttentionConfig,
    Mamba2Config,
    MambaConfig,
    OutputGateActivation,
    RGLRUConfig,
    RWKVConfig,
    ShortConvolutionConfig,
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
    value_head_dim: int | None
    global_n_heads: int | None
    global_n_kv_heads: int | None
    global_head_dim: int | None
    n_kv_shared_layers: int | None
    kv_shared_ffn_factor: int | None
    tied: bool | None
    position: PositionEncoding | None
    position_offset: int | None
    embedding_dim: int | None
    per_layer_embedding_dim: int | None
    per_layer_vocab_size: int | None
    embedding_norm: bool | None
    norm: NormType | None
    norm_weight: bool | None
    norm_bias: bool | None
    norm_placement: NormPlacement | None
    mixer_pre_norm: bool | None
    final_norm: bool | None
    block: BlockLayout | None
    qk_norm: QKNormScope | None
    qk_norm_bias: bool | None
    qk_norm_after_rotation: bool | None
    value_norm: bool | None
    sub_norms: bool | None
    differential_attention: bool | None
    global_keys_as_values: bool | None
    attention_sinks: bool | None
    attention_gate: AttentionGate | None
    attention_gate_biased: bool | None
    attention_gate_activation: GateActivation | None
    mixer_pattern: tuple[LayerMixer, ...] | None
    ffn_pattern: tuple[FFNUse, ...] | None
    local_sinks: bool | None
    layer_scale: bool | None
    gated: bool | None
    channel_mix: bool | None
    qkv_bias: bool | None
    attention_out_bias: bool | None
    ffn_bias: bool | None
    head_bias: bool | None
    activation: ActivationName | None
    ffn_clamp: float | None
    window: int | None
    window_pattern: tuple[AttentionSpan, ...] | None
    window_kind: WindowKind | None
    sinusoidal_theta: float | None
    query_scale: QueryScale | None
    query_scale_strength: float | None
    query_scale_length: int | None
    rope_theta: float | None
    rope_theta_local: float | None
    rotary_pattern: tuple[RotaryUse, ...] | None
    rotary_fraction: float | None
    rotary_fraction_local: float | None
    rotary_interleaved: bool | None
    norm_eps: float | None
    logit_multiplier: float | None
    logit_softcap: float | None
    embedding_multiplier: float | None
    residual_multiplier: float | None
    stream_multiplier: float | None
    attention_multiplier: float | None
    value_multiplier: float | None
    attention_softcap: float | None
    qkv_clip: float | None
    init_std: float | None
    zero_init_out: bool | None
    shared_intermediate_size: int | None
    expert_latent_size: int | None
    shared_expert_gate: bool | None
    expert_bias: bool | None
    router_bias: bool | None
    router_scores: RouterScores | None
    correction_bias: bool | None
    correction_counted: bool | None
    correction_on_logits: bool | None
    norm_expert_weights: bool | None
    routing_multiplier: float | None
    n_expert_groups: int | None
    n_groups_per_token: int | None
    weights_on_inputs: bool | None
    experts_out_norm: bool | None
    experts_beside_ffn: bool | None
    fused_experts: bool | None
    n_first_dense: int | None
    moe_pattern: tuple[FFNKind, ...] | None
    kv_lora_rank: int | None
    q_lora_rank: int | None
    qk_nope_head_dim: int | None
    qk_rope_head_dim: int | None
    v_head_dim: int | None
    latent_norm_eps: float | None
    n_index_heads: int | None
    index_head_dim: int | None
    index_top_k: int | None
    indexer_pattern: tuple[IndexerUse, ...] | None
    index_rotary_interleaved: bool | None
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
    n_altup_streams: int | None
    laurel_rank: int | None
    attention_gate_bias: bool | None
    attention_experts: bool | None
    last_attention_out_bias: bool | None
    head_transform: HeadTransform | None
    no_first_norm: bool | None
    dynamic_mask: bool | None
    shortcut_experts: bool | None
    n_zero_experts: int | None
    latent_gate: LatentGate | None
    gated_norm_rank: int | None
    n_hyper_streams: int | None
    n_block_index_heads: int | None
    block_index_head_dim: int | None
    block_index_keys: int | None
    block_indexer_pattern: tuple[BlockIndexerUse, ...] | None
    n_shared_blocks: int | None
    shared_adapter_rank: int | None
    shared_attention_adapters: bool | None
    attention_in_multiplier: float | None
    attention_out_multiplier: float | None
    mixer_in_multiplier: float | None
    mixer_out_multiplier: float | None
    ffn_gate_multiplier: float | None
    ffn_out_multiplier: float | None
    delta_n_key_heads: int | None
    delta_n_value_heads: int | None
    delta_key_dim: int | None
    delta_value_dim: int | None
    delta_conv_width: int | None
    delta_gate_rank: int | None
    delta_channel_decay: bool | None
    delta_decay_bound: float | None
    delta_gate_activation: OutputGateActivation | None
    delta_negative_eigenvalues: bool | None
    delta_norm_eps: float | None
    short_conv_width: int | None
    short_conv_bias: bool | None
    lightning_n_heads: int | None
    lightning_head_dim: int | None
    lightning_norm_eps: float | None
    lru_n_blocks: int | None
    lru_block_width: int | None
    lru_conv_width: int | None
    rwkv_inner_size: int | None
    mamba_inner_size: int | None
    mamba_dt_rank: int | None
    mamba_state_dim: int | None
    mamba_conv_width: int | None
    mamba_conv_bias: bool | None
    mamba_bias: bool | None
    mamba_norm: StateNorm | None
    mamba_norm_eps: float | None
    mamba2_n_heads: int | None
    mamba2_head_dim: int | None
    mamba2_state_dim: int | None
    mamba2_n_groups: int | None
    mamba2_conv_width: int | None
    mamba2_conv_bias: bool | None
    mamba2_in_bias: bool | None
    mamba2_out_bias: bool | None
    mamba2_norm: GateNorm | None
    mamba2_multipliers: tuple[float, ...] | None
    mamba2_dt_min: float | None
    mamba2_dt_max: float | None

    moe: MoEConfig | None
    mla: MLAConfig | None
    indexer: IndexerConfig | None
    rope_scaling: RopeScaling | None
    multipliers: BranchMultipliers | None
    counted_parts: CountedParts | None
    gated_delta_net: GatedDeltaNetConfig | None
    short_convolution: ShortConvolutionConfig | None
    lightning_attention: LightningAttentionConfig | None
    rg_lru: RGLRUConfig | None
    rwkv: RWKVConfig | None
    mamba: MambaConfig | None
    mamba2: Mamba2Config | None
