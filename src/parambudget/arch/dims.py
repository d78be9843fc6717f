"""Anything with a model's attributes: ints, NumPy arrays or SymPy symbols where the sizes stand."""

from types import SimpleNamespace
from typing import Any, Final, Protocol, cast

from parambudget.arch.config import BLOCKS, ModelConfig, flat, n_local_layers, n_moe_layers, some_dense

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
    def position_offset(self) -> Size: ...  # noqa: D102
    @property
    def embedding_dim(self) -> Size: ...  # noqa: D102
    @property
    def embedding_norm(self) -> bool: ...  # noqa: D102
    @property
    def qk_norm_bias(self) -> bool | None: ...  # noqa: D102
    @property
    def attention_sinks(self) -> bool: ...  # noqa: D102
    @property
    def window(self) -> int | None: ...  # noqa: D102
    @property
    def window_pattern(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def n_local_layers(self) -> Size: ...  # noqa: D102
    @property
    def n_global_layers(self) -> Size: ...  # noqa: D102
    @property
    def moe(self) -> Any: ...  # noqa: D102
    @property
    def mla(self) -> Any: ...  # noqa: D102
    @property
    def n_dense_layers(self) -> Size: ...  # noqa: D102
    @property
    def n_moe_layers(self) -> Size: ...  # noqa: D102

    @property
    def activation(self) -> str: ...  # noqa: D102
    @property
    def logit_softcap(self) -> float | None: ...  # noqa: D102
    @property
    def logit_multiplier(self) -> float: ...  # noqa: D102
    @property
    def attention_softcap(self) -> float | None: ...  # noqa: D102
    @property
    def qkv_clip(self) -> float | None: ...  # noqa: D102
    @property
    def ffn_clamp(self) -> float | None: ...  # noqa: D102
    @property
    def rotary_pattern(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def rope_theta_local(self) -> float | None: ...  # noqa: D102
    @property
    def embedding_multiplier(self) -> float: ...  # noqa: D102
    @property
    def residual_multiplier(self) -> float: ...  # noqa: D102


_SIZES: Final = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "intermediate_size", "vocab_size",
    "context_length",
)  # fmt: skip
_SIZES_OF_MOE: Final = ("n_experts", "n_experts_per_token", "expert_intermediate_size")
_SIZES_OF_MLA: Final = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


def sizes_of(model: ModelConfig) -> dict[str, int]:
    """Every size of the model that the table reads, by name: what an array or a symbol may stand for."""
    names = [*_SIZES, *(["embedding_dim"] if model.embedding_dim else [])]
    if model.moe:
        names += _SIZES_OF_MOE
        names += ["shared_intermediate_size"] if model.moe.shared_intermediate_size else []
        names += ["n_dense_layers", "n_moe_layers"] if some_dense(model.moe) else []
    if model.mla:
        names = [name for name in names if name not in ("n_kv_heads", "head_dim")]
        names += [*_SIZES_OF_MLA, *(["q_lora_rank"] if model.mla.q_lora_rank else [])]
    own = flat(model)
    return {name: own[name] if name in own else getattr(model, name) for name in names}


def with_sizes(model: ModelConfig, **sizes: Size) -> Dims:
    """The model's choices with other sizes in them, those of blocks by their own names too.

    Not validated: an intermediate_size of 0 or an array is fine here. The numbers of layers of each kind
    follow from `n_layers`, unless they are given as well.
    """
    blocks = {}
    for name in BLOCKS:
        block = getattr(model, name)
        if block is not None:
            own = {key: sizes.pop(key) for key in type(block).model_fields if key in sizes}
            blocks[name] = SimpleNamespace(**(vars(block) | own))
    m = SimpleNamespace(**(vars(model) | blocks | sizes))
    if "n_local_layers" not in sizes:
        m.n_local_layers = n_local_layers(m, m.n_layers)
    if "n_global_layers" not in sizes:
        m.n_global_layers = m.n_layers - m.n_local_layers if model.window else m.n_layers
    if "n_moe_layers" not in sizes:
        m.n_moe_layers = n_moe_layers(m.moe, m.n_layers)
    if "n_dense_layers" not in sizes:
        m.n_dense_layers = m.n_layers - m.n_moe_layers if model.moe else m.n_layers
    return cast(Dims, m)


def part(m: Dims, index: Any) -> Dims:
    """The models at an index of the arrays that stand where sizes do; plain sizes and choices stay."""
    return cast(Dims, SimpleNamespace(**{name: _at(value, index) for name, value in vars(m).items()}))


def _at(value: Any, index: Any) -> Any:
    if isinstance(value, SimpleNamespace):
        return part(cast(Dims, value), index)
    return value[index] if getattr(value, "ndim", 0) else value
