"""Which layers are alike, how many there are of each kind, and which way their attention is computed."""

from dataclasses import dataclass
from math import lcm
from typing import Literal

import numpy as np

from parambudget.arch.dims import Dims, Size, has_experts, is_local, is_rotary

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


def layer_kind(m: Dims, layer: int) -> LayerKind:
    """The kind of that layer, counted from 0."""
    window = m.window if is_local(m, layer) else None
    return LayerKind(needs_mask(m, window), is_rotary(m, layer), has_experts(m.moe, layer))


def attention_path(m: Dims, window: int | None) -> AttentionPath:
    """How attention over a full context is computed in layers with that window; None: without one."""
    if uses_eager_attention(m):
        return "eager"
    is_narrow = window is not None and window < int(m.context_length)
    return "masked" if is_narrow or m.position == "alibi" else "flash"


def needs_mask(m: Dims, window: int | None) -> bool:
    """Whether attention with that window takes a mask: all but a fused kernel with its causal flag does."""
    return attention_path(m, window) != "flash"


def uses_eager_attention(m: Dims) -> bool:
    """Whether the scores have a soft cap or sinks, which are in no kernel of torch's."""
    return m.attention_softcap is not None or m.attention_sinks


def layer_kind_counts(m: Dims) -> dict[LayerKind, Size]:
    """How many layers there are of each kind, in the order in which the kinds first appear."""
    first, period = _n_leading_layers(m), _period(m)
    if len({layer_kind(m, layer) for layer in range(first + period)}) == 1:
        return {layer_kind(m, 0): m.n_layers}
    counts: dict[LayerKind, Size] = {}
    for layer in range(first + period):
        beyond = m.n_layers - layer
        beyond = max(beyond, 0) if isinstance(beyond, int) else np.maximum(beyond, 0)
        many = (beyond > 0) * 1 if layer < first else (beyond + period - 1) // period
        if np.any(many):
            kind = layer_kind(m, layer)
            counts[kind] = counts.get(kind, 0) + many
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
    first, period, n_layers = _n_leading_layers(m), _period(m), int(m.n_layers)
    order = [layer_kind(m, layer) for layer in range(n_layers)]
    alike: dict[tuple[bool, int, LayerKind], list[int]] = {}
    for layer, kind in enumerate(order):
        alike.setdefault((layer < first, (layer - first) % period, kind), []).append(layer)
    ends = {end for layers in alike.values() for end in (layers[0], layers[-1])} | {0, n_layers - 1}
    return [
        LayerPosition(layer, order[layer], _count_kinds(order[:layer]), _count_kinds(order[layer + 1 :]))
        for layer in sorted(ends, reverse=True)
    ]


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

    @property
    def score_width(self) -> Size:
        """Multiply-adds of all layers per pair of query and key, forward: scores and weighted values."""
        return self.copies * self.n_heads * (self.qk_dim + self.v_dim)


def attention_kinds(m: Dims) -> list[AttentionKind]:
    """The kinds of attention in `m`. Layers with and without positions are one kind: a rotation is not a
    matmul and caches nothing."""
    if m.mla is not None:
        name, v_dim = "latent attention", m.mla.v_head_dim
        qk_dim = m.mla.qk_nope_head_dim + m.mla.qk_rope_head_dim
        cached = m.mla.kv_lora_rank + m.mla.qk_rope_head_dim
    else:
        name, qk_dim, v_dim = "attention", m.head_dim, m.head_dim
        cached = 2 * m.n_kv_heads * m.head_dim
    rows = []
    if m.window is not None and "local" in m.window_pattern:
        sizes = (m.n_heads, qk_dim, v_dim, cached, m.window)
        rows.append(AttentionKind(f"local {name}", m.n_local_layers, *sizes))
    if m.window is None or "global" in m.window_pattern:
        rows.append(AttentionKind(name, m.n_global_layers, m.n_heads, qk_dim, v_dim, cached))
    return rows


def _n_leading_layers(m: Dims) -> int:
    """Layers before the first from which on the kinds repeat."""
    return 0 if m.moe is None else int(m.moe.n_first_dense)


def _period(m: Dims) -> int:
    """After how many layers the kinds repeat."""
    return lcm(len(m.window_pattern), len(m.rotary_pattern), len(m.moe.moe_pattern) if m.moe else 1)


def _count_kinds(order: list[LayerKind]) -> dict[LayerKind, Size]:
    return {kind: order.count(kind) for kind in dict.fromkeys(order)}
