"""Every learned tensor of a decoder-only transformer: name, shape, role.

The one source of truth: counts, FLOPs, memory and the printed formula are readings of this table. Shapes use
only + and * of sizes, so a size may be an int, a NumPy array or a SymPy symbol. Rounding belongs to the
solver, before it reads the table.
"""

from dataclasses import replace
from typing import Final, cast

from parambudget.arch.dims import (
    Dims,
    IndexerDims,
    MLADims,
    MoEDims,
    PartsDims,
    Size,
    expert_dim,
    has_attention,
    has_attention_layers,
    has_block_indexer,
    has_dense_layers,
    has_experts,
    has_ffn,
    has_global_layers,
    has_indexer,
    has_local_layers,
    has_mixing,
    has_own_global_tensors,
    has_shared_blocks,
    heads_of,
    is_first_use,
    is_local,
    mixer_kind,
    shares_keys,
    value_width,
)
from parambudget.arch.mixers.rows import mixer_rows
from parambudget.arch.mixers.shared_blocks import adapter_rows, attention_input_width, share_between_layers
from parambudget.arch.table import Component, LayerGroup, Role, Tensor, linear_rows, norm_rows


def is_in_group(m: Dims, group: LayerGroup, layer: int) -> bool:
    """Whether that layer, counted from 0, is one of the group."""
    if group in ("dense", "experts"):
        return has_ffn(m, layer) and has_experts(m, layer) == (group == "experts")
    if group in ("all", "mixer", "mixing", "ffn"):
        return {
            "all": True, "mixer": mixer_kind(m, layer) is not None, "mixing": has_mixing(m, layer),
            "ffn": has_ffn(m, layer),
        }[group]  # fmt: skip
    if not has_attention(m, layer):
        return False
    if group in ("indexed", "block_indexed"):
        return has_indexer(m, layer) if group == "indexed" else has_block_indexer(m, layer)
    if group in ("first_uses", "later_uses"):
        return is_first_use(m, layer) == (group == "first_uses")
    if group == "shared_keys":
        return shares_keys(m, layer)
    if group.endswith("own_keys") and shares_keys(m, layer):
        return False
    return not group.startswith(("local", "global")) or is_local(m, layer) == group.startswith("local")


def tensors(m: Dims) -> list[Tensor]:
    """The table of `m`, in the order of the forward pass."""
    rows = _embeddings(m)
    if has_attention_layers(m):
        rows += _attention(m)
    if m.indexer is not None:
        rows += _indexer(m, m.indexer)
    rows += mixer_rows(m)
    rows += _ffn(m)
    rows += _block_norms(m)
    if m.per_layer_embedding_dim is not None:
        rows += _per_layer_inputs(m, m.per_layer_embedding_dim)
    if has_shared_blocks(m):
        rows = share_between_layers(rows, m.counted_parts) + adapter_rows(m, m.counted_parts)
    elif m.counted_parts:
        rows += _counted_parts(m, m.counted_parts)
    if m.final_norm:
        rows += norm_rows(m, "norm", (m.dim,), 1)
    return rows + _head(m)


def _embeddings(m: Dims) -> list[Tensor]:
    rows = [Tensor("embed.weight", (m.vocab_size, m.embedding_width), "lookup", "token_embedding")]
    if m.embedding_dim is not None:
        rows.append(Tensor("project_in.weight", (m.dim, m.embedding_dim), "matmul", "embedding_projection"))
    if m.embedding_norm:
        rows += norm_rows(m, "embed_norm", (m.dim,), 1)
    if m.position == "learned":
        positions = (m.context_length + m.position_offset, m.dim)
        rows.append(Tensor("position.weight", positions, "lookup", "position_embedding"))
    if m.per_layer_embedding_dim is not None:
        rows += _per_layer_embeddings(m, m.per_layer_embedding_dim)
    return rows


