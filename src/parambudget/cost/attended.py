"""Attention told in sizes: heads of one kind or grown from latents, scored by a kernel or written out.

Written after `nn.attention`, `build.latent` and `build.scores`, and never made from them.
"""

import numpy as np

from parambudget.arch.dims import Dims, Size
from parambudget.arch.layers import Kind, masked, written_out
from parambudget.cost.memory.graph import FLOAT32, Tape, Value
from parambudget.cost.sizes import largest


def attention(tape: Tape, m: Dims, name: str, x: Value, kind: Kind) -> Value:
    """What every token gathers from itself and the ones before it."""
    gathered = _latent(tape, m, name, x, kind) if m.mla else _grouped(tape, m, name, x, kind)
    return tape.linear(f"{name}.out", gathered, m.dim, bias=m.attention_out_bias)


def _grouped(tape: Tape, m: Dims, name: str, x: Value, kind: Kind) -> Value:
    queries, keys = m.n_heads * m.head_dim, m.n_kv_heads * m.head_dim

    def projected(which: str, out: Size) -> Value:
        flat = tape.linear(f"{name}.{which}", x, out, bias=m.qkv_bias)
        # A compiled norm cuts off what it takes, and does so again.
        normed = tape.kernels.compiled and m.qk_norm != "none" and which != "v"
        return flat if m.qkv_clip is None or normed else tape.clamp(name, flat)

    def turned(which: str, flat: Value, n_heads: Size) -> Value:
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


def _latent(tape: Tape, m: Dims, name: str, x: Value, kind: Kind) -> Value:
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
    turning = 0 if tape.kernels.compiled or not kind.rotates else 2 * FLOAT32 * mla.qk_rope_head_dim
    q = tape.did(name, (flat,), Value(flat.elements, flat.element_bytes), scratch_bytes=n_heads * turning)
    grown = tape.linear(f"{name}.kv_up", latent, n_heads * two, bias=False)
    still, v = tape.split(name, grown, n_heads * mla.qk_nope_head_dim, n_heads * mla.v_head_dim)
    # The gradients of the parts are parts of the gradient of the whole.
    k = tape.did(name, (still, key), Value(n_heads * width, still.element_bytes), passes_on=True)
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
    return tape.did(name, (out,), Value(of_values, out.element_bytes, out if in_order else None))


def _by_kernel(tape: Tape, name: str, taken: tuple[Value, Value, Value], n_heads: Size) -> Value:
    """Of the scores only the log of every row's sum of exponentials is stored."""
    q, k, v = taken
    out, logsumexp = Value(q.elements, q.element_bytes), Value(n_heads, FLOAT32)
    kept = (("queries", q), ("keys", k), ("values", v), ("output", out), ("logsumexp", logsumexp))
    return tape.did(name, (q, k, v), out, *kept)


def _written_out(
    tape: Tape, m: Dims, name: str, taken: tuple[Value, Value, Value], out_width: Size,
    beside: tuple[Value, ...],
) -> Value:  # fmt: skip
    """Every score of every head written down, in several steps. Its callers hold on to what stands
    `beside` until it is done."""
    (q, k, v), n_scores = taken, m.n_heads * m.context_length
    n_weights = n_scores + m.n_heads if m.attention_sinks else n_scores
    scores = tape.product(name, q, k, n_scores)
    if tape.kernels.compiled:
        # The softmax is computed again from what it takes; a cap from what it bends, and with sinks there
        # are two numbers a row.
        weights, others = Value(n_scores, tape.kernels.matmul_bytes), m.n_heads if m.attention_sinks else 0
        kept = [("taken", Value(n_weights, FLOAT32))]
        kept += [("scores", scores)] * (m.attention_softcap is not None)
        kept += [("rows", Value(2 * m.n_heads, FLOAT32))] * m.attention_sinks
        tape.did(name, (scores,), weights, *kept, others=others)
        out = tape.product(name, weights, v, out_width)
        return tape.copied(name, out)
    scores = tape.scale(name, tape.cast(name, scores, FLOAT32))
    if m.attention_softcap is not None:
        scores = tape.softcap(name, tape.scale(name, scores))
    scores = tape.did(name, (scores,), Value(n_scores, FLOAT32), passes_on=True)
    without_sinks = scores
    if m.attention_sinks:
        scores = tape.did(name, (scores,), Value(n_weights, FLOAT32), passes_on=True, others=m.n_heads)
    weights = Value(n_weights, FLOAT32)
    tape.did(name, (scores,), weights, ("weights", weights), beside=(*beside, without_sinks))
    if m.attention_sinks:
        weights = tape.did(name, (weights,), Value(n_scores, FLOAT32, part_of=weights))
    weights = tape.for_matmul(name, weights)
    out = tape.product(name, weights, v, out_width)
    return tape.did(name, (out,), Value(out_width, out.element_bytes), passes_on=True)


def masks(m: Dims) -> tuple[Size, Size]:
    """How many tensors scores are raised by, each made once for all layers that take it, and their
    elements."""
    many = (m.n_local_layers > 0) * masked(m, m.window) + (m.n_global_layers > 0) * masked(m, None)
    each = m.n_heads if m.position == "alibi" else 1
    return many, each * int(m.context_length) ** 2
