"""The metrics of a run, per update and at its end: plain values, as in metrics.jsonl and summary.json."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, Self, cast

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from parambudget._documents import CLOSED, Count, Sha256, parse_document, unsealed_fields
from parambudget._files import json_text, read_inside, read_json, require_inside
from parambudget._json_types import SchemaOf
from parambudget._tabular import HasRows
from parambudget.arch.config import ModelConfig
from parambudget.cost.params import total
from parambudget.errors import InputError, without_advice
from parambudget.scaling.loss_interval import LossInterval, LossIntervalDocument
from parambudget.text.forms import TokenDtype
from parambudget.units import format_count

METRICS: Final = "metrics.jsonl"
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of one update, and those of the evaluation after it if there was one."""

    __pydantic_config__ = CLOSED

    step: Annotated[int, Field(ge=0, le=2**31)]
    """Completed updates, from 1."""
    loss: float | None
    """Mean nats per token over the update's batch; None if not finite."""
    lr: float
    grad_norm: float | None
    """Before clipping; None if not finite."""
    skipped: bool
    """Loss or gradient was not finite, and the weights were left as they were."""
    tokens: Count
    """Training tokens seen so far."""
    tokens_per_second: float
    """Of this update alone, without evaluation and saving."""
    mfu: float | None
    """Model FLOPs utilization: share of the dense peak, full convention; None if the peak is not known."""
    busiest_expert: float | None = None
    """Tokens of the busiest expert relative to an even share, in the worst layer; None for a dense model."""
    val_loss: float | None = None
    """Mean nats per validation token; None if not finite."""
    val_bits_per_byte: float | None = None
    """The same loss in bits per byte of text: comparable between tokenizers."""
    val_loss_by_set: dict[str, float | None] | None = None
    """The validation loss on each set of a mixture, of which `val_loss` is the mean by their shares."""
    evaluated: bool = False
    """The model was evaluated after this update."""

    def as_row(self) -> dict[str, object]:
        """The line in metrics.jsonl, without the fields that do not apply to this update or model."""
        row = asdict(self)
        del row["evaluated"]
        if not self.evaluated:
            del row["val_loss"], row["val_bits_per_byte"]
        if not self.skipped:
            del row["skipped"]
        if self.busiest_expert is None:
            del row["busiest_expert"]
        if self.val_loss_by_set is None:
            del row["val_loss_by_set"]
        return row

    @classmethod
    def parse_row(cls, line: str, name: str) -> Self:
        """The metrics that `as_row` made a line of; the error says what is wrong in `name`."""
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{name} is not a line that train wrote") from None
        if isinstance(row, dict):
            row = {"skipped": False, **row, "evaluated": "val_loss" in row}
        return parse_document(row, cls, name)


@dataclass(frozen=True)
class LossForecast:
    """The validation loss that a run should end at, in nats per token."""

    __pydantic_config__ = CLOSED

    law: str | None
    """The law that it was planned by; None where its own curve alone is followed."""
    planned: LossInterval | None
    """What that law says; None without one."""
    ends_at: LossInterval | None
    """What the curve so far says; None before a fifth of the updates and the first evaluation, and at the
    end."""
    halfway: LossInterval | None
    """What the curve said after half of the updates; None before."""


