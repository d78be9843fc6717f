"""The learning rate, as a pure function of the step: it can be plotted, tested and resumed without state.

    linear    Bergsma et al. 2025, arXiv 2502.15938: a line to zero ends lower than a cosine
    cosine    Loshchilov and Hutter 2017, arXiv 1608.03983
    wsd       warm-up, stable, decay; its fall 1 - sqrt as in Hägele et al. 2024, arXiv 2405.18392

Each rises along a line and falls to the final learning rate.
"""

import math
from collections.abc import Callable
from typing import Final

from parambudget.training.config import TrainConfig

_FALL: Final[dict[str, Callable[[float], float]]] = {
    "linear": lambda left: left,
    "cosine": lambda left: (1 - math.cos(math.pi * left)) / 2,
    "wsd": lambda left: 1 - math.sqrt(1 - left),
}
"""How high the rate stands, between the final one and the peak, with this share of the decay left."""


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of update `step` (from 0): a linear rise to the peak, then the fall.

    The first update already learns and the update after the last one would stand at the final rate.
    """
    if step < config.warmup_steps:
        return config.learning_rate * ((step + 1) / config.warmup_steps)
    left = min(1.0, max(0, config.steps - step) / max(1, decay_steps(config)))
    height = _FALL[config.schedule](left)
    return config.final_learning_rate * (1 - height) + config.learning_rate * height


def decay_steps(config: TrainConfig) -> int:
    """Updates over which the learning rate falls: all behind the warm-up, or of wsd the last ones."""
    behind = config.steps - config.warmup_steps
    return min(behind, math.ceil(config.decay_share * config.steps)) if config.schedule == "wsd" else behind
