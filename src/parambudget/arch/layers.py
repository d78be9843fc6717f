"""Which layers are alike: kinds of layers by what they do differently, and how many there are of each."""

from dataclasses import dataclass
from math import lcm

import numpy as np

from parambudget.arch.config import word_of
from parambudget.arch.dims import Dims, Size


@dataclass(frozen=True)
class Kind:
    """What sets layers of one model apart."""

    masked: bool
    """Their attention takes a mask: a causal flag would not say what they see."""
    rotates: bool
    experts: bool


def kind_of(m: Dims, layer: int) -> Kind:
    """The kind of that layer, counted from 0."""
    local = m.window is not None and word_of(m.window_pattern, layer) == "local"
    rotates = m.position == "rotary" and word_of(m.rotary_pattern, layer) == "rotary"
    experts = m.moe is not None and layer >= m.moe.n_first_dense
    experts = experts and word_of(m.moe.moe_pattern, layer) == "experts"
    return Kind(masked(m, m.window if local else None), rotates, experts)


def masked(m: Dims, window: int | None) -> bool:
    """Whether attention with that window takes a mask: a causal flag would not say what its queries see."""
    narrow = window is not None and window < int(m.context_length)
    return narrow or m.position == "alibi" or written_out(m)


def written_out(m: Dims) -> bool:
    """Whether no kernel of torch's computes the scores: the trainer writes all of them down."""
    return m.attention_softcap is not None or m.attention_sinks


def first_regular(m: Dims) -> int:
    """The layer from which on the kinds follow each other again and again."""
    return 0 if m.moe is None else int(m.moe.n_first_dense)


def period(m: Dims) -> int:
    """After so many layers the kinds repeat."""
    patterns = [m.window_pattern, m.rotary_pattern, *([m.moe.moe_pattern] if m.moe else [])]
    return lcm(*(len(pattern) for pattern in patterns))


def kinds(m: Dims) -> dict[Kind, Size]:
    """How many layers there are of each kind, in the order in which they come first."""
    first, each = first_regular(m), period(m)
    if len({kind_of(m, layer) for layer in range(first + each)}) == 1:
        return {kind_of(m, 0): m.n_layers}
    found: dict[Kind, Size] = {}
    for layer in range(first + each):
        beyond = m.n_layers - layer
        beyond = max(beyond, 0) if isinstance(beyond, int) else np.maximum(beyond, 0)
        many = (beyond > 0) * 1 if layer < first else (beyond + each - 1) // each
        if np.any(many):
            found[kind_of(m, layer)] = found.get(kind_of(m, layer), 0) + many
    return found


@dataclass(frozen=True)
class Place:
    """A layer, and those before and behind it."""

    layer: Size
    kind: Kind
    before: dict[Kind, Size]
    behind: dict[Kind, Size]


def places(m: Dims) -> list[Place]:
    """The layers of which one holds the most in the backward pass, the last one first.

    What is held changes by the same amount from one repetition of the kinds to the next: so it is most at the
    first or the last of the layers that are a whole number of repetitions apart.
    """
    counted = kinds(m)
    if len(counted) == 1:
        kind, last = next(iter(counted)), m.n_layers - 1
        return [Place(last, kind, {kind: last}, {kind: 0}), Place(0, kind, {kind: 0}, {kind: last})]
    first, each, n_layers = first_regular(m), period(m), int(m.n_layers)
    order = [kind_of(m, layer) for layer in range(n_layers)]
    of: dict[tuple[bool, int, Kind], list[int]] = {}
    for layer, kind in enumerate(order):
        of.setdefault((layer < first, (layer - first) % each, kind), []).append(layer)
    chosen = {end for layers in of.values() for end in (layers[0], layers[-1])} | {0, n_layers - 1}
    return [
        Place(layer, order[layer], _counted(order[:layer]), _counted(order[layer + 1 :]))
        for layer in sorted(chosen, reverse=True)
    ]


def _counted(order: list[Kind]) -> dict[Kind, Size]:
    return {kind: order.count(kind) for kind in dict.fromkeys(order)}


@dataclass(frozen=True)
class Mixer:
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
    """Elements that one layer keeps per token while it generates."""
    window: int | None = None
    """Keys that a query sees at most, its own the last; None: all before it."""

    @property
    def score_width(self) -> Size:
        """Multiply-adds of all layers per pair of query and key, forward: scores and weighted values."""
        return self.copies * self.n_heads * (self.qk_dim + self.v_dim)


def mixers(m: Dims) -> list[Mixer]:
    """The kinds of attention in `m`. Layers with and without positions are one: a rotation is no matmul and
    caches nothing."""
    if m.mla is not None:
        name, v_dim = "latent attention", m.mla.v_head_dim
        qk_dim = m.mla.qk_nope_head_dim + m.mla.qk_rope_head_dim
        cached = m.mla.kv_lora_rank + m.mla.qk_rope_head_dim
    else:
        name, qk_dim, v_dim = "attention", m.head_dim, m.head_dim
        cached = 2 * m.n_kv_heads * m.head_dim
    rows = []
    if m.window is not None and "local" in m.window_pattern:
        rows.append(Mixer(f"local {name}", m.n_local_layers, m.n_heads, qk_dim, v_dim, cached, m.window))
    if m.window is None or "global" in m.window_pattern:
        rows.append(Mixer(name, m.n_global_layers, m.n_heads, qk_dim, v_dim, cached))
    return rows
