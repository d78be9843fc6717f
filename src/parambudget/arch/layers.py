"""Which layers are alike, how many there are of each kind, and which way their attention is computed."""

from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np

from parambudget.arch.dims import (
    Dims,
    LayerMixer,
    PartsDims,
    Size,
    chooses_keys,
    has_attention,
    has_attention_layers,
    has_experts,
    has_ffn,
    has_global_layers,
    has_indexer,
    has_local_layers,
    has_own_global_tensors,
    heads_of,
    is_local,
    is_rotary,
    layer_period,
    n_leading_layers,
    pattern_at,
    scales_queries,
    shares_keys,
    value_width,
)

AttentionPath = Literal["flash", "masked", "eager"]
"""flash: a fused kernel with its causal flag; masked: a fused kernel with a mask; eager: no kernel of torch's
can do it, so all scores are written to memory."""


@dataclass(frozen=True)
class LayerKind:
    """What makes layers of one model differ."""

    needs_mask: bool
    """Their attention takes a mask, because a causal flag cannot say what a query sees."""
    rotates: bool
    experts: bool
    mixer: LayerMixer = "attention"
    has_ffn: bool = True
    has_indexer: bool = False
    """They have an indexer of their own."""
    local: bool = False
    """Whether they have the heads of layers with a window, in models whose other layers have their own."""
    shares_keys: bool = False
    """Whether they use the keys and values of an earlier layer."""
    scales_queries: bool = False


def layer_kind(m: Dims, layer: int) -> LayerKind:
    """The kind of that layer, counted from 0, of a model of one depth."""
    return _kind_at(m, layer, borrows=shares_keys(m, layer))


def _kind_at(m: Dims, layer: int, *, borrows: bool) -> LayerKind:
    """The same, where it is known whether the layer uses the keys and values of an earlier one."""
    word, fed = pattern_at(m.mixer_pattern, layer), has_ffn(m, layer)
    if not has_attention(m, layer):
        kind = cast(LayerMixer, word)
        return LayerKind(
            needs_mask=False, rotates=False, experts=has_experts(m, layer), mixer=kind, has_ffn=fed
        )
    window = m.window if is_local(m, layer) else None
    return LayerKind(
        needs_mask(m, window), is_rotary(m, layer), has_experts(m, layer), mixer=cast(LayerMixer, word),
        has_ffn=fed, has_indexer=has_indexer(m, layer),
        local=is_local(m, layer) and has_own_global_tensors(m), shares_keys=borrows,
        scales_queries=scales_queries(m, layer),
    )  # fmt: skip


def attention_path(m: Dims, window: int | None) -> AttentionPath:
    """How attention over a full context is computed in layers with that window; None: without one."""
    if uses_eager_attention(m):
        return "eager"
    is_narrow = window is not None and window < int(m.context_length)
    return "masked" if is_narrow or m.position == "alibi" or chooses_keys(m) else "flash"


def needs_mask(m: Dims, window: int | None) -> bool:
    """Whether attention with that window takes a mask: all but a fused kernel with its causal flag does."""
    return attention_path(m, window) != "flash"


def uses_eager_attention(m: Dims) -> bool:
    """Whether the scores have a soft cap or sinks, which are in no kernel of torch's."""
    return m.attention_softcap is not None or m.attention_sinks or m.local_sinks


def layer_kind_counts(m: Dims) -> dict[LayerKind, Size]:
    """How many layers there are of each kind, in the order in which the kinds first appear."""
    first, period = n_leading_layers(m), layer_period(m)
    n_own = m.n_layers - m.n_kv_shared_layers
    kinds = [_kind_at(m, layer, borrows=False) for layer in range(first + period)]
    if len(set(kinds)) == 1 and not m.n_kv_shared_layers:
        return {kinds[0]: m.n_layers}
    counts: dict[LayerKind, Size] = {}
    for layer, kind in enumerate(kinds):
        beyond = n_own - layer
        beyond = max(beyond, 0) if isinstance(beyond, int) else np.maximum(beyond, 0)
        many = (beyond > 0) * 1 if layer < first else (beyond + period - 1) // period
        if np.any(many):
            counts[kind] = counts.get(kind, 0) + many
    # The last layers, which use keys of earlier ones, are of kinds of their own.
    for at in (n_own + i for i in range(m.n_kv_shared_layers)):
        place = np.where(at < first, at, first + (at - first) % period)
        for layer in np.unique(place).tolist():
            kind = _kind_at(m, layer, borrows=True)
            here = (place == layer) * 1 if np.ndim(m.n_layers) else 1
            counts[kind] = counts.get(kind, 0) + here
    return counts


@dataclass(frozen=True)
class LayerPosition:
    """A layer, and how many of each kind come before and after it."""

    layer: Size
    kind: LayerKind
    before: dict[LayerKind, Size]
    after: dict[LayerKind, Size]


