"""Settings that fit the time: hours become a number of steps, once, before the run begins."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from statistics import median
from time import perf_counter
from typing import Any, Final

from parambudget.arch.config import ModelConfig
from parambudget.cost.flops import flops_per_token
from parambudget.errors import InputError
from parambudget.train.clock import Clock
from parambudget.train.config import TrainConfig
from parambudget.train.defaults import Completed, complete
from parambudget.train.device import Compute
from parambudget.train.learner import prepared
from parambudget.train.loop import updates
from parambudget.train.tokens import TokenData
from parambudget.units import format_seconds

WARM_UP_UPDATES: Final = 2
TIMED_SECONDS: Final = 3.0
FEWEST_TIMED: Final = 3
EVALUATION_SHARE: Final = 1 / 3
"""Of the time of a training token that a validation token takes: the forward pass alone."""


def settings_for_hours(
    given: Mapping[str, Any], model: ModelConfig, data: TokenData, compute: Compute,
    hours: float, update_seconds: float | None,
) -> tuple[Completed, float]:  # fmt: skip
    """The settings with as many steps as `hours` have room for, evaluations included; seconds per update.

    The updates are timed here unless an earlier start of the run has done so: the number of steps, and with
    it the schedule, stays the same.
    """
    on_cpu = compute.device.type == "cpu"
    first = complete(given, model, len(data.train), on_cpu=on_cpu)
    seconds = update_seconds or timed_update_seconds(model, first.config, data, compute)
    batch = {name: getattr(first.config, name) for name in ("batch_size", "gradient_accumulation_steps")}

    def with_steps(steps: int) -> Completed:
        return complete({**given, **batch, "steps": steps}, model, len(data.train), on_cpu=on_cpu)

    whole = hours * 3600 / seconds
    if whole < 1:
        raise InputError(
            f"--hours {hours:g} has no room for one update, which takes {format_seconds(seconds)}"
        )
    share = _evaluation_share(with_steps(int(whole)).config, model)
    found = with_steps(max(1, int(whole / (1 + share))))
    reasons = {name: reason for name, reason in first.reasons.items() if name in batch}
    reasons["steps"] = f"{hours:g} h at {format_seconds(seconds)} an update, evaluations included"
    return replace(found, given=frozenset(given), reasons=found.reasons | reasons), seconds


def timed_update_seconds(model: ModelConfig, config: TrainConfig, data: TokenData, compute: Compute) -> float:
    """Seconds of one update, the median of a few after a warm-up, on a model that is then forgotten."""
    many = {"steps": 2**31, "eval_every": 2**31, "save_every": 2**31}
    config = TrainConfig.read(config.model_dump() | many)
    clock = Clock(
        config.sequences_per_update * model.context_length, flops_per_token(model), compute.peak_flops
    )
    steps = updates(prepared(model, config, compute), model, config, data, 0, clock)
    for _ in islice(steps, WARM_UP_UPDATES):
        pass
    started, rates = perf_counter(), []
    while len(rates) < FEWEST_TIMED or perf_counter() - started < TIMED_SECONDS:
        rates.append(next(steps).tokens_per_second)
    return clock.tokens_per_update / median(rates)


def _evaluation_share(config: TrainConfig, model: ModelConfig) -> float:
    """Time of the evaluations, as a share of that of the updates."""
    between = config.eval_every * config.sequences_per_update * model.context_length
    return EVALUATION_SHARE * config.eval_tokens / between
