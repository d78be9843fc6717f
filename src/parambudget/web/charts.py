"""Results as options of ECharts, drawn as SVG whose text takes its colour from the page's style sheet."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final

from parambudget.arch.description import shape_in_words
from parambudget.planning.run_plan import RunPlan
from parambudget.render.curves import COLOURS, NEIGHBOURS, running_means
from parambudget.search.landscape import curve_target, equal_count_curve
from parambudget.search.solutions import Solutions
from parambudget.training.metrics import Run
from parambudget.units import format_count

Options = dict[str, Any]
"""What ECharts takes: JSON of its own making."""
MODELS: Final = "models"
"""The series of the landscape that is the solutions."""
_GREY: Final = "#888888"
"""Readable on a light and on a dark ground."""
_POINTS: Final = 60
_MOST_POINTS: Final = 600
"""Of a curve: more than a screen has columns for."""
_AROUND: Final = 1.6
"""How far beyond the models the landscape reaches."""


def landscape(found: Solutions, chosen: int | None = None) -> Options:
    """The solutions over depth and width, with the curves of equal count at the first one's proportions."""
    models = [solution.model for solution in found]
    current = None if found.current is None else found.current.model
    reference = current or models[0]
    shown = [*models, *([] if current is None else [current])]
    target = curve_target(found)
    dims = min(m.dim for m in shown) / _AROUND, max(m.dim for m in shown) * _AROUND
    most_layers = int(max(m.n_layers for m in shown) * _AROUND) + 1
    shares = (*NEIGHBOURS, 1.0)
    curves = [
        _line(
            format_count(target * share), equal_count_curve(reference, target * share, most_layers, dims),
            COLOURS[0] if share == 1 else _GREY, dashed=share != 1, wide=share == 1, end_label=True,
        )
        for share in shares
    ]  # fmt: skip
    points = [
        {"value": [m.n_layers, m.dim], "name": f"{n}. {solution.label}: {shape_in_words(m)}",
         "symbolSize": 20 if n - 1 == chosen else 13}
        for n, (m, solution) in enumerate(zip(models, found, strict=True), 1)
    ]  # fmt: skip
    scatters = [_scatter(MODELS, points, COLOURS[1])]
    if current is not None:
        here = {
            "value": [current.n_layers, current.dim],
            "name": f"now: {shape_in_words(current)}",
            "symbolSize": 13,
        }
        scatters.append(_scatter("now", [here], _GREY))
    options = _chart("layers", "dim", legend=False)
    options["grid"] |= {"right": 64}
    options["xAxis"] |= {"min": 0, "max": most_layers}
    options["yAxis"] |= {"min": round(dims[0]), "max": round(dims[1])}
    options["tooltip"] = {"trigger": "item", "formatter": "{b}", "confine": True}
    return options | {"series": [*curves, *scatters]}


def loss_over_hours(plans: Mapping[str, RunPlan]) -> Options:
    """The expected loss of each plan over wall time, and for the first the interval of its speed."""
    hours = plan_hours(list(plans.values()), _POINTS)
    options = _chart("hours", "expected loss, nats per token")
    options["xAxis"] |= {"type": "log", "min": hours[0], "max": hours[-1]}
    options["yAxis"] |= {"scale": True}
    first = next(iter(plans.values()))
    rates = first.speed.tokens_per_second
    low, high = ([float(first.loss_after(h, rate)) for h in hours] for rate in (rates.high, rates.low))
    name = f"{next(iter(plans))}, within its speed interval"
    band = [
        _line("", list(zip(hours, low, strict=True)), "transparent") | {"stack": "interval", "silent": True},
        _line(name, [(h, b - a) for h, a, b in zip(hours, low, high, strict=True)], "transparent")
        | {"stack": "interval", "areaStyle": {"color": COLOURS[0], "opacity": 0.15}, "silent": True,
           "itemStyle": {"color": COLOURS[0], "opacity": 0.3}},
    ]  # fmt: skip
    lines = [
        _line(
            label, [(h, float(plan.loss_after(h))) for h in hours], COLOURS[n], dashed=n % 2 == 1, wide=True
        )
        for n, (label, plan) in enumerate(plans.items())
    ]
    options["legend"]["data"] = [*plans, name]
    return options | {"series": [*band, *lines]}


def plan_hours(plans: Sequence[RunPlan], points: int) -> list[float]:
    """Hours from an eighth of the longest run to four times it, in equal ratios."""
    middle = max(plan.hours.expected for plan in plans)
    return [middle / 8 * 32 ** (n / (points - 1)) for n in range(points)]


