"""Operations of a training step in sizes: what each of them produces and saves for its backward pass.

The operations are those of PyTorch 2.13: what they save is in its derivatives.yaml, what runs in float32
under autocast in ATen/autocast_mode.h. A compiled forward pass saves what the min-cut partitioner leaves:
inputs of matmuls and norms, attention, and the statistics of norms; everything element-wise in between is
recomputed. Sizes are elements per token and may be arrays.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np

from parambudget.arch.dims import Dims, Size
from parambudget.cost.step import BFLOAT16, BOOL, FLOAT32, INT64, Backend, MatmulWeights

Cheap = Literal["elementwise", "any kernel"]
"""elementwise: in code that is fused into what needs the output; any kernel: in one of its own, or in
operations that torch fuses but does not count among the cheap ones."""


@dataclass(frozen=True, eq=False)
class Activation:
    """A tensor with a storage of its own; its views are the same activation."""

    elements: Size
    """Per token."""
    element_bytes: int
    part_of: "Activation | None" = None
    """The activation whose storage this is a part of: to save the part is to save all of that."""

    @property
    def bytes(self) -> Size:
        """Per token."""
        return self.elements * self.element_bytes

    @property
    def storage(self) -> "Activation":
        """What is saved with it."""
        return self if self.part_of is None else self.part_of.storage


@dataclass(frozen=True, eq=False)
class Op:
    """One node of the graph."""

    name: str
    """The module that runs it, with * for the number of a layer."""
    inputs: tuple[Activation, ...]
    """What its backward computes gradients of."""
    output: Activation
    saved: tuple[tuple[str, Activation], ...] = ()
    """What it saves for its backward, by what that is there."""
    is_matmul: bool = False
    """It multiplies with a weight."""
    matrix_elements: Size = 0
    """Of that weight."""
    other_parameters: Size = 0
    """Elements of its other parameters."""
    cheap: Cheap | None = None
    """How cheap it is to compute its output again from its inputs and the numbers of each row that it saves;
    None where that takes a matmul, or where torch saves the output."""
    passes_gradient_on: bool = False
    """The gradient of its output is that of its inputs, unchanged."""
    overwrites_input: bool = False
    """The gradient of its input is written where its input lies, which is saved."""
    scratch_bytes: Size = 0
    """Per token: what its backward allocates beside gradients."""
    other_outputs: tuple[Activation, ...] = ()
    """Their gradients go into its backward too."""
    referenced_by_callers: tuple[Activation, ...] = ()
    """What its callers still refer to while it runs forward, where that is much and not saved."""
    has_leaf: bool = False
    """Its matrix is a bfloat16 leaf, which is there beside the parameters all the time."""
    joins_gradients: bool = False
    """The gradients of its outputs are written where that of its input lies."""
    is_middle_expert: bool = False
    """It stands for many that run one after another, none of which holds more than the first or the last,
    which are ops of their own."""
    stacked_elements: Size | None = None
    """Elements of the tensor of many matrices whose gradient its backward puts together; 0 where it is one of
    these and another op does that; None where its matrix is a parameter by itself."""

    @property
    def has_weight_copy(self) -> bool:
        """Whether it multiplies with a bfloat16 copy of its matrix, and saves that."""
        return self.is_matmul and not self.has_leaf and self.output.element_bytes == BFLOAT16

    @property
    def autocast_caches_copy(self) -> bool:
        """Whether autocast itself keeps that copy until the loss is there, saved or not."""
        return self.has_weight_copy and self.stacked_elements is None

    def gradient_bytes(self, backend: Backend) -> Size:
        """Of its parameters, once they are complete.

        A compiled backward pass hands over all of its gradients at its end, and only then become those of
        leaves float32.
        """
        matrix = BFLOAT16 if self.has_leaf and backend.compiled else FLOAT32
        return self.matrix_elements * matrix + self.other_parameters * FLOAT32

    @property
    def saved_storages(self) -> set[Activation]:
        """Each once."""
        return {value.storage for _, value in self.saved}


class OpGraph:
    """Operations in the order in which they run."""

    def __init__(
        self, backend: Backend, matmul_weights: MatmulWeights = "separate", *, single_sequence: bool = False
    ) -> None:
        self.backend, self.matmul_weights = backend, matmul_weights
        # The heads of a single sequence need no copy in another layout to be multiplied.
        self.single_sequence = single_sequence
        self.ops: list[Op] = []

    def record(self, op: Op) -> Activation:
        """Append an operation; returns its output."""
        self.ops.append(op)
        return op.output

    def cast(self, name: str, x: Activation, element_bytes: int) -> Activation:
        """`x` in another precision; itself where it has that already."""
        if x.element_bytes == element_bytes:
            return x
        return self.record(Op(name, (x,), Activation(x.elements, element_bytes), cheap="elementwise"))

    def cast_for_matmul(self, name: str, x: Activation) -> Activation:
        """`x` in the precision of matmuls."""
        return self.cast(name, x, self.backend.matmul_bytes)

    def cast_to_float32(self, name: str, x: Activation) -> Activation:
        """`x` in float32; a compiled pass casts as it reads and stores nothing."""
        return x if self.backend.compiled else self.cast(name, x, FLOAT32)

    def linear(self, name: str, x: Activation, out: Size, *, bias: bool, has_leaf: bool = True) -> Activation:
        """Every token times a matrix, perhaps with a bias. Without `has_leaf` it never has one."""
        return self.record(
            Op(
                name, (x,), Activation(out, self.backend.matmul_bytes), saved=(("input", x),),
                is_matmul=True, matrix_elements=x.elements * out, other_parameters=out if bias else 0,
                has_leaf=has_leaf and self.matmul_weights == "leaves",
            )
        )  # fmt: skip

    def linears(
        self, name: str, x: Activation, outs: Mapping[str, Size], *, bias: bool
    ) -> tuple[Activation, ...]:
        """Several matrices times the same input, as one product where weights are joined."""
        if self.matmul_weights == "separate":
            return tuple(self.linear(f"{name}.{which}", x, out, bias=bias) for which, out in outs.items())
        whole = self.linear(name, x, sum(outs.values()), bias=bias)
        return self.split(name, whole, *outs.values(), joins_gradients=self.backend.compiled)

    def product(self, name: str, a: Activation, b: Activation, out: Size) -> Activation:
        """A product of two activations."""
        output = Activation(out, self.backend.matmul_bytes)
        return self.record(Op(name, (a, b), output, saved=(("left", a), ("right", b))))

    def look_up(self, name: str, n_rows: Size, width: Size) -> Activation:
        """A row of a table for every token."""
        return self.record(Op(name, (), Activation(width, FLOAT32), other_parameters=n_rows * width))

    def add_positions(self, name: str, x: Activation, n_rows: Size) -> Activation:
        """`x` plus a row of a table."""
        output = Activation(x.elements, FLOAT32)
        return self.record(
            Op(name, (x,), output, other_parameters=n_rows * x.elements, passes_gradient_on=True)
        )

    def add(self, name: str, x: Activation, branch: Activation) -> Activation:
        """The sum, in the wider precision of the two."""
        output = Activation(x.elements, max(x.element_bytes, branch.element_bytes))
        return self.record(Op(name, (x, branch), output, passes_gradient_on=True, cheap="elementwise"))

    def scale(self, name: str, x: Activation) -> Activation:
        """`x` times a constant."""
        return self.record(Op(name, (x,), Activation(x.elements, x.element_bytes), cheap="elementwise"))

    def split(
        self, name: str, x: Activation, *widths: Size, joins_gradients: bool = False
    ) -> tuple[Activation, ...]:
        """Parts of `x` side by side, in its storage."""
        parts = tuple(Activation(width, x.element_bytes, part_of=x) for width in widths)
        self.record(Op(name, (x,), parts[0], other_outputs=parts[1:], joins_gradients=joins_gradients))
        return parts

    def copy(self, name: str, x: Activation, elements: Size | None = None) -> Activation:
        """`x` in another layout, repeated, or padded with zeros."""
        size = x.elements if elements is None else elements
        return self.record(Op(name, (x,), Activation(size, x.element_bytes), cheap="any kernel"))

    def clamp(self, name: str, x: Activation) -> Activation:
        """`x` limited on both sides. A compiled pass saves one byte per element: whether it was within."""
        saved = Activation(x.elements, BOOL) if self.backend.compiled else x
        output = Activation(x.elements, x.element_bytes)
        return self.record(
            Op(
                name,
                (x,),
                output,
                saved=(("unclamped", saved),),
                cheap="elementwise" if self.backend.compiled else None,
            )
        )

    def rotate(self, name: str, x: Activation) -> Activation:
        """Heads rotated in float32, and cast back to the precision of matmuls."""
        if self.backend.compiled:
            rotated = Activation(x.elements, self.backend.matmul_bytes)
            return self.record(Op(name, (x,), rotated, cheap="any kernel"))
        # The halves of the gradient, times cosine and times sine.
        rotated = Activation(x.elements, FLOAT32)
        self.record(Op(name, (x,), rotated, scratch_bytes=x.elements * FLOAT32))
        return self.cast_for_matmul(name, rotated)

    def norm(
        self, name: str, x: Activation, m: Dims, *, n_rows: Size = 1, scale: Size | None = None,
        per_head: bool = False, weight: bool | None = None, bias: bool | None = None,
    ) -> Activation:  # fmt: skip
        """RMSNorm or LayerNorm of `n_rows` rows per token, with a scale of `scale` elements, or of as many as
        `x` has; with `per_head` each row has a scale of its own. `weight` and `bias` override the model's.

        Computed in float32 and returned in the precision of matmuls; a compiled pass casts as it writes."""
        compiled, on_cuda = self.backend.compiled, self.backend.device == "cuda"
        shift = m.norm_bias if bias is None else bias
        weighted = m.norm_weight if weight is None else weight
        learned = (x.elements if scale is None else scale) * (weighted + shift)
        in_float32 = weighted or (on_cuda and self.backend.bf16)
        out_bytes = FLOAT32 if in_float32 else x.element_bytes
        if m.norm == "rmsnorm" and not on_cuda and not compiled:
            normed = self._decomposed_rms_norm(name, x, n_rows)
            if weighted:
                normed = self._scale_by_weight(name, normed, learned)
            return self.cast_for_matmul(name, normed)
        if compiled:
            out_bytes = self.backend.matmul_bytes
        source = x if compiled else self.cast(name, x, out_bytes)
        rstd, mean = (Activation(n_rows, FLOAT32 if compiled else out_bytes) for _ in range(2))
        saved = [("input", source), ("rstd", rstd)] + [("mean", mean)] * (m.norm == "layernorm")
        has_own_scale_op = weighted and per_head and not compiled
        normed = self.record(
            Op(
                name, (source,), Activation(x.elements, out_bytes), saved=tuple(saved),
                other_parameters=0 if has_own_scale_op else learned,
                cheap="elementwise" if compiled else None,
            )
        )  # fmt: skip
        if has_own_scale_op:
            normed = self._scale_by_weight(name, normed, learned)
        return self.cast_for_matmul(name, normed)

    def _decomposed_rms_norm(self, name: str, x: Activation, n_rows: Size) -> Activation:
        """What torch runs where it has no kernel for it: each step by itself, in float32."""
        source, rstd = self.cast(name, x, FLOAT32), Activation(n_rows, FLOAT32)
        normed = Activation(x.elements, FLOAT32)
        saved = (("input", source), ("rstd", rstd))
        # Backward through the mean of squares: the mean's gradient, x once more, and twice that.
        self.record(Op(name, (source,), rstd, saved=saved, scratch_bytes=3 * source.bytes))
        return self.record(Op(name, (source, rstd), normed, saved=saved, scratch_bytes=normed.bytes))

    def _scale_by_weight(self, name: str, normed: Activation, learned: Size) -> Activation:
        """Times a learned scale, as an operation of its own."""
        return self.record(
            Op(
                name, (normed,), Activation(normed.elements, FLOAT32), saved=(("normed", normed),),
                other_parameters=learned, scratch_bytes=normed.bytes,
            )
        )  # fmt: skip

    def activation(self, name: str, x: Activation, kind: str) -> Activation:
        """An activation function of the FFN; `relu2` and `quick_gelu` are several operations."""
        out = Activation(x.elements, x.element_bytes)
        if kind == "quick_gelu" and not self.backend.compiled:
            sigmoid = self.record(Op(name, (self.scale(name, x),), out, saved=(("sigmoid", out),)))
            output = Activation(x.elements, x.element_bytes)
            return self.record(
                Op(name, (x, sigmoid), output, saved=(("activation_input", x), ("sigmoid", sigmoid)))
            )
        if kind == "xielu" and not self.backend.compiled:
            return self._xielu(f"{name}.activation", x)
        if self.backend.compiled:
            # ReLU needs only the sign: one byte per element.
            positive = ("positive", Activation(x.elements, BOOL))
            needed = positive if kind == "relu" else ("activation_input", x)
            learned = 2 if kind == "xielu" else 0
            return self.record(
                Op(name, (x,), out, saved=(needed,), cheap="elementwise", other_parameters=learned)
            )
        if not kind.startswith("relu"):
            return self.record(Op(name, (x,), out, saved=(("activation_input", x),)))
        self.record(Op(name, (x,), out, saved=(("positive", out),)))
        if kind == "relu":
            return out
        squared = Activation(x.elements, x.element_bytes)
        return self.record(Op(name, (out,), squared, saved=(("positive", out),), scratch_bytes=2 * x.bytes))

    def _xielu(self, name: str, x: Activation) -> Activation:
        """xIELU written out: two branches, each times a learned number, one chosen for each element."""
        source, like = ("activation_input", x), (x.elements, x.element_bytes)
        square, least, exponential, difference = (Activation(*like) for _ in range(4))
        positive, negative, chosen, linear, out = (Activation(*like) for _ in range(5))
        # A comparison takes a byte each; the gradient of a learned number is a product before it is a sum.
        mask, product = Activation(x.elements, BOOL), {"other_parameters": 1, "scratch_bytes": x.bytes}
        self.record(Op(name, (x,), square, saved=(source,), scratch_bytes=2 * x.bytes))
        self.record(Op(name, (square,), positive, saved=(("square", square),), **product))
        self.record(Op(name, (x,), least, saved=(source,), scratch_bytes=x.bytes + 2 * mask.bytes))
        of_least = (("exponential", exponential),)
        self.record(Op(name, (least,), exponential, saved=of_least, scratch_bytes=x.bytes))
        self.record(Op(name, (exponential, x), difference))
        self.record(Op(name, (difference,), negative, saved=(("difference", difference),), **product))
        self.record(Op(name, (positive, negative), chosen, saved=(("mask", mask),)))
        self.record(Op(name, (x,), linear))
        branches = (positive, negative)  # variables of the module until it returns
        return self.record(
            Op(name, (chosen, linear), out, passes_gradient_on=True, referenced_by_callers=branches)
        )

    def multiply(self, name: str, gate: Activation, up: Activation) -> Activation:
        """A gate times what it gates. A compiled pass applies the activation function of the gate here, and
        again in the backward pass."""
        output = Activation(up.elements, up.element_bytes)
        saved = (("gate_output", gate), ("up_output", up))
        return self.record(Op(name, (gate, up), output, saved=saved, cheap="elementwise"))

    def softcap(self, name: str, logits: Activation) -> Activation:
        """cap * tanh(logits / cap)."""
        if self.backend.compiled:
            return self.scale(name, logits)
        tanh = Activation(logits.elements, logits.element_bytes)
        self.record(Op(name, (logits,), tanh, saved=(("tanh", tanh),)))
        return self.scale(name, tanh)

    def cross_entropy(self, name: str, logits: Activation, *, z_loss: bool) -> Activation:
        """The loss of every token, in float32 and summed, perhaps with the z-loss."""
        targets, loss = ("targets", Activation(1, INT64)), Activation(0, FLOAT32)
        source, logsumexp = ("logits", logits), Activation(1, FLOAT32)
        if self.backend.compiled:
            row_maximum = Activation(1, FLOAT32)
            saved = (source, ("largest", row_maximum), ("logsumexp", logsumexp))
            # Inductor may write to what only the backward pass still refers to (`donated_buffer`): the last
            # kernel that reads the logits writes their gradient, element by element in their place.
            return self.record(Op(name, (logits,), loss, saved=saved, overwrites_input=True))
        log_probabilities = Activation(logits.elements, FLOAT32)
        label = ("log_probabilities", log_probabilities)
        self.record(Op(name, (logits,), log_probabilities, saved=(label,)))
        self.record(Op(name, (log_probabilities,), loss, saved=(label, targets)))
        if not z_loss:
            return loss
        self.record(
            Op(
                name, (logits,), logsumexp, saved=(source, ("logsumexp", logsumexp)),
                scratch_bytes=2 * logits.bytes,
            )
        )  # fmt: skip
        penalty = self.record(Op(name, (logsumexp,), Activation(0, FLOAT32)))
        return self.add(name, loss, penalty)


def total_bytes(activations: Iterable[Activation]) -> Size:
    """Per token, each once."""
    return sum((activation.bytes for activation in set(activations)), start=0)


def largest(sizes: Iterable[Size]) -> Size:
    """The maximum, element by element of arrays; plain ints stay plain and do not overflow."""
    return reduce(lambda a, b: np.maximum(a, b) if _are_arrays(a, b) else max(a, b), sizes)


def smallest(sizes: Iterable[Size]) -> Size:
    """The minimum, element by element of arrays; plain ints stay plain."""
    return reduce(lambda a, b: np.minimum(a, b) if _are_arrays(a, b) else min(a, b), sizes)


def _are_arrays(a: Size, b: Size) -> bool:
    return isinstance(a, np.ndarray) or isinstance(b, np.ndarray)
