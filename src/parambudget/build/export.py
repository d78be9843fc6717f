"""The module as a folder that Hugging Face's `from_pretrained` reads, with the same logits."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from parambudget._files import atomic_folder, write_errors, write_json
from parambudget.arch.config import ModelConfig
from parambudget.build.stored import Stored, names_of, parts_of, stored
from parambudget.errors import ConfigError
from parambudget.formats.hf.weights import INDEX, ONE_FILE, failures_told
from parambudget.nn.transformer import Transformer

SHARD_BYTES: Final = 5_000_000_000
"""Most bytes of one file, unless a single tensor is larger."""


def write_pretrained(
    module: Transformer, config: Mapping[str, Any], path: Path, others: Mapping[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> list[str]:  # fmt: skip
    """Write the module as a folder of the class that `config` names; returns the names of its files.

    `others` are further files of the folder, such as a tokenizer's. All is written or nothing.
    """
    names = names_of(str(config["model_type"]))
    with torch.no_grad():
        parts = parts_of(module.state_dict(), module.model, names)
        try:
            rows = stored(names, parts, module.model)
        except ConfigError as error:
            raise ConfigError(f"model_type {config['model_type']!r} cannot hold the model: {error}") from None
        with failures_told(path), write_errors(path), atomic_folder(path) as unfinished:
            _write_shards(unfinished, _shards(rows, parts, shard_bytes), parts, module.model)
            write_json(unfinished / "config.json", config)
            for name, text in (others or {}).items():
                (unfinished / name).write_text(text, encoding="utf-8")
    return sorted(file.name for file in path.iterdir())


def _write_shards(
    folder: Path, shards: list[list[Stored]], parts: Mapping[str, Tensor], m: ModelConfig
) -> None:
    places: dict[str, str] = {}
    size_bytes = 0
    for i, shard in enumerate(shards, start=1):
        name = ONE_FILE if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors"
        # A copy of each: several names of one memory are not taken.
        tensors = {row.name: row.of(parts, m).clone(memory_format=torch.contiguous_format) for row in shard}
        save_file(tensors, folder / name, {"format": "pt"})
        places |= dict.fromkeys(tensors, name)
        size_bytes += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": size_bytes}, "weight_map": places})


def _shards(rows: Iterable[Stored], parts: Mapping[str, Tensor], most_bytes: int) -> list[list[Stored]]:
    """The rows in files of at most so many bytes, in their order."""
    shards: list[list[Stored]] = [[]]
    filled = 0
    for row in rows:
        size_bytes = sum(parts[part].nbytes for part in row.parts)
        if shards[-1] and filled + size_bytes > most_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(row)
        filled += size_bytes
    return shards
