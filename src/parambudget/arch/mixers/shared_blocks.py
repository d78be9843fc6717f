"""Blocks of attention and an FFN that layers with state spaces take turns to use: their rows in the table.

Such a layer computes its block, projects what comes out, and adds it to the input of its mixer. All uses of a
block have the same weights, and adapters of their own.

Source: Glorioso et al. 2024 (Zamba), arXiv 2405.16712, and (Zamba2), arXiv 2411.15242, as in the classes
ZambaModel and Zamba2Model of transformers.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from parambudget.arch.dims import Dims, PartsDims, Size, has_shared_blocks
from parambudget.arch.table import Component, LayerGroup, Tensor, linear_rows

_OF_A_BLOCK: Final[tuple[LayerGroup, ...]] = ("attention", "ffn", "dense")
"""The groups of layers whose tensors are those of a block."""


def attention_input_width(m: Dims) -> Size:
    """Width of what queries, keys and values are projected from: in shared blocks that of the stream and the
    embedding side by side."""
    return 2 * m.dim if has_shared_blocks(m) else m.dim


def share_between_layers(rows: Sequence[Tensor], parts: PartsDims) -> list[Tensor]:
    """The rows, with tensors of each block once, and their later uses as other names of them."""
    shared = []
    for row in rows:
        if row.layers not in _OF_A_BLOCK:
            shared.append(row)
            continue
        n_blocks = parts.n_shared_blocks
        shared.append(replace(row, copies=n_blocks, layers="first_uses"))
        shared.append(replace(row, copies=row.copies - n_blocks, layers="later_uses", shared_with=row.name))
    return shared


def adapter_rows(m: Dims, parts: PartsDims) -> list[Tensor]:
    """What each use of a block has of its own."""
    rows = _linear(m, "ffn.shared_out", "ffn", m.dim, m.dim)
    if parts.shared_adapter_rank is None:
        return rows
    rank, width = parts.shared_adapter_rank, attention_input_width(m)
    if parts.shared_attention_adapters:
        for name in ("q", "k", "v"):
            rows += _linear(m, f"attention.{name}_adapter_down", "attention", rank, width)
            rows += _linear(m, f"attention.{name}_adapter_up", "attention", width, rank)
    rows += _linear(m, "ffn.adapter_down", "ffn", rank, m.dim)
    projections = ("gate", "up") if m.gated else ("up",)
    for name in projections:
        rows += _linear(m, f"ffn.{name}_adapter_up", "ffn", m.intermediate_size, rank)
    return rows


def _linear(m: Dims, name: str, component: Component, out: Size, into: Size) -> list[Tensor]:
    place = f"layers.*.{name}"
    return linear_rows(place, component, out, into, m.n_attention_layers, bias=False, layers="attention")
