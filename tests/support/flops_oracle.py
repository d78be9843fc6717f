"""FLOPs of a forward pass of any length, and those that the trainer's hardware computes."""

from parambudget.arch.dims import Dims, Size, chooses_keys
from parambudget.arch.layers import attention_kinds
from parambudget.arch.tensors import tensors
from parambudget.cost.flops import (
    PASSES,
    PASSES_WITH_RECOMPUTE,
    Convention,
    forward_equivalents,
    indexer_parameters,
    matmul_parameters,
    n_scores,
)


def sequence_flops(m: Dims, convention: Convention = "full", *, n_tokens: int | None = None) -> int:
    """Forward FLOPs of one sequence, of full context unless `n_tokens` says otherwise: an exact int."""
    length = n_tokens or m.context_length
    attention = sum(
        2 * row.score_width * n_scores(length, row.most_keys, convention)
        for row in attention_kinds(m)
        if row.trained
    )
    return int(2 * matmul_parameters(m) * length + attention + indexer_flops(m, convention, n_tokens=length))


def indexer_flops(m: Dims, convention: Convention = "full", *, n_tokens: int | None = None) -> int:
    """Of those, the ones of indexers: none where there are not more keys than they choose."""
    length = n_tokens or m.context_length
    if m.indexer is None or length <= m.indexer.index_top_k:
        return 0
    width = sum(row.score_width for row in attention_kinds(m) if not row.trained)
    return 2 * (indexer_parameters(m) * length + width * n_scores(length, None, convention))


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
    # What a window hides or an indexer leaves out is masked, and computed all the same.
    widths = (
        row.score_width * (layers if row.trained else (layers - 2) * chooses_keys(m))
        for row in attention_kinds(m)
    )
    return matmuls + 2 * m.context_length * sum(widths)
