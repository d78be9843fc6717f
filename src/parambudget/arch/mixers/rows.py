"""The rows of mixers other than attention in the table of tensors."""

from collections.abc import Callable
from typing import Final, cast

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
    mixers_of,
)
from parambudget.arch.table import Role, Tensor, linear_rows

PLACE: Final = "layers.*.mixer"


def mixer_rows(m: Dims) -> list[Tensor]:
    """The tensors of the mixer that stands in some layers in place of attention, if there is one."""
    kind = model_mixer(m)
    return [] if kind is None else _ROWS[kind](m, getattr(m, kind))


def model_mixer(m: Dims) -> MixerKind | None:
    """The mixer other than attention of the model's layers; a model has one kind at most."""
    named = mixers_of(m.mixer_pattern)
    return next((kind for kind in _ROWS if kind in named), None)


def _linear(m: Dims, name: str, out: Size, into: Size, *, bias: bool = False) -> list[Tensor]:
    return linear_rows(f"{PLACE}.{name}", "mixer", out, into, m.n_mixer_layers, bias=bias, layers="mixer")


def _vector(m: Dims, name: str, *shape: Size) -> Tensor:
    """Learned numbers that are neither a matrix nor a norm."""
    return Tensor(f"{PLACE}.{name}", shape, "bias", "mixer", m.n_mixer_layers, layers="mixer")


def _convolution(m: Dims, name: str, channels: Size, width: Size, *, bias: bool = False) -> list[Tensor]:
    """A kernel for every channel."""
    place = f"{PLACE}.{name}"
    shape, copies = (channels, width), m.n_mixer_layers
    rows = [Tensor(f"{place}.weight", shape, "convolution", "mixer", copies, layers="mixer")]
    return [*rows, _vector(m, f"{name}.bias", channels)] if bias else rows


def _norm(m: Dims, name: str, width: Size) -> Tensor:
    """A norm within a mixer; it has a scale whatever the norms of the stream have."""
    place = f"{PLACE}.{name}.weight"
    return Tensor(place, (width,), "norm", "norm", m.n_mixer_layers, layers="mixer")


def _gated_delta_net(m: Dims, net: GatedDeltaNetDims) -> list[Tensor]:
    keys = net.delta_n_key_heads * net.delta_key_dim
    values = net.delta_n_value_heads * net.delta_value_dim
    rows = []
    for name, out in (("q", keys), ("k", keys), ("v", values), ("beta", net.delta_n_value_heads)):
        rows += _linear(m, name, out, m.dim)
    decays = net.delta_n_value_heads * (net.delta_key_dim if net.delta_channel_decay else 1)
    for name, out in (("gate", values), ("decay", decays)):
        if net.delta_gate_rank is None:
            rows += _linear(m, name, out, m.dim)
        else:
            rows += _linear(m, f"{name}_down", net.delta_gate_rank, m.dim)
            rows += _linear(m, f"{name}_up", out, net.delta_gate_rank)
    rows += _convolution(m, "conv", keys + keys + values, net.delta_conv_width)
    rows += [_vector(m, "decay_bias", decays), _vector(m, "log_rate", net.delta_n_value_heads)]
    return [*rows, _norm(m, "out_norm", net.delta_value_dim), *_linear(m, "out", m.dim, values)]


def _short_convolution(m: Dims, conv: ShortConvolutionDims) -> list[Tensor]:
    bias, rows = conv.short_conv_bias, []
    for name in ("input_gate", "output_gate", "value"):
        rows += _linear(m, name, m.dim, m.dim, bias=bias)
    rows += _convolution(m, "conv", m.dim, conv.short_conv_width, bias=bias)
    return rows + _linear(m, "out", m.dim, m.dim, bias=bias)


def _lightning_attention(m: Dims, attention: LightningAttentionDims) -> list[Tensor]:
    width = attention.lightning_n_heads * attention.lightning_head_dim
    rows = [row for name in ("q", "k", "v", "gate") for row in _linear(m, name, width, m.dim)]
    return [*rows, _norm(m, "out_norm", width), *_linear(m, "out", m.dim, width)]


