"""Validation loss, in nats per token and in bits per byte, over the same windows every time."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parambudget.text.token_cache import TokenData
from parambudget.training.device import Compute
from parambudget.training.distributed import ALONE, Ranks


@dataclass(frozen=True)
class Validation:
    """The loss over the held-out text."""

    loss: float
    """Mean nats per token."""
    bits_per_byte: float
    """Bits needed per byte of text, the ends of documents included in the cost and not in the bytes."""


def validation_windows(data: TokenData, context_length: int, most_tokens: int) -> np.ndarray[Any, Any]:
    """Windows (n, context_length + 1) spread over the held-out text: at most `most_tokens` targets, or one.

    From eight on they are a multiple of eight, so that batches can have one size.
    """
    fitting = (len(data.validation) - 1) // context_length
    n = min(fitting, max(1, most_tokens // context_length))
    n -= n % 8 if n >= 8 else 0
    starts = np.arange(n) * fitting // n * context_length
    return np.asarray(data.validation[starts[:, None] + np.arange(context_length + 1)], np.int64)


def evaluate(
    loss_of: Callable[[Tensor], Tensor],
    windows: np.ndarray[Any, Any],
    data: TokenData,
    batch_size: int,
    compute: Compute,
    ranks: Ranks = ALONE,
) -> Validation:
    """The mean loss of the windows under a model, in batches of one size; read from the device once.

    Several processes share the windows out if that can be done evenly.
    """
    own = windows[ranks.rank :: ranks.size] if len(windows) % ranks.size == 0 else windows
    n_together = max(n for n in range(1, min(batch_size, len(own)) + 1) if len(own) % n == 0)
    means = []
    with torch.no_grad(), compute.autocast():
        for first in range(0, len(own), n_together):
            batch = torch.from_numpy(own[first : first + n_together]).to(compute.device)
            means.append(ranks.mean(loss_of(batch)))
    targets = windows[:, 1:]
    nats = sum(torch.stack(means).tolist()) * n_together * targets.shape[1] * (len(windows) // len(own))
    return Validation(
        nats / targets.size, nats / math.log(2) / max(1, int(data.bytes_of_token[targets].sum()))
    )
