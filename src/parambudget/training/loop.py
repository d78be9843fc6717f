"""Training as one page of named steps.

B batch   T tokens
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import count, islice, takewhile
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import torch
from torch import Tensor

from parambudget._files import write_json
from parambudget.arch.config import ModelConfig
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import total
from parambudget.errors import CheckFailed
from parambudget.text.token_cache import TokenData
from parambudget.training import run_folder
from parambudget.training.checkpoint import files
from parambudget.training.checkpoint.async_saver import Saver
from parambudget.training.config import TrainConfig
from parambudget.training.dataloader import Windows, require_windows
from parambudget.training.device import Compute, choose, memory_told, surroundings
from parambudget.training.distributed import ALONE, Ranks
from parambudget.training.forecast import Prediction, predict_run
from parambudget.training.metrics import Step, TrainResult, stored_config
from parambudget.training.optimizer import clip, set_learning_rate
from parambudget.training.resume import require_same_run, restored
from parambudget.training.schedule import learning_rate
from parambudget.training.train_state import Learner, prepared, started_from

if TYPE_CHECKING:
    from parambudget.training.checkpoint.sharded import Pieces


@dataclass
class Clock:
    """Times each update as a `with` block; what is done between them (evaluating, saving) does not count."""

    tokens_per_update: int
    flops_per_token: int
    """Full convention."""
    peak_flops: float | None
    """Dense FLOP/s of the device; without it there is no MFU."""
    started: float = field(default_factory=perf_counter)
    _entered: float = 0.0
    _seconds: list[float] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._entered = perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        self._seconds.append(perf_counter() - self._entered)

    def already_ran(self, tokens_per_second: Iterable[float]) -> None:
        """Count updates that were made before this run was resumed, at these rates."""
        self._seconds = [self.tokens_per_update / rate for rate in tokens_per_second if rate] + self._seconds

    def tokens_per_second(self) -> float:
        """Of the latest update."""
        return self.tokens_per_update / self._seconds[-1]

    def mean_tokens_per_second(self) -> float:
        """Of all updates but the first, which also warms up."""
        steady = self._seconds[1:] or self._seconds
        return self.tokens_per_update * len(steady) / sum(steady) if steady else 0.0

    def mfu(self, tokens_per_second: float) -> float | None:
        """Share of the dense peak that this rate uses."""
        return tokens_per_second * self.flops_per_token / self.peak_flops if self.peak_flops else None

    def elapsed_seconds(self) -> float:
        """Since the run started."""
        return perf_counter() - self.started


@dataclass(frozen=True)
class Validation:
    """The loss over the held-out text."""

    loss: float
    """Mean nats per token."""
    bits_per_byte: float
    """Bits needed per byte of text, the ends of documents included in the cost and not in the bytes."""


def validation_windows(data: TokenData, context_length: int, most_tokens: int) -> np.ndarray[Any, Any]:
    """Windows (n, context_length + 1) spread over the held-out text: at most `most_tokens` targets, or one.

    From eight on they are a multiple of eight, so that batches can have one size.
    """
    fitting = (len(data.validation) - 1) // context_length
    n = min(fitting, max(1, most_tokens // context_length))
    n -= n % 8 if n >= 8 else 0
    starts = np.arange(n) * fitting // n * context_length
    return np.asarray(data.validation[starts[:, None] + np.arange(context_length + 1)], np.int64)


def evaluate(
    loss_of: Callable[[Tensor], Tensor],
    windows: np.ndarray[Any, Any],
    data: TokenData,
    batch_size: int,
    compute: Compute,
    ranks: Ranks = ALONE,
) -> Validation:
    """The mean loss of the windows under a model, in batches of one size; read from the device once.

    Several processes share the windows out if that can be done evenly.
    """
    own = windows[ranks.rank :: ranks.size] if len(windows) % ranks.size == 0 else windows
    n_together = max(n for n in range(1, min(batch_size, len(own)) + 1) if len(own) % n == 0)
    means = []
    with torch.no_grad(), compute.autocast():
        for first in range(0, len(own), n_together):
            batch = torch.from_numpy(own[first : first + n_together]).to(compute.device)
            means.append(ranks.mean(loss_of(batch)))
    targets = windows[:, 1:]
    nats = sum(torch.stack(means).tolist()) * n_together * targets.shape[1] * (len(windows) // len(own))
    return Validation(
        nats / targets.size, nats / math.log(2) / max(1, int(data.bytes_of_token[targets].sum()))
    )


MOST_SKIPPED_IN_A_ROW: Final = 5
NOTHING_YET: Final = Step(0, None, 0.0, None, False, 0, 0.0, None)


def train(
    model: ModelConfig, config: TrainConfig, data: TokenData, out: Path, *,
    device: str = "auto", ranks: Ranks = ALONE, shard: bool = False, resume: bool = False,
    init: Path | None = None, provenance: Mapping[str, Any] | None = None,
    stopped: Callable[[], bool] = lambda: False, on_step: Callable[[Step], None] = lambda _: None,
    on_notice: Callable[[str], None] = lambda _: None, on_start: Callable[[], None] = lambda: None,
) -> TrainResult:  # fmt: skip
    """Train a model and leave metrics.jsonl, summary.json and checkpoints in `out`.

    Writes nothing until the built model has exactly the planned tensors and the text is long enough. With
    `resume`, goes on with the run in `out`, if there is one. `init` is a checkpoint whose weights a new run
    starts from. Once `stopped` is true, the run saves after the update and returns, not finished. `on_notice`
    hears of what does not end the run. With several `ranks`, each calls this; the leading one alone writes,
    but for checkpoints of a model that is shared out with `shard`: of these each writes its rows. `on_start`
    is called when nothing stands in the way of the first update any more.
    """
    with ranks.telling():
        compute = choose(device)
        require_windows(data, model.context_length)
        ranks.require_even(config)
        if shard:
            ranks.require_others()
        planned = predict_run(model, config, compute, ranks, shard=shard)
        learner = prepared(model, config, compute, ranks, shard=shard)
        origin = started_from(init, learner, data, on_notice) if init is not None else {}
        described = run_folder.description(model, config, data, {**(provenance or {}), **origin})
        if resume and (stored := stored_config(out)) is not None:
            require_same_run(out, stored, described)
    around = surroundings(compute.name, ranks.size, shard=shard)
    pieces = pieces_of_all() if shard else None
    about = files.About(described, data.tokenizer_json, around, pieces)
    update_tokens = config.step.tokens_per_update(model.context_length)
    clock = Clock(update_tokens, flops_per_token(model), ranks.peak_flops(compute))
    if not ranks.leads:
        with memory_told(config):
            return helped(learner, model, config, data, out, clock, planned, about, stopped)
    with ExitStack() as folder, memory_told(config):
        with ranks.telling():
            checkpoints = folder.enter_context(run_folder.claimed(out, resume=resume))
            metrics, saver = run_folder.Metrics(out, on_notice), Saver(checkpoints, config.keep, on_notice)
            before = restored(checkpoints, config.steps, metrics, learner, about, on_notice)
            write_json(out / "config.json", described)
            done = ranks.first(before[-1].step if before else 0)
            ranks.meet()
        on_start()
        clock.already_ran(step.tokens_per_second for step in before)

        def save(step: Step) -> None:
            result = outcome(config, model, step, clock, compute, checkpoints, planned)
            held = files.snapshot(step, learner.module, learner.optimizer, about)
            saver.save(held, lambda: write_json(out / "summary.json", result.as_dict()))

        steps = updates(learner, model, config, data, done, clock)
        last = followed(steps, before, config, metrics, saver, save, lambda: ranks.any(stopped()), on_step)
        result = outcome(config, model, last, clock, compute, checkpoints, planned)
        if last.step == done and (measured_then := run_folder.stored_result(out)) is not None:
            # Nothing was trained now: what was measured when it was stays.
            result = replace(measured_then, finished=result.finished)
        write_json(out / "summary.json", result.as_dict())
    return result


def helped(
    learner: Learner, model: ModelConfig, config: TrainConfig, data: TokenData, out: Path, clock: Clock,
    planned: Prediction | None, about: files.About, stopped: Callable[[], bool],
) -> TrainResult:  # fmt: skip
    """What a process that does not lead does: the same updates from the same checkpoint.

    It writes nothing but its rows of a model that is shared out, into the leading one's checkpoints.
    """
    ranks, checkpoints = learner.ranks, out / "checkpoints"
    with ranks.telling():
        done = ranks.first(0)
        if done:
            folder = checkpoints / f"step-{done}"
            state = files.read_state(folder, check=False)
            files.restore(folder, state, learner.module, learner.optimizer)
        ranks.meet()
    saver = Saver(checkpoints, config.keep, lambda _: None, leads=False)
    last, skipped_in_a_row = replace(NOTHING_YET, step=done), 0
    for last in () if ranks.any(stopped()) else updates(learner, model, config, data, done, clock):
        skipped_in_a_row = skipped_in_a_row + 1 if last.skipped else 0
        if skipped_in_a_row == MOST_SKIPPED_IN_A_ROW:
            break
        stopping = ranks.any(stopped())
        if about.pieces is not None and (stopping or due(last.step, config.save_every, config)):
            saver.poll()
            held = files.snapshot(last, learner.module, learner.optimizer, about)
            saver.save(held)
        if stopping:
            break
    saver.finish()
    return outcome(config, model, last, clock, learner.compute, checkpoints, planned)


def updates(
    learner: Learner, model: ModelConfig, config: TrainConfig, data: TokenData, done: int, clock: Clock
) -> Iterator[Step]:
    """Train from update `done` to the last one; each is made when the next step is asked for."""
    text = Windows(data.train, model.context_length, config.seed)
    held_out = validation_windows(data, model.context_length, config.eval_tokens)
    batches = ahead(micro_batches(text, done, config, learner.compute, learner.ranks))
    for i in range(done, config.steps):
        rate = learning_rate(i, config)
        set_learning_rate(learner.optimizer, rate)
        with clock:
            own_loss = accumulate(learner.loss_of, batches, config, learner.compute, learner.ranks)
            mean_loss = learner.ranks.mean(own_loss)
            norm = clip(learner.module.parameters(), config.grad_clip)
            # The one time in an update that the host waits for the device.
            figures = torch.stack((mean_loss, norm, *learner.balance.busiest(learner.ranks)))
            loss, grad_norm, *busiest = figures.tolist()
            skipped = not update(learner.optimizer, loss, grad_norm)
            if not skipped:
                learner.balance.correct()
            learner.balance.count_anew()
        step = measured(i + 1, loss, rate, grad_norm, clock, skipped=skipped)
        step = replace(step, busiest_expert=busiest[0] if busiest else None)
        if due(step.step, config.eval_every, config):
            validation = evaluate(
                learner.loss_of, held_out, data, config.batch_size, learner.compute, learner.ranks
            )
            step = replace(step, val_loss=validation.loss, val_bits_per_byte=validation.bits_per_byte)
        yield step


def followed(
    steps: Iterator[Step], before: list[Step], config: TrainConfig, metrics: run_folder.Metrics, saver: Saver,
    save: Callable[[Step], None], stopped: Callable[[], bool], on_step: Callable[[Step], None],
) -> Step:  # fmt: skip
    """Draw the updates one by one: a row each, checkpoints when due; to the end or until asked to stop.

    Returns the last step.
    """
    last = before[-1] if before else NOTHING_YET
    skipped_in_a_row = len(list(takewhile(lambda step: step.skipped, reversed(before))))
    for last in () if stopped() else steps:
        metrics.add(last)
        on_step(last)
        saver.poll()
        skipped_in_a_row = skipped_in_a_row + 1 if last.skipped else 0
        stop_if_diverged(skipped_in_a_row, last, saver)
        stopping = stopped()
        if stopping or due(last.step, config.save_every, config):
            save(last)
        if stopping:
            break
    metrics.finish()
    saver.finish()
    return last


def micro_batches(
    text: Windows, done: int, config: TrainConfig, compute: Compute, ranks: Ranks = ALONE
) -> Iterator[Tensor]:
    """This rank's windows of every update after `done` others, batch_size at a time, on the device."""
    for first in count(done * config.step.sequences_per_update, config.step.sequences_per_update):
        for micro_step in ranks.own_steps(config):
            tokens_BT = torch.from_numpy(text.at(first + micro_step * config.batch_size, config.batch_size))
            if compute.device.type == "cuda":
                tokens_BT = tokens_BT.pin_memory()
            yield tokens_BT.to(compute.device, non_blocking=True)


