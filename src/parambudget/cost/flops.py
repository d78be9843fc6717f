"""How much arithmetic: the matmul rows of the table, and attention scores, which have no parameter.

Model FLOPs leave out what is not a matmul (norms, softmax, lookups), count 2 per multiply-add, and the
backward pass as twice the forward one. Two conventions for the scores of s tokens in one head:

    full      s * s, no discount for the causal mask: the attention term of Chowdhery et al. 2022 (PaLM),
              appendix B, and what a math attention computes; with a window w, s * min(s, w)
    causal    s * (s + 1) / 2, those that are not masked; with a window, s * w - w * (w - 1) / 2
"""

from fractions import Fraction
from typing import Final, Literal

import numpy as np

from parambudget.arch.dims import Dims, Size
from parambudget.arch.layers import attention_kinds
from parambudget.arch.tensors import Tensor, tensors

Convention = Literal["full", "causal"]
TRAINING: Final = 3
"""Forward passes that a forward and a backward pass are worth."""
RECOMPUTED: Final = 4
"""The same where the forward pass is run again for the backward one."""


def matmul_parameters(m: Dims) -> Size:
    """Elements of every matrix a token is multiplied with: of experts those of the chosen; the output head
    too, tied or not; the embedding lookup not."""
    return sum(row.active_elements for row in tensors(m) if row.role == "matmul")


def head_parameters(m: Dims) -> Size:
    """Elements of the output head's matrix, tied or not."""
    return sum(row.elements for row in tensors(m) if row.role == "matmul" and row.component == "lm_head")


def scores(n_tokens: int, window: int | None, convention: Convention) -> int:
    """Pairs of query and key that one head of one sequence scores."""
    seen: int = _seen(n_tokens, window)
    return n_tokens * seen if convention == "full" else n_tokens * seen - seen * (seen - 1) // 2


def sequence_flops(m: Dims, convention: Convention = "full", *, n_tokens: int | None = None) -> int:
    """Forward FLOPs of one sequence, of full context unless `n_tokens` says otherwise: an exact int."""
    length = n_tokens or m.context_length
    attention = sum(
        2 * row.score_width * scores(length, row.window, convention) for row in attention_kinds(m)
    )
    return int(2 * matmul_parameters(m) * length + attention)


def flops_per_token(m: Dims, convention: Convention = "full") -> Size:
    """FLOPs to train on one token, forward and backward, averaged over one sequence of full context.

    Exact, but for the causal convention with a window, where the mean may be no whole number.
    """
    return TRAINING * 2 * matmul_parameters(m) + attention_flops_per_token(m, convention)


def attention_flops_per_token(m: Dims, convention: Convention = "full", *, passes: int = TRAINING) -> Size:
    """The part of the scores and the weighted values in `flops_per_token`."""
    if convention == "full":
        return sum(
            passes * 2 * row.score_width * _seen(m.context_length, row.window) for row in attention_kinds(m)
        )
    length = int(m.context_length)
    return sum(
        _exactly(passes * 2 * row.score_width, Fraction(scores(length, row.window, convention), length))
        for row in attention_kinds(m)
    )


def training_flops(m: Dims, n_tokens: int, convention: Convention = "full") -> int:
    """FLOPs to train on `n_tokens` in sequences of full context. A Python int: an array would overflow."""
    return int(flops_per_token(m, convention) * int(n_tokens))


def hardware_flops_per_token(
    m: Dims, convention: Convention = "full", *, checkpointing: bool, logits_again: bool = False
) -> Size:
    """FLOPs that the trainer computes per token: with checkpointing the layers run forward twice, and with
    the logits in parts the head does.

    What a flash attention recomputes inside its own backward pass is not counted.
    """
    matmuls = sum(
        2 * row.active_elements * passes(row, m, checkpointing=checkpointing, logits_again=logits_again)
        for row in tensors(m)
        if row.role == "matmul"
    )
    layers = RECOMPUTED if checkpointing else TRAINING
    if convention == "full":
        # What a window hides is masked, and computed all the same.
        return matmuls + layers * 2 * m.context_length * sum(row.score_width for row in attention_kinds(m))
    return matmuls + attention_flops_per_token(m, convention, passes=layers)


def passes(row: Tensor, m: Dims, *, checkpointing: bool, logits_again: bool) -> int:
    """Forward passes that the trainer's work with a matmul row is worth.

    The second run of a layer ends with the last tensor that the backward pass needs, and the output of the
    last matmul is not needed unless a norm stands behind it.
    """
    if row.component == "lm_head":
        return RECOMPUTED if logits_again else TRAINING
    if row.component == "embedding_projection":
        return TRAINING
    unneeded = row.name == "layers.*.ffn.down.weight" and m.norm_placement == "pre"
    return RECOMPUTED if checkpointing and not unneeded else TRAINING


def _seen(n_tokens: Size, window: int | None) -> Size:
    """Keys that a query is scored against, the masked ones too."""
    if window is None:
        return n_tokens
    return min(n_tokens, window) if isinstance(n_tokens, int) else np.minimum(n_tokens, window)


def _exactly(count: Size, factor: Fraction) -> Size:
    """Their product; whole wherever it is a whole number."""
    product = count * factor.numerator
    whole, rest = divmod(product, factor.denominator)
    return product / factor.denominator if np.any(rest) else whole
