"""The operations of a mixer other than attention, in sizes: its projections one by one, its scan as one.

What a scan saves follows from the sizes linearly; the coefficients were measured on the plain torch modules
of `nn.mixers`, storage by storage, and tests hold the sum to 3 %. A compiled pass is taken to save as
much.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from parambudget.arch.dims import (
    Dims,
    GatedDeltaNetDims,
    LightningAttentionDims,
    Mamba2Dims,
    MambaDims,
    MixerKind,
    RGLRUDims,
    RWKVDims,
    ShortConvolutionDims,
    Size,
)
from parambudget.arch.mixers.rows import mixer_rows, model_mixer
from parambudget.arch.table import Tensor
from parambudget.cost.memory.graph import Activation, Op, OpGraph
from parambudget.cost.step import FLOAT32

CHUNK: Final = 64
"""Tokens that the plain torch scans compute together."""
MAMBA_CHUNK: Final = 256
"""Tokens from one saved state of Mamba to the next."""


@dataclass(frozen=True)
class ScanActivations:
    """What a mixer saves for its backward pass between its projections, in elements per token."""

    convolved: Size
    """In the precision of matmuls: around the convolution, and gates."""
    scanned: Size
    """In float32: of the scan itself."""


def mixer_branch(graph: OpGraph, m: Dims, name: str, x: Activation) -> Activation:
    """The output of the mixer of a layer."""
    *inner, last = projections = _projections(m)
    outputs = [_project(graph, m, name, x, row) for row in inner]
    # A bias stands with its matrix; kernels, norms and what is learned beside them with the scan.
    known = {row.name for row in projections} | _biases(m)
    others = [row for row in mixer_rows(m) if row.name not in known]
    saved, precision = scan_activations(m), graph.backend.matmul_bytes
    convolved, scanned = Activation(saved.convolved, precision), Activation(saved.scanned, FLOAT32)
    between = graph.record(
        Op(
            name, tuple(outputs), Activation(last.shape[1], precision),
            saved=(("convolved", convolved), ("scanned", scanned)), scratch_bytes=scanned.bytes / 2,
            other_parameters=sum(prod(row.shape) for row in others),
        )
    )  # fmt: skip
    return graph.linear(f"{name}.out", between, m.dim, bias=_has_bias(m, last))


def scan_activations(m: Dims) -> ScanActivations:
    """What the model's mixer saves in one layer."""
    kind = model_mixer(m)
    assert kind is not None, "only layers with a mixer are asked for"
    return _SCANS[kind](m, getattr(m, kind))


def _project(graph: OpGraph, m: Dims, name: str, x: Activation, row: Tensor) -> Activation:
    """A projection of the layer's input, or of something as wide as the row's input."""
    out, into = row.shape
    source = x
    if not np.array_equal(into, x.elements):
        source = graph.record(Op(name, (x,), Activation(into, graph.backend.matmul_bytes)))
    place = f"{name}.{row.name.split('.')[-2]}"
    return graph.linear(place, source, out, bias=_has_bias(m, row))


def _projections(m: Dims) -> list[Tensor]:
    """The matrices; those of blocks of channels belong to the scan."""
    return [row for row in mixer_rows(m) if row.role == "matmul" and len(row.shape) == 2]


def _has_bias(m: Dims, row: Tensor) -> bool:
    return _bias_of(row) in _biases(m)


def _bias_of(row: Tensor) -> str:
    return f"{row.name.removesuffix('weight')}bias"


def _biases(m: Dims) -> set[str]:
    """The names of the biases of matrices."""
    return {_bias_of(row) for row in _projections(m)} & {row.name for row in mixer_rows(m)}


def _short_convolution(m: Dims, _: ShortConvolutionDims) -> ScanActivations:
    return ScanActivations(5 * m.dim, 0)


def _lightning_attention(_: Dims, attention: LightningAttentionDims) -> ScanActivations:
    n_heads, width = attention.lightning_n_heads, attention.lightning_n_heads * attention.lightning_head_dim
    states = width * attention.lightning_head_dim / CHUNK
    return ScanActivations(3 * width, 9.5 * width + n_heads * CHUNK + states)


def _rg_lru(_: Dims, lru: RGLRUDims) -> ScanActivations:
    channels = lru.lru_n_blocks * lru.lru_block_width
    return ScanActivations(5 * channels, 28.5 * channels)


def _rwkv(m: Dims, rwkv: RWKVDims) -> ScanActivations:
    """Each projection reads a mix of its own of the token and the one before it."""
    return ScanActivations(4 * m.dim + rwkv.rwkv_inner_size, 13 * rwkv.rwkv_inner_size)


def _gated_delta_net(_: Dims, net: GatedDeltaNetDims) -> ScanActivations:
    n_heads = net.delta_n_value_heads
    keys, values = n_heads * net.delta_key_dim, n_heads * net.delta_value_dim
    of_groups = net.delta_n_key_heads * net.delta_key_dim
    states = keys * net.delta_value_dim / CHUNK
    if net.delta_channel_decay:
        scanned = 2 * of_groups + 57.5 * keys + 6 * values + 137 * n_heads + states
    else:
        scanned = 2 * of_groups + 9.5 * keys + 7 * values + n_heads * (5 * CHUNK + 10) + states
    return ScanActivations(4 * of_groups + 4 * values, scanned)


def _mamba(_: Dims, mamba: MambaDims) -> ScanActivations:
    """The states are computed again, from those before each chunk. Of what the layer projects, what steps, B
    and C are projected from is saved once and not thrice."""
    inner, state = mamba.mamba_inner_size, mamba.mamba_state_dim
    norms = 0 if mamba.mamba_norm == "none" else 2 * mamba.mamba_dt_rank + 4 * state
    return ScanActivations(3 * inner, 5 * inner + 2 * state + norms + inner * state / MAMBA_CHUNK)


def _mamba2(_: Dims, mamba: Mamba2Dims) -> ScanActivations:
    n_heads, n_groups = mamba.mamba2_n_heads, mamba.mamba2_n_groups
    inner, of_groups = n_heads * mamba.mamba2_head_dim, n_groups * mamba.mamba2_state_dim
    pairs = (2 * n_heads + n_groups) * CHUNK
    states = 2 * inner * mamba.mamba2_state_dim / CHUNK
    scaled = 0 if mamba.mamba2_norm == "none" else 2 * inner
    return ScanActivations(2 * inner + 4 * of_groups, 8 * inner + scaled + 6 * of_groups + pairs + states)


_SCANS: Final[dict[MixerKind, Callable[..., ScanActivations]]] = {
    "gated_delta_net": _gated_delta_net, "short_convolution": _short_convolution,
    "lightning_attention": _lightning_attention, "rg_lru": _rg_lru,
    "rwkv": _rwkv, "mamba": _mamba, "mamba2": _mamba2,
}  # fmt: skip
