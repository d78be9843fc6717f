"""The sizes of a mixer in a model of another width."""

from collections.abc import Callable
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
    Size,
)
from parambudget.arch.mixers.rows import model_mixer


def mixer_sizes_at(m: Dims, dim: Size) -> dict[str, Size]:
    """The sizes that the block of the model's mixer has at that width: as many heads in proportion to dim, of
    the width that they have. Elementwise for an array; empty without a mixer."""
    kind = model_mixer(m)
    return {} if kind is None else _SIZES[kind](m, getattr(m, kind), dim)


def _in_proportion(many: Size, before: Size, dim: Size) -> Size:
    """The nearest whole number to `many` times dim / before, 1 or more; no max: it may be an array."""
    scaled = (2 * many * dim + before) // (2 * before)
    return scaled + (scaled < 1) * (1 - scaled)


def _gated_delta_net(m: Dims, net: GatedDeltaNetDims, dim: Size) -> dict[str, Size]:
    n_key_heads = _in_proportion(net.delta_n_key_heads, m.dim, dim)
    per_key_head = net.delta_n_value_heads // net.delta_n_key_heads
    return {"delta_n_key_heads": n_key_heads, "delta_n_value_heads": n_key_heads * per_key_head}


def _short_convolution(*_: object) -> dict[str, Size]:
    return {}


def _lightning_attention(m: Dims, attention: LightningAttentionDims, dim: Size) -> dict[str, Size]:
    return {"lightning_n_heads": _in_proportion(attention.lightning_n_heads, m.dim, dim)}


def _rg_lru(m: Dims, lru: RGLRUDims, dim: Size) -> dict[str, Size]:
    return {"lru_n_blocks": _in_proportion(lru.lru_n_blocks, m.dim, dim)}


def _rwkv(m: Dims, rwkv: RWKVDims, dim: Size) -> dict[str, Size]:
    return {"rwkv_inner_size": _in_proportion(rwkv.rwkv_inner_size, m.dim, dim)}


def _mamba(m: Dims, mamba: MambaDims, dim: Size) -> dict[str, Size]:
    sizes = {"mamba_inner_size": mamba.mamba_inner_size, "mamba_dt_rank": mamba.mamba_dt_rank}
    return {name: _in_proportion(size, m.dim, dim) for name, size in sizes.items()}


def _mamba2(m: Dims, mamba: Mamba2Dims, dim: Size) -> dict[str, Size]:
    """As many heads in each group; the groups stay."""
    per_group = _in_proportion(mamba.mamba2_n_heads // mamba.mamba2_n_groups, m.dim, dim)
    return {"mamba2_n_heads": per_group * mamba.mamba2_n_groups}


_SIZES: Final[dict[MixerKind, Callable[..., dict[str, Size]]]] = {
    "gated_delta_net": _gated_delta_net, "short_convolution": _short_convolution,
    "lightning_attention": _lightning_attention, "rg_lru": _rg_lru,
    "rwkv": _rwkv, "mamba": _mamba, "mamba2": _mamba2,
}  # fmt: skip
