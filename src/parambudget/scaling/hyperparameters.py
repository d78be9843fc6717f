"""Peak learning rate and tokens per update, from two laws fitted by different people on different runs.

    Step Law    Li et al. 2025, arXiv 2503.04715: rate 1.79 N^-0.713 D^0.307, down to 1e-5, and batches of
                0.58 D^0.571 tokens; N parameters outside embeddings and head, D training tokens
    DeepSeek    DeepSeek-AI 2024, arXiv 2401.02954: rate 0.3118 C^-0.1250 and batches of 0.2920 C^0.3271
                tokens; C training FLOPs without those of the head

Both are of AdamW and standard initialisation. Both papers find the optimum broad, so the distance between the
two laws is also a measure of how much it matters. Muon has a rule of its own, `muon_rate`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size
from parambudget.cost.flops import PASSES, flops_per_token, head_parameters
from parambudget.cost.params import active, body
from parambudget.cost.step import OptimizerName
from parambudget.scaling.loss import FREE_EPOCHS
from parambudget.scaling.numbers import FittedRange, require_positive
from parambudget.units import format_count, plural


@dataclass(frozen=True)
class RateLaw:
    """Where a law of rates and batches comes from."""

    name: str
    ranges: Mapping[str, FittedRange]
    """What was varied in the runs behind it, and how far."""
    recipe: str
    source: str

    @property
    def fitted_on(self) -> str:
        """The ranges in words."""
        return ", ".join(f"{bounds} {what}" for what, bounds in self.ranges.items())

    def suggestion(self, value: float, quantities: Mapping[str, float]) -> "LawEstimate":
        """`value` with a warning for each quantity that lies outside its range."""
        found = (self.ranges[what].warning(number, what) for what, number in quantities.items())
        return LawEstimate(value, self, tuple(warning for warning in found if warning))


@dataclass(frozen=True)
class LawEstimate:
    """What one law says."""

    value: float
    law: RateLaw
    warnings: tuple[str, ...]
    """One line each; empty within the range of the law."""


STEP_LAW: Final = RateLaw(
    name="Step Law",
    # Tokens: of the dense models whose losses the authors show.
    ranges={"body parameters": FittedRange(59e6, 1.074e9), "tokens": FittedRange(4e9, 100e9)},
    recipe="AdamW, a cosine down to 1e-5, RMSNorm, SwiGLU",
    source="Li et al. 2025, arXiv 2503.04715",
)
DEEPSEEK: Final = RateLaw(
    name="DeepSeek",
    # Of the fit; one grid at 1e20 confirmed it.
    ranges={"FLOPs": FittedRange(1e17, 2e19)},
    recipe="AdamW, constant and then down in two steps",
    source="DeepSeek-AI 2024, arXiv 2401.02954, section 3.1",
)


@dataclass(frozen=True)
class BatchEstimates:
    """Tokens per update, by both laws."""

    step_law: LawEstimate
    deepseek: LawEstimate

    @property
    def middle(self) -> float:
        """The geometric mean of the two."""
        return math.sqrt(self.step_law.value * self.deepseek.value)


def step_law_rate(body_parameters: float, tokens: float) -> LawEstimate:
    """Peak learning rate: smaller for larger models, larger for longer runs."""
    size, trained = require_positive(body_parameters, "body_parameters"), require_positive(tokens, "tokens")
    rate = 1.79 * size**-0.713 * trained**0.307
    return STEP_LAW.suggestion(rate, {"body parameters": size, "tokens": trained})


def batch_tokens(tokens: float, flops: float) -> BatchEstimates:
    """Tokens per update for `tokens` of training that take `flops` without those of the output head."""
    trained, compute = require_positive(tokens, "tokens"), require_positive(flops, "flops")
    return BatchEstimates(
        STEP_LAW.suggestion(_step_law_batch(trained), {"tokens": trained}),
        DEEPSEEK.suggestion(_deepseek_batch(compute), {"FLOPs": compute}),
    )


def _step_law_batch(tokens: Size) -> Size:
    return 0.58 * tokens**0.571


def _deepseek_batch(flops: Size) -> Size:
    return 0.2920 * flops**0.3271


TOKENS_PER_PARAMETER: Final = 20
FEWEST_BATCH_TOKENS: Final = 2**12
MOST_BATCH_TOKENS: Final = 2**22
HIGHEST_LEARNING_RATE: Final = 5e-3
HIGHEST_MUON_RATE: Final = 2e-2


def training_tokens(model: ModelConfig, data_tokens: int | None) -> tuple[int, str]:
    """Tokens to train on, and why so many; `data_tokens` None stands for text without end."""
    wished = TOKENS_PER_PARAMETER * active(model)
    rule = f"{TOKENS_PER_PARAMETER} per {'active parameter' if model.moe else 'parameter'}"
    if data_tokens is None:
        return wished, rule
    there = FREE_EPOCHS * data_tokens
    if there < wished:
        return there, f"{FREE_EPOCHS} epochs; {rule} would be {format_count(wished)}"
    epochs = f"{wished / max(1, data_tokens):.2g}"
    return wished, f"{rule}, {epochs} {plural(epochs, 'epoch')} of the text"


def whole_updates(tokens: int, update_tokens: int, data_tokens: int | None) -> int:
    """The number of updates nearest to so many tokens, at least one.

    Tokens for at most 4 epochs are rounded to no more than that, however small the text is.
    """
    nearest = round(tokens / update_tokens)
    if data_tokens is not None and tokens <= FREE_EPOCHS * data_tokens:
        nearest = min(nearest, FREE_EPOCHS * data_tokens // update_tokens)
    return max(1, nearest)


def update_sizes(m: Dims, tokens: Size) -> Size:
    """Tokens per update for runs of `tokens`, as `update_tokens` has them; arrays where the sizes are."""
    trained = np.asarray(tokens, dtype=np.float64)  # their product with FLOPs is beyond 64 bits
    wished = np.sqrt(_step_law_batch(trained) * _deepseek_batch(_flops_without_head(m) * trained))
    power = np.rint(np.log2(wished)).astype(np.int64)
    return np.clip(2**power, FEWEST_BATCH_TOKENS, MOST_BATCH_TOKENS)


def _flops_without_head(m: Dims) -> Size:
    return flops_per_token(m) - PASSES * 2 * head_parameters(m)


def update_tokens(model: ModelConfig, tokens: int, steps: int | None = None) -> tuple[int, str]:
    """Tokens per update for a run of `tokens`, or of `steps` updates, and why so many."""
    flops = _flops_without_head(model)
    wished = float(FEWEST_BATCH_TOKENS)
    # With given steps the number of tokens depends on the batch; the exponents are below 1, so this settles.
    for _ in range(50):
        trained = steps * wished if steps else tokens
        both = batch_tokens(trained, flops * trained)
        wished = both.middle
    batch = min(MOST_BATCH_TOKENS, max(FEWEST_BATCH_TOKENS, 2 ** round(math.log2(wished))))
    step_law, deepseek = (format_count(round(law.value)) for law in (both.step_law, both.deepseek))
    laws = f"Step Law says {step_law}, DeepSeek {deepseek}"
    bound = f"; never fewer than {FEWEST_BATCH_TOKENS:,}" if batch > wished * math.sqrt(2) else ""
    return batch, f"about {batch:,} tokens an update ({laws} tokens{bound})"


MUON_ANCHOR: Final = 0.057
"""sqrt(dim) x rate of a run of 13B tokens with the batch that the laws above propose for it. Chosen, not
measured, on the cool side: nanochat has 0.1 (Karpathy 2025: 0.02 for orthogonal updates, at 524,288 tokens
an update and 0.5B parameters), and Step Law, for AdamW, a little less than this."""
MUON_ANCHOR_TOKENS: Final = 1.3e10
MUON_EXPONENT: Final = 0.16
"""How much hotter shorter runs are: from there to the best rate for 1M body parameters and 1M tokens, 0.02
(docs/training.md)."""


def muon_rate(dim: int, tokens: float, batch_tokens: float, usual_batch_tokens: float) -> float:
    """Peak learning rate for Muon, whose updates have the root mean square 0.2 x rate per element.

    It follows 1 / sqrt(dim), as updates by orthogonal matrices do; a small negative power of the tokens of
    the run; and the square root of the batch, measured by the one that the laws above propose for the run.
    It was measured at 1M body parameters alone.
    """
    width, trained = require_positive(dim, "dim"), require_positive(tokens, "tokens")
    batch, usual = (
        require_positive(batch_tokens, "batch_tokens"),
        require_positive(usual_batch_tokens, "usual_batch_tokens"),
    )
    by_length: float = (MUON_ANCHOR_TOKENS / trained) ** MUON_EXPONENT
    return MUON_ANCHOR / math.sqrt(width) * by_length * math.sqrt(batch / usual)


def peak_learning_rate(
    model: ModelConfig, tokens: int, optimizer: OptimizerName, batch_tokens: int
) -> tuple[float, str]:
    """The peak learning rate for a run of `tokens` in updates of `batch_tokens`, and why."""
    if optimizer == "muon":
        usual, highest = update_tokens(model, tokens)[0], HIGHEST_MUON_RATE
        rate = muon_rate(model.dim, tokens, batch_tokens, usual)
        reason = (
            f"rule for Muon: dim={model.dim}, {format_count(tokens)} tokens in updates of {batch_tokens:,}"
        )
    else:
        rate, highest = step_law_rate(body(model), tokens).value, HIGHEST_LEARNING_RATE
        reason = (
            f"Step Law for {format_count(body(model))} non-embedding parameters and {format_count(tokens)} "
            "tokens"
        )
    if rate > highest:
        return highest, f"{reason} says {rate:.2g}, outside its range; this is the highest used"
    return float(f"{rate:.3g}"), reason
