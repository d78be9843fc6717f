"""How `torchrun` started this process; known before torch is imported."""

import os


def launched_processes() -> int:
    """How many processes `torchrun` has started, this one included; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def processes_per_node(world_size: int) -> int:
    """How many of them this node has; all of them unless `torchrun` says otherwise."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return world_size if world_size % here else here
