"""A run reported to Weights & Biases, beside its own metrics.jsonl. The only file that knows of it.

WANDB_MODE=offline keeps everything in DIR/wandb, for `wandb sync` later; WANDB_* works as its docs say.
"""

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb

from parambudget._files import atomic_write
from parambudget.errors import InputError
from parambudget.training.metrics import Step


@contextmanager
def tracked(
    on_step: Callable[[Step], None], project: str, out: Path, config: dict[str, Any]
) -> Iterator[Callable[[Step], None]]:
    """`on_step`, reporting each step to a project too. A run that is resumed goes on under its name there."""
    run: Any = None

    def on_step_and_report(step: Step) -> None:
        nonlocal run
        on_step(step)
        # Not before the first step: a run that is refused leaves nothing.
        run = run or _begun(project, out, config)
        run.log(step.as_row(), step=step.step)

    exit_code = 1
    try:
        yield on_step_and_report
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
        known = wandb.login()
    except wandb.errors.UsageError:
        known = False
    if not known:
        raise InputError(
            "--wandb knows no account; run wandb login, or set WANDB_MODE=offline to keep everything in the "
            "run's folder"
        )


def _begun(project: str, out: Path, config: dict[str, Any]) -> Any:
    kept = out / "wandb" / "id"
    kept.parent.mkdir(exist_ok=True)
    if not kept.is_file():
        atomic_write(kept, secrets.token_hex(8))
    return wandb.init(
        project=project, name=out.resolve().name, id=kept.read_text(), resume="allow", dir=out, config=config,
        settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
    )  # fmt: skip