def ahead(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same batches, one ahead: while one is computed on, the next is copied to the device."""
    following = next(batches)
    for batch in batches:
        yield following
        following = batch


def accumulate(
    loss_of: Callable[[Tensor], Tensor], batches: Iterable[Tensor], config: TrainConfig, compute: Compute,
    ranks: Ranks = ALONE,
) -> Tensor:  # fmt: skip
    """Add up the gradients of an update's micro-steps, as of one batch; returns this rank's loss, unread."""
    n_own = len(ranks.own_steps(config))
    whole = torch.zeros((), device=compute.device)
    for i, tokens_BT in enumerate(islice(batches, n_own), 1):
        with ranks.apart(loss_of, last=i == n_own):
            with compute.autocast():
                loss = loss_of(tokens_BT) / n_own
            torch.autograd.backward(loss)
        whole += loss.detach()
    return whole


def update(optimizer: torch.optim.Optimizer, loss: float, grad_norm: float) -> bool:
    """Take the optimizer's step, unless loss or gradient is not finite: then the weights stay as they are."""
    finite = math.isfinite(loss) and math.isfinite(grad_norm)
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return finite


def measured(step: int, loss: float, rate: float, grad_norm: float, clock: Clock, *, skipped: bool) -> Step:
    """What the update was, for metrics.jsonl and for whoever watches."""
    speed = clock.tokens_per_second()
    return Step(
        step=step, loss=loss if math.isfinite(loss) else None, lr=rate,
        grad_norm=grad_norm if math.isfinite(grad_norm) else None, skipped=skipped,
        tokens=step * clock.tokens_per_update, tokens_per_second=speed, mfu=clock.mfu(speed),
    )  # fmt: skip


def due(step: int, every: int, config: TrainConfig) -> bool:
    """Whether something that is done every so many steps, and after the last one, is done after this one."""
    return step % every == 0 or step == config.steps


def stop_if_diverged(skipped_in_a_row: int, step: Step, saver: Saver) -> None:
    """Raise `CheckFailed` after too many updates without a finite loss; names the checkpoint to return to."""
    if skipped_in_a_row < MOST_SKIPPED_IN_A_ROW:
        return
    saver.wait()
    saved = files.all_in(saver.checkpoints)
    raise CheckFailed(
        f"loss or gradient was not finite for {skipped_in_a_row} updates in a row, up to step {step.step}; "
        f"lower learning_rate={step.lr:g} and start again"
        + (f" (last good checkpoint: {saved[0]})" if saved else " (no checkpoint was saved yet)")
    )


def outcome(
    config: TrainConfig, model: ModelConfig, step: Step, clock: Clock, compute: Compute, checkpoints: Path,
    planned: Prediction | None,
) -> TrainResult:  # fmt: skip
    """The run as it stands after `step`, which is saved or about to be."""
    speed = clock.mean_tokens_per_second()
    return TrainResult(
        finished=step.step == config.steps, parameters=total(model), steps=step.step, tokens=step.tokens,
        loss=step.loss, val_loss=step.val_loss, val_bits_per_byte=step.val_bits_per_byte,
        tokens_per_second=speed, mfu=clock.mfu(speed), peak_flops=clock.peak_flops,
        peak_memory_bytes=compute.peak_memory_bytes(),
        seconds=clock.elapsed_seconds(), device=compute.name,
        planned=None if planned is None else planned.as_dict(),
        checkpoint=checkpoints / f"step-{step.step}" if step.step else None,
    )  # fmt: skip


def pieces_of_all() -> "Pieces":
    """The processes as those that write a checkpoint together."""
    from parambudget.training.checkpoint.sharded import (
        Pieces,  # DTensor and DCP: seconds that no other run needs
    )

    return Pieces.of_all()
