"""Peak learning rate and tokens per update, from laws fitted by different people on different runs.

    Step Law    Li et al. 2025, arXiv 2503.04715: rate 1.79 N^-0.713 D^0.307, down to 1e-5, and batches of
                0.58 D^0.571 tokens; N parameters outside embeddings and head, D training tokens
    DeepSeek    DeepSeek-AI 2024, arXiv 2401.02954: rate 0.3118 C^-0.1250 and batches of 0.2920 C^0.3271
                tokens; C training FLOPs without those of the head
    usual       the rate of published runs, 6.6e-4 N^-0.17 D^0.10: fitted here (docs/laws.md)

All are of AdamW and standard initialisation. The first two were found by sweeps, whose authors find the
optimum broad; the third says what people have used, not what is best. So Step Law gives AdamW's rate inside
its range, and above it published runs take over. Batches are the geometric mean of the first two laws. Muon
has a rule of its own, `muon_rate`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size
from parambudget.cost.flops import PASSES, flops_per_token, head_parameters
from parambudget.cost.params import active, body
from parambudget.cost.step import OptimizerName, StepConfig
from parambudget.scaling.loss import FREE_EPOCHS
from parambudget.scaling.numbers import FittedRange, format_quantity, require_positive
from parambudget.units import count_phrase, format_count, plural


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

    def outside(self, quantities: Mapping[str, float]) -> tuple[str, ...]:
        """Those of the quantities that lie outside their range, in words."""
        return tuple(
            f"{format_quantity(number)} {what}"
            for what, number in quantities.items()
            if not self.ranges[what].contains(number)
        )

    def clamp(self, quantities: Mapping[str, float]) -> dict[str, float]:
        """The quantities, each held at the end of its range that it exceeds."""
        return {what: self.ranges[what].clamp(number) for what, number in quantities.items()}

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
PUBLISHED_RUNS: Final = RateLaw(
    name="published runs",
    ranges={"body parameters": FittedRange(1.19e6, 4.017e11), "tokens": FittedRange(2.22e9, 1.56e13)},
    recipe="AdamW, with what else their authors chose",
    source="121 runs, each with its source in benchmarks/published_rates.json; docs/laws.md",
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


@dataclass(frozen=True)
class PowerLaw:
    """factor x N^size x D^tokens, for N parameters outside embeddings and head and D training tokens."""

    factor: float
    size: float
    tokens: float

    def __call__(self, body_parameters: float, tokens: float) -> float:
        """The value for one run."""
        return self.factor * math.pow(body_parameters, self.size) * math.pow(tokens, self.tokens)


USUAL_RATE: Final = PowerLaw(6.6e-4, size=-0.17, tokens=0.10)
"""The peak learning rate of published runs. Fitted by benchmarks/rates.py: with it the largest share of all
suggestions lies within a factor of 2 of what was used."""


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
    # Both bounds are powers of 2, so the order is free, and this way there is a logarithm of any number.
    bounded = np.clip(wished, FEWEST_BATCH_TOKENS, MOST_BATCH_TOKENS)
    return 2 ** np.rint(np.log2(bounded)).astype(np.int64)


def _flops_without_head(m: Dims) -> Size:
    return flops_per_token(m) - PASSES * 2 * head_parameters(m)


@dataclass(frozen=True)
class SuggestedBatch:
    """How many tokens an update should have."""

    tokens: int
    why: str
    """The laws, and the bound that was applied."""
    warning: str | None
    """One line where a law was asked outside its range."""


def law_update_tokens(model: ModelConfig, tokens: int) -> float:
    """Tokens per update that both laws together give a run of `tokens`, neither rounded nor bounded."""
    return batch_tokens(tokens, _flops_without_head(model) * tokens).middle


def update_tokens(model: ModelConfig, tokens: int, steps: int | None = None) -> SuggestedBatch:
    """Tokens per update for a run of `tokens`, or of `steps` updates."""
    flops = _flops_without_head(model)
    wished = float(FEWEST_BATCH_TOKENS)
    # With given steps the number of tokens depends on the batch; the exponents are below 1, so this settles.
    for _ in range(50):
        trained = steps * wished if steps else tokens
        both = batch_tokens(trained, flops * trained)
        wished = both.middle
    rounded = 2 ** round(math.log2(wished))
    batch = min(MOST_BATCH_TOKENS, max(FEWEST_BATCH_TOKENS, rounded))
    bound = ""
    if batch != rounded:
        bound = f"; never {'fewer' if batch > rounded else 'more'} than {batch:,}"
    step_law, deepseek = (format_count(round(law.value)) for law in (both.step_law, both.deepseek))
    return SuggestedBatch(
        batch,
        f"about {batch:,} tokens an update (Step Law says {step_law}, DeepSeek {deepseek} tokens{bound})",
        _batch_warning(trained, flops * trained, bound),
    )


def _batch_warning(tokens: float, flops: float, bound: str) -> str | None:
    found = [
        f"{outside[0]} are outside {law.name}'s range ({law.ranges[what]})"
        for law, what, number in ((STEP_LAW, "tokens", tokens), (DEEPSEEK, "FLOPs", flops))
        if (outside := law.outside({what: number}))
    ]
    return f"batch: {', '.join(found)}; extrapolated{bound}" if found else None


def executed_batch(tokens: int, step: StepConfig, context_length: int) -> str:
    """What to add to the reason for `tokens` an update where `step` has another number of them, in whole
    sequences on every device."""
    executed = step.tokens_per_update(context_length)
    if executed == tokens:
        return ""
    micro_steps = step.gradient_accumulation_steps // step.world_size
    return (
        f"; executed as {executed:,}: {count_phrase(micro_steps, 'micro-step')} of {step.batch_size} × "
        f"{context_length:,} on {count_phrase(step.world_size, 'device')}"
    )


MUON_ANCHOR: Final = 0.057
"""sqrt(dim) x rate of a run of 13B tokens with the batch that the laws above propose for it. Chosen, not
measured, on the cool side: nanochat has 0.1 (Karpathy 2025: 0.02 for orthogonal updates, at 524,288 tokens
an update and 0.5B parameters), and Step Law, for AdamW, a little less than this."""
MUON_ANCHOR_TOKENS: Final = 1.3e10
MUON_EXPONENT: Final = 0.16
"""How much hotter shorter runs are: from there to the best rate for 1M body parameters and 1M tokens, 0.02
(docs/recipe.md)."""


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


FAR_FROM_MEASURED: Final = 10
"""By this factor a model may be larger or smaller than the one that Muon's rule was measured on, without a
warning."""
MUON_MEASURED_BODY: Final = 1.05e6


@dataclass(frozen=True)
class SuggestedRate:
    """The peak learning rate that a run should have."""

    rate: float
    why: str
    """The law or rule that decides, and the bound that was applied."""
    warning: str | None
    """One line where that law ends before the run, or was measured far from it."""


def peak_learning_rate(
    model: ModelConfig, tokens: int, optimizer: OptimizerName, batch_tokens: int
) -> SuggestedRate:
    """The peak learning rate for a run of `tokens` in updates of `batch_tokens`."""
    if optimizer == "adamw":
        return adamw_rate(body(model), tokens)
    usual, size = update_tokens(model, tokens).tokens, body(model)
    rate = muon_rate(model.dim, tokens, batch_tokens, usual)
    why = f"rule for Muon: dim={model.dim}, {format_count(tokens)} tokens in updates of {batch_tokens:,}"
    warning = None
    if not 1 / FAR_FROM_MEASURED <= size / MUON_MEASURED_BODY <= FAR_FROM_MEASURED:
        warning = (
            f"learning rate: Muon's rule was measured at {format_count(MUON_MEASURED_BODY)} body parameters "
            f"alone, and this model has {format_count(size)}"
        )
    if rate > HIGHEST_MUON_RATE:
        why += f" says {rate:.2g}; never more than {HIGHEST_MUON_RATE:g}"
    return SuggestedRate(float(f"{min(rate, HIGHEST_MUON_RATE):.3g}"), why, warning)


TAKEN_OVER: Final = 3
"""Published runs have taken over wholly where the run is so many times beyond Step Law's range."""


