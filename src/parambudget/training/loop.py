"""Training as one page of named steps.

B batch   T tokens
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count, islice, takewhile
from math import lcm
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from parambudget._files import write_json
from parambudget.arch.config import ModelConfig
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import total
from parambudget.errors import CheckFailed
from parambudget.nn.mixers.implementations import implementation_notice, in_words, mixer_implementations
from parambudget.text.token_cache import TokenData
from parambudget.training.checkpoint import files
from parambudget.training.checkpoint.async_saver import AsyncCheckpointSaver
from parambudget.training.config import TrainConfig
from parambudget.training.dataloader import TokenArray, Windows, require_windows
from parambudget.training.device import Compute, Environment, explain_out_of_memory, select_device
from parambudget.training.distributed import SINGLE_PROCESS, ProcessGroup
from parambudget.training.metrics import StepMetrics, TrainResult, list_checkpoints, read_run_config
from parambudget.training.optimization.optimizer import CombinedOptimizer, clip_grad_norm, set_schedule
from parambudget.training.optimization.schedule import learning_rate
from parambudget.training.profiling.kernels import DATA
from parambudget.training.run import run_folder
from parambudget.training.run.end_loss import RunForecast
from parambudget.training.run.forecast import Prediction, predict_run
from parambudget.training.run.mixture import masking_notices, run_windows
from parambudget.training.run.resume import restore_newest_checkpoint
from parambudget.training.run.same_run import require_same_run
from parambudget.training.run.state_reuse import ReusableState
from parambudget.training.train_state import (
    TrainState,
    initial_weights_of,
    load_initial_weights,
    require_initial_weights,
)

if TYPE_CHECKING:
    from parambudget.training.checkpoint.sharded import ShardedCheckpointWriter

MOST_SKIPPED_IN_A_ROW: Final = 5
MOST_REPEATED: Final = 1.25
"""Windows that an evaluation may compute for each that it has: to compile another batch size takes longer
than many evaluations."""
NOTHING: Final = nullcontext()
BEFORE_FIRST_STEP: Final = StepMetrics(0, None, 0.0, None, False, 0, 0.0, None)


@dataclass(frozen=True, eq=False)
class TrainJob:
    """What to train, on which text, and the folder of the run."""

    model: ModelConfig
    config: TrainConfig
    """The step in it says whether the model is sharded; the rest of how it is executed is filled in."""
    data: TokenData
    out: Path
    resume: bool = False
    """Resume the run in `out` if there is one."""
    init: Path | None = None
    """A checkpoint whose weights a new run starts from."""
    provenance: Mapping[str, object] = field(default_factory=dict)
    """What else the run's config file says about where the run comes from."""
    forecast: RunForecast | None = None
    """Follows the run and says what it should end at."""

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.out / "checkpoints"


def train(
    job: TrainJob, *, device: str = "auto", group: ProcessGroup = SINGLE_PROCESS,
    stop_requested: Callable[[], bool] = lambda: False, on_start: Callable[[], None] = lambda: None,
    on_step: Callable[[StepMetrics], None] = lambda _: None,
    on_notice: Callable[[str], None] = lambda _: None, read_late: bool | None = None,
    states: ReusableState | None = None, around_update: AbstractContextManager[object] = NOTHING,
) -> TrainResult:  # fmt: skip
    """Train a model and leave metrics.jsonl, summary.json and checkpoints in the folder of the run.

    Writes nothing until the built model has exactly the planned tensors and the text is long enough. Once
    `stop_requested` returns true, the run saves after the current update and returns, unfinished. `on_start`
    is called when nothing stands in the way of the first update; `on_notice` gets what does not end the run.
    In a group of several processes each calls this; only the main one writes and calls back, except that of a
    sharded model each process writes its own rows of a checkpoint. With `read_late`, the default on CUDA, the
    next update is launched before the figures of one are read: nothing that is computed changes. The state is
    taken from `states`, where a trial may have left one. `around_update` is entered to launch every update.
    """
    session = _prepare(job, device, group, on_notice, read_late, states or ReusableState())
    session = replace(session, around_update=around_update)
    with explain_out_of_memory(job.config):
        if group.is_main:
            return main_loop(session, stop_requested, on_start, on_step, on_notice)
        return worker_loop(session, stop_requested)


