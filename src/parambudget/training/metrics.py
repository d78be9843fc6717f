"""What a run says while it goes and when it ends: plain values, as in metrics.jsonl and summary.json."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from parambudget._files import read_json
from parambudget.arch.config import ModelConfig
from parambudget.cost.params import total
from parambudget.errors import InputError
from parambudget.formats.source import read_source


@dataclass(frozen=True)
class Step:
    """One update, after it was made; an evaluation's figures are there when one followed it."""

    step: int
    """Completed updates, from 1."""
    loss: float | None
    """Mean nats per token over the update's batch; None if it was not finite."""
    lr: float
    grad_norm: float | None
    """Before clipping; None if it was not finite."""
    skipped: bool
    """Loss or gradient was not finite, and the weights were left as they were."""
    tokens: int
    """Training tokens seen so far."""
    tokens_per_second: float
    """Of this update alone, without evaluation and saving."""
    mfu: float | None
    """Share of the device's dense peak, full convention; None where the peak is not known."""
    busiest_expert: float | None = None
    """Tokens of the busiest expert over an even share, in the worst layer; None of a dense model."""
    val_loss: float | None = None
    """Mean nats per validation token."""
    val_bits_per_byte: float | None = None
    """The same loss in bits per byte of text: comparable between tokenizers."""

    def as_row(self) -> dict[str, Any]:
        """The line in metrics.jsonl: without the figures that this update or this model has none of."""
        row = asdict(self)
        if self.val_loss is None:
            del row["val_loss"], row["val_bits_per_byte"]
        if not self.skipped:
            del row["skipped"]
        if self.busiest_expert is None:
            del row["busiest_expert"]
        return row

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """What `as_row` gave, back."""
        return cls(**({"skipped": False} | dict(row)))


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    finished: bool
    parameters: int
    """Learned parameters of the module that was trained, equal to the planned total."""
    steps: int
    tokens: int
    loss: float | None
    val_loss: float | None
    val_bits_per_byte: float | None
    tokens_per_second: float
    """Over all updates but the first, those before a resume too, without evaluation and saving."""
    mfu: float | None
    """Full convention, of `peak_flops`."""
    peak_flops: float | None
    """Dense bfloat16 FLOP/s of all devices; None where not known."""
    peak_memory_bytes: int | None
    """As `Compute.peak_memory_bytes` has it."""
    seconds: float
    """From the start, or the resume, to the last save."""
    device: str
    planned: dict[str, Any] | None
    """What was expected of peak memory, tokens per second and update time: `training.forecast.Expected`."""
    checkpoint: Path | None
    """The newest one; None if the run was stopped before its first update."""

    @classmethod
    def of_dict(cls, held: Mapping[str, Any]) -> Self:
        """What `as_dict` gave, back."""
        saved = held.get("checkpoint")
        return cls(**{**held, "checkpoint": Path(saved) if saved else None})

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, as in summary.json."""
        return asdict(self) | {"checkpoint": str(self.checkpoint) if self.checkpoint else None}


@dataclass(frozen=True)
class Run:
    """A run: its model, its updates, and what was true of it at its last save."""

    folder: Path
    model: ModelConfig
    steps: tuple[Step, ...]
    planned_steps: int | None
    summary: dict[str, Any]
    """summary.json; empty before the first save."""

    @property
    def name(self) -> str:
        """The last part of the folder's name."""
        return self.folder.resolve().name

    @property
    def evaluated(self) -> tuple[Step, ...]:
        """The updates that an evaluation followed."""
        return tuple(step for step in self.steps if step.val_loss is not None)

    @property
    def update_seconds(self) -> float:
        """Spent in updates, those before a resume too; without evaluation and saving."""
        return sum(self._seconds())

    @property
    def tokens_per_second(self) -> float:
        """Over all updates but the first, which also warms up."""
        seconds = list(self._seconds())
        steady = seconds[1:] or seconds
        return self.steps[-1].tokens / len(self.steps) * len(steady) / sum(steady)

    @property
    def mfu(self) -> float | None:
        """Share of the device's dense peak, full convention, at the mean speed; None where not known."""
        last = self.steps[-1]
        return None if last.mfu is None else last.mfu / last.tokens_per_second * self.tokens_per_second

    def as_dict(self) -> dict[str, Any]:
        """The figures of the run, as plain JSON values."""
        last, evaluated = self.steps[-1], self.evaluated
        best = min(evaluated, key=lambda step: step.val_loss or 0.0) if evaluated else None
        return {
            "run": str(self.folder),
            "finished": bool(self.summary.get("finished", False)),
            "parameters": self.summary.get("parameters"),
            "planned": total(self.model),
            "steps": last.step,
            "planned_steps": self.planned_steps,
            "tokens": last.tokens,
            "loss": last.loss,
            "val_loss": evaluated[-1].val_loss if evaluated else None,
            "val_bits_per_byte": evaluated[-1].val_bits_per_byte if evaluated else None,
            "best_val_loss": best.val_loss if best else None,
            "best_step": best.step if best else None,
            "skipped": sum(step.skipped for step in self.steps),
            "tokens_per_second": self.tokens_per_second,
            "mfu": self.mfu,
            "peak_flops": self.summary.get("peak_flops"),
            "peak_memory_bytes": self.summary.get("peak_memory_bytes"),
            "planned_figures": self.summary.get("planned"),
            "update_seconds": self.update_seconds,
            "seconds": self.summary.get("seconds"),
            "device": self.summary.get("device"),
            "checkpoint": self.summary.get("checkpoint"),
        }

    def _seconds(self) -> Iterator[float]:
        before = 0
        for step in self.steps:
            yield (step.tokens - before) / step.tokens_per_second
            before = step.tokens


