"""How `torchrun` started this process; known before torch is imported."""

import os
from typing import Final

from parambudget.errors import InputError

_NEEDED: Final = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets beside WORLD_SIZE, and what torch needs of it."""


def launched_processes() -> int:
    """How many processes `torchrun` has started, this one included; 1 without it."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return 1
    missing = [name for name in _NEEDED if name not in os.environ]
    rank = os.environ.get("RANK", "0")
    is_valid = size.isdecimal() and rank.isdecimal() and int(rank) < int(size)
    if missing or not is_valid:
        what = f"but not {', '.join(missing)}" if missing else f"with RANK={rank[:20]}"
        raise InputError(
            f"WORLD_SIZE={size[:20]} is set in the environment, {what}: torchrun did not start this process; "
            "unset WORLD_SIZE, or start with torchrun --nproc-per-node N --no-python"
        )
    return int(size)


def is_main_process() -> bool:
    """Whether this process speaks for all that were started together."""
    try:
        return launched_processes() == 1 or os.environ["RANK"] == "0"
    except InputError:
        return True


def processes_per_node(world_size: int) -> int:
    """How many of them this node has; all of them unless `torchrun` says otherwise."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return world_size if world_size % here else here
