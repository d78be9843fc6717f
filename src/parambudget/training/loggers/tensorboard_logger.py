"""Write a run as event files of TensorBoard into DIR/tensorboard. The only file that imports tensorboardX.

tensorboardX writes the files without TensorBoard, which is needed to look at them: tensorboard --logdir DIR.
"""

import json
import secrets
from dataclasses import dataclass
from typing import Final

from tensorboardX import SummaryWriter

from parambudget.training.loggers.trackers import TrackedRun, logged_values
from parambudget.training.metrics import StepMetrics

FOLDER: Final = "tensorboard"
_FLUSH_SECONDS: Final = 30


@dataclass(frozen=True)
class TensorBoardTracker:
    """A session of a run: one event file."""

    writer: SummaryWriter

    @classmethod
    def open(cls, tracked: TrackedRun, first: StepMetrics) -> "TensorBoardTracker":
        """Begin a file; TensorBoard then hides what an earlier one has of `first` and the steps after it."""
        # The name has the time in seconds: a second file of the same second would replace the first.
        writer = SummaryWriter(
            logdir=str(tracked.out / FOLDER), purge_step=first.step, flush_secs=_FLUSH_SECONDS,
            filename_suffix=f".{secrets.token_hex(4)}",
        )  # fmt: skip
        # Four spaces make a block of code in the Markdown that TensorBoard shows.
        lines = json.dumps(dict(tracked.config), indent=2).splitlines()
        writer.add_text("config", "\n".join(f"    {line}" for line in lines), first.step)
        return cls(writer)

    def log(self, step: StepMetrics) -> None:
        """Add a scalar for each figure of a step."""
        for name, value in logged_values(step).items():
            self.writer.add_scalar(name, float(value), step.step)

    def finish(self, *, succeeded: bool) -> None:  # noqa: ARG002 - an event file has no place for it
        """Write what is pending."""
        self.writer.close()
