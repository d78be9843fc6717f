"""State spaces with heads: for each token the state of a head decays, the token's input is written into it
along B, and it is read along C.

    B batch   T tokens   D dim   G groups of heads   R heads of a group   H = G * R   P width of a head
    N elements of a channel's state   M chunks   C tokens of a chunk
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.arch.config import ModelConfig
from parambudget.arch.mixers.config import Mamba2Config
from parambudget.nn.linear import Linear
from parambudget.nn.mixers import kernels
from parambudget.nn.mixers.mixer import (
    CausalConvolution,
    Mixer,
    MixerState,
    draw_step_bias,
    drawn_uniform,
    in_blocks,
)
from parambudget.nn.norms import cast_for_matmul

CHUNK: Final = 64
"""Tokens that are computed together; the state goes from chunk to chunk."""


class Mamba2(Mixer):
    """The mixer of Mamba-2. Source: Dao and Gu 2024, arXiv 2405.21060."""

    kernel = "chunk_scan"

    def __init__(self, m: ModelConfig, mamba: Mamba2Config) -> None:
        super().__init__()
        self.mamba = mamba
        n_heads, bias = mamba.mamba2_n_heads, mamba.mamba2_in_bias
        inner = n_heads * mamba.mamba2_head_dim
        states = mamba.mamba2_n_groups * mamba.mamba2_state_dim
        self.widths = (inner, states, states)
        self.gate, self.x = Linear(m.dim, inner, bias=bias), Linear(m.dim, inner, bias=bias)
        self.b, self.c = Linear(m.dim, states, bias=bias), Linear(m.dim, states, bias=bias)
        self.dt = Linear(m.dim, n_heads, bias=bias)
        self.conv = CausalConvolution(sum(self.widths), mamba.mamba2_conv_width, bias=mamba.mamba2_conv_bias)
        self.dt_bias = nn.Parameter(torch.zeros(n_heads))
        self.log_rate = nn.Parameter(torch.zeros(n_heads))
        self.skip = nn.Parameter(torch.ones(n_heads))
        self.out_norm = GroupedGate(mamba, inner, m.norm_eps)
        self.out = Linear(inner, m.dim, bias=mamba.mamba2_out_bias)

    def advance(self, x_BTD: Tensor, state: MixerState | None) -> tuple[Tensor, MixerState]:
        """The output for the next tokens, and the state after them."""
        mamba, (earlier, memory) = self.mamba, (None, None) if state is None else state
        gate, x, b, c, dt = (
            part(x_BTD) if factor == 1 else part(x_BTD) * factor
            for part, factor in zip(
                (self.gate, self.x, self.b, self.c, self.dt), mamba.mamba2_multipliers, strict=True
            )
        )
        joined = torch.cat((x, b, c), dim=-1)
        convolved, earlier = self.conv(joined, earlier)
        x, b, c = F.silu(convolved).split(self.widths, dim=-1)
        x_BTHP = x.unflatten(-1, (-1, mamba.mamba2_head_dim))
        b_BTGN, c_BTGN = (part.unflatten(-1, (-1, mamba.mamba2_state_dim)) for part in (b, c))
        dt_BTH = F.softplus(dt.float() + self.dt_bias)
        if mamba.mamba2_dt_min > 0 or mamba.mamba2_dt_max is not None:
            dt_BTH = dt_BTH.clamp(mamba.mamba2_dt_min, mamba.mamba2_dt_max)
        if state is None and kernels.is_usable(self.kernel, x_BTHP):
            a_H = -self.log_rate.float().exp()
            y_BTHP, memory_BHPN = kernels.call_kernel("chunk_scan", x_BTHP, dt_BTH, a_H, b_BTGN, c_BTGN)
            memory_BGRPN = memory_BHPN.unflatten(1, (mamba.mamba2_n_groups, -1))
            memory = memory_BGRPN.permute(0, 1, 4, 2, 3)
        else:
            y_BTHP, memory = state_space_scan(x_BTHP, dt_BTH, self.log_rate, b_BTGN, c_BTGN, memory)
        y_BTHP = y_BTHP + self.skip.unsqueeze(-1) * x_BTHP
        y_BTI = self.out_norm(y_BTHP.flatten(2), gate)
        return self.out(cast_for_matmul(y_BTI)), (earlier, memory)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Rates of decay uniform in 1 to 16, steps log-uniform in 0.001 to 0.1, as in the paper's code."""
        self.log_rate.copy_(drawn_uniform(self.log_rate, 1, 16, generator).log())
        draw_step_bias(self.dt_bias, generator)
        self.skip.fill_(1.0)


