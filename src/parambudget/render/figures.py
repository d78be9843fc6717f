"""The size landscape: curves of equal parameter count over depth and width, with models on it."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from parambudget.arch.config import ModelConfig, flat
from parambudget.arch.dims import with_sizes
from parambudget.cost.params import total
from parambudget.errors import InputError
from parambudget.planning.run_plan import RunPlan
from parambudget.render.model import widths
from parambudget.training.metrics import Run
from parambudget.units import format_bytes, format_count

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it announces that it builds its font cache
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK: Final = "#222222"


def canvas(title: str, across: str, up: str) -> tuple[Figure, Any]:
    """An empty picture of one pair of axes, each labelled with its unit."""
    figure = Figure(figsize=(8, 5), dpi=150, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, color=INK, fontsize=11)
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def logarithmic(axis: Any, form: Any = format_count) -> None:
    """Labels at 1, 2 and 5 of every power of ten, written as people write counts."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: Path) -> None:
    """The picture as a PNG, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {path}: {error.strerror}; choose a folder that exists and is writable"
        ) from None


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


_GIB: Final = 2**30
_POINTS: Final = 100
_LINES: Final = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))


def memory_by_part(plans: Mapping[str, RunPlan], path: Path) -> None:
    """The peak memory of each plan as a bar of its parts, the machine's own as a line, as a PNG."""
    machine = next(iter(plans.values())).machine
    figure, axes = canvas("Peak training memory by part", "GiB per accelerator", "")
    names = list(plans)
    parts = list(dict.fromkeys(part for plan in plans.values() for part in plan.memory.parts))
    left = np.zeros(len(names))
    for n, part in enumerate(parts):
        sizes = np.array([plans[name].memory.parts.get(part, 0) for name in names]) / _GIB
        if sizes.any():
            style = {"hatch": None if n < len(COLOURS) else "//", "edgecolor": "white", "linewidth": 0.5}
            colour, name = COLOURS[n % len(COLOURS)], part.replace("_", " ")
            axes.barh(names, sizes, left=left, color=colour, label=name, **style)
            left += sizes
    for at, name in enumerate(names):
        axes.annotate(format_bytes(plans[name].memory.peak_bytes), (left[at], at), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=9, color=INK)  # fmt: skip
    there = machine.memory_bytes / _GIB
    axes.axvline(there, color=INK, linestyle="--", linewidth=1.2, label=f"memory of {machine.name}")
    axes.set_xlim(0, max(there, left.max()) * 1.12)
    axes.invert_yaxis()
    axes.legend(
        frameon=False, labelcolor=INK, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4
    )
    save(figure, path)


def loss_over_hours(plans: Mapping[str, RunPlan], path: Path) -> None:
    """Expected loss of each plan over wall time, of the first with the interval of its speed, as a PNG."""
    first = next(iter(plans.values()))
    title = (
        f"Expected loss over time on {first.machine.name} ({first.loss.law.name}; to compare, not to promise)"
    )
    figure, axes = canvas(title, "hours (log scale)", "expected loss (nats per token)")
    middle = max(plan.hours.expected for plan in plans.values())
    hours = np.geomspace(middle / 8, middle * 4, _POINTS)
    for n, (name, plan) in enumerate(plans.items()):
        colour = INK if n == 0 else COLOURS[n % len(COLOURS)]
        style = {"color": colour, "linestyle": _LINES[n % len(_LINES)], "linewidth": 1.8}
        axes.plot(hours, plan.loss_after(hours), label=name, **style)
    rates = first.speed.tokens_per_second
    axes.fill_between(
        hours, first.loss_after(hours, rates.high), first.loss_after(hours, rates.low), color=INK, alpha=0.08,
        linewidth=0, label=f"{next(iter(plans))}, within the interval of its speed",
    )  # fmt: skip
    axes.set_xscale("log")
    logarithmic(axes.xaxis, lambda value: f"{value:g}")
    axes.legend(frameon=False, labelcolor=INK)
    save(figure, path)


_SMOOTH_SHARE: Final = 0.1
"""Of the updates so far, that the smoothed loss looks back on."""


def loss_curve(runs: Sequence[Run], path: Path) -> None:
    """Training and validation loss over the tokens seen, as a PNG."""
    figure, axes = canvas(_title(runs), "training tokens seen (log scale)", "loss (nats per token)")
    for n, run in enumerate(runs):
        colour = COLOURS[n % len(COLOURS)]
        name = f"{run.name}, " if len(runs) > 1 else ""
        _draw(axes, run, name, colour, COLOURS[1] if len(runs) == 1 else colour)
    axes.set_xscale("log")
    logarithmic(axes.xaxis)
    axes.legend(frameon=False, labelcolor=INK)
    save(figure, path)


def _draw(axes: Any, run: Run, name: str, colour: str, validation_colour: str) -> None:
    measured = [(step.tokens, step.loss) for step in run.steps if step.loss is not None]
    tokens, losses = [at for at, _ in measured], [loss for _, loss in measured]
    axes.plot(tokens, losses, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(tokens, list(_smoothed(losses)), color=colour, linewidth=1.6, label=f"{name}training, smoothed")
    evaluated = run.evaluations
    axes.plot(
        [step.tokens for step in evaluated], [step.val_loss for step in evaluated],
        color=validation_colour, marker="o", markersize=4, linewidth=1.2, linestyle="--",
        label=f"{name}validation",
    )  # fmt: skip


def _smoothed(values: Sequence[float]) -> Iterator[float]:
    """A running mean that looks back on a share of the way so far: on a logarithmic axis, always as far."""
    mean = 0.0
    for n, value in enumerate(values, 1):
        mean += (value - mean) / max(1.0, _SMOOTH_SHARE * n)
        yield mean


def _title(runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs"
    figures = runs[0].as_dict()
    said = f"{runs[0].name}: {format_count(figures['planned'])} parameters"
    if figures["val_loss"] is not None:
        said += (
            f", validation loss {figures['val_loss']:.4f} ({figures['val_bits_per_byte']:.4f} bits per byte)"
        )
    return said
