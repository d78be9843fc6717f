"""The forward pass of the model that `nn.transformer` builds, and of the trainer's loss, in sizes.

Written by hand beside that module and never generated from it: tests compare what is saved here with what
autograd saves there, storage by storage.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, TypeVar

import numpy as np

from parambudget.arch.config import require_module
from parambudget.arch.dims import (
    Dims,
    Size,
    chooses_keys,
    expert_dim,
    heads_of,
    mixer_words,
    n_shared_choices,
    value_width,
)
from parambudget.arch.layers import LayerKind, layer_kind_counts, needs_mask, uses_eager_attention
from parambudget.cost.memory.graph import Activation, Op, OpGraph, largest, smallest, total_bytes
from parambudget.cost.memory.mixers import mixer_branch
from parambudget.cost.step import FLOAT32, HEAD_MULTIPLE, INT64, Backend, MatmulWeights, StepConfig

LAYER: Final = "layers.*"
T = TypeVar("T")


@dataclass(frozen=True)
class Segment:
    """Consecutive operations."""

    input: Activation
    ops: tuple[Op, ...]
    output: Activation
    variables: tuple[Activation, ...] = ()
    """What the function still refers to when it returns, saved or not."""
    per_layer: Activation | None = None
    """The narrow embeddings of all layers, which the embedding hands on beside its output."""

    @cached_property
    def saved_activations(self) -> dict[Activation, str]:
        """Each storage that is saved for the backward pass, named after the first op that saves it and what
        it is there."""
        first: dict[Activation, str] = {}
        for op in self.ops:
            for label, value in op.saved:
                first.setdefault(value.storage, f"{op.name}.{label}".lstrip("."))
        return first

    @cached_property
    def saved_bytes(self) -> Size:
        """Per token."""
        return total_bytes(self.saved_activations)

    @cached_property
    def parameters(self) -> Size:
        """Elements of all parameters that it reads."""
        return sum((op.matrix_elements + op.other_parameters for op in self.ops), start=0)

    def gradient_bytes(self, backend: Backend) -> Size:
        """Of all parameters that it reads, when its backward pass is over."""
        return sum((op.gradient_bytes(backend) for op in self.ops), start=0)

    @cached_property
    def leaf_elements(self) -> Size:
        """Of the bfloat16 leaves that it multiplies with."""
        return sum((op.matrix_elements for op in self.ops if op.has_leaf), start=0)

    @cached_property
    def copied_elements(self) -> Size:
        """Of the matrices that it multiplies with bfloat16 copies of."""
        return sum((op.matrix_elements for op in self.ops if op.has_weight_copy), start=0)

    @cached_property
    def cached_elements(self) -> Size:
        """Those of them whose copies autocast itself keeps."""
        return sum((op.matrix_elements for op in self.ops if op.autocast_caches_copy), start=0)


@dataclass(frozen=True)
class ForwardPass:
    """The segments of a pass, one for each kind of layers."""

    embedding: Segment
    layers: dict[LayerKind, Segment]
    end: Segment
    """From the last layer to the input of the output head."""
    loss: Segment

    @cached_property
    def layer_parameters(self) -> Size:
        """Elements of the largest layer."""
        return largest(layer.parameters for layer in self.layers.values())


def forward(
    m: Dims, backend: Backend, head_rows: Size, n_sequences: Size = 2, *, z_loss: bool = False,
    matmul_weights: MatmulWeights = "separate", mask_documents: bool = False,
) -> ForwardPass:  # fmt: skip
    """The pass of `m` over so many sequences, with an output head of `head_rows` rows. Raises `ConfigError`
    for a model that has no module."""
    require_module(m)

    def graph(*, single_sequence: bool = False) -> OpGraph:
        return OpGraph(backend, matmul_weights, single_sequence=single_sequence)

    single = bool(np.array_equal(n_sequences, 1))
    # From the embedding on, the residual stream is in the precision of matmuls.
    residual = Activation(m.dim, backend.matmul_bytes)
    end = _end(m, residual, graph())
    loss = _loss(m, end.output, graph(), head_rows, z_loss=z_loss)

    def layer(kind: LayerKind) -> Segment:
        masked = _with_document_mask(m, kind, backend) if mask_documents else kind
        return _layer(m, masked, residual, graph(single_sequence=single))

    layers = {kind: layer(kind) for kind in layer_kind_counts(m)}
    return ForwardPass(_embedding(m, graph()), layers, end, loss)


def forward_of_step(m: Dims, step: StepConfig) -> ForwardPass:
    """The pass of a micro-step, with the output head as the trainer pads it."""
    rows = m.vocab_size
    if step.backend.device == "cuda":
        rows = -(-rows // HEAD_MULTIPLE) * HEAD_MULTIPLE
    return forward(
        m, step.backend, rows, step.batch_size, z_loss=step.z_loss > 0,
        matmul_weights=step.matmul_weights, mask_documents=step.mask_documents,
    )  # fmt: skip


def _with_document_mask(m: Dims, kind: LayerKind, backend: Backend) -> LayerKind:
    """With a mask of documents all layers take one; where it lists blocks, keys and values stay in groups."""
    return replace(kind, needs_mask=not takes_block_mask(m, backend))


def takes_block_mask(m: Dims, backend: Backend) -> bool:
    """Whether documents are masked by a list of blocks, which takes no memory to speak of."""
    return backend.device == "cuda" and backend.bf16 and not uses_eager_attention(m) and m.indexer is None


def document_mask_elements(m: Dims, backend: Backend, n_sequences: Size) -> Size:
    """Of the masks of documents, one for each width of window, every sequence its own."""
    if takes_block_mask(m, backend):
        return 0
    n_masks = (m.n_local_layers > 0) * 1 + (m.n_global_layers > 0) * 1
    return n_masks * n_sequences * int(m.context_length) ** 2


def masks(m: Dims) -> tuple[Size, Size]:
    """The number of attention masks, each shared by all layers that take it, and their elements. Those of
    layers with an indexer are their own, and none of these."""
    if m.indexer is not None and not uses_eager_attention(m):
        return 0, 0
    n_masks = (m.n_local_layers > 0) * needs_mask(m, m.window) + (m.n_global_layers > 0) * needs_mask(m, None)
    n_heads = m.n_heads if m.position == "alibi" else 1
    return n_masks, n_heads * int(m.context_length) ** 2


def chosen_keys(m: Dims, backend: Backend) -> Activation:
    """The mask with which an indexer leaves a query its keys."""
    return Activation(m.context_length, backend.matmul_bytes)


def shared_choices_bytes(m: Dims, backend: Backend, n_indexers: Size) -> Size:
    """Per token, of the masks that so many indexers hand to the layers behind them: what gradient
    checkpointing keeps beside the inputs of layers."""
    n_shared = smallest((n_indexers, n_shared_choices(m, m.n_layers)))
    return chooses_keys(m) * n_shared * chosen_keys(m, backend).bytes


def _embedding(m: Dims, graph: OpGraph) -> Segment:
    x = graph.look_up("embed", m.vocab_size, m.embedding_width)
    if m.embedding_multiplier != 1:
        x = graph.scale("", x)
    if m.embedding_dim is not None:
        x = graph.linear("project_in", graph.cast_for_matmul("project_in", x), m.dim, bias=False)
    if m.embedding_norm:
        x = graph.norm("embed_norm", x, m)
    if m.position == "learned":
        x = graph.add_positions("", x, m.context_length + m.position_offset)
    if m.position == "sinusoidal":
        x = graph.add_positions("", x, 0)
    own_width = m.per_layer_embedding_dim
    per_layer = None if own_width is None else _per_layer_embeddings(graph, m, x, own_width)
    x = graph.cast_for_matmul("", x)
    return Segment(Activation(0, FLOAT32), tuple(graph.ops), x, per_layer=per_layer)


def _per_layer_embeddings(graph: OpGraph, m: Dims, x: Activation, width: Size) -> Activation:
    """The narrow embeddings of all layers, from a table and projected from the usual embedding."""
    n_rows = m.vocab_size if m.per_layer_vocab_size is None else m.per_layer_vocab_size
    own = graph.scale("per_layer", graph.look_up("per_layer.embed", n_rows, m.n_layers * width))
    source = graph.cast_for_matmul("per_layer", x)
    projected = graph.linear("per_layer.project", source, m.n_layers * width, bias=False)
    normed = graph.norm(
        "per_layer.norm", graph.scale("per_layer", projected), m, n_rows=m.n_layers, scale=width
    )
    return graph.scale("per_layer", graph.add("per_layer", normed, own))


def _per_layer_input(graph: OpGraph, m: Dims, x: Activation, width: Size) -> Activation:
    """The stream with what its layer's own embedding adds to it."""
    name = f"{LAYER}.per_layer_input"
    gate = graph.activation(name, graph.linear(f"{name}.gate", x, width, bias=False), m.activation)
    gated = graph.multiply(name, gate, Activation(width, gate.element_bytes))
    return graph.add(
        name, x, graph.norm(f"{name}.norm", graph.linear(f"{name}.out", gated, m.dim, bias=False), m)
    )


