"""What a model would do with what may be spent on it: speed, memory, tokens and loss.

One function measures a model or a whole lattice of sizes at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import body
from parambudget.cost.speed.roofline import Work
from parambudget.cost.speed.throughput import STALLS
from parambudget.planning.machine import Machine
from parambudget.planning.step_search import NONE, least_changed, take, ways
from parambudget.scaling.loss import DEFAULT_LAW, LossLaw, expected_loss, law_parameters
from parambudget.search.score import centre
from parambudget.search.solutions import Outlook

ASPECT_PENALTY: Final = 0.0075
"""Relative loss per squared ln((dim / n_layers) / usual): from one pair of models in Kaplan et al. 2020,
arXiv 2001.08361, section 3.1, the optimum taken to lie where it is usual. It ranks and predicts nothing."""
USUAL_UPDATE_TOKENS: Final = 2**19
"""Of the update that a lattice is timed with, where no batch is given: it hardly matters."""


@dataclass(frozen=True)
class Spending:
    """What a run may take: at most one of hours and FLOPs, and a memory."""

    machine: Machine | None = None
    hours: float | None = None
    flops: float | None = None
    memory_bytes: int | None = None
    """Of one accelerator, in place of the machine's."""
    given: Mapping[str, Any] | None = None
    """Fields of `Work` that are decided."""
    law: LossLaw = DEFAULT_LAW

    def candidates(self, context_length: int) -> list[Work]:
        """The ways of computing an update that are open."""
        if self.machine is None:
            return ways(context_length, 1, 1, {"batch_size": 1, **(self.given or {})})
        sequences = max(1, USUAL_UPDATE_TOKENS // context_length)
        found = ways(context_length, sequences, self.machine.n_gpus, self.given)
        sizes = {work.batch_size for work in found}
        # Every second power of two: a lattice is measured once for each way.
        fewer = {4**power for power in range(20)} if len(sizes) > 1 else sizes
        return [work for work in found if work.batch_size in fewer]


def measured(m: Dims, spending: Spending) -> dict[str, Size]:
    """The figures of a model, or of all models of a lattice: `possible`, and of `tokens_per_second`,
    `peak_bytes`, `way`, `tokens` and `loss` those that the spending decides; `ranked_loss` has the penalty of
    an unusual aspect ratio in it."""
    figures: dict[str, Size] = {"possible": np.asarray(m.dim * m.n_layers > 0)}
    candidates = spending.candidates(int(m.context_length))
    if spending.machine is not None:
        taken = take(m, candidates, spending.machine, spending.memory_bytes)
        figures["tokens_per_second"] = taken.tokens_per_second
    elif spending.memory_bytes is not None:
        taken = least_changed(m, candidates, spending.memory_bytes)
    if spending.machine is not None or spending.memory_bytes is not None:
        figures |= {"peak_bytes": taken.peak_bytes, "way": taken.way, "possible": taken.way != NONE}
    tokens: Size = None
    if spending.hours is not None:
        tokens = figures["tokens_per_second"] * (spending.hours * 3600 * (1 - STALLS))
    elif spending.flops is not None:
        tokens = spending.flops / flops_per_token(m)
    if tokens is not None:
        seen = np.maximum(tokens, 1.0)  # those that do not fit see none, and are not possible
        loss = expected_loss(spending.law, law_parameters(m), seen)
        strayed = np.log(m.dim / m.n_layers / centre(np.asarray(body(m), dtype=np.float64)))
        figures |= {"tokens": tokens, "loss": loss, "ranked_loss": loss * (1 + ASPECT_PENALTY * strayed**2)}
    return figures


def outlook(model: ModelConfig, spending: Spending) -> Outlook:
    """The figures of one model."""
    found = measured(model, spending)
    way = None
    if "way" in found and int(found["way"]) != NONE:
        way = spending.candidates(model.context_length)[int(found["way"])]

    def figure(name: str) -> float | None:
        return float(found[name]) if name in found else None

    return Outlook(
        figure("tokens_per_second"), figure("peak_bytes"), way.batch_size if way else None,
        way.gradient_checkpointing if way else None, figure("tokens"), figure("loss"), figure("ranked_loss"),
    )  # fmt: skip
