"""The forward pass of the model that `nn.transformer` builds, and of the trainer's loss, told in sizes.

Written after that module and never made from it: tests hold what is kept here against what autograd keeps
there, storage by storage.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parambudget.arch.dims import Dims, Size
from parambudget.arch.layers import Kind, kinds, masked, written_out
from parambudget.cost.memory.graph import Activation, Op, OpGraph, largest, total_bytes
from parambudget.cost.step import FLOAT32, INT64, Backend


def attention(tape: OpGraph, m: Dims, name: str, x: Activation, kind: Kind) -> Activation:
    """What every token gathers from itself and the ones before it."""
    gathered = _latent(tape, m, name, x, kind) if m.mla else _grouped(tape, m, name, x, kind)
    return tape.linear(f"{name}.out", gathered, m.dim, bias=m.attention_out_bias)


def _grouped(tape: OpGraph, m: Dims, name: str, x: Activation, kind: Kind) -> Activation:
    queries, keys = m.n_heads * m.head_dim, m.n_kv_heads * m.head_dim

    def projected(which: str, out: Size) -> Activation:
        flat = tape.linear(f"{name}.{which}", x, out, bias=m.qkv_bias)
        # A compiled norm cuts off what it takes, and does so again.
        normed = tape.backend.compiled and m.qk_norm != "none" and which != "v"
        return flat if m.qkv_clip is None or normed else tape.clamp(name, flat)

    def turned(which: str, flat: Activation, n_heads: Size) -> Activation:
        if m.qk_norm != "none":
            flat = tape.norm(
                f"{name}.{which}_norm", flat, m, n_rows=1 if m.qk_norm == "full" else n_heads,
                scale=m.head_dim if m.qk_norm == "head" else None, per_head=m.qk_norm == "per_head",
                bias=m.qk_norm_bias,
            )  # fmt: skip
        return tape.rotate(name, flat) if kind.rotates else tape.for_matmul(name, flat)

    v = projected("v", keys)
    q = turned("q", projected("q", queries), m.n_heads)
    k = turned("k", projected("k", keys), m.n_kv_heads)
    given = (q, k, v)
    if kind.masked and not np.array_equal(m.n_heads, m.n_kv_heads):
        k, v = (tape.copied(name, each, queries) for each in (k, v))
    if written_out(m):
        one = tape.alone or np.array_equal(m.n_heads, 1)
        q, k, v = (each if one else tape.copied(name, each) for each in (q, k, v))
        # Values of groups are repeated before there are scores, others laid out anew behind them.
        beside = given if np.array_equal(m.n_heads, m.n_kv_heads) else (*given, v)
        return _written_out(tape, m, name, (q, k, v), queries, beside)
    return _by_kernel(tape, name, (q, k, v), m.n_heads)


def _latent(tape: OpGraph, m: Dims, name: str, x: Activation, kind: Kind) -> Activation:
    mla, n_heads = m.mla, m.n_heads
    width, two = mla.qk_nope_head_dim + mla.qk_rope_head_dim, mla.qk_nope_head_dim + mla.v_head_dim
    down = tape.linear(f"{name}.kv_down", x, mla.kv_lora_rank + mla.qk_rope_head_dim, bias=m.qkv_bias)
    latent, key = tape.split(name, down, mla.kv_lora_rank, mla.qk_rope_head_dim)
    if kind.rotates:
        key = tape.rotate(name, key)
    latent = tape.for_matmul(name, tape.norm(f"{name}.kv_latent_norm", latent, m))
    if mla.q_lora_rank is None:
        flat = tape.linear(f"{name}.q", x, n_heads * width, bias=False)
    else:
        small = tape.linear(f"{name}.q_down", x, mla.q_lora_rank, bias=m.qkv_bias)
        small = tape.for_matmul(name, tape.norm(f"{name}.q_latent_norm", small, m))
        flat = tape.linear(f"{name}.q_up", small, n_heads * width, bias=False)
    turning = 0 if tape.backend.compiled or not kind.rotates else 2 * FLOAT32 * mla.qk_rope_head_dim
    q = tape.did(
        name, (flat,), Activation(flat.elements, flat.element_bytes), scratch_bytes=n_heads * turning
    )
    grown = tape.linear(f"{name}.kv_up", latent, n_heads * two, bias=False)
    still, v = tape.split(name, grown, n_heads * mla.qk_nope_head_dim, n_heads * mla.v_head_dim)
    # The gradients of the parts are parts of the gradient of the whole.
    k = tape.did(name, (still, key), Activation(n_heads * width, still.element_bytes), passes_on=True)
    if written_out(m):
        beside = (q, k, grown, key)
        if not (tape.alone or np.array_equal(n_heads, 1)):
            q, v = tape.copied(name, q), tape.copied(name, v)
        return _written_out(tape, m, name, (q, k, v), n_heads * mla.v_head_dim, beside)
    if np.array_equal(width, mla.v_head_dim):
        return _by_kernel(tape, name, (q, k, v), n_heads)
    # A kernel wants heads of one width: the narrower ones end in zeros.
    wide, of_values = n_heads * largest((width, mla.v_head_dim)), n_heads * mla.v_head_dim
    q, k, v = (
        each if np.array_equal(each.elements, wide) else tape.copied(name, each, wide) for each in (q, k, v)
    )
    out = _by_kernel(tape, name, (q, k, v), n_heads)
    # Which are cut off again, or the heads are put in order: what is one head, or one element each, is.
    in_order = np.array_equal(n_heads, 1) or np.array_equal(mla.v_head_dim, 1)
    return tape.did(name, (out,), Activation(of_values, out.element_bytes, out if in_order else None))


def _by_kernel(
    tape: OpGraph, name: str, taken: tuple[Activation, Activation, Activation], n_heads: Size
) -> Activation:
    """Of the scores only the log of every row's sum of exponentials is stored."""
    q, k, v = taken
    out, logsumexp = Activation(q.elements, q.element_bytes), Activation(n_heads, FLOAT32)
    kept = (("queries", q), ("keys", k), ("values", v), ("output", out), ("logsumexp", logsumexp))
    return tape.did(name, (q, k, v), out, *kept)


