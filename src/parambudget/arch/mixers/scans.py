"""What a mixer other than attention computes with its state, and what it keeps of earlier tokens.

FLOPs are those of the recurrence: one multiply-add for every product of an element of the state that is
summed or added to the state. Scaling the state by its decay is element-wise and not counted, as the softmax
of attention is not. A chunked form, which GPUs run, computes more (docs/counting.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

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
from parambudget.arch.mixers.rows import model_mixer


@dataclass(frozen=True)
class Scan:
    """The recurrence of all layers with a mixer."""

    name: str
    copies: Size
    """Layers."""
    multiply_adds: Size
    """Of one layer, per token, forward."""
    state: Size
    """Elements that one layer keeps of a sequence of any length, in float32."""
    convolved: Size
    """Elements of the last inputs of its convolution or its mixes with the token before, in the precision of
    the cache."""


def mixer_scan(m: Dims) -> Scan | None:
    """The recurrence of the model's mixer; None for a model of attention alone."""
    kind = model_mixer(m)
    return None if kind is None else _SCANS[kind](m, getattr(m, kind))


def scan_multiply_adds(m: Dims) -> Size:
    """Multiply-adds of all layers' recurrences, per token, forward."""
    scan = mixer_scan(m)
    return 0 if scan is None else scan.copies * scan.multiply_adds


def _gated_delta_net(m: Dims, net: GatedDeltaNetDims) -> Scan:
    """What the state holds for a key is read, corrected, and read for the query."""
    state = net.delta_n_value_heads * net.delta_key_dim * net.delta_value_dim
    keys = net.delta_n_key_heads * net.delta_key_dim
    channels = 2 * keys + net.delta_n_value_heads * net.delta_value_dim
    kept = channels * (net.delta_conv_width - 1)
    return Scan("gated delta net", m.n_mixer_layers, 3 * state, state, kept)


def _short_convolution(m: Dims, conv: ShortConvolutionDims) -> Scan:
    """It keeps nothing but the tokens that the convolution sees."""
    return Scan("short convolution", m.n_mixer_layers, 0, 0, m.dim * (conv.short_conv_width - 1))


def _lightning_attention(m: Dims, attention: LightningAttentionDims) -> Scan:
    """A key's value is added to the state, which is read for the query."""
    state = attention.lightning_n_heads * attention.lightning_head_dim * attention.lightning_head_dim
    return Scan("lightning attention", m.n_mixer_layers, 2 * state, state, 0)


def _rg_lru(m: Dims, lru: RGLRUDims) -> Scan:
    """The state is scaled and added to, element by element."""
    channels = lru.lru_n_blocks * lru.lru_block_width
    return Scan("RG-LRU", m.n_mixer_layers, 0, channels, channels * (lru.lru_conv_width - 1))


def _rwkv(m: Dims, rwkv: RWKVDims) -> Scan:
    """A sum of weighted values, one of their weights, and the largest exponent, by which both are scaled: all
    element by element."""
    return Scan("WKV", m.n_mixer_layers, 0, 3 * rwkv.rwkv_inner_size, m.dim)


def _mamba(m: Dims, mamba: MambaDims) -> Scan:
    """Each channel's input is written into its state, and the state is read."""
    state = mamba.mamba_inner_size * mamba.mamba_state_dim
    kept = mamba.mamba_inner_size * (mamba.mamba_conv_width - 1)
    return Scan("mamba", m.n_mixer_layers, 2 * state, state, kept)


def _mamba2(m: Dims, mamba: Mamba2Dims) -> Scan:
    """The same; the channels of a head share what they write and read with."""
    inner = mamba.mamba2_n_heads * mamba.mamba2_head_dim
    state = inner * mamba.mamba2_state_dim
    channels = inner + 2 * mamba.mamba2_n_groups * mamba.mamba2_state_dim
    return Scan("mamba-2", m.n_mixer_layers, 2 * state, state, channels * (mamba.mamba2_conv_width - 1))


_SCANS: Final[dict[MixerKind, Callable[..., Scan]]] = {
    "gated_delta_net": _gated_delta_net, "short_convolution": _short_convolution,
    "lightning_attention": _lightning_attention, "rg_lru": _rg_lru,
    "rwkv": _rwkv, "mamba": _mamba, "mamba2": _mamba2,
}  # fmt: skip