@dataclass(frozen=True, eq=False)
class _Session:
    """What a process holds while it trains."""

    job: TrainJob
    state: TrainState
    metadata: files.RunMetadata
    clock: "Clock"
    planned: Prediction | None
    read_late: bool
    """Launch the next update before the figures of one are read."""
    around_update: AbstractContextManager[object] = NOTHING

    def result_after(self, step: StepMetrics) -> TrainResult:
        """The run as it is after `step`, which is saved or about to be."""
        job, clock, compute = self.job, self.clock, self.state.compute
        speed = clock.mean_tokens_per_second()
        return TrainResult(
            finished=step.step == job.config.steps, parameters=total(job.model), steps=step.step,
            tokens=step.tokens, loss=step.loss, val_loss=step.val_loss,
            val_bits_per_byte=step.val_bits_per_byte, tokens_per_second=speed, mfu=clock.mfu(speed),
            peak_flops=clock.peak_flops, peak_memory_bytes=compute.peak_memory_bytes(),
            seconds=clock.elapsed_seconds(), update_seconds=clock.update_seconds(), device=compute.name,
            planned=None if self.planned is None else self.planned.as_dict(),
            checkpoint=job.checkpoints / f"step-{step.step}" if step.step else None,
            folder=job.out, forecast=None if job.forecast is None else job.forecast.newest,
        )  # fmt: skip


def _prepare(
    job: TrainJob, device: str, group: ProcessGroup, on_notice: Callable[[str], None],
    read_late: bool | None, states: ReusableState,
) -> _Session:  # fmt: skip
    """Build what is trained, and refuse what cannot be."""
    model, data = job.model, job.data
    with group.synced_errors():
        compute = select_device(device)
        require_windows(data, model.context_length)
        config = group.executed_config(job.config, compute)
        if config.step.mask_documents and group.is_main:
            for notice in masking_notices(data, model.context_length):
                on_notice(notice)
        planned = predict_run(model, config, compute)
        state = states.take(model, config, compute, group, end_of_text=data.end_of_text_id)
        mixers = mixer_implementations(state.module, compute.device)
        if mixers and group.is_main:
            on_notice(implementation_notice(mixers))
        stored = read_run_config(job.out) if job.resume else None
        origin, init = {}, job.init
        if init is None and stored is not None and stored["provenance"].get("init"):
            origin = initial_weights_of(stored)
            # A run that was stopped before its first checkpoint begins again where it began.
            init = None if list_checkpoints(job.checkpoints) else Path(origin["init"])
        if init is not None:
            require_initial_weights(init)
            origin = load_initial_weights(init, state, data, on_notice)
        document = run_folder.run_config_document(model, config, data, {**job.provenance, **origin})
        if stored is not None:
            require_same_run(job.out, stored, document)
        group.barrier()  # a process that has failed takes no part in making the writer's group below
    shard_writer = create_shard_writer(config.step.n_shards) if config.step.shard else None
    environment = Environment(
        compute.name, config.step.world_size, config.step.n_shards, mixers=in_words(mixers, reasons=False)
    )
    metadata = files.RunMetadata(document, data.tokenizer_json, environment, shard_writer)
    update_tokens = config.step.tokens_per_update(model.context_length)
    clock = Clock(update_tokens, flops_per_token(model), group.peak_flops(compute))
    late = compute.is_asynchronous if read_late is None else read_late
    return _Session(replace(job, config=config), state, metadata, clock, planned, late)


