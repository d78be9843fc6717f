"""Which keys a query sees, where that is not simply every key up to its own.

T new tokens   S tokens so far, the new ones the last
"""

import torch
from torch import Tensor


def causal_mask(n_new: int, start: int, device: torch.device) -> Tensor | None:
    """True where a query sees a key, (T, S); none where attention needs no telling: at the start of a
    sequence, and for one query, which sees all."""
    if start == 0 or n_new == 1:
        return None
    return torch.ones(n_new, start + n_new, dtype=torch.bool, device=device).tril(start)
