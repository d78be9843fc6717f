"""Other sizes in place of a model's own: arrays for many models at once, symbols for the closed formula."""

from types import SimpleNamespace
from typing import Any, Final, cast

from parambudget.arch import dims
from parambudget.arch.config import BLOCKS, ModelConfig, flat_fields
from parambudget.arch.dims import (
    Dims,
    Size,
    has_dense_layers,
    has_own_global_tensors,
    layer_tensors,
    repetition,
)

_SIZES: Final = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "intermediate_size", "vocab_size",
    "context_length",
)  # fmt: skip
_MOE_SIZES: Final = ("n_experts", "n_experts_per_token", "expert_intermediate_size")
_OPTIONAL_SIZES: Final = (
    "embedding_dim", "per_layer_embedding_dim", "per_layer_vocab_size", "value_head_dim", "global_n_heads",
    "global_n_kv_heads", "global_head_dim",
)  # fmt: skip
_PARTS_SIZES: Final = (
    "n_altup_streams",
    "laurel_rank",
    "gated_norm_rank",
    "n_hyper_streams",
    "n_block_index_heads",
    "block_index_head_dim",
    "n_shared_blocks",
    "shared_adapter_rank",
)
_INDEXER_SIZES: Final = ("n_index_heads", "index_head_dim")
_MLA_SIZES: Final = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")

_LAYER_COUNTS: Final = {
    "n_attention_layers": dims.n_attention_layers, "n_mixer_layers": dims.n_mixer_layers,
    "n_mixing_layers": dims.n_mixing_layers, "n_ffn_layers": dims.n_ffn_layers,
    "n_local_layers": dims.n_local_layers, "n_moe_layers": dims.n_moe_layers,
    "n_indexed_layers": dims.n_indexed_layers, "n_block_indexed_layers": dims.n_block_indexed_layers,
    "n_kv_shared_local_layers": dims.n_kv_shared_local_layers,
    "n_kv_shared_global_layers": dims.n_kv_shared_global_layers,
}  # fmt: skip
"""How the numbers of layers follow from `n_layers`."""


def sizes_of(model: ModelConfig) -> dict[str, int]:
    """Every size of the model that the table reads, by name: what an array or a symbol may replace."""
    names = [*_SIZES, *(name for name in _OPTIONAL_SIZES if getattr(model, name) is not None)]
    if model.moe:
        names += _MOE_SIZES
        optional = ("shared_intermediate_size", "expert_latent_size")
        names += [name for name in optional if getattr(model.moe, name)]
    names += [name for name, value in model.mixer or () if type(value) is int]
    if model.mla:
        names = [name for name in names if name not in ("n_kv_heads", "head_dim")]
        names += [*_MLA_SIZES, *(["q_lora_rank"] if model.mla.q_lora_rank else [])]
    if model.indexer:
        names += _INDEXER_SIZES
        names += ["n_indexed_layers"] if "shared" in model.indexer.indexer_pattern else []
    if model.counted_parts:
        names += [name for name in _PARTS_SIZES if getattr(model.counted_parts, name) is not None]
    names += _counts_of_layers(model)
    fields = flat_fields(model)
    return {name: fields[name] if name in fields else getattr(model, name) for name in names}


def _counts_of_layers(model: ModelConfig) -> list[str]:
    """The numbers of layers of each kind whose tensors differ; they need not follow from `n_layers` by a
    formula."""
    names = []
    kinds = [layer_tensors(model, layer) for layer in repetition(model)]
    for name in ("n_attention_layers", "n_mixer_layers", "n_mixing_layers", "n_ffn_layers"):
        names += [name] if len({getattr(kind, name) for kind in kinds}) > 1 else []
    if model.moe and has_dense_layers(model):
        names += ["n_dense_layers", "n_moe_layers"]
    if model.counted_parts and "full" in model.counted_parts.block_indexer_pattern:
        names.append("n_block_indexed_layers")
    if has_own_global_tensors(model):
        names += ["n_local_layers", "n_global_layers"]
    if model.n_kv_shared_layers:
        names += ["n_kv_shared_local_layers", "n_kv_shared_global_layers"]
    return names


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
    for name, count in _LAYER_COUNTS.items():
        if name not in sizes:
            setattr(m, name, count(cast(Dims, m), m.n_layers))
    if "n_global_layers" not in sizes:
        m.n_global_layers = m.n_attention_layers - m.n_local_layers if model.window else m.n_attention_layers
    if "n_dense_layers" not in sizes:
        m.n_dense_layers = m.n_ffn_layers - m.n_moe_layers if model.moe else m.n_ffn_layers
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
