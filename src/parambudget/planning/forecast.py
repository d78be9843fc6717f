"""What a model would achieve with a budget: speed, memory, tokens and loss.

One function predicts these for one model or for arrays of sizes.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import body
from parambudget.cost.speed.throughput import STALLS
from parambudget.cost.step import StepConfig, StepFields
from parambudget.planning.machine import Machine
from parambudget.planning.step_search import (
    NOTHING_FITS,
    choose_fastest,
    choose_last_that_fits,
    step_candidates,
)
from parambudget.scaling.loss import DEFAULT_LAW, LossLaw, expected_loss, law_parameters
from parambudget.search.score import centre
from parambudget.search.solutions import Outlook

ASPECT_PENALTY: Final = 0.0075
"""Relative loss per squared ln((dim / n_layers) / usual): from one pair of models in Kaplan et al. 2020,
arXiv 2001.08361, section 3.1, assuming that the usual ratio is the optimum. For ranking, not for
predicting."""
USUAL_UPDATE_TOKENS: Final = 2**19
"""Tokens of the update by which arrays of models are timed, where no batch is given: it hardly matters."""


@dataclass(frozen=True)
class Spending:
    """What a run may take: at most one of hours and FLOPs, and a memory."""

    machine: Machine | None = None
    hours: float | None = None
    flops: float | None = None
    memory_bytes: int | None = None
    """Of one accelerator, in place of the machine's."""
    given: StepFields = field(default_factory=StepFields)
    """What is decided of a step."""
    law: LossLaw = DEFAULT_LAW

    def candidates(self, context_length: int) -> list[StepConfig]:
        """The ways to execute an update that are open."""
        if self.machine is None:
            return step_candidates(context_length, 1, {"batch_size": 1, **self.given})
        sequences = max(1, USUAL_UPDATE_TOKENS // context_length)
        steps = step_candidates(
            context_length, sequences, self.given, world_size=self.machine.world_size,
            backend=self.machine.backend,
        )  # fmt: skip
        sizes = {step.batch_size for step in steps}
        # Every second power of two: all models are predicted once for each candidate.
        fewer = {4**power for power in range(20)} if len(sizes) > 1 else sizes
        return [step for step in steps if step.batch_size in fewer]


def predict(m: Dims, budget: Spending) -> dict[str, Size]:
    """The figures of one model or of arrays of sizes: `possible`, and those of `tokens_per_second`,
    `peak_bytes`, `step` (the index of the candidate), `tokens` and `loss` that the budget decides;
    `ranked_loss` includes the penalty of an unusual aspect ratio."""
    figures: dict[str, Size] = {"possible": np.asarray(m.dim * m.n_layers > 0)}
    candidates = budget.candidates(int(m.context_length))
    choice = None
    if budget.machine is not None:
        choice = choose_fastest(m, candidates, budget.machine, budget.memory_bytes)
        figures["tokens_per_second"] = choice.tokens_per_second
    elif budget.memory_bytes is not None:
        choice = choose_last_that_fits(m, candidates, budget.memory_bytes)
    if choice is not None:
        figures |= {
            "peak_bytes": choice.peak_bytes, "step": choice.index, "possible": choice.index != NOTHING_FITS
        }  # fmt: skip
    tokens: Size = None
    if budget.hours is not None:
        tokens = figures["tokens_per_second"] * (budget.hours * 3600 * (1 - STALLS))
    elif budget.flops is not None:
        tokens = budget.flops / flops_per_token(m)
    if tokens is not None:
        seen = np.maximum(tokens, 1.0)  # those that do not fit see none, and are not possible
        loss = expected_loss(budget.law, law_parameters(m), seen)
        deviation = np.log(m.dim / m.n_layers / centre(np.asarray(body(m), dtype=np.float64)))
        figures |= {"tokens": tokens, "loss": loss, "ranked_loss": loss * (1 + ASPECT_PENALTY * deviation**2)}
    return figures


def forecast(model: ModelConfig, budget: Spending) -> Outlook:
    """The figures of one model."""
    figures = predict(model, budget)
    step = None
    if "step" in figures and int(figures["step"]) != NOTHING_FITS:
        step = budget.candidates(model.context_length)[int(figures["step"])]

    def figure(name: str) -> float | None:
        return float(figures[name]) if name in figures else None

    return Outlook(
        figure("tokens_per_second"), figure("peak_bytes"), step.batch_size if step else None,
        step.gradient_checkpointing if step else None, figure("tokens"), figure("loss"),
        figure("ranked_loss"),
    )  # fmt: skip
