"""How to divide a compute budget between parameters and tokens.

For L(N, D) = E + A / N^alpha + B / D^beta on the line C = k N D the minimum has a closed form.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from parambudget.scaling.loss import LossLaw, expected_loss, laws_beside, range_over_laws, range_warnings
from parambudget.scaling.numbers import require_positive


@dataclass(frozen=True)
class Optimum:
    """The model and the number of tokens with the lowest expected loss for their FLOPs."""

    n_parameters: float
    tokens: float
    loss: float
    """Nats per token of the law's text: to compare, not to promise (see `LossEstimate.meaning`)."""
    law: LossLaw
    warnings: tuple[str, ...]

    @property
    def tokens_per_parameter(self) -> float:
        """D / N."""
        return self.tokens / self.n_parameters


def compute_optimal(law: LossLaw, flops: float, flops_per_parameter: float = 6.0) -> Optimum:
    """N* = G (C / k)^(beta / (alpha + beta)), D* = C / (k N*).

    `flops_per_parameter` is k, the training FLOPs per token and parameter. 6 is what the laws were fitted
    with: 2 per multiply-add, forward and twice that backward, and nothing for attention. A family of real
    models has flops_per_token(m) / law_parameters(m), which is 6 and what attention adds.

    Source: Hoffmann et al. 2022, arXiv 2203.15556, equation 4.
    """
    products = require_positive(flops, "flops") / require_positive(flops_per_parameter, "flops_per_parameter")
    size = law.balance * products ** (law.beta / (law.alpha + law.beta))
    tokens = products / size
    return Optimum(size, tokens, expected_loss(law, size, tokens), law, range_warnings(law, size, tokens))


_SIZES_TRIED: Final = np.geomspace(1e3, 1e14, 1101)
"""A fortieth of a power of ten apart: 2.3 %."""


@dataclass(frozen=True)
class OptimalSize:
    """The N that a compute budget is best spent on, and those that a law cannot tell from it."""

    expected: float
    low: float
    high: float
    """Nine of ten samples have their best size between."""


def optimal_size(
    law: LossLaw, n_parameters: float, tokens: float, unique_tokens: float | None = None
) -> OptimalSize:
    """The size with the lowest expected loss for the compute of this run, which is that of all with its N D.

    Found on a grid: so it holds for repeated text, which has no closed form. Its ends are those of
    `laws_beside`; a published law alone has none.
    """
    products = require_positive(n_parameters, "n_parameters") * require_positive(tokens, "tokens")
    best = [
        float(
            _SIZES_TRIED[np.argmin(expected_loss(each, _SIZES_TRIED, products / _SIZES_TRIED, unique_tokens))]
        )
        for each in laws_beside(law)
    ]
    return OptimalSize(best[0], *range_over_laws(law, best, best))
