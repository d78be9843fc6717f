"""Pictures: the size landscape, memory by part, expected loss over time, and the loss curves of runs.

`plot` chooses the one that suits a result.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import offset_copy

from parambudget._files import atomic_file, write_errors
from parambudget.arch.config import ModelConfig
from parambudget.arch.description import ffn_in_words
from parambudget.cost.params import total
from parambudget.errors import InputError
from parambudget.ladders.ladder_fit import LadderFit
from parambudget.planning.run_plan import RunPlan
from parambudget.render.curves import COLOURS, NEIGHBOURS, running_means
from parambudget.render.model import memory_part_in_words
from parambudget.scaling.loss import INTERVAL, expected_loss, laws_beside
from parambudget.search.landscape import curve_target, proportional_counts
from parambudget.search.solutions import Solutions
from parambudget.training.metrics import Run, TrainResult, read_run
from parambudget.units import format_bytes, format_count, gib, shorten

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # or it announces that it builds its font cache
INK: Final = "#222222"


class Picture(Figure):
    """A figure that a notebook shows, whether or not pyplot is loaded there."""

    def _repr_png_(self) -> bytes:
        stream = BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()


RunFolder = TrainResult | str | PathLike[str]
"""A run, by what it returned or by its folder."""


def plot(what: Solutions | RunPlan | LadderFit | RunFolder | Sequence[RunFolder], /) -> Figure:
    """Draw solutions over depth and width, the memory and expected loss of a plan, the fit of a ladder, or
    the losses of runs, each given by its result or its folder.

    The figure can be changed and saved: `plot(solutions).savefig("sizes.png")`.
    """
    if isinstance(what, Solutions) and what:
        return _plot_solutions(what)
    if isinstance(what, RunPlan):
        return _plot_plan(what)
    if isinstance(what, LadderFit):
        return ladder_figure(what)
    runs = [what] if isinstance(what, str | PathLike) else what
    several = runs if isinstance(runs, Sequence) else ()
    folders = [Path(run) for run in several if isinstance(run, str | PathLike)]
    if not folders or len(folders) != len(several):
        raise InputError(
            f"{shorten(repr(what))} cannot be drawn; give what solve, resize, plan, train, run or the fit of "
            "a ladder returned, the folder of a run, or several runs in a list"
        )
    return loss_curve([read_run(folder) for folder in folders])


def _plot_solutions(found: Solutions) -> Figure:
    """The solutions around curves of the target; without one, around the count of the first."""
    models = {f"{n}. {solution.label}": solution.model for n, solution in enumerate(found, 1)}
    return landscape(models, found.current.model if found.current else None, curve_target(found))


def _plot_plan(plan: RunPlan) -> Figure:
    figure = Picture(figsize=(8, 8), dpi=150, facecolor="white", layout="constrained")
    memory, loss = figure.subplots(2, height_ratios=(1, 2))
    plans = {format_count(plan.breakdown.total): plan}
    _draw_memory(memory, plans)
    _draw_loss_over_hours(loss, plan)
    return figure


def _empty_figure() -> tuple[Figure, Axes]:
    """A picture with one pair of axes."""
    figure = Picture(figsize=(8, 5), dpi=150, facecolor="white", layout="constrained")
    return figure, figure.add_subplot()


def _literal(text: str) -> str:
    """The text with its dollar signs as they are: between two of them matplotlib would read a formula."""
    return text.replace("$", r"\$")


def _label_axes(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Title and units, on a light grid without a frame."""
    axes.set_title(_literal(title), color=INK, fontsize=11, loc="left")
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


