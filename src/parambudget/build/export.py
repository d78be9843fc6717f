"""Our weights as the safetensors files of a Hugging Face class, a file at a time."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from parambudget.arch.config import ModelConfig
from parambudget.build.names.entries import Entry, entries
from parambudget.build.pretrained import INDEX, WHOLE, expected_shape, got

SHARD_BYTES: Final = 2_000_000_000
"""Most that one file holds, and so about what is in memory at once, unless one tensor is larger."""


def write_weights(
    folder: Path, kind: str, model: ModelConfig, own: Mapping[str, Any], get: Callable[[str], Tensor],
    shard_bytes: int = SHARD_BYTES,
) -> None:  # fmt: skip
    """Write the weights of a model as the class `kind` names them, in float32; `get` gives the tensors of
    `own` by name."""
    shards = list(_shards(entries(kind, model), shard_bytes))
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = WHOLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        joined = {entry.theirs: _joined(entry, own, get) for entry in shard}
        save_file(joined, folder / name, {"format": "pt"})
        where |= dict.fromkeys(joined, name)
    if len(shards) > 1:
        size = sum(_bytes(entry) for shard in shards for entry in shard)
        index = {"metadata": {"total_size": size}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _joined(entry: Entry, own: Mapping[str, Any], get: Callable[[str], Tensor]) -> Tensor:
    whole = entry.join(lambda name: got(own, get, name))
    # A copy, where it would be a view of more than itself.
    return whole.detach().to(torch.float32).contiguous().clone()


def _shards(found: list[Entry], shard_bytes: int) -> Iterator[list[Entry]]:
    shard: list[Entry] = []
    size = 0
    for entry in found:
        if shard and size + _bytes(entry) > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(entry)
        size += _bytes(entry)
    yield shard


def _bytes(entry: Entry) -> int:
    return 4 * expected_shape(entry).numel()
