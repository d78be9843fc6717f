"""Live progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event, Thread
from time import perf_counter
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from parambudget.render.terminal import PIPED_WIDTH
from parambudget.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from parambudget.text import prepare
    from parambudget.training.calibrate import CalibrationProgress
    from parambudget.training.evaluation.scores import EvaluationProgress

_PLAIN_SECONDS: Final = 10.0
"""Between two lines where the output is not a terminal."""
_SILENT_SECONDS: Final = 60.0
"""The longest that a line of what is being done stands alone there."""


def make_console(*, quiet: bool = False, to_stderr: bool = False) -> Console:
    """The console of a command, silent where `quiet`. Piped output has no colours and does not wrap at 80
    columns."""
    # Paths are printed as they are: `runs/[1e-3]` is no markup, `:b:` no picture.
    plain = partial(Console, highlight=False, markup=False, emoji=False, quiet=quiet, stderr=to_stderr)
    to_terminal = plain()
    return to_terminal if to_terminal.is_terminal else plain(width=PIPED_WIDTH)


class StatusLine:
    """What is being done and for how long: a spinner on a terminal; elsewhere a line, and one more every
    minute."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._spinner: Progress | None = None
        self._is_over: Event | None = None

    @property
    def is_live(self) -> bool:
        """Whether the line vanishes again."""
        return self.console.is_terminal

    def show(self, text: str) -> None:
        """Show this instead of what was shown before."""
        self.close()
        if self.console.quiet:
            return
        if self.is_live:
            columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
            self._spinner = Progress(*columns, console=self.console, transient=True)
            self._spinner.add_task(text, total=None)
            self._spinner.start()
            return
        self._print(text)
        self._is_over = Event()
        Thread(target=self._repeat, args=(text, self._is_over), daemon=True).start()

    def close(self) -> None:
        """Show nothing any more."""
        if self._spinner is not None:
            self._spinner.stop()
        if self._is_over is not None:
            self._is_over.set()
        self._spinner = self._is_over = None

    def _repeat(self, text: str, is_over: Event) -> None:
        started = perf_counter()
        while not is_over.wait(_SILENT_SECONDS):
            elapsed = format_seconds(perf_counter() - started)
            self._print(f"{text}: {elapsed} so far")

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


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


class _Advancing(Protocol):
    @property
    def share(self) -> float: ...


AdvancingT = TypeVar("AdvancingT", bound=_Advancing)


def _print_now_and_then(
    console: Console, figures: Callable[[AdvancingT], str]
) -> Callable[[AdvancingT], None]:
    last = perf_counter()

    def show(now: AdvancingT) -> None:
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
        yield _print_now_and_then(console, lambda now: now.label)
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