def _layer(m: Dims, kind: LayerKind, x: Activation, graph: OpGraph) -> Segment:
    layer = _branches(m, kind, x, graph)
    if m.per_layer_embedding_dim is None and not m.layer_scale:
        return layer
    out = layer.output
    if m.per_layer_embedding_dim is not None:
        out = _per_layer_input(graph, m, out, m.per_layer_embedding_dim)
    if m.layer_scale:
        out = graph.scale(LAYER, out)
    return Segment(x, tuple(graph.ops), out, layer.variables)


def _mixing(graph: OpGraph, m: Dims, kind: LayerKind, x: Activation) -> Activation:
    """The output of attention, of the mixer in its place, or of both."""
    words, factors, branches = mixer_words(kind.mixer), m.multipliers, []

    def scale(x: Activation, factor: str) -> Activation:
        return x if factors is None or getattr(factors, factor) == 1 else graph.scale(LAYER, x)

    if "attention" in words:
        into = scale(x, "attention_in_multiplier")
        out = _attention(graph, m, f"{LAYER}.attention", into, kind)
        branches.append(scale(out, "attention_out_multiplier"))
    if words != ["attention"]:
        out = mixer_branch(graph, m, f"{LAYER}.mixer", scale(x, "mixer_in_multiplier"))
        branches.append(scale(out, "mixer_out_multiplier"))
    return branches[0] if len(branches) == 1 else graph.add(LAYER, *branches)