def config_of(out: Path) -> Path | None:
    """config.json of the run in `out`, or where it cannot be read its copy in the newest checkpoint.

    None if `out` holds no run.
    """
    own = out / "config.json"
    if not own.exists():
        return None
    try:
        _document(own)
    except InputError as error:
        for folder in saved_in(out / "checkpoints"):
            with suppress(InputError):
                _document(folder / "config.json")
                return folder / "config.json"
        what = str(error).split(";")[0]
        raise InputError(
            f"{what}, and no checkpoint has a copy of it; choose another folder with --out"
        ) from None
    return own


def stored_config(out: Path) -> dict[str, Any] | None:
    """What the config file of the run in `out` holds; None if `out` holds no run."""
    path = config_of(out)
    return None if path is None else _document(path)


def saved_in(checkpoints: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    found = [path for path in checkpoints.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def _document(path: Path) -> dict[str, Any]:
    document = read_json(path)
    if not isinstance(document, dict) or not {"model", "provenance", "train"} <= document.keys():
        raise InputError(f"{path} is not of a run; choose another folder with --out")
    return document


def read_run(folder: Path) -> Run:
    """The run in a folder; its last line may have been cut short."""
    if not (folder / "config.json").is_file() or not (folder / "metrics.jsonl").is_file():
        raise InputError(f"{folder} holds no run that has begun; give the folder that train --out named")
    source = read_source(folder / "config.json")
    summary = read_json(folder / "summary.json") if (folder / "summary.json").is_file() else {}
    steps = tuple(_steps(folder / "metrics.jsonl"))
    if not steps:
        raise InputError(f"{folder} has no update yet; wait for its first one")
    return Run(folder, ModelConfig.read(source.fields), steps, source.train.get("steps"), summary)


def _steps(path: Path) -> Iterator[Step]:
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            yield Step.of_row(json.loads(line))
        except (ValueError, TypeError):
            if number < len(lines):
                raise InputError(f"{path}, line {number}: not a line that train wrote; remove it") from None
