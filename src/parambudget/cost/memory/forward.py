"""The forward pass of the model that `nn.transformer` builds, and of the trainer's loss, told in sizes.

Written after that module and never made from it: tests hold what is kept here against what autograd keeps
there, storage by storage.
"""

from dataclasses import dataclass

import numpy as np

from parambudget.arch.dims import Dims, Size
from parambudget.arch.layers import Kind, kinds
from parambudget.cost.attended import attention
from parambudget.cost.memory.graph import FLOAT32, Kernels, Op, Tape, Value, total_bytes
from parambudget.cost.routed import experts, feed_forward
from parambudget.cost.sizes import largest

LAYER = "layers.*"


@dataclass(frozen=True)
class Part:
    """Operations in a row."""

    input: Value
    ops: tuple[Op, ...]
    output: Value
    variables: tuple[Value, ...] = ()
    """What the function still refers to when it ends, kept or not."""

    @property
    def kept(self) -> dict[Value, str]:
        """Each storage that is kept for the backward pass, by who keeps it first and what it is there."""
        first: dict[Value, str] = {}
        for op in self.ops:
            for label, value in op.keeps:
                first.setdefault(value, f"{op.name}.{label}".lstrip("."))
        return first

    @property
    def kept_bytes(self) -> Size:
        """Per token."""
        return total_bytes(self.kept)

    @property
    def parameters(self) -> Size:
        """Elements of what it multiplies with, looks up or adds."""
        return sum((op.matrix + op.others for op in self.ops), start=0)

    @property
    def copied(self) -> Size:
        """Elements of the matrices that it multiplies with bfloat16 copies of."""
        return sum((op.matrix for op in self.ops if op.copies), start=0)

    @property
    def cached(self) -> Size:
        """Of those the ones that autocast itself holds on to."""
        return sum((op.matrix for op in self.ops if op.cached), start=0)


@dataclass(frozen=True)
class Forward:
    """A pass in parts, one for each kind of layers."""

    embedding: Part
    layers: dict[Kind, Part]
    end: Part
    """From the last layer to what the output head multiplies."""
    loss: Part

    @property
    def layer_parameters(self) -> Size:
        """Elements of the largest layer."""
        return largest(part.parameters for part in self.layers.values())


def forward(
    m: Dims, kernels: Kernels, head_rows: Size, n_sequences: Size = 2, *, z_loss: bool = False
) -> Forward:
    """The pass of `m` over so many sequences, its output head multiplied as if it had `head_rows`."""
    alone = np.array_equal(n_sequences, 1)
    # The residual stream is float32 from the embedding on, under autocast too.
    between = Value(m.dim, FLOAT32)
    end = _end(m, between, kernels)
    loss = _loss(m, end.output, kernels, head_rows, z_loss=z_loss)
    layers = {kind: _layer(m, kind, between, Tape(kernels, alone=alone)) for kind in kinds(m)}
    return Forward(_embedding(m, kernels), layers, end, loss)


def _embedding(m: Dims, kernels: Kernels) -> Part:
    tape = Tape(kernels)
    x = tape.look_up("embed", m.vocab_size, _width(m))
    if m.embedding_multiplier != 1:
        x = tape.scale("", x)
    if m.embedding_dim is not None:
        x = tape.linear("project_in", tape.for_matmul("project_in", x), m.dim, bias=False)
        x = tape.in_float32("", x)
    if m.embedding_norm:
        x = tape.norm("embed_norm", x, m)
    x = tape.cast("", x, FLOAT32)
    if m.position == "learned":
        x = tape.shift("", x, m.context_length + m.position_offset)
    return Part(Value(0, FLOAT32), tuple(tape.ops), x)


def _width(m: Dims) -> Size:
    """Of the table of tokens, and of what the head multiplies."""
    return m.dim if m.embedding_dim is None else m.embedding_dim


def _layer(m: Dims, kind: Kind, x: Value, tape: Tape) -> Part:
    before, behind = m.norm_placement != "reordered", m.norm_placement in ("reordered", "sandwich")

    def branch(which: str, taken: Value) -> Value:
        name = f"{LAYER}.{which}"
        if which == "attention":
            out = attention(tape, m, name, taken, kind)
        elif kind.experts:
            out = experts(tape, m, name, taken)
        else:
            out = feed_forward(tape, m, name, taken, m.intermediate_size)
        if behind:
            out = tape.norm(f"{LAYER}.{which}_out_norm", out, m)
        return out if m.residual_multiplier == 1 else tape.scale(LAYER, out)

    def normed(which: str, taken: Value) -> Value:
        return tape.norm(f"{LAYER}.{which}_norm", taken, m)

    def ready(which: str, taken: Value) -> Value:
        return tape.for_matmul(LAYER, normed(which, taken) if before else taken)

    if m.norm_placement == "post":
        between = normed("attention", tape.add(LAYER, x, branch("attention", tape.for_matmul(LAYER, x))))
        out = normed("ffn", tape.add(LAYER, between, branch("ffn", tape.for_matmul(LAYER, between))))
        return Part(x, tuple(tape.ops), out, variables=(between,))
    first = ready("attention", x)
    attended = branch("attention", first)
    between = tape.add(LAYER, x, attended)
    if m.block == "parallel_shared_norm":
        second = first
    else:
        second = ready("ffn", between if m.block == "sequential" else x)
    out = tape.add(LAYER, between, branch("ffn", second))
    return Part(x, tuple(tape.ops), out, variables=(attended, between))


def _end(m: Dims, x: Value, kernels: Kernels) -> Part:
    tape = Tape(kernels)
    normed = tape.norm("norm", x, m) if m.final_norm else x
    out = tape.for_matmul("", normed)
    if m.embedding_dim is not None:
        out = tape.linear("project_out", out, _width(m), bias=False)
    return Part(x, tuple(tape.ops), out)


def _loss(m: Dims, x: Value, kernels: Kernels, head_rows: Size, *, z_loss: bool) -> Part:
    tape = Tape(kernels)
    logits = tape.linear("lm_head", x, head_rows, bias=m.head_bias)
    if m.logit_multiplier != 1:
        logits = tape.scale("", logits)
    if m.logit_softcap is not None:
        logits = tape.softcap("", logits)
    logits = tape.in_float32("", logits)
    out = tape.cross_entropy("", logits, z_loss=z_loss)
    return Part(x, tuple(tape.ops), out, variables=(logits,))
