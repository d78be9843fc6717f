"""Where the time of an update goes, measured beside planned: plain values, as in profile.json of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field

from parambudget._documents import CLOSED, Count, parse_document, unsealed_fields, write_with_seal
from parambudget.errors import InputError
from parambudget.planning.machine import CPU
from parambudget.training.metrics import read_own_json
from parambudget.training.profiling.kernels import Part

PROFILE: Final = "profile.json"
TRACE: Final = "trace.json.gz"
"""The chrome trace beside it."""
MOST_UPDATES: Final = 20
"""A trace of more of them is too large for its viewers."""
BEFORE_PROFILE: Final = 2
"""Updates of a session that are made before those that are profiled: the first compiles and allocates, the
second starts the profiler."""
Seconds = Annotated[float, Field(ge=0)]


def require_profilable(n_updates: int | None, steps: int, device_type: str) -> None:
    """Refuse to profile more updates than a run has, after those that come before; and devices whose kernels
    torch's traces do not have."""
    if n_updates is not None and device_type not in ("cpu", "cuda"):
        raise InputError(
            f"`profile` needs a CPU or CUDA: a trace has no kernels of {device_type}; leave it out"
        )
    if n_updates is None or n_updates + BEFORE_PROFILE <= steps:
        return
    most = steps - BEFORE_PROFILE
    advice = (
        f"use `profile={most}`, or more steps" if most > 0 else f"use at least {BEFORE_PROFILE + 1} steps"
    )
    raise InputError(
        f"`profile={n_updates}` needs {n_updates + BEFORE_PROFILE} updates, the first {BEFORE_PROFILE} as a "
        f"warm-up, and there are {steps}; {advice}"
    )


@dataclass(frozen=True)
class KernelTime:
    """A kernel or operator with all its calls in an update."""

    __pydantic_config__ = CLOSED

    name: str
    part: Part
    seconds: Seconds
    calls: Seconds


@dataclass(frozen=True)
class UpdateProfile:
    """The parts of an update, on average over those that were profiled in one process."""

    __pydantic_config__ = CLOSED

    device: str
    first_step: Count
    last_step: Count
    update_seconds: Seconds
    """By the clock, until the device has done all of an update. The profiler's own time is in it."""
    seconds: dict[Part, Seconds]
    """Measured, part by part; `idle` is when nothing runs on the device."""
    planned: dict[Part, Seconds] | None
    """Expected of each part on this device; None where its speed is not known."""
    kernels: tuple[KernelTime, ...]
    """The longest, the longest first."""

    @property
    def n_updates(self) -> int:
        """How many were profiled."""
        return self.last_step - self.first_step + 1

    @property
    def is_in_peak_memory(self) -> bool:
        """Whether the peak memory of its session has the recording in it: on a CPU that is the peak of the
        process, on a GPU of what torch allocates there."""
        return self.device == CPU

    @property
    def sum_seconds(self) -> float:
        """Of all parts, as the trace has them; should be `update_seconds`."""
        return sum(self.seconds.values())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The profile in a run's folder; the error is one line."""
        path = folder / PROFILE
        return parse_document(unsealed_fields(read_own_json(path), path), cls, str(path))

    def write(self, folder: Path) -> None:
        """Write profile.json into a run's folder."""
        write_with_seal(folder / PROFILE, self)
