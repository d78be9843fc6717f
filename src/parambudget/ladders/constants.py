"""The constants of a loss law as they are fitted: all positive, near 0 in the middle of the runs, with a weak
prior for what few runs leave open.

    ln L = ln( exp(size - alpha n) + exp(text - beta d) + exp(floor) )

with n = ln N and d = ln D' from the middle of the runs, so that `size` and `text` are the two terms of the
loss there and are hardly correlated with the exponents. D' are the effective tokens of Muennighoff et al.,
where a text is read again.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from parambudget.scaling.loss import REPETITIONS, effective_tokens

Array = npt.NDArray[np.float64]

USUAL_EXPONENT: Final = 0.35
"""Of the published laws, whose alpha lies between 0.34 and 0.35 and whose beta between 0.28 and 0.37
(`scaling.loss.LOSS_LAWS`)."""
EXPONENT_SPREAD: Final = 0.3
"""ln: two of three exponents are expected within 0.26 and 0.47. Wide, because small models and other texts
differ more than those three laws."""
TERM_SPREAD: Final = 1.0
"""ln: of the irreducible loss and of both terms around a third of the loss in the middle of the runs."""
REPETITION_SPREAD: Final = 0.7
"""ln: of R*, around that of Muennighoff et al. 2023."""


@dataclass(frozen=True, eq=False)
class Design:
    """Where runs stand: one entry for every pair of N and D, whose runs differ in the seed alone."""

    n_parameters: Array
    tokens: Array
    unique_tokens: Array
    """Of the text; as many as `tokens` or more where none is read twice."""
    seeds: Array
    """Runs of each pair."""

    @property
    def repeats(self) -> bool:
        """Whether any run reads its text again."""
        return bool(np.any(self.unique_tokens < self.tokens))

    @property
    def n_constants(self) -> int:
        """What is fitted: E, A, B, alpha and beta, and R* where text is repeated."""
        return 6 if self.repeats else 5

    @property
    def mean_seeds(self) -> float:
        """Runs of a pair: their harmonic mean, by which the noise of the means over seeds is lower."""
        return float(1 / np.mean(1 / self.seeds))

    @property
    def middle(self) -> tuple[float, float]:
        """The means of ln N and ln D, which the constants are measured from."""
        return float(np.mean(np.log(self.n_parameters))), float(np.mean(np.log(self.tokens)))

    def select(self, wanted: npt.NDArray[np.bool_]) -> "Design":
        """Some of the pairs."""
        columns = (self.n_parameters, self.tokens, self.unique_tokens, self.seeds)
        return Design(*(column[wanted] for column in columns))


@dataclass(frozen=True, eq=False)
class Prior:
    """Independent normal distributions of the constants (all are logarithms)."""

    mean: Array
    spread: Array


def prior_for(design: Design, loss_in_the_middle: float) -> Prior:
    """What is believed of the constants before the fit."""
    term = np.log(loss_in_the_middle / 3)
    exponent = np.log(USUAL_EXPONENT)
    mean = [term, term, term, exponent, exponent, np.log(REPETITIONS)]
    spread = [TERM_SPREAD] * 3 + [EXPONENT_SPREAD] * 2 + [REPETITION_SPREAD]
    n = design.n_constants
    return Prior(np.array(mean[:n]), np.array(spread[:n]))


def log_losses(constants: Array, design: Design, middle: tuple[float, float]) -> tuple[Array, Array]:
    """ln L of every pair (..., pairs), and its derivatives by the constants (..., pairs, constants); for one
    set of constants or for an array of them."""
    size, text, floor, log_alpha, log_beta = (constants[..., i, None] for i in range(5))
    alpha, beta = np.exp(log_alpha), np.exp(log_beta)
    n = np.log(design.n_parameters) - middle[0]
    d = np.log(design.tokens) - middle[1]
    by_repetitions = None
    if constants.shape[-1] == 6:
        d, by_repetitions = _log_effective_tokens(np.exp(constants[..., 5, None]), design, middle[1])
    terms = np.stack([size - alpha * n, text - beta * d, floor + 0 * n], axis=-1)
    top = terms.max(axis=-1, keepdims=True)
    weights = np.exp(terms - top)
    total = weights.sum(axis=-1, keepdims=True)
    share = weights / total
    slopes = [share[..., 0], share[..., 1], share[..., 2], -share[..., 0] * alpha * n]
    slopes.append(-share[..., 1] * beta * d)
    if by_repetitions is not None:
        slopes.append(-share[..., 1] * beta * by_repetitions)
    return (top + np.log(total))[..., 0], np.stack(slopes, axis=-1)


def _log_effective_tokens(repetitions: Array, design: Design, middle: float) -> tuple[Array, Array]:
    """ln D' from the middle, and its derivative by ln R*."""
    read = np.minimum(design.unique_tokens, design.tokens)
    again = design.tokens / read - 1
    worth = effective_tokens(design.tokens, design.unique_tokens, repetitions)
    slope = read * (-repetitions * np.expm1(-again / repetitions) - again * np.exp(-again / repetitions))
    return np.log(worth) - middle, slope / worth


@dataclass(frozen=True)
class Constants:
    """Those of a `LossLaw`."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    repetitions: float

    @classmethod
    def from_logarithms(cls, fitted: Array, middle: tuple[float, float]) -> "Constants":
        """From what is fitted: their logarithms, from the middle of the runs."""
        size, text, floor, log_alpha, log_beta = (float(value) for value in fitted[:5])
        alpha, beta = float(np.exp(log_alpha)), float(np.exp(log_beta))
        return cls(
            E=float(np.exp(floor)), A=float(np.exp(size + alpha * middle[0])),
            B=float(np.exp(text + beta * middle[1])), alpha=alpha, beta=beta,
            repetitions=float(np.exp(fitted[5])) if len(fitted) == 6 else REPETITIONS,
        )  # fmt: skip
