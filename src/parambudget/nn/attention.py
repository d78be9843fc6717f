"""Causal self-attention: each key/value head serves a group of query heads.

B batch   T tokens   S tokens so far   D dim   H query heads   G key/value heads   K head_dim
"""

import torch
from torch import Tensor, nn

from parambudget.arch.config import ModelConfig
from parambudget.build.scores import Scoring, attend
from parambudget.nn.norms import qk_norm
from parambudget.nn.rotary import Rotation, rotate

Kept = tuple[Tensor, Tensor]
"""What attention remembers of every token, (B, heads, T, width) each."""


class Attention(nn.Module):
    """Causal self-attention; each key/value head serves H / G query heads."""

    def __init__(self, m: ModelConfig) -> None:
        super().__init__()
        self.head_dim, self.clip = m.head_dim, m.qkv_clip
        self.q = nn.Linear(m.dim, m.n_heads * m.head_dim, bias=m.qkv_bias)
        self.k = nn.Linear(m.dim, m.n_kv_heads * m.head_dim, bias=m.qkv_bias)
        self.v = nn.Linear(m.dim, m.n_kv_heads * m.head_dim, bias=m.qkv_bias)
        self.out = nn.Linear(m.n_heads * m.head_dim, m.dim, bias=m.attention_out_bias)
        self.norm_whole = m.qk_norm == "full"
        self.q_norm = qk_norm(m, m.n_heads)
        self.k_norm = qk_norm(m, m.n_kv_heads)
        self.sinks = nn.Parameter(torch.zeros(m.n_heads)) if m.attention_sinks else None
        self.scoring = Scoring(m.attention_multiplier, m.kv_group, m.attention_softcap)

    def forward(self, x_BTD: Tensor, rotation: Rotation, mask: Tensor | None = None) -> Tensor:
        """What every token gathers from itself and the ones before it."""
        q_BHTK, kept = self.projected(x_BTD, rotation)
        return self.gathered(q_BHTK, kept, mask)

    def projected(self, x_BTD: Tensor, rotation: Rotation) -> tuple[Tensor, Kept]:
        """Queries, and keys and values, normed and turned."""
        v_BTGK = self._clipped(self.v(x_BTD)).unflatten(-1, (-1, self.head_dim))
        q_BTHK = rotate(self._heads(self._clipped(self.q(x_BTD)), self.q_norm), rotation).to(v_BTGK.dtype)
        k_BTGK = rotate(self._heads(self._clipped(self.k(x_BTD)), self.k_norm), rotation).to(v_BTGK.dtype)
        return q_BTHK.transpose(1, 2), (k_BTGK.transpose(1, 2), v_BTGK.transpose(1, 2))

    def gathered(self, q_BHTK: Tensor, kept: Kept, mask: Tensor | None) -> Tensor:
        """What the queries find among the keys of all tokens so far."""
        y_BHTK = attend(q_BHTK, *kept, mask, self.scoring, self.sinks)
        return self.out(y_BHTK.transpose(1, 2).flatten(2))

    def _heads(self, flat: Tensor, norm: nn.Module) -> Tensor:
        if self.norm_whole:
            return norm(flat).unflatten(-1, (-1, self.head_dim))
        return norm(flat.unflatten(-1, (-1, self.head_dim)))

    def _clipped(self, flat: Tensor) -> Tensor:
        return flat if self.clip is None else flat.clamp(-self.clip, self.clip)
