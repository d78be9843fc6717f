"""What is recomputed so that a compiled step keeps a given share of its activations.

The partitioner of torch that cuts a compiled function into its two passes knows three cuts, each of which
saves less than the one before, and takes the first that is within the budget:

    nothing          what it finds fastest: inputs of matmuls and norms, attention, statistics of rows
    elementwise      what can be computed element by element from what is saved is not saved: inputs of
                     matmuls behind a norm or an activation function
    all but matmuls  nor are rotated queries and keys, and outputs of attention, which runs forward once more
                     (not where its kernel is FlashAttention 2 or 3: these count as matmuls)
    matmuls too      where that is still above the budget, outputs of matmuls are recomputed as well. Which,
                     is decided in training/activation_budget.py: not those that are added to the residual
                     stream, and of the rest those of the first layers

Source: `choose_saved_values_set` in torch/_functorch/partitioners.py, torch 2.15.
"""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

import numpy as np

from parambudget.arch.dims import Dims, Size
from parambudget.arch.layers import layer_kind_counts
from parambudget.cost.memory.forward import ForwardPass, Segment, forward_of_step
from parambudget.cost.memory.graph import Activation, Op, total_bytes
from parambudget.cost.step import FLOAT32, StepConfig

Recomputed = Literal["nothing", "elementwise", "all but matmuls", "matmuls too"]
"""What is recomputed, each with what stands before it."""
STAGES: Final[tuple[Recomputed, ...]] = get_args(Recomputed)


@dataclass(frozen=True)
class Recomputation:
    """What a budget comes to for a model; arrays where its sizes are."""

    stage: Size = 0
    """Into `STAGES`."""
    inner_share: Size = 0
    """Of the matmuls in layers whose outputs are not added to the residual stream, forward: those that are
    run again."""
    head_share: Size = 0
    """1 where the logits are computed again, else 0."""
    residual_bytes: Size = 0
    """Of the outputs of all matmuls that are added to the residual stream."""
    inner_bytes: Size = 0
    """Of the outputs of all other matmuls in layers."""
    left_out_bytes: Size = 0
    """Of what layers save without matmuls being recomputed: what they do not save with."""

    def reaches(self, recomputed: Recomputed) -> Size:
        """1 where so much is recomputed, else 0."""
        return (self.stage >= STAGES.index(recomputed)) * 1

    def __str__(self) -> str:
        """Of one model, in words."""
        if self.stage < 3:
            return (
                "nothing is recomputed", "elementwise operations are recomputed",
                "elementwise operations and attention are recomputed",
            )[int(self.stage)]  # fmt: skip
        again = "the output head, attention" if self.head_share else "attention"
        return f"{again} and {self.inner_share:.0%} of the matmuls to q, k, v, gate and up are recomputed"


NOTHING: Final = Recomputation()


def recomputation(m: Dims, step: StepConfig) -> Recomputation:
    """What is recomputed within the budget of a step.

    The budget is a share of what is saved without one; torch leaves parameters out of both, as long as the
    backward pass reads them. Where embeddings, which it does not read, are larger than all activations, torch
    recomputes nothing.
    """
    if step.activation_memory_budget == 1:
        return NOTHING
    n_tokens, plain = step.batch_size * m.context_length, forward_of_step(m, step)
    tables = sum(op.other_parameters * FLOAT32 for op in plain.embedding.ops if not op.saved)
    whole = _saved_bytes(m, step, plain) - tables
    elementwise = _saved_bytes(m, step, recomputing_pass(plain, "elementwise")) - tables
    # Here the embedding is looked up again.
    without_matmuls = _saved_bytes(m, step, recomputing_pass(plain, "all but matmuls"))
    least = without_matmuls - n_tokens * plain.embedding.output.bytes
    budget = step.activation_memory_budget * whole
    stage = _first_true(whole <= 0, elementwise < budget, least < budget)
    residual, inner = (n_tokens * size for size in _matmul_outputs(m, plain))
    logits = n_tokens * plain.loss.ops[0].output.bytes if step.loss_chunks == 1 else 0
    must_recompute_head = (stage == 3) & (residual + logits > budget)
    kept = budget - np.where(must_recompute_head, 0, logits)
    inner_share = np.clip(1 - (kept - residual) / np.maximum(inner, 1), 0, 1)
    return Recomputation(
        stage,
        inner_share=np.where(stage == 3, inner_share, 0.0)[()],
        head_share=must_recompute_head * 1, residual_bytes=residual, inner_bytes=inner,
        left_out_bytes=np.where(stage == 3, np.maximum(least - logits - kept, 0), 0).astype(np.int64)[()],
    )  # fmt: skip