def _attention(m: Dims) -> list[Tensor]:
    if m.mla is not None:
        return _latent_attention(m, m.mla) + _sinks(m, "attention", m.n_heads, m.n_attention_layers)
    if m.counted_parts is not None and m.counted_parts.attention_experts:
        return _attention_experts(m, m.moe)
    rows = []
    if has_own_global_tensors(m):
        n_own = m.n_local_layers - m.n_kv_shared_local_layers
        rows += _grouped_attention(m, "local", m.n_local_layers, n_own)
        n_own = m.n_global_layers - m.n_kv_shared_global_layers
        rows += _grouped_attention(m, "global", m.n_global_layers, n_own)
    else:
        layers: LayerGroup = "local" if has_local_layers(m) and not has_global_layers(m) else "attention"
        n_layers = m.n_attention_layers
        n_own = n_layers - (m.n_kv_shared_local_layers + m.n_kv_shared_global_layers)
        rows += _grouped_attention(m, layers, n_layers, n_own if m.n_kv_shared_layers else n_layers)
    return rows


def _grouped_attention(m: Dims, layers: LayerGroup, n_layers: Size, n_own: Size) -> list[Tensor]:
    """The attention of `n_layers` layers, of which `n_own` have keys and values of their own."""
    n_heads, n_kv_heads, head_dim = heads_of(m, local=layers == "local")
    value_dim, own = value_width(m, head_dim), _with_own_keys(m, layers)
    values = n_heads * value_dim

    def linear(name: str, out: Size, copies: Size, group: LayerGroup) -> list[Tensor]:
        place = f"layers.*.attention.{name}"
        into = attention_input_width(m)
        return linear_rows(place, "attention", out, into, copies, bias=m.qkv_bias, layers=group)

    rows = linear("q", n_heads * head_dim, n_layers, layers)
    rows += linear("k", n_kv_heads * head_dim, n_own, own)
    if layers == "local" or not m.global_keys_as_values:
        rows += linear("v", n_kv_heads * value_dim, n_own, own)
    if m.attention_gate != "none":
        n_gates, bias = n_heads if m.attention_gate == "head" else values, m.attention_gate_biased
        place = "layers.*.attention.gate"
        rows += linear_rows(place, "attention", n_gates, m.dim, n_layers, bias=bias, layers=layers)
    if m.counted_parts is not None and m.counted_parts.attention_gate_bias:
        place = "layers.*.attention.gate_bias"
        rows.append(Tensor(place, (n_heads,), "bias", "attention", n_layers, layers=layers))
    if m.sub_norms:
        rows += norm_rows(m, "layers.*.attention.sub_norm", (values,), n_layers, layers=layers)
    rows += linear_rows(
        "layers.*.attention.out", "attention", m.dim, values, n_layers, bias=m.attention_out_bias,
        layers=layers,
    )  # fmt: skip
    if m.differential_attention:
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            place = f"layers.*.attention.{name}"
            rows.append(Tensor(place, (head_dim,), "bias", "attention", n_layers, layers=layers))
    rows += _head_norm(m, "layers.*.attention.q_norm", n_heads, head_dim, n_layers, layers)
    rows += _head_norm(m, "layers.*.attention.k_norm", n_kv_heads, head_dim, n_own, own)
    return rows + _sinks(m, layers, n_heads, n_layers)


def _with_own_keys(m: Dims, layers: LayerGroup) -> LayerGroup:
    """Those of the layers that have keys of their own."""
    if not m.n_kv_shared_layers:
        return layers
    return _OWN_KEYS.get(layers, "own_keys")


_OWN_KEYS: Final[dict[LayerGroup, LayerGroup]] = {"local": "local_own_keys", "global": "global_own_keys"}


def _sinks(m: Dims, layers: LayerGroup, n_heads: Size, n_layers: Size) -> list[Tensor]:
    """One for each head, everywhere or in layers with a window alone."""
    if not (m.attention_sinks or (m.local_sinks and layers == "local")):
        return []
    place = "layers.*.attention.sinks"
    return [Tensor(place, (n_heads,), "bias", "attention", n_layers, layers=layers)]


