"""What every mixer other than attention is: a module that mixes tokens through a state of fixed size. An FFN
with a token shift is one too.

B batch   T tokens   C channels   D dim   H heads   K width of a head
"""

import math
from abc import abstractmethod
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.arch.mixers.config import OutputGateActivation
from parambudget.nn.mixers import kernels
from parambudget.nn.mixers.kernels import KernelName

CHUNK: Final = 64
"""Tokens that are computed together; the state goes from chunk to chunk."""
MixerState = tuple[Tensor, ...]
"""What a mixer keeps of earlier tokens; the batch is the first axis of each tensor."""


class Mixer(nn.Module):
    """A module that mixes tokens through a state. Positions are in the state, so it takes neither angles nor
    a mask."""

    kernel: KernelName | None = None
    """The kernel that takes its scan, where that is installed; None where there is none for its sizes."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The output for every token of sequences that start here, (B, T, D)."""
        return self.advance(x_BTD, None)[0]

    @abstractmethod
    def advance(self, x_BTD: Tensor, state: MixerState | None) -> tuple[Tensor, MixerState]:
        """The output for the next tokens, (B, T, D), and the state after them; without a state they are the
        first."""

    @abstractmethod
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Initialize what is neither a matrix nor a bias, drawn on the generator's device."""


def in_blocks(x_BTK: Tensor, size: int) -> Tensor:
    """(..., blocks, size, K): the last block is filled with zeros."""
    return F.pad(x_BTK, (0, 0, 0, -x_BTK.shape[-2] % size)).unflatten(-2, (-1, size))


class CausalConvolution(nn.Module):
    """A convolution over the last tokens, of each channel by itself."""

    def __init__(self, channels: int, width: int, *, bias: bool = False) -> None:
        super().__init__()
        fits = channels % 8 == 0 and 2 <= width <= 4
        self.kernel: KernelName | None = "causal_conv1d" if fits else None
        self.weight = nn.Parameter(torch.empty(channels, width))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x_BTC: Tensor, earlier_BWC: Tensor | None) -> tuple[Tensor, Tensor]:
        """The convolved tokens, (B, T, C), and the inputs that the next ones will see; `earlier_BWC` are
        those of the tokens before, zeros for the first."""
        n_earlier = self.weight.shape[1] - 1
        if earlier_BWC is None and kernels.is_usable(self.kernel, x_BTC):
            bias = () if self.bias is None else (self.bias,)
            y_BTC, _ = kernels.call_kernel("causal_conv1d", x_BTC, self.weight, *bias)
            return y_BTC, F.pad(x_BTC[:, -n_earlier:], (0, 0, max(n_earlier - x_BTC.shape[1], 0), 0))
        if earlier_BWC is None:
            earlier_BWC = x_BTC.new_zeros(x_BTC.shape[0], n_earlier, x_BTC.shape[2])
        seen = torch.cat((earlier_BWC.to(x_BTC.dtype), x_BTC), dim=1)
        kernel = self.weight.unsqueeze(1)
        y_BCT = F.conv1d(seen.transpose(1, 2), kernel, self.bias, groups=self.weight.shape[0])
        return y_BCT.transpose(1, 2), seen[:, seen.shape[1] - n_earlier :]

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Uniform as torch's own convolutions."""
        bound = self.weight.shape[1] ** -0.5
        self.weight.copy_(drawn_uniform(self.weight, -bound, bound, generator))


class GatedNorm(nn.Module):
    """RMSNorm over the last axis, times the activation of a gate."""

    def __init__(self, width: int, eps: float, activation: OutputGateActivation = "silu") -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.activation = F.silu if activation == "silu" else torch.sigmoid
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """Normalized, scaled and gated, in the precision of the scale."""
        normed = F.rms_norm(x.to(self.weight.dtype), (self.width,), self.weight, self.eps)
        return normed * self.activation(gate.to(normed.dtype))

    def reset_parameters(self) -> None:
        """Scale 1."""
        nn.init.ones_(self.weight)


def in_chunks(x_BTHK: Tensor) -> Tensor:
    """(B, H, N, C, K): N chunks of C tokens, the last one filled with zeros."""
    chunk = min(CHUNK, x_BTHK.shape[1])
    padded = F.pad(x_BTHK, (0, 0, 0, 0, 0, -x_BTHK.shape[1] % chunk))
    return padded.transpose(1, 2).unflatten(2, (-1, chunk))


def draw_step_bias(bias: nn.Parameter, generator: torch.Generator) -> None:
    """Fill a bias so that softplus of it, the length of a step, is log-uniform in 0.001 to 0.1."""
    step = drawn_uniform(bias, math.log(1e-3), math.log(0.1), generator).exp()
    bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus


def drawn_uniform(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform numbers of the shape of `like`, in float32 on the generator's device."""
    empty = torch.empty(like.shape, dtype=torch.float32, device=generator.device)
    return empty.uniform_(low, high, generator=generator)
