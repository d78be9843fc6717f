"""Report a run to Weights & Biases, beside its own metrics.jsonl. The only file that imports wandb.

WANDB_MODE=offline keeps everything in DIR/wandb, for `wandb sync` later; WANDB_* works as its docs say.
"""

import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import wandb

from parambudget._files import atomic_write, read_regular
from parambudget.errors import InputError
from parambudget.training.metrics import StepMetrics


@contextmanager
def log_to_wandb(
    on_step: Callable[[StepMetrics], None], project: str, out: Path, config: Mapping[str, object]
) -> Iterator[Callable[[StepMetrics], None]]:
    """`on_step`, which also logs each step to a project. A resumed run continues under its id there."""
    run: wandb.Run | None = None

    def log_step(step: StepMetrics) -> None:
        nonlocal run
        on_step(step)
        # Not before the first step: a run that is refused leaves nothing behind.
        run = run or _init_run(project, out, config)
        run.log(step.as_row(), step=step.step)

    exit_code = 1
    try:
        yield log_step
        exit_code = 0
    finally:
        if run is not None:
            run.finish(exit_code=exit_code)


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


def _init_run(project: str, out: Path, config: Mapping[str, object]) -> wandb.Run:
    id_file = out / "wandb" / "id"
    id_file.parent.mkdir(exist_ok=True)
    if not id_file.is_file():
        atomic_write(id_file, secrets.token_hex(8))
    return wandb.init(
        project=project, name=out.resolve().name, id=read_regular(id_file).decode(), resume="allow", dir=out,
        config=dict(config),
        settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
    )  # fmt: skip