@dataclass(frozen=True, repr=False)
class TrainResult(HasRows):
    """The state of a run at its end, or at its last save; its table has one row per update.

    It is a path, that of the run's folder: it stands wherever the folder of a run does.
    """

    __pydantic_config__ = CLOSED

    finished: bool
    """All planned updates are done."""
    parameters: Count
    """Parameters of the trained module, equal to the planned total."""
    steps: Count
    """Completed updates."""
    tokens: Count
    """Trained on."""
    loss: float | None
    """Of the last update, mean nats per token; None if not finite."""
    val_loss: float | None
    """Of the last evaluation, mean nats per token; None if there was none, or it is not finite."""
    val_bits_per_byte: float | None
    """The same loss in bits per byte of text: comparable between tokenizers."""
    tokens_per_second: float
    """Over all updates but the first, including those before a resume, without evaluation and saving."""
    mfu: float | None
    """Share of `peak_flops`, full convention."""
    peak_flops: float | None
    """Dense bfloat16 FLOP/s of all devices; None if not known."""
    peak_memory_bytes: Count | None
    """As measured by `Compute.peak_memory_bytes`."""
    seconds: float
    """Of the last session, from the start or the resume to the last save: everything counts."""
    update_seconds: float
    """Spent in updates, including those before a resume, without evaluation and saving."""
    device: str
    """What the run was trained on."""
    planned: dict[str, int | float | None] | None
    """The predicted peak memory, tokens per second and update time, as in `training.run.forecast`."""
    checkpoint: Path | None
    """The newest one; None if the run stopped before its first update."""
    folder: Path
    """Of the run."""
    forecast: LossForecast | None = None
    """What it should end at; None unless that was asked for."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The result in summary.json of a run's folder; the error is one line."""
        path = folder / "summary.json"
        values = read_own_json(path)
        return parse_document(
            {**values, "folder": str(folder)} if isinstance(values, dict) else values, cls, str(path)
        )

    def __fspath__(self) -> str:
        """The folder of the run."""
        return str(self.folder)

    def __repr__(self) -> str:
        """A line or two, as a person reads them."""
        losses = {"loss": self.loss, "validation loss": self.val_loss}
        reached = [f"{name} {loss:.4f}" for name, loss in losses.items() if loss is not None]
        if self.val_bits_per_byte is not None:
            reached.append(f"{self.val_bits_per_byte:.4f} bits per byte")
        return (
            f"run in {self.folder}, {'finished' if self.finished else 'not finished'}: {self.steps:,} "
            f"updates, {format_count(self.tokens)} tokens, {self.parameters:,} parameters\n"
            f"{', '.join(reached) or 'no finite loss'}; {self.tokens_per_second:,.0f} tokens/s on "
            f"{self.device}"
        )

    def as_dict(self) -> "TrainResultDocument":
        """Plain JSON values, as in summary.json."""
        values = asdict(self) | {"checkpoint": str(self.checkpoint) if self.checkpoint else None}
        del values["folder"]
        return values

    def rows(self) -> list[dict[str, object]]:
        """One dict per update, read from metrics.jsonl."""
        rows = [asdict(step) for step in read_run(self.folder).steps]
        return [{name: value for name, value in row.items() if name != "evaluated"} for row in rows]


TrainResultDocument = Annotated[dict[str, Any], SchemaOf(TrainResult, without=("folder",))]
"""The state of a run at its end, or at its last save, as in summary.json."""


@dataclass(frozen=True)
class MixedSet:
    """A set of a mixture, as a run's provenance has it."""

    __pydantic_config__ = CLOSED

    name: str
    share: Annotated[str, Field(pattern=r"^[0-9]{1,20}(/[1-9][0-9]{0,19})?$")]
    train_tokens: Annotated[int, Field(ge=1, le=2**62)]

    def epochs(self, tokens: int) -> float:
        """How often a run has read the set when it has read so many tokens in all."""
        return float(Fraction(self.share) * tokens / self.train_tokens)


class SetProgressDocument(TypedDict):
    """How far a run has read a set of its mixture."""

    name: str
    """Of the set."""
    share: float
    """Of the tokens that the run reads."""
    epochs: float
    """How often it has been read."""


class RunForecastDocument(TypedDict):
    """What a run should end at, and whether it did. Losses are in nats per token."""

    law: str | None
    """The law that it was planned by; null where its own curve alone is followed."""
    planned: LossIntervalDocument | None
    """What that law says; null without one."""
    in_planned: bool | None
    """Whether the validation loss at the end lies in it; null without a law, or before the end."""
    ends_at: LossIntervalDocument | None
    """What the curve said at the last save; null where that was too early, and at the end."""
    halfway: LossIntervalDocument | None
    """What the curve said after half of the updates; null before."""
    in_halfway: bool | None
    """Whether the validation loss at the end lies in that; null before the end, or without it."""