def _written_out(
    tape: OpGraph, m: Dims, name: str, taken: tuple[Activation, Activation, Activation], out_width: Size,
    beside: tuple[Activation, ...],
) -> Activation:  # fmt: skip
    """Every score of every head written down, in several steps. Its callers hold on to what stands
    `beside` until it is done."""
    (q, k, v), n_scores = taken, m.n_heads * m.context_length
    n_weights = n_scores + m.n_heads if m.attention_sinks else n_scores
    scores = tape.product(name, q, k, n_scores)
    if tape.backend.compiled:
        # The softmax is computed again from what it takes; a cap from what it bends, and with sinks there
        # are two numbers a row.
        weights, others = (
            Activation(n_scores, tape.backend.matmul_bytes),
            m.n_heads if m.attention_sinks else 0,
        )
        kept = [("taken", Activation(n_weights, FLOAT32))]
        kept += [("scores", scores)] * (m.attention_softcap is not None)
        kept += [("rows", Activation(2 * m.n_heads, FLOAT32))] * m.attention_sinks
        tape.did(name, (scores,), weights, *kept, others=others)
        out = tape.product(name, weights, v, out_width)
        return tape.copied(name, out)
    scores = tape.scale(name, tape.cast(name, scores, FLOAT32))
    if m.attention_softcap is not None:
        scores = tape.softcap(name, tape.scale(name, scores))
    scores = tape.did(name, (scores,), Activation(n_scores, FLOAT32), passes_on=True)
    without_sinks = scores
    if m.attention_sinks:
        scores = tape.did(name, (scores,), Activation(n_weights, FLOAT32), passes_on=True, others=m.n_heads)
    weights = Activation(n_weights, FLOAT32)
    tape.did(name, (scores,), weights, ("weights", weights), beside=(*beside, without_sinks))
    if m.attention_sinks:
        weights = tape.did(name, (weights,), Activation(n_scores, FLOAT32, part_of=weights))
    weights = tape.for_matmul(name, weights)
    out = tape.product(name, weights, v, out_width)
    return tape.did(name, (out,), Activation(out_width, out.element_bytes), passes_on=True)


