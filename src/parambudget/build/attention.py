"""Causal self-attention: each key/value head serves a group of query heads.

B batch   T tokens   S tokens so far   D dim   H query heads   G key/value heads   K head_dim
"""

import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.arch.config import ModelConfig
from parambudget.build.kernels import fused_attention
from parambudget.build.norms import qk_norm
from parambudget.build.rotary import Rotation, rotate

Kept = tuple[Tensor, Tensor]
"""What attention remembers of every token, (B, heads, T, width) each."""


class Attention(nn.Module):
    """Causal self-attention; each key/value head serves H / G query heads."""

    def __init__(self, m: ModelConfig) -> None:
        super().__init__()
        self.head_dim, self.scale, self.grouped = m.head_dim, m.attention_multiplier, m.kv_group > 1
        self.q = nn.Linear(m.dim, m.n_heads * m.head_dim, bias=m.qkv_bias)
        self.k = nn.Linear(m.dim, m.n_kv_heads * m.head_dim, bias=m.qkv_bias)
        self.v = nn.Linear(m.dim, m.n_kv_heads * m.head_dim, bias=m.qkv_bias)
        self.out = nn.Linear(m.n_heads * m.head_dim, m.dim, bias=m.attention_out_bias)
        self.norm_whole = m.qk_norm == "full"
        self.q_norm = qk_norm(m, m.n_heads)
        self.k_norm = qk_norm(m, m.n_kv_heads)

    def forward(self, x_BTD: Tensor, rotation: Rotation, mask: Tensor | None = None) -> Tensor:
        """What every token gathers from itself and the ones before it."""
        q_BHTK, kept = self.projected(x_BTD, rotation)
        return self.gathered(q_BHTK, kept, mask)

    def projected(self, x_BTD: Tensor, rotation: Rotation) -> tuple[Tensor, Kept]:
        """Queries, and keys and values, normed and turned."""
        v_BTGK = self.v(x_BTD).unflatten(-1, (-1, self.head_dim))
        q_BTHK = rotate(self._heads(self.q(x_BTD), self.q_norm), rotation).to(v_BTGK.dtype)
        k_BTGK = rotate(self._heads(self.k(x_BTD), self.k_norm), rotation).to(v_BTGK.dtype)
        return q_BTHK.transpose(1, 2), (k_BTGK.transpose(1, 2), v_BTGK.transpose(1, 2))

    def gathered(self, q_BHTK: Tensor, kept: Kept, mask: Tensor | None) -> Tensor:
        """What the queries find among the keys of all tokens so far."""
        y_BHTK = attend(q_BHTK, *kept, mask, scale=self.scale, grouped=self.grouped)
        return self.out(y_BHTK.transpose(1, 2).flatten(2))

    def _heads(self, flat: Tensor, norm: nn.Module) -> Tensor:
        if self.norm_whole:
            return norm(flat).unflatten(-1, (-1, self.head_dim))
        return norm(flat.unflatten(-1, (-1, self.head_dim)))


def attend(
    q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, mask: Tensor | None, *, scale: float | None, grouped: bool
) -> Tensor:
    """Values weighted by the scores. Without a mask a query sees every key up to its own, one query all."""
    with fused_attention(q_BHTK):
        return F.scaled_dot_product_attention(
            q_BHTK, k_BGSK, v_BGSK, mask,
            is_causal=mask is None and q_BHTK.shape[2] > 1, scale=scale, enable_gqa=grouped,
        )  # fmt: skip
