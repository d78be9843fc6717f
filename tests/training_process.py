"""A training run in a process of its own, to be sent signals."""

import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from training_data import small_config, small_data, small_model

from parambudget.cli.main import main
from parambudget.errors import ParambudgetError
from parambudget.train.loop import train


def train_in(out: Path, text: Path, settings: Mapping[str, Any], largest_file: int | None = None) -> None:
    """Train in `out` or go on there, on one thread; no file may grow beyond `largest_file` bytes.

    What goes wrong is in `out`-error.txt.
    """
    sys.stderr = out.with_name(f"{out.name}-error.txt").open("w", buffering=1)
    torch.set_num_threads(1)
    data = small_data(text)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    try:
        train(small_model(), small_config(**settings), data, out, device="cpu", resume=True)
    except ParambudgetError as error:
        sys.exit(str(error))


def run_command(
    arguments: list[str], folder: Path, rank: int = 0, environment: Mapping[str, str] | None = None
) -> None:
    """The command line in `folder`, on one thread; what it prints is in out.txt and err.txt there.

    No file may grow beyond the bytes that LARGEST_FILE in the environment says.
    """
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ |= {"XDG_CACHE_HOME": str(folder / "cache"), **(environment or {})}
    if (largest_file := os.environ.pop("LARGEST_FILE", None)) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest_file), int(largest_file)))
    sys.argv = ["parambudget", *arguments]
    of_rank = f"-{rank}" if rank else ""
    with Path(f"out{of_rank}.txt").open("w") as out, Path(f"err{of_rank}.txt").open("w") as err:
        sys.stdout, sys.stderr = out, err
        main()