def landscape(models: Mapping[str, ModelConfig], current: ModelConfig | None, target: int) -> Figure:
    """Models by name over depth and width, with curves of equal count at the proportions of `current`, or of
    the first model where there is none.

    A model with other proportions (a thinner FFN) lies off the curve of its count; its label has that count.
    Models of the same depth and width stand side by side.
    """
    whose = "the first" if current is None else "the current"
    size = f"{target:,}" if target < 10**9 else format_count(target)  # or the title does not fit
    title = f"Parameters over depth and width, at {whose} model's proportions (target {size})"
    shown = dict(models) if current is None else {"current": current, **models}
    figure = Picture(figsize=(8, max(5, 0.42 * len(shown))), dpi=150, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    _label_axes(axes, title, "layers", "dim")
    reference = next(iter(shown.values()))
    layers = _axis_points([m.n_layers for m in shown.values()])
    dims = _axis_points([m.dim for m in shown.values()])
    counts = proportional_counts(reference, layers[None, :], dims[:, None])
    around = axes.contour(layers, dims, counts, [target * share for share in NEIGHBOURS], colors="#AAAAAA",
                          linewidths=0.9, linestyles="--")  # fmt: skip
    wanted = axes.contour(layers, dims, counts, [target], colors=[COLOURS[0]], linewidths=2)
    for curves in (around, wanted):
        axes.clabel(curves, fmt=format_count, fontsize=8)
    _draw_models(figure, axes, shown)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
        axis.set_major_formatter(lambda size, _: f"{size:,.0f}")
    return figure


def _draw_models(figure: Figure, axes: Axes, models: Mapping[str, ModelConfig]) -> None:
    """A marker for each model, side by side where they have the same depth and width, and a line from it to
    its label beside the axes."""
    places = [(model.n_layers, model.dim) for model in models.values()]
    heights = [axes.transAxes.inverted().transform(axes.transData.transform(place))[1] for place in places]
    # Of models of one width, the left one gets the upper label: its line passes above the others.
    order = sorted(range(len(places)), key=lambda n: (places[n][1], -places[n][0]))
    spread = _spread([heights[n] for n in order], 0.1 if len(order) < 9 else 0.9 / len(order))
    label_heights = dict(zip(order, spread, strict=True))
    for n, (name, model) in enumerate(models.items()):
        colour = INK if n == 0 else COLOURS[n % len(COLOURS)]
        same = [i for i, place in enumerate(places) if place == places[n]]
        moved = offset_copy(
            axes.transData, figure, _MARKER_POINTS * (same.index(n) - (len(same) - 1) / 2), 0, "points"
        )
        axes.scatter(
            *places[n], s=90, marker=_MARKERS[n % len(_MARKERS)], linewidths=1.8, facecolors="white",
            edgecolors=colour, zorder=3, transform=moved,
        )  # fmt: skip
        shape = ", ".join([f"{model.n_layers} × {model.dim}", *ffn_in_words(model)])
        axes.annotate(
            f"{_literal(name)}: {format_count(total(model))}\n{shape}", places[n], xycoords=moved,
            xytext=(1.03, label_heights[n]), textcoords=axes.transAxes, color=colour, fontsize=8, va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.6, "shrinkB": 6,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


_MARKER_POINTS: Final = 12
"""Between the middles of markers that stand side by side."""


def _spread(values: Sequence[float], gap: float) -> list[float]:
    """Ascending shares of the height of axes, moved as little as possible to be at least `gap` apart, and
    then inside where there is room."""
    blocks: list[tuple[float, int]] = []  # means of neighbours that touch, and how many they are
    for n, value in enumerate(values):
        mean, size = value - n * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    means = [mean for mean, size in blocks for _ in range(size)]
    most = 1 - (len(values) - 1) * gap  # of the first, for the last to be inside
    return [max(0.0, min(mean, most)) + n * gap for n, mean in enumerate(means)]


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
    axes.axvline(
        available, color=INK, linestyle="--", linewidth=1.2, label=_literal(f"memory of {machine.name}")
    )
    axes.set_xlim(0, max(available, left.max()) * 1.12)
    axes.invert_yaxis()
    # A distance in font sizes, not a share of the axes: below the axis label at any height.
    axes.legend(
        frameon=False, labelcolor=INK, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4,
        borderaxespad=5,
    )  # fmt: skip


def loss_differences(plans: Mapping[str, RunPlan], seed_nats: float) -> Figure:
    """The expected loss of each plan over time, minus that of the first one, the current model; with what
    seeds differ by, and the hours that the interval of the speed stands for."""
    (base, first), *others = plans.items()
    figure, axes = _empty_figure()
    title = f"Expected loss minus that of the current model, on {first.machine.name} ({first.loss.law.name})"
    _label_axes(axes, title, "hours (log scale)", "nats per token; below 0 is better")
    planned, rates = first.hours.expected, first.speed.tokens_per_second
    hours = np.geomspace(planned / 8, planned * 4, _POINTS)
    # So much time at another speed is worth more or less of it at the expected one.
    worth = planned * rates.low / rates.expected, planned * rates.high / rates.expected
    axes.axvspan(*worth, color=COLOURS[0], alpha=0.1, linewidth=0,
                 label=f"what {planned:g} h are worth at the slowest and the fastest speed")  # fmt: skip
    axes.axvline(planned, color=INK, linestyle="--", linewidth=1, label=f"{planned:g} h, as planned")
    axes.axhspan(-seed_nats, seed_nats, color="#888888", alpha=0.15, linewidth=0,
                 label=f"seeds alone: ±{seed_nats:.3f} nats")  # fmt: skip
    axes.axhline(0, color=INK, linewidth=1.8)
    ends = {base: (0.0, INK)}
    for n, (name, plan) in enumerate(others, 1):
        difference, colour = plan.loss_after(hours) - first.loss_after(hours), COLOURS[n % len(COLOURS)]
        axes.plot(
            hours, difference, color=colour, linestyle=_LINES[n % len(_LINES)], linewidth=1.8, markersize=5,
            marker=_MARKERS[n % len(_MARKERS)], markevery=(4 * n, _POINTS // 5),
        )  # fmt: skip
        ends[name if plan.fits else f"{name} (does not fit)"] = float(difference[-1]), colour
    axes.set_xscale("log")
    axes.set_xlim(hours[0], hours[-1])
    _label_log_axis(axes.xaxis, lambda value: f"{value:g}")
    _label_ends(axes, ends)
    axes.legend(frameon=False, labelcolor=INK, fontsize=8, loc="upper left", bbox_to_anchor=(0, 0),
                ncols=2, borderaxespad=5)  # fmt: skip
    return figure


def _label_ends(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """The name of each curve at the right of its last value, in its colour."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)  # labels move nothing
    names = sorted(ends, key=lambda name: ends[name][0])
    heights = [(ends[name][0] - low) / (high - low) for name in names]
    for name, height, label_height in zip(names, heights, _spread(heights, 0.055), strict=True):
        axes.annotate(
            _literal(name), (1, height), xycoords=axes.transAxes, xytext=(1.05, label_height),
            textcoords=axes.transAxes, color=ends[name][1], fontsize=9, va="center",
            arrowprops={"arrowstyle": "-", "color": ends[name][1], "linewidth": 0.7, "relpos": (0, 0.5)},
        )  # fmt: skip


def _draw_loss_over_hours(axes: Axes, plan: RunPlan) -> None:
    law = f"{plan.loss.law.name}; for comparison, not a promise"
    title = f"Expected loss over time on {plan.machine.name} ({law})"
    _label_axes(axes, title, "hours (log scale)", "expected loss (nats per token)")
    hours = np.geomspace(plan.hours.expected / 8, plan.hours.expected * 4, _POINTS)
    axes.plot(hours, plan.loss_after(hours), label="at the expected speed", color=INK, linewidth=1.8)
    rates = plan.speed.tokens_per_second
    slow, fast = (plan.loss_after(hours, rate) for rate in (rates.low, rates.high))
    axes.fill_between(
        hours, fast, slow, color=COLOURS[0], alpha=0.15, linewidth=0, label="within the interval of the speed"
    )
    for edge in (slow, fast):
        axes.plot(hours, edge, color=COLOURS[0], linewidth=0.8)
    axes.axvline(plan.hours.expected, color=INK, linestyle="--", linewidth=1,
                 label=f"{plan.hours.expected:.3g} h, as planned")  # fmt: skip
    axes.set_xscale("log")
    _label_log_axis(axes.xaxis, lambda value: f"{value:g}")
    axes.legend(frameon=False, labelcolor=INK)


def loss_curve(runs: Sequence[Run]) -> Figure:
    """Training and validation loss over the tokens seen."""
    figure, axes = _empty_figure()
    _label_axes(axes, _title(runs), "training tokens seen (log scale)", "loss (nats per token)")
    for n, run in enumerate(runs):
        colour = COLOURS[n % len(COLOURS)]
        name = f"{_literal(run.name)}, " if len(runs) > 1 else ""
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
        tokens, list(running_means(losses)), color=colour, linewidth=1.6, label=f"{name}training, smoothed"
    )
    validation = [(step.tokens, step.val_loss) for step in run.steps if step.val_loss is not None]
    axes.plot(
        [at for at, _ in validation], [loss for _, loss in validation],
        color=validation_colour, marker="o", markersize=4, linewidth=1.2, linestyle="--",
        label=f"{name}validation",
    )  # fmt: skip


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


_ISOFLOPS: Final = 4
"""Curves of equal compute, from that of the smallest run to that of the target."""


def ladder_figure(fit: LadderFit) -> Figure:
    """The extrapolation with its band, curves of equal compute with their best sizes, and how far every run
    lies from the law."""
    figure = Picture(figsize=(8, 12), dpi=150, facecolor="white", layout="constrained")
    over_compute, over_size, residuals = figure.subplots(3, height_ratios=(4, 4, 3))
    _draw_extrapolation(over_compute, fit)
    _draw_isoflops(over_size, fit)
    _draw_residuals(residuals, fit)
    return figure


def _draw_extrapolation(axes: Axes, fit: LadderFit) -> None:
    """Measured losses by tokens per parameter, and the law at the target's with its 90 % interval."""
    _label_axes(axes, "Loss over compute", "N × D (log scale)", "loss (nats per token)")
    target, runs = fit.target, fit.points
    ratio = target.tokens / target.n_parameters
    products = np.array([run.entry.n_parameters * run.entry.tokens for run in runs])
    span = np.geomspace(products.min(), 2 * target.n_parameters * target.tokens, _POINTS)
    sizes = np.sqrt(span / ratio)
    curves = [expected_loss(law, sizes, span / sizes, target.unique_tokens) for law in laws_beside(fit.law)]
    low, high = np.percentile(curves[1:], INTERVAL, axis=0)
    axes.fill_between(span, low, high, color=INK, alpha=0.12, linewidth=0, label="90 % of runs")
    axes.plot(span, curves[0], color=INK, linewidth=1.6, label=f"law at {ratio:.3g} tokens per parameter")
    axes.scatter(
        products, [run.loss for run in runs], s=22, color=COLOURS[0], zorder=3, label="runs of the ladder"
    )
    predicted = fit.prediction
    axes.errorbar(
        [target.n_parameters * target.tokens], [predicted.expected],
        yerr=[[predicted.expected - predicted.low], [predicted.high - predicted.expected]], fmt="*",
        markersize=11, color=COLOURS[1], capsize=4, label="the target, predicted",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.legend(frameon=False, labelcolor=INK)


def _draw_isoflops(axes: Axes, fit: LadderFit) -> None:
    """What sizes reach for the same compute, and the best of them."""
    _label_axes(axes, "Equal compute", "parameters (log scale)", "expected loss (nats per token)")
    products = [run.entry.n_parameters * run.entry.tokens for run in fit.points]
    target = fit.target.n_parameters * fit.target.tokens
    for n, product in enumerate(np.geomspace(min(products), target, _ISOFLOPS)):
        around = np.sqrt(product / (fit.target.tokens / fit.target.n_parameters))
        sizes = np.geomspace(around / 8, around * 8, _POINTS)
        losses = expected_loss(fit.law, sizes, product / sizes, fit.target.unique_tokens)
        colour = COLOURS[n % len(COLOURS)]
        axes.plot(sizes, losses, color=colour, linewidth=1.6, label=f"N × D = {product:.2g}")
        best = int(np.argmin(losses))
        axes.scatter([sizes[best]], [losses[best]], marker="*", s=90, color=colour, zorder=3)
    axes.axvspan(fit.optimum.low, fit.optimum.high, color=COLOURS[(_ISOFLOPS - 1) % len(COLOURS)], alpha=0.1,
                 label="best sizes for the target's compute, 90 %")  # fmt: skip
    axes.set_xscale("log")
    _label_log_axis(axes.xaxis)
    axes.legend(frameon=False, labelcolor=INK)


def _draw_residuals(axes: Axes, fit: LadderFit) -> None:
    """How far every run lies from the law."""
    _label_axes(axes, "Residuals", "parameters (log scale)", "measured over law (%)")
    axes.axhline(0, color=INK, linewidth=0.8)
    sizes = [run.entry.n_parameters for run in fit.points]
    axes.scatter(
        sizes, [100 * (run.loss / fit.fitted_loss(run) - 1) for run in fit.points], s=22, color=COLOURS[0]
    )
    axes.set_xscale("log")
    _label_log_axis(axes.xaxis)