def _head_norm(
    m: Dims, name: str, n_heads: Size, head_dim: Size, copies: Size, layers: LayerGroup
) -> list[Tensor]:
    """The norm on queries or keys of so many heads, if there is one."""
    if m.qk_norm in ("none", "l2"):
        return []
    shape: tuple[Size, ...] = {
        "head": (head_dim,), "per_head": (n_heads, head_dim), "full": (n_heads * head_dim,),
    }[m.qk_norm]  # fmt: skip
    bias = m.norm_bias if m.qk_norm_bias is None else m.qk_norm_bias
    return norm_rows(m, name, shape, copies, bias=bias, layers=layers)


def _attention_experts(m: Dims, moe: MoEDims) -> list[Tensor]:
    """Attention in which every expert has queries for all keys, and their projection back; a token has those
    of its own experts.

    Source: Shen et al. 2024 (JetMoE), arXiv 2404.07413, as in the class JetMoeAttention of transformers.
    """
    keys, n_layers = m.n_kv_heads * m.head_dim, m.n_layers
    rows = linear_rows("layers.*.attention.router", "router", moe.n_experts, m.dim, n_layers, bias=False)
    active = n_layers * moe.n_experts_per_token * keys * m.dim
    for name, out, into in (("q", keys, m.dim), ("out", m.dim, keys)):
        place, shape = f"layers.*.attention.experts.{name}.weight", (moe.n_experts, out, into)
        rows.append(Tensor(place, shape, "matmul", "attention", n_layers, routed_active=active))
    for name in ("k", "v"):
        rows += linear_rows(f"layers.*.attention.{name}", "attention", keys, m.dim, n_layers, bias=False)
    rows.append(Tensor("layers.*.attention.experts_bias", (m.dim,), "bias", "attention", n_layers))
    return [*rows, Tensor("layers.*.ffn.experts_bias", (m.dim,), "bias", "ffn", n_layers)]


def _latent_attention(m: Dims, mla: MLADims) -> list[Tensor]:
    """As published, the projections up from a latent have no bias, whatever `qkv_bias` is."""
    n_layers = m.n_attention_layers
    queries = m.n_heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    keys_and_values = m.n_heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    values = m.n_heads * mla.v_head_dim
    gate = "none" if m.counted_parts is None else m.counted_parts.latent_gate

    def linear(name: str, out: Size, into: Size, *, bias: bool = False) -> list[Tensor]:
        place = f"layers.*.attention.{name}"
        return linear_rows(place, "attention", out, into, n_layers, bias=bias, layers="attention")

    def latent_norm(name: str, rank: Size) -> list[Tensor]:
        return norm_rows(m, f"layers.*.attention.{name}", (rank,), n_layers, layers="attention")

    if mla.q_lora_rank is None:
        rows = linear("q", queries, m.dim)
    else:
        rows = linear("q_down", mla.q_lora_rank, m.dim, bias=m.qkv_bias)
        rows += latent_norm("q_latent_norm", mla.q_lora_rank)
        if gate == "latent":
            rows += linear("q_gate_up", queries + values, 2 * mla.q_lora_rank)
        else:
            rows += linear("q_up", queries, mla.q_lora_rank)
    if gate == "element":
        rows += linear("gate", values, m.dim)
    if m.attention_gate != "none":
        gates = values if m.attention_gate == "element" else m.n_heads
        rows += linear("gate", gates, m.dim, bias=m.attention_gate_biased)
    rows += linear("kv_down", mla.kv_lora_rank + mla.qk_rope_head_dim, m.dim, bias=m.qkv_bias)
    rows += latent_norm("kv_latent_norm", mla.kv_lora_rank)
    rows += linear("kv_up", keys_and_values, mla.kv_lora_rank)
    return rows + linear("out", m.dim, values, bias=m.attention_out_bias)


