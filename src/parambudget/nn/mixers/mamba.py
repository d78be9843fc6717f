"""A state space for each channel: for each token the state decays, the token's input is written into it along
B, and it is read along C; how fast it decays differs from element to element.

    B batch   T tokens   D dim   I channels   R width of the projected steps   N elements of a channel's state
    M blocks of tokens   C tokens of a block
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from parambudget.arch.config import ModelConfig
from parambudget.arch.mixers.config import MambaConfig
from parambudget.nn.linear import Linear
from parambudget.nn.mixers import kernels
from parambudget.nn.mixers.mixer import CausalConvolution, Mixer, MixerState, draw_step_bias, in_blocks
from parambudget.nn.norms import cast_for_matmul

CHUNK: Final = 256
"""Tokens whose states are in memory at once: the backward pass computes them again, from those in between."""
BLOCK: Final = 16
"""Tokens from one state that goes on to the next; all blocks of a chunk are computed side by side."""
_KERNEL_STATE: Final = 256
"""Most elements of a channel's state that mamba-ssm takes."""


class Mamba(Mixer):
    """The mixer of Mamba. Source: Gu and Dao 2023, arXiv 2312.00752."""

    def __init__(self, m: ModelConfig, mamba: MambaConfig) -> None:
        super().__init__()
        inner, state, rank = mamba.mamba_inner_size, mamba.mamba_state_dim, mamba.mamba_dt_rank
        bias = mamba.mamba_bias
        if state <= _KERNEL_STATE:
            self.kernel = "selective_scan"
        self.x, self.gate = Linear(m.dim, inner, bias=bias), Linear(m.dim, inner, bias=bias)
        self.conv = CausalConvolution(inner, mamba.mamba_conv_width, bias=mamba.mamba_conv_bias)
        self.dt_down = Linear(inner, rank, bias=False)
        self.b, self.c = Linear(inner, state, bias=False), Linear(inner, state, bias=False)
        self.dt_norm, self.b_norm, self.c_norm = (_norm(m, mamba, width) for width in (rank, state, state))
        self.dt_up = Linear(rank, inner, bias=False)
        self.dt_bias = nn.Parameter(torch.zeros(inner))
        self.log_rate = nn.Parameter(torch.zeros(inner, state))
        self.skip = nn.Parameter(torch.ones(inner))
        self.out = Linear(inner, m.dim, bias=bias)

    def advance(self, x_BTD: Tensor, state: MixerState | None) -> tuple[Tensor, MixerState]:
        """The output for the next tokens, and the state after them."""
        earlier, memory = (None, None) if state is None else state
        convolved, earlier = self.conv(self.x(x_BTD), earlier)
        x_BTI = F.silu(convolved)
        b_BTN, c_BTN = self.b_norm(self.b(x_BTI)), self.c_norm(self.c(x_BTI))
        dt_BTI = self.dt_up(cast_for_matmul(self.dt_norm(self.dt_down(x_BTI))))
        if state is None and kernels.is_usable(self.kernel, x_BTI):
            y_BTI, memory = self._call_scan(x_BTI, dt_BTI, b_BTN, c_BTN, self.gate(x_BTD))
            return self.out(y_BTI), (earlier, memory)
        dt_BTI = F.softplus(dt_BTI.float() + self.dt_bias)
        y_BTI, memory = selective_scan(x_BTI, dt_BTI, self.log_rate, b_BTN, c_BTN, memory)
        y_BTI = (y_BTI + self.skip * x_BTI) * F.silu(self.gate(x_BTD))
        return self.out(cast_for_matmul(y_BTI)), (earlier, memory)

    def _call_scan(
        self, x_BTI: Tensor, dt_BTI: Tensor, b_BTN: Tensor, c_BTN: Tensor, gate_BTI: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the output is projected from, (B, T, I), and the memory after all tokens.

        The kernel adds the bias of the steps, takes their softplus, and adds the skip before it gates. It has
        tokens last, and one precision for all that differs from token to token.
        """
        x, dt, b, c, gate = (
            part.to(x_BTI.dtype).transpose(1, 2) for part in (x_BTI, dt_BTI, b_BTN, c_BTN, gate_BTI)
        )
        a_IN = -self.log_rate.float().exp()
        y_BIT, memory_BIN = kernels.call_kernel(
            "selective_scan", x, dt, a_IN, b, c, self.skip.float(), gate, self.dt_bias.float()
        )
        return y_BIT.transpose(1, 2), memory_BIN

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Rates of decay 1, 2, 3, ... in every channel, steps log-uniform in 0.001 to 0.1, as in the paper's
        code."""
        n_elements = self.log_rate.shape[1]
        self.log_rate.copy_(torch.arange(1, n_elements + 1, device=self.log_rate.device).log())
        draw_step_bias(self.dt_bias, generator)
        self.skip.fill_(1.0)


class StateNorm(nn.Module):
    """RMSNorm of what writes or reads a state, with a scale or without."""

    def __init__(self, width: int, eps: float, *, scaled: bool) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width)) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalized, and scaled, in float32."""
        return F.rms_norm(x.float(), (self.width,), self.weight, self.eps)

    def reset_parameters(self) -> None:
        """Scale 1."""
        if self.weight is not None:
            nn.init.ones_(self.weight)


def _norm(m: ModelConfig, mamba: MambaConfig, width: int) -> nn.Module:
    if mamba.mamba_norm == "none":
        return nn.Identity()
    eps = m.norm_eps if mamba.mamba_norm_eps is None else mamba.mamba_norm_eps
    return StateNorm(width, eps, scaled=mamba.mamba_norm == "scaled")


def selective_scan(
    x_BTI: Tensor, dt_BTI: Tensor, log_rate_IN: Tensor, b_BTN: Tensor, c_BTN: Tensor,
    memory_BIN: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What is read for every token, (B, T, I), and the memory after all of them; both in float32.

    With the step dt of a token the memory decays by exp(-dt * rate), and dt * x * b is added to it. The
    states of a chunk, N times as large as its inputs, are computed again in the backward pass. Source: Gu and
    Dao 2023, sections 3.2 and 3.3.
    """
    with torch.autocast(x_BTI.device.type, enabled=False):
        x_BTI, b_BTN, c_BTN = x_BTI.float(), b_BTN.float(), c_BTN.float()
        rate_IN = log_rate_IN.float().exp()
        if memory_BIN is None:
            memory_BIN = x_BTI.new_zeros(x_BTI.shape[0], *rate_IN.shape)
        outputs = []
        for chunk in zip(*(x.split(CHUNK, dim=1) for x in (x_BTI, dt_BTI, b_BTN, c_BTN)), strict=True):
            y, memory_BIN = checkpoint(
                _scan_chunk, *chunk, rate_IN, memory_BIN, use_reentrant=False, preserve_rng_state=False
            )
            outputs.append(y)
        return torch.cat(outputs, dim=1), memory_BIN


