"""Settings that fit the memory and the time, found by trying, once, before the run begins."""

import gc
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import replace
from functools import partial
from itertools import islice
from statistics import median
from time import perf_counter
from typing import Any, Final

import torch

from parambudget.arch.config import ModelConfig
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import total
from parambudget.errors import InputError
from parambudget.text.token_cache import TokenData
from parambudget.training.config import TrainConfig
from parambudget.training.defaults import Completed, complete
from parambudget.training.device import Compute
from parambudget.training.distributed import SINGLE_PROCESS, ProcessGroup
from parambudget.training.loop import Clock, train_steps
from parambudget.training.metrics import StepMetrics
from parambudget.training.train_state import init_train_state
from parambudget.units import format_seconds

MANY_CHUNKS: Final = 8
"""Of the logits, when they do not fit at once."""
BUSY_TOKENS: Final = 4096
"""A micro-step of fewer tokens leaves much of a GPU idle."""
WARM_UP_UPDATES: Final = 2
MOST_STEPS: Final = 2**31
"""As many as `TrainConfig.steps` may be."""
TIMED_SECONDS: Final = 3.0
FEWEST_TIMED: Final = 3
EVALUATION_SHARE: Final = 1 / 3
"""Of the time of a training token that a validation token takes: the forward pass alone."""

_TIMED: Final = ("batch_size", "gradient_accumulation_steps", "loss_chunks", "gradient_checkpointing")
"""Settings that the time of an update depends on."""


def settings_that_fit(
    found: Completed, model: ModelConfig, data: TokenData, compute: Compute,
    ranks: ProcessGroup = SINGLE_PROCESS, *, shard: bool = False,
) -> Completed:  # fmt: skip
    """The settings, if two updates of them fit in the memory; else with the first change that makes them fit.

    Nothing that was given is changed, and never the number of sequences in an update. With several processes,
    they fit where they fit on each.
    """
    tries = attempts(found.config, found.given, model.context_length, ranks.world_size)
    config = first_that_fits(tries, partial(_try, model, data, compute, ranks, shard), ranks)
    changed = [name for name, value in found.config if getattr(config, name) != value]
    reason = f"the largest choice that fits in the memory of {compute.name}"
    return replace(found, config=config, reasons=found.reasons | dict.fromkeys(changed, reason))


def attempts(
    config: TrainConfig, given: Set[str], context_length: int, n_processes: int = 1
) -> Iterator[TrainConfig]:
    """The settings as they are, and then such that need less and less memory, the quicker ones first.

    The logits in parts; smaller micro-steps, as long as they keep a GPU busy; recomputed blocks.
    """
    chunks = [config.loss_chunks] if "loss_chunks" in given else [config.loss_chunks, MANY_CHUNKS]
    sizes = [config.batch_size]
    if not {"batch_size", "gradient_accumulation_steps"} & given:
        whole = config.sequences_per_update
        even = [n for n in range(config.batch_size, 0, -1) if whole % (n * n_processes) == 0]
        sizes = _halving(even)
    busy = [size for size in sizes if size * context_length >= BUSY_TOKENS] or sizes[:1]
    may_recompute = "gradient_checkpointing" not in given or config.gradient_checkpointing
    plain = [] if config.gradient_checkpointing else [(size, False) for size in busy]
    recomputed = [(size, True) for size in sizes] if may_recompute else []
    last = [] if may_recompute else [(size, False) for size in sizes if size not in busy]
    for size, checkpointing in plain + recomputed + last:
        for n_chunks in chunks:
            smaller = {
                "batch_size": size, "gradient_accumulation_steps": config.sequences_per_update // size,
                "loss_chunks": n_chunks, "gradient_checkpointing": checkpointing,
            }  # fmt: skip
            yield TrainConfig.read(config.model_dump() | smaller)


def first_that_fits(
    configs: Iterator[TrainConfig],
    try_one: Callable[[TrainConfig], None],
    ranks: ProcessGroup = SINGLE_PROCESS,
) -> TrainConfig:
    """The first of the settings that every process can try without running out of memory."""
    for config in configs:
        refused = _refused(try_one, config)
        # By now the error is forgotten, and with it what the trial held.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not ranks.all_reduce_any(refused is not None):
            return config
    refused = refused or "of another process"
    raise InputError(
        f"not even batch_size={config.batch_size} fits in the memory of this device ({refused}); "
        "use a smaller model or context, or --gradient-checkpointing"
    )


def _refused(try_one: Callable[[TrainConfig], None], config: TrainConfig) -> str | None:
    try:
        try_one(config)
    except torch.OutOfMemoryError as error:
        return str(error)
    finally:
        torch.compiler.reset()
    return None