def _indexer(m: Dims, indexer: IndexerDims) -> list[Tensor]:
    """Queries from the latent of the main queries, one key per token with a LayerNorm, and the weights of the
    heads. No gradient reaches them, as in the classes of transformers."""
    latent = m.dim if m.mla.q_lora_rank is None else m.mla.q_lora_rank
    shapes: tuple[tuple[str, tuple[Size, ...], Role], ...] = (
        ("q.weight", (indexer.n_index_heads * indexer.index_head_dim, latent), "matmul"),
        ("k.weight", (indexer.index_head_dim, m.dim), "matmul"),
        ("k_norm.weight", (indexer.index_head_dim,), "norm"),
        ("k_norm.bias", (indexer.index_head_dim,), "norm"),
        ("head_weights.weight", (indexer.n_index_heads, m.dim), "matmul"),
    )
    return [
        Tensor(
            f"layers.*.indexer.{name}", shape, role, "norm" if role == "norm" else "attention",
            m.n_indexed_layers, layers="indexed", trained=False,
        )
        for name, shape, role in shapes
    ]  # fmt: skip


def _ffn(m: Dims) -> list[Tensor]:
    rows = []
    beside_experts = m.moe is not None and (m.moe.experts_beside_ffn or _has_shortcut(m))
    n_dense = m.n_ffn_layers if beside_experts else m.n_dense_layers
    layers: LayerGroup = "dense" if m.moe and not beside_experts else "ffn"
    if m.kv_shared_ffn_factor > 1:
        n_wide = m.n_kv_shared_local_layers + m.n_kv_shared_global_layers
        rows += _dense_ffn(m, m.kv_shared_ffn_factor * m.intermediate_size, n_wide, "shared_keys")
        n_dense, layers = n_dense - n_wide, "own_keys"
    if has_dense_layers(m) or beside_experts:
        rows += _dense_ffn(m, m.intermediate_size, n_dense, layers)
        if m.activation == "xielu":
            for name in ("alpha_p", "alpha_n"):
                place = f"layers.*.ffn.activation.{name}"
                rows.append(Tensor(place, (1,), "bias", "ffn", n_dense, layers=layers))
    return rows + _experts(m, m.moe) if m.moe else rows


def _has_shortcut(m: Dims) -> bool:
    """Whether experts stand beside the dense FFN of their layer and are added behind the next one."""
    return m.counted_parts is not None and m.counted_parts.shortcut_experts


def _dense_ffn(m: Dims, width: Size, copies: Size, layers: LayerGroup) -> list[Tensor]:
    rows = [
        row
        for name, out, into in _projections(m, width, m.dim)
        for row in linear_rows(
            f"layers.*.ffn.{name}", "ffn", out, into, copies, bias=m.ffn_bias, layers=layers
        )
    ]
    if m.channel_mix:
        for name in ("up_mix", "receptance_mix"):
            rows.append(Tensor(f"layers.*.ffn.{name}", (m.dim,), "bias", "ffn", copies, layers=layers))
        place = "layers.*.ffn.receptance"
        rows += linear_rows(place, "ffn", m.dim, m.dim, copies, bias=m.ffn_bias, layers=layers)
    return rows + (
        norm_rows(m, "layers.*.ffn.sub_norm", (width,), copies, layers=layers) if m.sub_norms else []
    )


def _projections(m: Dims, width: Size, dim: Size) -> list[tuple[str, Size, Size]]:
    """The matrices of one FFN or expert that takes and gives `dim`: name, out, in."""
    gate = [("gate", width, dim)] if m.gated else []
    return [*gate, ("up", width, dim), ("down", dim, width)]


