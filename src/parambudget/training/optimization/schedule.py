"""Learning rate, weight decay and momentum as pure functions of the step, so that they can be plotted, tested
and resumed without state.

    linear    Bergsma et al. 2025, arXiv 2502.15938: a linear decay to zero gives a lower loss than a cosine
    cosine    Loshchilov and Hutter 2017, arXiv 1608.03983
    wsd       warm-up, stable, decay; the decay is 1 - sqrt as in Hägele et al. 2024, arXiv 2405.18392

Each warms up linearly and decays to the final learning rate. Muon's momentum rises linearly from 0.85, as in
the records of modded-nanogpt (Jordan et al. 2024) and in nanochat (Karpathy 2025, scripts/base_train.py).
"""

import math
from collections.abc import Callable
from typing import Final

from parambudget.training.config import TrainConfig

START_MOMENTUM: Final = 0.85
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


def weight_decay_share(step: int, config: TrainConfig) -> float:
    """The weight decay of update `step` (from 0), relative to the setting."""
    if config.weight_decay_schedule == "constant" or step < config.warmup_steps:
        return 1.0
    return learning_rate(step, config) / config.learning_rate


def momentum(step: int, config: TrainConfig) -> float:
    """Muon's momentum in update `step` (from 0): a linear rise to the setting, unless that is below 0.85."""
    start = min(START_MOMENTUM, config.momentum)
    if step >= config.momentum_warmup_steps:
        return config.momentum
    return start + (config.momentum - start) * (step / config.momentum_warmup_steps)


def decay_steps(config: TrainConfig) -> int:
    """Updates over which the learning rate decays: all after the warm-up, or for wsd the last
    `decay_share`."""
    after_warmup = config.steps - config.warmup_steps
    return (
        min(after_warmup, math.ceil(config.decay_share * config.steps))
        if config.schedule == "wsd"
        else after_warmup
    )
