"""What all pictures share: one look, legible on light and dark pages, and files that are whole or not there.

Each has a background of its own, so that it reads the same on any page; the colours are those of Okabe and
Ito, which people with any kind of colour vision tell apart. Only this folder draws.
"""

import logging
import os
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from parambudget.errors import InputError
from parambudget.units import format_count

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
