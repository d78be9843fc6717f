"""Linear maps that may multiply with another tensor than their parameter, and several of one input as one.

Parameters keep their names and stay separate: what is joined, or in lower precision, is only multiplied.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.nn.norms import cast_for_matmul


class Linear(nn.Linear):
    """torch's linear map; multiplies with `compute_weight` where a trainer has set that."""

    compute_weight: Tensor | None = None
    """A leaf that stands for the weight in lower precision. It may have more rows, whose outputs the caller
    cuts off."""

    def forward(self, x: Tensor) -> Tensor:
        """The map of the last axis."""
        weight = self.weight if self.compute_weight is None else self.compute_weight
        return F.linear(x, weight, self.bias)


class JoinedLinear:
    """Several linear maps of one input. No module: the parts belong to the one that has them.

    They are multiplied one after another, or as one matrix: a GPU is faster with one wide product, and their
    input then has one gradient and not several to be added.
    """

    def __init__(self, *parts: Linear) -> None:
        self.parts = parts
        self.compute_weight: Tensor | None = None
        """A leaf that stands for the rows of all parts in lower precision."""
        self.joins_parameters = False
        """Join the parameters themselves, in every call, and cast them as autocast does."""

    @property
    def is_joined(self) -> bool:
        """Whether the results are views of one product."""
        return self.compute_weight is not None or self.joins_parameters

    def product(self, x: Tensor) -> Tensor:
        """What the parts make of `x`, side by side: one product. Only where they are joined."""
        weight = self.compute_weight
        if weight is None:
            weight = torch.cat([cast_for_matmul(part.weight) for part in self.parts])
        biases: list[Tensor] = [part.bias for part in self.parts if part.bias is not None]
        return F.linear(x, weight, torch.cat(biases) if biases else None)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """What each part makes of `x`."""
        if not self.is_joined:
            return tuple(part(x) for part in self.parts)
        return self.product(x).split([part.out_features for part in self.parts], dim=-1)
