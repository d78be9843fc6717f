"""What the forward pass keeps for the backward pass, row by row: the third table of a model.

A row is a storage: what two operations keep, or a view of it, is kept once. Parameters, buffers and the token
windows themselves are no rows; nor are single numbers, such as the state of a random generator.
"""

from dataclasses import dataclass

import numpy as np

from parambudget.arch.dims import Dims, Size
from parambudget.arch.layers import kinds, written_out
from parambudget.cost.memory.forward import LAYER, Segment, forward, masks
from parambudget.cost.step import BFLOAT16, INT64, Backend


@dataclass(frozen=True)
class Saved:
    """One row: a tensor that `copies` layers keep."""

    name: str
    """The module that keeps it first, then what it is there."""
    elements: Size
    """Per token; of a weight's copy in all."""
    element_bytes: int
    copies: Size = 1
    per_token: bool = True

    def bytes(self, n_tokens: Size) -> Size:
        """Of all copies, in a micro-step of so many tokens."""
        each = self.elements * self.element_bytes * self.copies
        return each * n_tokens if self.per_token else each


def saved(
    m: Dims, kernels: Backend, *, checkpointing: bool = False, loss_in_parts: bool = False,
    head_rows: Size | None = None,
) -> list[Saved]:  # fmt: skip
    """The table of `m`: what is kept when the forward pass has ended.

    With `checkpointing` a layer keeps its input alone, with `loss_in_parts` so does the output head, which is
    multiplied as if it had `head_rows`.
    """
    passed = forward(m, kernels, head_rows=m.vocab_size if head_rows is None else head_rows)
    rows = _rows(passed.embedding, 1)
    for kind, many in kinds(m).items():
        layer = passed.layers[kind]
        if checkpointing:
            rows.append(Saved("block_input", layer.input.elements, layer.input.element_bytes, many))
        else:
            rows += _rows(layer, many)
    n_masks, each = masks(m)
    if np.any(n_masks) and (checkpointing or not written_out(m)):
        name = "mask" if checkpointing else f"{LAYER}.attention.mask"
        rows.append(Saved(name, each, kernels.matmul_bytes, n_masks, per_token=False))
    rows += _rows(passed.end, 1)
    if not loss_in_parts:
        return rows + _rows(passed.loss, 1)
    rows.append(Saved("head_input", passed.loss.input.elements, passed.loss.input.element_bytes))
    return rows if kernels.compiled else [*rows, Saved("targets", 1, INT64)]


def _rows(part: Segment, copies: Size) -> list[Saved]:
    rows = [Saved(name, value.elements, value.element_bytes, copies) for value, name in part.kept.items()]
    return rows + [
        Saved(f"{op.name}.weight", op.matrix, BFLOAT16, copies, per_token=False)
        for op in part.ops
        if op.copies
    ]
