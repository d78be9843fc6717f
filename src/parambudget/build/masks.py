"""Which keys a query sees, and by how much nearer ones are preferred, where a causal flag does not say it.

T new tokens   S tokens so far, the new ones the last   H heads
"""

import math

import torch
from torch import Tensor

from parambudget.arch.config import ModelConfig


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
    if seen is None and m.position != "alibi" and not (written_out(m) and n_new > 1):
        return None
    if seen is None:
        seen = torch.ones(n_new, start + n_new, dtype=torch.bool, device=like.device).tril(start)
    if m.position == "alibi":
        raised = alibi(m.n_heads, n_new, start, like.device)
    else:
        raised = torch.zeros(seen.shape, device=like.device)
    return raised.masked_fill(~seen, -torch.inf).to(like.dtype)


def written_out(m: ModelConfig) -> bool:
    """Whether no kernel of torch's computes the scores, so that all of them are written down."""
    return m.attention_softcap is not None or m.attention_sinks


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