def masks(m: Dims) -> tuple[Size, Size]:
    """How many tensors scores are raised by, each made once for all layers that take it, and their
    elements."""
    many = (m.n_local_layers > 0) * masked(m, m.window) + (m.n_global_layers > 0) * masked(m, None)
    each = m.n_heads if m.position == "alibi" else 1
    return many, each * int(m.context_length) ** 2


def feed_forward(tape: OpGraph, m: Dims, name: str, x: Activation, width: Size) -> Activation:
    """Two matrices around an activation, or three with a gate."""
    gate = tape.linear(f"{name}.gate", x, width, bias=m.ffn_bias) if m.gated else None
    up = tape.linear(f"{name}.up", x, width, bias=m.ffn_bias)
    return tape.linear(f"{name}.down", inner(tape, m, name, gate, up), m.dim, bias=m.ffn_bias)


def inner(tape: OpGraph, m: Dims, name: str, gate: Activation | None, up: Activation) -> Activation:
    """What happens between the matrices."""
    if gate is None:
        return tape.activation(name, up, m.activation)
    if tape.backend.compiled:
        return tape.multiply(name, gate, up)
    if m.ffn_clamp is not None:
        gate, up = tape.clamp(name, gate), tape.scale(name, tape.clamp(name, up))
    return tape.multiply(name, tape.activation(name, gate, m.activation), up)


def experts(tape: OpGraph, m: Dims, name: str, x: Activation) -> Activation:
    """Routed experts, and shared ones that every token meets."""
    shared = _shared(tape, m, name, x)
    # How many tokens an expert gets is not known to a compiler: what depends on it runs as it is written.
    eager = OpGraph(Backend(tape.backend.device, tape.backend.bf16, compiled=False))
    weights = _weights(eager, m, name, x)
    routed = _routed(eager, m, name, x, weights)
    tape.ops += eager.ops
    return routed if shared is None else tape.add(name, routed, shared)


def _shared(tape: OpGraph, m: Dims, name: str, x: Activation) -> Activation | None:
    moe = m.moe
    if not moe.n_shared_experts:
        return None
    own = moe.shared_intermediate_size
    width = moe.n_shared_experts * (moe.expert_intermediate_size if own is None else own)
    fed = feed_forward(tape, m, f"{name}.shared", x, width)
    if not moe.shared_expert_gate:
        return fed
    logit = tape.linear(f"{name}.shared_gate", x, 1, bias=False)
    opened = Activation(1, logit.element_bytes)
    tape.did(name, (logit,), opened, ("opened", opened))
    return tape.did(
        name, (opened, fed), Activation(m.dim, fed.element_bytes), ("opened", opened), ("shared_output", fed)
    )


def _weights(tape: OpGraph, m: Dims, name: str, x: Activation) -> Activation:
    """Of the answers of every token's experts: the router's, in float32."""
    moe, n_chosen = m.moe, m.moe.n_experts_per_token
    exact = tape.cast(name, x, FLOAT32)
    logits = tape.did(
        name, (exact,), Activation(moe.n_experts, FLOAT32), ("router_input", exact),
        others=moe.n_experts * (m.dim + (1 if moe.router_bias else 0)),
    )  # fmt: skip
    scores, weights = Activation(moe.n_experts, FLOAT32), Activation(n_chosen, FLOAT32)
    tape.did(name, (logits,), scores, ("scores", scores))
    tape.did(name, (scores,), weights, ("chosen", Activation(n_chosen, INT64)))
    if moe.norm_expert_weights:
        whole = Activation(1, FLOAT32)
        tape.did(name, (weights,), whole)
        weights = tape.did(
            name, (weights, whole), Activation(n_chosen, FLOAT32), ("weights", weights), ("whole", whole)
        )
    return tape.scale(name, weights)


