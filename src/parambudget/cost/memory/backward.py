"""The backward pass over a segment: what is held while each operation computes its gradients.

As in autograd: operations run in reverse order; a gradient is freed once its operation has used it, and a
saved tensor once no operation before needs it; the sum of two gradients of one tensor is a third one.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from parambudget.arch.dims import Size
from parambudget.cost.memory.forward import Segment
from parambudget.cost.memory.graph import Activation, Op, total_bytes
from parambudget.cost.step import FLOAT32, Backend


@dataclass(frozen=True)
class BackwardSnapshot:
    """What a segment holds at one moment of its backward pass."""

    saved_bytes: Size
    """Per token: what the forward pass saved and is still needed."""
    in_flight_bytes: Size
    """Per token: gradients of activations, and scratch space."""
    finished_parameters: Size
    """Elements of the parameters whose gradients are complete."""
    unfinished_bytes: Size
    """Gradients of parameters that are being computed."""
    copied_elements: Size
    """Of the matrices whose bfloat16 copies are still needed."""


def backward(segment: Segment, backend: Backend, *, recompute: bool = False) -> list[BackwardSnapshot]:
    """Every moment of a segment's backward pass, which starts with the gradient of its output.

    With `recompute` the forward pass is run again when something that it saved is first needed. The segment's
    input, from which that starts, is not counted here.
    """
    users = Counter(value for op in segment.ops for value in op.saved_storages)
    if recompute:
        del users[segment.input]
    saved_bytes, gradients = total_bytes(users), {segment.output: _gradient_of(segment.output)}
    copied, finished, slices = segment.copied_elements, 0, 0
    snapshots = list(_recompute_snapshots(segment)) if recompute else []

    def note(op: Op, in_flight: Size, unfinished: Size = 0) -> None:
        if not op.is_middle_expert:
            snapshots.append(
                BackwardSnapshot(saved_bytes, in_flight, finished, unfinished + slices * FLOAT32, copied)
            )

    for op in reversed(segment.ops):
        incoming = gradients.pop(op.output)
        others = [gradients.pop(value) for value in op.other_outputs]
        outgoing = {
            value: incoming if _shares_storage(op, value) else _gradient_of(value) for value in op.inputs
        }
        unfinished = op.matrix_elements * backend.matmul_bytes + op.other_parameters * FLOAT32
        if recompute and op.saved:
            recompute, left = False, _left_by_recompute(segment, op) - users.keys()
            note(op, total_bytes([incoming, *gradients.values(), *left]))
        flying = total_bytes([incoming, *others, *outgoing.values(), *gradients.values()])
        note(op, flying + op.scratch_bytes, unfinished)
        needed, users = users, users - Counter(op.saved_storages)
        saved_bytes = saved_bytes - total_bytes(needed.keys() - users.keys())
        left_over = total_bytes([*outgoing.values(), *gradients.values()])
        if op.has_weight_copy:
            # The gradient of the matrix becomes float32.
            copied = copied - op.matrix_elements
            note(op, left_over, unfinished + op.matrix_elements * FLOAT32)
        if op.stacked_elements is None:
            finished = finished + op.matrix_elements
        else:
            slices = slices + op.matrix_elements
            if np.any(op.stacked_elements):
                note(op, left_over, op.stacked_elements * FLOAT32)
                finished, slices = finished + slices, 0
        finished = finished + op.other_parameters
        for value in outgoing.keys() & gradients.keys():
            outgoing[value], summed = _gradient_of(value), [outgoing[value], gradients[value]]
            note(op, total_bytes([*outgoing.values(), *gradients.values(), *summed]))
        gradients |= outgoing
    return snapshots


def compiled_recompute_maximum(segment: Segment) -> BackwardSnapshot:
    """The most that a compiled backward pass may hold of a segment that is recomputed.

    The compiler leaves the gradients of such a segment's weights for last. Until then it holds the input of
    every matmul, and the gradients of its input and output: at most all of these, which is what is counted
    here. How many are held at once is the compiler's choice.
    """
    matmuls = [op for op in segment.ops if op.is_matmul]
    gradients = sum((op.output.bytes + op.inputs[0].bytes for op in matmuls), start=0)
    saved_bytes = total_bytes(segment.saved_activations.keys() - {segment.input})
    return BackwardSnapshot(
        saved_bytes, gradients + segment.output.bytes, finished_parameters=0, unfinished_bytes=0,
        copied_elements=segment.copied_elements,
    )  # fmt: skip


def _recompute_snapshots(segment: Segment) -> Iterator[BackwardSnapshot]:
    """The moments of the second forward pass that hold much which is not saved."""
    saved: set[Activation] = set()
    for op in segment.ops:
        if op.held_by_callers:
            held = {*op.inputs, op.output, *op.held_by_callers, _gradient_of(segment.output)}
            yield BackwardSnapshot(
                total_bytes(saved), total_bytes(held - saved), 0, 0, segment.copied_elements
            )
        saved |= op.saved_storages - {segment.input}


def _left_by_recompute(segment: Segment, last: Op) -> set[Activation]:
    """What is held beside everything saved at the moment when all of that is there: before the last operation
    that saves something, unless it saves what it computes."""
    saves_own_result = last.saved_storages - {*last.inputs}
    return {*segment.variables, last.output} if saves_own_result else {*segment.variables}


def _shares_storage(op: Op, value: Activation) -> bool:
    return op.passes_gradient_on and value.element_bytes == op.output.element_bytes


def _gradient_of(value: Activation) -> Activation:
    return Activation(value.elements, value.element_bytes)