def main_loop(
    session: _Session, stop_requested: Callable[[], bool], on_start: Callable[[], None],
    on_step: Callable[[StepMetrics], None], on_notice: Callable[[str], None],
) -> TrainResult:  # fmt: skip
    """The main process: train from the newest checkpoint, write metrics and checkpoints, and call back."""
    job, state, metadata = session.job, session.state, session.metadata
    with ExitStack() as stack:
        with state.group.synced_errors():
            stack.enter_context(run_folder.lock_run_folder(job.out, resume=job.resume))
            metrics = run_folder.MetricsFile(job.out, on_notice)
            before, n_skipped = _restore(session, metrics, on_notice)
        first = before[-1] if before else BEFORE_FIRST_STEP
        on_start()
        session.clock.add_earlier_updates(step.tokens_per_second for step in before)
        saver = AsyncCheckpointSaver(job.checkpoints, job.config.keep, on_notice)
        follow = (lambda _: None) if job.forecast is None else job.forecast.add
        for step in before:
            saver.observe(step)
            follow(step)

        def record(step: StepMetrics) -> None:
            metrics.add(step)
            follow(step)
            on_step(step)

        def save(step: StepMetrics) -> None:
            summary = session.result_after(step).as_dict()
            snapshot = files.take_snapshot(step, state.module, state.optimizer, metadata, metrics.copy())
            saver.save(snapshot, lambda: write_json(job.out / "summary.json", summary))

        last, diverged = run_updates(session, first, n_skipped, saver, stop_requested, record, save)
        if diverged is not None:
            metrics.finish()
            saver.wait()
            sound = files.newest_sound_checkpoint(job.checkpoints, saver.sound_step)
            unfinished = replace(session.result_after(last), finished=False, checkpoint=sound)
            write_json(job.out / "summary.json", unfinished.as_dict())
            raise _divergence(diverged, last, sound)
        metrics.finish()
        saver.finish()
        result = session.result_after(last)
        if last.step == first.step and (earlier := run_folder.read_result(job.out)) is not None:
            # Nothing was trained now: the measurements of the earlier session stay.
            result = replace(earlier, finished=result.finished)
        write_json(job.out / "summary.json", result.as_dict())
    return result


def _restore(
    session: _Session, metrics: run_folder.MetricsFile, on_notice: Callable[[str], None]
) -> tuple[list[StepMetrics], int]:
    """Restore the newest checkpoint and tell the other processes; returns the updates up to it, and how many
    in a row were skipped at their end."""
    job, state, metadata = session.job, session.state, session.metadata
    before = restore_newest_checkpoint(job.checkpoints, job.config.steps, metrics, state, metadata, on_notice)
    if job.forecast is not None:
        job.forecast.write_law(job.out)
    write_json(job.out / "config.json", metadata.config)
    n_skipped = len(list(takewhile(lambda step: step.skipped, reversed(before))))
    state.group.broadcast((before[-1].step if before else 0, n_skipped))
    state.group.barrier()
    return before, n_skipped


def worker_loop(session: _Session, stop_requested: Callable[[], bool]) -> TrainResult:
    """Any other process: the same updates from the same checkpoint.

    It writes nothing but its own rows of a sharded model, into the checkpoints of the main process.
    """
    job, state, metadata = session.job, session.state, session.metadata
    with state.group.synced_errors():
        n_done, n_skipped = state.group.broadcast((0, 0))
        if n_done:
            folder = job.checkpoints / f"step-{n_done}"
            checkpoint_state = files.read_state(folder, check=False)  # the main process has checked it
            files.restore(folder, checkpoint_state, state.module, state.optimizer)
        state.group.barrier()
    saver = AsyncCheckpointSaver(job.checkpoints, job.config.keep, lambda _: None, is_main=False)

    def save(step: StepMetrics) -> None:
        if metadata.shard_writer is not None:
            saver.save(files.take_snapshot(step, state.module, state.optimizer, metadata))

    first = replace(BEFORE_FIRST_STEP, step=n_done)
    last, _ = run_updates(session, first, n_skipped, saver, stop_requested, lambda _: None, save)
    saver.finish()
    return session.result_after(last)


