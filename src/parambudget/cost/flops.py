"""FLOPs: of the matmul rows of the table, and of attention scores, which have no parameter.

Model FLOPs leave out what is not a matmul (norms, softmax, lookups), count 2 per multiply-add, and the
backward pass as twice the forward one. There are two conventions for the scores of s tokens in one head:

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
PASSES: Final = 3
"""A forward and a backward pass, in forward passes."""
PASSES_WITH_RECOMPUTE: Final = 4
"""The same where the forward pass is recomputed in the backward one."""


def matmul_parameters(m: Dims) -> Size:
    """Elements of every matrix that a token is multiplied with: of experts those that it is routed to; the
    output head too, tied or not; not the embedding lookup."""
    return sum(row.active_elements for row in tensors(m) if row.role == "matmul")


def head_parameters(m: Dims) -> Size:
    """Elements of the output head's matrix, tied or not."""
    return sum(row.elements for row in tensors(m) if row.role == "matmul" and row.component == "lm_head")


def n_scores(n_tokens: int, window: int | None, convention: Convention) -> int:
    """Pairs of query and key that one head scores in one sequence."""
    keys: int = _keys_per_query(n_tokens, window)
    return n_tokens * keys if convention == "full" else n_tokens * keys - keys * (keys - 1) // 2


def flops_per_token(m: Dims, convention: Convention = "full") -> Size:
    """FLOPs to train on one token, forward and backward, averaged over one sequence of full context.

    Exact, except for the causal convention with a window, where the mean may not be a whole number.
    """
    return PASSES * 2 * matmul_parameters(m) + attention_flops_per_token(m, convention)


def attention_flops_per_token(m: Dims, convention: Convention = "full", *, n_passes: int = PASSES) -> Size:
    """The share of scores and weighted values in `flops_per_token`."""
    if convention == "full":
        return sum(
            n_passes * 2 * row.score_width * _keys_per_query(m.context_length, row.window)
            for row in attention_kinds(m)
        )
    length = int(m.context_length)
    return sum(
        _exact_product(
            n_passes * 2 * row.score_width, Fraction(n_scores(length, row.window, convention), length)
        )
        for row in attention_kinds(m)
    )


def training_flops(m: Dims, n_tokens: int, convention: Convention = "full") -> int:
    """FLOPs to train on `n_tokens` in sequences of full context. A Python int: an array would overflow."""
    return int(flops_per_token(m, convention) * int(n_tokens))


def forward_equivalents(row: Tensor, m: Dims, *, checkpointing: bool, recompute_logits: bool) -> int:
    """The trainer's arithmetic with a matmul row, in forward passes.

    The recomputation of a layer stops at the last tensor that the backward pass needs, and it needs the
    output of the last matmul only if a norm follows.
    """
    if row.component == "lm_head":
        return PASSES_WITH_RECOMPUTE if recompute_logits else PASSES
    if row.component == "embedding_projection":
        return PASSES
    is_not_recomputed = row.name == "layers.*.ffn.down.weight" and m.norm_placement == "pre"
    return PASSES_WITH_RECOMPUTE if checkpointing and not is_not_recomputed else PASSES


def _keys_per_query(n_tokens: Size, window: int | None) -> Size:
    """Keys that a query is scored against, masked ones included."""
    if window is None:
        return n_tokens
    return min(n_tokens, window) if isinstance(n_tokens, int) else np.minimum(n_tokens, window)


def _exact_product(count: Size, factor: Fraction) -> Size:
    """Their product; an int wherever it is a whole number."""
    product = count * factor.numerator
    whole, rest = divmod(product, factor.denominator)
    return product / factor.denominator if np.any(rest) else whole
