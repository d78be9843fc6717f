"""Memory per parameter: weights, gradients and optimizer state, all float32; and the memory of inference."""

from dataclasses import dataclass
from typing import Any

from parambudget._tabular import Tabular
from parambudget.arch.dims import Dims, Size
from parambudget.arch.layers import AttentionKind, attention_kinds
from parambudget.arch.tensors import Tensor, tensors
from parambudget.cost.memory.graph import largest, smallest
from parambudget.cost.params import total
from parambudget.cost.step import BFLOAT16, FLOAT32, OptimizerName


def weight_bytes(m: Dims) -> Size:
    """Of the weights; the gradients take as much."""
    return total(m) * FLOAT32


def optimizer_bytes(m: Dims, optimizer: OptimizerName) -> Size:
    """Of the optimizer state: AdamW has two moments per parameter, Muon one per element of a hidden
    matrix."""
    hidden = _hidden_parameters(m) if optimizer == "muon" else 0
    return (2 * total(m) - hidden) * FLOAT32


def optimizer_scratch_bytes(m: Dims, optimizer: OptimizerName, *, shard: bool = False) -> Size:
    """The most that an optimizer step allocates temporarily. Fused AdamW works in place.

    Muon goes from matrix to matrix: it holds the smoothed gradient in float32, and in bfloat16 the
    orthogonalised one, the next iterate and two squares of the shorter side. With shards, each process does
    this for one of several matrices that are exchanged: six times a matrix in bfloat16, and the squares.
    """
    if optimizer == "adamw":
        return 0
    element_bytes = 6 * BFLOAT16 if shard else FLOAT32 + 2 * BFLOAT16
    return largest(_orthogonalising_bytes(row, element_bytes) for row in tensors(m) if row.is_hidden_matrix)


def _hidden_parameters(m: Dims) -> Size:
    return sum(row.parameters for row in tensors(m) if row.is_hidden_matrix)


def _orthogonalising_bytes(row: Tensor, element_bytes: int) -> Size:
    rows, columns = row.shape
    shorter = smallest((rows, columns))
    return rows * columns * element_bytes + 2 * BFLOAT16 * shorter * shorter


@dataclass(frozen=True, repr=False)
class InferenceMemory(Tabular):
    """Bytes; arrays where the sizes of the model are."""

    weights_bytes: Size
    cache_bytes: Size
    """Of keys and values."""

    @property
    def total_bytes(self) -> Size:
        """The sum. Activations of a few tokens at a time are small beside it and not counted."""
        return self.weights_bytes + self.cache_bytes

    def rows(self) -> list[dict[str, Any]]:
        """One dict per part, and the total."""
        parts = {"weights": self.weights_bytes, "cache": self.cache_bytes, "total": self.total_bytes}
        return [{"part": name, "bytes": size} for name, size in parts.items()]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {f"{row['part']}_bytes": row["bytes"] for row in self.rows()}


def inference_memory(m: Dims, batch_size: int, n_tokens: int, *, element_bytes: int = 2) -> InferenceMemory:
    """The memory to generate `batch_size` sequences of `n_tokens` tokens at once, prompts included.

    Weights and cache have elements of the same size, 2 bytes in bfloat16.
    """
    cached = sum(_cached_elements(row, n_tokens) for row in attention_kinds(m))
    return InferenceMemory(total(m) * element_bytes, batch_size * cached * element_bytes)


def _cached_elements(row: AttentionKind, n_tokens: int) -> Size:
    """Elements that all layers of a kind cache for one sequence; with a window, only of the tokens in it."""
    n_cached = n_tokens if row.window is None else min(n_tokens, row.window)
    return row.copies * row.cached * n_cached