def _first_true(*conditions: Size) -> Size:
    """The index of the first that holds; their number where none does."""
    return np.argmax(np.stack([*np.broadcast_arrays(*conditions), np.ones(np.shape(conditions[0]))]), axis=0)


def _saved_bytes(m: Dims, step: StepConfig, passed: ForwardPass) -> Size:
    """Of a micro-step. With chunks, the loss saves its input alone."""
    loss = passed.loss.saved_bytes if step.loss_chunks == 1 else passed.loss.input.bytes
    per_token = passed.embedding.saved_bytes + passed.end.saved_bytes + loss
    for kind, n_layers in layer_kind_counts(m).items():
        per_token = per_token + n_layers * passed.layers[kind].saved_bytes
    return step.batch_size * m.context_length * per_token


def _matmul_outputs(m: Dims, passed: ForwardPass) -> tuple[Size, Size]:
    """Bytes per token, of all layers: those added to the residual stream, and all others. Grouped matmuls of
    experts are none to torch's partitioner."""
    residual, inner = 0, 0
    for kind, n_layers in layer_kind_counts(m).items():
        for op in passed.layers[kind].ops:
            if op.is_matmul and ".experts." not in op.name:
                if op.name.endswith((".out", ".down")):
                    residual = residual + n_layers * op.output.bytes
                else:
                    inner = inner + n_layers * op.output.bytes
    return residual, inner


def recomputing_pass(passed: ForwardPass, recomputed: Recomputed) -> ForwardPass:
    """The pass that does not save what is recomputed; of matmuls, none is here.

    It saves at least as much as torch, whose minimum cut may also find something narrower that takes the
    place of something wide.
    """
    if recomputed == "nothing":
        return passed
    only_elementwise = recomputed == "elementwise"
    behind = _recomputable(passed.end, only_elementwise=only_elementwise)

    def save_less(segment: Segment) -> Segment:
        return _without(segment, _recomputable(segment, only_elementwise=only_elementwise))

    return ForwardPass(
        save_less(passed.embedding),
        {kind: save_less(layer) for kind, layer in passed.layers.items()},
        _without(passed.end, behind),
        _without(passed.loss, behind & {passed.end.output.storage}),
    )


def _recomputable(segment: Segment, *, only_elementwise: bool) -> Set[Activation]:
    """The storages that can be computed from what the segment saves beside them."""
    there, found = {*segment.saved_activations}, set[Activation]()
    for op in segment.ops:
        is_cheap = op.cheap == "elementwise" or (op.cheap is not None and not only_elementwise)
        inputs = {value.storage for value in op.inputs}
        if is_cheap and inputs <= there:
            own = {op.output.storage}
            if op.cheap == "any kernel":
                own |= op.saved_storages - inputs
            found |= own
            there |= own
    return found


def _without(segment: Segment, recomputed: Set[Activation]) -> Segment:
    """The segment with these storages recomputed: they take scratch space where they are needed, and still in
    the backward pass of what computes them, which inductor fuses that with."""
    return replace(segment, ops=tuple(_save_less(segment.ops, recomputed)))


def _save_less(ops: Iterable[Op], recomputed: Set[Activation]) -> Iterator[Op]:
    for op in ops:
        again = (op.saved_storages | {op.output.storage}) & recomputed
        saved = tuple((label, value) for label, value in op.saved if value.storage not in recomputed)
        yield replace(op, saved=saved, scratch_bytes=op.scratch_bytes + total_bytes(again))
