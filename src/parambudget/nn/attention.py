"""Causal self-attention: each key/value head serves a group of query heads.

B batch   T tokens   S tokens so far   D dim   H query heads   G key/value heads   K head_dim
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, activate_flash_attention_impl, sdpa_kernel

from parambudget.arch.blocks import MLAConfig
from parambudget.arch.config import ModelConfig
from parambudget.arch.layers import uses_eager_attention
from parambudget.nn.norms import Norm, for_matmul, qk_norm
from parambudget.nn.rotary import Rotation, rotate


def mask_for(m: ModelConfig, n_new: int, start: int, *, local: bool, like: Tensor) -> Tensor | None:
    """What the scores of layers that have the window, or of those that have not, are raised by: minus
    infinity where a query does not see a key. On the device and with the dtype of `like`.

    None where the causal flag of a kernel says it, and for one query that sees all. Keys that no window
    reaches any more are not among its columns. A sum, not a choice: torch's kernels would make one of it
    again in every layer, and keep each.
    """
    window = m.window if local else None
    if window is not None:
        start = min(start, window - 1)
    seen = visible(n_new, start, window, like.device)
    if seen is None and m.position != "alibi" and not (uses_eager_attention(m) and n_new > 1):
        return None
    if seen is None:
        seen = torch.ones(n_new, start + n_new, dtype=torch.bool, device=like.device).tril(start)
    if m.position == "alibi":
        raised = alibi(m.n_heads, n_new, start, like.device)
    else:
        raised = torch.zeros(seen.shape, device=like.device)
    return raised.masked_fill(~seen, -torch.inf).to(like.dtype)


def visible(n_new: int, start: int, window: int | None, device: torch.device) -> Tensor | None:
    """True where a query sees a key, (T, S); none where attention needs no telling: at the start of a
    sequence, and for one query, which sees all."""
    narrow = window is not None and window < start + n_new
    if not narrow and (start == 0 or n_new == 1):
        return None
    seen = torch.ones(n_new, start + n_new, dtype=torch.bool, device=device).tril(start)
    return seen.triu(start - window + 1) if window is not None and narrow else seen


def alibi(n_heads: int, n_new: int, start: int, device: torch.device) -> Tensor:
    """The bias on the scores, (1, H, T, S): minus the distance to the key, times the slope of the head.

    Slopes are 2**(-8 i / n) for i = 1..n where n is a power of 2; for other numbers of heads those of the
    next lower power, then every other one of twice that. Source: Press et al. 2022, arXiv 2108.12409, section
    3, and the code published with it.
    """
    power = 2 ** math.floor(math.log2(n_heads))
    exponents = [i / power for i in range(1, power + 1)]
    exponents += [i / (2 * power) for i in range(1, 2 * (n_heads - power), 2)]
    slopes_H = torch.tensor([2 ** (-8 * exponent) for exponent in exponents], device=device)
    positions = torch.arange(start + n_new, device=device)
    return slopes_H.view(1, -1, 1, 1) * (positions - positions[start:].unsqueeze(1))


NO_KERNEL: Final = ("No available kernel", "No viable backend for scaled_dot_product_attention")
"""What torch says, on CUDA and elsewhere, where none of the allowed kernels can compute."""
_HALF: Final = (torch.bfloat16, torch.float16)
_HOPPER: Final = (9, 0)


def fused_attention(query: Tensor) -> AbstractContextManager[None]:
    """Around a call of scaled_dot_product_attention: the kernels it may choose from, the best first."""
    kernels = kernels_for(query.device.type, query.dtype)
    return sdpa_kernel(kernels, set_priority=True) if kernels else nullcontext()


def kernels_for(device_type: str, dtype: torch.dtype) -> list[SDPBackend]:
    """The allowed kernels, the preferred first; empty where torch chooses alone.

    On the CPU it has one fused kernel; in float32 a GPU has none for grouped heads.
    """
    if device_type != "cuda" or dtype not in _HALF:
        return []
    fused = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
    return [*(reversed(fused) if _flash_3_is_active() else fused), SDPBackend.EFFICIENT_ATTENTION]


def prefer_flash_3(device: torch.device) -> bool:
    """Let torch call FlashAttention 3 on a Hopper GPU where its package, flash_attn_interface, is there."""
    if _flash_3_is_active():
        return True
    if find_spec("flash_attn_interface") is None or torch.cuda.get_device_capability(device) != _HOPPER:
        return False
    activate_flash_attention_impl("FA3")
    return True


def _flash_3_is_active() -> bool:
    return torch.nn.attention.current_flash_attention_impl() == "FA3"


@dataclass(frozen=True)
class Scoring:
    """How scores come about, the same at every call."""

    scale: float | None
    """Of the scores; 1 / sqrt(K) when absent."""
    group: int
    """Query heads per key/value head."""
    softcap: float | None


def attend(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSV: Tensor,
    mask: Tensor | None,
    scoring: Scoring,
    sinks_H: Tensor | None,
) -> Tensor:
    """The weighted values, (B, H, T, V).

    The mask holds what scores are raised by; without one a query sees every key up to its own, and a single
    query all. A soft cap or sinks are in no kernel of torch's: then all T * S scores are written down.
    """
    group, written_out = scoring.group, scoring.softcap is not None or sinks_H is not None
    if mask is None and not written_out:
        with_mask = {"is_causal": q_BHTK.shape[2] > 1, "enable_gqa": group > 1}
        return _by_kernel(q_BHTK, k_BGSK, v_BGSV, scoring, **with_mask)
    # Of the kernels that take a mask not all take groups.
    k_BHSK, v_BHSV = (
        each.repeat_interleave(group, dim=1) if group > 1 else each for each in (k_BGSK, v_BGSV)
    )
    if written_out:
        return _weights(q_BHTK, k_BHSK, mask, scoring, sinks_H).to(v_BHSV.dtype) @ v_BHSV
    return _by_kernel(q_BHTK, k_BHSK, v_BHSV, scoring, attn_mask=mask)


def _by_kernel(q_BHTK: Tensor, k: Tensor, v: Tensor, scoring: Scoring, **how: Any) -> Tensor:
    """By one of torch's kernels that write no scores down.

    Most of them want heads of one width: the narrower ones end in zeros, which add nothing to a score, and
    nothing to a value that is not cut off again.
    """
    n_values, scale = v.shape[-1], _scale(q_BHTK, scoring)
    width = max(q_BHTK.shape[-1], n_values)
    q_BHTK, k, v = (_widened(each, width) for each in (q_BHTK, k, v))
    with fused_attention(q_BHTK):
        y = F.scaled_dot_product_attention(q_BHTK, k, v, scale=scale, **how)
    if width == n_values:
        return y
    # Cut with the tokens first: so the gradient lies as the kernel wants it, and need not be copied.
    return y.transpose(1, 2)[..., :n_values].transpose(1, 2)


def _widened(x: Tensor, width: int) -> Tensor:
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))


def _scale(q_BHTK: Tensor, scoring: Scoring) -> float:
    return q_BHTK.shape[-1] ** -0.5 if scoring.scale is None else scoring.scale


def _weights(
    q_BHTK: Tensor, k_BHSK: Tensor, mask: Tensor | None, scoring: Scoring, sinks_H: Tensor | None
) -> Tensor:
    """The softmax of the scores, in float32 or better."""
    scores = q_BHTK @ k_BHSK.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * _scale(q_BHTK, scoring)
    if scoring.softcap is not None:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    if mask is not None:
        scores = scores + mask
    if sinks_H is None:
        return scores.softmax(-1)
    # A key of each head's own that takes its share of the weights and adds nothing to the sum.
    sinks = sinks_H.to(scores.dtype).view(-1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, sinks), dim=-1).softmax(-1)[..., :-1]


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


class LatentAttention(nn.Module):
    """Attention that remembers a latent and one rotated key per token, not the keys and values of heads."""

    def __init__(self, m: ModelConfig, mla: MLAConfig) -> None:
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
