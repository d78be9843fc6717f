"""What is held for every parameter: weights, gradients and the optimizer's state, all float32."""

from typing import Literal

from parambudget.arch.dims import Dims, Size
from parambudget.arch.tensors import Tensor, tensors
from parambudget.cost.memory.graph import BFLOAT16, FLOAT32
from parambudget.cost.params import total
from parambudget.cost.sizes import largest, smallest

OptimizerName = Literal["muon", "adamw"]


def weight_bytes(m: Dims) -> Size:
    """Of the weights; the gradients take as much."""
    return total(m) * FLOAT32


def optimizer_bytes(m: Dims, optimizer: OptimizerName) -> Size:
    """Of what the optimizer remembers: AdamW two means of every parameter, Muon one of a hidden matrix."""
    hidden = _hidden_parameters(m) if optimizer == "muon" else 0
    return (2 * total(m) - hidden) * FLOAT32


def step_bytes(m: Dims, optimizer: OptimizerName, *, sharded: bool = False) -> Size:
    """What a step of the optimizer takes at most for a moment. Fused AdamW works in place.

    Muon goes from matrix to matrix: the smoothed gradient in float32, and in bfloat16 the orthogonalised one,
    the next of the iteration and two squares of the shorter side. Sharded, each process does this for one of
    several matrices that are sent around: six of a matrix in bfloat16, and the squares.
    """
    if optimizer == "adamw":
        return 0
    element_bytes = 6 * BFLOAT16 if sharded else FLOAT32 + 2 * BFLOAT16
    return largest(_orthogonalising_bytes(row, element_bytes) for row in tensors(m) if row.hidden)


def _hidden_parameters(m: Dims) -> Size:
    return sum(row.parameters for row in tensors(m) if row.hidden)


def _orthogonalising_bytes(row: Tensor, element_bytes: int) -> Size:
    rows, columns = row.shape
    shorter = smallest((rows, columns))
    return rows * columns * element_bytes + 2 * BFLOAT16 * shorter * shorter