class RunDocument(TypedDict):
    """The figures of a run, finished or not."""

    run: str
    """Its folder."""
    finished: bool
    """All planned updates are done."""
    parameters: int | None
    """Of the trained module; null before the first save."""
    planned: int
    """Parameters of the config."""
    steps: int
    """Completed updates."""
    planned_steps: int | None
    """Updates that the run is to have."""
    tokens: int
    """Trained on so far."""
    loss: float | None
    """Of the last update, mean nats per token; null if not finite."""
    val_loss: float | None
    """Of the last evaluation, mean nats per token; null before it, or if not finite."""
    val_bits_per_byte: float | None
    """Of the last evaluation; comparable between tokenizers."""
    best_val_loss: float | None
    """The least of all evaluations, nats per token."""
    best_step: int | None
    """The update after which that was measured."""
    evaluations: int
    """How often the validation loss was measured."""
    skipped: int
    """Updates whose loss or gradient was not finite, and which left the weights as they were."""
    tokens_per_second: float
    """Over all updates but the first, without evaluation and saving."""
    mfu: float | None
    """Model FLOPs utilization: share of the dense peak, full convention; null if the peak is not known."""
    peak_flops: float | None
    """Dense bfloat16 FLOP/s of all devices; null if not known, or before the first save."""
    peak_memory_bytes: int | None
    """Measured; null if it is not, or before the first save."""
    planned_figures: dict[str, int | float | None] | None
    """The prediction made at the start, to stand beside what was measured: peak memory in bytes, tokens per
    second with its interval, seconds of an update."""
    update_seconds: float
    """Spent in updates, without evaluation and saving."""
    seconds: float | None
    """Of the last session, everything included; null before the first save."""
    device: str | None
    """What it was trained on; null before the first save."""
    checkpoint: str | None
    """The newest one when the run was last saved."""
    mixture: list[SetProgressDocument]
    """The sets of tokens that the run reads; empty if it reads a single one."""
    val_loss_by_set: dict[str, float | None] | None
    """The last validation loss of each set, nats per token; null without a mixture."""
    forecast: RunForecastDocument | None
    """What the run should end at; null unless that was asked for, or before the first save."""


