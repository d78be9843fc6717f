"""`parambudget train`: train a model on text."""

import shlex
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, NotRequired, cast

import typer
from typing_extensions import TypedDict

from parambudget._json_types import SchemaOf
from parambudget.arch.style import with_style
from parambudget.cli._help import FORECAST_ALONE, MORE_PANEL
from parambudget.cli._options import (
    DeviceOption,
    JsonOption,
    SourceArgument,
    StyleOption,
    parse_path,
    print_json,
    print_lines,
    print_notice,
    require_model,
    require_torch,
    with_model_fields,
)
from parambudget.cli._settings import STEP_FLAGS, with_settings
from parambudget.cost.step import SHARDING_FIELDS, Sharding
from parambudget.errors import ConfigError
from parambudget.render.commands import data_flag, runnable_command
from parambudget.scaling.law_file import find_law
from parambudget.text.forms import TokenDtype
from parambudget.training.config import TRAIN_FIELDS
from parambudget.training.evaluation.results import Evaluation, EvaluationDocument
from parambudget.training.launch import launched_processes
from parambudget.training.metrics import TrainResult
from parambudget.training.run.end_loss import ForecastRequest
from parambudget.training.run.request import (
    RunOptions,
    RunRequest,
    TrainEvents,
    build_request,
)
from parambudget.training.run.signals import StopRequest, StopSignal, handle_stop_signals
from parambudget.units import parse_count


class RunEvaluationDocument(TypedDict):
    """What `train` prints beside the state of its run."""

    eval: NotRequired[EvaluationDocument]
    """What the finished run was evaluated on; absent where nothing was asked for."""


TrainDocument = Annotated[dict[str, Any], SchemaOf(TrainResult, RunEvaluationDocument, without=("folder",))]

RUN_PANEL = "Length, checkpoints and resuming"
_PANELS: dict[str, str | None] = {
    "batch_size": None, "gradient_accumulation_steps": None, "gradient_checkpointing": None,
    "optimizer": None, "learning_rate": None, "seed": None, "steps": RUN_PANEL, "save_every": RUN_PANEL,
    "eval_every": RUN_PANEL,
}  # fmt: skip
"""Settings that most runs need, and the panels they stand in."""


