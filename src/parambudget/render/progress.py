"""Live progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from parambudget.render.terminal import PIPED_WIDTH
from parambudget.units import format_bytes, format_count

if TYPE_CHECKING:
    from parambudget.text import prepare
    from parambudget.training.calibrate import CalibrationProgress
    from parambudget.training.evaluation.scores import EvaluationProgress

_PLAIN_SECONDS: Final = 10.0
"""Between two lines where the output is not a terminal."""


def make_console(*, quiet: bool = False) -> Console:
    """The console of a command, silent where `quiet`. Piped output has no colours and does not wrap at 80
    columns."""
    # Paths are printed as they are: `runs/[1e-3]` is no markup, `:b:` no picture.
    plain = partial(Console, highlight=False, markup=False, emoji=False, quiet=quiet)
    to_terminal = plain()
    return to_terminal if to_terminal.is_terminal else plain(width=PIPED_WIDTH)


@contextmanager
def preparation_progress(console: Console) -> Iterator[Callable[[prepare.PrepareProgress], None]]:
    """Gives the function to call as `data prepare` advances."""
    started = perf_counter()
    first: prepare.PrepareProgress | None = None

    def figures(now: prepare.PrepareProgress) -> str:
        nonlocal first
        first = first or now
        rate = (now.n_bytes - first.n_bytes) / max(1e-9, perf_counter() - started)
        text, speed = format_bytes(now.n_bytes), format_bytes(rate)
        return f"{text} of text, {format_count(now.n_tokens)} tokens, {speed}/s"

    if not console.is_terminal:
        yield _print_now_and_then(console, figures)
        return
    columns = (
        TaskProgressColumn(), BarColumn(bar_width=24), TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("prepare", total=1.0, figures="reading the source and its tokenizer")
        yield lambda now: bar.update(task, completed=now.share, figures=figures(now))


def _print_now_and_then(
    console: Console, figures: Callable[[prepare.PrepareProgress], str]
) -> Callable[[prepare.PrepareProgress], None]:
    last = perf_counter()

    def show(now: prepare.PrepareProgress) -> None:
        nonlocal last
        line = figures(now)
        if perf_counter() - last > _PLAIN_SECONDS:
            console.print(f"{now.share:4.0%}  {line}", highlight=False, soft_wrap=True)
            last = perf_counter()

    return show


@contextmanager
def calibration_progress(console: Console) -> Iterator[Callable[[CalibrationProgress], None]]:
    """Gives the function to call at each stage of `calibrate`."""
    if not console.is_terminal:
        yield lambda stage: console.print(
            f"{stage.share:4.0%}  {stage.doing}", highlight=False, soft_wrap=True
        )
        return
    columns = (TaskProgressColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda stage: bar.update(task, completed=stage.share, description=stage.doing)


@contextmanager
def evaluation_progress(console: Console) -> Iterator[Callable[[EvaluationProgress], None]]:
    """Gives the function to call as an evaluation advances."""
    if not console.is_terminal:
        last = perf_counter()

        def show(now: EvaluationProgress) -> None:
            nonlocal last
            if perf_counter() - last > _PLAIN_SECONDS:
                console.print(f"{now.share:4.0%}  {now.label}", highlight=False, soft_wrap=True)
                last = perf_counter()

        yield show
        return
    columns = (
        TaskProgressColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"),
        TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        tasks = {}

        def update(now: EvaluationProgress) -> None:
            if now.part not in tasks:
                tasks[now.part] = bar.add_task(now.label, total=now.n_total)
            bar.update(tasks[now.part], completed=now.n_done)

        yield update
