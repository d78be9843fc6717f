"""Resume a run: from its newest valid checkpoint."""

from collections.abc import Callable, Iterable
from pathlib import Path

from parambudget._files import read_inside
from parambudget.errors import InputError, without_advice
from parambudget.training.checkpoint import files
from parambudget.training.checkpoint.files import CheckpointState, RunMetadata
from parambudget.training.metrics import METRICS, StepMetrics, list_checkpoints, read_document
from parambudget.training.run.run_folder import MetricsFile
from parambudget.training.run.same_run import require_same_run
from parambudget.training.train_state import TrainState


def newest_valid_checkpoint(
    checkpoints: Path, on_notice: Callable[[str], None]
) -> tuple[Path, CheckpointState] | None:
    """The newest checkpoint whose files match their hashes, and its state; None if there is no checkpoint.

    Damaged ones are moved to `damaged-step-N`, with a notice.
    """
    damaged: dict[Path, str] = {}
    for folder in list_checkpoints(checkpoints):
        try:
            state = files.read_state(folder)
        except InputError as error:
            damaged[folder] = without_advice(error)
            continue
        for problem in damaged.values():
            on_notice(f"{problem}; it is set aside, and the run continues from {folder.name}")
        _set_aside(damaged)
        return folder, state
    if damaged:
        first = next(iter(damaged.values()))
        raise InputError(
            f"no checkpoint in {checkpoints} is complete ({first}); start again in another folder"
        )
    return None


def restore_newest_checkpoint(
    checkpoints: Path, steps: int, metrics: MetricsFile, train_state: TrainState, metadata: RunMetadata,
    on_notice: Callable[[str], None],
) -> list[StepMetrics]:  # fmt: skip
    """Restore the newest valid checkpoint and cut the metrics after it; returns the steps that remain."""
    newest = newest_valid_checkpoint(checkpoints, on_notice)
    if newest is None:
        metrics.clear()
        return []
    folder, state = newest
    require_same_run(folder, read_document(folder / "config.json"), metadata.config)
    if state.step > steps:
        raise InputError(f"{folder} is already beyond steps={steps}; use at least {state.step}")
    files.restore(folder, state, train_state.module, train_state.optimizer)
    now = metadata.environment.as_dict()
    changed = [
        f"{name} {before} there and {now[name]} here"
        for name, before in state.surroundings.items()
        if now.get(name, before) != before
    ]
    if changed:
        on_notice(f"the run continues, but not bit for bit: {', '.join(changed)}")
    return metrics.restore(read_inside(folder / METRICS))


def _set_aside(damaged: Iterable[Path]) -> None:
    for folder in damaged:
        aside = folder.with_name(f"damaged-{folder.name}")
        files.remove(aside)
        folder.rename(aside)
