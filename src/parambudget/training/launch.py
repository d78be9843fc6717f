"""Whether `torchrun` started this process; known before torch is imported."""

import os


def launched_processes() -> int:
    """How many processes `torchrun` has started, this one included; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))
