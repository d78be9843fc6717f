"""The forward pass of the model that `build.module` builds, and of the trainer's loss, told in sizes.

Written after that module and never made from it: tests hold what is kept here against what autograd keeps
there, storage by storage.
"""

from dataclasses import dataclass

from parambudget.arch.dims import Dims, Size
from parambudget.cost.tape import FLOAT32, Kernels, Op, Tape, Value, total_bytes
from parambudget.cost.untold import require_told

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


@dataclass(frozen=True)
class Forward:
    """A pass in four parts, of which the second stands for every layer."""

    embedding: Part
    layer: Part
    end: Part
    """From the last layer to what the output head multiplies."""
    loss: Part

    @property
    def parts(self) -> tuple[Part, ...]:
        """In the order in which they run."""
        return self.embedding, self.layer, self.end, self.loss


def forward(m: Dims, kernels: Kernels, *, head_rows: Size, z_loss: bool = False) -> Forward:
    """The pass of `m`, whose output head is multiplied as if it had `head_rows`."""
    require_told(m)
    # The residual stream is float32 from the embedding on, under autocast too.
    between = Value(m.dim, FLOAT32)
    end = _end(m, between, kernels)
    loss = _loss(m, end.output, kernels, head_rows, z_loss=z_loss)
    return Forward(_embedding(m, kernels), _layer(m, between, kernels), end, loss)


def _embedding(m: Dims, kernels: Kernels) -> Part:
    tape = Tape(kernels)
    x = tape.look_up("embed", m.vocab_size, m.dim)
    if m.embedding_multiplier != 1:
        x = tape.scale("embed", x)
    if m.position == "learned":
        x = tape.shift("position", x, m.context_length)
    return Part(Value(0, FLOAT32), tuple(tape.ops), x)


def _layer(m: Dims, x: Value, kernels: Kernels) -> Part:
    tape = Tape(kernels)
    before, behind = m.norm_placement != "reordered", m.norm_placement in ("reordered", "sandwich")

    def branch(which: str, taken: Value) -> Value:
        out = _attention(tape, m, taken) if which == "attention" else _ffn(tape, m, taken)
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


def _attention(tape: Tape, m: Dims, x: Value) -> Value:
    name, queries, keys = f"{LAYER}.attention", m.n_heads * m.head_dim, m.n_kv_heads * m.head_dim
    v = tape.linear(f"{name}.v", x, keys, bias=m.qkv_bias)
    q = _turned(tape, m, "q", tape.linear(f"{name}.q", x, queries, bias=m.qkv_bias), m.n_heads)
    k = _turned(tape, m, "k", tape.linear(f"{name}.k", x, keys, bias=m.qkv_bias), m.n_kv_heads)
    return tape.linear(
        f"{name}.out", tape.attention(name, q, k, v, m.n_heads), m.dim, bias=m.attention_out_bias
    )


def _turned(tape: Tape, m: Dims, which: str, flat: Value, n_heads: Size) -> Value:
    name = f"{LAYER}.attention"
    if m.qk_norm != "none":
        flat = tape.norm(
            f"{name}.{which}_norm", flat, m, n_rows=1 if m.qk_norm == "full" else n_heads,
            scale=m.head_dim if m.qk_norm == "head" else None, per_head=m.qk_norm == "per_head",
        )  # fmt: skip
    return tape.rotate(name, flat) if m.position == "rotary" else tape.for_matmul(name, flat)


def _ffn(tape: Tape, m: Dims, x: Value) -> Value:
    name = f"{LAYER}.ffn"
    if m.gated:
        gate = tape.linear(f"{name}.gate", x, m.intermediate_size, bias=m.ffn_bias)
        if not tape.kernels.compiled:
            gate = tape.activation(name, gate, m.activation)
        up = tape.linear(f"{name}.up", x, m.intermediate_size, bias=m.ffn_bias)
        inner = tape.multiply(name, gate, up)
    else:
        up = tape.linear(f"{name}.up", x, m.intermediate_size, bias=m.ffn_bias)
        inner = tape.activation(name, up, m.activation)
    return tape.linear(f"{name}.down", inner, m.dim, bias=m.ffn_bias)


def _end(m: Dims, x: Value, kernels: Kernels) -> Part:
    tape = Tape(kernels)
    normed = tape.norm("norm", x, m) if m.final_norm else x
    out = tape.for_matmul("", normed)
    return Part(x, tuple(tape.ops), out)


def _loss(m: Dims, x: Value, kernels: Kernels, head_rows: Size, *, z_loss: bool) -> Part:
    tape = Tape(kernels)
    logits = tape.linear("lm_head", x, head_rows, bias=m.head_bias)
    if m.logit_softcap is not None:
        logits = tape.softcap("", logits)
    logits = tape.in_float32("", logits)
    out = tape.cross_entropy("", logits, z_loss=z_loss)
    return Part(x, tuple(tape.ops), out, variables=(logits,))
