"""How to divide a compute budget between parameters and tokens.

For L(N, D) = E + A / N^alpha + B / D^beta on the line C = k N D the minimum has a closed form. DeepSeek's law
gives the division itself, without a loss.
"""

from dataclasses import dataclass
from typing import Final

from parambudget.scaling.loss import LossLaw, expected_loss, range_warnings
from parambudget.scaling.numbers import Range, positive


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
    products = positive(flops, "flops") / positive(flops_per_parameter, "flops_per_parameter")
    size = law.balance * products ** (law.beta / (law.alpha + law.beta))
    tokens = products / size
    return Optimum(size, tokens, expected_loss(law, size, tokens), law, range_warnings(law, size, tokens))


@dataclass(frozen=True)
class Allocation:
    """A division of compute by model size in FLOPs per token: C = M D."""

    flops_per_token: float
    """M, training FLOPs per token with attention and without the output head."""
    tokens: float
    warnings: tuple[str, ...]


DEEPSEEK_FLOPS: Final = Range(1e17, 3e20)
"""Eight budgets, about ten models each."""


def deepseek_allocation(flops: float) -> Allocation:
    """M = 0.1715 C^0.5243 and D = 5.8316 C^0.4757, C the FLOPs of training without the output head.

    The size is given as FLOPs per token because a count of parameters with or without embeddings misjudges
    small models; M / 6 is about N. The authors' better text wants a larger share for the model: their
    exponent of M is 0.450 on early data, 0.524 on the data of this fit, 0.578 on OpenWebText2.

    Source: DeepSeek-AI 2024, arXiv 2401.02954, section 3.2, text and table 4 seen in public copies.
    """
    compute = positive(flops, "flops")
    warning = DEEPSEEK_FLOPS.warning(compute, "FLOPs")
    return Allocation(
        0.1715 * compute**0.5243, 5.8316 * compute**0.4757, (warning,) if warning else ()
    )  # fmt: skip
