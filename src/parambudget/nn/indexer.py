"""The indexer of sparse attention: for each query, the keys that attention is left with.

B batch   T tokens   S tokens so far   D dim   L latent of the queries   H index heads   K index_head_dim
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.arch.blocks import IndexerConfig
from parambudget.arch.config import ModelConfig
from parambudget.nn.rotary import RotaryAngles, Rotation, apply_rotary

_NORM_EPS: Final = 1e-6
"""Of the norm on its keys, in every model: `DeepseekV32Indexer` of transformers."""
_SCORES_AT_ONCE: Final = 2**26
"""Elements of the scores of all heads that are written out together, 256 MiB: a choice. Of a whole context
they would be as many as in eager attention."""


class Indexer(nn.Module):
    """Scores every key for every query, sum over heads of weight * relu(query * key), and keeps the best.

    No gradient passes through a choice, so none reaches its parameters, which are frozen: it stays as it is
    while the rest of the model is trained. Up to `index_top_k` tokens there is nothing to choose, and it is
    not run. Source: DeepSeek-AI 2025 (V3.2), arXiv 2512.02556, without its Hadamard transform and 8-bit
    floats.
    """

    def __init__(self, m: ModelConfig, indexer: IndexerConfig) -> None:
        super().__init__()
        n_heads, width = indexer.n_index_heads, indexer.index_head_dim
        latent = m.dim if m.mla is None or m.mla.q_lora_rank is None else m.mla.q_lora_rank
        self.top_k, self.interleaved = indexer.index_top_k, indexer.index_rotary_interleaved
        # Not those of `nn.linear`: a trainer's bfloat16 leaves wait for gradients.
        self.q = nn.Linear(latent, n_heads * width, bias=False)
        self.k = nn.Linear(m.dim, width, bias=False)
        self.k_norm = nn.LayerNorm(width, eps=_NORM_EPS)
        self.head_weights = nn.Linear(m.dim, n_heads, bias=False)
        self.scale = (width * n_heads) ** -0.5
        self.requires_grad_(False)

    def forward(
        self, x_BTD: Tensor, latent_BTL: Tensor, rotation: Rotation, mask: Tensor | None = None
    ) -> Tensor | None:
        """What is added to the attention scores, minus infinity for keys that are not chosen, (B, 1, T, S);
        the mask itself where none is left out."""
        if x_BTD.shape[1] <= self.top_k:
            return mask
        return self.choose(x_BTD, latent_BTL, rotation, mask, self.keys(x_BTD, rotation))

    @torch.no_grad()
    def keys(self, x_BTD: Tensor, rotation: Rotation) -> Tensor:
        """The key of every token, which all heads share, (B, T, K)."""
        return self._rotate(self.k_norm(self.k(x_BTD)).unsqueeze(2), rotation).squeeze(2)

    @torch.compiler.disable
    @torch.no_grad()
    def choose(
        self, x_BTD: Tensor, latent_BTL: Tensor, rotation: Rotation, mask: Tensor | None, k_BSK: Tensor
    ) -> Tensor | None:
        """The same with the keys of all tokens so far, those of `x` at the end."""
        n_new, n_keys = x_BTD.shape[1], k_BSK.shape[1]
        if n_keys <= self.top_k:
            return mask
        q_BTHK = self._rotate(self.q(latent_BTL).unflatten(-1, (-1, k_BSK.shape[-1])), rotation)
        weights_BTH = self.head_weights(x_BTD).float() * self.scale
        if mask is None:
            later = torch.ones(n_new, n_keys, dtype=torch.bool, device=x_BTD.device).triu(n_keys - n_new + 1)
            mask = torch.zeros(later.shape, dtype=x_BTD.dtype, device=x_BTD.device)
            mask = mask.masked_fill(later, -torch.inf)
        bias_B1TS = mask.expand(len(x_BTD), 1, n_new, n_keys).clone()
        n_rows = max(1, _SCORES_AT_ONCE // (weights_BTH.shape[0] * weights_BTH.shape[2] * n_keys))
        with torch.autocast(x_BTD.device.type, enabled=False):
            for first in range(0, n_new, n_rows):
                rows = slice(first, first + n_rows)
                scores = _index_scores(q_BTHK[:, rows], k_BSK, weights_BTH[:, rows])
                bias = bias_B1TS[:, 0, rows]
                bias.masked_fill_(~_best(scores + bias, self.top_k), -torch.inf)
        return bias_B1TS

    def _rotate(self, heads_BTHK: Tensor, rotation: Rotation) -> Tensor:
        if not isinstance(rotation, RotaryAngles):
            return heads_BTHK
        return apply_rotary(heads_BTHK, rotation._replace(interleaved=self.interleaved)).to(heads_BTHK.dtype)


def _index_scores(q_BTHK: Tensor, k_BSK: Tensor, weights_BTH: Tensor) -> Tensor:
    """The score of every pair, (B, T, S), in float32."""
    flat = q_BTHK.flatten(1, 2).float() @ k_BSK.float().transpose(1, 2)
    of_heads_BTHS = F.relu(flat).unflatten(1, q_BTHK.shape[1:3])
    return (weights_BTH.unsqueeze(2) @ of_heads_BTHS).squeeze(2)


def _best(scores: Tensor, k: int) -> Tensor:
    """True at the k highest of each row; of equal ones the first, whatever the length of the row."""
    least = scores.topk(k, dim=-1).values[..., -1:]
    above, equal = scores > least, scores == least
    return above | (equal & (equal.cumsum(-1) <= k - above.sum(-1, keepdim=True)))
