"""Profile a few updates of a run as they are made."""

import gzip
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from parambudget._files import atomic_write
from parambudget.errors import InputError
from parambudget.training.device import Compute
from parambudget.training.metrics import StepMetrics
from parambudget.training.profiling.kernels import UPDATE, Part
from parambudget.training.profiling.trace import Event, measure_parts, read_events
from parambudget.training.profiling.update_profile import BEFORE_PROFILE, TRACE, UpdateProfile


@dataclass(eq=False)
class UpdateProfiler:
    """Profiles the first updates of a session after `BEFORE_PROFILE`.

    To be entered around every update, and shown the metrics of each afterwards. Profiled updates compute what
    others do; each also waits for the device at its end, so that its time is its own, and is a little slower.
    """

    n_updates: int
    out: Path
    """The folder of the run, where trace and profile are written."""
    compute: Compute
    planned: Mapping[Part, float] | None
    on_profile: Callable[[UpdateProfile], None]
    on_notice: Callable[[str], None]
    _n_entered: int = 0
    _steps: list[StepMetrics] = field(default_factory=list)
    """The updates that were profiled, as their metrics come."""
    _n_seen: int = 0
    _seconds: list[float] = field(default_factory=list)
    """From when the device had nothing left of the update before, until it had nothing left of this one."""
    _entered: float = 0.0
    _profiler: profile | None = None
    _stopped: bool = False
    _update: record_function | None = None

    @property
    def _on_gpu(self) -> bool:
        return self.compute.device.type == "cuda"

    @property
    def _last(self) -> int:
        return BEFORE_PROFILE + self.n_updates

    def __enter__(self) -> None:
        self._n_entered += 1
        if self._n_entered == BEFORE_PROFILE:
            activities = [ProfilerActivity.CPU]
            if self._on_gpu:
                activities.append(ProfilerActivity.CUDA)
            # The first update that it sees is thrown away: its events lack the time of starting to listen.
            # Its log is about itself: that there is no GPU, that it starts.
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
            plan = schedule(wait=0, warmup=1, active=self.n_updates, repeat=1)
            self._profiler = profile(activities=activities, schedule=plan)
            self._profiler.start()
        elif self._n_entered > self._last:
            self._stop()
        elif self._profiler is not None:
            self._profiler.step()
        if BEFORE_PROFILE <= self._n_entered <= self._last:
            self._wait()
            self._update = record_function(UPDATE)
            self._update.__enter__()
            self._entered = perf_counter()

    def __exit__(self, *_: object) -> None:
        if self._update is not None:
            self._wait()
            if self._n_entered > BEFORE_PROFILE:
                self._seconds.append(perf_counter() - self._entered)
            self._update.__exit__(None, None, None)
            self._update = None

    def observe(self, step: StepMetrics) -> None:
        """The metrics of every update, in order; with the last one that is profiled, write the profile."""
        self._n_seen += 1
        if BEFORE_PROFILE < self._n_seen <= self._last:
            self._steps.append(step)
        if self._n_seen == self._last:
            self._finish()

    def close(self) -> None:
        """End the profiler of a run that ended before all its updates were made."""
        if self._n_seen < self._last:
            self._stop()
            self.on_notice(
                f"no profile: this session made {self._n_seen} updates, and profiling {self.n_updates} takes "
                f"{self._last}"
            )

    def _stop(self) -> None:
        if self._profiler is not None and not self._stopped:
            self._profiler.stop()
            self._stopped = True

    def _finish(self) -> None:
        self._stop()
        try:
            figures = measure_parts(self._write_trace(), on_gpu=self._on_gpu)
            first, last = self._steps[0], self._steps[-1]
            made = UpdateProfile(
                device=self.compute.name, first_step=first.step, last_step=last.step,
                update_seconds=mean(self._seconds),
                seconds=figures.seconds, planned=None if self.planned is None else dict(self.planned),
                kernels=figures.kernels,
            )  # fmt: skip
            made.write(self.out)
        except (OSError, InputError) as error:
            self.on_notice(f"no profile: {error}")  # the run is worth more
        else:
            self.on_profile(made)

    def _write_trace(self) -> list[Event]:
        """Write the trace of the updates into the folder of the run; returns what is in it."""
        assert self._profiler is not None
        with TemporaryDirectory(prefix=".trace.", suffix=".tmp", dir=self.out) as folder:
            path = Path(folder) / "trace.json"
            self._profiler.export_chrome_trace(str(path))
            self._profiler = None
            atomic_write(self.out / TRACE, gzip.compress(path.read_bytes(), compresslevel=5))
            return read_events(path)

    def _wait(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize(self.compute.device)