def _rg_lru(m: Dims, lru: RGLRUDims) -> list[Tensor]:
    """Each block of channels has gates of its own, so their matrices are block by block."""
    n_blocks, width = lru.lru_n_blocks, lru.lru_block_width
    channels, n_layers = n_blocks * width, m.n_mixer_layers
    rows = [row for name in ("gate", "input") for row in _linear(m, name, channels, m.dim, bias=True)]
    rows += _convolution(m, "conv", channels, lru.lru_conv_width, bias=True)
    for name in ("input_gate", "decay_gate"):
        for kind, role, shape in (
            ("weight", "matmul", (n_blocks, width, width)), ("bias", "bias", (n_blocks, width)),
        ):  # fmt: skip
            place = f"{PLACE}.{name}.{kind}"
            rows.append(Tensor(place, shape, cast(Role, role), "mixer", n_layers, layers="mixer"))
    rows.append(_vector(m, "rate", channels))
    return rows + _linear(m, "out", m.dim, channels, bias=True)


def _rwkv(m: Dims, rwkv: RWKVDims) -> list[Tensor]:
    """Keys, values and receptances each have a mix of their own of the token and the one before it."""
    rows, channels = [], rwkv.rwkv_inner_size
    for name in ("receptance", "k", "v"):
        rows += [_vector(m, f"{name}_mix", m.dim), *_linear(m, name, channels, m.dim)]
    rows += [_vector(m, "log_rate", channels), _vector(m, "bonus", channels)]
    return rows + _linear(m, "out", m.dim, channels)


def _mamba(m: Dims, mamba: MambaDims) -> list[Tensor]:
    inner, state, rank = mamba.mamba_inner_size, mamba.mamba_state_dim, mamba.mamba_dt_rank
    rows = _linear(m, "x", inner, m.dim, bias=mamba.mamba_bias)
    rows += _linear(m, "gate", inner, m.dim, bias=mamba.mamba_bias)
    rows += _convolution(m, "conv", inner, mamba.mamba_conv_width, bias=mamba.mamba_conv_bias)
    parts = {"dt_down": rank, "b": state, "c": state}
    for name, out in parts.items():
        rows += _linear(m, name, out, inner)
    if mamba.mamba_norm == "scaled":
        rows += [
            _norm(m, name, width) for name, width in (("dt_norm", rank), ("b_norm", state), ("c_norm", state))
        ]
    rows += _linear(m, "dt_up", inner, rank)
    rows += [_vector(m, "dt_bias", inner), _vector(m, "log_rate", inner, state), _vector(m, "skip", inner)]
    return rows + _linear(m, "out", m.dim, inner, bias=mamba.mamba_bias)


def _mamba2(m: Dims, mamba: Mamba2Dims) -> list[Tensor]:
    n_heads = mamba.mamba2_n_heads
    inner, states = n_heads * mamba.mamba2_head_dim, mamba.mamba2_n_groups * mamba.mamba2_state_dim
    rows = []
    for name, out in (("gate", inner), ("x", inner), ("b", states), ("c", states), ("dt", n_heads)):
        rows += _linear(m, name, out, m.dim, bias=mamba.mamba2_in_bias)
    channels = inner + states + states
    rows += _convolution(m, "conv", channels, mamba.mamba2_conv_width, bias=mamba.mamba2_conv_bias)
    rows += [_vector(m, name, n_heads) for name in ("dt_bias", "log_rate", "skip")]
    if mamba.mamba2_norm != "none":
        rows.append(_norm(m, "out_norm", inner))
    return rows + _linear(m, "out", m.dim, inner, bias=mamba.mamba2_out_bias)


_ROWS: Final[dict[MixerKind, Callable[..., list[Tensor]]]] = {
    "gated_delta_net": _gated_delta_net, "short_convolution": _short_convolution,
    "lightning_attention": _lightning_attention, "rg_lru": _rg_lru,
    "rwkv": _rwkv, "mamba": _mamba, "mamba2": _mamba2,
}  # fmt: skip