def run_losses(runs: Sequence[Run]) -> Options:
    """Training and validation loss of runs over the tokens seen."""
    options = _chart("training tokens", "loss, nats per token")
    options["xAxis"] |= {"type": "log"}
    options["yAxis"] |= {"scale": True}
    series = []
    for n, run in enumerate(runs):
        colour = COLOURS[n % len(COLOURS)]
        training = [(step.tokens, step.loss) for step in run.steps if step.loss is not None]
        smooth = list(running_means([loss for _, loss in training]))
        points = [(tokens, loss) for (tokens, _), loss in zip(training, smooth, strict=True)]
        series.append(_line(f"{run.name}: training, smoothed", thin_out(points), colour, wide=True))
        validation = [(s.tokens, s.val_loss) for s in run.evaluations if s.val_loss is not None]
        series.append(
            _line(f"{run.name}: validation", thin_out(validation), colour, dashed=True)
            | {"symbol": "emptyCircle"}
        )
    return options | {"series": series}


def run_speeds(runs: Sequence[Run]) -> Options:
    """Tokens per second of each update of runs, and what was planned for them."""
    options = _chart("updates", "tokens/s")
    series = []
    for n, run in enumerate(runs):
        colour = COLOURS[n % len(COLOURS)]
        points = [(step.step, step.tokens_per_second) for step in run.steps]
        series.append(_line(f"{run.name}: measured", thin_out(points), colour, wide=True))
        planned = (run.summary.planned or {}).get("tokens_per_second") if run.summary else None
        if planned is not None:
            ends = [(run.steps[0].step, planned), (run.steps[-1].step, planned)]
            series.append(_line(f"{run.name}: planned", ends, colour, dashed=True))
    return options | {"series": series}


def thin_out(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most so many points as a screen shows, the first and the last among them."""
    finite = [point for point in points if isfinite(point[1])]
    if len(finite) <= _MOST_POINTS:
        return finite
    step = (len(finite) - 1) / (_MOST_POINTS - 1)
    return [finite[round(n * step)] for n in range(_MOST_POINTS)]


_SHORT: Final = (
    "(value) => Math.abs(value) < 1e4 ? String(Number(value.toPrecision(3))) : "
    "Intl.NumberFormat('en', {notation: 'compact', maximumSignificantDigits: 3}).format(value)"
)
"""Numbers of an axis in three digits, as JavaScript."""


def _chart(x_name: str, y_name: str, *, legend: bool = True) -> Options:
    """Axes with their names, a tooltip, and room for a legend below."""
    axis = {
        "nameLocation": "middle", "splitLine": {"lineStyle": {"color": "#8884"}},
        "axisLine": {"lineStyle": {"color": "#888"}},
    }  # fmt: skip
    return {
        "animation": False,
        "aria": {"enabled": True},
        "grid": {"left": 64, "right": 24, "top": 16, "bottom": 84 if legend else 48},
        "legend": {"show": legend, "bottom": 0, "type": "scroll"},
        "tooltip": {"trigger": "axis", "confine": True},
        "xAxis": {
            "type": "value",
            "name": x_name,
            "nameGap": 28,
            "axisLabel": {":formatter": _SHORT},
            **axis,
        },
        "yAxis": {
            "type": "value",
            "name": y_name,
            "nameGap": 46,
            "axisLabel": {":formatter": _SHORT},
            **axis,
        },
    }


def _line(
    name: str, points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False,
    wide: bool = False, end_label: bool = False,
) -> Options:  # fmt: skip
    return {
        "type": "line", "name": name, "data": [list(point) for point in points], "symbol": "none",
        "lineStyle": {
            "color": colour, "type": "dashed" if dashed else "solid", "width": 2.2 if wide else 1.2,
        },
        "itemStyle": {"color": colour},
        "endLabel": {"show": end_label, "formatter": name, "textBorderWidth": 0, "offset": [0, -8]},
        "tooltip": {"show": not end_label},
    }  # fmt: skip


def _scatter(name: str, points: Sequence[Options], colour: str) -> Options:
    return {
        "type": "scatter", "name": name, "data": list(points), "itemStyle": {"color": colour, "opacity": 0.9},
        "emphasis": {"scale": 1.4}, "z": 5 if name == MODELS else 4,
    }  # fmt: skip
