"""The fields of a model as keyword arguments, so that editors complete them and type checkers know them."""

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


class ModelFields(TypedDict, total=False):
    """One key per field of `ModelConfig` and of its blocks; a test holds names and types equal to theirs."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    value_head_dim: int | None
    global_n_heads: int | None
    global_n_kv_heads: int | None
    global_head_dim: int | None
    n_kv_shared_layers: int
    intermediate_size: int
    kv_shared_ffn_factor: int
    vocab_size: int
    context_length: int
    tied: bool
    position: PositionEncoding
    position_offset: int
    embedding_dim: int | None
    per_layer_embedding_dim: int | None
    per_layer_vocab_size: int | None
    embedding_norm: bool
    norm: NormType
    norm_weight: bool
    norm_bias: bool
    norm_placement: NormPlacement
    mixer_pre_norm: bool
    final_norm: bool
    block: BlockLayout
    qk_norm: QKNormScope
    qk_norm_bias: bool | None
    qk_norm_after_rotation: bool
    value_norm: bool
    sub_norms: bool
    differential_attention: bool
    global_keys_as_values: bool
    attention_sinks: bool
    attention_gate: AttentionGate
    attention_gate_biased: bool
    attention_gate_activation: GateActivation
    mixer_pattern: tuple[LayerMixer, ...]
    ffn_pattern: tuple[FFNUse, ...]
    local_sinks: bool
    layer_scale: bool
    gated: bool
    channel_mix: bool
    qkv_bias: bool
    attention_out_bias: bool
    ffn_bias: bool
    head_bias: bool
    activation: ActivationName
    ffn_clamp: float | None
    window: int | None
    window_pattern: tuple[AttentionSpan, ...]
    window_kind: WindowKind
    sinusoidal_theta: float
    query_scale: QueryScale
    query_scale_strength: float
    query_scale_length: int
    rope_theta: float
    rope_theta_local: float | None
    rotary_pattern: tuple[RotaryUse, ...]
    rotary_fraction: float
    rotary_fraction_local: float | None
    rotary_interleaved: bool
    norm_eps: float
    logit_multiplier: float
    logit_softcap: float | None
    embedding_multiplier: float
    residual_multiplier: float
    stream_multiplier: float
    attention_multiplier: float | None
    value_multiplier: float
    attention_softcap: float | None
    qkv_clip: float | None
    init_std: float
    zero_init_out: bool
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

    # moe: the fields of the block by their own names
    n_experts: int
    n_experts_per_token: int
    expert_intermediate_size: int
    n_shared_experts: int
    shared_intermediate_size: int | None
    expert_latent_size: int | None
    shared_expert_gate: bool
    expert_bias: bool
    router_bias: bool
    router_scores: RouterScores
    correction_bias: bool
    correction_counted: bool
    correction_on_logits: bool
    norm_expert_weights: bool
    routing_multiplier: float
    n_expert_groups: int
    n_groups_per_token: int
    weights_on_inputs: bool
    experts_out_norm: bool
    experts_beside_ffn: bool
    fused_experts: bool
    n_first_dense: int
    moe_pattern: tuple[FFNKind, ...]

    # mla: the fields of the block by their own names
    kv_lora_rank: int
    q_lora_rank: int | None
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    latent_norm_eps: float | None

    # indexer: the fields of the block by their own names
    n_index_heads: int
    index_head_dim: int
    index_top_k: int
    indexer_pattern: tuple[IndexerUse, ...]
    index_rotary_interleaved: bool

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

    # counted_parts: the fields of the block by their own names
    n_altup_streams: int | None
    laurel_rank: int | None
    attention_gate_bias: bool
    attention_experts: bool
    last_attention_out_bias: bool
    head_transform: HeadTransform
    no_first_norm: bool
    dynamic_mask: bool
    shortcut_experts: bool
    n_zero_experts: int
    latent_gate: LatentGate
    gated_norm_rank: int | None
    n_hyper_streams: int | None
    n_block_index_heads: int | None
    block_index_head_dim: int | None
    block_index_keys: int | None
    block_indexer_pattern: tuple[BlockIndexerUse, ...]
    n_shared_blocks: int | None
    shared_adapter_rank: int | None
    shared_attention_adapters: bool

    # multipliers: the fields of the block by their own names
    attention_in_multiplier: float
    attention_out_multiplier: float
    mixer_in_multiplier: float
    mixer_out_multiplier: float
    ffn_gate_multiplier: float
    ffn_out_multiplier: float

    # gated_delta_net: the fields of the block by their own names
    delta_n_key_heads: int
    delta_n_value_heads: int
    delta_key_dim: int
    delta_value_dim: int
    delta_conv_width: int
    delta_gate_rank: int | None
    delta_channel_decay: bool
    delta_decay_bound: float | None
    delta_gate_activation: OutputGateActivation
    delta_negative_eigenvalues: bool
    delta_norm_eps: float | None

    # short_convolution: the fields of the block by their own names
    short_conv_width: int
    short_conv_bias: bool

    # lightning_attention: the fields of the block by their own names
    lightning_n_heads: int
    lightning_head_dim: int
    lightning_norm_eps: float | None

    # rg_lru: the fields of the block by their own names
    lru_n_blocks: int
    lru_block_width: int
    lru_conv_width: int

    # rwkv: the field of the block by its own name
    rwkv_inner_size: int

    # mamba: the fields of the block by their own names
    mamba_inner_size: int
    mamba_dt_rank: int
    mamba_state_dim: int
    mamba_conv_width: int
    mamba_conv_bias: bool
    mamba_bias: bool
    mamba_norm: StateNorm
    mamba_norm_eps: float | None

    # mamba2: the fields of the block by their own names
    mamba2_n_heads: int
    mamba2_head_dim: int
    mamba2_state_dim: int
    mamba2_n_groups: int
    mamba2_conv_width: int
    mamba2_conv_bias: bool
    mamba2_in_bias: bool
    mamba2_out_bias: bool
    mamba2_norm: GateNorm
    mamba2_multipliers: tuple[float, ...]
    mamba2_dt_min: float
    mamba2_dt_max: float | None
