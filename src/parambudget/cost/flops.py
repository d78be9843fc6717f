"""How much arithmetic: the matmul rows of the table, and attention scores, which have no parameter."""

from typing import Literal

from parambudget.arch.dims import Dims, Size
from parambudget.arch.tensors import tensors

Convention = Literal["full", "causal"]


def matmul_parameters(m: Dims) -> Size:
    """Elements of every matrix a token is multiplied with: the output head too, tied or not; the embedding
    lookup not."""
    return sum(row.elements for row in tensors(m) if row.role == "matmul")


def flops_per_token(m: Dims, convention: Convention = "full") -> Size:
    """FLOPs to train on one token, forward and backward, averaged over one sequence of full context.

    Counts 2 per multiply-add and backward as twice forward; leaves out what is not a matmul (norms, softmax,
    lookups) and any recomputation. `full` gives no discount for causal masking: s * s scores per head, the
    attention term of Chowdhery et al. 2022 (PaLM), appendix B. `causal` counts the s * (s + 1) / 2 scores
    that are not masked.
    """
    widths = m.n_layers * m.n_heads * m.head_dim
    # 3 passes x 2 per multiply-add x 2 matmuls (scores, values) x width x keys per query.
    attention = (
        12 * widths * m.context_length if convention == "full" else 6 * widths * (m.context_length + 1)
    )
    return 6 * matmul_parameters(m) + attention
