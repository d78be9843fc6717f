"""Training as one page of named steps.

B batch   T tokens   V vocabulary
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from parambudget import __version__
from parambudget.arch.config import ModelConfig
from parambudget.arch.source import config_document
from parambudget.build.module import Transformer
from parambudget.build.verify import verify_module
from parambudget.cost.count import total
from parambudget.cost.flops import flops_per_token
from parambudget.errors import CheckFailed
from parambudget.train import checkpoint, rundir
from parambudget.train.batches import Windows, require_windows
from parambudget.train.clock import Clock
from parambudget.train.config import TrainConfig
from parambudget.train.device import Compute, choose
from parambudget.train.evaluate import evaluate, validation_windows
from parambudget.train.optim import adamw, clip, set_learning_rate
from parambudget.train.results import Step, TrainResult
from parambudget.train.schedule import learning_rate
from parambudget.train.tokens import TokenData

MOST_SKIPPED_IN_A_ROW: Final = 5


def train(
    model: ModelConfig, config: TrainConfig, data: TokenData, out: Path, *,
    device: str = "auto", on_step: Callable[[Step], None] | None = None,
) -> TrainResult:  # fmt: skip
    """Train a model and leave metrics.jsonl, summary.json and checkpoints in `out`.

    Writes nothing until the built model has exactly the planned tensors and the text is long enough.
    """
    compute = choose(device)
    require_windows(data, model.context_length)
    text = Windows(data.train, model.context_length, config.seed)
    held_out = validation_windows(data, model.context_length, config.eval_tokens)
    module = planned(initialised(model, config.seed, compute), model)
    optimizer = adamw(module, model, config)
    loss_of = mean_loss(module, config, compute)
    described = description(model, config, data)
    checkpoints = rundir.claim(out, described)
    clock = Clock(
        config.sequences_per_update * model.context_length, flops_per_token(model), compute.peak_flops
    )
    skipped_in_a_row = 0

    for done in range(config.steps):
        rate = learning_rate(done, config)
        set_learning_rate(optimizer, rate)
        with clock:
            loss = accumulate(loss_of, micro_batches(text, done, config, compute), config, compute)
            grad_norm = clip(module.parameters(), config.grad_clip).item()
            skipped = not update(optimizer, loss, grad_norm)
        step = measured(done + 1, loss, rate, grad_norm, clock, skipped=skipped)
        if due(step.step, config.eval_every, config):
            validation = evaluate(loss_of, held_out, data, config.batch_size, compute)
            step = replace(step, val_loss=validation.loss, val_bits_per_byte=validation.bits_per_byte)
        rundir.record(out, step)
        if on_step:
            on_step(step)
        skipped_in_a_row = skipped_in_a_row + 1 if skipped else 0
        stop_if_diverged(skipped_in_a_row, step, checkpoints)
        if due(step.step, config.save_every, config):
            saved = checkpoint.save(checkpoints, step, module, optimizer, described, data.tokenizer_json)
            checkpoint.remove_old(checkpoints, config.keep)
            result = outcome(config, model, step, clock, compute, saved)
            rundir.write_summary(out, result.as_dict())
    return result


def initialised(model: ModelConfig, seed: int, compute: Compute) -> Transformer:
    """The model with the weights that `seed` draws, in float32 on the device."""
    module = Transformer(model, device=compute.device, dtype=torch.float32)
    module.init_weights(torch.Generator(compute.device).manual_seed(seed))
    return module


def planned(module: Transformer, model: ModelConfig) -> Transformer:
    """The module, if it has exactly the tensors that were counted; otherwise `CheckFailed`."""
    verify_module(module, model).require_agreement()
    return module


def mean_loss(module: Transformer, config: TrainConfig, compute: Compute) -> Callable[[Tensor], Tensor]:
    """The function from token windows (B, T + 1) to the mean loss of their next tokens, in float32 nats."""

    def loss_of(tokens_BT: Tensor) -> Tensor:
        recompute = config.gradient_checkpointing and torch.is_grad_enabled()
        logits_BTV = module.logits(module.hidden(tokens_BT[:, :-1], checkpoint=recompute))
        return F.cross_entropy(logits_BTV.float().flatten(0, 1), tokens_BT[:, 1:].flatten())

    return torch.compile(loss_of) if compute.compiled else loss_of


def micro_batches(text: Windows, done: int, config: TrainConfig, compute: Compute) -> Iterator[Tensor]:
    """The windows of the update after `done` others, batch_size at a time, on the device."""
    first = done * config.sequences_per_update
    for micro_step in range(config.gradient_accumulation_steps):
        tokens_BT = torch.from_numpy(text.at(first + micro_step * config.batch_size, config.batch_size))
        if compute.device.type == "cuda":
            tokens_BT = tokens_BT.pin_memory()
        yield tokens_BT.to(compute.device, non_blocking=True)


def accumulate(
    loss_of: Callable[[Tensor], Tensor], batches: Iterable[Tensor], config: TrainConfig, compute: Compute
) -> float:
    """Add up the gradients of the micro-steps, as of one batch; returns the mean loss."""
    whole = torch.zeros((), device=compute.device)
    for tokens_BT in batches:
        with compute.autocast():
            loss = loss_of(tokens_BT) / config.gradient_accumulation_steps
        torch.autograd.backward(loss)
        whole += loss.detach()
    return whole.item()


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


def stop_if_diverged(skipped_in_a_row: int, step: Step, checkpoints: Path) -> None:
    """Raise `CheckFailed` after too many updates without a finite loss; names the checkpoint to return to."""
    if skipped_in_a_row < MOST_SKIPPED_IN_A_ROW:
        return
    saved = checkpoint.all_in(checkpoints)
    raise CheckFailed(
        f"loss or gradient was not finite for {skipped_in_a_row} updates in a row, up to step {step.step}; "
        f"lower learning_rate={step.lr:g} and start again"
        + (f" (last good checkpoint: {saved[0]})" if saved else " (no checkpoint was saved yet)")
    )


def outcome(
    config: TrainConfig, model: ModelConfig, step: Step, clock: Clock, compute: Compute, saved: Path
) -> TrainResult:
    """The run as it stands after `step`."""
    speed = clock.mean_tokens_per_second()
    return TrainResult(
        finished=step.step == config.steps, parameters=total(model), steps=step.step, tokens=step.tokens,
        loss=step.loss, val_loss=step.val_loss, val_bits_per_byte=step.val_bits_per_byte,
        tokens_per_second=speed, mfu=clock.mfu(speed), peak_memory_bytes=compute.peak_memory_bytes(),
        seconds=clock.elapsed_seconds(), device=compute.name, checkpoint=saved,
    )  # fmt: skip


def description(model: ModelConfig, config: TrainConfig, data: TokenData) -> dict[str, Any]:
    """The config file of the run: what it computes, and on which text."""
    provenance = {
        "version": __version__,
        "corpus": data.name,
        "corpus_sha256": data.sha256,
        "tokens_sha256": data.tokens_sha256,
        "tokenizer_entries": data.entries,
    }
    return config_document(model, provenance, config.model_dump())
