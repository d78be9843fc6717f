"""How far the constants of a fit may be off: a parametric bootstrap over runs, seeds and the prior.

Every draw supposes other noise, as large as the runs leave open; gives every run a new deviation from the fit
and the prior a new middle; and fits again. For a linear model with normal noise that is a draw from the
posterior distribution (randomize-then-optimize: Bardsley et al. 2014, SIAM J. Sci. Comput. 36). The runs'
own residuals cannot be drawn instead: of ten runs and five constants too little is left of them.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from parambudget.ladders.constants import Array, Design, Prior, log_losses

DRAWS: Final = 400
"""Samples of the constants: the ends of a 90 % interval are then known to a tenth of its width."""
SEED_SPREAD: Final = 0.004
"""Of ln loss between seeds, before any pair of them was seen; `scaling.loss.SEED_NOISE` is how far the
farthest of five runs of this trainer was from their mean."""
MISFIT_SPREAD: Final = 0.002
"""Of ln loss around the law, before any fit: what shapes, rates and batches that are not quite right cost."""
BELIEF: Final = 1.0
"""Degrees of freedom that either of these counts for: as much as one pair of seeds, or one run more than
constants, tells."""
_ROUNDS: Final = 40


@dataclass(frozen=True, eq=False)
class Noise:
    """What is known of how runs deviate from a law, as sums of squares of ln loss and how many independent
    deviations stand behind them."""

    seed_squares: float
    seed_freedom: float
    residual_squares: float
    """Of the means over seeds, around the fit."""
    residual_freedom: float
    mean_seeds: float
    """Seeds behind such a mean: their harmonic mean."""

    @property
    def seed_variance(self) -> float:
        """Between runs that differ in the seed alone."""
        return (BELIEF * SEED_SPREAD**2 + self.seed_squares) / (BELIEF + self.seed_freedom)

    @property
    def misfit_variance(self) -> float:
        """Of the means around the law, beyond what seeds explain."""
        by_seeds = self.seed_variance / self.mean_seeds
        found = max(0.0, self.residual_squares - self.residual_freedom * by_seeds)
        return (BELIEF * MISFIT_SPREAD**2 + found) / (BELIEF + self.residual_freedom)

    def draw(self, random: np.random.Generator, n: int) -> tuple[Array, Array]:
        """Variances of seeds and of the misfit that are as likely."""
        freedom = BELIEF + self.seed_freedom
        seeds = freedom * self.seed_variance / random.chisquare(freedom, n)
        freedom = BELIEF + self.residual_freedom
        whole = self.misfit_variance + self.seed_variance / self.mean_seeds
        drawn = freedom * whole / random.chisquare(freedom, n)
        return seeds, np.maximum(0.0, drawn - seeds / self.mean_seeds)


@dataclass(frozen=True, eq=False)
class Samples:
    """Sets of constants that fit as well, an entry each."""

    constants: Array
    scatter: Array
    """ln of how far one more run would lie from the law."""


def draw_samples(
    fitted: Array, design: Design, middle: tuple[float, float], prior: Prior, noise: Noise, *,
    n: int = DRAWS, seed: int = 0,
) -> Samples:  # fmt: skip
    """Sets of constants around a fit; the same ones for the same arguments."""
    random = np.random.default_rng(seed)
    of_seeds, of_misfit = noise.draw(random, n)
    spread = np.sqrt(of_misfit[:, None] + of_seeds[:, None] / design.seeds)
    expected, _ = log_losses(fitted, design, middle)
    losses = expected + spread * random.standard_normal(spread.shape)
    centres = fitted + prior.spread * random.standard_normal((n, len(fitted)))
    start = np.broadcast_to(fitted, centres.shape)
    constants = refit(start, losses, spread, design, middle, Prior(centres, prior.spread))
    return Samples(constants, np.sqrt(of_seeds + of_misfit) * random.standard_normal(n))


def refit(
    start: Array, losses: Array, spread: Array, design: Design, middle: tuple[float, float], prior: Prior
) -> Array:
    """The constants with the least squares for every row of losses, all rows at once: Levenberg and
    Marquardt's method. The prior makes every problem definite."""
    constants = np.array(start)
    damping = np.full(len(constants), 1e-3)
    value, slope, curvature = _squares(constants, losses, spread, design, middle, prior)
    for _ in range(_ROUNDS):
        diagonal = np.einsum("sii->si", curvature)[:, :, None] * np.eye(constants.shape[1])
        step = np.linalg.solve(curvature + damping[:, None, None] * diagonal, slope[:, :, None])[:, :, 0]
        moved = constants - step
        new = _squares(moved, losses, spread, design, middle, prior)
        better = new[0] <= value
        constants = np.where(better[:, None], moved, constants)
        slope = np.where(better[:, None], new[1], slope)
        curvature = np.where(better[:, None, None], new[2], curvature)
        value = np.where(better, new[0], value)
        damping = np.where(better, damping / 5, damping * 5)
        if np.all(np.abs(step) < 1e-7):
            break
    return constants


def _squares(
    constants: Array, losses: Array, spread: Array, design: Design, middle: tuple[float, float], prior: Prior
) -> tuple[Array, Array, Array]:
    """Half the sum of squares of each row, its slope and its curvature."""
    expected, slopes = log_losses(constants, design, middle)
    residuals = (expected - losses) / spread
    scaled = slopes / spread[..., None]
    strayed = (constants - prior.mean) / prior.spread
    value = 0.5 * (np.sum(residuals**2, axis=1) + np.sum(strayed**2, axis=1))
    slope = np.einsum("sg,sgp->sp", residuals, scaled) + strayed / prior.spread
    curvature = np.einsum("sgp,sgq->spq", scaled, scaled) + np.diag(prior.spread**-2.0)
    return value, slope, curvature