def _experts(m: Dims, moe: MoEDims) -> list[Tensor]:
    n_layers = m.n_moe_layers
    # Beside the dense FFN they are a branch of their own.
    branch = "experts_ffn" if moe.experts_beside_ffn or _has_shortcut(m) else "ffn"
    n_zero_experts = 0 if m.counted_parts is None else m.counted_parts.n_zero_experts

    def linear(name: str, component: Component, out: Size, into: Size, *, bias: bool) -> list[Tensor]:
        place = f"layers.*.{branch}.{name}"
        return linear_rows(place, component, out, into, n_layers, bias=bias, layers="experts")

    rows = linear("router", "router", moe.n_experts + n_zero_experts, m.dim, bias=moe.router_bias)
    if moe.experts_beside_ffn:
        for name, size in (("input_scale", m.dim), ("expert_scale", moe.n_experts)):
            place = f"layers.*.experts_ffn.{name}"
            rows.append(Tensor(place, (size,), "norm", "router", n_layers, layers="experts"))
    if moe.correction_counted:
        place, shape = f"layers.*.{branch}.correction", (moe.n_experts,)
        correction = Tensor(place, shape, "bias", "router", n_layers, layers="experts", trained=False)
        rows.append(replace(correction, is_buffer=True))
    if moe.expert_latent_size is not None:
        rows += linear("latent_in", "ffn", moe.expert_latent_size, m.dim, bias=m.ffn_bias)
        rows += linear("latent_out", "ffn", m.dim, moe.expert_latent_size, bias=m.ffn_bias)
    for name, out, into in _projections(m, moe.expert_intermediate_size, expert_dim(m)):
        place = f"layers.*.{branch}.experts"
        rows += _routed_rows(moe, n_layers, place, f"{name}.weight", (out, into), "matmul")
        if moe.expert_bias:
            rows += _routed_rows(moe, n_layers, place, f"{name}.bias", (out,), "bias")
    if n_zero_experts:  # which the class of transformers has and does not use
        for name, out, into in _projections(m, moe.expert_intermediate_size, m.dim)[:-1]:
            place, unused = f"layers.*.{branch}.zero_experts.{name}.weight", (n_zero_experts, out, into)
            rows.append(Tensor(place, unused, "matmul", "ffn", n_layers, layers="experts", routed_active=0))
    # Their number is a choice: no symbol or array stands for it.
    if moe.n_shared_experts:
        for name, out, into in _projections(m, moe.shared_expert_width, m.dim):
            rows += linear(f"shared.{name}", "ffn", out, into, bias=m.ffn_bias)
    if moe.shared_expert_gate:
        rows += linear("shared_gate", "router", 1, m.dim, bias=False)
    if moe.experts_out_norm:
        rows += norm_rows(m, f"layers.*.{branch}.out_norm", (m.dim,), n_layers, layers="experts")
    return rows


def _routed_rows(
    moe: MoEDims, n_layers: Size, experts: str, name: str, shape: tuple[Size, ...], role: Role
) -> list[Tensor]:
    """A tensor of every routed expert of every layer with experts: one each, or one for all of a layer."""
    active = n_layers * moe.n_experts_per_token
    for size in shape:
        active = active * size
    if moe.fused_experts:
        stacked = (moe.n_experts, *shape)
        place = f"{experts}.{name}"
        return [Tensor(place, stacked, role, "ffn", n_layers, layers="experts", routed_active=active)]
    place, copies = f"{experts}.*.{name}", n_layers * moe.n_experts
    return [Tensor(place, shape, role, "ffn", copies, layers="experts", routed_active=active)]


