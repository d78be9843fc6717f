"""The size landscape: curves of equal parameter count over depth and width, with models on it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.ticker import MaxNLocator

from parambudget.arch.config import ModelConfig, flat
from parambudget.arch.dims import with_sizes
from parambudget.cost.params import total
from parambudget.render.model import widths
from parambudget.show.figures.canvas import COLOURS, INK, canvas, save
from parambudget.units import format_count

_STEPS: Final = 120
"""Grid points along each axis: the curves look smooth."""
_MARKERS: Final = ("*", "o", "s", "^", "D", "v", "P")
_NEIGHBOURS: Final = (0.5, 0.7, 1.4, 2.0)
"""Counts, as shares of the budget, whose curves stand around the budget's own."""


def landscape(models: Mapping[str, ModelConfig], current: ModelConfig, target: int, path: Path) -> None:
    """Models by name over depth and width, on curves of equal count at the proportions of `current`, a PNG.

    A model with other proportions (a thinner FFN) lies off the curve of its count; the legend has that count.
    """
    title = f"Parameters over depth and width, at the current model's proportions ({target:,} wanted)"
    figure, axes = canvas(title, "layers", "dim")
    everyone = [current, *models.values()]
    layers = _span([m.n_layers for m in everyone])
    dims = _span([m.dim for m in everyone])
    counts = proportional_counts(current, layers[None, :], dims[:, None])
    around = axes.contour(layers, dims, counts, [target * share for share in _NEIGHBOURS], colors="#AAAAAA",
                          linewidths=0.9, linestyles="--")  # fmt: skip
    wanted = axes.contour(layers, dims, counts, [target], colors=[COLOURS[0]], linewidths=2)
    for curves in (around, wanted):
        axes.clabel(curves, fmt=format_count, fontsize=8)
    # Models at one place (only the FFN changed) are rings of different sizes.
    for n, (name, model) in enumerate({"current": current, **models}.items()):
        axes.scatter(
            [model.n_layers], [model.dim], s=260 - 40 * n, marker=_MARKERS[n % len(_MARKERS)], linewidths=2,
            facecolors="none", edgecolors=INK if n == 0 else COLOURS[n % len(COLOURS)], zorder=3,
            label=f"{name}: {model.n_layers} × {model.dim}, {', '.join(widths(model, 'FFN'))}, "
            f"{format_count(total(model))}",
        )  # fmt: skip
    axes.legend(
        frameon=True,
        facecolor="white",
        framealpha=0.9,
        edgecolor="none",
        labelcolor=INK,
        fontsize=9,
        markerscale=0.5,
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
        axis.set_major_formatter(lambda size, _: f"{size:,.0f}")
    save(figure, path)


def proportional_counts(current: ModelConfig, n_layers: Any, dim: Any) -> Any:
    """Parameters at other depths and widths, with the heads and the FFN in the proportions of `current`."""
    growth = dim / current.dim
    growing = (
        "n_heads", "n_kv_heads", "intermediate_size", "expert_intermediate_size", "shared_intermediate_size"
    )  # fmt: skip
    sizes = flat(current)
    scaled = {name: sizes[name] * growth for name in growing if sizes.get(name)}
    return total(with_sizes(current, n_layers=n_layers, dim=dim, **scaled)) + 0.0 * (n_layers * dim)


def _span(values: list[int]) -> Any:
    """From well below the least to well above the greatest."""
    return np.linspace(min(values) / 1.6, max(values) * 1.6, _STEPS)
