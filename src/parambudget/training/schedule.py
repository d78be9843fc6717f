"""The learning rate as a pure function of the step, so that it can be plotted, tested and resumed without
state.

    linear    Bergsma et al. 2025, arXiv 2502.15938: a linear decay to zero gives a lower loss than a cosine
    cosine    Loshchilov and Hutter 2017, arXiv 1608.03983
    wsd       warm-up, stable, decay; the decay is 1 - sqrt as in Hägele et al. 2024, arXiv 2405.18392

Each warms up linearly and decays to the final learning rate.
"""

import math
from collections.abc import Callable
from typing import Final

from parambudget.training.config import TrainConfig

_DECAY: Final[dict[str, Callable[[float], float]]] = {
    "linear": lambda left: left,
    "cosine": lambda left: (1 - math.cos(math.pi * left)) / 2,
    "wsd": lambda left: 1 - math.sqrt(1 - left),
}
"""Where the rate is between the final rate (0) and the peak (1), by the share of the decay still to come."""


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of update `step` (from 0): a linear warm-up to the peak, then the decay.

    The first update has a rate above 0, and the final rate would be reached one update after the last.
    """
    if step < config.warmup_steps:
        return config.learning_rate * ((step + 1) / config.warmup_steps)
    left = min(1.0, max(0, config.steps - step) / max(1, decay_steps(config)))
    height = _DECAY[config.schedule](left)
    return config.final_learning_rate * (1 - height) + config.learning_rate * height


def decay_steps(config: TrainConfig) -> int:
    """Updates over which the learning rate decays: all after the warm-up, or for wsd the last
    `decay_share`."""
    after_warmup = config.steps - config.warmup_steps
    return (
        min(after_warmup, math.ceil(config.decay_share * config.steps))
        if config.schedule == "wsd"
        else after_warmup
    )
