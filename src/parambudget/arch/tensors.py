"""Every learned tensor of a decoder-only transformer: name, shape, role.

The one source of truth: counts, FLOPs, memory and the printed formula are readings of this table. Shapes use
only + and * of sizes, so a size may be an int, a NumPy array or a SymPy symbol. Rounding belongs to the
solver, before the table is read.
"""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from parambudget.arch.dims import Dims, Size

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


@dataclass(frozen=True)
class Tensor:
    """One row: a tensor that stands `copies` times in the model, `*` in its name running over the layers.

    A row with `shared_with` is another name for that row's tensor: it adds no parameters, yet takes part in
    the arithmetic (a tied head is still a matmul). Matrices are (out, in), as torch.nn.Linear keeps them.
    """

    name: str
    shape: tuple[Size, ...]
    role: Role
    component: Component
    copies: Size = 1
    shared_with: str | None = None

    @property
    def elements(self) -> Size:
        """Elements of all copies, whether or not they are shared."""
        product, *others = self.shape
        for size in (*others, self.copies):
            product = product * size
        return product

    @property
    def hidden(self) -> bool:
        """Whether it is a matrix between the lookups and the head. A head's or a router's rows are classes,
        each with an embedding of its own."""
        return self.role == "matmul" and self.component not in ("lm_head", "router")

    @property
    def parameters(self) -> Size:
        """Learned parameters this row adds: its elements, or 0 for another row's tensor."""
        return 0 if self.shared_with else self.elements


def tensors(m: Dims) -> list[Tensor]:
    """The table of `m`, in the order in which a token meets the tensors."""
    rows = [Tensor("embed.weight", (m.vocab_size, m.dim), "lookup", "token_embedding")]
    if m.position == "learned":
        rows.append(Tensor("position.weight", (m.context_length, m.dim), "lookup", "position_embedding"))
    rows += _attention(m)
    rows += _ffn(m)
    rows += _block_norms(m)
    if m.final_norm:
        rows += _norm(m, "norm", (m.dim,), 1)
    return rows + _head(m)


def _attention(m: Dims) -> list[Tensor]:
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
        rows += _norm(m, "layers.*.attention.q_norm", of_queries, m.n_layers)
        rows += _norm(m, "layers.*.attention.k_norm", of_keys, m.n_layers)
    return rows


def _ffn(m: Dims) -> list[Tensor]:
    rows = []
    if m.gated:
        rows += _linear("layers.*.ffn.gate", "ffn", m.intermediate_size, m.dim, m.n_layers, bias=m.ffn_bias)
    rows += _linear("layers.*.ffn.up", "ffn", m.intermediate_size, m.dim, m.n_layers, bias=m.ffn_bias)
    rows += _linear("layers.*.ffn.down", "ffn", m.dim, m.intermediate_size, m.n_layers, bias=m.ffn_bias)
    return rows


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
    shared = "embed.weight" if m.tied else None
    rows = [Tensor("lm_head.weight", (m.vocab_size, m.dim), "matmul", "lm_head", shared_with=shared)]
    if m.head_bias:
        rows.append(Tensor("lm_head.bias", (m.vocab_size,), "bias", "lm_head"))
    return rows


def _linear(
    name: str, component: Component, out: Size, into: Size, copies: Size, *, bias: bool
) -> list[Tensor]:
    rows = [Tensor(f"{name}.weight", (out, into), "matmul", component, copies)]
    if bias:
        rows.append(Tensor(f"{name}.bias", (out,), "bias", component, copies))
    return rows


def _norm(m: Dims, name: str, shape: tuple[Size, ...], copies: Size) -> list[Tensor]:
    rows = []
    if m.norm_weight:
        rows.append(Tensor(f"{name}.weight", shape, "norm", "norm", copies))
    if m.norm_bias:
        rows.append(Tensor(f"{name}.bias", shape, "norm", "norm", copies))
    return rows