def _routed(tape: OpGraph, m: Dims, name: str, x: Activation, weights: Activation) -> Activation:
    """The weighted sum of what each token's experts make of it."""
    n_chosen = m.moe.n_experts_per_token
    gathered = Activation(n_chosen * m.dim, x.element_bytes)
    tape.did(name, (x,), gathered, ("order", Activation(n_chosen, INT64)))
    answers = (_fused if m.moe.fused_experts else _single)(tape, m, f"{name}.experts", gathered)
    fed = tape.did(name, answers, Activation(gathered.elements, answers[0].element_bytes), passes_on=True)
    back = Activation(fed.elements, fed.element_bytes)
    tape.did(name, (fed,), back, ("order_back", Activation(n_chosen, INT64)))
    taken = tape.for_matmul(name, weights)
    weighted = tape.did(
        name, (back, taken), Activation(fed.elements, fed.element_bytes), ("answers", back), ("weights", taken),
        scratch_bytes=fed.bytes,
    )  # fmt: skip
    # The gradient of a sum is no tensor of its own.
    return tape.did(name, (weighted,), Activation(m.dim, fed.element_bytes), passes_on=True)


def _shares(m: Dims, width: Size) -> tuple[Size, Size, Size]:
    """Elements per token of the first expert, of all between, and of the last one; of one expert, the first
    alone has any."""
    moe = m.moe
    whole = moe.n_experts_per_token * width
    first = -(-whole // moe.n_experts)
    last = whole // moe.n_experts * (moe.n_experts > 1)
    return first, whole - first - last, last


def _matrices(m: Dims) -> tuple[Size, Size, Size]:
    """How many experts each of these shares is of."""
    n_experts = m.moe.n_experts
    several = (n_experts > 1) * 1
    return 1 + 0 * several, n_experts - 1 - several, several


def _single(tape: OpGraph, m: Dims, name: str, x: Activation) -> tuple[Activation, ...]:
    """One expert after the other."""
    parts = tape.split(name, x, *_shares(m, m.dim))

    def fed(apart: OpGraph, one: tuple[Activation, Size, Size]) -> Activation:
        part, width, many = one
        gate = _linear(apart, m, f"{name}.*.gate", part, width, many) if m.gated else None
        up = _linear(apart, m, f"{name}.*.up", part, width, many)
        between = inner(apart, m, f"{name}.*", gate, up)
        return _linear(apart, m, f"{name}.*.down", between, part.elements, many)

    widths = _shares(m, m.moe.expert_intermediate_size)
    return tuple(_one_by_one(tape, fed, zip(parts, widths, _matrices(m), strict=True)))


def _fused(tape: OpGraph, m: Dims, name: str, x: Activation) -> tuple[Activation, ...]:
    """Projection by projection, in each one expert after the other."""
    parts = tape.split(name, x, *_shares(m, m.dim))

    def projected(which: str, taken: Sequence[Activation], width: Size) -> list[Activation]:
        each = zip(taken, _shares(m, width), _matrices(m), (m.moe.n_experts, 0, 0), strict=True)
        return _one_by_one(
            tape, lambda apart, one: _linear(apart, m, f"{name}.{which}", *one[:3], stack=one[3]), each
        )

    width = m.moe.expert_intermediate_size
    gates = projected("gate", parts, width) if m.gated else [None] * 3
    ups = projected("up", parts, width)
    between = _one_by_one(tape, lambda apart, one: inner(apart, m, name, *one), zip(gates, ups, strict=True))
    return tuple(projected("down", between, m.dim))


def _one_by_one(
    tape: OpGraph, do: Callable[[OpGraph, Any], Activation], each: Iterable[Any]
) -> list[Activation]:
    """What is done with the first expert, with those between, of which none holds more than one of these two,
    and with the last one."""
    made = []
    for i, one in enumerate(each):
        apart = OpGraph(tape.backend)
        made.append(do(apart, one))
        tape.ops += [replace(op, in_between=i == 1) for op in apart.ops]
    return made


def _linear(
    tape: OpGraph, m: Dims, name: str, x: Activation, out: Size, many: Size, *, stack: Size = None
) -> Activation:
    """The same projection of so many experts, each on its own part of `x`; the gradients of a stack of them
    are put together by the first."""
    wide, narrow = m.moe.expert_intermediate_size, m.dim
    bias = narrow if name.endswith(".down") else wide
    return tape.did(
        name, (x,), Activation(out, tape.backend.matmul_bytes), ("input", x), multiplies=True,
        matrix=many * wide * narrow, others=many * bias if m.moe.expert_bias else 0,
        stack=None if stack is None else stack * wide * narrow,
    )  # fmt: skip


LAYER = "layers.*"


@dataclass(frozen=True)
class Segment:
    """Operations in a row."""

    input: Activation
    ops: tuple[Op, ...]
    output: Activation
    variables: tuple[Activation, ...] = ()
    """What the function still refers to when it ends, kept or not."""

    @property
    def kept(self) -> dict[Activation, str]:
        """Each storage that is kept for the backward pass, by who keeps it first and what it is there."""
        first: dict[Activation, str] = {}
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
class ForwardPass:
    """A pass in parts, one for each kind of layers."""

    embedding: Segment
    layers: dict[Kind, Segment]
    end: Segment
    """From the last layer to what the output head multiplies."""
    loss: Segment

    @property
    def layer_parameters(self) -> Size:
        """Elements of the largest layer."""
        return largest(part.parameters for part in self.layers.values())


def forward(
    m: Dims, backend: Backend, head_rows: Size, n_sequences: Size = 2, *, z_loss: bool = False
) -> ForwardPass:
    """The pass of `m` over so many sequences, its output head multiplied as if it had `head_rows`."""
    alone = np.array_equal(n_sequences, 1)
    # The residual stream is float32 from the embedding on, under autocast too.
    between = Activation(m.dim, FLOAT32)
    end = _end(m, between, backend)
    loss = _loss(m, end.output, backend, head_rows, z_loss=z_loss)
    layers = {kind: _layer(m, kind, between, OpGraph(backend, alone=alone)) for kind in kinds(m)}
    return ForwardPass(_embedding(m, backend), layers, end, loss)


def _embedding(m: Dims, backend: Backend) -> Segment:
    tape = OpGraph(backend)
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
    return Segment(Activation(0, FLOAT32), tuple(tape.ops), x)


def _width(m: Dims) -> Size:
    """Of the table of tokens, and of what the head multiplies."""
    return m.dim if m.embedding_dim is None else m.embedding_dim


def _layer(m: Dims, kind: Kind, x: Activation, tape: OpGraph) -> Segment:
    before, behind = m.norm_placement != "reordered", m.norm_placement in ("reordered", "sandwich")

    def branch(which: str, taken: Activation) -> Activation:
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

    def normed(which: str, taken: Activation) -> Activation:
        return tape.norm(f"{LAYER}.{which}_norm", taken, m)

    def ready(which: str, taken: Activation) -> Activation:
        return tape.for_matmul(LAYER, normed(which, taken) if before else taken)

    if m.norm_placement == "post":
        between = normed("attention", tape.add(LAYER, x, branch("attention", tape.for_matmul(LAYER, x))))
        out = normed("ffn", tape.add(LAYER, between, branch("ffn", tape.for_matmul(LAYER, between))))
        return Segment(x, tuple(tape.ops), out, variables=(between,))
    first = ready("attention", x)
    attended = branch("attention", first)
    between = tape.add(LAYER, x, attended)
    if m.block == "parallel_shared_norm":
        second = first
    else:
        second = ready("ffn", between if m.block == "sequential" else x)
    out = tape.add(LAYER, between, branch("ffn", second))
    return Segment(x, tuple(tape.ops), out, variables=(attended, between))


def _end(m: Dims, x: Activation, backend: Backend) -> Segment:
    tape = OpGraph(backend)
    normed = tape.norm("norm", x, m) if m.final_norm else x
    out = tape.for_matmul("", normed)
    if m.embedding_dim is not None:
        out = tape.linear("project_out", out, _width(m), bias=False)
    return Segment(x, tuple(tape.ops), out)


def _loss(m: Dims, x: Activation, backend: Backend, head_rows: Size, *, z_loss: bool) -> Segment:
    tape = OpGraph(backend)
    logits = tape.linear("lm_head", x, head_rows, bias=m.head_bias)
    if m.logit_multiplier != 1:
        logits = tape.scale("", logits)
    if m.logit_softcap is not None:
        logits = tape.softcap("", logits)
    logits = tape.in_float32("", logits)
    out = tape.cross_entropy("", logits, z_loss=z_loss)
    return Segment(x, tuple(tape.ops), out, variables=(logits,))
