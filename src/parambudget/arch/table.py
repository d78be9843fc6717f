"""A row of the table of tensors, and the rows of a linear map and of a norm."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from parambudget.arch.dims import Dims, Size

Role = Literal["lookup", "matmul", "convolution", "bias", "norm"]
"""What a tensor does. A convolution is one over time, of each channel by itself: (channels, kernel width)."""
Component = Literal[
    "token_embedding",
    "position_embedding",
    "embedding_projection",
    "attention",
    "mixer",
    "ffn",
    "router",
    "norm",
    "lm_head",
]
COMPONENTS: Final[tuple[Component, ...]] = get_args(Component)
LayerGroup = Literal[
    "all",
    "attention",
    "mixer",
    "mixing",
    "ffn",
    "dense",
    "experts",
    "local",
    "global",
    "own_keys",
    "shared_keys",
    "local_own_keys",
    "global_own_keys",
    "indexed",
    "block_indexed",
    "first_uses",
    "later_uses",
]
"""The layers that have a tensor: all; those with attention, with another mixer, with any of them; those with
an FFN of any kind, with one FFN, with experts; those whose attention has a window, or none; those with keys
and values of their own, or with those of an earlier layer; those with an indexer of their own; those in which
a shared block is used for the first time, or again."""


@dataclass(frozen=True)
class Tensor:
    """One row: a tensor that the model has `copies` times. The first `*` in its name stands for the layer, a
    second one for the expert.

    A row with `shared_with` is another name for that row's tensor: it adds no parameters but is computed with
    (a tied head is still a matmul). Matrices are (out, in), as in torch.nn.Linear.
    """

    name: str
    """Two rows have one name where a tensor has another shape in other layers."""
    shape: tuple[Size, ...]
    role: Role
    component: Component
    copies: Size = 1
    shared_with: str | None = None
    layers: LayerGroup = "all"
    """Which layers have it, if its name has a `*`."""
    trained: bool = True
    """Whether gradients reach it."""
    is_buffer: bool = False
    """Whether it is a buffer of the module, and no parameter."""
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
        """Whether it is a trained matrix between the embeddings and the head, or those of all experts of a
        layer. The rows of a head or router are classes, each with an embedding of its own."""
        return self.role == "matmul" and self.trained and self.component not in ("lm_head", "router")

    @property
    def parameters(self) -> Size:
        """Learned parameters this row adds: its elements, or 0 for another row's tensor."""
        return 0 if self.shared_with else self.elements


def linear_rows(
    name: str,
    component: Component,
    out: Size,
    into: Size,
    copies: Size,
    *,
    bias: bool,
    layers: LayerGroup = "all",
) -> list[Tensor]:
    """The matrix of a linear map, (out, in), and its bias if it has one."""
    rows = [Tensor(f"{name}.weight", (out, into), "matmul", component, copies, layers=layers)]
    if bias:
        rows.append(Tensor(f"{name}.bias", (out,), "bias", component, copies, layers=layers))
    return rows


def norm_rows(
    m: Dims, name: str, shape: tuple[Size, ...], copies: Size, *, bias: bool | None = None,
    layers: LayerGroup = "all",
) -> list[Tensor]:  # fmt: skip
    """The learned tensors of a norm: none, a scale, or a scale and a shift."""
    rows = []
    if m.norm_weight:
        rows.append(Tensor(f"{name}.weight", shape, "norm", "norm", copies, layers=layers))
    if m.norm_bias if bias is None else bias:
        rows.append(Tensor(f"{name}.bias", shape, "norm", "norm", copies, layers=layers))
    return rows
