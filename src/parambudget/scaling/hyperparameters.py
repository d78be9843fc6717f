"""Peak learning rate and tokens per update, from two laws fitted by different people on different runs.

    Step Law    Li et al. 2025, arXiv 2503.04715: rate 1.79 N^-0.713 D^0.307, down to 1e-5, and batches of
                0.58 D^0.571 tokens; N parameters outside embeddings and head, D training tokens
    DeepSeek    DeepSeek-AI 2024, arXiv 2401.02954: rate 0.3118 C^-0.1250 and batches of 0.2920 C^0.3271
                tokens; C training FLOPs without those of the head

Both are of AdamW and standard initialisation. Both papers find the optimum broad, so the distance between the
two laws is also a measure of how much it matters.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from parambudget.scaling.numbers import Range, positive


@dataclass(frozen=True)
class RateLaw:
    """Where a law of rates and batches comes from."""

    name: str
    ranges: Mapping[str, Range]
    """What was varied in the runs behind it, and how far."""
    recipe: str
    source: str

    @property
    def fitted_on(self) -> str:
        """The ranges in words."""
        return ", ".join(f"{bounds} {what}" for what, bounds in self.ranges.items())

    def suggestion(self, value: float, quantities: Mapping[str, float]) -> "Suggestion":
        """`value` with a warning for each quantity that lies outside its range."""
        found = (self.ranges[what].warning(number, what) for what, number in quantities.items())
        return Suggestion(value, self, tuple(warning for warning in found if warning))


@dataclass(frozen=True)
class Suggestion:
    """What one law says."""

    value: float
    law: RateLaw
    warnings: tuple[str, ...]
    """One line each; empty within the range of the law."""


STEP_LAW: Final = RateLaw(
    name="Step Law",
    # Tokens: of the dense models whose losses the authors show.
    ranges={"body parameters": Range(59e6, 1.074e9), "tokens": Range(4e9, 100e9)},
    recipe="AdamW, a cosine down to 1e-5, RMSNorm, SwiGLU",
    source="Li et al. 2025, arXiv 2503.04715",
)
DEEPSEEK: Final = RateLaw(
    name="DeepSeek",
    # Of the fit; one grid at 1e20 confirmed it.
    ranges={"FLOPs": Range(1e17, 2e19)},
    recipe="AdamW, constant and then down in two steps",
    source="DeepSeek-AI 2024, arXiv 2401.02954, section 3.1",
)


@dataclass(frozen=True)
class BatchSuggestion:
    """Tokens per update, by both laws."""

    step_law: Suggestion
    deepseek: Suggestion

    @property
    def middle(self) -> float:
        """The geometric mean of the two."""
        return math.sqrt(self.step_law.value * self.deepseek.value)


def step_law_rate(body_parameters: float, tokens: float) -> Suggestion:
    """Peak learning rate: smaller for larger models, larger for longer runs."""
    size, trained = positive(body_parameters, "body_parameters"), positive(tokens, "tokens")
    rate = 1.79 * size**-0.713 * trained**0.307
    return STEP_LAW.suggestion(rate, {"body parameters": size, "tokens": trained})


def deepseek_rate(flops: float) -> Suggestion:
    """Peak learning rate from training FLOPs without those of the output head."""
    compute = positive(flops, "flops")
    return DEEPSEEK.suggestion(0.3118 * compute**-0.1250, {"FLOPs": compute})


def batch_tokens(tokens: float, flops: float) -> BatchSuggestion:
    """Tokens per update for `tokens` of training that take `flops` without those of the output head."""
    trained, compute = positive(tokens, "tokens"), positive(flops, "flops")
    return BatchSuggestion(
        STEP_LAW.suggestion(0.58 * trained**0.571, {"tokens": trained}),
        DEEPSEEK.suggestion(0.2920 * compute**0.3271, {"FLOPs": compute}),
    )
