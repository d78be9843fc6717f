"""Pictures of runs. The only file that draws.

Each has a background of its own, so that it reads the same on a light and on a dark page; the colours are
those of Okabe and Ito, which people with any kind of colour vision tell apart.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from parambudget.errors import InputError
from parambudget.train.history import Run
from parambudget.units import format_count

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it announces that it builds its font cache
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_INK: Final = "#222222"
_SMOOTH_SHARE: Final = 0.1
"""Of the updates so far, that the smoothed loss looks back on."""


def loss_curve(runs: Sequence[Run], path: Path) -> None:
    """Training and validation loss over the tokens seen, as a PNG."""
    figure = Figure(figsize=(8, 5), dpi=150, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for n, run in enumerate(runs):
        colour = COLOURS[n % len(COLOURS)]
        name = f"{run.name}, " if len(runs) > 1 else ""
        _draw(axes, run, name, colour, COLOURS[1] if len(runs) == 1 else colour)
    axes.set_xscale("log")
    axes.set_xlabel("training tokens seen (log scale)", color=_INK)
    axes.set_ylabel("loss (nats per token)", color=_INK)
    axes.set_title(_title(runs), color=_INK, fontsize=11)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: format_count(tokens)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, labelcolor=_INK)
    _save(figure, path)


def _draw(axes: Any, run: Run, name: str, colour: str, validation_colour: str) -> None:
    measured = [(step.tokens, step.loss) for step in run.steps if step.loss is not None]
    tokens, losses = [at for at, _ in measured], [loss for _, loss in measured]
    axes.plot(tokens, losses, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(tokens, list(_smoothed(losses)), color=colour, linewidth=1.6, label=f"{name}training, smoothed")
    evaluated = run.evaluated
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


def _save(figure: Figure, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {path}: {error.strerror}; choose another place with --figure"
        ) from None
