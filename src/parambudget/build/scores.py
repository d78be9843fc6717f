"""Scores of queries against keys, and the values weighted by them: by torch's kernels where they can, else
written out.

B batch   T queries   S keys   H query heads   G key/value heads   K width of queries and keys   V of values
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from parambudget.build.kernels import fused_attention


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

    The mask holds what a query sees (bool) or what its scores are raised by; without one it sees every key up
    to its own, and a single query all. A soft cap or sinks are in no kernel of torch's: then all T * S scores
    are written down.
    """
    group, written_out = scoring.group, scoring.softcap is not None or sinks_H is not None
    if mask is None and not written_out:
        with fused_attention(q_BHTK):
            return F.scaled_dot_product_attention(
                q_BHTK, k_BGSK, v_BGSV,
                is_causal=q_BHTK.shape[2] > 1, scale=scoring.scale, enable_gqa=group > 1,
            )  # fmt: skip
    # Of the kernels that take a mask not all take groups.
    k_BHSK, v_BHSV = (
        each.repeat_interleave(group, dim=1) if group > 1 else each for each in (k_BGSK, v_BGSV)
    )
    if written_out:
        return _weights(q_BHTK, k_BHSK, mask, scoring, sinks_H).to(v_BHSV.dtype) @ v_BHSV
    with fused_attention(q_BHTK):
        return F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSV, mask, scale=scoring.scale)


def _weights(
    q_BHTK: Tensor, k_BHSK: Tensor, mask: Tensor | None, scoring: Scoring, sinks_H: Tensor | None
) -> Tensor:
    """The softmax of the scores, in float32 or better."""
    scale = q_BHTK.shape[-1] ** -0.5 if scoring.scale is None else scoring.scale
    scores = q_BHTK @ k_BHSK.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
    if scoring.softcap is not None:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    if mask is None and q_BHTK.shape[2] > 1:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if sinks_H is None:
        return scores.softmax(-1)
    # A key of each head's own that takes its share of the weights and adds nothing to the sum.
    sinks = sinks_H.to(scores.dtype).view(-1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, sinks), dim=-1).softmax(-1)[..., :-1]
