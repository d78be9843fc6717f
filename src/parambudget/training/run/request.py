"""What a caller asks of a run, and what the run tells the caller: plain values, known before torch is
imported."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parambudget.arch.config import ModelConfig
from parambudget.cost.params import total
from parambudget.cost.step import Sharding
from parambudget.errors import InputError, without_advice
from parambudget.formats.source import Source, load_whole_function, read_source
from parambudget.formats.unread import require_readable
from parambudget.training.config import RUNS
from parambudget.training.evaluation.results import Evaluation
from parambudget.training.metrics import StepMetrics, TrainResult, read_run_config, run_config_path
from parambudget.training.profiling.update_profile import MOST_UPDATES, UpdateProfile
from parambudget.training.run.end_loss import ForecastRequest, RunForecast, request_forecast
from parambudget.training.run.requested import RequestedSettings, merge_sources, require_possible
from parambudget.units import format_count

if TYPE_CHECKING:
    from parambudget.text.forms import TokenDtype
    from parambudget.text.token_cache import TokenData
    from parambudget.training.run.defaults import ResolvedTrainConfig
    from parambudget.training.run.forecast import Prediction


@dataclass(frozen=True)
class RunOptions:
    """How long a run is, where it is kept, and what it starts from."""

    out: Path | None = None
    """Folder of the run; None for the next free one in runs/."""
    data: Path | None = None
    """Text to train on; `builtin` for Python's standard library; None for that of the run, else built in."""
    token_dtype: "TokenDtype | None" = None
    """Type of the ids in `data`, where its files do not name it."""
    tokenizer: str | None = None
    """What has made the tokens in `data`, or is to make them of its text; None for a BPE trained on it."""
    tokens: int | None = None
    """Tokens to train on; at most one of tokens, hours and steps is given."""
    hours: float | None = None
    resume: bool = False
    """Resume the run in `out` if there is one."""
    init: Path | None = None
    """A checkpoint or a Hugging Face folder whose weights a new run starts from."""
    sharding: Sharding | None = None
    """How the model is divided among the processes; None leaves it to the plan."""
    wandb: str | None = None
    """Project of Weights & Biases to report to."""
    profile: int | None = None
    """How many updates to profile; None for none."""
    tensorboard: bool = False
    """Write event files of TensorBoard into the folder of the run."""
    trackio: str | None = None
    """Project of trackio to report to."""
    eval_choices: Path | None = None
    """Questions that the finished run is evaluated on."""
    eval_text: Path | None = None
    """A text that the finished run is evaluated on."""
    forecast: ForecastRequest | None = None
    """Say while it trains what it should end at."""

    @property
    def evaluates(self) -> bool:
        """Whether the finished run is evaluated on something."""
        return self.eval_choices is not None or self.eval_text is not None


@dataclass(frozen=True)
class RunRequest:
    """A run as it was asked for, with the model and the config file read."""

    model: ModelConfig
    out: Path
    options: RunOptions
    requested: RequestedSettings
    """Of the caller, the config file and the run to resume; possible together."""
    provenance: Mapping[str, object]
    """Of the run to resume, else of the run that the config file belongs to: its text is meant."""
    forecast: ForecastRequest | None
    """Asked for, now or when the run to resume began."""


@dataclass(frozen=True, eq=False)
class RunStart:
    """A run that is about to make its first update."""

    model: ModelConfig
    data: "TokenData"
    out: Path
    settings: "ResolvedTrainConfig"
    """Complete, each with its reason."""
    device: str
    planned: "Prediction | None"
    """Predicted memory and speed."""
    peak_flops: float | None
    """Dense FLOP/s of all devices; None if not known."""
    peak_memory_bytes: Callable[[], int | None]
    """The most memory used so far."""
    compiles: bool
    """The model is compiled in the first update: no trial has done so."""
    forecast: RunForecast | None
    """Follows the run, and has the newest forecast of its end; None unless that was asked for."""


