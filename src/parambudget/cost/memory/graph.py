"""Operations told in sizes: what each makes, and what it keeps for its backward pass.

The operations are those of PyTorch 2.13: what they keep stands in its derivatives.yaml, what runs in float32
under autocast in ATen/autocast_mode.h. Compiled, a forward pass keeps what the min-cut partitioner leaves
over: inputs of matmuls and norms, attention, and the statistics of norms; what lies between them, element by
element, is computed again. Sizes are elements per token and may be arrays.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from parambudget.arch.dims import Dims, Size
from parambudget.cost.step import BFLOAT16, BOOL, FLOAT32, INT64, Backend


@dataclass(frozen=True, eq=False)
class Activation:
    """A tensor with a storage of its own; views of it are the same value."""

    elements: Size
    """Per token."""
    element_bytes: int
    part_of: "Activation | None" = None
    """The value whose storage it is a part of: whoever keeps the part keeps all of that."""

    @property
    def bytes(self) -> Size:
        """Per token."""
        return self.elements * self.element_bytes

    @property
    def stored(self) -> "Activation":
        """What is kept with it."""
        return self if self.part_of is None else self.part_of.stored


@dataclass(frozen=True, eq=False)
class Op:
    """One node of the backward pass."""

    name: str
    """The module that runs it, * for the number of a layer."""
    inputs: tuple[Activation, ...]
    """What its backward makes gradients of."""
    output: Activation
    keeps: tuple[tuple[str, Activation], ...] = ()
    multiplies: bool = False
    """It is a matmul with a weight."""
    matrix: Size = 0
    """Elements of that weight."""
    others: Size = 0
    """Elements of its other parameters."""
    passes_on: bool = False
    """The gradient of its output is that of its inputs."""
    scratch_bytes: Size = 0
    """Per token, held while its backward runs beside what that takes and makes."""
    also: tuple[Activation, ...] = ()
    """What it makes beside its output: its backward takes their gradients too."""
    beside: tuple[Activation, ...] = ()
    """What its callers still hold while it runs forward, where that is much and not kept."""
    in_between: bool = False
    """It stands for many that run one after the other, none of which holds more than the first or the last of
    their kind, which stand apart."""
    stack: Size = None
    """Elements of the tensor of many matrices that its backward puts together, or 0 where it is one of these
    and another does; None where its matrix is a parameter by itself."""

    @property
    def copies(self) -> bool:
        """Whether it multiplies with a bfloat16 copy of its matrix, and keeps that."""
        return self.multiplies and self.output.element_bytes == BFLOAT16

    @property
    def cached(self) -> bool:
        """Whether autocast holds on to that copy until the loss is there, kept or not."""
        return self.copies and self.stack is None

    @property
    def kept(self) -> set[Activation]:
        """The storages that it keeps."""
        return {value for _, value in self.keeps}


class OpGraph:
    """Operations in the order in which they run."""

    def __init__(self, backend: Backend, *, alone: bool = False) -> None:
        self.backend = backend
        # One sequence by itself: its heads need not be laid out anew to be multiplied.
        self.alone = alone
        self.ops: list[Op] = []

    def cast(self, name: str, x: Activation, element_bytes: int) -> Activation:
        """`x` in another precision; itself where it has that already."""
        if x.element_bytes == element_bytes:
            return x
        return self.did(name, (x,), Activation(x.elements, element_bytes))

    def for_matmul(self, name: str, x: Activation) -> Activation:
        """`x` in the precision of matmuls."""
        return self.cast(name, x, self.backend.matmul_bytes)

    def in_float32(self, name: str, x: Activation) -> Activation:
        """`x` in float32; a compiled pass reads it so and does not store it."""
        return x if self.backend.compiled else self.cast(name, x, FLOAT32)

    def linear(self, name: str, x: Activation, out: Size, *, bias: bool) -> Activation:
        """A matrix, perhaps with a bias, times every token."""
        return self.did(
            name, (x,), Activation(out, self.backend.matmul_bytes), ("input", x),
            multiplies=True, matrix=x.elements * out, others=out if bias else 0,
        )  # fmt: skip

    def product(self, name: str, a: Activation, b: Activation, out: Size) -> Activation:
        """A product of two values, neither of them a weight."""
        return self.did(name, (a, b), Activation(out, self.backend.matmul_bytes), ("left", a), ("right", b))

    def look_up(self, name: str, n_rows: Size, width: Size) -> Activation:
        """A row of a table for every token."""
        return self.did(name, (), Activation(width, FLOAT32), others=n_rows * width)

    def shift(self, name: str, x: Activation, n_rows: Size) -> Activation:
        """`x` plus a row of a table."""
        return self.did(
            name, (x,), Activation(x.elements, FLOAT32), others=n_rows * x.elements, passes_on=True
        )

    def add(self, name: str, x: Activation, branch: Activation) -> Activation:
        """The sum, in the wider precision of the two."""
        summed = Activation(x.elements, max(x.element_bytes, branch.element_bytes))
        return self.did(name, (x, branch), summed, passes_on=True)

    def scale(self, name: str, x: Activation) -> Activation:
        """`x` times a plain number."""
        return self.did(name, (x,), Activation(x.elements, x.element_bytes))

    def split(self, name: str, x: Activation, *widths: Size) -> tuple[Activation, ...]:
        """Parts of `x` side by side, in its storage."""
        parts = tuple(Activation(width, x.element_bytes, part_of=x) for width in widths)
        self.did(name, (x,), parts[0], also=parts[1:])
        return parts

    def copied(self, name: str, x: Activation, elements: Size = None) -> Activation:
        """`x` in another order, or as often as it is needed, or with zeros behind it."""
        return self.did(name, (x,), Activation(x.elements if elements is None else elements, x.element_bytes))

    def clamp(self, name: str, x: Activation) -> Activation:
        """`x` cut off on both sides. Compiled, where that is so is a byte each."""
        kept = Activation(x.elements, BOOL) if self.backend.compiled else x
        return self.did(name, (x,), Activation(x.elements, x.element_bytes), ("unclamped", kept))

    def rotate(self, name: str, x: Activation) -> Activation:
        """Heads turned in float32, and back in the precision of matmuls."""
        if self.backend.compiled:
            return self.did(name, (x,), Activation(x.elements, self.backend.matmul_bytes))
        # The halves of the gradient, times cosine and times sine.
        turned = self.did(name, (x,), Activation(x.elements, FLOAT32), scratch_bytes=x.elements * FLOAT32)
        return self.for_matmul(name, turned)

    def norm(
        self, name: str, x: Activation, m: Dims, *, n_rows: Size = 1, scale: Size = None, per_head: bool = False,
        bias: bool | None = None,
    ) -> Activation:  # fmt: skip
        """RMSNorm or LayerNorm of `n_rows` rows per token, with a scale of so many elements or of as many as
        `x`; with `per_head` the rows have scales of their own. `bias` overrules the model's."""
        compiled, on_cuda = self.backend.compiled, self.backend.device == "cuda"
        shift = m.norm_bias if bias is None else bias
        learned = (x.elements if scale is None else scale) * (m.norm_weight + shift)
        in_float32 = m.norm_weight or (on_cuda and self.backend.bf16)
        out_bytes = FLOAT32 if in_float32 else x.element_bytes
        if m.norm == "rmsnorm" and not on_cuda and not compiled:
            normed = self._rms_norm_in_steps(name, x, n_rows)
            return (
                self._scaled(name, normed, learned) if m.norm_weight else self.cast(name, normed, out_bytes)
            )
        taken = x if compiled else self.cast(name, x, out_bytes)
        rstd, mean = (Activation(n_rows, FLOAT32 if compiled else out_bytes) for _ in range(2))
        kept = [("input", taken), ("rstd", rstd)] + [("mean", mean)] * (m.norm == "layernorm")
        apart = m.norm_weight and per_head and not compiled
        others = 0 if apart else learned
        normed = self.did(name, (taken,), Activation(x.elements, out_bytes), *kept, others=others)
        return self._scaled(name, normed, learned) if apart else normed

    def _rms_norm_in_steps(self, name: str, x: Activation, n_rows: Size) -> Activation:
        """What torch does where it has no kernel for it: each step by itself, in float32."""
        taken, rstd, normed = (
            self.cast(name, x, FLOAT32),
            Activation(n_rows, FLOAT32),
            Activation(x.elements, FLOAT32),
        )
        kept = (("input", taken), ("rstd", rstd))
        # Backward through the mean of squares: the mean's gradient, x once more, and twice that.
        self.did(name, (taken,), rstd, *kept, scratch_bytes=3 * taken.bytes)
        return self.did(name, (taken, rstd), normed, *kept, scratch_bytes=normed.bytes)

    def _scaled(self, name: str, normed: Activation, learned: Size) -> Activation:
        """Times a learned scale, as a step of its own."""
        return self.did(
            name, (normed,), Activation(normed.elements, FLOAT32), ("normed", normed), others=learned,
            scratch_bytes=normed.bytes,
        )  # fmt: skip

    def activation(self, name: str, x: Activation, kind: str) -> Activation:
        """An activation of the FFN; `relu2` and `quick_gelu` are several steps."""
        out = Activation(x.elements, x.element_bytes)
        if kind == "quick_gelu" and not self.backend.compiled:
            bent = self.did(name, (self.scale(name, x),), out, ("sigmoid", out))
            bowed = Activation(x.elements, x.element_bytes)
            return self.did(name, (x, bent), bowed, ("activation_input", x), ("sigmoid", bent))
        if self.backend.compiled:
            # Of what ReLU takes only the sign is needed: one byte each.
            needed = ("positive", Activation(x.elements, BOOL)) if kind == "relu" else ("activation_input", x)
            return self.did(name, (x,), out, needed)
        if not kind.startswith("relu"):
            return self.did(name, (x,), out, ("activation_input", x))
        self.did(name, (x,), out, ("positive", out))
        if kind == "relu":
            return out
        squared = Activation(x.elements, x.element_bytes)
        return self.did(name, (out,), squared, ("positive", out), scratch_bytes=2 * x.bytes)

    def multiply(self, name: str, gate: Activation, up: Activation) -> Activation:
        """A gate times what goes through it. A compiled pass activates the gate here, and once more in the
        backward pass."""
        return self.did(
            name,
            (gate, up),
            Activation(up.elements, up.element_bytes),
            ("gate_output", gate),
            ("up_output", up),
        )

    def softcap(self, name: str, logits: Activation) -> Activation:
        """cap * tanh(logits / cap)."""
        if self.backend.compiled:
            return self.scale(name, logits)
        bent = Activation(logits.elements, logits.element_bytes)
        self.did(name, (logits,), bent, ("tanh", bent))
        return self.scale(name, bent)

    def cross_entropy(self, name: str, logits: Activation, *, z_loss: bool) -> Activation:
        """The loss of every token, in float32 and summed; with the z-loss as well."""
        targets, loss = ("targets", Activation(1, INT64)), Activation(0, FLOAT32)
        given, logsumexp = ("logits", logits), Activation(1, FLOAT32)
        if self.backend.compiled:
            largest = Activation(1, FLOAT32)
            return self.did(name, (logits,), loss, given, ("largest", largest), ("logsumexp", logsumexp))
        kept = ("log_probabilities", Activation(logits.elements, FLOAT32))
        self.did(name, (logits,), kept[1], kept)
        self.did(name, (kept[1],), loss, kept, targets)
        if not z_loss:
            return loss
        self.did(name, (logits,), logsumexp, given, ("logsumexp", logsumexp), scratch_bytes=2 * logits.bytes)
        penalty = self.did(name, (logsumexp,), Activation(0, FLOAT32))
        return self.add(name, loss, penalty)

    def did(
        self,
        name: str,
        inputs: tuple[Activation, ...],
        output: Activation,
        *keeps: tuple[str, Activation],
        **facts: Any,
    ) -> Activation:
        """Note an operation, with what it keeps and what it is there; returns its output."""
        self.ops.append(Op(name, inputs, output, tuple((what, x.stored) for what, x in keeps), **facts))
        return output


def total_bytes(values: Iterable[Activation]) -> Size:
    """Per token, each value once."""
    return sum((value.bytes for value in set(values)), start=0)


def largest(sizes: Iterable[Size]) -> Size:
    """Plain ints stay plain: they do not overflow."""
    return reduce(lambda a, b: np.maximum(a, b) if _are_arrays(a, b) else max(a, b), sizes)


def smallest(sizes: Iterable[Size]) -> Size:
    """Plain ints stay plain."""
    return reduce(lambda a, b: np.minimum(a, b) if _are_arrays(a, b) else min(a, b), sizes)


def _are_arrays(a: Size, b: Size) -> bool:
    return isinstance(a, np.ndarray) or isinstance(b, np.ndarray)
