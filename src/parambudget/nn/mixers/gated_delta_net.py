"""Linear attention by the gated delta rule: for each token the state decays, what it holds for the key is
replaced by the value, as far as beta says, and it is read for the query.

    B batch   T tokens   D dim   G heads of keys   H heads of values   K width of a key   V width of a value
    N chunks   C tokens of a chunk   S subchunks   I tokens of a subchunk
"""

from collections.abc import Iterator, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from parambudget.arch.config import ModelConfig
from parambudget.arch.mixers.config import GatedDeltaNetConfig
from parambudget.nn.linear import Linear
from parambudget.nn.mixers import kernels
from parambudget.nn.mixers.mixer import (
    CausalConvolution,
    GatedNorm,
    Mixer,
    MixerState,
    draw_step_bias,
    drawn_uniform,
    in_chunks,
)
from parambudget.nn.norms import cast_for_matmul

_SUBCHUNK: Final = 8
"""Tokens of a chunk whose decays to each other are computed pair by pair where each channel has its own."""
_NORM_EPS: Final = 1e-6
"""Added to the squared length of queries and keys."""
_KERNEL_WIDTHS: Final = range(16, 257)
"""Widths of keys that flash-linear-attention takes; its products are of 16 channels and more."""


class GatedDeltaNet(Mixer):
    """The mixer of Qwen3-Next. Source: Yang et al. 2024, arXiv 2412.06464."""

    def __init__(self, m: ModelConfig, net: GatedDeltaNetConfig) -> None:
        super().__init__()
        self.net = net
        if net.delta_key_dim in _KERNEL_WIDTHS and net.delta_value_dim >= _KERNEL_WIDTHS.start:
            self.kernel = "kda" if net.delta_channel_decay else "gated_delta_rule"
        n_values = net.delta_n_value_heads
        keys, values = net.delta_n_key_heads * net.delta_key_dim, n_values * net.delta_value_dim
        self.widths = (keys, keys, values)
        self.q, self.k = Linear(m.dim, keys, bias=False), Linear(m.dim, keys, bias=False)
        self.v, self.beta = Linear(m.dim, values, bias=False), Linear(m.dim, n_values, bias=False)
        decays = n_values * (net.delta_key_dim if net.delta_channel_decay else 1)
        for name, width in (("gate", values), ("decay", decays)):
            rank = net.delta_gate_rank
            if rank is None:
                self.add_module(name, Linear(m.dim, width, bias=False))
            else:
                self.add_module(f"{name}_down", Linear(m.dim, rank, bias=False))
                self.add_module(f"{name}_up", Linear(rank, width, bias=False))
        self.conv = CausalConvolution(sum(self.widths), net.delta_conv_width)
        self.decay_bias = torch.nn.Parameter(torch.zeros(decays))
        self.log_rate = torch.nn.Parameter(torch.zeros(n_values))
        eps = m.norm_eps if net.delta_norm_eps is None else net.delta_norm_eps
        self.out_norm = GatedNorm(net.delta_value_dim, eps, net.delta_gate_activation)
        self.out = Linear(values, m.dim, bias=False)

    def advance(self, x_BTD: Tensor, state: MixerState | None) -> tuple[Tensor, MixerState]:
        """The output for the next tokens, and the state after them."""
        earlier, memory = (None, None) if state is None else state
        joined = torch.cat((self.q(x_BTD), self.k(x_BTD), self.v(x_BTD)), dim=-1)
        convolved, earlier = self.conv(joined, earlier)
        q, k, v = F.silu(convolved).split(self.widths, dim=-1)
        q, k = (x.unflatten(-1, (-1, self.net.delta_key_dim)) for x in (q, k))
        v_BTHV = v.unflatten(-1, (-1, self.net.delta_value_dim))
        beta_BTH = self.beta(x_BTD).float().sigmoid() * (2 if self.net.delta_negative_eigenvalues else 1)
        decay_BTHK = self._decays(x_BTD)
        if state is None and self.kernel is not None and kernels.is_usable(self.kernel, q):
            decay = decay_BTHK if self.net.delta_channel_decay else decay_BTHK.squeeze(-1)
            y_BTHV, memory = kernels.call_kernel(self.kernel, q, k, v_BTHV, decay, beta_BTH)
        else:
            y_BTHV, memory = gated_delta_rule(q, k, v_BTHV, decay_BTHK, beta_BTH, memory)
        gate_BTHV = self._project(x_BTD, "gate").unflatten(-1, (-1, self.net.delta_value_dim))
        y = cast_for_matmul(self.out_norm(y_BTHV, gate_BTHV)).flatten(2)
        return self.out(y), (earlier, memory)

    def _decays(self, x_BTD: Tensor) -> Tensor:
        """The logarithm of the factor on the memory, (B, T, H, K), or (B, T, H, 1) for whole heads."""
        rate_H1 = self.log_rate.float().exp()[:, None]
        steps = self._project(x_BTD, "decay").float() + self.decay_bias
        steps_BTHK = steps.unflatten(-1, (len(self.log_rate), -1))
        if self.net.delta_decay_bound is not None:
            return -self.net.delta_decay_bound * torch.sigmoid(rate_H1 * steps_BTHK)
        return -rate_H1 * F.softplus(steps_BTHK)

    def _project(self, x_BTD: Tensor, name: str) -> Tensor:
        """Projected to gates or decays, by one matrix or two."""
        if self.net.delta_gate_rank is None:
            projected: Tensor = self.get_submodule(name)(x_BTD)
        else:
            projected = self.get_submodule(f"{name}_up")(self.get_submodule(f"{name}_down")(x_BTD))
        return projected

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Rates of decay uniform in 1 to 16, steps log-uniform in 0.001 to 0.1, as in the paper's code."""
        self.log_rate.copy_(drawn_uniform(self.log_rate, 1, 16, generator).log())
        draw_step_bias(self.decay_bias, generator)