def _branches(m: Dims, kind: LayerKind, x: Activation, graph: OpGraph) -> Segment:
    """Attention, or a mixer, and the FFN."""
    is_pre_norm = m.mixer_pre_norm and kind.mixer != "attention"
    norm_before = is_pre_norm or m.norm_placement != "reordered"
    norm_behind = m.norm_placement in ("reordered", "sandwich") and not is_pre_norm

    def branch(which: str, source: Activation, stream: Activation) -> Activation:
        name = f"{LAYER}.{which}"
        if which == "attention":
            out = _mixing(graph, m, kind, source)
        elif kind.experts and m.moe.experts_beside_ffn:
            out = _ffn_and_experts(graph, m, kind, source, stream)
        elif kind.experts:
            out = _experts(graph, m, name, source)
        else:
            out = _feed_forward(graph, m, name, source, _ffn_width(m, kind))
        if norm_behind:
            out = graph.norm(f"{LAYER}.{which}_out_norm", out, m)
        return out if m.residual_multiplier == 1 else graph.scale(LAYER, out)

    def norm(which: str, source: Activation) -> Activation:
        return graph.norm(f"{LAYER}.{which}_norm", source, m)

    def branch_input(which: str, source: Activation) -> Activation:
        return norm(which, source) if norm_before else source

    def add(stream: Activation, source: Activation) -> Activation:
        scaled = stream if m.stream_multiplier == 1 else graph.scale(LAYER, stream)
        return graph.add(LAYER, scaled, source)

    if kind.mixer == "none" or not kind.has_ffn:
        which = "ffn" if kind.has_ffn else "attention"
        source = branch_input(which, x)
        fed = branch(which, source, x)
        out = add(source if m.norm_placement == "stream" else x, fed)
        return Segment(x, tuple(graph.ops), out, variables=(fed,))
    if m.norm_placement == "post":
        attended = branch("attention", x, x)
        between = norm("attention", add(x, attended))
        fed = branch("ffn", between, between)
        out = norm("ffn", add(between, fed))
        return Segment(x, tuple(graph.ops), out, variables=(between,))
    first = branch_input("attention", x)
    attended = branch("attention", first, x)
    if m.block != "sequential":
        second = first if m.block == "parallel_shared_norm" else branch_input("ffn", x)
        between = add(x, attended)
        out = graph.add(LAYER, between, branch("ffn", second, x))
        return Segment(x, tuple(graph.ops), out, variables=(attended, between))
    norms_stream = m.norm_placement == "stream"
    between = add(first if norms_stream else x, attended)
    second = branch_input("ffn", between)
    out = add(second if norms_stream else between, branch("ffn", second, between))
    return Segment(x, tuple(graph.ops), out, variables=(attended, between))


def _ffn_width(m: Dims, kind: LayerKind) -> Size:
    return (m.kv_shared_ffn_factor if kind.shares_keys else 1) * m.intermediate_size


def _ffn_and_experts(
    graph: OpGraph, m: Dims, kind: LayerKind, normed: Activation, stream: Activation
) -> Activation:
    """A dense FFN and experts beside it, each between norms of its own. The router reads the stream with a
    norm and a scale of its own."""
    fed = _feed_forward(graph, m, f"{LAYER}.ffn", normed, _ffn_width(m, kind))
    fed = graph.norm(f"{LAYER}.ffn_branch_norm", fed, m)
    name = f"{LAYER}.experts_ffn"
    source = graph.norm(f"{LAYER}.experts_norm", stream, m)
    scored = graph.norm(f"{name}.input_norm", stream, m, weight=False, bias=False)
    scaled, saved = Activation(m.dim, FLOAT32), (("scored", scored),)
    graph.record(Op(name, (scored,), scaled, saved=saved, other_parameters=m.dim, cheap="elementwise"))
    routed = _experts(graph, m, name, source, graph.scale(name, scaled))
    return graph.add(LAYER, fed, graph.norm(f"{LAYER}.experts_branch_norm", routed, m))


def _end(m: Dims, x: Activation, graph: OpGraph) -> Segment:
    out = graph.norm("norm", x, m) if m.final_norm else x
    if m.embedding_dim is not None:
        out = graph.linear("project_out", out, m.embedding_width, bias=False)
    return Segment(x, tuple(graph.ops), out)


def _loss(m: Dims, x: Activation, graph: OpGraph, head_rows: Size, *, z_loss: bool) -> Segment:
    logits = graph.linear("lm_head", x, head_rows, bias=m.head_bias)
    # Compiled, a multiplier and a soft cap are applied where the logits are read, and to their gradient where
    # it is written.
    if m.logit_multiplier != 1 and not graph.backend.compiled:
        logits = graph.scale("", logits)
    if m.logit_softcap is not None and not graph.backend.compiled:
        logits = graph.softcap("", logits)
    logits = graph.cast_to_float32("", logits)
    out = graph.cross_entropy("", logits, z_loss=z_loss)
    return Segment(x, tuple(graph.ops), out, variables=(logits,))


def _attention(graph: OpGraph, m: Dims, name: str, x: Activation, kind: LayerKind) -> Activation:
    compute = _latent_attention if m.mla else _grouped_attention
    attended = compute(graph, m, name, x, kind)
    if m.attention_gate != "none":
        attended = _gate(graph, m, name, x, attended)
    if m.sub_norms:
        attended = graph.norm(f"{name}.sub_norm", attended, m)
    return graph.linear(f"{name}.out", attended, m.dim, bias=m.attention_out_bias)


def _gate(graph: OpGraph, m: Dims, name: str, x: Activation, attended: Activation) -> Activation:
    """The output of attention times a sigmoid or softplus of a projection of the layer's input."""
    width = m.n_heads if m.attention_gate == "head" else attended.elements
    logits = graph.linear(f"{name}.gate", x, width, bias=m.attention_gate_biased)
    gates = Activation(width, logits.element_bytes)
    kept = logits if graph.backend.compiled else gates
    # The derivative of a sigmoid is one of its output, that of a softplus one of its input.
    of_function = gates if m.attention_gate_activation == "sigmoid" else logits
    before = kept if graph.backend.compiled else of_function
    graph.record(Op(f"{name}.gate", (logits,), gates, saved=(("gates", before),), cheap="elementwise"))
    output = Activation(attended.elements, attended.element_bytes)
    saved = (("gates", kept), ("attended", attended))
    return graph.record(Op(name, (gates, attended), output, saved=saved, cheap="elementwise"))


