"""Settings that fit the memory and the time, found by trial before the run begins.

A trial and the run share a state, so that its loss is compiled once: `run.state_reuse`.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from statistics import median
from time import perf_counter
from typing import Final

import torch

from parambudget.arch.config import ModelConfig
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import total
from parambudget.cost.step import MANY_CHUNKS, MAX_COUNT
from parambudget.errors import InputError
from parambudget.text.token_cache import TokenData
from parambudget.training.config import TrainConfig
from parambudget.training.device import Compute
from parambudget.training.distributed import SINGLE_PROCESS, ProcessGroup
from parambudget.training.loop import Clock, train_steps
from parambudget.training.metrics import StepMetrics
from parambudget.training.run.defaults import ResolvedTrainConfig, with_train_defaults
from parambudget.training.run.state_reuse import ReusableState, free_memory
from parambudget.units import format_seconds

BUSY_TOKENS: Final = 4096
"""A micro-step of fewer tokens leaves much of a GPU idle."""
WARM_UP_UPDATES: Final = 2
TIMED_SECONDS: Final = 3.0
FEWEST_TIMED: Final = 3
EVALUATION_SHARE: Final = 1 / 3
"""The time of a validation token, as a share of that of a training token: the forward pass alone."""


def settings_that_fit(
    resolved: ResolvedTrainConfig, model: ModelConfig, data: TokenData, compute: Compute,
    group: ProcessGroup = SINGLE_PROCESS, *, states: ReusableState | None = None,
    on_status: Callable[[str], None] = lambda _: None,
) -> ResolvedTrainConfig:  # fmt: skip
    """The settings, if two updates with them fit in memory; else with the first change that makes them fit.

    Nothing that was given is changed, and never the number of sequences in an update. With several processes,
    they must fit on each. `on_status` is told of every trial.
    """
    tries = attempts(resolved.config, resolved.given, model.context_length)
    states = states or ReusableState()

    def try_one(config: TrainConfig) -> None:
        on_status(f"trying what fits in memory, {'compiling first: ' * compute.compiled}{_in_words(config)}")
        _try(model, data, compute, group, states, config)

    config = first_that_fits(tries, try_one, group)
    before = resolved.config.model_dump()
    changed = [name for name, value in config.model_dump().items() if before[name] != value]
    reason = f"the largest choice that fits in the memory of {compute.name}"
    return replace(resolved, config=config, reasons=resolved.reasons | dict.fromkeys(changed, reason))


def attempts(config: TrainConfig, given: Set[str], context_length: int) -> Iterator[TrainConfig]:
    """The settings as they are, and then with less and less memory, the faster ones first.

    The logits in chunks; smaller micro-steps, as long as they keep a GPU busy; gradient checkpointing.
    """
    step = config.step
    chunks = [step.loss_chunks] if "loss_chunks" in given else [step.loss_chunks, MANY_CHUNKS]
    sizes = [step.batch_size]
    if not {"batch_size", "gradient_accumulation_steps"} & given:
        whole = step.sequences_per_update
        sizes = _halving([n for n in range(step.batch_size, 0, -1) if whole % (n * step.world_size) == 0])
    busy = [size for size in sizes if size * context_length >= BUSY_TOKENS] or sizes[:1]
    is_open = "gradient_checkpointing" not in given and step.activation_memory_budget == 1
    may_recompute = is_open or step.gradient_checkpointing
    plain = [] if step.gradient_checkpointing else [(size, False) for size in busy]
    recompute = [(size, True) for size in sizes] if may_recompute else []
    last = [] if may_recompute else [(size, False) for size in sizes if size not in busy]
    for size, checkpointing in plain + recompute + last:
        for n_chunks in chunks:
            smaller = step.with_batch_size(size).replace(
                loss_chunks=n_chunks, gradient_checkpointing=checkpointing
            )
            yield config.replace(step=smaller)


def first_that_fits(
    configs: Iterator[TrainConfig],
    try_one: Callable[[TrainConfig], None],
    group: ProcessGroup = SINGLE_PROCESS,
) -> TrainConfig:
    """The first settings that every process can try without running out of memory."""
    for config in configs:
        error = _out_of_memory(try_one, config)
        # By now the exception is gone, and with it what the trial had allocated.
        free_memory()
        if not group.all_reduce_any(error is not None):
            return config
    raise InputError(
        f"not even batch_size={config.step.batch_size} fits in the memory of this device "
        f"({error or 'another process ran out of it'}); use a smaller model or context, or "
        "`gradient_checkpointing=True`"
    )


def _out_of_memory(try_one: Callable[[TrainConfig], None], config: TrainConfig) -> str | None:
    try:
        try_one(config)
    except torch.OutOfMemoryError as error:
        torch.compiler.reset()  # of a trial that fits, the run takes over what was compiled
        return str(error)
    return None


def _in_words(config: TrainConfig) -> str:
    """What a trial may have changed."""
    step = config.step
    parts = [f"batch_size={step.batch_size}"]
    if step.loss_chunks > 1:
        parts.append(f"loss_chunks={step.loss_chunks}")
    if step.gradient_checkpointing:
        parts.append("gradient_checkpointing")
    return ", ".join(parts)


def _halving(sizes: list[int]) -> list[int]:
    """Of descending sizes the first, and then always the next one that is at most half."""
    halves = sizes[:1]
    for size in sizes:
        if size <= halves[-1] / 2:
            halves.append(size)
    return halves


def _try(
    model: ModelConfig, data: TokenData, compute: Compute, group: ProcessGroup, states: ReusableState,
    config: TrainConfig,
) -> None:  # fmt: skip
    """Two updates of at most two micro-steps: gradients are accumulated and the optimizer has its state.

    Waits for no other process, so that it may fail on one of them.
    """
    n_each, shard = min(2, len(group.own_micro_steps(config))), config.step.shard
    tried = group.fake_group() if shard else SINGLE_PROCESS
    config = config.replace(
        gradient_accumulation_steps=n_each * tried.world_size, world_size=tried.world_size
    )
    # Where every process holds the whole model, DistributedDataParallel averages copies of the gradients.
    averaged = torch.empty(0 if shard or group.world_size == 1 else total(model), device=compute.device)
    with _trial(model, data, compute, config, tried, states) as (steps, _):
        for _step in islice(steps, 2):
            pass
    del averaged


@contextmanager
def _trial(
    model: ModelConfig, data: TokenData, compute: Compute, config: TrainConfig, group: ProcessGroup,
    states: ReusableState,
) -> Iterator[tuple[Iterator[StepMetrics], Clock]]:  # fmt: skip
    """Updates without evaluations, of a model whose weights are then discarded."""
    config = config.replace(steps=MAX_COUNT, eval_every=MAX_COUNT, save_every=MAX_COUNT)
    update_tokens = config.step.tokens_per_update(model.context_length)
    clock = Clock(update_tokens, flops_per_token(model), compute.peak_flops)
    end_of_text = data.end_of_text_id
    state = states.take(model, config, compute, group, end_of_text=end_of_text)
    yield train_steps(state, model, config, data, 0, clock), clock
    states.give_back(state, config, end_of_text=end_of_text)


def settings_for_hours(
    first: ResolvedTrainConfig, fields: Mapping[str, object], model: ModelConfig, data: TokenData,
    compute: Compute, hours: float, update_seconds: float | None, group: ProcessGroup = SINGLE_PROCESS,
    require_length: Callable[[int], None] = lambda _: None, *, states: ReusableState | None = None,
) -> tuple[ResolvedTrainConfig, float]:  # fmt: skip
    """The settings with as many steps as `hours` allow, evaluations included; and the seconds per update.

    `first` is what `fields` resolve to without the hours. Its updates are timed here unless an earlier start
    of the run has done so: then the number of steps, and with it the schedule, stays the same.
    `require_length` refuses so few steps.
    """
    seconds = update_seconds or timed_update_seconds(model, first.config, data, compute, group, states=states)
    timed = first.config.step.model_dump()

    def with_steps(steps: int) -> ResolvedTrainConfig:
        require_length(steps)
        on_cpu = compute.device.type != "cuda"
        found = with_train_defaults(
            {**fields, **timed, "steps": steps}, model, data.n_unique_tokens, on_cpu=on_cpu
        )
        return replace(found, config=found.config.replace(step=first.config.step))

    whole = hours * 3600 / seconds
    if whole < 1:
        raise InputError(
            f"`hours={hours:g}` is too short for one update, which takes {format_seconds(seconds)}"
        )
    if whole > MAX_COUNT:
        most = MAX_COUNT * seconds / 3600
        raise InputError(
            f"`hours={hours:g}` is more than {MAX_COUNT:,} updates of {format_seconds(seconds)}; "
            f"use at most {most:,.0f}"
        )
    share = _evaluation_share(with_steps(int(whole)).config, model)
    resolved = with_steps(max(1, int(whole / (1 + share))))
    reasons = {name: reason for name, reason in first.reasons.items() if name in timed}
    reasons["steps"] = f"{hours:g} h at {format_seconds(seconds)} an update, evaluations included"
    return replace(resolved, given=first.given, reasons=resolved.reasons | reasons), seconds


def timed_update_seconds(
    model: ModelConfig, config: TrainConfig, data: TokenData, compute: Compute,
    group: ProcessGroup = SINGLE_PROCESS, *, seconds: float = TIMED_SECONDS,
    states: ReusableState | None = None,
) -> float:  # fmt: skip
    """Seconds of one update, the median of a few after a warm-up; the weights are then discarded.

    Several processes run the same number of updates, as the main one decides, and its time counts.
    """
    rates: list[float] = []
    with _trial(model, data, compute, config, group, states or ReusableState()) as (steps, clock):
        for _ in islice(steps, WARM_UP_UPDATES):
            pass
        started = perf_counter()
        while group.broadcast(len(rates) < FEWEST_TIMED or perf_counter() - started < seconds):
            rates.append(next(steps).tokens_per_second)
    return group.broadcast(clock.tokens_per_update / median(rates))


def _evaluation_share(config: TrainConfig, model: ModelConfig) -> float:
    """Time of the evaluations, as a share of that of the updates."""
    between = config.eval_every * config.step.tokens_per_update(model.context_length)
    return EVALUATION_SHARE * config.eval_tokens / between
