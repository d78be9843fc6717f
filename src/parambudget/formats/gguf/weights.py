"""A model, its weights and its tokenizer as one GGUF file, which llama.cpp and what builds on it read.

H heads, R rotated elements of a head, E experts
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from gguf import (
    GGML_QUANT_SIZES,
    GGML_QUANT_VERSION,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    quantize,
)
from torch import Tensor

from parambudget.arch.config import ModelConfig
from parambudget.arch.rope_scaling import RopeScaling
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Export
from parambudget.formats.gguf.architectures import ARCHITECTURES, LAYER_NAMES, TOP_NAMES, GGUFArchitecture
from parambudget.formats.gguf.exporter import GGUFMetadata
from parambudget.formats.gguf.vocabulary import GGUFVocabulary
from parambudget.formats.targets import GGUFDtype
from parambudget.nn.rope_scaling import plain_frequencies, rescaled_frequencies
from parambudget.nn.transformer import Transformer
from parambudget.units import count_phrase

_TYPES: Final[Mapping[GGUFDtype, tuple[GGMLQuantizationType, LlamaFileType]]] = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
_BLOCK: Final = GGML_QUANT_SIZES[GGMLQuantizationType.Q8_0][0]
"""Numbers in a block of q8_0: a row that it does not divide is stored as f16."""
_LARGEST: Final[Mapping[GGMLQuantizationType, float]] = {
    GGMLQuantizationType.F16: 65504.0,
    GGMLQuantizationType.Q8_0: 127 * 65504.0,  # 8 bits times a scale in f16
}
"""The largest magnitude of the types that have less range than f32."""
_ALWAYS_F32: Final = ("_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "rope_freqs.weight")
"""llama.cpp's own files have these in float32."""
_ROTARY: Final = ("attention.q.", "attention.k.", "attention.q_norm.", "attention.k_norm.")

Tensors = Mapping[str, Tensor]


@torch.no_grad()
def write_gguf(
    path: Path, module: Transformer, made: Export, vocabulary: GGUFVocabulary, dtype: GGUFDtype, name: str
) -> tuple[str, ...]:
    """Write the file of what `to_gguf` made of the model, tensor by tensor; returns notes about how they are
    stored.

    `name` is what llama.cpp calls the model on the screen. The caller removes what an error leaves behind.
    """
    m, state, one = module.model, module.state_dict(), ARCHITECTURES[made.name]
    # Shapes come first in the file: without memory, by the same steps as the values.
    on_meta = {key: tensor.to("meta") for key, tensor in state.items()}
    shapes = {key: tensor.shape for key, tensor in gguf_tensors(on_meta, m, one)}
    kinds = {key: _stored_kind(key, shape, dtype) for key, shape in shapes.items()}
    metadata = made.document | _general_keys(dtype, name) | _vocabulary_keys(vocabulary)
    writer = GGUFWriter(path, metadata["general.architecture"])
    try:
        for key, value in metadata.items():
            if key != "general.architecture":  # the writer's own
                _add_key(writer, key, value)
        for key, shape in shapes.items():
            block, block_bytes = GGML_QUANT_SIZES[kinds[key]]
            n_bytes = shape.numel() // block * block_bytes
            writer.add_tensor_info(key, shape, np.dtype(np.float32), n_bytes, kinds[key])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for key, tensor in gguf_tensors(state, m, one):
            writer.write_tensor_data(_stored_values(key, tensor, kinds[key]))
    finally:
        writer.close()
    return _notes(shapes, kinds, dtype)


def _stored_kind(key: str, shape: torch.Size, dtype: GGUFDtype) -> GGMLQuantizationType:
    kind, _ = _TYPES[dtype]
    if len(shape) == 1 or key.endswith(_ALWAYS_F32):
        return GGMLQuantizationType.F32
    if kind == GGMLQuantizationType.Q8_0 and shape[-1] % _BLOCK:
        return GGMLQuantizationType.F16
    return kind


def _stored_values(key: str, tensor: Tensor, kind: GGMLQuantizationType) -> npt.NDArray[Any]:
    values = tensor.to("cpu", torch.float32).contiguous()
    largest = float(values.abs().max())  # NaN where one value is
    if not math.isfinite(largest):
        raise ConfigError(f"{key} has values that are not finite; use a checkpoint from before they arose")
    if largest > _LARGEST.get(kind, largest):
        name = kind.name.lower()
        raise ConfigError(f"{key} has values beyond the range of {name}; use `dtype='bf16'` or 'f32'")
    return quantize(values.numpy(), kind)


def _notes(
    shapes: Mapping[str, torch.Size], kinds: Mapping[str, GGMLQuantizationType], dtype: GGUFDtype
) -> tuple[str, ...]:
    """Which matrices are not stored as asked for."""
    if dtype != "q8_0":
        return ()
    others = [key for key, kind in kinds.items() if kind == GGMLQuantizationType.F16]
    if not others:
        return ()
    width = shapes[others[0]][-1]
    return (
        f"{count_phrase(len(others), 'tensor')} stored as f16: the blocks of q8_0 hold {_BLOCK} numbers, "
        f"which do not divide rows of {width:,} ({others[0]})",
    )


