"""The backward pass over a segment: what is in memory while each operation computes its gradients.

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
    finished_bytes: Size
    """Gradients of parameters that are complete."""
    unfinished_bytes: Size
    """Gradients of parameters that are being computed."""
    copied_elements: Size
    """Of the matrices whose bfloat16 copies are still needed."""


def backward(segment: Segment, backend: Backend, *, recompute: bool = False) -> list[BackwardSnapshot]:
    """Every moment of a segment's backward pass, which starts with the gradients of its outputs.

    With `recompute` the forward pass is run again when something that it saved is first needed. The segment's
    input, from which that starts, is not counted here.
    """
    backward_pass = _BackwardPass(segment, backend, recompute=recompute)
    for op in reversed(segment.ops):
        backward_pass.run(op)
    return backward_pass.snapshots


class _BackwardPass:
    """A backward pass under way, and its moments so far."""

    def __init__(self, segment: Segment, backend: Backend, *, recompute: bool) -> None:
        self._backend = backend
        self.snapshots = list(_recompute_snapshots(segment)) if recompute else []
        self._segment, self._must_recompute = segment, recompute
        self._users = Counter(value for op in segment.ops for value in op.saved_storages)
        if recompute:
            del self._users[segment.input]
        self._saved_bytes = total_bytes(self._users)
        outputs = [segment.output, *([] if segment.per_layer is None else [segment.per_layer])]
        self._gradients = {value: _gradient_of(value) for value in outputs}
        self._copied: Size = segment.copied_elements
        self._finished: Size = 0
        self._slices: Size = 0

    def run(self, op: Op) -> None:
        """Compute the gradients of one operation."""
        incoming = self._gradients.pop(op.output)
        others = [self._gradients.pop(value) for value in op.other_outputs]
        if op.joins_gradients:
            self._gradients |= {value: _gradient_of(value) for value in op.inputs}
            return
        outgoing = {
            value: incoming if _shares_storage(op, value) else _gradient_of(value) for value in op.inputs
        }
        unfinished = op.matrix_elements * self._backend.matmul_bytes + op.other_parameters * FLOAT32
        if self._must_recompute and op.saved:
            self._must_recompute = False
            left = _left_by_recompute(self._segment, op) - self._users.keys()
            self._note(op, total_bytes([incoming, *self._gradients.values(), *left]))
        if op.overwrites_input:
            outgoing = {value: value for value in op.inputs}
        # A gradient that lies in a saved tensor is counted as that until it is released.
        in_flight = total_bytes(
            {incoming, *others, *outgoing.values(), *self._gradients.values()} - self._users.keys()
        )
        self._note(op, in_flight + op.scratch_bytes, unfinished)
        self._release_activations(op)
        self._finish_parameters(op, total_bytes([*outgoing.values(), *self._gradients.values()]), unfinished)
        self._add_gradients(op, outgoing)

    def _note(self, op: Op, in_flight: Size, unfinished: Size = 0) -> None:
        if op.is_middle_expert:
            return
        unfinished = unfinished + self._slices * FLOAT32
        self.snapshots.append(
            BackwardSnapshot(self._saved_bytes, in_flight, self._finished, unfinished, self._copied)
        )

    def _release_activations(self, op: Op) -> None:
        """Free what no operation before this one needs."""
        needed, self._users = self._users, self._users - Counter(op.saved_storages)
        self._saved_bytes = self._saved_bytes - total_bytes(needed.keys() - self._users.keys())

    def _finish_parameters(self, op: Op, in_flight: Size, unfinished: Size) -> None:
        """Turn the gradients of the operation's parameters into those that the optimizer reads."""
        if op.has_weight_copy:
            # The gradient of the matrix becomes float32.
            self._copied = self._copied - op.matrix_elements
            self._note(op, in_flight, unfinished + op.matrix_elements * FLOAT32)
        elif op.has_leaf and not self._backend.compiled:
            self._note(op, in_flight, unfinished + op.matrix_elements * FLOAT32)
        if op.stacked_elements is None:
            self._finished = self._finished + op.gradient_bytes(self._backend)
            return
        self._slices = self._slices + op.matrix_elements
        if np.any(op.stacked_elements):
            self._note(op, in_flight, op.stacked_elements * FLOAT32)
            self._finished, self._slices = self._finished + self._slices * FLOAT32, 0
        self._finished = self._finished + op.other_parameters * FLOAT32

    def _add_gradients(self, op: Op, outgoing: dict[Activation, Activation]) -> None:
        """Keep the gradients of the inputs, added to those that are there already."""
        for value in [value for value in outgoing if value in self._gradients]:
            outgoing[value], summed = _gradient_of(value), [outgoing[value], self._gradients[value]]
            self._note(op, total_bytes([*outgoing.values(), *self._gradients.values(), *summed]))
        self._gradients |= outgoing


def compiled_recompute_maximum(segment: Segment) -> BackwardSnapshot:
    """About the most that a compiled backward pass holds of a segment that is recomputed.

    The compiler leaves the gradients of such a segment's weights for last. Until then it keeps the input of
    every matmul, and the gradients of its input and output: all of these are counted here. How many are in
    memory at once is the compiler's choice, and so is what it keeps beside them to write to it again.
    """
    matmuls = [op for op in segment.ops if op.is_matmul]
    gradients = sum((op.output.bytes + op.inputs[0].bytes for op in matmuls), start=0)
    saved_bytes = total_bytes(segment.saved_activations.keys() - {segment.input})
    return BackwardSnapshot(
        saved_bytes, gradients + segment.output.bytes, finished_bytes=0, unfinished_bytes=0,
        copied_elements=segment.copied_elements,
    )  # fmt: skip


def _recompute_snapshots(segment: Segment) -> Iterator[BackwardSnapshot]:
    """The moments of the second forward pass when much is in memory that is not saved."""
    saved: set[Activation] = set()
    computed: set[Activation] = set()
    for op in segment.ops:
        if op.referenced_by_callers:
            variables = computed.intersection(segment.variables)
            alive = {
                *op.inputs,
                op.output,
                *op.referenced_by_callers,
                *variables,
                _gradient_of(segment.output),
            }
            yield BackwardSnapshot(
                total_bytes(saved), total_bytes(alive - saved), 0, 0, segment.copied_elements
            )
        saved |= op.saved_storages - {segment.input}
        computed.add(op.output)


def _left_by_recompute(segment: Segment, last: Op) -> set[Activation]:
    """What is in memory beside all that is saved, at the moment when all of it is there: before the last
    operation that saves something, unless it saves what it computes."""
    saves_own_result = last.saved_storages - {*last.inputs}
    return {*segment.variables, last.output} if saves_own_result else {*segment.variables}


def _shares_storage(op: Op, value: Activation) -> bool:
    return op.passes_gradient_on and value.element_bytes == op.output.element_bytes


def _gradient_of(value: Activation) -> Activation:
    return Activation(value.elements, value.element_bytes)