def _block_norms(m: Dims) -> list[Tensor]:
    """The norms of the branches; that of attention is also that of a mixer in its place."""

    def norm(name: str, copies: Size, layers: LayerGroup) -> list[Tensor]:
        return norm_rows(m, f"layers.*.{name}", (m.dim,), copies, layers=layers)

    rows, some_ffn = [], "ffn" in m.ffn_pattern
    if has_shared_blocks(m):
        place, width = "layers.*.shared_block_norm", attention_input_width(m)
        rows += norm_rows(m, place, (width,), m.n_attention_layers, layers="attention")
    if m.mixer_pre_norm:
        for branch in ("attention", "ffn"):
            rows += norm(f"{branch}_norm", m.n_mixer_layers, "mixer")
            rows += norm(f"{branch}_out_norm", m.n_attention_layers, "attention")
        return rows
    if m.norm_placement != "reordered":
        skips_first = m.counted_parts is not None and m.counted_parts.no_first_norm
        rows += norm("attention_norm", m.n_mixing_layers - (1 if skips_first else 0), "mixing")
        if some_ffn and m.block != "parallel_shared_norm":
            rows += norm("ffn_norm", m.n_ffn_layers, "ffn")
    if m.norm_placement in ("reordered", "sandwich"):
        rows += norm("attention_out_norm", m.n_mixing_layers, "mixing")
        rows += norm("ffn_out_norm", m.n_ffn_layers, "ffn") if some_ffn else []
    if m.moe is not None and m.moe.experts_beside_ffn:
        for name in ("ffn_branch_norm", "experts_norm", "experts_branch_norm"):
            rows += norm(name, m.n_moe_layers, "experts")
    return rows


def _counted_parts(m: Dims, parts: PartsDims) -> list[Tensor]:
    """Parts between the branches and the stream that are counted and not built."""
    rows = []
    if parts.last_attention_out_bias:
        rows.append(Tensor("layers.*.attention.out.bias", (m.dim,), "bias", "attention"))
    if parts.dynamic_mask:
        values = m.n_kv_heads * m.head_dim
        place = "layers.*.attention.mask"
        rows += linear_rows(place, "attention", m.n_kv_heads, values, m.n_layers, bias=m.qkv_bias)
        rows.append(Tensor(f"{place}.scale", (m.n_kv_heads,), "bias", "attention", m.n_layers))
        for name in ("attention_residual_scale", "ffn_residual_scale"):
            rows.append(Tensor(f"layers.*.{name}", (m.dim,), "norm", "norm", m.n_layers))
    if parts.n_altup_streams is not None:
        rows += _alternating_updates(m, parts.n_altup_streams)
    if parts.laurel_rank is not None:
        for name, out, into in (("left", parts.laurel_rank, m.dim), ("right", m.dim, parts.laurel_rank)):
            rows += linear_rows(f"layers.*.laurel.{name}", "ffn", out, into, m.n_layers, bias=False)
        rows += norm_rows(m, "layers.*.laurel.norm", (m.dim,), m.n_layers)
    if parts.gated_norm_rank is not None:
        rank = parts.gated_norm_rank
        for norm, n_layers, layers in (
            ("attention_norm", m.n_mixing_layers, "mixing"), ("ffn_norm", m.n_moe_layers, "experts"),
        ):  # fmt: skip
            for name, shape in (("down", (rank, m.dim)), ("up", (m.dim, rank))):
                place = f"layers.*.{norm}.gate_{name}.weight"
                rows.append(Tensor(place, shape, "matmul", "norm", n_layers, layers=cast(LayerGroup, layers)))
    if parts.n_block_index_heads is not None:
        rows += _block_indexer(m, parts)
    if parts.n_hyper_streams is not None:
        rows += _hyper_connections(m, parts.n_hyper_streams)
    return rows


def _block_indexer(m: Dims, parts: PartsDims) -> list[Tensor]:
    """Queries, one key per token, and norms on both; the scores of a block are those of its best key.

    Source: MiniMax-M3, as in the class MiniMaxM3VLIndexer of transformers.
    """
    width, copies = parts.block_index_head_dim, m.n_block_indexed_layers
    shapes: tuple[tuple[str, tuple[Size, ...], Role], ...] = (
        ("q.weight", (parts.n_block_index_heads * width, m.dim), "matmul"),
        ("k.weight", (width, m.dim), "matmul"),
        ("q_norm.weight", (width,), "norm"),
        ("k_norm.weight", (width,), "norm"),
    )
    return [
        Tensor(
            f"layers.*.block_indexer.{name}", shape, role, "norm" if role == "norm" else "attention", copies,
            layers="block_indexed", trained=False,
        )
        for name, shape, role in shapes
    ]  # fmt: skip