@dataclass(frozen=True)
class Run:
    """A run read from its folder: its model, its updates, and its summary at the last save."""

    folder: Path
    model: ModelConfig
    steps: tuple[StepMetrics, ...]
    planned_steps: int | None
    summary: TrainResult | None
    """summary.json; None before the first save."""
    mixture: tuple[MixedSet, ...] = ()
    """The sets of tokens that the run reads; none if it reads a single one."""

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def evaluations(self) -> tuple[StepMetrics, ...]:
        """The updates that were followed by an evaluation."""
        return tuple(step for step in self.steps if step.evaluated)

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
        if summary is not None and summary.steps == last.step:
            return summary
        figures = self.as_dict()
        saved = next(iter(list_checkpoints(self.folder / "checkpoints")), None)
        return TrainResult(
            finished=False, parameters=figures["parameters"] or figures["planned"], steps=last.step,
            tokens=last.tokens, loss=last.loss, val_loss=figures["val_loss"],
            val_bits_per_byte=figures["val_bits_per_byte"], tokens_per_second=figures["tokens_per_second"],
            mfu=figures["mfu"], peak_flops=figures["peak_flops"],
            peak_memory_bytes=figures["peak_memory_bytes"],
            seconds=figures["seconds"] or figures["update_seconds"],
            update_seconds=figures["update_seconds"], device=figures["device"] or "",
            planned=figures["planned_figures"], checkpoint=saved, folder=self.folder,
            forecast=None if summary is None else summary.forecast,
        )  # fmt: skip

    def as_dict(self) -> RunDocument:
        """The figures of the run as plain JSON values."""
        last, evaluations = self.steps[-1], self.evaluations
        finite = [(step.val_loss, step.step) for step in evaluations if step.val_loss is not None]
        best_loss, best_step = min(finite, default=(None, None))
        summary = {} if self.summary is None else self.summary.as_dict()
        return {
            "run": str(self.folder),
            "finished": summary.get("finished", False),
            "parameters": summary.get("parameters"),
            "planned": total(self.model),
            "steps": last.step,
            "planned_steps": self.planned_steps,
            "tokens": last.tokens,
            "loss": last.loss,
            "val_loss": evaluations[-1].val_loss if evaluations else None,
            "val_bits_per_byte": evaluations[-1].val_bits_per_byte if evaluations else None,
            "best_val_loss": best_loss,
            "best_step": best_step,
            "evaluations": len(evaluations),
            "skipped": sum(step.skipped for step in self.steps),
            "tokens_per_second": self.tokens_per_second,
            "mfu": self.mfu,
            "peak_flops": summary.get("peak_flops"),
            "peak_memory_bytes": summary.get("peak_memory_bytes"),
            "planned_figures": summary.get("planned"),
            "update_seconds": self.update_seconds,
            "seconds": summary.get("seconds"),
            "device": summary.get("device"),
            "checkpoint": summary.get("checkpoint"),
            "mixture": [
                {"name": each.name, "share": float(Fraction(each.share)), "epochs": each.epochs(last.tokens)}
                for each in self.mixture
            ],
            "val_loss_by_set": evaluations[-1].val_loss_by_set if evaluations else None,
            "forecast": self._forecast_document(),
        }

    def _forecast_document(self) -> RunForecastDocument | None:
        summary = self.summary
        if summary is None or (forecast := summary.forecast) is None:
            return None
        loss = summary.val_loss if summary.finished else None

        def contains_end(interval: LossInterval | None) -> bool | None:
            return None if interval is None or loss is None else interval.contains(loss)

        return {
            "law": forecast.law,
            "planned": None if forecast.planned is None else forecast.planned.as_dict(),
            "in_planned": contains_end(forecast.planned),
            "ends_at": None if forecast.ends_at is None else forecast.ends_at.as_dict(),
            "halfway": None if forecast.halfway is None else forecast.halfway.as_dict(),
            "in_halfway": contains_end(forecast.halfway),
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
        read_document(path)
    except InputError as error:
        for folder in list_checkpoints(out / "checkpoints"):
            with suppress(InputError):
                read_document(folder / "config.json")
                return folder / "config.json"
        problem = without_advice(error)
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
    return None if path is None else read_document(path)


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    folders = [path for path in checkpoints.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def read_own_json(path: Path) -> Any:
    """The JSON value in a file of a run, unless it is a link to somewhere else; the error is one line."""
    try:
        require_inside(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; replace it by the file itself") from None
    return read_json(path)


def read_document(path: Path) -> RunConfigDocument:
    """The config file of a run; the error is one line."""
    document = read_own_json(path)
    if not isinstance(document, dict) or not {"model", "provenance", "train"} <= document.keys():
        raise InputError(f"{path} does not belong to a run; choose another folder with `out`")
    for name in ("model", "provenance", "train"):
        if not isinstance(document[name], dict):
            raise InputError(
                f"{path} is damaged: {name} is {json.dumps(document[name])[:40]}, not an object; choose "
                "another folder with `out`"
            )
    _read_provenance(cast(RunConfigDocument, document), path)
    return cast(RunConfigDocument, document)


def _read_provenance(document: RunConfigDocument, path: Path) -> "_RunProvenance":
    return parse_document(document["provenance"], _RunProvenance, f"provenance in {path}")


@dataclass(frozen=True)
class _RunTrain:
    """What is shown of a run's settings."""

    __pydantic_config__ = CLOSED | ConfigDict(extra="ignore")

    steps: Annotated[int, Field(ge=1, le=2**31)] | None = None


@dataclass(frozen=True)
class _RunProvenance:
    """What is read back of a run's provenance; the rest of it is for people."""

    __pydantic_config__ = CLOSED | ConfigDict(extra="ignore")

    given: tuple[str, ...] = ()
    hours: Positive | None = None
    update_seconds: Positive | None = None
    data: str | None = None
    mixture: tuple[MixedSet, ...] = ()
    train_tokens: Annotated[int, Field(ge=1, le=2**62)] | None = None
    token_dtype: TokenDtype | None = None
    tokenizer: str | None = None
    end_of_text: str | None = None
    init: str | None = None
    init_sha256: str | None = None


def unique_tokens_read(document: RunConfigDocument, path: Path, tokens: int) -> int | None:
    """Different tokens that a run has read when it has read so many in all; None where its config file, which
    is at `path`, does not say how long its text is."""
    origin = _read_provenance(document, path)
    if origin.mixture:
        return sum(min(each.train_tokens, int(Fraction(each.share) * tokens)) for each in origin.mixture)
    return None if origin.train_tokens is None else min(origin.train_tokens, tokens)


def read_run(folder: Path) -> Run:
    """The run in a folder; the last line of its metrics may have been cut short."""
    if not (folder / "config.json").is_file() or not (folder / METRICS).is_file():
        raise InputError(f"no run has started in {folder}; give the folder of a run")
    document = read_document(folder / "config.json")
    steps_planned = parse_document(document["train"], _RunTrain, f"train in {folder / 'config.json'}").steps
    summary = TrainResult.read(folder) if (folder / "summary.json").is_file() else None
    content = read_metrics(folder)
    for saved in list_checkpoints(folder / "checkpoints"):
        with suppress(OSError):  # a run that goes on may be removing it
            require_saved_metrics(content, saved, folder / METRICS)
            break
    steps = parse_rows(content, folder / METRICS, last_may_be_cut=True)
    if not steps:
        raise InputError(f"{folder} has no update yet; wait for its first one")
    mixture = _read_provenance(document, folder / "config.json").mixture
    return Run(folder, ModelConfig.read(document["model"]), tuple(steps), steps_planned, summary, mixture)


def read_metrics(folder: Path) -> bytes:
    """metrics.jsonl of a run."""
    try:
        return read_inside(folder / METRICS)
    except OSError as error:
        raise InputError(f"cannot read {folder / METRICS}: {error.strerror}") from None


def format_rows(steps: Iterable[StepMetrics]) -> bytes:
    """Updates as lines of metrics.jsonl."""
    return "".join(json_text(step.as_row()) + "\n" for step in steps).encode()


def parse_rows(content: bytes, path: Path, *, last_may_be_cut: bool = False) -> list[StepMetrics]:
    """The updates in metrics.jsonl, one after the other; the error names the line that is none."""
    lines = content.decode(errors="replace").split("\n")
    cut = lines.pop()
    if cut and not last_may_be_cut:
        raise InputError(f"{path}, line {len(lines) + 1}, is cut short")
    steps = [StepMetrics.parse_row(line, f"{path}, line {n},") for n, line in enumerate(lines, 1)]
    for n, step in enumerate(steps, 1):
        if step.step != n or step.tokens_per_second <= 0:
            raise InputError(f"{path}, line {n}, is not of update {n}, which train wrote there")
    return steps


def require_saved_metrics(content: bytes, saved: Path, path: Path) -> None:
    """Refuse metrics that do not begin with the rows of a checkpoint, by its copy of them, whose hash stands
    in its state.json; raises `OSError` if there is no copy."""
    copy = read_inside(saved / METRICS)
    try:
        fields = unsealed_fields(read_own_json(saved / "state.json"), saved / "state.json")
        hashes = parse_document(fields, _SavedHashes, str(saved)).sha256
    except InputError as error:
        raise OSError(str(error)) from None  # without its state it is no checkpoint, and nothing to go by
    if hashes.get(METRICS) != hashlib.sha256(copy).hexdigest():
        raise InputError(
            f"checkpoint {saved} is damaged: {METRICS} does not match its hash, so {path} cannot be checked; "
            f"resume the run to restore it from an older checkpoint, or remove {saved.name}"
        )
    require_same_metrics(content, copy, path)


@dataclass(frozen=True)
class _SavedHashes:
    """What is read of state.json where torch need not be imported."""

    __pydantic_config__ = CLOSED | ConfigDict(extra="ignore")

    sha256: dict[str, Sha256]


def require_same_metrics(content: bytes, saved: bytes, path: Path) -> None:
    """Refuse metrics that do not begin with those that a checkpoint has a copy of; names the first line."""
    if not content.startswith(saved):
        pairs = zip(content.split(b"\n"), saved.split(b"\n"), strict=False)
        same = [here == there for here, there in pairs]
        n = same.index(False) + 1 if False in same else len(same)
        raise InputError(
            f"{path} is damaged: line {n} is not what train wrote; resume the run to restore it from a "
            "checkpoint"
        )
