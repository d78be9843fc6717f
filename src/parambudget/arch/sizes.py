"""Other sizes in place of a model's own: arrays for many models at once, symbols for the closed formula."""

from types import SimpleNamespace
from typing import Any, Final, cast

from parambudget.arch import dims
from parambudget.arch.config import BLOCKS, ModelConfig, flat_fields
from parambudget.arch.dims import Dims, Size, has_dense_layers

_SIZES: Final = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "intermediate_size", "vocab_size",
    "context_length",
)  # fmt: skip
_MOE_SIZES: Final = ("n_experts", "n_experts_per_token", "expert_intermediate_size")
_MLA_SIZES: Final = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


def sizes_of(model: ModelConfig) -> dict[str, int]:
    """Every size of the model that the table reads, by name: what an array or a symbol may replace."""
    names = [*_SIZES, *(["embedding_dim"] if model.embedding_dim else [])]
    if model.moe:
        names += _MOE_SIZES
        names += ["shared_intermediate_size"] if model.moe.shared_intermediate_size else []
        names += ["n_dense_layers", "n_moe_layers"] if has_dense_layers(model.moe) else []
    if model.mla:
        names = [name for name in names if name not in ("n_kv_heads", "head_dim")]
        names += [*_MLA_SIZES, *(["q_lora_rank"] if model.mla.q_lora_rank else [])]
    fields = flat_fields(model)
    return {name: fields[name] if name in fields else getattr(model, name) for name in names}


def with_sizes(model: ModelConfig, **sizes: Size) -> Dims:
    """The model's choices with other sizes, those of blocks given by their own names too.

    Not validated: an intermediate_size of 0 or an array is fine here. The numbers of layers of each kind
    follow from `n_layers`, unless they are given as well.
    """
    blocks = {}
    for name in BLOCKS:
        block = getattr(model, name)
        if block is not None:
            own = {key: sizes.pop(key) for key in type(block).model_fields if key in sizes}
            blocks[name] = _BLOCK_SIZES.get(name, SimpleNamespace)(**(vars(block) | own))
    m = _ModelSizes(**(vars(model) | blocks | sizes))
    if "n_local_layers" not in sizes:
        m.n_local_layers = dims.n_local_layers(cast(Dims, m), m.n_layers)
    if "n_global_layers" not in sizes:
        m.n_global_layers = m.n_layers - m.n_local_layers if model.window else m.n_layers
    if "n_moe_layers" not in sizes:
        m.n_moe_layers = dims.n_moe_layers(m.moe, m.n_layers)
    if "n_dense_layers" not in sizes:
        m.n_dense_layers = m.n_layers - m.n_moe_layers if model.moe else m.n_layers
    return cast(Dims, m)


def take_models(m: Dims, index: Any, **sizes: Size) -> Dims:
    """The models at an index of the arrays that stand for sizes, or with the sizes given; plain sizes and
    choices stay."""
    return cast(Dims, _take(m, index, **sizes))


class _ModelSizes(SimpleNamespace):
    """A model's fields; what follows from other sizes is derived when it is read."""

    @property
    def embedding_width(self) -> Size:
        return dims.embedding_width(cast(Dims, self))

    @property
    def active_ffn_width(self) -> Size:
        return dims.active_ffn_width(cast(Dims, self))


class _ExpertSizes(SimpleNamespace):
    @property
    def shared_expert_width(self) -> Size:
        return dims.shared_expert_width(self)

    @property
    def active_width(self) -> Size:
        return dims.active_expert_width(self)


_BLOCK_SIZES: Final[dict[str, type[SimpleNamespace]]] = {"moe": _ExpertSizes}


def _take(m: Any, index: Any, **sizes: Size) -> Any:
    return type(m)(**{name: _at(value, index) for name, value in vars(m).items()} | sizes)


def _at(value: Any, index: Any) -> Any:
    if isinstance(value, SimpleNamespace):
        return _take(value, index)
    return value[index] if getattr(value, "ndim", 0) else value
