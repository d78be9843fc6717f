"""Scores of queries against keys, and the values weighted by them: by torch's kernels where they can, else
written out.

B batch   T queries   S keys   H query heads   G key/value heads   K width of queries and keys   V of values
"""

from dataclasses import dataclass
from typing import Any

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