def peak_layer_candidates(m: Dims) -> list[LayerPosition]:
    """The layers among which the backward pass needs the most memory, the last layer first.

    From one repetition of the kinds to the next, what is in memory changes by the same amount. So among
    layers that are a whole number of repetitions apart, the peak is at the first or the last.
    """
    counts = layer_kind_counts(m)
    if len(counts) == 1:
        kind, last = next(iter(counts)), m.n_layers - 1
        return [
            LayerPosition(last, kind, {kind: last}, {kind: 0}),
            LayerPosition(0, kind, {kind: 0}, {kind: last}),
        ]
    first, period, n_layers = n_leading_layers(m), layer_period(m), int(m.n_layers)
    order = [layer_kind(m, layer) for layer in range(n_layers)]
    alike: dict[tuple[bool, int, LayerKind], list[int]] = {}
    for layer, kind in enumerate(order):
        alike.setdefault((layer < first, (layer - first) % period, kind), []).append(layer)
    ends = {end for layers in alike.values() for end in (layers[0], layers[-1])} | {0, n_layers - 1}
    before: dict[LayerKind, Size] = {}
    after: dict[LayerKind, Size] = dict(_count_kinds(order))
    positions = []
    for layer, kind in enumerate(order):
        after = {**after, kind: after[kind] - 1}
        if layer in ends:
            positions.append(LayerPosition(layer, kind, before, after))
        before = {**before, kind: before.get(kind, 0) + 1}
    return positions[::-1]


@dataclass(frozen=True)
class AttentionKind:
    """One row: a kind of attention that stands in `copies` layers."""

    name: str
    copies: Size
    n_heads: Size
    """Query heads: each has scores of its own."""
    qk_dim: Size
    """Elements of one head's query and key."""
    v_dim: Size
    """Elements of one head's value."""
    cached: Size
    """Elements that one layer caches per token during generation."""
    window: int | None = None
    """Keys that a query sees at most, its own included; None: all up to its own."""
    chunked: bool = False
    """Whether they are those since the last multiple of the window."""
    top_k: int | None = None
    """Keys that a query attends to at most, chosen among those that it sees; None: all of them."""
    trained: bool = True
    """Whether gradients pass through it; an indexer runs forward only, where the context has more keys than
    it chooses."""

    @property
    def most_keys(self) -> int | None:
        """Keys that a query is scored against at most; None: all up to its own."""
        return self.window if self.top_k is None else self.top_k

    @property
    def score_width(self) -> Size:
        """Multiply-adds of all layers per pair of query and key, forward: scores and weighted values."""
        return self.copies * self.n_heads * (self.qk_dim + self.v_dim)


def attention_kinds(m: Dims) -> list[AttentionKind]:
    """The kinds of attention in `m`. Layers with and without positions are one kind: a rotation is not a
    matmul and caches nothing."""
    rows: list[AttentionKind] = []
    if not has_attention_layers(m):
        return rows
    if m.indexer is not None:
        # What a pair takes in each head: the product of query and key, and its share in the sum over heads.
        of_heads = (m.indexer.n_index_heads, m.indexer.index_head_dim, 1, m.indexer.index_head_dim)
        rows.append(AttentionKind("indexer", m.n_indexed_layers, *of_heads, trained=False))
    parts = m.counted_parts
    if parts is not None and parts.n_block_index_heads is not None:
        return rows + _kinds_with_blocks(m, parts)
    if has_local_layers(m):
        rows += _attention_kind(m, m.n_local_layers, m.n_kv_shared_local_layers, m.window)
    if has_global_layers(m):
        rows += _attention_kind(m, m.n_global_layers, m.n_kv_shared_global_layers, None)
    return rows


def _kinds_with_blocks(m: Dims, parts: PartsDims) -> list[AttentionKind]:
    """An indexer of blocks, attention to the keys in the blocks that it chooses, and attention to all keys.
    The block of the query itself, which is chosen always, counts as if it were full."""
    sparse, width = m.n_block_indexed_layers, parts.block_index_head_dim
    indexer = AttentionKind(
        "block indexer", sparse, parts.n_block_index_heads, width, 0, width, trained=False
    )
    (kind,) = _attention_kind(m, m.n_global_layers, m.n_kv_shared_global_layers, None)
    chosen = replace(kind, name="sparse attention", copies=sparse, top_k=parts.block_index_keys)
    return [indexer, chosen, replace(kind, copies=kind.copies - sparse)]


def _attention_kind(m: Dims, copies: Size, n_shared: Size, window: int | None) -> list[AttentionKind]:
    """The attention of layers with that window, and apart from it that of those among them that use the keys
    of earlier layers, and cache none."""
    n_heads, n_kv_heads, head_dim = heads_of(m, local=window is not None)
    if m.mla is not None:
        name, v_dim = "latent attention", m.mla.v_head_dim
        head_dim = m.mla.qk_nope_head_dim + m.mla.qk_rope_head_dim
        cached = m.mla.kv_lora_rank + m.mla.qk_rope_head_dim
    else:
        name, v_dim = "attention", value_width(m, head_dim)
        cached = n_kv_heads * (head_dim + v_dim)
        if m.differential_attention:
            v_dim = 2 * v_dim  # each head has the values of two
    chunked = window is not None and m.window_kind == "chunked"
    name = name if window is None else f"local {name}"
    if not m.n_kv_shared_layers:
        top_k = None if m.indexer is None else m.indexer.index_top_k
        return [AttentionKind(name, copies, n_heads, head_dim, v_dim, cached, window, chunked, top_k)]
    return [
        AttentionKind(name, copies - n_shared, n_heads, head_dim, v_dim, cached, window, chunked),
        AttentionKind(f"{name} with earlier keys", n_shared, n_heads, head_dim, v_dim, 0, window, chunked),
    ]


def _count_kinds(order: list[LayerKind]) -> dict[LayerKind, Size]:
    return {kind: order.count(kind) for kind in dict.fromkeys(order)}
