"""Every learned tensor of a decoder-only transformer: name, shape, role.

The one source of truth: counts, FLOPs, memory and the printed formula are readings of this table. Shapes use
only + and * of sizes, so a size may be an int, a NumPy array or a SymPy symbol. Rounding belongs to the
solver, before it reads the table.
"""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from parambudget.arch.dims import Dims, MLADims, MoEDims, Size, has_dense_layers

Role = Literal["lookup", "matmul", "bias", "norm"]
Component = Literal[
    "token_embedding",
    "position_embedding",
    "embedding_projection",
    "attention",
    "ffn",
    "router",
    "norm",
    "lm_head",
]
COMPONENTS: Final[tuple[Component, ...]] = get_args(Component)
LayerGroup = Literal["all", "dense", "experts"]
"""The layers that have a tensor: all, those with one FFN, or those with experts."""


@dataclass(frozen=True)
class Tensor:
    """One row: a tensor that the model has `copies` times. The first `*` in its name stands for the layer, a
    second one for the expert.

    A row with `shared_with` is another name for that row's tensor: it adds no parameters but is computed with
    (a tied head is still a matmul). Matrices are (out, in), as in torch.nn.Linear.
    """

    name: str
    shape: tuple[Size, ...]
    role: Role
    component: Component
    copies: Size = 1
    shared_with: str | None = None
    layers: LayerGroup = "all"
    """Which layers have it, if its name has a `*`."""
    routed_active: Size | None = None
    """Elements that one token uses, for tensors of routed experts; None: it uses all of them."""

    @property
    def elements(self) -> Size:
        """Elements of all copies, shared or not."""
        product, *others = self.shape
        for size in (*others, self.copies):
            product = product * size
        return product

    @property
    def active_elements(self) -> Size:
        """Elements used per token, shared or not: for routed experts, those of the token's own."""
        return self.elements if self.routed_active is None else self.routed_active

    @property
    def active(self) -> Size:
        """Learned parameters this row adds to those used per token."""
        return 0 if self.shared_with else self.active_elements

    @property
    def is_hidden_matrix(self) -> bool:
        """Whether it is a matrix between the embeddings and the head, or the matrices of all experts of a
        layer. The rows of a head or router are classes, each with an embedding of its own."""
        return self.role == "matmul" and self.component not in ("lm_head", "router")

    @property
    def parameters(self) -> Size:
        """Learned parameters this row adds: its elements, or 0 for another row's tensor."""
        return 0 if self.shared_with else self.elements


def tensors(m: Dims) -> list[Tensor]:
    """The table of `m`, in the order of the forward pass."""
    rows = _embeddings(m)
    rows += _attention(m)
    rows += _ffn(m)
    rows += _block_norms(m)
    if m.final_norm:
        rows += _norm(m, "norm", (m.dim,), 1)
    return rows + _head(m)


def _embeddings(m: Dims) -> list[Tensor]:
    rows = [Tensor("embed.weight", (m.vocab_size, m.embedding_width), "lookup", "token_embedding")]
    if m.embedding_dim is not None:
        rows.append(Tensor("project_in.weight", (m.dim, m.embedding_dim), "matmul", "embedding_projection"))
    if m.embedding_norm:
        rows += _norm(m, "embed_norm", (m.dim,), 1)
    if m.position == "learned":
        positions = (m.context_length + m.position_offset, m.dim)
        rows.append(Tensor("position.weight", positions, "lookup", "position_embedding"))
    return rows


def _attention(m: Dims) -> list[Tensor]:
    rows = _grouped_attention(m) if m.mla is None else _latent_attention(m, m.mla)
    if m.attention_sinks:
        rows.append(Tensor("layers.*.attention.sinks", (m.n_heads,), "bias", "attention", m.n_layers))
    return rows


def _grouped_attention(m: Dims) -> list[Tensor]:
    queries, keys = m.n_heads * m.head_dim, m.n_kv_heads * m.head_dim
    rows = _linear("layers.*.attention.q", "attention", queries, m.dim, m.n_layers, bias=m.qkv_bias)
    rows += _linear("layers.*.attention.k", "attention", keys, m.dim, m.n_layers, bias=m.qkv_bias)
    rows += _linear("layers.*.attention.v", "attention", keys, m.dim, m.n_layers, bias=m.qkv_bias)
    rows += _linear(
        "layers.*.attention.out", "attention", m.dim, queries, m.n_layers, bias=m.attention_out_bias
    )
    if m.qk_norm != "none":
        head = (m.head_dim,)
        of_queries, of_keys = {
            "head": (head, head),
            "per_head": ((m.n_heads, m.head_dim), (m.n_kv_heads, m.head_dim)),
            "full": ((queries,), (keys,)),
        }[m.qk_norm]
        bias = m.norm_bias if m.qk_norm_bias is None else m.qk_norm_bias
        rows += _norm(m, "layers.*.attention.q_norm", of_queries, m.n_layers, bias=bias)
        rows += _norm(m, "layers.*.attention.k_norm", of_keys, m.n_layers, bias=bias)
    return rows


