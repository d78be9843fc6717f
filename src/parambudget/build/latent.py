"""Multi-head latent attention: keys and values of all heads grow from one small vector per token.

Source: DeepSeek-AI 2024 (DeepSeek-V2), arXiv 2405.04434, section 2.1.

B batch   T tokens   S tokens so far   D dim   H heads   K width of queries and keys   V width of values
L width of the latent   R rotated width
"""

import torch
from torch import Tensor, nn

from parambudget.arch.config import MLA, ModelConfig
from parambudget.build.scores import Scoring, attend
from parambudget.nn.attention import Kept
from parambudget.nn.norms import Norm, for_matmul
from parambudget.nn.rotary import Rotation, rotate


class LatentAttention(nn.Module):
    """Attention that remembers a latent and one rotated key per token, not the keys and values of heads."""

    def __init__(self, m: ModelConfig, mla: MLA) -> None:
        super().__init__()
        self.mla = mla
        self.query_parts = (mla.qk_nope_head_dim, mla.qk_rope_head_dim)
        self.grown_parts = (mla.qk_nope_head_dim, mla.v_head_dim)
        queries = m.n_heads * sum(self.query_parts)
        self.compressed = mla.q_lora_rank is not None
        if mla.q_lora_rank is None:
            self.q = nn.Linear(m.dim, queries, bias=False)
        else:
            self.q_down = nn.Linear(m.dim, mla.q_lora_rank, bias=m.qkv_bias)
            self.q_latent_norm = Norm(m, mla.q_lora_rank)
            self.q_up = nn.Linear(mla.q_lora_rank, queries, bias=False)
        self.kv_down = nn.Linear(m.dim, mla.kv_lora_rank + mla.qk_rope_head_dim, bias=m.qkv_bias)
        self.kv_latent_norm = Norm(m, mla.kv_lora_rank)
        self.kv_up = nn.Linear(mla.kv_lora_rank, m.n_heads * sum(self.grown_parts), bias=False)
        self.out = nn.Linear(m.n_heads * mla.v_head_dim, m.dim, bias=m.attention_out_bias)
        self.sinks = nn.Parameter(torch.zeros(m.n_heads)) if m.attention_sinks else None
        self.scoring = Scoring(m.attention_multiplier, 1, m.attention_softcap)

    def forward(self, x_BTD: Tensor, rotation: Rotation, mask: Tensor | None = None) -> Tensor:
        """What every token gathers from itself and the ones before it."""
        q_BHTK, kept = self.projected(x_BTD, rotation)
        return self.gathered(q_BHTK, kept, mask)

    def projected(self, x_BTD: Tensor, rotation: Rotation) -> tuple[Tensor, Kept]:
        """Queries, and what is remembered: the latents, and the rotated part of the keys."""
        down_BTL = self.kv_down(x_BTD)
        latent_BTL, key_BTR = down_BTL.split((self.mla.kv_lora_rank, self.mla.qk_rope_head_dim), dim=-1)
        key_BT1R = rotate(key_BTR.unsqueeze(2), rotation).to(down_BTL.dtype)
        latent_BTL = for_matmul(self.kv_latent_norm(latent_BTL))
        still, turned = self._queries(x_BTD).split(self.query_parts, dim=-1)
        q_BTHK = torch.cat((still, rotate(turned, rotation).to(still.dtype)), dim=-1)
        return q_BTHK.transpose(1, 2), (latent_BTL.unsqueeze(1), key_BT1R.transpose(1, 2))

    def gathered(self, q_BHTK: Tensor, kept: Kept, mask: Tensor | None) -> Tensor:
        """What the queries find among the keys that grow from the latents."""
        latent_B1SL, key_B1SR = kept
        grown = self.kv_up(latent_B1SL.squeeze(1)).unflatten(-1, (-1, sum(self.grown_parts)))
        still, v_BHSV = grown.transpose(1, 2).split(self.grown_parts, dim=-1)
        k_BHSK = torch.cat((still, key_B1SR.expand(-1, still.shape[1], -1, -1)), dim=-1)
        y_BHTV = attend(q_BHTK, k_BHSK, v_BHSV, mask, self.scoring, self.sinks)
        return self.out(y_BHTV.transpose(1, 2).flatten(2))

    def _queries(self, x_BTD: Tensor) -> Tensor:
        if self.compressed:
            flat = self.q_up(for_matmul(self.q_latent_norm(self.q_down(x_BTD))))
        else:
            flat = self.q(x_BTD)
        return flat.unflatten(-1, (-1, sum(self.query_parts)))
