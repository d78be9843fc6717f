"""Pictures of plans: what the memory holds, and which loss to expect after how many hours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from parambudget.planning.run_plan import RunPlan
from parambudget.show.figures.canvas import COLOURS, INK, canvas, logarithmic, save
from parambudget.units import format_bytes

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