def _halving(sizes: list[int]) -> list[int]:
    """Of falling sizes the first, and then always the next one that is at most half."""
    kept = sizes[:1]
    for size in sizes:
        if size <= kept[-1] / 2:
            kept.append(size)
    return kept


def _try(
    model: ModelConfig,
    data: TokenData,
    compute: Compute,
    ranks: ProcessGroup,
    shard: bool,
    config: TrainConfig,
) -> None:
    """Two updates of at most two micro-steps: gradients are added up and the optimizer has its state.

    Waits for no other process, so that it may fail on one of them.
    """
    n_each = min(2, len(ranks.own_micro_steps(config)))
    tried = ranks.fake_group() if shard else SINGLE_PROCESS
    few = {"gradient_accumulation_steps": n_each * tried.world_size}
    config = TrainConfig.read(config.model_dump() | few)
    # Where every process holds the whole model, DistributedDataParallel averages copies of the gradients.
    averaged = torch.empty(0 if shard or ranks.world_size == 1 else total(model), device=compute.device)
    for _ in islice(_trial(model, data, compute, config, tried, shard=shard)[0], 2):
        pass
    del averaged


def _trial(
    model: ModelConfig,
    data: TokenData,
    compute: Compute,
    config: TrainConfig,
    ranks: ProcessGroup,
    *,
    shard: bool,
) -> tuple[Iterator[StepMetrics], Clock]:
    """Updates of a model that is then forgotten, without evaluations."""
    many = {"steps": 2**31, "eval_every": 2**31, "save_every": 2**31}
    config = TrainConfig.read(config.model_dump() | many)
    clock = Clock(
        config.sequences_per_update * model.context_length, flops_per_token(model), compute.peak_flops
    )
    learner = init_train_state(model, config, compute, ranks, shard=shard)
    return train_steps(learner, model, config, data, 0, clock), clock


def settings_for_hours(
    first: Completed, fields: Mapping[str, Any], model: ModelConfig, data: TokenData, compute: Compute,
    hours: float, update_seconds: float | None, ranks: ProcessGroup = SINGLE_PROCESS, *, shard: bool = False,
) -> tuple[Completed, float]:  # fmt: skip
    """The settings with as many steps as `hours` have room for, evaluations included; seconds per update.

    `first` is what `fields` are completed to without the hours. Its updates are timed here unless an earlier
    start of the run has done so: the number of steps, and with it the schedule, stays the same.
    """
    seconds = update_seconds or timed_update_seconds(model, first.config, data, compute, ranks, shard=shard)
    timed = {name: getattr(first.config, name) for name in _TIMED}

    def with_steps(steps: int) -> Completed:
        on_cpu = compute.device.type == "cpu"
        return complete({**fields, **timed, "steps": steps}, model, len(data.train), on_cpu=on_cpu)

    whole = hours * 3600 / seconds
    if whole < 1:
        raise InputError(
            f"--hours {hours:g} has no room for one update, which takes {format_seconds(seconds)}"
        )
    if whole > MOST_STEPS:
        most = MOST_STEPS * seconds / 3600
        raise InputError(
            f"--hours {hours:g} is more than {MOST_STEPS:,} updates of {format_seconds(seconds)}; "
            f"use at most {most:,.0f}"
        )
    share = _evaluation_share(with_steps(int(whole)).config, model)
    found = with_steps(max(1, int(whole / (1 + share))))
    reasons = {name: reason for name, reason in first.reasons.items() if name in timed}
    reasons["steps"] = f"{hours:g} h at {format_seconds(seconds)} an update, evaluations included"
    return replace(found, given=first.given, reasons=found.reasons | reasons), seconds


def timed_update_seconds(
    model: ModelConfig, config: TrainConfig, data: TokenData, compute: Compute,
    ranks: ProcessGroup = SINGLE_PROCESS, *, shard: bool = False, seconds: float = TIMED_SECONDS,
) -> float:  # fmt: skip
    """Seconds of one update, the median of a few after a warm-up, on a model that is then forgotten.

    Several processes make them in step, as many as the leading one says, and its time counts.
    """
    steps, clock = _trial(model, data, compute, config, ranks, shard=shard)
    for _ in islice(steps, WARM_UP_UPDATES):
        pass
    rates: list[float] = []
    started = perf_counter()
    while ranks.broadcast(len(rates) < FEWEST_TIMED or perf_counter() - started < seconds):
        rates.append(next(steps).tokens_per_second)
    return ranks.broadcast(clock.tokens_per_update / median(rates))


def _evaluation_share(config: TrainConfig, model: ModelConfig) -> float:
    """Time of the evaluations, as a share of that of the updates."""
    between = config.eval_every * config.sequences_per_update * model.context_length
    return EVALUATION_SHARE * config.eval_tokens / between
