"""What a model would achieve with a budget: speed, memory, tokens and loss.

`predict` does it for arrays of sizes, to choose among them; `forecast` for one model, by the plan of its run.
"""

from dataclasses import dataclass

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size
from parambudget.arch.sizes import take_models
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import total
from parambudget.cost.speed.throughput import tokens_in_hours
from parambudget.planning.advice import loss_warnings, warnings
from parambudget.planning.budget import Scenario
from parambudget.planning.machine import Machine
from parambudget.planning.run_plan import Goal, RunPlan, plan_run
from parambudget.planning.shape_price import ranked_loss
from parambudget.planning.step_search import (
    NOTHING_FITS,
    choose_fastest,
    choose_last_that_fits,
)
from parambudget.planning.update import settle_updates, usual_tokens
from parambudget.scaling.hyperparameters import update_sizes
from parambudget.scaling.loss import LossLaw, estimate_loss, law_parameters, require_comparable
from parambudget.search.lattice import Bools, Floats, Ints
from parambudget.search.solutions import Forecast


@dataclass(frozen=True, eq=False)
class Predictions:
    """What models are predicted to do; arrays where the sizes are, None where the scenario does not decide
    it."""

    possible: Size
    """Whether a step fits in the memory, and an update in the time."""
    fits: Size
    """Whether a step fits in the memory."""
    tokens_per_second: Size | None = None
    peak_bytes: Size | None = None
    tokens: Size | None = None
    ranked_loss: Size | None = None
    """Expected of the usual shape that is as good."""


def predict(m: Dims, scenario: Scenario) -> Predictions:
    """The predictions for arrays of sizes.

    What a plan of each model would say, but for whole updates, and for the order in which steps are fast:
    that is of the model in the middle of those whose updates are equally large.
    """
    chosen = _choose_steps(m, scenario)
    fits = possible = np.asarray(m.dim * m.n_layers > 0) if chosen is None else chosen.index != NOTHING_FITS
    rate = None if chosen is None or scenario.machine is None else chosen.rate
    tokens = _tokens(m, scenario, rate)
    ranked = None
    if tokens is not None:
        if chosen is not None:  # a run is at least one update
            possible = possible & (tokens >= chosen.update_tokens / 2)
        trained = np.maximum(tokens, 1.0)  # those that do not fit train on none, and are not possible
        ranked = ranked_loss(m, scenario.law, trained, scenario.unique_tokens)
    return Predictions(
        possible=possible, fits=fits, tokens_per_second=rate,
        peak_bytes=None if chosen is None else chosen.peak, tokens=tokens, ranked_loss=ranked,
    )  # fmt: skip


def forecast(model: ModelConfig, scenario: Scenario) -> Forecast:
    """The predictions for one model: those of its plan where there is a machine."""
    if scenario.machine is not None:
        return forecast_of(plan_for(model, scenario, scenario.machine), has_length=scenario.limits_training)
    tokens = _tokens(model, scenario, None)
    step = peak = None
    if scenario.memory_bytes is not None:
        candidates = scenario.step_candidates(model.context_length)
        choice = choose_last_that_fits(model, candidates, scenario.memory_bytes)
        peak = float(choice.peak_bytes)
        step = None if int(choice.index) == NOTHING_FITS else candidates[int(choice.index)]
    if tokens is None:
        return Forecast(step=step, peak_bytes=peak)
    require_comparable(scenario.law, model.vocab_size, model.context_length)
    estimate = estimate_loss(
        scenario.law, law_parameters(model), tokens, scenario.unique_tokens, vocab_size=model.vocab_size
    )
    return Forecast(
        step=step, peak_bytes=peak, tokens=tokens, tokens_per_parameter=tokens / total(model),
        epochs=None if scenario.unique_tokens is None else tokens / scenario.unique_tokens,
        loss=estimate.loss, loss_is_bound=estimate.is_bound, loss_level=_level(scenario.law),
        ranked_loss=float(ranked_loss(model, scenario.law, tokens, scenario.unique_tokens)),
        warnings=(*estimate.warnings, *loss_warnings(model)),
    )  # fmt: skip


def plan_for(model: ModelConfig, scenario: Scenario, machine: Machine) -> RunPlan:
    """The plan of a run of the model with the budget."""
    tokens = None if scenario.flops is None else max(1, int(scenario.flops / flops_per_token(model)))
    goal = Goal(hours=scenario.hours, tokens=tokens, unique_tokens=scenario.unique_tokens, law=scenario.law)
    return plan_run(model, machine, goal, scenario.step)


