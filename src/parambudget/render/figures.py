"""Pictures: the size landscape, memory by part, expected loss over time, and the loss curves of runs.

`plot` chooses the one that suits a result.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from parambudget._files import atomic_file, write_errors
from parambudget.arch.config import ModelConfig, flat_fields
from parambudget.arch.description import ffn_in_words
from parambudget.arch.dims import Size
from parambudget.arch.sizes import with_sizes
from parambudget.cost.params import total
from parambudget.errors import InputError
from parambudget.planning.run_plan import RunPlan
from parambudget.render.model import memory_part_in_words
from parambudget.search.solutions import Solutions
from parambudget.training.metrics import Run, TrainResult, read_run
from parambudget.units import format_bytes, format_count, gib, shorten

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # or it announces that it builds its font cache
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK: Final = "#222222"


class Picture(Figure):
    """A figure that a notebook shows, whether or not pyplot is loaded there."""

    def _repr_png_(self) -> bytes:
        stream = BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()


RunFolder = TrainResult | str | PathLike[str]
"""A run, by what it returned or by its folder."""


def plot(what: Solutions | RunPlan | RunFolder | Sequence[RunFolder], /) -> Figure:
    """Draw solutions over depth and width, the memory and expected loss of a plan, or the losses of runs,
    each given by its result or its folder.

    The figure can be changed and saved: `plot(solutions).savefig("sizes.png")`.
    """
    if isinstance(what, Solutions) and what:
        return _plot_solutions(what)
    if isinstance(what, RunPlan):
        return _plot_plan(what)
    runs = [what] if isinstance(what, str | PathLike) else what
    several = runs if isinstance(runs, Sequence) else ()
    folders = [Path(run) for run in several if isinstance(run, str | PathLike)]
    if not folders or len(folders) != len(several):
        raise InputError(
            f"{shorten(repr(what))} cannot be drawn; give what solve, resize, plan, train or run returned, "
            "the folder of a run, or several runs in a list"
        )
    return loss_curve([read_run(folder) for folder in folders])


def _plot_solutions(found: Solutions) -> Figure:
    """The solutions around curves of the target; without one, around the count of the first."""
    first = found[0].model
    certificate = found.certificate
    target = certificate.target if certificate.counted == "total" else None
    models = {f"{n}. {solution.label}": solution.model for n, solution in enumerate(found, 1)}
    return landscape(models, found.current.model if found.current else None, target or total(first))


def _plot_plan(plan: RunPlan) -> Figure:
    figure = Picture(figsize=(8, 8), dpi=150, facecolor="white", layout="constrained")
    memory, loss = figure.subplots(2, height_ratios=(1, 2))
    plans = {format_count(plan.breakdown.total): plan}
    _draw_memory(memory, plans)
    _draw_loss_over_hours(loss, plans)
    return figure


def _empty_figure() -> tuple[Figure, Axes]:
    """A picture with one pair of axes."""
    figure = Picture(figsize=(8, 5), dpi=150, facecolor="white", layout="constrained")
    return figure, figure.add_subplot()


def _label_axes(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Title and units, on a light grid without a frame."""
    axes.set_title(title, color=INK, fontsize=11)
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _label_log_axis(axis: Axis, form: Callable[[float], str] = format_count) -> None:
    """Label 1, 2 and 5 of every power of ten, written as people write counts."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    axis.set_minor_formatter(NullFormatter())


def save_png(figure: Figure, path: Path) -> None:
    """Write the picture as a PNG, whole or not at all."""
    with write_errors(path, "choose a folder that exists and is writable"), atomic_file(path) as file:
        figure.savefig(file, format="png")


_STEPS: Final = 120
"""Grid points along each axis: the curves look smooth."""
_MARKERS: Final = ("*", "o", "s", "^", "D", "v", "P")
_NEIGHBOURS: Final = (0.5, 0.7, 1.4, 2.0)
"""Counts, as shares of the budget, whose curves stand around the budget's own."""