def _hyper_connections(m: Dims, n_streams: Size) -> list[Tensor]:
    """The coefficients with which each branch reads the streams and is added to them, and those that join the
    streams at the end: of all streams, with a shift and a factor.

    Source: Zhu et al. 2024, arXiv 2409.19606, as in the class HYV4HyperConnection of transformers.
    """
    rows = []
    for name, copies, n_uses in (
        ("layers.*.attention_streams", m.n_layers, 2), ("layers.*.ffn_streams", m.n_layers, 2),
        ("join_streams", 1, 1),
    ):  # fmt: skip
        width = n_uses * n_streams
        rows += linear_rows(name, "router", width, n_streams * m.dim, copies, bias=True)
        rows.append(Tensor(f"{name}.scale", (n_uses,), "norm", "router", copies))
    return rows


def _per_layer_embeddings(m: Dims, width: Size) -> list[Tensor]:
    """A narrow embedding of every token for every layer, and the projections of its usual embedding that are
    added to them.

    Source: Gemma 3n, as in the class Gemma3nTextModel of Hugging Face transformers.
    """
    n_rows = m.vocab_size if m.per_layer_vocab_size is None else m.per_layer_vocab_size
    all_layers = m.n_layers * width
    rows = [Tensor("per_layer.embed.weight", (n_rows, all_layers), "lookup", "token_embedding")]
    rows += linear_rows("per_layer.project", "embedding_projection", all_layers, m.dim, 1, bias=False)
    return rows + norm_rows(m, "per_layer.norm", (width,), 1)


def _per_layer_inputs(m: Dims, width: Size) -> list[Tensor]:
    """The way of these embeddings into the stream, in each layer."""
    rows = []
    for name, out, into in (("gate", width, m.dim), ("out", m.dim, width)):
        place = f"layers.*.per_layer_input.{name}"
        rows += linear_rows(place, "embedding_projection", out, into, m.n_layers, bias=False)
    return rows + norm_rows(m, "layers.*.per_layer_input.norm", (m.dim,), m.n_layers)


def _alternating_updates(m: Dims, n_streams: Size) -> list[Tensor]:
    """Projections between the streams and the embedding, and the coefficients of each layer.

    Source: Baykal et al. 2023 (AltUp), arXiv 2301.13310, as in the class Gemma3nTextModel of transformers.
    """
    rows = []
    for name in ("split_streams", "join_streams"):
        rows += linear_rows(name, "embedding_projection", m.dim, m.dim, n_streams - 1, bias=False)
    for name, out, into in (
        ("correct", n_streams, n_streams), ("predict", n_streams * n_streams, n_streams),
        ("router", n_streams, m.dim),
    ):  # fmt: skip
        rows += linear_rows(f"layers.*.altup.{name}", "router", out, into, m.n_layers, bias=False)
    rows.append(Tensor("layers.*.altup.scale", (m.dim,), "norm", "norm", m.n_layers))
    return rows + norm_rows(m, "layers.*.altup.router_norm", (m.dim,), m.n_layers)


def _head(m: Dims) -> list[Tensor]:
    rows, shape = [], (m.vocab_size, m.embedding_width)
    if m.embedding_dim is not None:
        rows.append(Tensor("project_out.weight", (m.embedding_dim, m.dim), "matmul", "embedding_projection"))
    if m.counted_parts is not None and m.counted_parts.head_transform != "none":
        bias = m.counted_parts.head_transform == "biased"
        rows += linear_rows("head_transform", "lm_head", m.dim, m.dim, 1, bias=bias)
        rows += [replace(row, component="lm_head") for row in norm_rows(m, "head_norm", (m.dim,), 1)]
    shared = "embed.weight" if m.tied else None
    rows.append(Tensor("lm_head.weight", shape, "matmul", "lm_head", shared_with=shared))
    if m.head_bias:
        rows.append(Tensor("lm_head.bias", (m.vocab_size,), "bias", "lm_head"))
    return rows
