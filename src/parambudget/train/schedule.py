"""The learning rate, as a pure function of the step: it can be plotted, tested and resumed without state."""

from parambudget.train.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of update `step` (from 0): a linear rise to the peak, then a linear fall to the end.

    The first update already learns and the update after the last one would stand at the final rate.
    """
    if step < config.warmup_steps:
        return config.learning_rate * ((step + 1) / config.warmup_steps)
    left = (config.steps - step) / max(1, config.steps - config.warmup_steps)
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * max(0.0, left)