def adamw_rate(
    body_parameters: float, tokens: float, usual_rate: Callable[[float, float], float] = USUAL_RATE
) -> SuggestedRate:
    """The peak learning rate for AdamW: Step Law's inside its range, and with no jump at its ends.

    Below the range the law's end is held. Above it the rate goes down to the usual one, that of published
    runs, by a power that grows with the log of the distance: for the same tokens a larger model never gets a
    higher rate.
    """
    run = {
        "body parameters": require_positive(body_parameters, "body_parameters"),
        "tokens": require_positive(tokens, "tokens"),
    }
    held = step_law_rate(*STEP_LAW.clamp(run).values()).value
    law = min(HIGHEST_LEARNING_RATE, held)
    bound = f" says {held:.2g}; never more than {law:g}" if law < held else ""
    usual = usual_rate(*PUBLISHED_RUNS.clamp(run).values())
    beyond = sum(math.log(max(1, number / STEP_LAW.ranges[what].high)) for what, number in run.items())
    share = min(1.0, beyond / math.log(TAKEN_OVER)) if usual < law else 0.0
    rate = float(f"{law * (usual / law) ** share:.3g}")
    size, trained = (format_count(number) for number in run.values())
    of = f"{size} non-embedding parameters and {trained} tokens"
    outside = STEP_LAW.outside(run)
    if not outside:
        return SuggestedRate(rate, f"Step Law for {of}{bound}", None)
    if share == 0:
        why = f"Step Law at the end of its range, for {of}{bound}"
        instead = "its end is held"
    elif share < 1:
        why = f"between Step Law at the end of its range ({law:.2g}) and published runs ({usual:.2g}), "
        why += f"for {of}"
        instead = "its end gives way to published runs"
    else:
        why = f"as in published runs of {of}"
        instead = "published runs take over"
    if share and (unseen := PUBLISHED_RUNS.outside(run)):
        instead += f", of which none has {' or '.join(unseen)} ({PUBLISHED_RUNS.fitted_on})"
    limits = f"{' and '.join(outside)} are outside Step Law's range ({STEP_LAW.fitted_on})"
    return SuggestedRate(rate, why, f"learning rate: {limits}; {instead}")