def landscape(models: Mapping[str, ModelConfig], current: ModelConfig | None, target: int) -> Figure:
    """Models by name over depth and width, with curves of equal count at the proportions of `current`, or of
    the first model where there is none.

    A model with other proportions (a thinner FFN) lies off the curve of its count; the legend has that count.
    """
    whose = "the first" if current is None else "the current"
    title = f"Parameters over depth and width, at {whose} model's proportions (target {target:,})"
    figure, axes = _empty_figure()
    _label_axes(axes, title, "layers", "dim")
    shown = dict(models) if current is None else {"current": current, **models}
    reference = next(iter(shown.values()))
    layers = _axis_points([m.n_layers for m in shown.values()])
    dims = _axis_points([m.dim for m in shown.values()])
    counts = proportional_counts(reference, layers[None, :], dims[:, None])
    around = axes.contour(layers, dims, counts, [target * share for share in _NEIGHBOURS], colors="#AAAAAA",
                          linewidths=0.9, linestyles="--")  # fmt: skip
    wanted = axes.contour(layers, dims, counts, [target], colors=[COLOURS[0]], linewidths=2)
    for curves in (around, wanted):
        axes.clabel(curves, fmt=format_count, fontsize=8)
    # Rings of different sizes, because models that differ only in the FFN stand at the same point.
    for n, (name, model) in enumerate(shown.items()):
        axes.scatter(
            [model.n_layers], [model.dim], s=260 - 40 * n, marker=_MARKERS[n % len(_MARKERS)], linewidths=2,
            facecolors="none", edgecolors=INK if n == 0 else COLOURS[n % len(COLOURS)], zorder=3,
            label=f"{name}: {model.n_layers} × {model.dim}, {', '.join(ffn_in_words(model))}, "
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
    return figure


def proportional_counts(current: ModelConfig, n_layers: Size, dim: Size) -> Size:
    """Parameters at other depths and widths, with the heads and the FFN in the proportions of `current`."""
    growth = dim / current.dim
    widths = (
        "n_heads", "n_kv_heads", "intermediate_size", "expert_intermediate_size", "shared_intermediate_size"
    )  # fmt: skip
    sizes = flat_fields(current)
    scaled = {name: sizes[name] * growth for name in widths if sizes.get(name)}
    return total(with_sizes(current, n_layers=n_layers, dim=dim, **scaled)) + 0.0 * (n_layers * dim)


def _axis_points(values: list[int]) -> np.ndarray:
    """Grid points from well below the least value to well above the greatest."""
    return np.linspace(min(values) / 1.6, max(values) * 1.6, _STEPS)


_POINTS: Final = 100
_LINES: Final = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))


def memory_by_part(plans: Mapping[str, RunPlan]) -> Figure:
    """The peak memory of each plan as a bar of its parts, and the machine's memory as a line."""
    figure, axes = _empty_figure()
    _draw_memory(axes, plans)
    return figure


