"""Pictures of runs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from parambudget.show.figures.canvas import COLOURS, INK, canvas, logarithmic, save
from parambudget.train.history import Run
from parambudget.units import format_count

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
