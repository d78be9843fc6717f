"""Memory per parameter: weights, gradients and optimizer state, all float32; and the memory of inference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from typing_extensions import TypedDict

from parambudget._tabular import Tabular
from parambudget.arch.dims import Dims, Size
from parambudget.arch.layers import AttentionKind, attention_kinds
from parambudget.arch.mixers.scans import mixer_scan
from parambudget.arch.table import Tensor
from parambudget.arch.tensors import tensors
from parambudget.cost.memory.graph import largest, smallest
from parambudget.cost.params import total
from parambudget.cost.step import BFLOAT16, FLOAT32, OptimizerName, StepConfig

STACK_ELEMENTS: Final = 2**27
"""The most elements of the matrices that Muon orthogonalizes together, if one for each process has no more.
A choice: on a GPU 1 GiB, enough to keep it busy, and little beside activations, which are freed by then."""


def weight_bytes(m: Dims) -> Size:
    """Of the weights, without buffers, counted or not."""
    return sum(row.parameters for row in tensors(m) if not row.is_buffer) * FLOAT32


def optimizer_bytes(m: Dims, optimizer: OptimizerName) -> Size:
    """Of the optimizer state: AdamW has two moments per parameter, Muon one per element of a hidden
    matrix."""
    hidden = _hidden_parameters(m) if optimizer == "muon" else 0
    return (2 * trained_parameters(m) - hidden) * FLOAT32


def trained_parameters(m: Dims) -> Size:
    """The parameters that gradients reach: all but buffers and indexers."""
    return sum(row.parameters for row in tensors(m) if row.trained)


def optimizer_scratch_bytes(m: Dims, step: StepConfig) -> Size:
    """The most that an optimizer step allocates temporarily. Fused AdamW works in place.

    Muon goes from stack to stack (`training.optimization.muon`).
    """
    if step.optimizer == "adamw":
        return 0
    hidden = [row for row in tensors(m) if row.is_hidden_matrix]
    return largest(_stack_bytes(hidden, row, step) for row in hidden)


def matrices_per_stack(rows: Size, columns: Size, n: Size, n_processes: int = 1) -> Size:
    """How many of `n` matrices of one shape Muon orthogonalizes together: as many for each process, in stacks
    that are nearly equal."""
    most = n_processes * largest((1, STACK_ELEMENTS // (rows * columns * n_processes)))
    n_stacks = largest((1, -(-n // most)))
    return n_processes * -(-n // (n_stacks * n_processes))


def _hidden_parameters(m: Dims) -> Size:
    return sum(row.parameters for row in tensors(m) if row.is_hidden_matrix)


def _stack_bytes(hidden: Sequence[Tensor], row: Tensor, step: StepConfig) -> Size:
    """Of the largest stack that the matrices of a row are in, among all hidden ones.

    The smoothed gradients in float32 are copied to the precision in which they are orthogonalized. There, the
    iteration holds two stacks, and two squares of the shorter side; its result is applied in float32. Several
    processes do this for their shares and gather the results, of one stack while they compute the next; of
    sharded matrices, rows are exchanged for whole matrices and back.
    """
    *_, rows, columns = row.shape
    alike = (_n_of_shape(other, rows, columns) for other in hidden)
    in_stack = smallest((n := sum(alike), matrices_per_stack(rows, columns, n, step.n_sharing_muon)))
    own, elements = -(-in_stack // step.n_sharing_muon), rows * columns
    size = BFLOAT16 if step.backend.device == "cuda" else FLOAT32
    iteration = 2 * size * (elements + smallest((rows, columns)) ** 2)
    applied = elements * (size + (FLOAT32 if size < FLOAT32 else 0))
    alone = own * largest((elements * (FLOAT32 + size), iteration, applied))
    if step.world_size == 1:
        return alone
    exchanged = 3 * size * own if step.shard else 2 * size * in_stack
    return exchanged * elements + largest((alone, (own if step.shard else in_stack) * elements * FLOAT32))


def _n_of_shape(row: Tensor, rows: Size, columns: Size) -> Size:
    """How many matrices of that shape a row stands for: all its copies, or none."""
    *several, own_rows, own_columns = row.shape
    return row.copies * (several[0] if several else 1) * ((own_rows == rows) & (own_columns == columns))


class InferenceMemoryDocument(TypedDict):
    """Memory of generating text, in bytes."""

    weights_bytes: int
    """Of the weights, in bfloat16."""
    cache_bytes: int
    """Of keys and values, and of the states of other mixers."""
    total_bytes: int
    """Weights and cache together."""


@dataclass(frozen=True, repr=False)
class InferenceMemory(Tabular):
    """Bytes; arrays where the sizes of the model are."""

    weights_bytes: Size
    cache_bytes: Size
    """Of keys and values, and of the states of other mixers."""

    @property
    def total_bytes(self) -> Size:
        """The sum. Activations of a few tokens at a time are small beside it and not counted."""
        return self.weights_bytes + self.cache_bytes

    def rows(self) -> list[dict[str, Any]]:
        """One dict per part, and the total."""
        parts = {"weights": self.weights_bytes, "cache": self.cache_bytes, "total": self.total_bytes}
        return [{"part": name, "bytes": size} for name, size in parts.items()]

    def as_dict(self) -> InferenceMemoryDocument:
        """Plain JSON values."""
        return {
            "weights_bytes": self.weights_bytes, "cache_bytes": self.cache_bytes,
            "total_bytes": self.total_bytes,
        }  # fmt: skip


def inference_memory(m: Dims, batch_size: int, n_tokens: int, *, element_bytes: int = 2) -> InferenceMemory:
    """The memory to generate `batch_size` sequences of `n_tokens` tokens at once, prompts included.

    Weights and cache have elements of the same size, 2 bytes in bfloat16; states are float32.
    """
    cached = sum(_cached_elements(row, n_tokens) for row in attention_kinds(m))
    per_sequence = cached * element_bytes + _state_bytes(m, element_bytes)
    return InferenceMemory(total(m) * element_bytes, batch_size * per_sequence)


def _state_bytes(m: Dims, element_bytes: int) -> Size:
    """Of the states of mixers other than attention, however long the sequence, and of the tokens that their
    convolutions see; channel mixes keep the last token."""
    scan = mixer_scan(m)
    last_tokens = m.n_ffn_layers * m.dim * element_bytes if m.channel_mix else 0
    if scan is None:
        return last_tokens
    return scan.copies * (scan.state * FLOAT32 + scan.convolved * element_bytes) + last_tokens


def _cached_elements(row: AttentionKind, n_tokens: int) -> Size:
    """Elements that all layers of a kind cache for one sequence; with a window, only of the tokens in it."""
    n_cached = n_tokens if row.window is None else min(n_tokens, row.window)
    return row.copies * row.cached * n_cached
