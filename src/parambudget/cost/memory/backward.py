"""The backward pass over a part of the forward pass: what is held while each operation makes its gradients.

As autograd does it: operations in reverse order; a gradient is let go once its operation has used it, and a
kept tensor once no operation before needs it; the sum of two gradients of one tensor is a third one.
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
    """What a part holds at one moment of its backward pass."""

    kept_bytes: Size
    """Per token: what the forward pass kept and is still needed."""
    in_flight_bytes: Size
    """Per token: gradients of what is no parameter, and what it takes to make them."""
    finished: Size
    """Elements of the parameters whose gradients there are."""
    making_bytes: Size
    """Gradients of parameters on their way."""
    copied: Size
    """Elements of matrices whose bfloat16 copies are still needed."""


def backward(part: Segment, backend: Backend, *, again: bool = False) -> list[BackwardSnapshot]:
    """Every moment of a part's backward pass, which starts with the gradient of its output.

    With `again` the forward pass is run once more when what it kept is needed first. The part's input, from
    which that starts, is not counted: someone else holds it.
    """
    keepers = Counter(value for op in part.ops for value in op.kept)
    if again:
        del keepers[part.input]
    kept, gradients = total_bytes(keepers), {part.output: _gradient_of(part.output)}
    copied, finished, slices = part.copied, 0, 0
    moments = list(_recompute_snapshots(part)) if again else []

    def note(op: Op, in_flight: Size, making: Size = 0) -> None:
        if not op.in_between:
            moments.append(BackwardSnapshot(kept, in_flight, finished, making + slices * FLOAT32, copied))

    for op in reversed(part.ops):
        taken = gradients.pop(op.output)
        others = [gradients.pop(value) for value in op.also]
        made = {value: taken if _shares_storage(op, value) else _gradient_of(value) for value in op.inputs}
        making = op.matrix * backend.matmul_bytes + op.others * FLOAT32
        if again and op.keeps:
            again, left = False, _left_by_recompute(part, op) - keepers.keys()
            note(op, total_bytes([taken, *gradients.values(), *left]))
        note(
            op, total_bytes([taken, *others, *made.values(), *gradients.values()]) + op.scratch_bytes, making
        )
        needed, keepers = keepers, keepers - Counter(op.kept)
        kept = kept - total_bytes(needed.keys() - keepers.keys())
        left_over = total_bytes([*made.values(), *gradients.values()])
        if op.copies:
            # The gradient of the matrix becomes float32.
            copied = copied - op.matrix
            note(op, left_over, making + op.matrix * FLOAT32)
        if op.stack is None:
            finished = finished + op.matrix
        else:
            slices = slices + op.matrix
            if np.any(op.stack):
                note(op, left_over, op.stack * FLOAT32)
                finished, slices = finished + slices, 0
        finished = finished + op.others
        for value in made.keys() & gradients.keys():
            made[value], summed = _gradient_of(value), [made[value], gradients[value]]
            note(op, total_bytes([*made.values(), *gradients.values(), *summed]))
        gradients |= made
    return moments


def _recompute_snapshots(part: Segment) -> Iterator[BackwardSnapshot]:
    """The moments of the second forward pass in which much is there that nobody keeps."""
    kept: set[Activation] = set()
    for op in part.ops:
        if op.beside:
            there = {*op.inputs, op.output, *op.beside, _gradient_of(part.output)}
            yield BackwardSnapshot(total_bytes(kept), total_bytes(there - kept), 0, 0, part.copied)
        kept |= op.kept - {part.input}


def compiled_recompute_bound(part: Segment) -> BackwardSnapshot:
    """The most that a compiled backward pass may hold of a part whose forward pass is run again.

    The compiler leaves the gradients of such a part's weights for last. Until then it holds of every matmul
    what it takes, and the gradients of that and of what it makes: at most all of these, which is how they are
    counted here. How many of them are there at once is the compiler's choice.
    """
    matmuls = [op for op in part.ops if op.multiplies]
    gradients = sum((op.output.bytes + op.inputs[0].bytes for op in matmuls), start=0)
    kept = total_bytes(part.kept.keys() - {part.input})
    return BackwardSnapshot(
        kept, gradients + part.output.bytes, finished=0, making_bytes=0, copied=part.copied
    )


def _left_by_recompute(part: Segment, last: Op) -> set[Activation]:
    """What is there beside what is kept when all of that is there. That is so before the last operation that
    keeps something, unless it keeps what it makes."""
    makes = last.kept - {*last.inputs}
    return {*part.variables, last.output} if makes else {*part.variables}


def _shares_storage(op: Op, value: Activation) -> bool:
    return op.passes_on and value.element_bytes == op.output.element_bytes


def _gradient_of(value: Activation) -> Activation:
    return Activation(value.elements, value.element_bytes)
