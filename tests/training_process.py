"""A training run in a process of its own, to be sent signals."""

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from training_data import small_config, small_data, small_model

from parambudget.train.loop import train


def train_in(out: Path, text: Path, settings: Mapping[str, Any], largest_file: int | None = None) -> None:
    """Train in `out` or go on there, on one thread; no file may grow beyond `largest_file` bytes."""
    torch.set_num_threads(1)
    data = small_data(text)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    train(small_model(), small_config(**settings), data, out, device="cpu", resume=True)