@with_model_fields()
@with_settings({**TRAIN_FIELDS, **{name: STEP_FLAGS[name] for name in SHARDING_FIELDS}}, _PANELS)
def train(
    source: SourceArgument = None,
    style: StyleOption = None,
    data: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="PATH",
            help="Text or tokens: a file, a folder, or what `data prepare` made; A=0.7,B=0.3 mixes several.",
            show_default="builtin (Python's standard library)",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENIZER",
            help="What has made the tokens in --data, or makes them of its text: a tokenizer.json, a folder "
            "with one, or hf:NAME.",
            show_default="a BPE trained on the text",
            rich_help_panel=MORE_PANEL,
        ),
    ] = None,
    token_dtype: Annotated[
        TokenDtype | None,
        typer.Option(
            help="Type of the ids in files without a header, as nanoGPT writes them.",
            rich_help_panel=MORE_PANEL,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            parser=parse_path,
            metavar="DIR",
            help="Folder of the run.",
            show_default="the next free one in runs/",
        ),
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    tokens: Annotated[
        str | None,
        typer.Option(metavar="N", help="Tokens to train on, such as 7B.", rich_help_panel=RUN_PANEL),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            metavar="H",
            help="Training time in hours; converted to steps at the start.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume",
            help="Resume the run in DIR; start it if there is none.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = False,
    init: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="CHECKPOINT",
            help="Start from the weights of a checkpoint or a Hugging Face folder.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = None,
    forecast: Annotated[
        str | None,
        typer.Option(
            metavar="[LAW]",
            help="Forecast the loss at the end (LAW: a law.json).",
            rich_help_panel=RUN_PANEL,
        ),
    ] = None,
    wandb: Annotated[
        str | None,
        typer.Option(
            metavar="PROJECT",
            help="Also report to Weights & Biases (needs the extra wandb).",
            rich_help_panel=RUN_PANEL,
        ),
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard/--no-tensorboard",
            help="Also write event files for TensorBoard into DIR/tensorboard (needs the extra tensorboard).",
            rich_help_panel=MORE_PANEL,
        ),
    ] = False,
    trackio: Annotated[
        str | None,
        typer.Option(
            metavar="PROJECT",
            help="Also report to trackio, on this machine (needs the extra trackio).",
            rich_help_panel=MORE_PANEL,
        ),
    ] = None,
    eval_choices: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FILE",
            help="At the end, evaluate on these multiple-choice questions (see `parambudget eval`).",
            rich_help_panel=MORE_PANEL,
        ),
    ] = None,
    eval_text: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FILE",
            help="At the end, give the bits per byte of this text.",
            rich_help_panel=MORE_PANEL,
        ),
    ] = None,
    profile: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Profile N updates, such as 3, after two others: where their time goes, and a trace.",
            rich_help_panel=MORE_PANEL,
        ),
    ] = None,
    *,
    fields: dict[str, Any],
    settings: dict[str, object],
) -> None:
    """Train a model. Its parameters are checked against the plan first.

    Settings that are left out are chosen and shown with the reason; a config file's `train` block gives
    settings too.

    parambudget train config.json --data my.txt --hours 1 --out runs/mine
    """
    require_torch("train")
    if not resume and init is None:
        if source is None and not fields and forecast not in (None, FORECAST_ALONE):
            raise ConfigError(
                f"no model is given: {forecast} is taken as the law of --forecast; name the model before "
                "that flag"
            )
        require_model("train", source, fields, data_flag(data))
    if source is not None and data is None and Path(source).is_file() and Path(source).suffix != ".json":
        raise ConfigError(
            f"{source} is where the model stands; train on that text with {data_flag(source)}, and name a "
            "preset or a config file as the model"
        )
    taken = out if resume else init  # the run or the weights whose model is meant where none is given
    complete = source if source is not None or fields or taken is None else str(taken)
    fields = with_style(style, fields, complete=complete)
    settings = dict(settings)
    shard, degree = cast("bool | None", settings.pop("shard", None)), settings.pop("shard_degree", None)
    sharding = Sharding.given_by(shard, cast("int | None", degree))

    def build() -> RunRequest:
        n_tokens = parse_count(tokens, "--tokens") if tokens is not None else None
        options = RunOptions(
            out, data, token_dtype, tokenizer, n_tokens, hours, resume, init, sharding, wandb=wandb,
            profile=profile, tensorboard=tensorboard, trackio=trackio, eval_choices=eval_choices,
            eval_text=eval_text, forecast=_forecast_request(forecast),
        )  # fmt: skip
        return build_request(source, fields, settings, options)

    def resume_command(folder: Path) -> str:
        more = [*([] if resume else ["--resume"]), *([] if out is not None else ["--out", str(folder)])]
        return runnable_command("train", shlex.join([*sys.argv[2:], *more]))

    try:
        with handle_stop_signals() as stop:
            _run(build, device, stop, resume_command, as_json=as_json)
    except KeyboardInterrupt:
        print_notice("interrupted")
        raise typer.Exit(130) from None
    except StopSignal as signal:
        command = runnable_command("train", shlex.join(sys.argv[2:]))
        print_notice(f"stopped by {signal} before the first update; start it with: {command}")


def _forecast_request(given: str | None) -> ForecastRequest | None:
    if given in (None, FORECAST_ALONE):
        return None if given is None else ForecastRequest()
    return ForecastRequest(find_law(given))


def _run(
    build: Callable[[], RunRequest], device: str, stop: StopRequest, resume_command: Callable[[Path], str], *,
    as_json: bool,
) -> None:  # fmt: skip
    """Train, and show the run on the terminal as it goes on."""
    if launched_processes() == 1:
        # No other process waits for this one, and torch takes seconds to import: what is wrong is said
        # before.
        request = build()
        build = lambda: request  # noqa: E731
    from parambudget.render.progress import StatusLine, make_console

    with closing(StatusLine(make_console(quiet=as_json))) as status:
        if status.is_live:
            status.show("loading torch")
        from parambudget.render.runs import evaluation_screen
        from parambudget.render.training import RunDisplay
        from parambudget.training.run.orchestration import run

    with RunDisplay(quiet=as_json) as display:

        def show_end(result: TrainResult) -> None:
            display.show_result(result)
            if not result.finished:
                by = stop.signal_name or "a signal to another process"
                print_notice(
                    f"stopped by {by} after step {result.steps}; continue with: {resume_command(display.out)}"
                )
            results.append(result)

        results: list[TrainResult] = []
        evaluations: list[Evaluation] = []
        events = TrainEvents(
            on_status=display.show_status, on_start=display.show_start, on_step=display.show_step,
            on_profile=display.show_profile, on_notice=print_notice, on_end=show_end,
            on_evaluation=evaluations.append,
        )  # fmt: skip
        try:
            run(build, device=device, events=events, stop=stop)
        finally:  # a run that cannot be evaluated has finished all the same
            if as_json:
                for result in results:
                    found = {"eval": evaluations[0].as_dict()} if evaluations else {}
                    print_json(result.as_dict() | found)
    if not as_json:
        for evaluation in evaluations:
            print_lines(evaluation_screen(evaluation))
