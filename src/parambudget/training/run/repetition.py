"""How often a run reads its text: said before it starts, and refused where nobody chose the text."""

from pathlib import Path
from typing import Final

from parambudget.arch.config import ModelConfig
from parambudget.errors import InputError
from parambudget.scaling.loss import LossLaw, repetition_warning
from parambudget.text.corpus import BUILT_IN
from parambudget.text.token_cache import TokenData
from parambudget.training.config import TrainConfig
from parambudget.units import format_count

MOST_DEFAULT_EPOCHS: Final = 20
"""Of the built-in text, where nobody named it: a longer run means another text."""


def repetition_notice(
    config: TrainConfig, model: ModelConfig, data: TokenData, named: Path | None, law: LossLaw | None = None
) -> str | None:
    """What to say of a run that reads its text more than 4 times, by the law that it was planned by if there
    is one; None for any other.

    `named` is the text that a person named, now or for the run that goes on. Without one it is the built-in
    text, and more than 20 epochs of it are refused with `InputError`. Of a mixture, each set is judged alone.
    """
    update, unique = config.step.tokens_per_update(model.context_length), len(data.train)
    tokens = config.steps * update
    if named is None and tokens > MOST_DEFAULT_EPOCHS * unique:
        allowed = _leading_digits(MOST_DEFAULT_EPOCHS * unique - update)
        shorter = f"at most `tokens={allowed:_}`" if allowed > 0 else "a smaller `batch_size`"
        raise InputError(
            f"no text was named, and the run would read {data.name} {format_count(tokens / unique)} times: "
            f"{format_count(tokens)} tokens from a text of {format_count(unique)}; the limit "
            f"is {MOST_DEFAULT_EPOCHS} times; name your text with `data`, use {shorter}, or choose "
            f"the built-in text with `data='{BUILT_IN}'`"
        )
    if not data.parts:
        return repetition_warning(tokens, unique, law)
    warnings = [
        f"{part.name}: {warning}"
        for part in data.parts
        if (warning := repetition_warning(float(tokens * part.share), len(part.data.train), law)) is not None
    ]
    return "; ".join(warnings) or None


def _leading_digits(n: int) -> int:
    """`n` with zeros after its first three digits, so that it is easy to type."""
    place = 10 ** max(0, len(str(n)) - 3)
    return n // place * place
