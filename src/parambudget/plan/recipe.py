"""Tokens, batch and learning rate of a run where nobody has said: each number with its reason.

tokens   20 per parameter that a token meets, or 4 epochs of the text where that is less (Muennighoff et al.
         2023)
batch    the geometric mean of Step Law's and DeepSeek's, as a power of two within bounds
rate     Step Law's, up to a bound
"""

import math
from typing import Final

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import with_sizes
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import active, body
from parambudget.plan.repetition import FREE_EPOCHS
from parambudget.scaling.hyperparameters import batch_tokens, step_law_rate
from parambudget.units import format_count

TOKENS_PER_PARAMETER: Final = 20
FEWEST_BATCH_TOKENS: Final = 2**12
MOST_BATCH_TOKENS: Final = 2**22
HIGHEST_LEARNING_RATE: Final = 5e-3


def training_tokens(model: ModelConfig, data_tokens: int | None) -> tuple[int, str]:
    """Tokens to train on, and why so many; `data_tokens` None stands for text without end."""
    wished = TOKENS_PER_PARAMETER * active(model)
    rule = f"{TOKENS_PER_PARAMETER} per {'active parameter' if model.moe else 'parameter'}"
    if data_tokens is None:
        return wished, rule
    there = FREE_EPOCHS * data_tokens
    if there < wished:
        return there, f"{FREE_EPOCHS} epochs; {rule} would be {format_count(wished)}"
    return wished, f"{rule}, {wished / max(1, data_tokens):.2g} epochs of the text"


def update_tokens(model: ModelConfig, tokens: int, steps: int | None = None) -> tuple[int, str]:
    """Tokens per update for a run of `tokens`, or of `steps` updates, and why so many."""
    flops = flops_per_token(with_sizes(model, vocab_size=0))
    wished = float(FEWEST_BATCH_TOKENS)
    # With given steps the number of tokens depends on the batch; the exponents are below 1, so this settles.
    for _ in range(50):
        trained = steps * wished if steps else tokens
        both = batch_tokens(trained, flops * trained)
        wished = both.middle
    batch = min(MOST_BATCH_TOKENS, max(FEWEST_BATCH_TOKENS, 2 ** round(math.log2(wished))))
    step_law, deepseek = (format_count(round(law.value)) for law in (both.step_law, both.deepseek))
    laws = f"Step Law says {step_law}, DeepSeek {deepseek}"
    bound = f", at least {FEWEST_BATCH_TOKENS:,}" if batch > wished * math.sqrt(2) else ""
    return batch, f"about {batch:,} tokens an update ({laws}{bound})"


def learning_rate(model: ModelConfig, tokens: int) -> tuple[float, str]:
    """The peak learning rate for a run of `tokens`, and why."""
    law = step_law_rate(body(model), tokens).value
    reason = f"Step Law for {format_count(body(model))} body parameters and {format_count(tokens)} tokens"
    if law > HIGHEST_LEARNING_RATE:
        return HIGHEST_LEARNING_RATE, f"{reason} says {law:.2g}, outside its range; this is the highest used"
    return float(f"{law:.3g}"), reason
