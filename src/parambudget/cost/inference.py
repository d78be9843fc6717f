"""Memory of a model that writes: its weights, and what every layer remembers of every token."""

from dataclasses import dataclass
from typing import Any

from parambudget._tabular import Tabular
from parambudget.arch.dims import Dims, Size
from parambudget.arch.layers import Mixer, mixers
from parambudget.cost.params import total


@dataclass(frozen=True, repr=False)
class InferenceMemory(Tabular):
    """Bytes; arrays where the sizes of the model are."""

    weights_bytes: Size
    cache_bytes: Size
    """Keys and values."""

    @property
    def total_bytes(self) -> Size:
        """Both. The activations of a few tokens at a time, not counted, are little beside them."""
        return self.weights_bytes + self.cache_bytes

    def rows(self) -> list[dict[str, Any]]:
        """One dict per part, and the total."""
        parts = {"weights": self.weights_bytes, "cache": self.cache_bytes, "total": self.total_bytes}
        return [{"part": name, "bytes": size} for name, size in parts.items()]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {f"{row['part']}_bytes": row["bytes"] for row in self.rows()}


def inference_memory(m: Dims, batch_size: int, n_tokens: int, *, element_bytes: int = 2) -> InferenceMemory:
    """What it takes to write `batch_size` texts of `n_tokens` tokens at once, prompts included.

    Weights and cache have elements of the same size, 2 bytes in bfloat16.
    """
    cached = sum(_cached(row, n_tokens) for row in mixers(m))
    return InferenceMemory(total(m) * element_bytes, batch_size * cached * element_bytes)


def _cached(row: Mixer, n_tokens: int) -> Size:
    """Elements that all layers of a kind remember of one text; with a window, of what is in it alone."""
    remembered = n_tokens if row.window is None else min(n_tokens, row.window)
    return row.copies * row.cached * remembered
