"""The backward pass over a part of the forward pass: what is held while each operation makes its gradients.

As autograd does it: operations in reverse order; a gradient is let go once its operation has used it, and a
kept tensor once no operation before needs it; gradients of one tensor are added up in place.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from parambudget.arch.dims import Size
from parambudget.cost.forward import Part
from parambudget.cost.tape import FLOAT32, Kernels, Op, Value


@dataclass(frozen=True)
class Moment:
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


def backward(part: Part, kernels: Kernels) -> list[Moment]:
    """Every moment of a part's backward pass, which starts with the gradient of its output."""
    keepers = Counter(value for op in part.ops for value in _kept(op))
    gradients = {part.output: _like(part.output)}
    copied, finished = _sum(op.matrix for op in part.ops if op.copies), 0
    moments = []
    for op in reversed(part.ops):
        taken = gradients.pop(op.output)
        made = {value: taken if _shares(op, value) else _like(value) for value in op.inputs}
        making = op.matrix * kernels.matmul_bytes + op.others * FLOAT32
        in_flight = _bytes([taken, *made.values(), *gradients.values()]) + op.scratch_bytes
        moments.append(Moment(_bytes(keepers), in_flight, finished, making, copied))
        keepers = keepers - Counter(_kept(op))
        if op.copies:
            # The matrix's gradient becomes float32.
            copied, making = copied - op.matrix, making + op.matrix * FLOAT32
            in_flight = _bytes([*made.values(), *gradients.values()])
            moments.append(Moment(_bytes(keepers), in_flight, finished, making, copied))
        finished = finished + op.matrix + op.others
        for value, gradient in made.items():
            others = [each for key, each in gradients.items() if key is not value]
            if value not in gradients or any(gradients[value] is other for other in others):
                gradients[value] = gradient
    return moments


def _kept(op: Op) -> set[Value]:
    return {value for _, value in op.keeps}


def _shares(op: Op, value: Value) -> bool:
    return op.passes_on and value.element_bytes == op.output.element_bytes


def _like(value: Value) -> Value:
    return Value(value.elements, value.element_bytes)


def _bytes(values: Iterable[Value]) -> Size:
    return _sum(value.bytes for value in set(values))


def _sum(sizes: Iterable[Size]) -> Size:
    return sum(sizes, start=0)
