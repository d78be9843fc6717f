"""The published rule: which lattice is searched where a person gives no sizes, a plain box around the models
of that size."""

from math import ceil, floor
from typing import Any, Final

from parambudget.search.axis import Axis

SMALL: Final = 30_000_000
USUAL_EXPERTS: Final = (8, 16, 32, 64, 96, 128, 160, 192, 256, 384, 512)
"""Numbers of experts that are searched: powers of two, and the multiples of 32 between that are published."""
_FINEST_EXPERTS: Final = 64
"""Widths of experts are multiples of this at most: 1408 (DeepSeek) and 2880 (gpt-oss) are of 128 or 64."""
_SPARSITY: Final = 0.81
"""Power of n_experts / n_experts_per_token by which the total exceeds the active count: least squares over
the 31 models of benchmarks/expert_models.py."""


def granularity(target: int) -> int:
    """The step of dim and of FFN widths at a size, where none is given."""
    steps = ((SMALL, 32), (10**9, 64), (10**10, 128), (10**11, 256), (10**12, 512))
    return next((step for below, step in steps if target < below), 1024)


def granularity_of_experts(size: int) -> int:
    """The same of the width of experts, by what is active: 64 from 30M, at any size."""
    return min(granularity(size), _FINEST_EXPERTS)


def granularity_of_dim(size: int) -> int:
    """The same of dim beside experts, which multiply the lattice: twice as coarse from 100B active."""
    return granularity(size) * (2 if size >= 10**11 else 1)


def fill_experts(axes: dict[str, Axis]) -> None:
    """From 8 to 512 experts, 1, 2, 4, 6 or 8 of them for a token, and none shared."""
    axes.setdefault("n_experts", Axis.of(USUAL_EXPERTS, "n_experts"))
    axes.setdefault("n_experts_per_token", Axis.of((1, 2, 4, 6, 8), "n_experts_per_token"))
    axes.setdefault("n_shared_experts", Axis.of((0,), "n_shared_experts", least=0))


def active_of(total: int, axes: dict[str, Axis]) -> int:
    """About what is active of a total, at the middle of the axes of experts."""
    experts, chosen = (
        values[len(values) // 2] for values in (axes["n_experts"].values, axes["n_experts_per_token"].values)
    )
    share: float = min(1.0, chosen / experts) ** _SPARSITY
    return max(1, round(total * share))


def fill_depth_and_width(axes: dict[str, Axis], size: int, step: int) -> None:
    """n_layers from L0/3 to 3*L0 and dim from d0/3 to 2*d0 in that step, around L0 = 0.225 * size**0.228 and
    d0 = 0.640 * size**0.382; with one of the two given, the other spans all that the budget could fill at 8
    to 28 dim^2 parameters a layer."""
    if "dim" not in axes and "n_layers" not in axes:
        layers, width = 0.225 * size**0.228, 0.640 * size**0.382
        axes["n_layers"] = Axis.of(range(max(1, floor(layers / 3)), ceil(3 * layers) + 1), "n_layers")
        low, high = floor(width / 3 / step), ceil(2 * width / step)
        axes["dim"] = Axis.of(range(max(1, low) * step, high * step + 1, step), "dim")
    elif "n_layers" not in axes:
        deepest = ceil(size / (8 * axes["dim"].values[0] ** 2))
        axes["n_layers"] = Axis.of(range(1, min(max(deepest, 1), 1000) + 1), "n_layers")
    elif "dim" not in axes:
        narrowest = (size / (28 * axes["n_layers"].values[-1])) ** 0.5 / 4
        widest = (size / (8 * axes["n_layers"].values[0])) ** 0.5
        low, high = max(1, floor(narrowest / step)), max(1, ceil(widest / step))
        axes["dim"] = Axis.of(range(low * step, high * step + 1, step), "dim")


def latent_parts(given: dict[str, Any], size: int) -> dict[str, Any]:
    """What latent attention leaves out: values of 128 from 1B and of 64 below, keys without their position as
    wide, a rotated part of half that."""
    usual = 128 if size >= 10**9 else 64
    value = given.get("v_head_dim", usual)
    nope = given.get("qk_nope_head_dim", value if type(value) is int else usual)
    parts = {"qk_nope_head_dim": nope, "v_head_dim": nope}
    return parts | ({"qk_rope_head_dim": max(nope // 2, 1)} if type(nope) is int else {})


def fill_free_heads(axes: dict[str, Axis], width: int) -> None:
    """Heads of that width, of their values in latent attention, that are free of dim: they fill from half of
    the narrowest dim to 2.5 times the widest, in multiples of 4, 8, 16, ... so that there are 20 at most."""
    narrowest, widest = axes["dim"].values[0], axes["dim"].values[-1]
    most = max(1, ceil(2.5 * widest / width))
    step = 4 if most >= 8 else 1
    while most > 18 * step:
        step *= 2
    least = max(step, narrowest // (2 * width) // step * step)
    axes.setdefault("n_heads", Axis.of(range(least, -(-most // step) * step + 1, step), "n_heads"))