class GroupedGate(nn.Module):
    """The output times silu of a gate, with an RMSNorm over each group of heads before, after, or none."""

    def __init__(self, mamba: Mamba2Config, width: int, eps: float) -> None:
        super().__init__()
        self.norm, self.eps, self.n_groups = mamba.mamba2_norm, eps, mamba.mamba2_n_groups
        self.weight = None if self.norm == "none" else nn.Parameter(torch.ones(width))

    def forward(self, y_BTI: Tensor, gate_BTI: Tensor) -> Tensor:
        """Gated, normalized and scaled, in float32."""
        gate = F.silu(gate_BTI.to(y_BTI.dtype))
        if self.norm == "before_gate":
            return self._normalize(y_BTI) * gate
        return self._normalize(y_BTI * gate)

    def reset_parameters(self) -> None:
        """Scale 1."""
        if self.weight is not None:
            nn.init.ones_(self.weight)

    def _normalize(self, y_BTI: Tensor) -> Tensor:
        if self.weight is None:
            return y_BTI
        grouped = y_BTI.unflatten(-1, (self.n_groups, -1))
        return F.rms_norm(grouped, grouped.shape[-1:], eps=self.eps).flatten(-2) * self.weight


def state_space_scan(
    x_BTHP: Tensor, dt_BTH: Tensor, log_rate_H: Tensor, b_BTGN: Tensor, c_BTGN: Tensor,
    memory_BGNRP: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What is read for every token, (B, T, H, P), and the memory after all of them; both in float32.

    With the step dt of a token the memory decays by exp(-dt * rate), and dt * x is written into it. Within a
    chunk all pairs of tokens are computed at once; only the memory goes from one chunk to the next. Source:
    Dao and Gu 2024, section 6.
    """
    with torch.autocast(x_BTHP.device.type, enabled=False):
        n_tokens, n_groups, head_dim = x_BTHP.shape[1], b_BTGN.shape[2], x_BTHP.shape[3]
        chunk = min(CHUNK, n_tokens)
        decay = in_blocks(dt_BTH * -log_rate_H.float().exp(), chunk)
        written = in_blocks((x_BTHP.float() * dt_BTH.unsqueeze(-1)).flatten(2), chunk)
        b, c = (in_blocks(x.float().flatten(2), chunk) for x in (b_BTGN, c_BTGN))
        b, c = (x.unflatten(-1, (n_groups, -1)).transpose(2, 3) for x in (b, c))  # (B, M, G, C, N)
        passed = decay.unflatten(-1, (n_groups, -1)).permute(0, 1, 3, 4, 2).cumsum(-1)  # (B, M, G, R, C)
        written = written.unflatten(-1, (n_groups, -1, head_dim)).permute(0, 1, 3, 4, 2, 5)

        later = torch.ones(chunk, chunk, dtype=torch.bool, device=b.device).triu(1)
        between = (passed.unsqueeze(-1) - passed.unsqueeze(-2)).masked_fill(later, -torch.inf).exp()
        y = ((c @ b.transpose(-1, -2)).unsqueeze(3) * between) @ written  # (B, M, G, R, C, P)

        left = (passed[..., -1:] - passed).exp().unsqueeze(-1)
        added = b.transpose(-1, -2) @ (written * left).transpose(3, 4).flatten(4)  # (B, M, G, N, R * P)
        total = passed[..., -1].exp().repeat_interleave(head_dim, dim=-1).unsqueeze(-2)
        memory = added.new_zeros(added[:, 0].shape) if memory_BGNRP is None else memory_BGNRP.flatten(3)
        before = []
        for i in range(added.shape[1]):
            before.append(memory)
            memory = memory * total[:, i] + added[:, i]
        read = (c @ torch.stack(before, dim=1)).unflatten(-1, (-1, head_dim)).transpose(3, 4)
        y = y + read * passed.exp().unsqueeze(-1)
        y_BTHP = y.permute(0, 1, 4, 2, 3, 5).flatten(1, 2).flatten(2, 3)[:, :n_tokens]
    return y_BTHP, memory.unflatten(-1, (-1, head_dim))