def _latent_attention(m: Dims, mla: MLADims) -> list[Tensor]:
    """As published, the projections up from a latent have no bias, whatever `qkv_bias` is."""
    n_layers = m.n_layers
    queries = m.n_heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    keys_and_values = m.n_heads * (mla.qk_nope_head_dim + mla.v_head_dim)

    def linear(name: str, out: Size, into: Size, *, bias: bool = False) -> list[Tensor]:
        return _linear(f"layers.*.attention.{name}", "attention", out, into, n_layers, bias=bias)

    if mla.q_lora_rank is None:
        rows = linear("q", queries, m.dim)
    else:
        rows = linear("q_down", mla.q_lora_rank, m.dim, bias=m.qkv_bias)
        rows += _norm(m, "layers.*.attention.q_latent_norm", (mla.q_lora_rank,), n_layers)
        rows += linear("q_up", queries, mla.q_lora_rank)
    rows += linear("kv_down", mla.kv_lora_rank + mla.qk_rope_head_dim, m.dim, bias=m.qkv_bias)
    rows += _norm(m, "layers.*.attention.kv_latent_norm", (mla.kv_lora_rank,), n_layers)
    rows += linear("kv_up", keys_and_values, mla.kv_lora_rank)
    return rows + linear("out", m.dim, m.n_heads * mla.v_head_dim, bias=m.attention_out_bias)


def _ffn(m: Dims) -> list[Tensor]:
    rows = []
    if has_dense_layers(m.moe):
        layers: LayerGroup = "dense" if m.moe else "all"
        for name, out, into in _projections(m, m.intermediate_size):
            rows += _linear(
                f"layers.*.ffn.{name}", "ffn", out, into, m.n_dense_layers, bias=m.ffn_bias, layers=layers
            )
    return rows + _experts(m, m.moe) if m.moe else rows


def _projections(m: Dims, width: Size) -> list[tuple[str, Size, Size]]:
    """The matrices of one FFN or expert: name, out, in."""
    gate = [("gate", width, m.dim)] if m.gated else []
    return [*gate, ("up", width, m.dim), ("down", m.dim, width)]


def _experts(m: Dims, moe: MoEDims) -> list[Tensor]:
    n_layers = m.n_moe_layers

    def linear(name: str, component: Component, out: Size, into: Size, *, bias: bool) -> list[Tensor]:
        return _linear(f"layers.*.ffn.{name}", component, out, into, n_layers, bias=bias, layers="experts")

    rows = linear("router", "router", moe.n_experts, m.dim, bias=moe.router_bias)
    for name, out, into in _projections(m, moe.expert_intermediate_size):
        rows += _routed_rows(moe, n_layers, name, (out, into), "matmul", "weight")
        if moe.expert_bias:
            rows += _routed_rows(moe, n_layers, name, (out,), "bias", "bias")
    # Their number is a choice: no symbol or array stands for it.
    if moe.n_shared_experts:
        for name, out, into in _projections(m, moe.shared_expert_width):
            rows += linear(f"shared.{name}", "ffn", out, into, bias=m.ffn_bias)
    if moe.shared_expert_gate:
        rows += linear("shared_gate", "router", 1, m.dim, bias=False)
    return rows


def _routed_rows(
    moe: MoEDims, n_layers: Size, name: str, shape: tuple[Size, ...], role: Role, kind: str
) -> list[Tensor]:
    """A tensor of every routed expert of every layer with experts: one each, or one for all of a layer."""
    active = n_layers * moe.n_experts_per_token
    for size in shape:
        active = active * size
    if moe.fused_experts:
        stacked = (moe.n_experts, *shape)
        place = f"layers.*.ffn.experts.{name}.{kind}"
        return [Tensor(place, stacked, role, "ffn", n_layers, layers="experts", routed_active=active)]
    place, copies = f"layers.*.ffn.experts.*.{name}.{kind}", n_layers * moe.n_experts
    return [Tensor(place, shape, role, "ffn", copies, layers="experts", routed_active=active)]


def _block_norms(m: Dims) -> list[Tensor]:
    rows = []
    if m.norm_placement != "reordered":
        rows += _norm(m, "layers.*.attention_norm", (m.dim,), m.n_layers)
        if m.block != "parallel_shared_norm":
            rows += _norm(m, "layers.*.ffn_norm", (m.dim,), m.n_layers)
    if m.norm_placement in ("reordered", "sandwich"):
        rows += _norm(m, "layers.*.attention_out_norm", (m.dim,), m.n_layers)
        rows += _norm(m, "layers.*.ffn_out_norm", (m.dim,), m.n_layers)
    return rows


def _head(m: Dims) -> list[Tensor]:
    rows, shape = [], (m.vocab_size, m.embedding_width)
    if m.embedding_dim is not None:
        rows.append(Tensor("project_out.weight", (m.embedding_dim, m.dim), "matmul", "embedding_projection"))
    shared = "embed.weight" if m.tied else None
    rows.append(Tensor("lm_head.weight", shape, "matmul", "lm_head", shared_with=shared))
    if m.head_bias:
        rows.append(Tensor("lm_head.bias", (m.vocab_size,), "bias", "lm_head"))
    return rows


def _linear(
    name: str,
    component: Component,
    out: Size,
    into: Size,
    copies: Size,
    *,
    bias: bool,
    layers: LayerGroup = "all",
) -> list[Tensor]:
    rows = [Tensor(f"{name}.weight", (out, into), "matmul", component, copies, layers=layers)]
    if bias:
        rows.append(Tensor(f"{name}.bias", (out,), "bias", component, copies, layers=layers))
    return rows


def _norm(
    m: Dims, name: str, shape: tuple[Size, ...], copies: Size, *, bias: bool | None = None
) -> list[Tensor]:
    rows = []
    if m.norm_weight:
        rows.append(Tensor(f"{name}.weight", shape, "norm", "norm", copies))
    if m.norm_bias if bias is None else bias:
        rows.append(Tensor(f"{name}.bias", shape, "norm", "norm", copies))
    return rows
