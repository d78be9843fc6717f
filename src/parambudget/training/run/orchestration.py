"""A training run from request to result: join the processes, read the text, resolve the settings, train.

`pb.train` and `parambudget train` call this. It prints nothing: what there is to see goes through
`TrainEvents`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace

from parambudget._install import require_packages
from parambudget.errors import InputError
from parambudget.text.forms import describe_left_out
from parambudget.text.held_out import require_held_out
from parambudget.text.token_cache import TokenData
from parambudget.training.config import TrainConfig
from parambudget.training.dataloader import require_windows
from parambudget.training.device import Compute, explain_missing_kernel, mps_notice, select_device
from parambudget.training.distributed import ProcessGroup, join_process_group
from parambudget.training.evaluation.evaluate import EvaluationRequest, evaluate
from parambudget.training.evaluation.questions import read_questions
from parambudget.training.evaluation.scores import EvaluationProgress
from parambudget.training.loggers.trackers import OpenTracker, TrackedRun, track_steps
from parambudget.training.loop import NOTHING, TrainJob, train
from parambudget.training.metrics import StepMetrics, TrainResult, run_config_path
from parambudget.training.profiling.update_profile import require_profilable
from parambudget.training.run.defaults import settings_without_effect
from parambudget.training.run.end_loss import FORECAST, forecast_notices, plan_forecast
from parambudget.training.run.forecast import predict_parts, predict_run
from parambudget.training.run.repetition import repetition_notice
from parambudget.training.run.request import RunOptions, RunRequest, RunStart, TrainEvents
from parambudget.training.run.run_folder import (
    choose_data,
    data_provenance,
    require_free_run_folder,
    warn_about_changed_text,
)
from parambudget.training.run.settings import ResolvedSettings, resolve_settings
from parambudget.training.run.signals import StopRequest
from parambudget.training.run.state_reuse import ReusableState
from parambudget.training.train_state import require_initial_weights


def run(
    build: Callable[[], RunRequest], *, device: str = "auto", events: TrainEvents | None = None,
    stop: StopRequest | None = None,
) -> TrainResult:  # fmt: skip
    """Train in this process, or together with the others that `torchrun` started beside it.

    `build` makes the request: the main process's is used by all, and an error in any of them ends all.
    """
    stop = stop or StopRequest()
    on_notice = (events or TrainEvents()).on_notice
    stop.raise_immediately()
    with join_process_group(device, on_notice) as (group, own_device), explain_missing_kernel():
        if group.world_size > 1:
            stop.wait_for_update()  # the others are told of the request, between two updates
        with group.synced_errors():
            request = group.broadcast(build())
        own_events = events if events is not None and group.is_main else TrainEvents()
        return _run_in_group(group, request, own_device, own_events, stop)


def _run_in_group(
    group: ProcessGroup, request: RunRequest, device: str, events: TrainEvents, stop: StopRequest
) -> TrainResult:
    """Read the text, resolve the settings and train; `events` are of the main process."""
    model, out, options = request.model, request.out, request.options
    with group.synced_errors():
        compute = select_device(device)
    states = ReusableState()
    with compute.fixed_arithmetic():
        with group.synced_errors():
            data, settings = _prepare(group, request, device, compute, events, states)
            require_profilable(options.profile, settings.resolved.config.steps, compute.device.type)
        config = settings.resolved.config
        planned = predict_run(model, config, compute)
        asked = request.forecast
        forecast = None if asked is None else plan_forecast(asked, model, config, data)
        start = RunStart(
            model, data, out, settings.resolved, compute.name, planned, group.peak_flops(compute),
            compute.peak_memory_bytes,
            compiles=compute.compiled and not states.is_ready_for(
                model, config, compute, group, end_of_text=data.end_of_text_id
            ),
            forecast=forecast,
        )  # fmt: skip
        job = TrainJob(
            model, config, data, out, options.resume, options.init, settings.provenance, forecast
        )  # fmt: skip
        stop.wait_for_update()
        compute.reset_peak_memory()
        events.on_status("building the model and checking its tensors")

        def on_start() -> None:
            events.on_status(None)
            events.on_start(start)

        with (
            _log_steps(events, request, config, group) as log_step,
            _profile_updates(log_step, request, config, compute, group, events) as (on_step, around_update),
        ):
            result = train(
                job, device=device, group=group, stop_requested=stop, on_start=on_start, on_step=on_step,
                on_notice=events.on_notice, states=states, around_update=around_update,
            )  # fmt: skip
    events.on_end(result)
    if options.evaluates and result.finished and group.is_main:
        _evaluate(result, options, compute, events)
    return result


def _evaluate(result: TrainResult, options: RunOptions, compute: Compute, events: TrainEvents) -> None:
    """Evaluate the weights of the last checkpoint."""
    assert result.checkpoint is not None
    shown = -1

    def show(progress: EvaluationProgress) -> None:
        nonlocal shown
        if (percent := 10 * int(10 * progress.share)) != shown:
            shown = percent
            events.on_status(f"evaluating: {percent} % of {progress.n_total:,} {progress.label}")

    wanted = EvaluationRequest(options.eval_choices, options.eval_text)
    try:
        with _status(events, "evaluating"):
            evaluation = evaluate(result.checkpoint, compute, wanted, show, events.on_notice)
    except InputError as error:
        raise InputError(f"the run in {result.folder} is finished, but not evaluated: {error}") from None
    events.on_evaluation(evaluation)


def _prepare(
    group: ProcessGroup, request: RunRequest, device: str, compute: Compute, events: TrainEvents,
    states: ReusableState,
) -> tuple[TokenData, ResolvedSettings]:  # fmt: skip
    """Text and settings. What can be refused without the text is refused before it is read."""
    model, out, options = request.model, request.out, request.options
    group.require_possible(options.sharding)
    if options.init is not None:
        require_initial_weights(options.init)
    if group.is_main:
        require_free_run_folder(out, resume=options.resume)
    _require_trackers(options)
    if options.eval_choices is not None:
        read_questions(options.eval_choices)
    if options.eval_text is not None:
        require_held_out(options.eval_text)
    given = request.requested
    text = choose_data(options, request.provenance, given.resumed)
    group.barrier()
    if options.resume and (read := run_config_path(out)) not in (None, out / "config.json"):
        events.on_notice(
            f"{out / 'config.json'} cannot be read; it is replaced by its copy in {read.parent.name}"
        )
    if compute.device.type == "cuda" and compute.peak_flops is None:
        events.on_notice(f"the peak FLOP/s of {compute.name} is not known, so no MFU is given")
    if (notice := mps_notice(device, compute)) is not None:
        events.on_notice(notice)
    with _status(events, "reading the text (the first time, its tokenizer is trained and it is encoded)"):
        data = group.main_process_first(lambda: text.read(model.vocab_size))
    _give_notes(data, events.on_notice)
    require_windows(data, model.context_length)
    if options.evaluates and not data.tokenizer_json:
        raise InputError("`eval_choices` and `eval_text` need the tokenizer; name it with `tokenizer`")
    if options.data is None and not given.stored:
        warn_about_changed_text(request.provenance, data, events.on_notice)
    with _status(events, "choosing the settings"):
        settings = resolve_settings(
            given, model, data, compute, options.tokens, options.hours, group, sharding=options.sharding,
            states=states, on_status=events.on_status,
        )  # fmt: skip
    for notice in settings_without_effect(settings.resolved, model):
        events.on_notice(notice)
    asked = request.forecast
    law = None if asked is None else asked.law
    repetition = repetition_notice(settings.resolved.config, model, data, text.path, law)
    if repetition is not None:
        events.on_notice(repetition)
    origin: dict[str, object] = {**data_provenance(text)}
    if asked is not None:
        for notice in forecast_notices(asked, model, settings.resolved.config, data, options.init):
            events.on_notice(notice)
        origin[FORECAST] = None if law is None else law.name
    return data, replace(settings, provenance=settings.provenance | origin)


def _give_notes(data: TokenData, on_notice: Callable[[str], None]) -> None:
    """What of the data is not read, and options that change nothing."""
    if data.left_out:
        on_notice(f"left out of {data.name}: {describe_left_out(data.left_out)}")
    for note in data.notes:
        on_notice(note)


@contextmanager
def _status(events: TrainEvents, text: str) -> Iterator[None]:
    events.on_status(text)
    try:
        yield
    finally:
        events.on_status(None)


def _require_trackers(options: RunOptions) -> None:
    """Refuse to start without what the run is to be reported with."""
    if options.wandb is not None:
        require_packages("`wandb`", ["wandb"], ["train", "wandb"])
        from parambudget.training.loggers.wandb_logger import require_account

        require_account()
    if options.tensorboard:
        require_packages("`tensorboard`", ["tensorboardX"], ["train", "tensorboard"])
    if options.trackio is not None:
        require_packages("`trackio`", ["trackio"], ["train", "trackio"])


def _trackers(options: RunOptions) -> dict[str, OpenTracker]:
    """The tools that the run is reported to. Each is an optional package, imported where it is asked for."""
    tools: dict[str, OpenTracker] = {}
    if (project := options.wandb) is not None:
        from parambudget.training.loggers.wandb_logger import WandbTracker

        tools["Weights & Biases"] = lambda tracked, _: WandbTracker.open(project, tracked)
    if options.tensorboard:
        from parambudget.training.loggers.tensorboard_logger import TensorBoardTracker

        tools["TensorBoard"] = TensorBoardTracker.open
    if (trackio_project := options.trackio) is not None:
        from parambudget.training.loggers.trackio_logger import TrackioTracker

        tools["trackio"] = lambda tracked, _: TrackioTracker.open(trackio_project, tracked)
    return tools


@contextmanager
def _log_steps(
    events: TrainEvents, request: RunRequest, config: TrainConfig, group: ProcessGroup
) -> Iterator[Callable[[StepMetrics], None]]:
    """`events.on_step`, which also reports to the tools that are asked for."""
    tools = _trackers(request.options) if group.is_main else {}
    tracked = TrackedRun(request.out, request.model.model_dump() | config.model_dump())
    with track_steps(events.on_step, tracked, tools, events.on_notice) as log_step:
        yield log_step


@contextmanager
def _profile_updates(
    on_step: Callable[[StepMetrics], None], request: RunRequest, config: TrainConfig, compute: Compute,
    group: ProcessGroup, events: TrainEvents,
) -> Iterator[tuple[Callable[[StepMetrics], None], AbstractContextManager[None]]]:  # fmt: skip
    """`on_step` and what to enter around every update; together they profile some if that is asked for."""
    n_updates = request.options.profile
    if n_updates is None or not group.is_main:
        yield on_step, NOTHING
        return
    from parambudget.training.profiling.profiler import UpdateProfiler

    planned = predict_parts(request.model, config, compute)
    profiler = UpdateProfiler(n_updates, request.out, compute, planned, events.on_profile, events.on_notice)

    def observe(step: StepMetrics) -> None:
        on_step(step)
        profiler.observe(step)

    with closing(profiler):
        yield observe, profiler
