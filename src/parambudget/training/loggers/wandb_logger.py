"""Report a run to Weights & Biases. The only file that imports wandb.

WANDB_MODE=offline keeps everything in DIR/wandb, for `wandb sync` later; WANDB_* works as its docs say.
"""

import logging
import os
import secrets
from dataclasses import dataclass

import wandb

from parambudget.errors import InputError
from parambudget.training.loggers.trackers import TrackedRun, stored_name
from parambudget.training.metrics import StepMetrics


@dataclass(frozen=True)
class WandbTracker:
    """A session of a run in a project of Weights & Biases."""

    run: wandb.Run

    @classmethod
    def open(cls, project: str, tracked: TrackedRun) -> "WandbTracker":
        """Begin a session; a resumed run continues under its id."""
        out = tracked.out
        run = wandb.init(
            project=project, name=out.resolve().name,
            id=stored_name(out / "wandb" / "id", lambda: secrets.token_hex(8)), resume="allow",
            dir=out, config=dict(tracked.config),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
        )  # fmt: skip
        return cls(run)

    def log(self, step: StepMetrics) -> None:
        """Report a step."""
        self.run.log(step.as_row(), step=step.step)

    def finish(self, *, succeeded: bool) -> None:
        """Send what is pending."""
        self.run.finish(exit_code=0 if succeeded else 1)


def require_account() -> None:
    """Refuse to start without an account, unless nothing is to leave this machine."""
    if os.environ.get("WANDB_MODE", "online") != "online":
        return
    logging.getLogger("wandb").setLevel(logging.ERROR)
    try:
        logged_in = wandb.login()
    except wandb.errors.UsageError:
        logged_in = False
    if not logged_in:
        raise InputError(
            "`wandb` found no account; run wandb login, or set WANDB_MODE=offline to keep everything in the "
            "run's folder"
        )
