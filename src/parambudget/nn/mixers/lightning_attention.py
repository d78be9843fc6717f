"""Linear attention whose state decays by a constant: each head and layer has its own.

B batch   T tokens   D dim   H heads   K width of a head   N chunks   C tokens of a chunk
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from parambudget.arch.config import ModelConfig
from parambudget.arch.mixers.config import LightningAttentionConfig
from parambudget.nn.linear import Linear
from parambudget.nn.mixers import kernels
from parambudget.nn.mixers.mixer import GatedNorm, Mixer, MixerState, in_chunks
from parambudget.nn.norms import cast_for_matmul

_SMALL: Final = 1e-5
"""Keeps the decay of the last layer from nothing, and the depth of an only one defined: as in MiniMax."""
_KERNEL_WIDTH: Final = 16
"""Least width of a head in the products of flash-linear-attention."""


class LightningAttention(Mixer):
    """The mixer of MiniMax-01. Source: Qin et al. 2024, arXiv 2401.04658."""

    def __init__(self, m: ModelConfig, attention: LightningAttentionConfig, layer: int) -> None:
        super().__init__()
        self.n_heads, self.depth = attention.lightning_n_heads, layer / (m.n_layers - 1 + _SMALL)
        if attention.lightning_head_dim >= _KERNEL_WIDTH:
            self.kernel = "simple_gla"
        width = self.n_heads * attention.lightning_head_dim
        self.q, self.k, self.v, self.gate = (Linear(m.dim, width, bias=False) for _ in range(4))
        eps = m.norm_eps if attention.lightning_norm_eps is None else attention.lightning_norm_eps
        self.out_norm = GatedNorm(width, eps, "sigmoid")
        self.out = Linear(width, m.dim, bias=False)

    def advance(self, x_BTD: Tensor, state: MixerState | None) -> tuple[Tensor, MixerState]:
        """The output for the next tokens, and the state after them."""
        q, k, v = (
            F.silu(x).unflatten(-1, (self.n_heads, -1)) for x in (self.q(x_BTD), self.k(x_BTD), self.v(x_BTD))
        )
        decay_H = self.decays(x_BTD.device)
        if state is None and kernels.is_usable(self.kernel, q):
            y_BTHK, memory = kernels.call_kernel("simple_gla", q, k, v, decay_H.float())
        else:
            earlier = None if state is None else state[0]
            y_BTHK, memory = decaying_attention(q, k, v, decay_H, earlier)
        return self.out(cast_for_matmul(self.out_norm(y_BTHK.flatten(2), self.gate(x_BTD)))), (memory,)

    def decays(self, device: torch.device) -> Tensor:
        """The logarithm of the factor on the state per token, (H,): the slopes of ALiBi, the slower the
        later the layer."""
        heads = torch.arange(1, self.n_heads + 1, device=device)
        return -(2.0 ** (-8 / self.n_heads * heads)) * (1 - self.depth + _SMALL)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """It has nothing but matrices and a norm."""


def decaying_attention(
    q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, decay_H: Tensor, memory_BHKV: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What is read for every query, (B, T, H, V), and the memory after all tokens; both in float32.

    For each token the memory decays, the value is added to it under the key, and it is read for the query.
    `decay_H` is the logarithm of the factor on the memory, so at most 0.
    """
    with torch.autocast(q_BTHK.device.type, enabled=False):
        n_tokens = q_BTHK.shape[1]
        q, k, v = (in_chunks(x.float()) for x in (q_BTHK, k_BTHK, v_BTHK))
        chunk = q.shape[-2]
        steps = torch.arange(chunk, device=q.device)
        distance = steps[:, None] - steps
        decay = decay_H.float()[:, None, None, None]
        between = (decay * distance).masked_fill(distance < 0, -torch.inf).exp()
        scores = (q @ k.transpose(-1, -2)) * between
        within, q = scores @ v, q * (decay * (steps[:, None] + 1)).exp()
        # Of the last chunk only the tokens that there are let the memory decay.
        sizes = [chunk] * (q.shape[2] - 1) + [n_tokens - chunk * (q.shape[2] - 1)]
        if memory_BHKV is None:
            memory_BHKV = v.new_zeros(v.shape[0], v.shape[1], k.shape[-1], v.shape[-1])
        outputs = []
        for i, size in enumerate(sizes):
            outputs.append(within[:, :, i] + q[:, :, i] @ memory_BHKV)
            kept = k[:, :, i] * (decay[:, 0] * (size - 1 - steps[:, None]).clamp(min=0)).exp()
            memory_BHKV = memory_BHKV * (decay[:, 0] * size).exp() + kept.transpose(-1, -2) @ v[:, :, i]
        y_BHTV = torch.stack(outputs, dim=2).flatten(2, 3)[:, :, :n_tokens]
    return y_BHTV.transpose(1, 2), memory_BHKV
