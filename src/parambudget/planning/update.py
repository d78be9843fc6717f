"""How many tokens an update has: the rule that `plan`, `solve`, `report` and `train` share.

The laws of `scaling.hyperparameters` give the tokens of an update from those of the whole run. Where a run is
given in hours, its tokens follow from the speed, and the speed from the update, whose optimizer takes equally
long however many tokens there are. `settle_updates` finds the update that agrees with the tokens it leads to.
"""

from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import active
from parambudget.cost.speed.roofline import tokens_per_second
from parambudget.cost.speed.throughput import tokens_in_hours
from parambudget.cost.step import StepConfig, StepFields
from parambudget.planning.machine import Machine
from parambudget.planning.step_search import NOTHING_FITS, choose_fastest, machine_step_candidates
from parambudget.scaling.hyperparameters import (
    TOKENS_PER_PARAMETER,
    executed_batch,
    training_tokens,
    update_sizes,
    update_tokens,
)

USUAL_SHARE: Final = 0.6
"""Of the speed of matmuls, that whole updates reach: only the sizes to search and the first guess at an
update follow from it."""
_MOST_ROUNDS: Final = 8
"""Two or three are usual. Where two updates lead to each other, the smaller one is taken."""


def choose_step(
    model: ModelConfig, machine: Machine, given: StepFields, *, hours: float | None = None,
    tokens: int | None = None, unique_tokens: int | None = None,
) -> tuple[StepConfig, str, str | None]:  # fmt: skip
    """How an update is executed, why it has as many sequences, and where the laws behind that end.

    The run takes so many hours, or `tokens`, or with neither what `training_tokens` says. It is the fastest
    way that fits, or where none does the one of least memory; what is `given` stays.
    """

    @cache
    def fastest(sequences: int) -> tuple[StepConfig, float]:
        return _fastest(model, sequences, machine, given)

    def rate(update: Size) -> float:
        return fastest(max(1, int(update) // model.context_length))[1]

    if "batch_size" in given and "gradient_accumulation_steps" in given:
        return fastest(given["batch_size"] * given["gradient_accumulation_steps"])[0], "given", None
    if hours is None:
        batch = update_tokens(model, tokens or training_tokens(model, unique_tokens)[0])
        update, why = batch.tokens, batch.why
    else:
        update = int(settle_updates(model, hours, machine, rate))
        batch = update_tokens(model, max(1, int(tokens_in_hours(hours, rate(update)))))
        why = batch.why
        if batch.tokens != update:  # they lead to each other
            why = f"about {update:,} tokens an update: {batch.tokens:,} would do as well"
    step = fastest(max(1, update // model.context_length))[0]
    return step, why + executed_batch(update, step, model.context_length), batch.warning


def settle_updates(m: Dims, hours: float, machine: Machine, rates: Callable[[Size], Size]) -> Size:
    """Tokens per update with which models train in so many hours on the tokens that such updates are for.

    `rates` are the tokens per second with some tokens per update; arrays where the sizes are.
    """
    update = update_sizes(m, usual_flops(hours, machine) / flops_per_token(m))
    settled = update
    for _ in range(_MOST_ROUNDS):
        settled = update_sizes(m, np.maximum(tokens_in_hours(hours, rates(update)), 1.0))
        if np.array_equal(settled, update):
            return update
        update, previous = settled, update
    return np.minimum(settled, previous)


def usual_flops(hours: float, machine: Machine) -> float:
    """About what so many hours can compute."""
    return hours * 3600 * USUAL_SHARE * machine.profile.matmul_flops * machine.world_size


def usual_tokens(m: Dims) -> Size:
    """Tokens of a run whose length nobody gives, on text without end; arrays where the sizes are."""
    return TOKENS_PER_PARAMETER * active(m)


def _fastest(
    model: ModelConfig, sequences: int, machine: Machine, given: StepFields
) -> tuple[StepConfig, float]:
    """The fastest step that fits, or where none does the one of least memory; and its tokens per second."""
    candidates = machine_step_candidates(model.context_length, sequences, machine, given)
    choice = choose_fastest(model, candidates, machine)
    if int(choice.index) == NOTHING_FITS:
        return candidates[0], float(tokens_per_second(model, candidates[0], machine.profile))
    return candidates[int(choice.index)], float(choice.tokens_per_second)
