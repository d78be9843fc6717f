"""Feed-forward networks told in sizes, one for every token or experts among which a router picks.

Written after `nn.mlp` and `build.experts`, and never made from them. Every expert is taken to get
as many tokens as any other: what is kept in all does not depend on it, what is in flight hardly.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from parambudget.arch.dims import Dims, Size
from parambudget.cost.memory.graph import FLOAT32, INT64, Kernels, Tape, Value


def feed_forward(tape: Tape, m: Dims, name: str, x: Value, width: Size) -> Value:
    """Two matrices around an activation, or three with a gate."""
    gate = tape.linear(f"{name}.gate", x, width, bias=m.ffn_bias) if m.gated else None
    up = tape.linear(f"{name}.up", x, width, bias=m.ffn_bias)
    return tape.linear(f"{name}.down", inner(tape, m, name, gate, up), m.dim, bias=m.ffn_bias)


def inner(tape: Tape, m: Dims, name: str, gate: Value | None, up: Value) -> Value:
    """What happens between the matrices."""
    if gate is None:
        return tape.activation(name, up, m.activation)
    if tape.kernels.compiled:
        return tape.multiply(name, gate, up)
    if m.ffn_clamp is not None:
        gate, up = tape.clamp(name, gate), tape.scale(name, tape.clamp(name, up))
    return tape.multiply(name, tape.activation(name, gate, m.activation), up)


def experts(tape: Tape, m: Dims, name: str, x: Value) -> Value:
    """Routed experts, and shared ones that every token meets."""
    shared = _shared(tape, m, name, x)
    # How many tokens an expert gets is not known to a compiler: what depends on it runs as it is written.
    eager = Tape(Kernels(tape.kernels.device, tape.kernels.bf16, compiled=False))
    weights = _weights(eager, m, name, x)
    routed = _routed(eager, m, name, x, weights)
    tape.ops += eager.ops
    return routed if shared is None else tape.add(name, routed, shared)


def _shared(tape: Tape, m: Dims, name: str, x: Value) -> Value | None:
    moe = m.moe
    if not moe.n_shared_experts:
        return None
    own = moe.shared_intermediate_size
    width = moe.n_shared_experts * (moe.expert_intermediate_size if own is None else own)
    fed = feed_forward(tape, m, f"{name}.shared", x, width)
    if not moe.shared_expert_gate:
        return fed
    logit = tape.linear(f"{name}.shared_gate", x, 1, bias=False)
    opened = Value(1, logit.element_bytes)
    tape.did(name, (logit,), opened, ("opened", opened))
    return tape.did(
        name, (opened, fed), Value(m.dim, fed.element_bytes), ("opened", opened), ("shared_output", fed)
    )


def _weights(tape: Tape, m: Dims, name: str, x: Value) -> Value:
    """Of the answers of every token's experts: the router's, in float32."""
    moe, n_chosen = m.moe, m.moe.n_experts_per_token
    exact = tape.cast(name, x, FLOAT32)
    logits = tape.did(
        name, (exact,), Value(moe.n_experts, FLOAT32), ("router_input", exact),
        others=moe.n_experts * (m.dim + (1 if moe.router_bias else 0)),
    )  # fmt: skip
    scores, weights = Value(moe.n_experts, FLOAT32), Value(n_chosen, FLOAT32)
    tape.did(name, (logits,), scores, ("scores", scores))
    tape.did(name, (scores,), weights, ("chosen", Value(n_chosen, INT64)))
    if moe.norm_expert_weights:
        whole = Value(1, FLOAT32)
        tape.did(name, (weights,), whole)
        weights = tape.did(
            name, (weights, whole), Value(n_chosen, FLOAT32), ("weights", weights), ("whole", whole)
        )
    return tape.scale(name, weights)


def _routed(tape: Tape, m: Dims, name: str, x: Value, weights: Value) -> Value:
    """The weighted sum of what each token's experts make of it."""
    n_chosen = m.moe.n_experts_per_token
    gathered = Value(n_chosen * m.dim, x.element_bytes)
    tape.did(name, (x,), gathered, ("order", Value(n_chosen, INT64)))
    answers = (_fused if m.moe.fused_experts else _single)(tape, m, f"{name}.experts", gathered)
    fed = tape.did(name, answers, Value(gathered.elements, answers[0].element_bytes), passes_on=True)
    back = Value(fed.elements, fed.element_bytes)
    tape.did(name, (fed,), back, ("order_back", Value(n_chosen, INT64)))
    taken = tape.for_matmul(name, weights)
    weighted = tape.did(
        name, (back, taken), Value(fed.elements, fed.element_bytes), ("answers", back), ("weights", taken),
        scratch_bytes=fed.bytes,
    )  # fmt: skip
    # The gradient of a sum is no tensor of its own.
    return tape.did(name, (weighted,), Value(m.dim, fed.element_bytes), passes_on=True)


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


def _single(tape: Tape, m: Dims, name: str, x: Value) -> tuple[Value, ...]:
    """One expert after the other."""
    parts = tape.split(name, x, *_shares(m, m.dim))

    def fed(apart: Tape, one: tuple[Value, Size, Size]) -> Value:
        part, width, many = one
        gate = _linear(apart, m, f"{name}.*.gate", part, width, many) if m.gated else None
        up = _linear(apart, m, f"{name}.*.up", part, width, many)
        between = inner(apart, m, f"{name}.*", gate, up)
        return _linear(apart, m, f"{name}.*.down", between, part.elements, many)

    widths = _shares(m, m.moe.expert_intermediate_size)
    return tuple(_one_by_one(tape, fed, zip(parts, widths, _matrices(m), strict=True)))


def _fused(tape: Tape, m: Dims, name: str, x: Value) -> tuple[Value, ...]:
    """Projection by projection, in each one expert after the other."""
    parts = tape.split(name, x, *_shares(m, m.dim))

    def projected(which: str, taken: Sequence[Value], width: Size) -> list[Value]:
        each = zip(taken, _shares(m, width), _matrices(m), (m.moe.n_experts, 0, 0), strict=True)
        return _one_by_one(
            tape, lambda apart, one: _linear(apart, m, f"{name}.{which}", *one[:3], stack=one[3]), each
        )

    width = m.moe.expert_intermediate_size
    gates = projected("gate", parts, width) if m.gated else [None] * 3
    ups = projected("up", parts, width)
    between = _one_by_one(tape, lambda apart, one: inner(apart, m, name, *one), zip(gates, ups, strict=True))
    return tuple(projected("down", between, m.dim))


def _one_by_one(tape: Tape, do: Callable[[Tape, Any], Value], each: Iterable[Any]) -> list[Value]:
    """What is done with the first expert, with those between, of which none holds more than one of these two,
    and with the last one."""
    made = []
    for i, one in enumerate(each):
        apart = Tape(tape.kernels)
        made.append(do(apart, one))
        tape.ops += [replace(op, in_between=i == 1) for op in apart.ops]
    return made


def _linear(tape: Tape, m: Dims, name: str, x: Value, out: Size, many: Size, *, stack: Size = None) -> Value:
    """The same projection of so many experts, each on its own part of `x`; the gradients of a stack of them
    are put together by the first."""
    wide, narrow = m.moe.expert_intermediate_size, m.dim
    bias = narrow if name.endswith(".down") else wide
    return tape.did(
        name, (x,), Value(out, tape.kernels.matmul_bytes), ("input", x), multiplies=True,
        matrix=many * wide * narrow, others=many * bias if m.moe.expert_bias else 0,
        stack=None if stack is None else stack * wide * narrow,
    )  # fmt: skip