def _scan_chunk(
    x_BTI: Tensor, dt_BTI: Tensor, b_BTN: Tensor, c_BTN: Tensor, rate_IN: Tensor, memory_BIN: Tensor
) -> tuple[Tensor, Tensor]:
    """The same for the tokens of one chunk.

    First every block by itself, as if nothing had been before it, one token of all blocks after another; then
    the memory, from block to block; then what it adds to the states of a block.
    """
    n_tokens = x_BTI.shape[1]
    block = min(BLOCK, n_tokens)
    written = (dt_BTI * x_BTI).unsqueeze(-1) * b_BTN.unsqueeze(2)  # (B, T, I, N)
    written = in_blocks(written.flatten(2), block).unflatten(-1, rate_IN.shape)  # (B, M, C, I, N)
    passed = in_blocks(dt_BTI, block).cumsum(2)
    decay = (in_blocks(dt_BTI, block).unsqueeze(-1) * -rate_IN).exp()
    state = written[:, :, 0]
    states = [state]
    for i in range(1, block):
        state = torch.addcmul(written[:, :, i], decay[:, :, i], state)
        states.append(state)
    since_start = (passed.unsqueeze(-1) * -rate_IN).exp()
    before = []
    for i in range(state.shape[1]):
        before.append(memory_BIN)
        memory_BIN = torch.addcmul(state[:, i], since_start[:, i, -1], memory_BIN)
    whole = torch.addcmul(torch.stack(states, dim=2), since_start, torch.stack(before, dim=1).unsqueeze(2))
    c = in_blocks(c_BTN, block).unsqueeze(-1)  # (B, M, C, N, 1)
    return (whole @ c).squeeze(-1).flatten(1, 2)[:, :n_tokens], memory_BIN
