"""The GPU of the machine that this runs on, asked of its driver: no torch is needed."""

import subprocess

from parambudget.cost.hardware import Accelerator, find

_PATIENCE_SECONDS = 10.0


def device_name() -> str | None:
    """What the driver calls the first GPU, which is also what torch calls it; None where there is none."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(asked.stdout.splitlines()), "").strip() or None


def detected() -> Accelerator | None:
    """The row of the machine's own GPU; None where there is none, or one that is not in the table."""
    name = device_name()
    return find(name) if name else None
