"""Where the curve of a run will end, from its updates so far and the schedule of its learning rate.

    training loss   E + A (S / S_n)^-alpha + C r          held-out loss   the same + G + H ln(S / S_n)

r is the learning rate relative to its peak, S the sum of r up to an update, S_n that up to the newest one.
C r is what the rate itself costs: a run at a constant rate lies above the end of its decay. It is the form of
Tissue et al. 2024 (arXiv 2408.11029) with the rate in place of their annealing area. A run that has not begun
to decay does not tell C at all: then the prior does, and the interval is wide.

For a given alpha everything is linear, with normal priors, and the alphas are averaged by how well they
explain the curve. Priors and `STRAYING`, which widens the interval, were chosen on runs of 33K to 382K
parameters on the built-in text; docs/ladder.md has what `benchmarks/end_loss.py` measured.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from parambudget.scaling.loss_interval import LossInterval

Array = npt.NDArray[np.float64]

EARLIEST: Final = 0.2
"""Of the updates: before, the curve is still that of a warm-up."""
FEWEST_UPDATES: Final = 12
"""After the warm-up."""
STRAYING: Final = 0.07
"""Of the loss, for a whole run to come: how much farther than the fit says real runs end from it. Of a run of
which half is to come it is half of that."""
_NORMAL_90: Final = 1.645
_ALPHAS: Final = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8])
_USUAL_ALPHA, _ALPHA_SPREAD = 0.2, 0.4
"""And the spread of its logarithm."""
_PRIOR_MEAN: Final = np.array([0.3, 0.7, 0.1, 0.03, 0.01])
"""Of E, A, C, G and H, relative to the newest loss."""
_PRIOR_SPREAD: Final = np.array([0.3, 0.3, 0.08, 0.05, 0.02])
_MISFIT: Final = 0.004
"""Of the loss: how far a curve without noise is from the form."""
_BINS: Final = 40
_EVALUATIONS: Final = 20
_FIRST_SHARE: Final = 0.1
"""Of the updates so far that are left out: the first ones follow no power law."""


@dataclass(frozen=True, eq=False)
class LossCurve:
    """A run up to its newest update."""

    losses: Array
    """On the batch of each update made, in nats per token; NaN where it was not finite."""
    rates: Array
    """Learning rate of every update of the whole run, relative to the peak."""
    evaluations: Array
    """The number of the update and the loss on held-out text after it (n, 2)."""


def forecast_end(curve: LossCurve) -> LossInterval | None:
    """The loss on held-out text after the last update; None where it is too early to say, or nothing was
    evaluated."""
    n, n_all = len(curve.losses), len(curve.rates)
    if n < max(FEWEST_UPDATES, EARLIEST * n_all) or not len(curve.evaluations):
        return None
    past = np.cumsum(curve.rates)
    past = past / past[n - 1]
    made, first = np.arange(n), _first_update(curve.rates, n)
    used = made[(made >= first) & np.isfinite(curve.losses)]
    if len(used) < FEWEST_UPDATES:
        return None
    measured = _average_updates(curve, past, used)
    at_end = _Points(past[-1:], curve.rates[-1:], np.zeros(1), np.zeros(1), np.ones(1))
    fits = [_fit(measured, at_end, alpha) for alpha in _ALPHAS.tolist()]
    evidence = np.array([fit.evidence for fit in fits])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    means, variances = np.array([fit.mean for fit in fits]), np.array([fit.variance for fit in fits])
    expected = float(weights @ means)
    fitted = float(weights @ (variances + means**2)) - expected**2
    straying = STRAYING * expected * (1 - n / n_all)
    half = _NORMAL_90 * float(np.sqrt(fitted + straying**2))
    return LossInterval(expected, max(0.0, expected - half), expected + half)


def is_long_enough(rates: Array) -> bool:
    """Whether a run with these learning rates has so many updates that its end can be forecast before it."""
    newest = len(rates) - 1
    return newest - _first_update(rates, newest) >= FEWEST_UPDATES


def _first_update(rates: Array, n: int) -> int:
    """The first of `n` updates, from 0, that follows a power law: after the warm-up."""
    return max(int(_FIRST_SHARE * n), int(np.argmax(rates[:n]))) if n else 0


@dataclass(frozen=True, eq=False)
class _Points:
    """Losses along a run."""

    past: Array
    """S / S_n."""
    rates: Array
    losses: Array
    variances: Array
    held_out: Array
    """1 where the loss is on held-out text, else 0."""

    def columns(self, alpha: float) -> Array:
        """What E, A, C, G and H are multiplied by (points, 5)."""
        gap = self.held_out
        return np.stack(
            [np.ones_like(gap), self.past**-alpha, self.rates, gap, gap * np.log(self.past)], axis=1
        )


def _average_updates(curve: LossCurve, past: Array, used: npt.NDArray[np.int64]) -> _Points:
    """The updates in `used` as means over neighbours, and the newest evaluations."""
    # Half of the squared difference of neighbours is the variance of one; its median ignores spikes.
    squares = np.diff(curve.losses[used]) ** 2
    noise = float(np.median(squares)) / 0.455 / 2
    groups = np.array_split(used, min(_BINS, len(used)))
    newest = float(np.mean(curve.losses[used[-FEWEST_UPDATES:]]))
    evaluations = curve.evaluations[curve.evaluations[:, 0] > used[0]]
    if len(evaluations) > _EVALUATIONS:
        evaluations = evaluations[np.linspace(0, len(evaluations) - 1, _EVALUATIONS).round().astype(int)]
    after = evaluations[:, 0].astype(np.int64) - 1

    def group_means(values: Array) -> Array:
        return np.array([values[group].mean() for group in groups])

    counts = np.array([len(group) for group in groups], dtype=np.float64)
    variances = np.concatenate([noise / counts, np.zeros(len(after))]) + (_MISFIT * newest) ** 2
    return _Points(
        past=np.concatenate([group_means(past), past[after]]),
        rates=np.concatenate([group_means(curve.rates), curve.rates[after]]),
        losses=np.concatenate([group_means(curve.losses), evaluations[:, 1]]), variances=variances,
        held_out=np.concatenate([np.zeros(len(groups)), np.ones(len(after))]),
    )  # fmt: skip


@dataclass(frozen=True)
class _Fit:
    """What one alpha says of the end."""

    mean: float
    variance: float
    evidence: float
    """ln of how likely the curve is with it, the prior of alpha included."""


def _fit(measured: _Points, at_end: _Points, alpha: float) -> _Fit:
    """Linear regression with a normal prior, in the space of the points."""
    newest = float(measured.losses[measured.held_out == 0][-1])
    mean, cov = newest * _PRIOR_MEAN, np.diag((newest * _PRIOR_SPREAD) ** 2)
    columns, there = measured.columns(alpha), at_end.columns(alpha)[0]
    of_points = columns @ cov @ columns.T + np.diag(measured.variances)
    strayed = measured.losses - columns @ mean
    weighted = np.linalg.solve(of_points, np.stack([strayed, columns @ cov @ there], axis=1))
    expected = there @ mean + (columns @ cov @ there) @ weighted[:, 0]
    variance = there @ cov @ there - (columns @ cov @ there) @ weighted[:, 1] + (_MISFIT * newest) ** 2
    _, log_determinant = np.linalg.slogdet(of_points)
    evidence = (
        -(strayed @ weighted[:, 0] + log_determinant + (np.log(alpha / _USUAL_ALPHA) / _ALPHA_SPREAD) ** 2)
        / 2
    )
    return _Fit(float(expected), float(variance), float(evidence))
