"""The constants of a law from the losses of runs: least Huber loss on ln loss, from many starts.

As in Hoffmann et al. 2022 (approach 3) with two changes, both because a ladder has ten runs and not four
hundred. A weak prior (`constants.prior_for`) holds what these leave open. And beyond 1.345 times the noise,
where that is above their 1e-3, a run counts by its distance and no longer by its square: below, squares use
runs that are few better (95 % as well as least squares under normal noise, against 64 % for distances alone).
"""

from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from scipy.optimize import least_squares

from parambudget.ladders.bootstrap import Noise, Samples, draw_samples
from parambudget.ladders.constants import Array, Constants, Design, Prior, log_losses, prior_for

LEAST_DELTA: Final = 1e-3
"""Of the Huber loss, in ln loss: that of Hoffmann et al."""
DELTA_SPREADS: Final = 1.345
_START_EXPONENTS: Final = (0.25, 0.5)
_START_FLOORS: Final = (0.25, 0.75)
"""The share of the loss in the middle that is irreducible."""
_ROUNDS: Final = 3
"""The noise follows from the fit, and the weights of the fit from the noise: it settles at once."""


@dataclass(frozen=True, eq=False)
class LossData:
    """The losses of runs by their pair of N and D."""

    design: Design
    mean: Array
    """ln loss, over the seeds of each pair."""
    seed_squares: float
    """Sum over all pairs of squared differences from these means."""


def group_losses(n_parameters: Array, tokens: Array, unique_tokens: Array, losses: Array) -> LossData:
    """Runs by their pair of N and D, which runs of several seeds share."""
    pairs, index = np.unique(np.stack([n_parameters, tokens, unique_tokens]), axis=1, return_inverse=True)
    logs = np.log(losses)
    seeds = np.bincount(index).astype(np.float64)
    mean = np.bincount(index, logs) / seeds
    n, d, unique = pairs
    return LossData(Design(n, d, unique, seeds), mean, float(np.sum((logs - mean[index]) ** 2)))


@dataclass(frozen=True, eq=False)
class FittedLaw:
    """Constants with what is known of their error."""

    data: LossData
    fitted: Array
    middle: tuple[float, float]
    prior: Prior
    noise: Noise
    residuals: Array
    """ln of measured over fitted loss, of every pair."""

    @property
    def constants(self) -> Constants:
        """Of the law."""
        return Constants.from_logarithms(self.fitted, self.middle)

    def samples(self, *, seed: int = 0) -> Samples:
        """Sets of constants that fit as well."""
        return draw_samples(self.fitted, self.data.design, self.middle, self.prior, self.noise, seed=seed)


def fit_constants(data: LossData) -> FittedLaw:
    """The law with the least loss, and how the runs deviate from it."""
    design, middle = data.design, data.design.middle
    prior = prior_for(design, float(np.exp(np.mean(data.mean))))
    noise = Noise(data.seed_squares, float(np.sum(design.seeds - 1)), 0.0, 0.0, design.mean_seeds)
    starts = _starts(prior, float(np.mean(data.mean)))
    fitted = residuals = prior.mean
    for _ in range(_ROUNDS):
        spread = np.sqrt(noise.misfit_variance + noise.seed_variance / design.seeds)
        fitted = min(
            (_minimize(start, data, spread, middle, prior) for start in starts), key=lambda found: found[0]
        )[1]
        expected, slopes = log_losses(fitted, design, middle)
        residuals = data.mean - expected
        noise = Noise(
            data.seed_squares, noise.seed_freedom, float(np.sum(residuals**2)),
            len(residuals) - _effective_constants(slopes, spread, prior), design.mean_seeds,
        )  # fmt: skip
        starts = [fitted]
    return FittedLaw(data, fitted, middle, prior, noise, residuals)


def _starts(prior: Prior, log_loss: float) -> list[Array]:
    starts = []
    for alpha, beta, floor in product(_START_EXPONENTS, _START_EXPONENTS, _START_FLOORS):
        start = np.array(prior.mean)
        start[:2] = log_loss + np.log((1 - floor) / 2)
        start[2:5] = log_loss + np.log(floor), np.log(alpha), np.log(beta)
        starts.append(start)
    return starts


def _minimize(
    start: Array, data: LossData, spread: Array, middle: tuple[float, float], prior: Prior
) -> tuple[float, Array]:
    """The least value from a start, and the constants there."""
    n = len(spread)
    bend = np.maximum(LEAST_DELTA / spread, DELTA_SPREADS)

    def residuals(constants: Array) -> Array:
        expected, _ = log_losses(constants, data.design, middle)
        return np.concatenate([(expected - data.mean) / spread, (constants - prior.mean) / prior.spread])

    def slopes(constants: Array) -> Array:
        _, by_constants = log_losses(constants, data.design, middle)
        return np.concatenate([by_constants / spread[:, None], np.diag(1 / prior.spread)])

    def huber(squares: Array) -> Array:
        # Of the runs; the squares of the prior stay.
        rho = np.stack([squares, np.ones_like(squares), np.zeros_like(squares)])
        far = np.concatenate([squares[:n] > bend**2, np.zeros(len(squares) - n, dtype=bool)])
        k = np.concatenate([bend, np.ones(len(squares) - n)])[far]
        distance = np.sqrt(squares[far])
        rho[:, far] = 2 * k * distance - k**2, k / distance, -0.5 * k / distance**3
        return rho

    found = least_squares(residuals, start, slopes, loss=huber, method="trf", xtol=1e-10, ftol=1e-12)
    return float(found.cost), np.asarray(found.x, dtype=np.float64)


def _effective_constants(slopes: Array, spread: Array, prior: Prior) -> float:
    """How many constants the runs decide: the trace of the matrix that makes fitted of measured losses."""
    scaled = slopes / spread[:, None]
    information = scaled.T @ scaled
    return float(np.trace(np.linalg.solve(information + np.diag(prior.spread**-2.0), information)))
