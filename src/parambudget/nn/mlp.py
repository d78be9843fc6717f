"""The feed-forward network of a layer: every token by itself.

B batch   T tokens   D dim   F width between the matrices
"""

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.arch.config import ModelConfig

ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


class FeedForward(nn.Module):
    """Two matrices around an activation, or three with a gate."""

    def __init__(self, m: ModelConfig, width: int, *, bias: bool) -> None:
        super().__init__()
        self.inner = Inner(m)
        self.gate = nn.Linear(m.dim, width, bias=bias) if m.gated else None
        self.up = nn.Linear(m.dim, width, bias=bias)
        self.down = nn.Linear(width, m.dim, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Every token by itself."""
        if self.gate is None:
            return self.down(self.inner(None, self.up(x_BTD)))
        return self.down(self.inner(self.gate(x_BTD), self.up(x_BTD)))


class Inner:
    """What happens between the matrices."""

    def __init__(self, m: ModelConfig) -> None:
        self.activation, self.clamp = ACTIVATIONS[m.activation], m.ffn_clamp

    def __call__(self, gate: Tensor | None, up: Tensor) -> Tensor:
        """The activation, of the gate where there is one."""
        if gate is None:
            return self.activation(up)
        if self.clamp is not None:
            gate, up = gate.clamp(max=self.clamp), up.clamp(-self.clamp, self.clamp) + 1
        return self.activation(gate) * up
