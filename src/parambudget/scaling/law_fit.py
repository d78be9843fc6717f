"""The runs that a law was fitted to, and how far its constants may be off."""

from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from parambudget._documents import CLOSED, Sha256
from parambudget.scaling.numbers import format_quantity
from parambudget.units import format_count

FAR: Final = 30
"""A run of so many times the compute of the largest one behind a law is far from all that was seen."""

Size = Annotated[int, Field(ge=1, le=2**31)]
Constant = Annotated[float, Field(gt=0, lt=1e300)]


@dataclass(frozen=True)
class LawSample:
    """Constants that fit the runs as well as those of the law."""

    __pydantic_config__ = CLOSED

    E: Constant
    A: Constant
    B: Constant
    alpha: Constant
    beta: Constant
    repetitions: Constant
    scatter: Annotated[float, Field(gt=-100, lt=100)]
    """ln of how far one run lies from the law."""


@dataclass(frozen=True)
class LawFit:
    """What a law was fitted to."""

    __pydantic_config__ = CLOSED

    corpus: str
    """The text, as its source is named."""
    corpus_sha256: Sha256
    tokenizer_sha256: Sha256
    """Of tokenizer.json; of nothing where no tokenizer is known."""
    vocab_size: Size
    context_length: Size
    n_runs: Size
    n_sizes: Size
    largest_products: Constant
    """The greatest N D of a run: of models of one kind, FLOPs are about six times that."""
    run_spread: Constant
    """Standard deviation of ln loss of a run around the law."""
    samples: Annotated[tuple[LawSample, ...], Field(min_length=20, max_length=10_000)]

    def far_warning(self, n_parameters: float, tokens: float) -> str | None:
        """The line about a run that is far from all that was seen; None for one that is not."""
        times = n_parameters * tokens / self.largest_products
        if times <= FAR:
            return None
        return (
            f"{format_count(n_parameters)} parameters on {format_quantity(tokens)} tokens are "
            f"{times:,.0f} times the compute of the largest run behind the law: its interval is too narrow "
            f"beyond {FAR} times"
        )