def run_updates(
    session: _Session, first: StepMetrics, n_skipped: int, saver: AsyncCheckpointSaver,
    stop_requested: Callable[[], bool], on_step: Callable[[StepMetrics], None],
    save: Callable[[StepMetrics], None],
) -> tuple[StepMetrics, str | None]:  # fmt: skip
    """Make the updates after `first`, in step with the other processes: to the last one, until any process is
    asked to stop, or until too many in a row were skipped.

    Returns the last step, and what shows that the run has diverged, if it has. Weights that are not finite
    are not saved.
    `n_skipped` is how many updates in a row were skipped up to `first`.
    """
    job, config, group, last = session.job, session.job.config, session.state.group, first
    if group.all_reduce_any(stop_requested()):
        return last, None
    updates = UpdateQueue(
        session.state, job.model, config, job.data, first.step, session.clock, stop_requested
    )

    def diverged_at(n_unread: int) -> str | None:
        """Read all updates but the last `n_unread`; returns what shows that the run has diverged."""
        nonlocal last, n_skipped
        while len(updates) > n_unread:
            last = updates.read()
            on_step(last)
            saver.observe(last)
            saver.poll()
            n_skipped = n_skipped + 1 if last.skipped else 0
            if n_skipped >= MOST_SKIPPED_IN_A_ROW:
                return f"loss or gradient was not finite for {n_skipped} updates in a row"
        return None

    for step in range(first.step + 1, config.steps + 1):
        with session.around_update:
            updates.launch()
        if (problem := diverged_at(1 if session.read_late else 0)) is not None:
            return last, problem
        stopping = updates.must_stop()
        saving = stopping or is_due(step, config.save_every, config)
        evaluating = is_due(step, config.eval_every, config)
        if (saving or evaluating) and (problem := diverged_at(0)) is not None:
            return last, problem
        if saving:
            if group.all_reduce_any(not files.all_finite(session.state.module.parameters())):
                return last, "weights are not finite"
            save(last)
        if stopping:
            break
    return last, None


def train_steps(
    state: TrainState, model: ModelConfig, config: TrainConfig, data: TokenData, n_done: int, clock: "Clock",
    *, read_late: bool | None = None,
) -> Iterator[StepMetrics]:  # fmt: skip
    """Make the updates after the first `n_done`; each is made when the next item is asked for. With
    `read_late`, the default on CUDA, so is the one after it, unless the model is evaluated between them."""
    updates = UpdateQueue(state, model, config, data, n_done, clock)
    late = state.compute.is_asynchronous if read_late is None else read_late
    for step in range(n_done + 1, config.steps + 1):
        updates.launch()
        n_unread = 0 if is_due(step, config.eval_every, config) else int(late)
        while len(updates) > n_unread:
            yield updates.read()


@dataclass(frozen=True, eq=False)
class _LaunchedUpdate:
    """An update whose figures have not been read."""

    step: int
    rate: float
    started: float
    """By the clock."""
    figures: Tensor
    """Loss, norm of the gradient, whether it was skipped, share of processes that are asked to stop, and of a
    model with experts the load of the busiest: in CPU memory once `copied`."""
    copied: torch.cuda.Event | None
    """None where there is nothing to wait for."""


