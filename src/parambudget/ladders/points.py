"""What the runs of a ladder measured, checked to be of one text, tokenizer and context."""

from dataclasses import dataclass
from pathlib import Path

from parambudget.errors import InputError
from parambudget.ladders.ladder_file import LadderDocument, RungEntry, run_path
from parambudget.training.metrics import RunConfigDocument, TrainResult, read_run_config


@dataclass(frozen=True)
class Point:
    """The loss of one finished run."""

    entry: RungEntry
    loss: float
    """On held-out text at the end, in nats per token."""


@dataclass(frozen=True)
class Points:
    """The finished runs of a ladder, and why others are left out."""

    points: tuple[Point, ...]
    left_out: tuple[str, ...]
    """A line for every rung without a loss."""


def read_points(folder: Path, document: LadderDocument) -> Points:
    """The losses of the rungs that have finished."""
    points: list[Point] = []
    left_out: list[str] = []
    for number, entry in enumerate(document.rungs, 1):
        found = _read_loss(run_path(folder, entry.name), entry, document)
        if isinstance(found, float):
            points.append(Point(entry, found))
        else:
            left_out.append(f"rung {number} ({entry.name}) {found}")
    return Points(tuple(points), tuple(left_out))


def _read_loss(out: Path, entry: RungEntry, document: LadderDocument) -> float | str:
    """The loss of a rung, or why it has none to fit. Raises `InputError` where its run is of another
    text, vocabulary or context."""
    config = read_run_config(out) if out.is_dir() else None
    if config is None or not (out / "summary.json").is_file():
        return "has not been trained"
    _require_same_text(config, out, document)
    result = TrainResult.read(out)
    if not result.finished:
        return f"has not finished: it stands at {result.steps:,} updates"
    if result.val_loss is None:
        return "has no finite validation loss: it has diverged"
    if result.tokens != entry.tokens:
        raise InputError(
            f"the run in {out} has read {result.tokens:,} tokens, and its rung has {entry.tokens:,}; remove "
            "it and run the ladder again"
        )
    return float(result.val_loss)


def _require_same_text(config: RunConfigDocument, out: Path, document: LadderDocument) -> None:
    model, provenance = config["model"], config["provenance"]
    found = {
        "a vocabulary of": (model.get("vocab_size"), document.vocab_size),
        "a context of": (model.get("context_length"), document.context_length),
        "tokens with the hash": (provenance.get("tokens_sha256"), document.tokens_sha256),
    }
    for what, (there, here) in found.items():
        if there != here:
            raise InputError(
                f"the run in {out} has {what} {str(there)[:12]}, and the ladder {str(here)[:12]}: their "
                "losses do not compare; remove that run and run the ladder again on its own text"
            )
