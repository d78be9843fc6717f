"""Going on with a run: the same model, settings and text, from its newest checkpoint that is whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from parambudget.errors import InputError
from parambudget.training.checkpoint import files
from parambudget.training.checkpoint.files import About
from parambudget.training.config import TrainConfig
from parambudget.training.metrics import Step
from parambudget.training.run_folder import Metrics
from parambudget.training.train_state import Learner

CHANGEABLE: Final = ("steps", "save_every", "keep", "eval_every", "eval_tokens")
"""Settings that a resumed run may change."""
_TEXT: Final = {
    "corpus_sha256": "the text",
    "tokens_sha256": "the training tokens",
    "init_sha256": "the weights to start from",
}


def require_same_run(out: Path, stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a run as what it is not; names the first field that differs."""
    require_same_model(out, stored, now["model"])
    require_same_settings(out, stored, now["train"])
    require_same_text(out, stored, now["provenance"])


def require_same_settings(out: Path, stored: dict[str, Any], train: dict[str, Any]) -> None:
    """Refuse settings that the run did not have, but for those that may change."""
    before, after = (_settings(fields) for fields in (stored["train"], train))
    for name in after:
        if name not in CHANGEABLE and before[name] != after[name]:
            raise InputError(
                f"{out} holds a run with other settings: {name} is {before[name]!r} there and "
                f"{after[name]!r} here; only {', '.join(CHANGEABLE)} may change when a run is resumed"
            )


def require_same_text(out: Path, stored: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Refuse other text, tokens or initial weights."""
    for name, what in _TEXT.items():
        there, here = (held.get(name) for held in (stored["provenance"], provenance))
        if there != here:
            raise InputError(
                f"{out} holds a run for which {what} were others: {name} is {there} there and {here} here; "
                "give the same ones, or another --out"
            )


def require_same_model(out: Path, stored: dict[str, Any], model: dict[str, Any]) -> None:
    """Refuse to go on with a run of another model."""
    for name, here in model.items():
        if (there := stored["model"].get(name, here)) != here:
            raise InputError(
                f"{out} holds a run of another model: {name} is {there!r} there and {here!r} here; "
                "give the same model, or another --out"
            )


def newest_whole(checkpoints: Path, on_notice: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is as it was written, and its state; None if there is no checkpoint at all.

    Damaged ones are set aside under the name `damaged-step-N`, and that is said.
    """
    damaged: list[str] = []
    for folder in files.all_in(checkpoints):
        try:
            state = files.read_state(folder)
        except InputError as error:
            damaged.append(str(error).split(";")[0])
            continue
        for line in damaged:
            on_notice(f"{line}; it is set aside, and the run goes on from {folder.name}")
        _set_aside(checkpoints, newer_than=state["step"])
        return folder, state
    if damaged:
        raise InputError(
            f"no checkpoint in {checkpoints} is whole ({damaged[0]}); start again in another folder"
        )
    return None


def restored(
    checkpoints: Path, steps: int, metrics: Metrics, learner: Learner, about: About,
    on_notice: Callable[[str], None],
) -> list[Step]:  # fmt: skip
    """Put the newest whole checkpoint in place and cut the metrics behind it; returns the steps before it."""
    found = newest_whole(checkpoints, on_notice)
    if found is None:
        return metrics.cut(0)
    folder, state = found
    if state["step"] > steps:
        raise InputError(f"{folder} is already beyond steps={steps}; use at least {state['step']}")
    files.restore(folder, state, learner.module, learner.optimizer)
    changed = [
        f"{name} {there} there and {about.surroundings[name]} here"
        for name, there in state["surroundings"].items()
        if about.surroundings.get(name, there) != there
    ]
    if changed:
        on_notice(f"the run goes on, but not bit for bit: {', '.join(changed)}")
    rows = metrics.cut(state["step"])
    if rows and rows[-1].step == state["step"]:
        return rows
    return [*rows, Step(state["step"], state["loss"], 0.0, None, False, state["tokens"], 0.0, None)]


def _set_aside(checkpoints: Path, newer_than: int) -> None:
    for folder in files.all_in(checkpoints):
        if int(folder.name.removeprefix("step-")) > newer_than:
            aside = checkpoints / f"damaged-{folder.name}"
            files.remove(aside)
            folder.rename(aside)


def _settings(train: dict[str, Any]) -> dict[str, Any]:
    """The settings with the defaults of those that an earlier version did not have."""
    return TrainConfig.read(train).model_dump()
