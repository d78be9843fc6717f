"""The real-gated linear recurrent unit: a linear recurrence of each channel by itself, gated by its input.

B batch   T tokens   D dim   R channels   G blocks of channels   W channels of a block
N chunks   C tokens of a chunk
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from parambudget.arch.config import ModelConfig
from parambudget.arch.mixers.config import RGLRUConfig
from parambudget.nn.linear import Linear
from parambudget.nn.mixers.mixer import CHUNK, CausalConvolution, Mixer, MixerState, drawn_uniform, in_blocks
from parambudget.nn.norms import cast_for_matmul

_SHARPNESS: Final = 8.0
"""Factor on the gated rate of decay, c in the paper."""
_LEAST_LOSS: Final = 1e-12
"""Keeps the gradient of a root finite where nothing decays."""


class BlockLinear(torch.nn.Module):
    """A linear map of each block of channels by itself."""

    def __init__(self, n_blocks: int, width: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(n_blocks, width, width))
        self.bias = torch.nn.Parameter(torch.zeros(n_blocks, width))

    def forward(self, x_BTR: Tensor) -> Tensor:
        """Every block mapped, (B, T, R)."""
        n_blocks, width, _ = self.weight.shape
        x_BTGW = x_BTR.unflatten(-1, (n_blocks, width))
        return (torch.einsum("btgw,gvw->btgv", x_BTGW, self.weight) + self.bias).flatten(-2)


class RGLRU(Mixer):
    """The recurrent block of Griffin. Source: De et al. 2024, arXiv 2402.19427."""

    def __init__(self, m: ModelConfig, lru: RGLRUConfig) -> None:
        super().__init__()
        blocks = lru.lru_n_blocks, lru.lru_block_width
        channels = lru.lru_n_blocks * lru.lru_block_width
        self.gate, self.input = (Linear(m.dim, channels, bias=True) for _ in range(2))
        self.conv = CausalConvolution(channels, lru.lru_conv_width, bias=True)
        self.input_gate, self.decay_gate = BlockLinear(*blocks), BlockLinear(*blocks)
        self.rate = torch.nn.Parameter(torch.zeros(channels))
        self.out = Linear(channels, m.dim, bias=True)
        self.init_std = m.init_std

    def advance(self, x_BTD: Tensor, state: MixerState | None) -> tuple[Tensor, MixerState]:
        """The output for the next tokens, and the state after them."""
        earlier, memory = (None, None) if state is None else state
        convolved_BTR, earlier = self.conv(self.input(x_BTD), earlier)
        decay_BTR = (
            -_SHARPNESS * self.decay_gate(convolved_BTR).float().sigmoid() * F.softplus(self.rate.float())
        )
        gated_BTR = convolved_BTR.float() * self.input_gate(convolved_BTR).float().sigmoid()
        y_BTR, memory = linear_recurrence(gated_BTR, decay_BTR, memory)
        gate_BTR = F.gelu(self.gate(x_BTD), approximate="tanh")
        return self.out(cast_for_matmul(y_BTR * gate_BTR)), (earlier, memory)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Factors on the state uniform in 0.9 to 0.999 in the square, as in the paper; matrices of blocks as
        others."""
        square = drawn_uniform(self.rate, 0.9**2, 0.999**2, generator)
        self.rate.copy_(torch.log(torch.expm1(-0.5 * square.log())))  # the inverse of softplus
        for gate in (self.input_gate, self.decay_gate):
            drawn = torch.empty(gate.weight.shape, dtype=torch.float32, device=generator.device)
            gate.weight.copy_(drawn.normal_(0.0, self.init_std, generator=generator))


def linear_recurrence(x_BTR: Tensor, decay_BTR: Tensor, memory_BR: Tensor | None) -> tuple[Tensor, Tensor]:
    """The state after every token, (B, T, R), and after the last one, (B, R); in float32.

    For each token the state is multiplied by a = exp(decay), and sqrt(1 - a^2) times the input is added; the
    first token of a sequence, which has no state before it, is added as it is.
    """
    with torch.autocast(x_BTR.device.type, enabled=False):
        n_tokens = x_BTR.shape[1]
        # 1 - a^2, and not less than what keeps the gradient of its root finite.
        lost_BTR = -torch.expm1(2 * decay_BTR)
        scaled_BTR = x_BTR * lost_BTR.clamp(min=_LEAST_LOSS).sqrt()
        if memory_BR is None:
            scaled_BTR = torch.cat((x_BTR[:, :1], scaled_BTR[:, 1:]), dim=1)
            memory_BR = x_BTR.new_zeros(x_BTR.shape[0], x_BTR.shape[2])
        chunk = min(CHUNK, n_tokens)
        input_BNCR, factor_BNCR = _accumulate(*(in_blocks(x, chunk) for x in (scaled_BTR, decay_BTR)))
        outputs = []
        for i in range(input_BNCR.shape[1]):
            outputs.append(input_BNCR[:, i] + factor_BNCR[:, i] * memory_BR.unsqueeze(1))
            memory_BR = outputs[-1][:, -1]
    return torch.cat(outputs, dim=1)[:, :n_tokens], memory_BR


def _accumulate(input_BNCR: Tensor, decay_BNCR: Tensor) -> tuple[Tensor, Tensor]:
    """The state after each token of a chunk that starts without one, and the factor on one before it.

    Each pass looks back twice as far as the one before. All factors are at most 1, so nothing overflows.
    """
    factor_BNCR, back = decay_BNCR.exp(), 1
    while back < input_BNCR.shape[2]:
        input_BNCR = input_BNCR + factor_BNCR * F.pad(input_BNCR[:, :, :-back], (0, 0, back, 0))
        factor_BNCR = factor_BNCR * F.pad(factor_BNCR[:, :, :-back], (0, 0, back, 0), value=1.0)
        back *= 2
    return input_BNCR, factor_BNCR
