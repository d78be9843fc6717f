"""Anything with a model's attributes: ints, NumPy arrays or SymPy symbols where the sizes stand."""

from types import SimpleNamespace
from typing import Any, Protocol, cast

from parambudget.arch.config import ModelConfig

Size = Any
"""An int, a NumPy integer array or a SymPy expression: they share `+` and `*` and no base class."""


class Dims(Protocol):
    """The sizes and choices that the tables of a model read. Sizes may be arrays or symbols; choices are
    plain values."""

    @property
    def dim(self) -> Size: ...  # noqa: D102
    @property
    def n_layers(self) -> Size: ...  # noqa: D102
    @property
    def n_heads(self) -> Size: ...  # noqa: D102
    @property
    def n_kv_heads(self) -> Size: ...  # noqa: D102
    @property
    def head_dim(self) -> Size: ...  # noqa: D102
    @property
    def intermediate_size(self) -> Size: ...  # noqa: D102
    @property
    def vocab_size(self) -> Size: ...  # noqa: D102
    @property
    def context_length(self) -> Size: ...  # noqa: D102
    @property
    def tied(self) -> bool: ...  # noqa: D102
    @property
    def position(self) -> str: ...  # noqa: D102
    @property
    def norm(self) -> str: ...  # noqa: D102
    @property
    def norm_weight(self) -> bool: ...  # noqa: D102
    @property
    def norm_bias(self) -> bool: ...  # noqa: D102
    @property
    def norm_placement(self) -> str: ...  # noqa: D102
    @property
    def final_norm(self) -> bool: ...  # noqa: D102
    @property
    def block(self) -> str: ...  # noqa: D102
    @property
    def qk_norm(self) -> str: ...  # noqa: D102
    @property
    def gated(self) -> bool: ...  # noqa: D102
    @property
    def qkv_bias(self) -> bool: ...  # noqa: D102
    @property
    def attention_out_bias(self) -> bool: ...  # noqa: D102
    @property
    def ffn_bias(self) -> bool: ...  # noqa: D102
    @property
    def head_bias(self) -> bool: ...  # noqa: D102
    @property
    def activation(self) -> str: ...  # noqa: D102
    @property
    def logit_softcap(self) -> float | None: ...  # noqa: D102
    @property
    def embedding_multiplier(self) -> float: ...  # noqa: D102
    @property
    def residual_multiplier(self) -> float: ...  # noqa: D102


def with_sizes(model: ModelConfig, **sizes: Size) -> Dims:
    """The model's choices with other sizes in them. Not validated: an intermediate_size of 0 or an array is
    fine here."""
    return cast(Dims, SimpleNamespace(**(vars(model) | sizes)))


def part(m: Dims, index: Any) -> Dims:
    """The models at an index of the arrays that stand where sizes do; plain sizes and choices stay."""
    return cast(Dims, SimpleNamespace(**{name: _at(value, index) for name, value in vars(m).items()}))


def _at(value: Any, index: Any) -> Any:
    if isinstance(value, SimpleNamespace):
        return part(cast(Dims, value), index)
    return value[index] if getattr(value, "ndim", 0) else value