def _grouped_attention(graph: OpGraph, m: Dims, name: str, x: Activation, kind: LayerKind) -> Activation:
    n_heads, n_kv_heads, head_dim = heads_of(m, local=kind.local)
    value_dim = value_width(m, head_dim)
    q_width, kv_width = n_heads * head_dim, n_kv_heads * head_dim

    def project(which: str, out: Size) -> Activation:
        flat = graph.linear(f"{name}.{which}", x, out, bias=m.qkv_bias)
        # A compiled norm clamps its own input, and does so again in its backward.
        norm_clamps = graph.backend.compiled and m.qk_norm != "none" and which != "v"
        return flat if m.qkv_clip is None or norm_clamps else graph.clamp(name, flat)

    def norm_and_rotate(which: str, flat: Activation, n_heads: Size) -> Activation:
        is_normed = kind.rotates if m.qk_norm == "l2" else m.qk_norm != "none"
        after = m.qk_norm_after_rotation or m.qk_norm == "l2"
        if after and kind.rotates:
            flat = graph.rotate(name, flat)
        if is_normed:
            unscaled = False if m.qk_norm == "l2" else None
            flat = graph.norm(
                f"{name}.{which}_norm", flat, m, n_rows=1 if m.qk_norm == "full" else n_heads,
                scale=head_dim if m.qk_norm == "head" else None, per_head=m.qk_norm == "per_head",
                weight=unscaled, bias=unscaled if m.qk_norm_bias is None else m.qk_norm_bias,
            )  # fmt: skip
        if kind.rotates and not after:
            flat = graph.rotate(name, flat)
        return graph.scale(name, flat) if which == "q" and kind.scales_queries else flat

    if kind.shares_keys:
        q = norm_and_rotate("q", project("q", q_width), n_heads)
        # They are in memory already: as a part of what this layer saves anyway they add nothing.
        k = Activation(kv_width, q.element_bytes, part_of=x)
        v = Activation(n_kv_heads * value_dim, q.element_bytes, part_of=x)
        return _attend(graph, m, name, kind, (q, k, v))
    v = Activation(kv_width, x.element_bytes)
    if kind.local or not m.global_keys_as_values:
        v = project("v", n_kv_heads * value_dim)
    if m.value_norm:
        v = graph.norm(f"{name}.v_norm", v, m, n_rows=n_kv_heads, weight=False, bias=False)
    if m.value_multiplier != 1:
        v = graph.scale(name, v)
    if graph.matmul_weights != "separate" and m.qk_norm == "none":
        joined = graph.linear(name, x, q_width + kv_width, bias=m.qkv_bias)
        joined = joined if m.qkv_clip is None else graph.clamp(name, joined)
        joined = graph.rotate(name, joined) if kind.rotates else joined
        q, k = graph.split(name, joined, q_width, kv_width, joins_gradients=graph.backend.compiled)
        q = graph.scale(name, q) if kind.scales_queries else q
    else:
        q = norm_and_rotate("q", project("q", q_width), n_heads)
        k = norm_and_rotate("k", project("k", kv_width), n_kv_heads)
    return _attend(graph, m, name, kind, (q, k, v))


def _attend(
    graph: OpGraph, m: Dims, name: str, kind: LayerKind, qkv: tuple[Activation, Activation, Activation]
) -> Activation:
    """The weighted values of all heads."""
    (q, k, v), before_copies = qkv, qkv
    n_heads, n_kv_heads, head_dim = heads_of(m, local=kind.local)
    value_dim = value_width(m, head_dim)
    if m.differential_attention:
        return _differential_attention(graph, m, name, kind, qkv)
    is_multi_head = np.array_equal(n_heads, n_kv_heads)
    if kind.needs_mask and not is_multi_head:
        k, v = graph.copy(name, k, n_heads * head_dim), graph.copy(name, v, n_heads * value_dim)
    if not uses_eager_attention(m):
        return _padded_fused_attention(graph, m, name, (q, k, v), n_heads, head_dim, value_dim)
    if not (graph.single_sequence or np.array_equal(n_heads, 1)):
        q, k, v = (graph.copy(name, x) for x in (q, k, v))
    # Values of groups are repeated before there are scores, others are copied to another layout after them.
    referenced_by_callers = before_copies if is_multi_head else (*before_copies, v)
    has_sinks = m.attention_sinks or (m.local_sinks and kind.local)
    return _eager_attention(
        graph, m, name, (q, k, v), n_heads, n_heads * value_dim, referenced_by_callers, has_sinks=has_sinks
    )


