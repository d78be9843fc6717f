"""The feed-forward network of a layer: every token by itself.

B batch   T tokens   D dim   F width between the matrices
"""

from collections.abc import Callable
from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.arch.config import ModelConfig

ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


class FeedForward(nn.Module):
    """Two matrices around an activation, or three with a gate."""

    def __init__(self, m: ModelConfig, width: int, *, bias: bool) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[m.activation]
        self.gate = nn.Linear(m.dim, width, bias=bias) if m.gated else None
        self.up = nn.Linear(m.dim, width, bias=bias)
        self.down = nn.Linear(width, m.dim, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Every token by itself."""
        if self.gate is None:
            return self.down(self.activation(self.up(x_BTD)))
        return self.down(self.activation(self.gate(x_BTD)) * self.up(x_BTD))
