"""Report a run to trackio, which keeps it on this machine. The only file that imports trackio.

Everything is kept in TRACKIO_DIR, of which trackio has a default; `trackio show` shows it. TRACKIO_* works as
its docs say, so a run may also be reported to a Space.
"""

import secrets
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO

import trackio
from trackio.run import Run

from parambudget.training.loggers.trackers import TrackedRun, logged_values, stored_name
from parambudget.training.metrics import StepMetrics


@dataclass(frozen=True)
class TrackioTracker:
    """A session of a run in a project of trackio."""

    run: Run

    @classmethod
    def open(cls, project: str, tracked: TrackedRun) -> "TrackioTracker":
        """Begin a session; a resumed run continues under its name.

        trackio knows a run by its name alone, so the name of the folder gets a random end.
        """
        folder = tracked.out.resolve().name
        name = stored_name(tracked.out / "trackio" / "name", lambda: f"{folder}-{secrets.token_hex(2)}")
        with redirect_stdout(StringIO()):  # it prints how to look at the project
            run = trackio.init(
                project, name=name, config=dict(tracked.config), resume="allow", embed=False,
                auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip
        return cls(run)

    def log(self, step: StepMetrics) -> None:
        """Report a step."""
        self.run.log(logged_values(step), step=step.step)

    def finish(self, *, succeeded: bool) -> None:  # noqa: ARG002 - trackio has no place for it
        """Store what is pending."""
        with redirect_stdout(StringIO()):
            trackio.finish()