def _differential_attention(
    graph: OpGraph, m: Dims, name: str, kind: LayerKind, qkv: tuple[Activation, Activation, Activation]
) -> Activation:
    """The heads over each half of the values, one half of the heads minus the other, and a norm of pairs."""
    (q, k, v), elements = qkv, qkv[0].elements
    n_heads, n_kv_heads, _ = heads_of(m, local=kind.local)
    outputs = []
    for _ in range(2):
        keys, half = k, graph.copy(name, v)
        if kind.needs_mask and not np.array_equal(n_heads, n_kv_heads):
            keys, half = graph.copy(name, k, elements), graph.copy(name, half, elements)
        outputs.append(_fused_attention(graph, name, (q, keys, half), n_heads))
    both = graph.record(
        Op(name, tuple(outputs), Activation(2 * elements, q.element_bytes), passes_gradient_on=True)
    )
    second = Activation(elements, q.element_bytes, part_of=both)
    pairs = graph.record(
        Op(
            name, (both,), Activation(elements, q.element_bytes), saved=(("second", second),),
            other_parameters=4 * m.head_dim,
        )
    )  # fmt: skip
    normed = graph.norm(f"{name}.pair_norm", pairs, m, n_rows=n_heads // 2, weight=False, bias=False)
    return graph.scale(name, normed)


def _latent_attention(graph: OpGraph, m: Dims, name: str, x: Activation, kind: LayerKind) -> Activation:
    mla, n_heads = m.mla, m.n_heads
    qk_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    # An indexer reads the latent of the queries before attention begins.
    query_latent = _query_latent(graph, m, name, x) if kind.has_indexer else None
    down = graph.linear(f"{name}.kv_down", x, mla.kv_lora_rank + mla.qk_rope_head_dim, bias=m.qkv_bias)
    latent, rope_key = graph.split(name, down, mla.kv_lora_rank, mla.qk_rope_head_dim)
    if kind.rotates:
        rope_key = graph.rotate(name, rope_key)
    latent = graph.norm(f"{name}.kv_latent_norm", latent, m)
    if query_latent is None:
        query_latent = _query_latent(graph, m, name, x)
    q = _latent_queries(graph, m, name, query_latent, kind)
    up_width = n_heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    up = graph.linear(f"{name}.kv_up", latent, up_width, bias=False)
    nope_key, v = graph.split(name, up, n_heads * mla.qk_nope_head_dim, n_heads * mla.v_head_dim)
    # The gradients of the parts are parts of the gradient of the whole.
    k = graph.record(
        Op(
            name, (nope_key, rope_key), Activation(n_heads * qk_dim, nope_key.element_bytes),
            passes_gradient_on=True,
        )
    )  # fmt: skip
    if not uses_eager_attention(m):
        mask = chosen_keys(m, graph.backend) if kind.has_indexer and chooses_keys(m) else None
        return _padded_fused_attention(graph, m, name, (q, k, v), n_heads, qk_dim, mla.v_head_dim, mask)
    referenced_by_callers = (q, k, up, rope_key)
    if not (graph.single_sequence or np.array_equal(n_heads, 1)):
        q, v = graph.copy(name, q), graph.copy(name, v)
    return _eager_attention(
        graph, m, name, (q, k, v), n_heads, n_heads * mla.v_head_dim, referenced_by_callers,
        has_sinks=m.attention_sinks,
    )  # fmt: skip


def _query_latent(graph: OpGraph, m: Dims, name: str, x: Activation) -> Activation:
    if m.mla.q_lora_rank is None:
        return x
    latent = graph.linear(f"{name}.q_down", x, m.mla.q_lora_rank, bias=m.qkv_bias)
    return graph.norm(f"{name}.q_latent_norm", latent, m)


def _latent_queries(graph: OpGraph, m: Dims, name: str, latent: Activation, kind: LayerKind) -> Activation:
    mla, width = m.mla, m.n_heads * (m.mla.qk_nope_head_dim + m.mla.qk_rope_head_dim)
    flat = graph.linear(f"{name}.{'q' if mla.q_lora_rank is None else 'q_up'}", latent, width, bias=False)
    rotates = kind.rotates and not graph.backend.compiled
    scratch_bytes = m.n_heads * (2 * FLOAT32 * mla.qk_rope_head_dim if rotates else 0)
    output = Activation(flat.elements, flat.element_bytes)
    return graph.record(Op(name, (flat,), output, scratch_bytes=scratch_bytes))


def _padded_fused_attention(
    graph: OpGraph, m: Dims, name: str, qkv: tuple[Activation, Activation, Activation], n_heads: Size,
    qk_dim: Size, v_dim: Size, mask: Activation | None = None,
) -> Activation:  # fmt: skip
    """A kernel wants heads of one width: the narrower ones are padded with zeros."""
    if np.array_equal(qk_dim, v_dim):
        return _fused_attention(graph, name, qkv, n_heads, mask)
    width = largest((qk_dim, v_dim))
    q, k, v = (
        x if np.array_equal(own, width) else graph.copy(name, x, x.elements // own * width)
        for x, own in zip(qkv, (qk_dim, qk_dim, v_dim), strict=True)
    )
    out = _fused_attention(graph, name, (q, k, v), n_heads, mask)
    # The padding is cut off again. Where there is one head, or one element each, the result is contiguous;
    # gates read it as it lies.
    is_view = np.array_equal(n_heads, 1) or np.array_equal(v_dim, 1) or m.attention_gate != "none"
    return graph.record(
        Op(name, (out,), Activation(n_heads * v_dim, out.element_bytes, out if is_view else None))
    )


def _fused_attention(
    graph: OpGraph, name: str, qkv: tuple[Activation, Activation, Activation], n_heads: Size,
    mask: Activation | None = None,
) -> Activation:  # fmt: skip
    """Of the scores only the log of every row's sum of exponentials is stored, and a mask of this layer.

    Kernels of a GPU add up the gradient of the queries in float32, beside one number for each row: cuDNN, by
    the workspace that it asks for (support/fake_cuda), and FlashAttention-2 alike (`dq_accum` and `softmax_d`
    in csrc/flash_attn/flash_api.cpp).
    """
    q, k, v = qkv
    on_gpu = graph.backend.device == "cuda" and graph.backend.bf16
    scratch_bytes = (q.elements + n_heads) * FLOAT32 if on_gpu else 0
    out, logsumexp = Activation(q.elements, q.element_bytes), Activation(n_heads, FLOAT32)
    saved: tuple[tuple[str, Activation], ...]
    saved = (("queries", q), ("keys", k), ("values", v), ("output", out), ("logsumexp", logsumexp))
    of_mask = () if mask is None else (("mask", mask),)
    return graph.record(
        Op(name, qkv, out, saved=(*saved, *of_mask), scratch_bytes=scratch_bytes, cheap="any kernel")
    )


def _eager_attention(
    graph: OpGraph, m: Dims, name: str, qkv: tuple[Activation, Activation, Activation], n_heads: Size,
    out_width: Size, referenced_by_callers: tuple[Activation, ...], *, has_sinks: bool,
) -> Activation:  # fmt: skip
    """All scores of all heads written to memory, in several operations."""
    (q, k, v), n_scores = qkv, n_heads * m.context_length
    n_weights = n_scores + n_heads if has_sinks else n_scores
    scores = graph.product(name, q, k, n_scores)
    if graph.backend.compiled:
        weights = _compiled_softmax(graph, m, name, scores, n_weights, n_heads, has_sinks=has_sinks)
        return graph.copy(name, graph.product(name, weights, v, out_width))
    scores = graph.scale(name, graph.cast(name, scores, FLOAT32))
    if m.attention_softcap is not None:
        scores = graph.softcap(name, graph.scale(name, scores))
    scores = graph.record(Op(name, (scores,), Activation(n_scores, FLOAT32), passes_gradient_on=True))
    without_sinks = scores
    if has_sinks:
        with_sinks = Activation(n_weights, FLOAT32)
        scores = graph.record(
            Op(name, (scores,), with_sinks, passes_gradient_on=True, other_parameters=n_heads)
        )
    weights = Activation(n_weights, FLOAT32)
    referenced = (*referenced_by_callers, without_sinks)
    graph.record(
        Op(name, (scores,), weights, saved=(("weights", weights),), referenced_by_callers=referenced)
    )
    if has_sinks:
        weights = graph.record(Op(name, (weights,), Activation(n_scores, FLOAT32, part_of=weights)))
    weights = graph.cast_for_matmul(name, weights)
    out = graph.product(name, weights, v, out_width)
    return graph.record(Op(name, (out,), Activation(out_width, out.element_bytes), passes_gradient_on=True))


def _compiled_softmax(
    graph: OpGraph, m: Dims, name: str, scores: Activation, n_weights: Size, n_heads: Size, *, has_sinks: bool
) -> Activation:
    """The softmax is recomputed from its input, a soft cap from its own; with sinks there are two numbers a
    row beside them."""
    saved = [("softmax_input", Activation(n_weights, FLOAT32))]
    saved += [("scores", scores)] * (m.attention_softcap is not None)
    saved += [("rows", Activation(2 * n_heads, FLOAT32))] * has_sinks
    return graph.record(
        Op(
            name, (scores,), Activation(scores.elements, graph.backend.matmul_bytes), saved=tuple(saved),
            other_parameters=n_heads if has_sinks else 0,
        )
    )  # fmt: skip


def _feed_forward(graph: OpGraph, m: Dims, name: str, x: Activation, width: Size) -> Activation:
    """Two matrices around an activation function, or three with a gate."""
    if m.channel_mix:
        return _channel_mix(graph, m, name, x, width)
    gate: Activation | None = None
    if m.gated:
        gate, up = graph.linears(name, x, {"gate": width, "up": width}, bias=m.ffn_bias)
    else:
        up = graph.linear(f"{name}.up", x, width, bias=m.ffn_bias)
    between = _activate(graph, m, name, gate, up)
    if m.sub_norms:
        between = graph.norm(f"{name}.sub_norm", between, m)
    return graph.linear(f"{name}.down", between, m.dim, bias=m.ffn_bias)


def _channel_mix(graph: OpGraph, m: Dims, name: str, x: Activation, width: Size) -> Activation:
    """Two matrices and a gate of what they give, each of a mix of the token and the one before it."""
    earlier = graph.copy(name, x)

    def project(which: str, out: Size) -> Activation:
        saved = (("earlier", earlier), ("token", x))
        like = Activation(m.dim, x.element_bytes)
        mixed = graph.record(
            Op(name, (earlier, x), like, saved=saved, cheap="elementwise", other_parameters=m.dim)
        )
        return graph.linear(f"{name}.{which}", mixed, out, bias=m.ffn_bias)

    up, receptance = project("up", width), project("receptance", m.dim)
    gate = Activation(m.dim, receptance.element_bytes)
    graph.record(Op(name, (receptance,), gate, saved=(("gate", gate),), cheap="elementwise"))
    between = graph.activation(name, up, m.activation)
    return graph.multiply(name, gate, graph.linear(f"{name}.down", between, m.dim, bias=m.ffn_bias))


def _activate(graph: OpGraph, m: Dims, name: str, gate: Activation | None, up: Activation) -> Activation:
    """What happens between the matrices."""
    if gate is None:
        return graph.activation(name, up, m.activation)
    if graph.backend.compiled:
        return graph.multiply(name, gate, up)
    if m.ffn_clamp is not None:
        gate, up = graph.clamp(name, gate), graph.scale(name, graph.clamp(name, up))
    return graph.multiply(name, graph.activation(name, gate, m.activation), up)


def _experts(
    graph: OpGraph, m: Dims, name: str, x: Activation, scored: Activation | None = None
) -> Activation:
    """Routed experts, and shared ones that every token uses, and perhaps a norm of their sum. The router
    reads `scored`, or what its experts read."""
    summed = _sum_of_experts(graph, m, name, x, x if scored is None else scored)
    return graph.norm(f"{name}.out_norm", summed, m) if m.moe.experts_out_norm else summed


def _sum_of_experts(graph: OpGraph, m: Dims, name: str, x: Activation, scored: Activation) -> Activation:
    shared = _shared_experts(graph, m, name, x)
    if graph.backend.runs_experts_at_once:
        routed = _from_latent(graph, m, name, _experts_at_once(graph, m, name, x, scored))
        if shared is None:
            return routed
        # The sum is computed again from what is saved of both.
        output = Activation(m.dim, routed.element_bytes)
        saved = (("shared_output", shared),)
        return graph.record(Op(name, (routed, shared), output, saved=saved, passes_gradient_on=True))
    # A compiler does not know how many tokens an expert gets: what depends on it runs eagerly.
    eager = OpGraph(replace(graph.backend, compiled=False))
    # The projections multiply as other matrices do, and experts cast theirs.
    around = OpGraph(eager.backend, graph.matmul_weights)
    around.ops = eager.ops
    weights = _expert_weights(eager, m, name, scored)
    routed = _routed_experts(eager, m, name, _to_latent(around, m, name, x), weights)
    routed = _from_latent(around, m, name, routed)
    graph.ops += eager.ops
    return routed if shared is None else graph.add(name, routed, shared)


def _to_latent(graph: OpGraph, m: Dims, name: str, x: Activation) -> Activation:
    """What the routed experts take: the input itself, or its projection."""
    latent = m.moe.expert_latent_size
    return x if latent is None else graph.linear(f"{name}.latent_in", x, latent, bias=m.ffn_bias)


def _from_latent(graph: OpGraph, m: Dims, name: str, routed: Activation) -> Activation:
    """What the routed experts give, projected back where their input was projected."""
    if m.moe.expert_latent_size is None:
        return routed
    return graph.linear(f"{name}.latent_out", routed, m.dim, bias=m.ffn_bias)


def _experts_at_once(graph: OpGraph, m: Dims, name: str, x: Activation, scored: Activation) -> Activation:
    """The router and its experts as inductor compiles them, with one grouped matmul for each matrix."""
    moe, n_chosen, n_bytes = m.moe, m.moe.n_experts_per_token, graph.backend.matmul_bytes
    logits, weights = Activation(moe.n_experts, FLOAT32), Activation(n_chosen, FLOAT32)
    # The scores are recomputed from the logits, by softmax with two numbers a row; the router's input in
    # float32 is computed again.
    graph.record(
        Op(
            name, (scored,), logits, scratch_bytes=m.dim * FLOAT32,
            other_parameters=moe.n_experts * (m.dim + (1 if moe.router_bias else 0)),
        )
    )  # fmt: skip
    indices, rows = Activation(n_chosen, INT64), Activation(2, FLOAT32)
    saved = (("logits", logits), ("indices", indices), ("rows", rows))
    graph.record(Op(name, (logits,), weights, saved=saved))
    dim, x = expert_dim(m), _to_latent(graph, m, name, x)
    gathered = Activation(n_chosen * dim, n_bytes)
    orders = (("order", Activation(n_chosen, INT64)), ("order_back", Activation(n_chosen, INT64)))
    graph.record(Op(name, (x,), gathered, saved=orders, cheap="elementwise"))

    def project(which: str, source: Activation, width: Size, out: Size) -> Activation:
        return graph.record(
            Op(
                f"{name}.experts.{which}", (source,), Activation(n_chosen * out, n_bytes),
                saved=(("input", source),), is_matmul=True, matrix_elements=moe.n_experts * width * out,
                other_parameters=moe.n_experts * out if moe.expert_bias else 0,
                has_leaf=graph.matmul_weights == "leaves",
            )
        )  # fmt: skip

    width = moe.expert_intermediate_size
    gate = project("gate", gathered, dim, width) if m.gated else None
    between = _activate(graph, m, f"{name}.experts", gate, project("up", gathered, dim, width))
    outputs = project("down", between, width, dim)
    rows = gathered if moe.weights_on_inputs else outputs
    saved_last = (("expert_rows", rows), ("weights", weights))
    return graph.record(Op(name, (outputs, weights), Activation(dim, n_bytes), saved=saved_last))


def _shared_experts(graph: OpGraph, m: Dims, name: str, x: Activation) -> Activation | None:
    moe = m.moe
    if not moe.n_shared_experts:
        return None
    out = _feed_forward(graph, m, f"{name}.shared", x, moe.shared_expert_width)
    if not moe.shared_expert_gate:
        return out
    logit = graph.linear(f"{name}.shared_gate", x, 1, bias=False, has_leaf=False)
    gate = Activation(1, logit.element_bytes)
    graph.record(Op(name, (logit,), gate, saved=(("gate", gate),)))
    gated = Activation(m.dim, out.element_bytes)
    return graph.record(Op(name, (gate, out), gated, saved=(("gate", gate), ("shared_output", out))))


def _expert_weights(graph: OpGraph, m: Dims, name: str, x: Activation) -> Activation:
    """The router's weights of every token's experts, in float32."""
    moe, n_chosen = m.moe, m.moe.n_experts_per_token
    router_input = graph.cast(name, x, FLOAT32)
    logits = graph.record(
        Op(
            name, (router_input,), Activation(moe.n_experts, FLOAT32),
            saved=(("router_input", router_input),),
            other_parameters=moe.n_experts * (m.dim + (1 if moe.router_bias else 0)),
        )
    )  # fmt: skip
    scores, weights = Activation(moe.n_experts, FLOAT32), Activation(n_chosen, FLOAT32)
    graph.record(Op(name, (logits,), scores, saved=(("scores", scores),)))
    graph.record(Op(name, (scores,), weights, saved=(("indices", Activation(n_chosen, INT64)),)))
    if moe.norm_expert_weights:
        sums = graph.record(Op(name, (weights,), Activation(1, FLOAT32)))
        saved = (("weights", weights), ("sum", sums))
        weights = graph.record(Op(name, (weights, sums), Activation(n_chosen, FLOAT32), saved=saved))
    return graph.scale(name, weights)


def _routed_experts(graph: OpGraph, m: Dims, name: str, x: Activation, weights: Activation) -> Activation:
    """The weighted sum of the outputs of each token's experts."""
    n_chosen = m.moe.n_experts_per_token
    gathered = Activation(n_chosen * expert_dim(m), x.element_bytes)
    graph.record(Op(name, (x,), gathered, saved=(("order", Activation(n_chosen, INT64)),)))
    if m.moe.weights_on_inputs:
        gathered = _weigh(graph, name, gathered, graph.cast_for_matmul(name, weights))
    run = _fused_experts if m.moe.fused_experts else _single_experts
    outputs = run(graph, m, f"{name}.experts", gathered)
    element_bytes = outputs[0].element_bytes
    joined = Activation(gathered.elements, element_bytes)
    graph.record(Op(name, outputs, joined, passes_gradient_on=True))
    reordered = Activation(joined.elements, element_bytes)
    graph.record(Op(name, (joined,), reordered, saved=(("order_back", Activation(n_chosen, INT64)),)))
    weighted = reordered
    if not m.moe.weights_on_inputs:
        weighted = _weigh(graph, name, reordered, graph.cast_for_matmul(name, weights))
    # The gradient of a sum is not a tensor of its own.
    output = Activation(expert_dim(m), element_bytes)
    return graph.record(Op(name, (weighted,), output, passes_gradient_on=True))


def _weigh(graph: OpGraph, name: str, rows: Activation, factors: Activation) -> Activation:
    """Rows of a token's experts times their weights."""
    return graph.record(
        Op(
            name, (rows, factors), Activation(rows.elements, rows.element_bytes),
            saved=(("expert_rows", rows), ("weights", factors)), scratch_bytes=rows.bytes,
        )
    )  # fmt: skip


def _split_over_experts(m: Dims, width: Size) -> tuple[Size, Size, Size]:
    """Elements per token of the first expert, of all in between, and of the last one; a single expert is the
    first."""
    moe = m.moe
    whole = moe.n_experts_per_token * width
    first = -(-whole // moe.n_experts)
    last = whole // moe.n_experts * (moe.n_experts > 1)
    return first, whole - first - last, last


def _n_experts_each(m: Dims) -> tuple[Size, Size, Size]:
    """The number of experts in each part of that split."""
    n_experts = m.moe.n_experts
    several = (n_experts > 1) * 1
    return 1 + 0 * several, n_experts - 1 - several, several


def _single_experts(graph: OpGraph, m: Dims, name: str, x: Activation) -> tuple[Activation, ...]:
    """One expert after another, each with matrices of its own."""
    parts = graph.split(name, x, *_split_over_experts(m, expert_dim(m)))

    def run(own: OpGraph, expert: tuple[Activation, Size, Size]) -> Activation:
        part, width, n_experts = expert
        gate = _expert_linear(own, m, f"{name}.*.gate", part, width, n_experts) if m.gated else None
        up = _expert_linear(own, m, f"{name}.*.up", part, width, n_experts)
        between = _activate(own, m, f"{name}.*", gate, up)
        return _expert_linear(own, m, f"{name}.*.down", between, part.elements, n_experts)

    widths = _split_over_experts(m, m.moe.expert_intermediate_size)
    return tuple(_run_in_turn(graph, run, zip(parts, widths, _n_experts_each(m), strict=True)))


def _fused_experts(graph: OpGraph, m: Dims, name: str, x: Activation) -> tuple[Activation, ...]:
    """One projection after another, and in each of them one expert after another."""
    parts = graph.split(name, x, *_split_over_experts(m, expert_dim(m)))

    def project(which: str, sources: Sequence[Activation], width: Size) -> list[Activation]:
        def run(own: OpGraph, expert: tuple[Activation, Size, Size, Size]) -> Activation:
            source, out, n_experts, n_stacked = expert
            return _expert_linear(own, m, f"{name}.{which}", source, out, n_experts, n_stacked=n_stacked)

        stacks = (m.moe.n_experts, 0, 0)
        return _run_in_turn(
            graph, run, zip(sources, _split_over_experts(m, width), _n_experts_each(m), stacks, strict=True)
        )

    def activate(own: OpGraph, gate_and_up: tuple[Activation | None, Activation]) -> Activation:
        return _activate(own, m, name, *gate_and_up)

    width = m.moe.expert_intermediate_size
    gates: Sequence[Activation | None] = project("gate", parts, width) if m.gated else [None] * 3
    ups = project("up", parts, width)
    return tuple(project("down", _run_in_turn(graph, activate, zip(gates, ups, strict=True)), expert_dim(m)))


def _run_in_turn(
    graph: OpGraph, run: Callable[[OpGraph, T], Activation], experts: Iterable[T]
) -> list[Activation]:
    """Run the first expert, those in between, none of which holds more than it or the last, and the last."""
    outputs = []
    for i, expert in enumerate(experts):
        own = OpGraph(graph.backend)
        outputs.append(run(own, expert))
        graph.ops += [replace(op, is_middle_expert=i == 1) for op in own.ops]
    return outputs


def _expert_linear(
    graph: OpGraph, m: Dims, name: str, x: Activation, out: Size, n_experts: Size, *,
    n_stacked: Size | None = None,
) -> Activation:  # fmt: skip
    """The same projection of so many experts, each on its own part of `x`. The gradient of a tensor of
    `n_stacked` matrices is put together by the first of them."""
    wide, narrow = m.moe.expert_intermediate_size, expert_dim(m)
    bias = narrow if name.endswith(".down") else wide
    return graph.record(
        Op(
            name, (x,), Activation(out, graph.backend.matmul_bytes), saved=(("input", x),), is_matmul=True,
            matrix_elements=n_experts * wide * narrow,
            other_parameters=n_experts * bias if m.moe.expert_bias else 0,
            stacked_elements=None if n_stacked is None else n_stacked * wide * narrow,
        )
    )  # fmt: skip
