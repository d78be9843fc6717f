"""FLOPs: of the matmul rows of the table, and of attention scores, which have no parameter.

Model FLOPs leave out what is not a matmul (norms, softmax, lookups), count 2 per multiply-add, and the
backward pass as twice the forward one. There are two conventions for the scores of s tokens in one head:

    full      s * s, no discount for the causal mask: the attention term of Chowdhery et al. 2022 (PaLM),
              appendix B, and what a math attention computes; with a window w, s * min(s, w)
    causal    s * (s + 1) / 2, those that are not masked; with a window, s * w - w * (w - 1) / 2, and within
              chunks w * (w + 1) / 2 for each of them

An indexer scores every pair in its own heads, and attention is left with k keys per query, as if k were a
window: that the module here computes them all and masks the rest is not counted. No gradient reaches the
indexer, so it counts its forward pass, and nothing where the context has no more keys than it chooses.
"""

from fractions import Fraction
from typing import Final, Literal

import numpy as np

from parambudget.arch.dims import Dims, Size, chooses_keys
from parambudget.arch.layers import AttentionKind, attention_kinds, layer_kind_counts
from parambudget.arch.mixers.scans import scan_multiply_adds
from parambudget.arch.table import Tensor
from parambudget.arch.tensors import tensors

Convention = Literal["full", "causal"]
PASSES: Final = 3
"""A forward and a backward pass, in forward passes."""
PASSES_WITH_RECOMPUTE: Final = 4
"""The same where the forward pass is recomputed in the backward one."""


def matmul_parameters(m: Dims) -> Size:
    """Elements of every matrix that a token is multiplied with: of experts those that it is routed to; the
    output head too, tied or not; not the embedding lookup, nor indexers, which are not trained."""
    return sum(row.active_elements for row in tensors(m) if row.role == "matmul" and row.trained)


def indexer_parameters(m: Dims) -> Size:
    """Elements of the matrices of indexers, which a token is multiplied with in contexts of more keys than
    they choose."""
    return sum(row.active_elements for row in tensors(m) if row.role == "matmul" and not row.trained)


def recurrent_multiply_adds(m: Dims) -> Size:
    """Multiply-adds per token, forward, of mixers other than attention beside their matrices: convolutions
    over time, and reading and writing the state (`arch.mixers.scans`)."""
    convolutions = sum(row.elements for row in tensors(m) if row.role == "convolution")
    return convolutions + scan_multiply_adds(m)


def head_parameters(m: Dims) -> Size:
    """Elements of the output head's matrix, tied or not."""
    return sum(row.elements for row in tensors(m) if row.role == "matmul" and row.component == "lm_head")


def n_scores(n_tokens: int, window: int | None, convention: Convention, *, chunked: bool = False) -> int:
    """Pairs of query and key that one head scores in one sequence; `chunked` where a query sees the tokens
    since the last multiple of the window."""
    keys: int = _keys_per_query(n_tokens, window)
    if convention == "full":
        return n_tokens * keys
    if chunked:
        n_chunks, rest = divmod(n_tokens, keys)
        return (n_chunks * keys * (keys + 1) + rest * (rest + 1)) // 2
    return n_tokens * keys - keys * (keys - 1) // 2


def flops_per_token(m: Dims, convention: Convention = "full") -> Size:
    """FLOPs to train on one token, forward and backward, averaged over one sequence of full context.

    Exact, except for the causal convention with a window, where the mean may not be a whole number.
    """
    products = matmul_parameters(m) + recurrent_multiply_adds(m)
    indexing = chooses_keys(m) * 2 * indexer_parameters(m)
    return PASSES * 2 * products + indexing + attention_flops_per_token(m, convention)


def attention_flops_per_token(m: Dims, convention: Convention = "full", *, n_passes: int = PASSES) -> Size:
    """The share of scores and weighted values in `flops_per_token`."""
    if convention == "full":
        return sum(
            2
            * _passes_of(m, row, n_passes)
            * row.score_width
            * _keys_per_query(m.context_length, row.most_keys)
            for row in attention_kinds(m)
        )
    length = int(m.context_length)
    return sum(
        _exact_product(
            2 * _passes_of(m, row, n_passes) * row.score_width,
            Fraction(n_scores(length, row.most_keys, convention, chunked=row.chunked), length),
        )
        for row in attention_kinds(m)
    )


def _passes_of(m: Dims, row: AttentionKind, n_passes: int) -> Size:
    """Of as many passes, those that run that kind of attention: of an indexer the forward ones, if any."""
    return n_passes if row.trained else chooses_keys(m) * (n_passes - (PASSES - 1))


def training_flops(m: Dims, n_tokens: int, convention: Convention = "full") -> int:
    """FLOPs to train on `n_tokens` in sequences of full context. A Python int: an array would overflow."""
    return int(flops_per_token(m, convention) * int(n_tokens))


def forward_equivalents(row: Tensor, m: Dims, *, checkpointing: bool, recompute_logits: bool) -> Size:
    """The trainer's arithmetic with a matmul row, in forward passes, on average over its layers.

    The recomputation of a layer stops at the last tensor that the backward pass needs, and it needs the
    output of the last matmul only if a norm follows.
    """
    if not row.trained:
        return int(chooses_keys(m)) * (1 + checkpointing)
    if row.component == "lm_head":
        return PASSES_WITH_RECOMPUTE if recompute_logits else PASSES
    if row.component == "embedding_projection":
        return PASSES
    return PASSES_WITH_RECOMPUTE - _share_of_last(row, m) if checkpointing else PASSES


def _share_of_last(row: Tensor, m: Dims) -> Size:
    """Of the layers that have this matrix, the share in which it is the last one and nothing after it reads
    the product."""
    if m.norm_placement not in ("pre", "stream") or m.per_layer_embedding_dim is not None:
        return 0
    if row.name == "layers.*.ffn.latent_out.weight":
        return int(m.moe is not None and not m.moe.experts_out_norm)
    if row.name == "layers.*.ffn.down.weight":
        return int(not m.channel_mix)  # a gate reads it
    # A layer without an FFN ends where its mixer does.
    of_attention = row.name == "layers.*.attention.out.weight"
    if not (of_attention or row.name == "layers.*.mixer.out.weight") or "none" not in m.ffn_pattern:
        return 0
    n_layers, n_last = 0, 0
    for kind, n in layer_kind_counts(m).items():
        has_row = kind.mixer.startswith("attention") if of_attention else kind.mixer != "attention"
        is_last = not kind.has_ffn and (kind.mixer == "attention" or not of_attention)
        if has_row and kind.mixer != "none":
            n_layers, n_last = n_layers + n, n_last + n * is_last
    return n_last / np.maximum(n_layers, 1) if np.any(n_last) else 0


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
