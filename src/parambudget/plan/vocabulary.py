"""How many entries a vocabulary deserves beside a body of a given size."""

from dataclasses import dataclass
from typing import Final

from parambudget.scaling.numbers import Range, positive

BODY_PARAMETERS: Final = Range(33e6, 3e9)
"""Of the models behind the law."""
_MULTIPLE: Final = 64
"""Such a head multiplies fast (Anthony et al. 2024, arXiv 2401.14489)."""


@dataclass(frozen=True)
class VocabularySuggestion:
    """A vocabulary for a body, and whether the law was fitted there."""

    vocab_size: int
    """A multiple of 64."""
    vocabulary_parameters: float
    """vocab_size * dim of one table, before rounding."""
    warnings: tuple[str, ...]


def suggest_vocabulary(body_parameters: float, dim: float) -> VocabularySuggestion:
    """V dim = 3,145,728 (body / 33M)^0.8354: the vocabulary grows more slowly than the body.

    For compute-optimal training on English text; longer training and more languages deserve more. Small
    models mostly inherit a vocabulary several times as large.

    Source: Tao et al. 2024, arXiv 2407.13623, approach 2, constants read in the authors' repository,
    sail-sg/scaling-with-vocab, optimal_Nv_predict.py.
    """
    size, width = positive(body_parameters, "body_parameters"), positive(dim, "dim")
    wanted = 3_145_728 * (size / 33e6) ** 0.8353974035228025
    warning = BODY_PARAMETERS.warning(size, "body parameters")
    entries = max(1, round(wanted / width / _MULTIPLE)) * _MULTIPLE
    return VocabularySuggestion(entries, wanted, (warning,) if warning else ())
