"""Resume a run: the same model, settings and text, from its newest valid checkpoint."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from parambudget.errors import InputError
from parambudget.training.checkpoint import files
from parambudget.training.checkpoint.files import CheckpointState, RunMetadata
from parambudget.training.config import TrainConfig
from parambudget.training.metrics import (
    METRICS,
    RunConfigDocument,
    StepMetrics,
    list_checkpoints,
    read_document,
)
from parambudget.training.run.run_folder import MetricsFile
from parambudget.training.train_state import TrainState

CHANGEABLE: Final = ("steps", "save_every", "keep", "eval_every", "eval_tokens")
"""Settings that may change when a run is resumed."""
_TEXT: Final = {
    "corpus_sha256": "text",
    "tokens_sha256": "set of training tokens",
    "init_sha256": "set of initial weights",
}


def require_same_run(out: Path, stored: RunConfigDocument, now: RunConfigDocument) -> None:
    """Refuse to resume a run as something else; names the first field that differs."""
    require_same_run_model(out, stored, now["model"])
    require_same_settings(out, stored, now["train"])
    require_same_text(out, stored, now["provenance"])


def require_same_settings(out: Path, stored: RunConfigDocument, train: dict[str, object]) -> None:
    """Refuse settings that differ from the run's, except those that may change."""
    before, after = (_complete_settings(fields) for fields in (stored["train"], train))
    for name in after:
        if name not in CHANGEABLE and before[name] != after[name]:
            raise InputError(
                f"the run in {out} has other settings: {name} is {before[name]!r} there and "
                f"{after[name]!r} here; only {', '.join(CHANGEABLE)} may change when a run is resumed"
            )


def require_same_text(out: Path, stored: RunConfigDocument, provenance: dict[str, object]) -> None:
    """Refuse another text, other tokens or other initial weights."""
    for name, what in _TEXT.items():
        there, here = stored["provenance"].get(name), provenance.get(name)
        if there != here:
            raise InputError(
                f"the run in {out} has another {what}: {name} is {there} there and {here} here; "
                "give the same, or another folder with `out`"
            )


def require_same_run_model(out: Path, stored: RunConfigDocument, model: dict[str, object]) -> None:
    """Refuse to resume a run of another model."""
    for name, here in model.items():
        if (there := stored["model"].get(name, here)) != here:
            raise InputError(
                f"the run in {out} is of another model: {name} is {there!r} there and {here!r} here; "
                "give the same model, or another folder with `out`"
            )


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
            damaged[folder] = str(error).split(";")[0]
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
    return metrics.restore((folder / METRICS).read_bytes())


def _set_aside(damaged: Iterable[Path]) -> None:
    for folder in damaged:
        aside = folder.with_name(f"damaged-{folder.name}")
        files.remove(aside)
        folder.rename(aside)


def _complete_settings(train: dict[str, object]) -> dict[str, object]:
    """The settings, with defaults for those that an earlier version did not have."""
    return TrainConfig.read(train).model_dump()