def _add_key(writer: GGUFWriter, key: str, value: object) -> None:
    """Add a key with the type that llama.cpp reads it with."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)
        case _:
            raise TypeError(f"{key} is {value!r}")


def _general_keys(dtype: GGUFDtype, name: str) -> GGUFMetadata:
    return {
        "general.type": "model",
        "general.name": name,
        "general.file_type": int(_TYPES[dtype][1]),
        "general.quantization_version": GGML_QUANT_VERSION,
    }


def _vocabulary_keys(vocabulary: GGUFVocabulary) -> GGUFMetadata:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": vocabulary.pre,
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.token_type": vocabulary.token_types,
        "tokenizer.ggml.merges": vocabulary.merges,
        "tokenizer.ggml.bos_token_id": vocabulary.begin_id,
        "tokenizer.ggml.eos_token_id": vocabulary.end_id,
        "tokenizer.ggml.add_bos_token": vocabulary.adds_begin,
        "tokenizer.ggml.add_eos_token": False,
    }


def gguf_tensors(state: Tensors, m: ModelConfig, one: GGUFArchitecture) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the file by their names in it, in the order of the layers."""
    for ours, theirs in TOP_NAMES.items():
        for kind in ("weight", "bias"):
            tensor = state.get(f"{ours}.{kind}")
            if tensor is not None and not (m.tied and ours == "lm_head" and kind == "weight"):
                yield f"{theirs}.{kind}", tensor
    if m.rope_scaling is not None and m.rope_scaling.rope_type == "llama3":
        yield "rope_freqs.weight", _llama3_divisors(m.rope_scaling, m, state["embed.weight"].device)
    for layer in range(m.n_layers):
        prefix = f"layers.{layer}."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        for key, tensor in _layer_tensors(own, m, one).items():
            ours, _, kind = key.rpartition(".")
            yield f"blk.{layer}.{LAYER_NAMES[ours]}.{kind}", tensor


def _layer_tensors(own: Tensors, m: ModelConfig, one: GGUFArchitecture) -> dict[str, Tensor]:
    """A layer's tensors as llama.cpp has them: parts joined or split, the rows of heads sorted."""
    tensors = dict(own)
    for key in own:
        if key.startswith(_ROTARY) and m.position == "rotary" and m.mla is None:
            tensors[key] = _sort_rotary_rows(own[key], m, one)
    _stack_experts(tensors)
    if m.mla is not None:
        _split_latent_projection(tensors, m)
    if one.fused_qkv:
        _join(tensors, ("attention.q", "attention.k", "attention.v"), "attention.qkv")
    if one.fused_gate_up:
        _join(tensors, ("ffn.gate", "ffn.up"), "ffn.gate_up")
    if "ffn.shared_gate.weight" in tensors:
        tensors["ffn.shared_gate.weight"] = tensors["ffn.shared_gate.weight"][0]
    if "ffn.correction" in tensors:
        tensors["ffn.correction.bias"] = tensors.pop("ffn.correction")
    return tensors


def _join(tensors: dict[str, Tensor], parts: tuple[str, ...], whole: str) -> None:
    for kind in ("weight", "bias"):
        if f"{parts[0]}.{kind}" in tensors:
            tensors[f"{whole}.{kind}"] = torch.cat([tensors.pop(f"{part}.{kind}") for part in parts])


def _stack_experts(tensors: dict[str, Tensor]) -> None:
    """One tensor (E, out, in) for each projection, whether or not the module has stacked them."""
    for name in ("gate", "up", "down"):
        parts = [
            tensors.pop(key)
            for key in list(tensors)
            if key.startswith("ffn.experts.") and key.endswith(f".{name}.weight") and key.count(".") == 4
        ]
        if parts:
            tensors[f"ffn.experts.{name}.weight"] = torch.stack(parts)


def _split_latent_projection(tensors: dict[str, Tensor], m: ModelConfig) -> None:
    """Keys (H, latent, head) and values (H, head, latent) of each head: keys are applied to the query."""
    assert m.mla is not None
    whole = tensors.pop("attention.kv_up.weight").unflatten(0, (m.n_heads, -1))
    keys, values = whole.split([m.mla.qk_nope_head_dim, m.mla.v_head_dim], dim=1)
    tensors["attention.k_up.weight"] = keys.transpose(1, 2)
    tensors["attention.v_up.weight"] = values


def _sort_rotary_rows(tensor: Tensor, m: ModelConfig, one: GGUFArchitecture) -> Tensor:
    """The rows of each head in the order in which llama.cpp pairs them; the scores stay the same."""
    if m.rotary_interleaved == (one.rotary_pairs == "neighbours"):
        return tensor
    heads = tensor.reshape(-1, m.head_dim, *tensor.shape[1:]) if tensor.shape[-1:] != () else tensor
    pairs = (2, -1) if one.rotary_pairs == "neighbours" else (-1, 2)
    rotated = heads[:, : m.rotary_dim].unflatten(1, pairs).transpose(1, 2).flatten(1, 2)
    return torch.cat((rotated, heads[:, m.rotary_dim :]), dim=1).reshape(tensor.shape)


def _llama3_divisors(scaling: RopeScaling, m: ModelConfig, device: torch.device) -> Tensor:
    n_pairs = m.rotary_dim // 2
    plain = plain_frequencies(m.rope_theta, n_pairs, device)
    return plain / rescaled_frequencies(
        scaling, m.rope_theta, n_pairs, device, n_tokens=m.context_length, stretch=1.0
    )