def _draw_memory(axes: Axes, plans: Mapping[str, RunPlan]) -> None:
    machine = next(iter(plans.values())).machine
    _label_axes(axes, "Peak training memory by part", "GiB per accelerator", "")
    names = list(plans)
    parts = list(dict.fromkeys(part for plan in plans.values() for part in plan.memory.parts))
    left = np.zeros(len(names))
    for n, part in enumerate(parts):
        sizes = np.array([gib(plans[name].memory.parts.get(part, 0)) for name in names])
        if sizes.any():
            axes.barh(
                names, sizes, left=left, color=COLOURS[n % len(COLOURS)], label=memory_part_in_words(part),
                hatch=None if n < len(COLOURS) else "//", edgecolor="white", linewidth=0.5,
            )  # fmt: skip
            left += sizes
    for at, name in enumerate(names):
        axes.annotate(format_bytes(plans[name].memory.peak_bytes), (left[at], at), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=9, color=INK,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    available = gib(machine.memory_bytes)
    axes.axvline(available, color=INK, linestyle="--", linewidth=1.2, label=f"memory of {machine.name}")
    axes.set_xlim(0, max(available, left.max()) * 1.12)
    axes.invert_yaxis()
    # A distance in font sizes, not a share of the axes: below the axis label at any height.
    axes.legend(
        frameon=False, labelcolor=INK, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4,
        borderaxespad=5,
    )  # fmt: skip


def loss_over_hours(plans: Mapping[str, RunPlan]) -> Figure:
    """The expected loss of each plan over time, and for the first one the interval of its speed."""
    figure, axes = _empty_figure()
    _draw_loss_over_hours(axes, plans)
    return figure


def _draw_loss_over_hours(axes: Axes, plans: Mapping[str, RunPlan]) -> None:
    first = next(iter(plans.values()))
    law = f"{first.loss.law.name}; for comparison, not a promise"
    title = f"Expected loss over time on {first.machine.name} ({law})"
    _label_axes(axes, title, "hours (log scale)", "expected loss (nats per token)")
    middle = max(plan.hours.expected for plan in plans.values())
    hours = np.geomspace(middle / 8, middle * 4, _POINTS)
    for n, (name, plan) in enumerate(plans.items()):
        colour = INK if n == 0 else COLOURS[n % len(COLOURS)]
        line = _LINES[n % len(_LINES)]
        axes.plot(hours, plan.loss_after(hours), label=name, color=colour, linestyle=line, linewidth=1.8)
    rates = first.speed.tokens_per_second
    axes.fill_between(
        hours, first.loss_after(hours, rates.high), first.loss_after(hours, rates.low), color=INK, alpha=0.08,
        linewidth=0, label=f"{next(iter(plans))}, within its speed interval",
    )  # fmt: skip
    axes.set_xscale("log")
    _label_log_axis(axes.xaxis, lambda value: f"{value:g}")
    axes.legend(frameon=False, labelcolor=INK)


_SMOOTH_SHARE: Final = 0.1
"""The share of the updates so far that the smoothed loss averages."""


def loss_curve(runs: Sequence[Run]) -> Figure:
    """Training and validation loss over the tokens seen."""
    figure, axes = _empty_figure()
    _label_axes(axes, _title(runs), "training tokens seen (log scale)", "loss (nats per token)")
    for n, run in enumerate(runs):
        colour = COLOURS[n % len(COLOURS)]
        name = f"{run.name}, " if len(runs) > 1 else ""
        _draw_run(axes, run, name, colour, COLOURS[1] if len(runs) == 1 else colour)
    axes.set_xscale("log")
    _label_log_axis(axes.xaxis)
    axes.legend(frameon=False, labelcolor=INK)
    return figure


def _draw_run(axes: Axes, run: Run, name: str, colour: str, validation_colour: str) -> None:
    training = [(step.tokens, step.loss) for step in run.steps if step.loss is not None]
    tokens, losses = [at for at, _ in training], [loss for _, loss in training]
    axes.plot(tokens, losses, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(
        tokens, list(_running_means(losses)), color=colour, linewidth=1.6, label=f"{name}training, smoothed"
    )
    validation = [(step.tokens, step.val_loss) for step in run.steps if step.val_loss is not None]
    axes.plot(
        [at for at, _ in validation], [loss for _, loss in validation],
        color=validation_colour, marker="o", markersize=4, linewidth=1.2, linestyle="--",
        label=f"{name}validation",
    )  # fmt: skip


def _running_means(values: Sequence[float]) -> Iterator[float]:
    """Means over the latest share of the values so far: on a logarithmic axis, always the same distance."""
    mean = 0.0
    for n, value in enumerate(values, 1):
        mean += (value - mean) / max(1.0, _SMOOTH_SHARE * n)
        yield mean


def _title(runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs"
    figures = runs[0].as_dict()
    title = f"{runs[0].name}: {format_count(figures['planned'])} parameters"
    if figures["val_loss"] is not None:
        title += f", validation loss {figures['val_loss']:.4f}"
        if figures["val_bits_per_byte"] is not None:
            title += f" ({figures['val_bits_per_byte']:.4f} bits per byte)"
    return title
