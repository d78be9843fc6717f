"""What the tables read of a model, and the sizes that follow from others.

A size may be an int, a NumPy array or a SymPy symbol, so `ModelConfig` and what `arch.sizes.with_sizes`
returns are both `Dims`. Each derived size has its formula here, once; both offer it as a property.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

PositionEncoding = Literal["rotary", "learned", "alibi", "none"]
NormType = Literal["rmsnorm", "layernorm"]
NormPlacement = Literal["pre", "post", "reordered", "sandwich"]
BlockLayout = Literal["sequential", "parallel", "parallel_shared_norm"]
QKNormScope = Literal["none", "head", "per_head", "full"]
ActivationName = Literal["silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2"]
AttentionSpan = Literal["local", "global"]
RotaryUse = Literal["rotary", "none"]
RopeType = Literal["none", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional"]
RouterScores = Literal["softmax", "sigmoid"]
FFNKind = Literal["dense", "experts"]

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
    def norm_expert_weights(self) -> bool: ...
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
    def n_local_layers(self) -> Size: ...
    @property
    def n_global_layers(self) -> Size: ...
    @property
    def n_dense_layers(self) -> Size: ...
    @property
    def n_moe_layers(self) -> Size: ...

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
    def final_norm(self) -> bool: ...
    @property
    def block(self) -> BlockLayout: ...
    @property
    def qk_norm(self) -> QKNormScope: ...
    @property
    def qk_norm_bias(self) -> bool | None: ...
    @property
    def attention_sinks(self) -> bool: ...
    @property
    def gated(self) -> bool: ...
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
    def rope_theta_local(self) -> float | None: ...
    @property
    def rotary_pattern(self) -> tuple[RotaryUse, ...]: ...
    @property
    def logit_multiplier(self) -> float: ...
    @property
    def logit_softcap(self) -> float | None: ...
    @property
    def embedding_multiplier(self) -> float: ...
    @property
    def residual_multiplier(self) -> float: ...
    @property
    def attention_softcap(self) -> float | None: ...
    @property
    def qkv_clip(self) -> float | None: ...

    # None without the block. A union with Any, so that code for models that have it need not check again.
    @property
    def moe(self) -> MoEDims | Any: ...
    @property
    def mla(self) -> MLADims | Any: ...


def embedding_width(m: Dims) -> Size:
    """Width of a row of the token embedding, and of what the output head multiplies."""
    return m.dim if m.embedding_dim is None else m.embedding_dim


def active_ffn_width(m: Dims) -> Size:
    """Width of the FFN that one token passes through, in layers with experts that of its experts together."""
    return m.intermediate_size if m.moe is None else m.moe.active_width


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


def n_local_layers(m: Dims, n_layers: Size) -> Size:
    """How many of `n_layers` layers have the window of `m`."""
    return 0 * n_layers if m.window is None else pattern_count(m.window_pattern, "local", n_layers)


def n_moe_layers(moe: MoEDims | None, n_layers: Size) -> Size:
    """How many of `n_layers` layers have experts; none without a `moe` block."""
    if moe is None:
        return 0 * n_layers
    if not has_dense_layers(moe):
        return n_layers
    # No min: what stands for n_layers may be an array.
    fewer = n_layers < moe.n_first_dense
    first = moe.n_first_dense * (1 - fewer) + n_layers * fewer
    pattern = moe.moe_pattern
    return pattern_count(pattern, "experts", n_layers) - pattern_count(pattern, "experts", first)


def has_dense_layers(moe: MoEDims | None) -> bool:
    """Whether some layers have one FFN, at any depth: decided by choices alone."""
    return moe is None or moe.n_first_dense > 0 or "dense" in moe.moe_pattern


def is_local(m: Dims, layer: int) -> bool:
    """Whether that layer, counted from 0, has the window."""
    return m.window is not None and pattern_at(m.window_pattern, layer) == "local"


def is_rotary(m: Dims, layer: int) -> bool:
    """Whether that layer, counted from 0, has rotary positions."""
    return m.position == "rotary" and pattern_at(m.rotary_pattern, layer) == "rotary"


def has_experts(moe: MoEDims | None, layer: int) -> bool:
    """Whether that layer, counted from 0, has experts."""
    return moe is not None and layer >= moe.n_first_dense and pattern_at(moe.moe_pattern, layer) == "experts"


def pattern_at(pattern: Sequence[str], layer: int) -> str:
    """The pattern's word for a layer, counted from 0."""
    return pattern[layer % len(pattern)]


def pattern_count(pattern: Sequence[str], word: str, n_layers: Size) -> Size:
    """For how many of the first `n_layers` layers the pattern has that word; elementwise for an array."""
    if word not in pattern:
        return 0 * n_layers
    if set(pattern) == {word}:
        return n_layers
    period = len(pattern)
    return sum((n_layers + (period - 1 - i)) // period for i in range(period) if pattern[i] == word)
