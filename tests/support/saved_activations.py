"""What the forward pass saves for the backward pass, as a table.

A row is a storage: what two operations save, or a view of it, is saved once. Parameters, buffers and the
token windows themselves are not rows; nor are single numbers, such as the state of a random generator.
"""

from dataclasses import dataclass

import numpy as np

from parambudget.arch.dims import Dims, Size
from parambudget.arch.layers import layer_kind_counts, uses_eager_attention
from parambudget.cost.memory.forward import LAYER, Segment, forward, masks, shared_choices_bytes
from parambudget.cost.memory.recompute import Recomputed, recomputing_pass
from parambudget.cost.step import BFLOAT16, INT64, Backend


@dataclass(frozen=True)
class SavedActivation:
    """One row: a tensor that `copies` layers save."""

    name: str
    """The module that saves it first, then what it is there."""
    elements: Size
    """Per token; of a weight's copy in all."""
    element_bytes: int
    copies: Size = 1
    per_token: bool = True

    def bytes(self, n_tokens: Size) -> Size:
        """Of all copies, in a micro-step of so many tokens."""
        each = self.elements * self.element_bytes * self.copies
        return each * n_tokens if self.per_token else each


def saved_activations(
    m: Dims, backend: Backend, *, checkpointing: bool = False, loss_in_chunks: bool = False,
    head_rows: Size | None = None, recomputed: Recomputed = "nothing",
) -> list[SavedActivation]:  # fmt: skip
    """What is saved when the forward pass of `m` has ended.

    With `checkpointing` a layer saves its input alone, with `loss_in_chunks` so does the output head, which
    has `head_rows` rows. Of what is `recomputed` no matmul is left out.
    """
    passed = forward(
        m, backend, head_rows=m.vocab_size if head_rows is None else head_rows,
        matmul_weights="leaves" if backend.bf16 else "separate",
    )  # fmt: skip
    passed = recomputing_pass(passed, recomputed)
    rows = _rows(passed.embedding, 1)
    for kind, n_layers in layer_kind_counts(m).items():
        layer = passed.layers[kind]
        if checkpointing:
            rows.append(
                SavedActivation("block_input", layer.input.elements, layer.input.element_bytes, n_layers)
            )
        else:
            rows += _rows(layer, n_layers)
    if checkpointing and (shared := shared_choices_bytes(m, backend, m.n_indexed_layers)):
        rows.append(SavedActivation("chosen_keys", shared // backend.matmul_bytes, backend.matmul_bytes))
    n_masks, elements = masks(m)
    if np.any(n_masks) and (checkpointing or not uses_eager_attention(m)):
        name = "mask" if checkpointing else f"{LAYER}.attention.mask"
        rows.append(SavedActivation(name, elements, backend.matmul_bytes, n_masks, per_token=False))
    rows += _rows(passed.end, 1)
    if not loss_in_chunks:
        return rows + _rows(passed.loss, 1)
    head_input = passed.loss.input
    rows.append(SavedActivation("head_input", head_input.elements, head_input.element_bytes))
    return rows if backend.compiled else [*rows, SavedActivation("targets", 1, INT64)]


def _rows(segment: Segment, copies: Size) -> list[SavedActivation]:
    saved = segment.saved_activations.items()
    rows = [SavedActivation(name, value.elements, value.element_bytes, copies) for value, name in saved]
    return rows + [
        SavedActivation(f"{op.name}.weight", op.matrix_elements, BFLOAT16, copies, per_token=False)
        for op in segment.ops
        if op.has_weight_copy
    ]