@dataclass(frozen=True)
class TrainEvents:
    """What is called while a run goes on, in the main process alone. Every callback is optional."""

    on_status: Callable[[str | None], None] = lambda _: None
    """What is being prepared before the first update; None when that is done."""
    on_start: Callable[[RunStart], None] = lambda _: None
    """The first update is next."""
    on_step: Callable[[StepMetrics], None] = lambda _: None
    """After each update."""
    on_profile: Callable[[UpdateProfile], None] = lambda _: None
    """The updates that were to be profiled have been."""
    on_notice: Callable[[str], None] = lambda _: None
    """Something that the caller should know and that does not end the run."""
    on_end: Callable[[TrainResult], None] = lambda _: None
    """The run has finished, or was stopped and saved."""
    on_evaluation: Callable[[Evaluation], None] = lambda _: None
    """After the end: what the finished run reaches on what it was to be evaluated on."""


def build_request(
    source: ModelConfig | str | Path | None, fields: Mapping[str, object], settings: Mapping[str, object],
    options: RunOptions,
) -> RunRequest:  # fmt: skip
    """Read the model and the config file, and refuse options and settings that contradict each other.

    `fields` change fields of the model in a config file. Without any model, that of the run to resume is
    meant, or that of the initial weights.
    """
    _require_consistent(options, settings.get("steps"))
    out, provenance, document = options.out, None, Source({})
    if isinstance(source, ModelConfig):
        assert not fields, "change the model itself"
        model, name = source, None
    else:
        if source is not None:
            document = _read_source(source, out if options.resume else None)
        elif not fields and (options.resume or options.init is not None):
            source = _find_model(out if options.resume else None, options.init)
        model, name = load_whole_function(source, dict(fields)).model, source
    if options.resume and out is not None and (stored := read_run_config(out)) is not None:
        provenance = stored["provenance"]
    if out is None:
        out = next_folder(Path(name).stem if name is not None else format_count(total(model)))
    if provenance is None:
        provenance = document.provenance
    sets_length = options.tokens is not None or options.hours is not None
    requested = merge_sources(document, settings, longer=sets_length)
    requested = require_possible(model, requested, out if options.resume else None, options.tokens)
    resumed = out if options.resume and requested.stored else None
    forecast = request_forecast(options.forecast, model, provenance, resumed)
    return RunRequest(model, out, options, requested, provenance, forecast)


def _read_source(source: str | Path, resumed: Path | None) -> Source:
    """The config file; a run that is resumed does not need it."""
    try:
        return read_source(source)
    except InputError as error:
        if resumed is None or run_config_path(resumed) is None:
            raise
        problem = without_advice(error)
        raise InputError(
            f"{problem}; the run in {resumed} has its model: resume it without naming {source}"
        ) from None


def next_folder(name: str) -> Path:
    """The first of runs/NAME-1, runs/NAME-2, ... that does not exist."""
    n = 1
    while (folder := RUNS / f"{name}-{n}").exists():
        n += 1
    return folder


def _require_consistent(options: RunOptions, steps: object) -> None:
    lengths = {"steps": steps, "tokens": options.tokens, "hours": options.hours}
    given = [f"`{name}`" for name, value in lengths.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} both set the length of the run; give one of them")
    if options.resume and options.out is None:
        raise InputError("`resume` continues the run in a folder; name it with `out`")
    if options.hours is not None and not (math.isfinite(options.hours) and options.hours > 0):
        raise InputError(f"`hours={options.hours:g}` is not a duration; use a positive number")
    if options.profile is not None and not 1 <= options.profile <= MOST_UPDATES:
        raise InputError(
            f"`profile={options.profile}` is not a number of updates to profile; use 1 to {MOST_UPDATES}, "
            "such as 3"
        )


def _find_model(out: Path | None, init: Path | None) -> str:
    """The config of the run to resume, or of the initial weights."""
    path = run_config_path(out) if out is not None else None
    if path is None and init is not None and (init / "config.json").exists():
        path = init / "config.json"
    if path is None and out is None:
        require_readable(str(init))
    if path is None:
        lacking = f"there is no run to resume in {out}" if out is not None else f"there is no model in {init}"
        raise InputError(f"{lacking}; give a model: a config file, a preset's name, or fields such as `dim`")
    return str(path)
