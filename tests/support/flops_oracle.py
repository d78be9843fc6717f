"""FLOPs of a forward pass of any length, and those that the trainer's hardware computes."""

from parambudget.arch.dims import Dims, Size
from parambudget.arch.layers import attention_kinds
from parambudget.arch.tensors import tensors
from parambudget.cost.flops import (
    PASSES,
    PASSES_WITH_RECOMPUTE,
    Convention,
    forward_equivalents,
    matmul_parameters,
    n_scores,
)


def sequence_flops(m: Dims, convention: Convention = "full", *, n_tokens: int | None = None) -> int:
    """Forward FLOPs of one sequence, of full context unless `n_tokens` says otherwise: an exact int."""
    length = n_tokens or m.context_length
    attention = sum(
        2 * row.score_width * n_scores(length, row.window, convention) for row in attention_kinds(m)
    )
    return int(2 * matmul_parameters(m) * length + attention)


def hardware_flops_per_token(m: Dims, *, checkpointing: bool, recompute_logits: bool = False) -> Size:
    """FLOPs that the trainer computes per token: with checkpointing the layers run forward twice, and with
    the logits in chunks the head does.

    What a flash attention recomputes inside its own backward pass is not counted.
    """
    matmuls = sum(
        2
        * row.active_elements
        * forward_equivalents(row, m, checkpointing=checkpointing, recompute_logits=recompute_logits)
        for row in tensors(m)
        if row.role == "matmul"
    )
    layers = PASSES_WITH_RECOMPUTE if checkpointing else PASSES
    # What a window hides is masked, and computed all the same.
    return matmuls + layers * 2 * m.context_length * sum(row.score_width for row in attention_kinds(m))
