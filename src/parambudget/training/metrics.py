"""The metrics of a run, per update and at its end: plain values, as in metrics.jsonl and summary.json."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypedDict, cast

from parambudget._files import read_json
from parambudget._tabular import HasRows
from parambudget.arch.config import ModelConfig
from parambudget.cost.params import total
from parambudget.errors import InputError
from parambudget.formats.source import read_source


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of one update, and those of the evaluation after it if there was one."""

    step: int
    """Completed updates, from 1."""
    loss: float | None
    """Mean nats per token over the update's batch; None if not finite."""
    lr: float
    grad_norm: float | None
    """Before clipping; None if not finite."""
    skipped: bool
    """Loss or gradient was not finite, and the weights were left as they were."""
    tokens: int
    """Training tokens seen so far."""
    tokens_per_second: float
    """Of this update alone, without evaluation and saving."""
    mfu: float | None
    """Model FLOPs utilization: share of the dense peak, full convention; None if the peak is not known."""
    busiest_expert: float | None = None
    """Tokens of the busiest expert relative to an even share, in the worst layer; None for a dense model."""
    val_loss: float | None = None
    """Mean nats per validation token."""
    val_bits_per_byte: float | None = None
    """The same loss in bits per byte of text: comparable between tokenizers."""

    def as_row(self) -> dict[str, float | bool | None]:
        """The line in metrics.jsonl, without the fields that do not apply to this update or model."""
        row = asdict(self)
        if self.val_loss is None:
            del row["val_loss"], row["val_bits_per_byte"]
        if not self.skipped:
            del row["skipped"]
        if self.busiest_expert is None:
            del row["busiest_expert"]
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The metrics that `as_row` made a line of."""
        return cls(**({"skipped": False} | dict(row)))


@dataclass(frozen=True)
class TrainResult(HasRows):
    """The state of a run at its end, or at its last save; its table has one row per update."""

    finished: bool
    parameters: int
    """Parameters of the trained module, equal to the planned total."""
    steps: int
    tokens: int
    loss: float | None
    val_loss: float | None
    val_bits_per_byte: float | None
    tokens_per_second: float
    """Over all updates but the first, including those before a resume, without evaluation and saving."""
    mfu: float | None
    """Share of `peak_flops`, full convention."""
    peak_flops: float | None
    """Dense bfloat16 FLOP/s of all devices; None if not known."""
    peak_memory_bytes: int | None
    """As measured by `Compute.peak_memory_bytes`."""
    seconds: float
    """From the start, or from the resume, to the last save."""
    device: str
    planned: dict[str, float | None] | None
    """The predicted peak memory, tokens per second and update time, as in `training.run.forecast`."""
    checkpoint: Path | None
    """The newest one; None if the run stopped before its first update."""
    folder: Path
    """Of the run."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], folder: Path) -> Self:
        """The result that `as_dict` made JSON values of, with the folder of its run."""
        saved = values.get("checkpoint")
        return cls(**{**values, "checkpoint": Path(saved) if saved else None, "folder": folder})

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, as in summary.json."""
        values = asdict(self) | {"checkpoint": str(self.checkpoint) if self.checkpoint else None}
        del values["folder"]
        return values

    def rows(self) -> list[dict[str, object]]:
        """One dict per update, read from metrics.jsonl."""
        return [asdict(step) for step in read_run(self.folder).steps]


@dataclass(frozen=True)
class Run:
    """A run read from its folder: its model, its updates, and its summary at the last save."""

    folder: Path
    model: ModelConfig
    steps: tuple[StepMetrics, ...]
    planned_steps: int | None
    summary: dict[str, Any]
    """summary.json; empty before the first save."""

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def evaluations(self) -> tuple[StepMetrics, ...]:
        """The updates that were followed by an evaluation."""
        return tuple(step for step in self.steps if step.val_loss is not None)

    @property
    def update_seconds(self) -> float:
        """Spent in updates, including those before a resume, without evaluation and saving."""
        return sum(self._step_seconds())

    @property
    def tokens_per_second(self) -> float:
        """Over all updates but the first, which includes warm-up."""
        seconds = list(self._step_seconds())
        steady = seconds[1:] or seconds
        return self.steps[-1].tokens / len(self.steps) * len(steady) / sum(steady)

    @property
    def mfu(self) -> float | None:
        """Share of the dense peak, full convention, at the mean speed; None if the peak is not known."""
        last = self.steps[-1]
        return None if last.mfu is None else last.mfu / last.tokens_per_second * self.tokens_per_second

    def result(self) -> TrainResult:
        """The state of the run after its newest update: what `train` returned if that was the last."""
        summary, last = self.summary, self.steps[-1]
        if summary.get("steps") == last.step:
            return TrainResult.from_dict(summary, self.folder)
        figures = self.as_dict()
        saved = next(iter(list_checkpoints(self.folder / "checkpoints")), None)
        return TrainResult(
            finished=False, parameters=figures["parameters"] or figures["planned"], steps=last.step,
            tokens=last.tokens, loss=last.loss, val_loss=figures["val_loss"],
            val_bits_per_byte=figures["val_bits_per_byte"], tokens_per_second=figures["tokens_per_second"],
            mfu=figures["mfu"], peak_flops=figures["peak_flops"],
            peak_memory_bytes=figures["peak_memory_bytes"],
            seconds=figures["seconds"] or figures["update_seconds"], device=figures["device"] or "",
            planned=figures["planned_figures"], checkpoint=saved, folder=self.folder,
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """The figures of the run as plain JSON values."""
        last, evaluations = self.steps[-1], self.evaluations
        best = min(evaluations, key=lambda step: step.val_loss or 0.0) if evaluations else None
        return {
            "run": str(self.folder),
            "finished": bool(self.summary.get("finished", False)),
            "parameters": self.summary.get("parameters"),
            "planned": total(self.model),
            "steps": last.step,
            "planned_steps": self.planned_steps,
            "tokens": last.tokens,
            "loss": last.loss,
            "val_loss": evaluations[-1].val_loss if evaluations else None,
            "val_bits_per_byte": evaluations[-1].val_bits_per_byte if evaluations else None,
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

    def _step_seconds(self) -> Iterator[float]:
        before = 0
        for step in self.steps:
            yield (step.tokens - before) / step.tokens_per_second
            before = step.tokens


def run_config_path(out: Path) -> Path | None:
    """config.json of the run in `out`; if that cannot be read, its copy in the newest checkpoint.

    None if `out` holds no run.
    """
    path = out / "config.json"
    if not path.exists():
        return None
    try:
        _read_document(path)
    except InputError as error:
        for folder in list_checkpoints(out / "checkpoints"):
            with suppress(InputError):
                _read_document(folder / "config.json")
                return folder / "config.json"
        problem = str(error).split(";")[0]
        raise InputError(
            f"{problem}, and no checkpoint has a copy of it; choose another folder with `out`"
        ) from None
    return path


class RunConfigDocument(TypedDict):
    """The config file of a run, as JSON."""

    model: dict[str, object]
    provenance: dict[str, object]
    train: dict[str, object]


def read_run_config(out: Path) -> RunConfigDocument | None:
    """The config file of the run in `out`; None if `out` holds no run."""
    path = run_config_path(out)
    return None if path is None else _read_document(path)


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    folders = [path for path in checkpoints.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def _read_document(path: Path) -> RunConfigDocument:
    document = read_json(path)
    if not isinstance(document, dict) or not {"model", "provenance", "train"} <= document.keys():
        raise InputError(f"{path} does not belong to a run; choose another folder with `out`")
    return cast(RunConfigDocument, document)


def read_run(folder: Path) -> Run:
    """The run in a folder; the last line of its metrics may have been cut short."""
    if not (folder / "config.json").is_file() or not (folder / "metrics.jsonl").is_file():
        raise InputError(f"no run has started in {folder}; give the folder of a run")
    source = read_source(folder / "config.json")
    summary = read_json(folder / "summary.json") if (folder / "summary.json").is_file() else {}
    steps = tuple(_read_steps(folder / "metrics.jsonl"))
    if not steps:
        raise InputError(f"{folder} has no update yet; wait for its first one")
    return Run(folder, ModelConfig.read(source.fields), steps, source.train.get("steps"), summary)


def _read_steps(path: Path) -> Iterator[StepMetrics]:
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            yield StepMetrics.from_row(json.loads(line))
        except (ValueError, TypeError):
            if number < len(lines):
                raise InputError(f"{path}, line {number}: not a line that train wrote; remove it") from None
