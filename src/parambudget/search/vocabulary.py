"""Where a vocabulary takes most of a small model, and what a smaller one would leave for its layers."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

from parambudget._json_types import SchemaOf
from parambudget.arch.config import ModelConfig
from parambudget.arch.sizes import with_sizes
from parambudget.cost.params import body, total
from parambudget.units import format_share

MUCH: Final = 1 / 3
"""Of all parameters: an embedding, with its head, of more than this is said."""
_SMALLER: Final = (32_768, 16_384, 8_192)


@dataclass(frozen=True)
class SmallerVocabulary:
    """What a model would be with fewer entries."""

    vocab_size: int
    """Entries of the vocabulary."""
    share: float
    """Of its embedding and head, in a model of the same layers and dim."""
    n_layers: int
    """As many of the same layers as the same number of parameters holds."""


@dataclass(frozen=True)
class EmbeddingShare:
    """The part of a model that its vocabulary takes."""

    vocab_size: int
    """Entries of the vocabulary."""
    share: float
    """Of the parameters, that are embedding and output head."""
    smaller: tuple[SmallerVocabulary, ...]
    """The same shape with fewer entries."""

    def as_dict(self) -> "EmbeddingShareDocument":
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """One line."""
        others = "; ".join(
            f"{other.vocab_size:,} entries: {_percent(other.share)}, or {other.n_layers} layers in as many "
            "parameters"
            for other in self.smaller
        )
        return (
            f"{_percent(self.share)} of the parameters are the embedding of {self.vocab_size:,} entries"
            + (f"; the same shape with {others}" if others else "")
        )


EmbeddingShareDocument = Annotated[dict[str, Any], SchemaOf(EmbeddingShare)]


def embedding_share(model: ModelConfig) -> EmbeddingShare | None:
    """The share of embeddings and head in a model, where that is more than a third; else None."""
    whole = int(total(model))
    share = 1 - int(body(model)) / whole
    if share <= MUCH:
        return None
    sizes = [size for size in _SMALLER if size <= model.vocab_size / 1.5]
    return EmbeddingShare(model.vocab_size, share, tuple(_with_fewer(model, whole, size) for size in sizes))


def _with_fewer(model: ModelConfig, whole: int, vocab_size: int) -> SmallerVocabulary:
    fewer = with_sizes(model, vocab_size=vocab_size)
    count = int(total(fewer))
    one_more = int(total(with_sizes(model, vocab_size=vocab_size, n_layers=model.n_layers + 1))) - count
    return SmallerVocabulary(
        vocab_size, 1 - int(body(fewer)) / count, model.n_layers + (whole - count) // max(1, one_more)
    )


def _percent(share: float) -> str:
    return format_share(share, 0).lstrip("+")