def forecast_of(plan: RunPlan, *, has_length: bool) -> Forecast:
    """The figures of a plan; without those of the whole run where nobody said how long it is."""
    step = plan.step if plan.fits else None
    speed = plan.speed.tokens_per_second.expected if plan.fits else None
    if not (has_length and plan.fits):
        return Forecast(
            step=step, tokens_per_second=speed, peak_bytes=plan.memory.peak_bytes,
            warnings=tuple(warnings(plan.model, plan.machine, plan.speed)),
        )  # fmt: skip
    goal = plan.goal
    return Forecast(
        step=step, tokens_per_second=speed, peak_bytes=plan.memory.peak_bytes, tokens=plan.tokens,
        tokens_per_parameter=plan.tokens_per_parameter, epochs=plan.epochs, hours=plan.hours.expected,
        dollars=None if plan.cost is None else plan.cost.expected,
        loss=plan.loss.loss, loss_is_bound=plan.loss.is_bound, loss_level=_level(goal.law),
        ranked_loss=plan.ranked_loss,
        warnings=plan.warnings,
    )  # fmt: skip


def _level(law: LossLaw) -> str | None:
    """Whose level its losses are at; None for that of a published law's own text."""
    if law.fit is not None:
        return f"the ladder of {law.name}"
    return None if law.anchor is None else law.anchor.source


def _choose_steps(m: Dims, scenario: Scenario) -> "StepsChosen | None":
    """How updates are executed; None where neither a machine nor a memory decides it."""
    if scenario.memory_bytes is None:
        return None
    n = np.size(m.dim * m.n_layers)
    if scenario.machine is None:
        candidates = scenario.step_candidates(int(m.context_length))
        last = choose_last_that_fits(m, candidates, scenario.memory_bytes)
        return StepsChosen(last.index, last.tokens_per_second, last.peak_bytes, np.zeros(n))
    chosen = StepsChosen(np.zeros(n, dtype=np.int64), np.zeros(n), np.zeros(n), np.zeros(n))
    wished: Ints = np.zeros(n, dtype=np.int64)

    def rates(update: Size) -> Size:
        # Only what changes is looked at again, and never what does not fit.
        changed = (update != wished) & (chosen.index != NOTHING_FITS)
        for size in np.unique(update[changed]).tolist():
            _choose_among(chosen, m, scenario, changed & (update == size), size)
        wished[:] = update
        return chosen.rate

    if scenario.hours is not None:
        rates(settle_updates(m, scenario.hours, scenario.machine, rates))
    else:
        tokens = usual_tokens(m) if scenario.flops is None else scenario.flops / flops_per_token(m)
        rates(np.broadcast_to(update_sizes(m, tokens), (n,)))
    return chosen


def _choose_among(chosen: "StepsChosen", m: Dims, scenario: Scenario, here: Bools, update: int) -> None:
    """Choose for the models at an index, whose updates have so many tokens."""
    assert scenario.machine is not None
    length = int(m.context_length)
    candidates = scenario.step_candidates(length, max(1, update // length))
    choice = choose_fastest(take_models(m, here), candidates, scenario.machine)
    chosen.index[here], chosen.peak[here] = choice.index, choice.peak_bytes
    chosen.rate[here] = choice.tokens_per_second
    sizes = [step.tokens_per_update(length) for step in candidates]
    chosen.update_tokens[here] = np.asarray(sizes)[choice.index]


@dataclass(frozen=True, eq=False)
class StepsChosen:
    """How the updates of some models are executed, an array entry each."""

    index: Ints
    """Into the candidates of an update of that size; `NOTHING_FITS` where none fits."""
    rate: Floats
    """Tokens per second; 0 where nothing fits."""
    peak: Floats
    update_tokens: Floats
    """0 where there is no machine."""


def _tokens(m: Dims, scenario: Scenario, tokens_per_second: Size | None) -> Size | None:
    """Tokens that the budget trains on."""
    if scenario.hours is not None and tokens_per_second is not None:
        return tokens_in_hours(scenario.hours, tokens_per_second)
    return None if scenario.flops is None else scenario.flops / flops_per_token(m)
