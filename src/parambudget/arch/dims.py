"""What the tables read of a model, and the sizes that follow from others.

A size may be an int, a NumPy array or a SymPy symbol, so `ModelConfig` and what `arch.sizes.with_sizes`
returns are both `Dims`. Each derived size has its formula here, once; both offer it as a property.
"""

from collections.abc import Callable, Sequence
from math import lcm
from typing import Any, Literal, NamedTuple, Protocol, TypeGuard, cast

from parambudget.arch.validation import MOST_LAYERS

PositionEncoding = Literal["rotary", "learned", "sinusoidal", "alibi", "none"]
NormType = Literal["rmsnorm", "layernorm"]
NormPlacement = Literal["pre", "post", "reordered", "sandwich", "stream"]
BlockLayout = Literal["sequential", "parallel", "parallel_shared_norm"]
QKNormScope = Literal["none", "head", "per_head", "full", "l2"]
ActivationName = Literal["silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "xielu"]
AttentionSpan = Literal["local", "global"]
RotaryUse = Literal["rotary", "none"]
RopeType = Literal["none", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional"]
RouterScores = Literal["softmax", "sigmoid", "sparsemixer"]
WindowKind = Literal["sliding", "chunked"]
QueryScale = Literal["none", "log", "log_next", "power"]
FFNKind = Literal["dense", "experts"]
IndexerUse = Literal["own", "shared"]
LatentGate = Literal["none", "element", "latent"]
BlockIndexerUse = Literal["sparse", "full"]
AttentionGate = Literal["none", "head", "element"]
MixerKind = Literal[
    "gated_delta_net", "mamba", "mamba2", "short_convolution", "lightning_attention", "rg_lru", "rwkv"
]
LayerMixer = Literal[
    "attention",
    "gated_delta_net",
    "mamba",
    "mamba2",
    "attention+mamba2",
    "attention+mamba",
    "short_convolution",
    "lightning_attention",
    "rg_lru",
    "rwkv",
    "none",
]
"""What mixes tokens in a layer; a + joins two mixers side by side, whose outputs are added."""
GateActivation = Literal["sigmoid", "softplus"]
HeadTransform = Literal["none", "plain", "biased"]
StateNorm = Literal["none", "unscaled", "scaled"]
GateNorm = Literal["none", "before_gate", "after_gate"]
FFNUse = Literal["ffn", "none"]

Size = Any
"""An int, a NumPy integer array or a SymPy expression: they share `+` and `*` and no base class."""


class ExpertSizes(Protocol):
    """The sizes that say how wide the experts of one token are."""

    @property
    def n_experts_per_token(self) -> Size: ...
    @property
    def expert_intermediate_size(self) -> Size: ...
    @property
    def n_shared_experts(self) -> Size: ...
    @property
    def shared_intermediate_size(self) -> Size: ...


class MoEDims(ExpertSizes, Protocol):
    """The `moe` block as the tables read it: see `blocks.MoEConfig`."""

    @property
    def n_experts(self) -> Size: ...
    @property
    def expert_latent_size(self) -> Size: ...
    @property
    def shared_expert_gate(self) -> bool: ...
    @property
    def shared_expert_width(self) -> Size: ...
    @property
    def active_width(self) -> Size: ...
    @property
    def expert_bias(self) -> bool: ...
    @property
    def router_bias(self) -> bool: ...
    @property
    def correction_counted(self) -> bool: ...
    @property
    def norm_expert_weights(self) -> bool: ...
    @property
    def weights_on_inputs(self) -> bool: ...
    @property
    def experts_out_norm(self) -> bool: ...
    @property
    def experts_beside_ffn(self) -> bool: ...
    @property
    def fused_experts(self) -> bool: ...
    @property
    def n_first_dense(self) -> int: ...
    @property
    def moe_pattern(self) -> tuple[FFNKind, ...]: ...


class MLADims(Protocol):
    """The `mla` block as the tables read it: see `blocks.MLAConfig`."""

    @property
    def kv_lora_rank(self) -> Size: ...
    @property
    def q_lora_rank(self) -> Size: ...
    @property
    def qk_nope_head_dim(self) -> Size: ...
    @property
    def qk_rope_head_dim(self) -> Size: ...
    @property
    def v_head_dim(self) -> Size: ...


class GatedDeltaNetDims(Protocol):
    """The `gated_delta_net` block as the tables read it: see `mixers.config.GatedDeltaNetConfig`."""

    @property
    def delta_n_key_heads(self) -> Size: ...
    @property
    def delta_n_value_heads(self) -> Size: ...
    @property
    def delta_key_dim(self) -> Size: ...
    @property
    def delta_value_dim(self) -> Size: ...
    @property
    def delta_conv_width(self) -> Size: ...
    @property
    def delta_gate_rank(self) -> Size: ...
    @property
    def delta_channel_decay(self) -> bool: ...


class ShortConvolutionDims(Protocol):
    """The `short_convolution` block as the tables read it: see `mixers.config.ShortConvolutionConfig`."""

    @property
    def short_conv_width(self) -> Size: ...
    @property
    def short_conv_bias(self) -> bool: ...


class LightningAttentionDims(Protocol):
    """The `lightning_attention` block as the tables read it: see `mixers.config.LightningAttentionConfig`."""

    @property
    def lightning_n_heads(self) -> Size: ...
    @property
    def lightning_head_dim(self) -> Size: ...


class RGLRUDims(Protocol):
    """The `rg_lru` block as the tables read it: see `mixers.config.RGLRUConfig`."""

    @property
    def lru_n_blocks(self) -> Size: ...
    @property
    def lru_block_width(self) -> Size: ...
    @property
    def lru_conv_width(self) -> Size: ...


class RWKVDims(Protocol):
    """The `rwkv` block as the tables read it: see `mixers.config.RWKVConfig`."""

    @property
    def rwkv_inner_size(self) -> Size: ...


class MambaDims(Protocol):
    """The `mamba` block as the tables read it: see `mixers.config.MambaConfig`."""

    @property
    def mamba_inner_size(self) -> Size: ...
    @property
    def mamba_state_dim(self) -> Size: ...
    @property
    def mamba_dt_rank(self) -> Size: ...
    @property
    def mamba_conv_width(self) -> Size: ...
    @property
    def mamba_conv_bias(self) -> bool: ...
    @property
    def mamba_bias(self) -> bool: ...
    @property
    def mamba_norm(self) -> StateNorm: ...


class Mamba2Dims(Protocol):
    """The `mamba2` block as the tables read it: see `mixers.config.Mamba2Config`."""

    @property
    def mamba2_n_heads(self) -> Size: ...
    @property
    def mamba2_head_dim(self) -> Size: ...
    @property
    def mamba2_state_dim(self) -> Size: ...
    @property
    def mamba2_n_groups(self) -> Size: ...
    @property
    def mamba2_conv_width(self) -> Size: ...
    @property
    def mamba2_conv_bias(self) -> bool: ...
    @property
    def mamba2_in_bias(self) -> bool: ...
    @property
    def mamba2_out_bias(self) -> bool: ...
    @property
    def mamba2_norm(self) -> GateNorm: ...


class IndexerDims(Protocol):
    """The `indexer` block as the tables read it: see `blocks.IndexerConfig`."""

    @property
    def n_index_heads(self) -> Size: ...
    @property
    def index_head_dim(self) -> Size: ...
    @property
    def index_top_k(self) -> int: ...
    @property
    def indexer_pattern(self) -> tuple[IndexerUse, ...]: ...


class PartsDims(Protocol):
    """The `counted_parts` block as the tables read it: see `blocks.CountedParts`."""

    @property
    def n_altup_streams(self) -> Size: ...
    @property
    def laurel_rank(self) -> Size: ...
    @property
    def attention_gate_bias(self) -> bool: ...
    @property
    def attention_experts(self) -> bool: ...
    @property
    def last_attention_out_bias(self) -> bool: ...
    @property
    def head_transform(self) -> HeadTransform: ...
    @property
    def no_first_norm(self) -> bool: ...
    @property
    def dynamic_mask(self) -> bool: ...
    @property
    def shortcut_experts(self) -> bool: ...
    @property
    def n_zero_experts(self) -> Size: ...
    @property
    def latent_gate(self) -> LatentGate: ...
    @property
    def gated_norm_rank(self) -> Size: ...
    @property
    def n_hyper_streams(self) -> Size: ...
    @property
    def n_block_index_heads(self) -> Size: ...
    @property
    def block_index_head_dim(self) -> Size: ...
    @property
    def block_index_keys(self) -> int | None: ...
    @property
    def block_indexer_pattern(self) -> tuple[BlockIndexerUse, ...]: ...
    @property
    def n_shared_blocks(self) -> Size: ...
    @property
    def shared_adapter_rank(self) -> Size: ...
    @property
    def shared_attention_adapters(self) -> bool: ...


class Dims(Protocol):
    """The sizes and choices of a model as the tables read them: see `config.ModelConfig`. Sizes may be arrays
    or symbols; choices are plain values."""

    @property
    def dim(self) -> Size: ...
    @property
    def n_layers(self) -> Size: ...
    @property
    def n_heads(self) -> Size: ...
    @property
    def n_kv_heads(self) -> Size: ...
    @property
    def head_dim(self) -> Size: ...
    @property
    def intermediate_size(self) -> Size: ...
    @property
    def vocab_size(self) -> Size: ...
    @property
    def context_length(self) -> Size: ...
    @property
    def position_offset(self) -> Size: ...
    @property
    def embedding_dim(self) -> Size: ...
    @property
    def embedding_width(self) -> Size: ...
    @property
    def active_ffn_width(self) -> Size: ...
    @property
    def n_attention_layers(self) -> Size: ...
    @property
    def n_mixer_layers(self) -> Size: ...
    @property
    def n_mixing_layers(self) -> Size: ...
    @property
    def n_ffn_layers(self) -> Size: ...
    @property
    def value_head_dim(self) -> Size: ...
    @property
    def global_n_heads(self) -> Size: ...
    @property
    def global_n_kv_heads(self) -> Size: ...
    @property
    def global_head_dim(self) -> Size: ...
    @property
    def n_kv_shared_layers(self) -> Size: ...
    @property
    def kv_shared_ffn_factor(self) -> int: ...
    @property
    def per_layer_embedding_dim(self) -> Size: ...
    @property
    def per_layer_vocab_size(self) -> Size: ...
    @property
    def n_local_layers(self) -> Size: ...
    @property
    def n_global_layers(self) -> Size: ...
    @property
    def n_kv_shared_local_layers(self) -> Size: ...
    @property
    def n_kv_shared_global_layers(self) -> Size: ...
    @property
    def n_dense_layers(self) -> Size: ...
    @property
    def n_moe_layers(self) -> Size: ...
    @property
    def n_indexed_layers(self) -> Size: ...
    @property
    def n_block_indexed_layers(self) -> Size: ...

    @property
    def tied(self) -> bool: ...
    @property
    def position(self) -> PositionEncoding: ...
    @property
    def embedding_norm(self) -> bool: ...
    @property
    def norm(self) -> NormType: ...
    @property
    def norm_weight(self) -> bool: ...
    @property
    def norm_bias(self) -> bool: ...
    @property
    def norm_placement(self) -> NormPlacement: ...
    @property
    def mixer_pre_norm(self) -> bool: ...
    @property
    def final_norm(self) -> bool: ...
    @property
    def block(self) -> BlockLayout: ...
    @property
    def qk_norm(self) -> QKNormScope: ...
    @property
    def qk_norm_bias(self) -> bool | None: ...
    @property
    def qk_norm_after_rotation(self) -> bool: ...
    @property
    def value_norm(self) -> bool: ...
    @property
    def sub_norms(self) -> bool: ...
    @property
    def attention_sinks(self) -> bool: ...
    @property
    def attention_gate(self) -> AttentionGate: ...
    @property
    def attention_gate_biased(self) -> bool: ...
    @property
    def attention_gate_activation(self) -> GateActivation: ...
    @property
    def local_sinks(self) -> bool: ...
    @property
    def differential_attention(self) -> bool: ...
    @property
    def global_keys_as_values(self) -> bool: ...
    @property
    def layer_scale(self) -> bool: ...
    @property
    def gated(self) -> bool: ...
    @property
    def channel_mix(self) -> bool: ...
    @property
    def qkv_bias(self) -> bool: ...
    @property
    def attention_out_bias(self) -> bool: ...
    @property
    def ffn_bias(self) -> bool: ...
    @property
    def head_bias(self) -> bool: ...
    @property
    def activation(self) -> ActivationName: ...
    @property
    def ffn_clamp(self) -> float | None: ...
    @property
    def window(self) -> int | None: ...
    @property
    def window_pattern(self) -> tuple[AttentionSpan, ...]: ...
    @property
    def window_kind(self) -> WindowKind: ...
    @property
    def query_scale(self) -> QueryScale: ...
    @property
    def rope_theta_local(self) -> float | None: ...
    @property
    def rotary_pattern(self) -> tuple[RotaryUse, ...]: ...
    @property
    def mixer_pattern(self) -> tuple[LayerMixer, ...]: ...
    @property
    def ffn_pattern(self) -> tuple[FFNUse, ...]: ...
    @property
    def logit_multiplier(self) -> float: ...
    @property
    def logit_softcap(self) -> float | None: ...
    @property
    def embedding_multiplier(self) -> float: ...
    @property
    def residual_multiplier(self) -> float: ...
    @property
    def stream_multiplier(self) -> float: ...
    @property
    def value_multiplier(self) -> float: ...
    @property
    def attention_softcap(self) -> float | None: ...
    @property
    def qkv_clip(self) -> float | None: ...

    # None without the block. A union with Any, so that code for models that have it need not check again.
    @property
    def moe(self) -> MoEDims | Any: ...
    @property
    def mla(self) -> MLADims | Any: ...
    @property
    def indexer(self) -> IndexerDims | Any: ...
    @property
    def counted_parts(self) -> PartsDims | Any: ...
    @property
    def multipliers(self) -> Any: ...
    @property
    def gated_delta_net(self) -> GatedDeltaNetDims | Any: ...
    @property
    def short_convolution(self) -> ShortConvolutionDims | Any: ...
    @property
    def lightning_attention(self) -> LightningAttentionDims | Any: ...
    @property
    def rg_lru(self) -> RGLRUDims | Any: ...
    @property
    def rwkv(self) -> RWKVDims | Any: ...
    @property
    def mamba(self) -> MambaDims | Any: ...
    @property
    def mamba2(self) -> Mamba2Dims | Any: ...


def embedding_width(m: Dims) -> Size:
    """Width of a row of the token embedding, and of what the output head multiplies."""
    return m.dim if m.embedding_dim is None else m.embedding_dim


def active_ffn_width(m: Dims) -> Size:
    """Width of the FFN that one token passes through, in layers with experts that of its experts together."""
    return m.intermediate_size if m.moe is None else m.moe.active_width


def expert_dim(m: Dims) -> Size:
    """Width of what a routed expert takes and gives."""
    return m.dim if m.moe.expert_latent_size is None else m.moe.expert_latent_size


def shared_expert_width(moe: ExpertSizes) -> Size:
    """Width of the shared experts together; 0 without any."""
    own = moe.shared_intermediate_size
    return moe.n_shared_experts * (moe.expert_intermediate_size if own is None else own)


def active_expert_width(moe: ExpertSizes) -> Size:
    """Width of the experts that one token passes through, its routed ones and the shared ones together."""
    return moe.n_experts_per_token * moe.expert_intermediate_size + shared_expert_width(moe)


def can_route(n_experts: Size, n_experts_per_token: Size, n_groups: int, n_groups_per_token: int) -> Size:
    """Whether the groups are equal, and those that a token may use have enough experts for it. An array of
    bools where a size is an array."""
    reachable = n_experts // n_groups * n_groups_per_token
    return (n_groups_per_token <= n_groups) & (n_experts % n_groups == 0) & (n_experts_per_token <= reachable)


def n_attention_layers(m: Dims, n_layers: Size) -> Size:
    """How many of `n_layers` layers have attention."""
    return count_layers(m, n_layers, lambda layer: has_attention(m, layer))


def n_mixer_layers(m: Dims, n_layers: Size) -> Size:
    """How many of `n_layers` layers have a mixer other than attention."""
    return count_layers(m, n_layers, lambda layer: mixer_kind(m, layer) is not None)


def n_mixing_layers(m: Dims, n_layers: Size) -> Size:
    """How many of `n_layers` layers have attention or another mixer."""
    return count_layers(m, n_layers, lambda layer: has_mixing(m, layer))


def n_ffn_layers(m: Dims, n_layers: Size) -> Size:
    """How many of `n_layers` layers have an FFN, experts included."""
    return count_layers(m, n_layers, lambda layer: has_ffn(m, layer))


def n_local_layers(m: Dims, n_layers: Size) -> Size:
    """How many of `n_layers` layers have attention with the window of `m`."""
    return count_layers(m, n_layers, lambda layer: has_attention(m, layer) and is_local(m, layer))


def heads_of(m: Dims, *, local: bool) -> tuple[Size, Size, Size]:
    """The query and key/value heads of layers with a window (`local`) or without: how many, and how wide."""
    if local:
        return m.n_heads, m.n_kv_heads, m.head_dim
    n_heads = m.n_heads if m.global_n_heads is None else m.global_n_heads
    n_kv_heads = m.n_kv_heads if m.global_n_kv_heads is None else m.global_n_kv_heads
    return n_heads, n_kv_heads, m.head_dim if m.global_head_dim is None else m.global_head_dim


def has_local_layers(m: Dims) -> bool:
    """Whether some layers have a window, at any depth: decided by choices alone."""
    return m.window is not None and "local" in m.window_pattern


def has_global_layers(m: Dims) -> bool:
    """Whether some layers have no window, at any depth."""
    return m.window is None or "global" in m.window_pattern


def has_own_global_tensors(m: Dims) -> bool:
    """Whether attention has other tensors in layers without a window than in those with one."""
    sizes = (m.global_n_heads, m.global_n_kv_heads, m.global_head_dim)
    differ = m.global_keys_as_values or m.local_sinks or any(size is not None for size in sizes)
    return differ and has_local_layers(m) and has_global_layers(m)


def value_width(m: Dims, head_dim: Size) -> Size:
    """Width of one head's values in layers whose heads are that wide."""
    return head_dim if m.value_head_dim is None else m.value_head_dim


def n_kv_shared_local_layers(m: Dims, n_layers: Size) -> Size:
    """How many of the last layers, which have no keys of their own, have the window of `m`."""
    if m.window is None or not m.n_kv_shared_layers:
        return 0 * n_layers
    return n_local_layers(m, n_layers) - n_local_layers(m, n_layers - m.n_kv_shared_layers)


def n_kv_shared_global_layers(m: Dims, n_layers: Size) -> Size:
    """How many of the last layers, which have no keys of their own, have no window."""
    return m.n_kv_shared_layers - n_kv_shared_local_layers(m, n_layers)


def n_moe_layers(m: Dims, n_layers: Size) -> Size:
    """How many of `n_layers` layers have experts; none without a `moe` block."""
    return count_layers(m, n_layers, lambda layer: has_experts(m, layer))


def n_indexed_layers(m: Dims, n_layers: Size) -> Size:
    """How many of `n_layers` layers have an indexer of their own; none without an `indexer` block."""
    return count_layers(m, n_layers, lambda layer: has_indexer(m, layer))


def n_block_indexed_layers(m: Dims, n_layers: Size) -> Size:
    """How many of `n_layers` layers have an indexer of blocks."""
    return count_layers(m, n_layers, lambda layer: has_block_indexer(m, layer))


def n_shared_choices(m: Dims, n_layers: Size) -> Size:
    """How many of the indexers of `n_layers` layers choose keys for the layer behind them too."""
    if m.indexer is None:
        return 0 * n_layers
    return count_layers(
        m, n_layers - 1, lambda layer: has_indexer(m, layer) and not has_indexer(m, layer + 1)
    )


def chooses_keys(m: Dims) -> Any:
    """Whether an indexer leaves queries of a full context fewer keys than there are: a bool, or an array
    where the context is one."""
    if m.indexer is not None:
        return m.context_length > m.indexer.index_top_k
    parts = m.counted_parts
    if parts is None or parts.block_index_keys is None:
        return False
    return m.context_length > parts.block_index_keys


def has_dense_layers(m: Dims) -> bool:
    """Whether some layers have one FFN, at any depth: decided by choices alone."""
    return any(has_ffn(m, layer) and not has_experts(m, layer) for layer in repetition(m))


def has_ffn_layers(m: Dims) -> bool:
    """Whether some layers have an FFN, at any depth: decided by choices alone."""
    return "ffn" in m.ffn_pattern


def is_local(m: Dims, layer: int) -> bool:
    """Whether that layer, counted from 0, has the window."""
    return m.window is not None and pattern_at(m.window_pattern, layer) == "local"


def shares_keys(m: Dims, layer: int) -> bool:
    """Whether that layer, counted from 0, uses the keys and values of an earlier one."""
    return m.n_kv_shared_layers > 0 and layer >= int(m.n_layers - m.n_kv_shared_layers)


def lends_keys(m: Dims, layer: int) -> bool:
    """Whether later layers use the keys and values of that layer, counted from 0."""
    if not m.n_kv_shared_layers:
        return False
    first_shared = int(m.n_layers - m.n_kv_shared_layers)
    is_last = all(is_local(m, later) != is_local(m, layer) for later in range(layer + 1, first_shared))
    borrowers = range(first_shared, int(m.n_layers))
    return layer < first_shared and is_last and any(is_local(m, at) == is_local(m, layer) for at in borrowers)


def scales_queries(m: Dims, layer: int) -> bool:
    """Whether the queries of that layer, counted from 0, are scaled by their positions: where some layers
    have rotary positions, those without."""
    has_rotary_layers = m.position == "rotary" and "none" in m.rotary_pattern
    return m.query_scale != "none" and not (has_rotary_layers and is_rotary(m, layer))


def is_rotary(m: Dims, layer: int) -> bool:
    """Whether that layer, counted from 0, has rotary positions."""
    return m.position == "rotary" and pattern_at(m.rotary_pattern, layer) == "rotary"


def has_experts(m: Dims, layer: int) -> bool:
    """Whether that layer, counted from 0, has experts."""
    moe = m.moe
    if moe is None or layer < moe.n_first_dense or not has_ffn(m, layer):
        return False
    return pattern_at(moe.moe_pattern, layer) == "experts"


def has_attention(m: Dims, layer: int) -> bool:
    """Whether that layer, counted from 0, has attention."""
    return "attention" in mixer_words(pattern_at(m.mixer_pattern, layer))


def has_attention_layers(m: Dims) -> bool:
    """Whether some layers have attention, at any depth: decided by choices alone."""
    return "attention" in mixers_of(m.mixer_pattern)


def mixer_kind(m: Dims, layer: int) -> MixerKind | None:
    """The mixer of that layer, counted from 0, if it has another than attention."""
    words = mixer_words(pattern_at(m.mixer_pattern, layer))
    return next((cast(MixerKind, word) for word in words if word not in ("attention", "none")), None)


def has_mixing(m: Dims, layer: int) -> bool:
    """Whether that layer, counted from 0, has attention or another mixer."""
    return pattern_at(m.mixer_pattern, layer) != "none"


def has_ffn(m: Dims, layer: int) -> bool:
    """Whether that layer, counted from 0, has an FFN, experts included."""
    return pattern_at(m.ffn_pattern, layer) == "ffn"


def n_leading_layers(m: Dims) -> int:
    """Layers before the first from which on the kinds repeat."""
    return 0 if m.moe is None else int(m.moe.n_first_dense)


def layer_period(m: Dims) -> int:
    """After how many layers the kinds repeat."""
    patterns: list[tuple[str, ...]] = [m.mixer_pattern, m.ffn_pattern, m.window_pattern, m.rotary_pattern]
    patterns += [m.moe.moe_pattern] if m.moe else []
    patterns += [m.indexer.indexer_pattern] if m.indexer else []
    patterns += [m.counted_parts.block_indexer_pattern] if m.counted_parts else []
    return lcm(*map(len, patterns))


def count_layers(m: Dims, n_layers: Size, has: Callable[[int], bool]) -> Size:
    """How many of the first `n_layers` layers have what `has` says of a layer; elementwise for an array."""
    if isinstance(n_layers, int):
        return sum(has(layer) for layer in range(n_layers))
    first, period = n_leading_layers(m), layer_period(m)
    flags = [has(layer) for layer in repetition(m)]
    if all(flags):
        return n_layers
    if not any(flags):
        return 0 * n_layers
    if hasattr(n_layers, "free_symbols"):  # a formula is of models with all leading layers
        counted, beyond = sum(flags[:first]), n_layers - first
    else:
        counted = sum((n_layers > layer) * 1 for layer in range(first) if flags[layer])
        beyond = (n_layers > first) * (n_layers - first) if first else n_layers  # no max: it may be an array
    repeated = (place for place in range(min(period, len(flags) - first)) if flags[first + place])
    return counted + sum((beyond + (period - 1 - place)) // period for place in repeated)


def repetition(m: Dims) -> range:
    """The leading layers and one repetition of those after them, as far as models are deep."""
    return range(min(n_leading_layers(m) + layer_period(m), MOST_LAYERS))


class LayerTensors(NamedTuple):
    """Which tensors a layer has; each field is named after the number of layers for which that is so."""

    n_attention_layers: bool
    n_mixer_layers: bool
    n_mixing_layers: bool
    n_ffn_layers: bool
    n_dense_layers: bool
    n_moe_layers: bool
    n_indexed_layers: bool


def layer_tensors(m: Dims, layer: int) -> LayerTensors:
    """Which tensors that layer has, counted from 0; layers that differ in nothing else count alike."""
    fed, experts = has_ffn(m, layer), has_experts(m, layer)
    return LayerTensors(
        has_attention(m, layer), mixer_kind(m, layer) is not None, has_mixing(m, layer), fed,
        fed and not experts, experts, has_indexer(m, layer),
    )  # fmt: skip


def has_shared_blocks(m: Dims) -> bool:
    """Whether layers with attention take turns to use a few blocks of attention and an FFN."""
    return m.counted_parts is not None and m.counted_parts.n_shared_blocks is not None


def is_first_use(m: Dims, layer: int) -> bool:
    """Whether the shared block of that layer, counted from 0, is in no earlier layer."""
    earlier = sum(has_attention(m, at) for at in range(layer))
    return bool(earlier < m.counted_parts.n_shared_blocks)


def has_block_indexer(m: Dims, layer: int) -> bool:
    """Whether that layer, counted from 0, has an indexer of blocks."""
    parts = m.counted_parts
    if parts is None or parts.n_block_index_heads is None:
        return False
    return pattern_at(parts.block_indexer_pattern, layer) == "sparse"


def has_indexer(m: Dims, layer: int) -> bool:
    """Whether that layer, counted from 0, has an indexer of its own."""
    return m.indexer is not None and pattern_at(m.indexer.indexer_pattern, layer) == "own"


def mixer_words(word: str) -> list[str]:
    """What mixes tokens in a layer with that word of the pattern: one mixer, or two side by side."""
    return word.split("+")


def mixers_of(pattern: Sequence[str]) -> set[str]:
    """What mixes tokens in some layers of a `mixer_pattern`: attention and others."""
    return {mixer for word in pattern for mixer in mixer_words(word)} - {"none"}


def whole_layer_share(mixer_pattern: Sequence[str], ffn_pattern: Sequence[str]) -> float:
    """How much of a layer with a mixer and an FFN the layers of these patterns are on average: half where
    each has one of the two, as in Mamba."""
    mixing = sum(word != "none" for word in mixer_pattern) / len(mixer_pattern)
    return (mixing + sum(word == "ffn" for word in ffn_pattern) / len(ffn_pattern)) / 2


def is_pattern(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether a value that nobody has validated may be a pattern of layers."""
    return isinstance(value, list | tuple) and bool(value)


def pattern_at(pattern: Sequence[str], layer: int) -> str:
    """The pattern's word for a layer, counted from 0."""
    return pattern[layer % len(pattern)]
