"""Every kind of attention layer: what its scores cost and what it caches, which no parameter stands behind.

The second table of a model, in the spirit of `arch.tensors`: FLOPs, the KV cache and the throughput are
readings of it. Sizes may be ints, NumPy arrays or SymPy symbols here too.
"""

from dataclasses import dataclass

from parambudget.arch.dims import Dims, Size


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
