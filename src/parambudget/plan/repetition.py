"""What text is worth when it is read again: epochs, effective tokens and the rule for how many are worth
having.

Source: Muennighoff et al. 2023, arXiv 2305.16264, section 3.1 and appendix A, read in the TeX source; the
constants are those of the authors' repository, huggingface/datablations. Fitted on 182 runs of 7M to 9B
parameters and 1 to 500 epochs of C4. R* was fitted together with a decay of excess parameters (see
`laws.expected_loss`); without it their fit is worse and its R* is 2.9. So taken alone these figures flatter a
model far larger than its text supports.
"""

from typing import Final

import numpy as np

from parambudget.arch.dims import Size
from parambudget.scaling.numbers import plain, positive, positives
from parambudget.units import format_count

REPETITIONS: Final = 15.387756
"""R*: after so many repetitions a further one is worth 1/e of its tokens. However often it is read, text is
worth at most 1 + R* times its own length in fresh text."""
FREE_EPOCHS: Final = 4
"""Up to here, by the paper's abstract, repetition is hardly worse than fresh text."""
LAST_EPOCHS: Final = 16
"""From about R* repetitions on little is gained."""


def epochs(tokens: Size, unique_tokens: Size) -> Size:
    """How often the text is read; below 1 where there is more of it than is trained on."""
    return positives(tokens, "tokens") / positives(unique_tokens, "unique_tokens")


def effective_tokens(tokens: Size, unique_tokens: Size) -> Size:
    """Fresh tokens that would teach as much: D' = U + U R* (1 - exp(-(D / U - 1) / R*)); D itself up to one
    epoch."""
    trained, unique = positives(tokens, "tokens"), positives(unique_tokens, "unique_tokens")
    read = np.minimum(unique, trained)
    worth = read - read * REPETITIONS * np.expm1(-(trained / read - 1) / REPETITIONS)
    return plain(np.minimum(worth, trained))  # rounding alone may be above


def worth_of_next_token(tokens: Size, unique_tokens: Size) -> Size:
    """The share of a fresh token that the next one read is worth: exp(-(D / U - 1) / R*), 1 up to one
    epoch."""
    return plain(np.exp(-np.maximum(epochs(tokens, unique_tokens) - 1, 0) / REPETITIONS))


def repetition_warning(tokens: float, unique_tokens: float) -> str | None:
    """One line from more than 4 epochs on, and another from more than 16; None up to 4."""
    trained, unique = positive(tokens, "tokens"), positive(unique_tokens, "unique_tokens")
    times = trained / unique
    if times <= FREE_EPOCHS:
        return None
    worth = f"{effective_tokens(trained, unique) / unique:.3g}"
    last = f"a further token is worth {worth_of_next_token(trained, unique) * 100:.0f} % of a fresh one"
    rule = f"{FREE_EPOCHS}, repetition costs" if times <= LAST_EPOCHS else f"{LAST_EPOCHS}, little is gained"
    return f"{format_count(times)} epochs teach as much as {worth} of fresh text ({last}): above {rule}"
