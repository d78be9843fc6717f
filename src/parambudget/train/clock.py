"""How fast a run goes: tokens per second and MFU, of the updates alone."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Self


@dataclass
class Clock:
    """Times each update as a `with` block; what is done between them (evaluating, saving) does not count."""

    tokens_per_update: int
    flops_per_token: int
    """Full convention."""
    peak_flops: float | None
    """Dense FLOP/s of the device; without it there is no MFU."""
    started: float = field(default_factory=perf_counter)
    _entered: float = 0.0
    _seconds: list[float] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._entered = perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        self._seconds.append(perf_counter() - self._entered)

    def already_ran(self, tokens_per_second: Iterable[float]) -> None:
        """Count updates that were made before this run was resumed, at these rates."""
        self._seconds = [self.tokens_per_update / rate for rate in tokens_per_second if rate] + self._seconds

    def tokens_per_second(self) -> float:
        """Of the latest update."""
        return self.tokens_per_update / self._seconds[-1]

    def mean_tokens_per_second(self) -> float:
        """Of all updates but the first, which also warms up."""
        steady = self._seconds[1:] or self._seconds
        return self.tokens_per_update * len(steady) / sum(steady) if steady else 0.0

    def mfu(self, tokens_per_second: float) -> float | None:
        """Share of the dense peak that this rate uses."""
        return tokens_per_second * self.flops_per_token / self.peak_flops if self.peak_flops else None

    def elapsed_seconds(self) -> float:
        """Since the run started."""
        return perf_counter() - self.started
