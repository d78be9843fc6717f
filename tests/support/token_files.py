"""Tokens as other tools write them."""

import struct
from pathlib import Path

import numpy as np


def write_llm_c(path: Path, ids: np.ndarray, magic: int = 20240520, version: int = 1) -> Path:
    """Source: github.com/karpathy/llm.c, dev/data/data_common.py."""
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(ids)
    path.write_bytes(header.tobytes() + ids.astype("<u4" if magic == 20240801 else "<u2").tobytes())
    return path


def write_megatron(prefix: Path, documents: list[np.ndarray], code: int = 8, dtype: str = "<u2") -> Path:
    """Source: github.com/NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py."""
    lengths = np.array([len(ids) for ids in documents], "<i4")
    starts = np.cumsum([0, *lengths[:-1]]) * np.dtype(dtype).itemsize
    header = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, code, len(documents), len(documents) + 1)
    bounds = np.arange(len(documents) + 1, dtype="<i8")
    index = header + lengths.tobytes() + starts.astype("<i8").tobytes() + bounds.tobytes()
    prefix.with_name(f"{prefix.name}.idx").write_bytes(index)
    prefix.with_name(f"{prefix.name}.bin").write_bytes(np.concatenate(documents).astype(dtype).tobytes())
    return prefix
