"""Parameters over depth and width: the curves on which models of equal count lie."""

from typing import Final

import numpy as np

from parambudget.arch.config import ModelConfig, flat_fields
from parambudget.arch.dims import Size
from parambudget.arch.mixers.proportions import mixer_sizes_at
from parambudget.arch.sizes import with_sizes
from parambudget.cost.params import total
from parambudget.search.solutions import Solutions

_WIDTHS: Final = (
    "n_heads", "n_kv_heads", "intermediate_size", "expert_intermediate_size", "shared_intermediate_size"
)  # fmt: skip


def proportional_counts(current: ModelConfig, n_layers: Size, dim: Size) -> Size:
    """Parameters at other depths and widths, with heads, FFN and mixer in the proportions of `current`."""
    growth = dim / current.dim
    widths = {name: size for name, size in flat_fields(current).items() if name in _WIDTHS and size}
    # Not rounded to whole heads, which would make steps of the curves.
    scaled = {name: size * growth for name, size in (widths | mixer_sizes_at(current, current.dim)).items()}
    return total(with_sizes(current, n_layers=n_layers, dim=dim, **scaled)) + 0.0 * (n_layers * dim)


def curve_target(found: Solutions) -> int:
    """The count whose curve the solutions lie around: the target where it is of all parameters, else the
    first one's count."""
    certificate = found.certificate
    if certificate.target is not None and certificate.counted == "total":
        return certificate.target
    return found[0].total


def equal_count_curve(
    current: ModelConfig, target: float, most_layers: int, dims: tuple[float, float], points: int = 80
) -> list[tuple[float, float]]:
    """Depth and width of the models of `target` parameters in the proportions of `current`, for widths in the
    interval `dims` and depths up to `most_layers`, the widest first; empty where none has so many."""
    layers, widths = np.arange(1.0, most_layers + 1), np.linspace(dims[1], dims[0], points)
    counts = proportional_counts(current, layers[None, :], widths[:, None])
    # The count grows with the depth, so at each width one depth has the target.
    return [
        (float(np.interp(target, row, layers)), float(width))
        for row, width in zip(counts, widths, strict=True)
        if row[0] <= target <= row[-1]
    ]
