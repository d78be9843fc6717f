"""What a run that is resumed must have in common with the run so far. Known before torch is imported."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from parambudget.errors import InputError, without_advice
from parambudget.training.config import TrainConfig
from parambudget.training.metrics import RunConfigDocument, list_checkpoints, read_document, read_run_config
from parambudget.units import count_phrase

CHANGEABLE: Final = ("steps", "save_every", "keep", "eval_every", "eval_tokens")
"""Settings that may change when a run is resumed; `tokens` and `hours` stand for `steps`."""
_MAY_CHANGE: Final = "`steps`, `tokens`, `hours`, `save_every`, `keep`, `eval_every` and `eval_tokens`"
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


def require_own_checkpoint(out: Path, checkpoint: Path) -> None:
    """Refuse a checkpoint in the folder of a run that another run has written."""
    stored = read_run_config(out)
    if stored is None:
        return
    try:
        require_same_run(checkpoint, read_document(checkpoint / "config.json"), stored)
    except InputError as error:
        raise InputError(
            f"{checkpoint} is not of the run in {out}: {without_advice(error)}; name the checkpoint itself "
            "to use it, or remove it"
        ) from None


def require_length(out: Path, train: Mapping[str, object], steps: int) -> None:
    """Refuse to end a run before its newest checkpoint, or within its warm-up, which cannot change."""
    newest = next(iter(list_checkpoints(out / "checkpoints")), None)
    n_done = 0 if newest is None else int(newest.name.removeprefix("step-"))
    n_warmup = TrainConfig.read(train).warmup_steps
    problems = [
        (n_done, f"it has made {count_phrase(n_done, 'update')}"),
        (n_warmup, f"its warm-up of {count_phrase(n_warmup, 'update')} cannot change"),
    ]
    if found := [problem for n, problem in problems if n > steps]:
        raise InputError(
            f"the run in {out} cannot be resumed with steps={steps}: {' and '.join(found)}; use at least "
            f"`steps={max(n_done, n_warmup)}`, or start another run in another folder with `out`"
        )


def require_same_settings(out: Path, stored: RunConfigDocument, train: dict[str, object]) -> None:
    """Refuse settings that differ from the run's, except those that may change."""
    before, after = (_complete_settings(fields) for fields in (stored["train"], train))
    for name in after:
        if name not in CHANGEABLE and before[name] != after[name]:
            raise InputError(
                f"the run in {out} has other settings: {name} is {before[name]!r} there and "
                f"{after[name]!r} here; only {_MAY_CHANGE} may change when a run is resumed"
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


def _complete_settings(train: dict[str, object]) -> dict[str, object]:
    """The settings, with defaults for those that an earlier version did not have."""
    return TrainConfig.read(train).model_dump()