def gated_delta_rule(
    q_BTGK: Tensor, k_BTGK: Tensor, v_BTHV: Tensor, decay_BTHK: Tensor, beta_BTH: Tensor,
    memory_BHKV: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What is read for every query, (B, T, H, V), and the memory after all of them; both in float32.

    `decay_BTHK` is the logarithm of the factor on the memory, so at most 0; its last axis is 1 where all
    channels of a key decay alike. Queries and keys are normalized here, and each of their heads serves H / G
    heads of values. Within a chunk the corrections are the solution of a triangular system; only the memory
    goes from one chunk to the next. Source: Yang et al. 2024, section 3.3, and for channels Kimi Team 2025
    (Kimi Linear), arXiv 2510.26692, section 3.
    """
    with torch.autocast(q_BTGK.device.type, enabled=False):
        n_tokens, group = v_BTHV.shape[1], v_BTHV.shape[2] // q_BTGK.shape[2]
        q, k = (
            (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + _NORM_EPS)).repeat_interleave(group, dim=2)
            for x in (q_BTGK.float(), k_BTGK.float())
        )
        q, k, v = (in_chunks(x) for x in (q * q.shape[-1] ** -0.5, k, v_BTHV.float()))
        passed, beta = in_chunks(decay_BTHK).cumsum(-2), in_chunks(beta_BTH.unsqueeze(-1))
        products = _decayed_products if decay_BTHK.shape[-1] == 1 else _channel_decayed_products
        system, scores = products((beta * k, q), k, passed)
        # The system's diagonal is 1, and what stands above it is not read.
        values, reads = (
            torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
            for right in (beta * v, beta * k * passed.exp())
        )
        q, total = q * passed.exp(), passed[..., -1:, :]
        k = k * (total - passed).exp()
        if memory_BHKV is None:
            memory_BHKV = v.new_zeros(v.shape[0], v.shape[1], k.shape[-1], v.shape[-1])
        outputs = []
        for i in range(v.shape[2]):
            corrected = values[:, :, i] - reads[:, :, i] @ memory_BHKV
            outputs.append(q[:, :, i] @ memory_BHKV + scores[:, :, i] @ corrected)
            memory_BHKV = memory_BHKV * total[:, :, i].transpose(-1, -2).exp()
            memory_BHKV = memory_BHKV + k[:, :, i].transpose(-1, -2) @ corrected
        y_BHTV = torch.stack(outputs, dim=2).flatten(2, 3)[:, :, :n_tokens]
    return y_BHTV.transpose(1, 2), memory_BHKV


def _decayed_products(rows: Sequence[Tensor], k: Tensor, passed: Tensor) -> Iterator[Tensor]:
    """For each of the rows their products with the keys before them in their chunk, (B, H, N, C, C), which
    have decayed since; 0 for later keys. `passed` is the logarithm of the decay since the chunk began."""
    chunk = k.shape[-2]
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=k.device).triu(1)
    between = (passed - passed.transpose(-1, -2)).masked_fill(later, -torch.inf).exp()
    return ((x @ k.transpose(-1, -2)) * between for x in rows)


def _channel_decayed_products(rows: Sequence[Tensor], k: Tensor, passed: Tensor) -> Iterator[Tensor]:
    """The same where each channel decays by itself.

    The decay between two tokens is the product of two factors, one for each, that are measured from a token
    between them: neither overflows. That token is the one before the subchunk of the later token, so that
    only within a subchunk all pairs are computed one by one.
    """
    n_tokens = k.shape[-2]
    size = _SUBCHUNK if n_tokens % _SUBCHUNK == 0 else n_tokens
    k_sub, passed_sub = (x.unflatten(-2, (-1, size)) for x in (k, passed))  # (..., S, I, K)
    reference = F.pad(passed_sub[..., :-1, -1:, :], (0, 0, 0, 0, 1, 0))  # (..., S, 1, K)
    steps = torch.arange(n_tokens, device=k.device)
    starts = steps[::size, None, None]
    since = (reference - passed.unsqueeze(-3)).masked_fill(steps[:, None] >= starts, -torch.inf)
    before = (k.unsqueeze(-3) * since.exp()).transpose(-1, -2)  # (..., S, K, C)
    later = torch.ones(size, size, dtype=torch.bool, device=k.device).triu(1).unsqueeze(-1)
    between = (passed_sub.unsqueeze(-2) - passed_sub.unsqueeze(-3)).masked_fill(later, -torch.inf)
    near = between.exp() * k_sub.unsqueeze(-3)  # (..., S, I, I, K)
    is_near = torch.block_diag(*torch.ones(n_tokens // size, size, size, device=k.device))
    for x in rows:
        x_sub = x.unflatten(-2, (-1, size))
        far = ((x_sub * (passed_sub - reference).exp()) @ before).flatten(-3, -2)
        pairs = (near @ x_sub.unsqueeze(-1)).squeeze(-1)  # (..., S, I, I)
        yield far + pairs.flatten(-3, -2).repeat(*[1] * (far.dim() - 1), n_tokens // size) * is_near