class UpdateQueue:
    """Updates that are queued on the device, and read later.

    Nothing in an update depends on its figures: whether it is skipped is decided on the device. So the next
    one can be launched before they are read, and the device is not idle while the host waits. The weights are
    then those of the later update: one that is evaluated or saved has to be read before the next is launched.
    """

    def __init__(
        self, state: TrainState, model: ModelConfig, config: TrainConfig, data: TokenData, n_done: int,
        clock: "Clock", stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._state, self._config, self._clock = state, config, clock
        self._stop_requested, self._others_stop = stop_requested, False
        windows = run_windows(data, model.context_length, config)
        self._batches = prefetch(micro_batches(windows, n_done, config, state.compute, state.group))
        self._held_out = validation_sets(data, model.context_length, config.eval_tokens)
        self._eval_batch_size = evaluation_batch_size(self._held_out, config.step.batch_size, state.group)
        self._n_launched = n_done
        self._unread: deque[_LaunchedUpdate] = deque()

    def __len__(self) -> int:
        """How many updates have not been read."""
        return len(self._unread)

    def launch(self) -> None:
        """Queue the next update; the host waits for nothing."""
        state, config, group, started = self._state, self._config, self._state.group, self._clock.now()
        rate = learning_rate(self._n_launched, config)
        set_schedule(state.optimizer, config, self._n_launched)
        own_loss = accumulate_gradients(state.loss_fn, self._batches, config, state.compute, group)
        asked = group.world_size > 1 and self._stop_requested()
        loss, stop = group.all_reduce_mean(torch.stack((own_loss, own_loss.new_full((), asked)))).unbind()
        norm = clip_grad_norm(state.module.parameters(), config.grad_clip)
        busiest = state.balancer.busiest_expert(group)
        found_inf = optimizer_step(state.optimizer, loss, norm)
        state.balancer.update_router_bias(found_inf)
        state.balancer.reset_load()
        figures = torch.stack((loss, norm, found_inf, stop, *busiest))
        figures = figures.to("cpu", non_blocking=state.compute.is_asynchronous)
        self._n_launched += 1
        copied = state.compute.record_event()
        self._unread.append(_LaunchedUpdate(self._n_launched, rate, started, figures, copied))

    def read(self) -> StepMetrics:
        """The metrics of the oldest update that has not been read: the only time that the host waits for the
        device. Evaluates the model where that is due: then no later update may have been launched."""
        update, config = self._unread.popleft(), self._config
        if update.copied is not None:
            update.copied.synchronize()
        loss, grad_norm, skipped, stop, *busiest = update.figures.tolist()
        self._clock.add_update(update.started)
        self._others_stop = stop > 0
        speed = self._clock.tokens_per_second()
        step = StepMetrics(
            step=update.step, loss=finite_or_none(loss), lr=update.rate, grad_norm=finite_or_none(grad_norm),
            skipped=bool(skipped), tokens=update.step * self._clock.tokens_per_update,
            tokens_per_second=speed, mfu=self._clock.mfu(speed),
            busiest_expert=busiest[0] if busiest else None,
        )  # fmt: skip
        if not is_due(step.step, config.eval_every, config):
            return step
        assert not self._unread, "the weights are those of a later update"
        state, size = self._state, self._eval_batch_size
        losses = [
            evaluate(state.loss_fn, each.windows, each.data, size, state.compute, state.group)
            for each in self._held_out
        ]
        return add_validation(step, self._held_out, losses)

    def must_stop(self) -> bool:
        """Whether to launch no more updates: this process is asked to stop, or, of several, any was when it
        launched the update that was last read. All learn of it from the same update."""
        return self._stop_requested() if self._state.group.world_size == 1 else self._others_stop


def micro_batches(
    windows: Windows, n_done: int, config: TrainConfig, compute: Compute,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Iterator[Tensor]:  # fmt: skip
    """This process's windows of every update after the first `n_done`, batch_size at a time, on the
    device."""
    for first in count(n_done * config.step.sequences_per_update, config.step.sequences_per_update):
        for micro_step in group.own_micro_steps(config):
            with record_function(DATA):
                batch = windows.batch(first + micro_step * config.step.batch_size, config.step.batch_size)
                tokens_BT = torch.from_numpy(batch)
                pinned = compute.device.type == "cuda"
                if pinned:
                    tokens_BT = tokens_BT.pin_memory()
                tokens_BT = tokens_BT.to(compute.device, non_blocking=pinned)
            yield tokens_BT


def prefetch(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same batches, one ahead: while one is computed on, the next is copied to the device."""
    following = next(batches)
    for batch in batches:
        yield following
        following = batch


def accumulate_gradients(
    loss_fn: Callable[[Tensor], Tensor], batches: Iterable[Tensor], config: TrainConfig, compute: Compute,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Tensor:  # fmt: skip
    """Accumulate the gradients of an update's micro-steps; returns this process's mean loss, not yet read."""
    n_own = len(group.own_micro_steps(config))
    total_loss = torch.zeros((), device=compute.device)
    for i, tokens_BT in enumerate(islice(batches, n_own), 1):
        with group.no_sync(loss_fn, last=i == n_own):
            with compute.autocast():
                loss = loss_fn(tokens_BT) / n_own
            torch.autograd.backward(loss)
        total_loss += loss.detach()
    return total_loss


def optimizer_step(optimizer: CombinedOptimizer, loss: Tensor, grad_norm: Tensor) -> Tensor:
    """Take the optimizer's step, unless loss or gradient is not finite; returns 1 if it was skipped, else 0.

    The device decides: the host waits for nothing.
    """
    found_inf = torch.stack((loss, grad_norm)).isfinite().all().logical_not().float()
    optimizer.found_inf = found_inf
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return found_inf


def finite_or_none(value: float | None) -> float | None:
    """The value as metrics have it: null where there is no number to write."""
    return value if value is not None and math.isfinite(value) else None


def is_due(step: int, every: int, config: TrainConfig) -> bool:
    """Whether something that follows every so many steps, and the last one, follows this step."""
    return step % every == 0 or step == config.steps


def _divergence(problem: str, step: StepMetrics, sound: Path | None) -> CheckFailed:
    """The error of a run that has diverged; names the newest checkpoint that can be trained on."""
    lower = f"lower learning_rate={step.lr:g} and start"
    advice = (
        f"{lower} from the last good checkpoint: `init={sound}`" if sound
        else f"no checkpoint is good to start from: {lower} again"
    )  # fmt: skip
    return CheckFailed(f"{problem}, up to step {step.step}; {advice}, in another folder")


def create_shard_writer(n_shards: int) -> "ShardedCheckpointWriter":
    """The writer of a sharded model's checkpoints. Every process has to call this."""
    from parambudget.training.checkpoint import sharded  # DTensor and DCP: not needed by other runs

    return sharded.ShardedCheckpointWriter.create(n_shards)


@dataclass
class Clock:
    """Times updates: from when one was launched, or the one before it was done, until it is done itself. What
    happens while none is under way (evaluating, saving) does not count."""

    tokens_per_update: int
    flops_per_token: int
    """Full convention."""
    peak_flops: float | None
    """Dense FLOP/s of all devices; None means that no MFU can be given."""
    started: float = field(default_factory=perf_counter)
    _last_done: float = 0.0
    _seconds: list[float] = field(default_factory=list)

    @staticmethod
    def now() -> float:
        """The time that `add_update` takes."""
        return perf_counter()

    def add_update(self, started: float) -> None:
        """Count an update that was launched then and is done now."""
        now = self.now()
        self._seconds.append(now - max(started, self._last_done))
        self._last_done = now

    def add_earlier_updates(self, tokens_per_second: Iterable[float]) -> None:
        """Count updates that were made, at these rates, before the run was resumed."""
        self._seconds = [self.tokens_per_update / rate for rate in tokens_per_second if rate] + self._seconds

    def tokens_per_second(self) -> float:
        """Of the latest update."""
        return self.tokens_per_update / self._seconds[-1]

    def mean_tokens_per_second(self) -> float:
        """Of all updates but the first, which includes warm-up."""
        steady = self._seconds[1:] or self._seconds
        return self.tokens_per_update * len(steady) / sum(steady) if steady else 0.0

    def update_seconds(self) -> float:
        """Of all updates, those before a resume included."""
        return sum(self._seconds)

    def mfu(self, tokens_per_second: float) -> float | None:
        """Model FLOPs utilization: the share of the dense peak that this rate uses."""
        return tokens_per_second * self.flops_per_token / self.peak_flops if self.peak_flops else None

    def elapsed_seconds(self) -> float:
        """Since the run started."""
        return perf_counter() - self.started


@dataclass(frozen=True)
class ValidationLoss:
    """The loss over the held-out text."""

    loss: float
    """Mean nats per token."""
    bits_per_byte: float | None
    """Bits needed per byte of text; end-of-text tokens count as bits but not as bytes. None if it is not
    known how many bytes the tokens stand for."""


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """The held-out windows of a text, or of one set in a mixture."""

    name: str
    share: float
    """Of what the run reads; 1 for a single text."""
    windows: TokenArray
    data: TokenData


def validation_sets(data: TokenData, context_length: int, max_tokens: int) -> list[ValidationSet]:
    """The windows that a run evaluates itself on; in a mixture each set gets an equal number of tokens."""
    if not data.parts:
        return [ValidationSet(data.name, 1.0, validation_windows(data, context_length, max_tokens), data)]
    each = max_tokens // len(data.parts)
    return [
        ValidationSet(
            part.name, float(part.share), validation_windows(part.data, context_length, each), part.data
        )
        for part in data.parts
    ]


def add_validation(
    step: StepMetrics, sets: Sequence[ValidationSet], losses: Sequence[ValidationLoss]
) -> StepMetrics:
    """The step with the evaluation after it.

    Of a mixture, the loss is the mean in the shares of the sets, and its bits per byte those of a text with
    these shares of tokens.
    """
    loss = sum(each.share * found.loss for each, found in zip(sets, losses, strict=True))
    by_set = None
    if len(sets) > 1:
        by_set = {each.name: finite_or_none(found.loss) for each, found in zip(sets, losses, strict=True)}
    return replace(
        step, evaluated=True, val_loss=finite_or_none(loss), val_loss_by_set=by_set,
        val_bits_per_byte=finite_or_none(_mean_bits_per_byte(sets, losses)),
    )  # fmt: skip


def _mean_bits_per_byte(sets: Sequence[ValidationSet], losses: Sequence[ValidationLoss]) -> float | None:
    """Bits per byte of a text that has the sets' shares of tokens."""
    if len(sets) == 1:
        return losses[0].bits_per_byte
    bits = n_bytes = 0.0
    for each, found in zip(sets, losses, strict=True):
        if not found.bits_per_byte:
            return None
        bits_per_token = found.loss / math.log(2)
        bits += each.share * bits_per_token
        n_bytes += each.share * bits_per_token / found.bits_per_byte
    return bits / n_bytes


def validation_windows(data: TokenData, context_length: int, max_tokens: int) -> TokenArray:
    """Windows (n, context_length + 1) spread over the held-out text: at most `max_tokens` targets, or one
    window.

    From eight on their number is a multiple of eight, so that batches can have one size.
    """
    n_fitting = (len(data.validation) - 1) // context_length
    n = min(n_fitting, max(1, max_tokens // context_length))
    n -= n % 8 if n >= 8 else 0
    starts = np.arange(n) * n_fitting // n * context_length
    windows = [data.validation[start : start + context_length + 1] for start in starts.tolist()]
    return np.stack(windows).astype(np.int64)


def evaluation_batch_size(
    sets: Sequence[ValidationSet], at_most: int, group: ProcessGroup = SINGLE_PROCESS
) -> int:
    """Windows in a batch of an evaluation: one size for all sets, so that a compiled run compiles one.

    It is the largest, up to `at_most`, for which few windows are computed more than once: `evaluate` repeats
    the windows of a set that is no whole number of batches.
    """
    counts = [len(_own_windows(each.windows, group)) for each in sets]
    most = MOST_REPEATED * sum(counts)
    sizes = range(1, min(at_most, max(counts)) + 1)
    return max(size for size in sizes if sum(lcm(size, n) for n in counts) <= most)


def evaluate(
    loss_fn: Callable[[Tensor], Tensor],
    windows: TokenArray,
    data: TokenData,
    batch_size: int,
    compute: Compute,
    group: ProcessGroup = SINGLE_PROCESS,
) -> ValidationLoss:
    """The mean loss of the windows, in batches of exactly `batch_size`; read from the device once.

    Several processes split the windows if that can be done evenly. Where their number is not a multiple of
    the batch size, all of them are repeated until it is: equally often, which leaves the mean as it is.
    """
    own = _own_windows(windows, group)
    repeated = np.tile(own, (lcm(len(own), batch_size) // len(own), 1))
    means = []
    with torch.no_grad(), compute.autocast():
        for first in range(0, len(repeated), batch_size):
            batch = torch.from_numpy(repeated[first : first + batch_size]).to(compute.device)
            means.append(group.all_reduce_mean(loss_fn(batch)))
    targets = windows[:, 1:]
    nats = sum(torch.stack(means).tolist()) * (targets.size / len(means))
    if data.bytes_of_token is None:
        return ValidationLoss(nats / targets.size, None)
    n_bytes = max(1, int(data.bytes_of_token[targets].sum()))
    return ValidationLoss(nats / targets.size, nats / math.log(2) / n_bytes)


def _own_windows(windows: TokenArray, group: ProcessGroup) -> TokenArray:
    """Those that a process evaluates: its share if all shares are equal, else all."""
    size = group.world_size
    return windows[group.rank :: size] if len(windows) % size == 0 else windows
