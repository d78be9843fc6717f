"""Log-likelihoods of tokens, many sequences at a time.

B sequences   T tokens   N predicted tokens of all sequences   D dim   V vocabulary
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from parambudget.errors import InputError
from parambudget.text.tokenizer import TokenIds
from parambudget.training.generate import LoadedModel
from parambudget.training.loss import head_multiple

_BATCH_TOKENS: Final = {"cuda": 32_768}
"""Tokens of a batch with its padding, by kind of device."""
_OTHER_BATCH_TOKENS: Final = 2_048
_LOGIT_ROWS: Final = 2_048
"""Rows of logits at a time: they are the largest tensor by far."""


@dataclass(frozen=True, eq=False)
class ScoredTokens:
    """Tokens of which the last ones are predicted, each from all that stand before it."""

    tokens: TokenIds
    n_scored: int


def log_likelihoods(
    loaded: LoadedModel, n_sequences: int, length_of: Callable[[int], int],
    sequence: Callable[[int], ScoredTokens], on_done: Callable[[int], None] = lambda _: None,
) -> list[float]:  # fmt: skip
    """The sum of the log-likelihoods of each sequence's scored tokens, in nats.

    Sequences are read when their batch is computed; `length_of` is the tokens of one. Those of about the same
    length stand in one batch, padded on the right, where nothing that counts can see it. The batches depend
    on the lengths alone, so the same input gives the same result. `on_done` gets how many are done.
    """
    results = [0.0] * n_sequences
    order = sorted(range(n_sequences), key=lambda i: -length_of(i))
    most_tokens, n_done = _BATCH_TOKENS.get(loaded.compute.device.type, _OTHER_BATCH_TOKENS), 0
    for batch in _batches(order, length_of, most_tokens):
        sums = _score_batch(loaded, [sequence(i) for i in batch])
        for i, value in zip(batch, sums, strict=True):
            results[i] = value
        n_done += len(batch)
        on_done(n_done)
    if not all(map(math.isfinite, results)):
        raise InputError(
            "the model computes logits that are not finite: its training had diverged; use an earlier "
            "checkpoint"
        )
    return results


def _batches(order: Sequence[int], length_of: Callable[[int], int], most_tokens: int) -> Iterator[list[int]]:
    """The sequences in lists whose first, the longest, gives all of them a width that fits."""
    batch: list[int] = []
    for i in order:
        if batch and length_of(batch[0]) * (len(batch) + 1) > most_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@torch.inference_mode()
def _score_batch(loaded: LoadedModel, sequences: Sequence[ScoredTokens]) -> list[float]:
    width = max(len(each.tokens) for each in sequences)
    tokens = np.zeros((len(sequences), width), np.int64)
    scored = np.zeros((len(sequences), width - 1), bool)
    for row, each in enumerate(sequences):
        n = len(each.tokens)
        tokens[row, :n] = each.tokens
        scored[row, n - 1 - each.n_scored : n - 1] = True
    device = loaded.compute.device
    tokens_BT, scored_BT = torch.from_numpy(tokens).to(device), torch.from_numpy(scored).to(device)
    try:
        with loaded.compute.autocast():
            x_ND = loaded.module.hidden_states(tokens_BT[:, :-1])[scored_BT]
            found_N = torch.cat([
                _log_likelihood(loaded, *chunk)
                for chunk in zip(
                    x_ND.split(_LOGIT_ROWS), tokens_BT[:, 1:][scored_BT].split(_LOGIT_ROWS), strict=True
                )
            ])  # fmt: skip
    except torch.OutOfMemoryError:
        raise InputError(
            f"a batch of {len(sequences)} x {width} tokens does not fit in the memory of the GPU beside what "
            "is there; free some, or use `device=cpu`"
        ) from None
    # Summed by row, not by index_add: on a GPU that adds in any order.
    sums_BT = torch.zeros(scored_BT.shape, device=device)
    sums_BT[scored_BT] = found_N
    return [float(value) for value in sums_BT.sum(1).tolist()]


def _log_likelihood(loaded: LoadedModel, x_ND: Tensor, targets_N: Tensor) -> Tensor:
    logits_NV = loaded.module.logits(x_ND, multiple=head_multiple(loaded.compute)).float()
    return -F.cross_entropy(logits_NV, targets_N, reduction="none")
