"""What a model would achieve with a budget: speed, memory, tokens and loss.

One function predicts these for one model or for arrays of sizes.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import body
from parambudget.cost.speed.throughput import tokens_in_hours
from parambudget.planning.budget import Scenario
from parambudget.planning.step_search import NOTHING_FITS, StepChoice, choose_fastest, choose_last_that_fits
from parambudget.scaling.loss import expected_loss, law_parameters, uniform_loss
from parambudget.search.score import usual_aspect
from parambudget.search.solutions import Forecast

ASPECT_PENALTY: Final = 0.0075
"""Relative loss per squared ln((dim / n_layers) / usual): from one pair of models in Kaplan et al. 2020,
arXiv 2001.08361, section 3.1, assuming that the usual ratio is the optimum. It ranks and predicts
nothing."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What models are predicted to do; arrays where the sizes are, None where the scenario does not decide
    it."""

    possible: Size
    """Whether a step fits in the memory."""
    step: Size | None = None
    """The index of the candidate chosen; `NOTHING_FITS` where none fits."""
    tokens_per_second: Size | None = None
    peak_bytes: Size | None = None
    tokens: Size | None = None
    loss: Size | None = None
    ranked_loss: Size | None = None
    """The loss with a penalty for an unusual aspect ratio."""


def predict(m: Dims, scenario: Scenario) -> Predictions:
    """The predictions for one model or for arrays of sizes."""
    choice = _choose_step(m, scenario)
    possible = np.asarray(m.dim * m.n_layers > 0) if choice is None else choice.index != NOTHING_FITS
    rate = None if choice is None or scenario.machine is None else choice.tokens_per_second
    tokens = _tokens(m, scenario, rate)
    loss, ranked_loss = (None, None) if tokens is None else _losses(m, scenario, tokens)
    return Predictions(
        possible=possible, step=None if choice is None else choice.index, tokens_per_second=rate,
        peak_bytes=None if choice is None else choice.peak_bytes, tokens=tokens, loss=loss,
        ranked_loss=ranked_loss,
    )  # fmt: skip


def forecast(model: ModelConfig, scenario: Scenario) -> Forecast:
    """The predictions for one model as plain numbers."""
    predictions = predict(model, scenario)
    step = None
    if predictions.step is not None and int(predictions.step) != NOTHING_FITS:
        step = scenario.step_candidates(model.context_length)[int(predictions.step)]
    return Forecast(
        tokens_per_second=_as_float(predictions.tokens_per_second),
        peak_bytes=_as_float(predictions.peak_bytes),
        batch_size=step.batch_size if step else None,
        gradient_checkpointing=step.gradient_checkpointing if step else None,
        tokens=_as_float(predictions.tokens), loss=(loss := _as_float(predictions.loss)),
        ranked_loss=_as_float(predictions.ranked_loss),
        loss_is_bound=None if loss is None else loss >= uniform_loss(model.vocab_size),
    )  # fmt: skip


def _choose_step(m: Dims, scenario: Scenario) -> StepChoice | None:
    """How an update is executed; None where neither a machine nor a memory decides it."""
    if scenario.memory_bytes is None:
        return None
    candidates = scenario.step_candidates(int(m.context_length))
    if scenario.machine is None:
        return choose_last_that_fits(m, candidates, scenario.memory_bytes)
    return choose_fastest(m, candidates, scenario.machine, scenario.budget.memory_bytes)


def _tokens(m: Dims, scenario: Scenario, tokens_per_second: Size | None) -> Size | None:
    """Tokens that the budget trains on."""
    if scenario.hours is not None and tokens_per_second is not None:
        return tokens_in_hours(scenario.hours, tokens_per_second)
    return None if scenario.flops is None else scenario.flops / flops_per_token(m)


def _losses(m: Dims, scenario: Scenario, tokens: Size) -> tuple[Size, Size]:
    """The expected loss, and what is ranked by."""
    trained = np.maximum(tokens, 1.0)  # those that do not fit train on none, and are not possible
    loss = expected_loss(
        scenario.law, law_parameters(m), trained, scenario.unique_tokens, vocab_size=m.vocab_size
    )
    deviation = np.log(m.dim / m.n_layers / usual_aspect(np.asarray(body(m), dtype=np.float64)))
    return loss, loss * (1 + ASPECT_PENALTY * deviation**2)


def _as_float(value: Size | None) -> float | None:
    return None if value is None else float(value)
