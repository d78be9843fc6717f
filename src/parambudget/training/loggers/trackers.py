"""Report the metrics of a run to other tools, beside its own metrics.jsonl: any number of them at once."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from parambudget._files import atomic_write, read_regular
from parambudget.training.metrics import StepMetrics


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run before its first step."""

    out: Path
    """Its folder, which has its name."""
    config: Mapping[str, object]
    """Model and settings."""


class Tracker(Protocol):
    """One session of a run in another tool."""

    def log(self, step: StepMetrics) -> None:
        """Report a step."""

    def finish(self, *, succeeded: bool) -> None:
        """Write what is pending, and say whether the session ended well."""


OpenTracker = Callable[[TrackedRun, StepMetrics], Tracker]
"""Begins a session; the step is the first one of it."""


@contextmanager
def track_steps(
    on_step: Callable[[StepMetrics], None], tracked: TrackedRun, tools: Mapping[str, OpenTracker],
    on_notice: Callable[[str], None],
) -> Iterator[Callable[[StepMetrics], None]]:  # fmt: skip
    """`on_step`, which also reports each step to the `tools`, by name.

    Nothing is opened before the first step: a run that is refused leaves nothing behind. A tool that fails
    is left out from then on, with a notice: no run ends because of it.
    """
    trackers: dict[str, Tracker] = {}
    has_started = False

    def attempt(name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # of the tool, its storage or the network
            trackers.pop(name, None)
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            on_notice(f"reporting to {name} stopped: {reason}; the run continues")

    def open_tracker(name: str, step: StepMetrics) -> None:
        trackers[name] = tools[name](tracked, step)

    def log_step(step: StepMetrics) -> None:
        nonlocal has_started
        on_step(step)
        if not has_started:
            has_started = True
            for name in tools:
                attempt(name, partial(open_tracker, name, step))
        for name, tracker in list(trackers.items()):
            attempt(name, partial(tracker.log, step))

    succeeded = False
    try:
        yield log_step
        succeeded = True
    finally:
        for name, tracker in list(trackers.items()):
            attempt(name, partial(tracker.finish, succeeded=succeeded))


def logged_values(step: StepMetrics) -> dict[str, float]:
    """The figures of a step by their names in metrics.jsonl, as far as they are known and finite."""
    values = {
        name: value for name, value in step.as_row().items() if isinstance(value, int | float)
    }  # fmt: skip
    del values["step"]
    by_set = (step.val_loss_by_set or {}).items()
    return values | {f"val_loss/{name}": loss for name, loss in by_set if loss is not None}


def stored_name(file: Path, create: Callable[[], str]) -> str:
    """The name under which a run's folder is known to a tool: that of an earlier session, else a new one."""
    file.parent.mkdir(exist_ok=True)
    if not file.is_file():
        atomic_write(file, create())
    return read_regular(file).decode().strip()
