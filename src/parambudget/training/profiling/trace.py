"""Where the time of updates goes, from a chrome trace of them as torch writes it.

Every instant of an update counts once. On a GPU it belongs to the kernel that runs then; of several at once
to the one that computes, so that communication and copies are what no arithmetic hides. On a CPU it belongs
to the innermost operator.
"""

import gzip
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from parambudget.errors import InputError
from parambudget.training.profiling.kernels import (
    ACCUMULATION,
    CLIP,
    DATA,
    OPTIMIZER_STEP,
    PARTS,
    UPDATE,
    Part,
    part_of_kernel,
    part_of_operator,
)
from parambudget.training.profiling.update_profile import KernelTime

MOST_KERNELS: Final = 10
_ON_DEVICE: Final = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
_LAUNCHES: Final = frozenset({"cuda_runtime", "cuda_driver"})
_ON_HOST: Final = frozenset({"cpu_op", "user_annotation"})
_MICRO: Final = 1e-6
_WAITED_FOR: Final = ("gloo:", "c10d::")
"""Names of communication between CPUs, in threads of its own."""


class Event(NamedTuple):
    """A complete event of a trace; seconds from the same origin as all others."""

    name: str
    category: str
    thread: str
    start: float
    end: float
    correlation: int | None
    """The same for a kernel and the call that launched it."""


class Span(NamedTuple):
    """Time of a part, under the name of its kernel or operator."""

    start: float
    end: float
    part: Part
    name: str


@dataclass(frozen=True)
class TraceFigures:
    """What a trace says of an update, on average over those in it."""

    n_updates: int
    update_seconds: float
    seconds: dict[Part, float]
    """Part by part; they add up to `update_seconds`."""
    kernels: tuple[KernelTime, ...]
    """The longest kernels or operators, the longest first."""


def read_events(path: Path) -> list[Event]:
    """The complete events in a trace that torch has written, gzipped or not."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        content = json.load(file)
    return list(_complete_events(content["traceEvents"]))


def _complete_events(rows: Iterable[dict[str, Any]]) -> Iterator[Event]:
    for row in rows:
        category = row.get("cat")
        if row.get("ph") != "X" or category not in _ON_DEVICE | _LAUNCHES | _ON_HOST:
            continue
        start, thread = row["ts"] * _MICRO, f"{row['pid']}/{row['tid']}"
        correlation = row.get("args", {}).get("correlation")
        yield Event(row["name"], category, thread, start, start + row["dur"] * _MICRO, correlation)


def measure_parts(events: Sequence[Event], *, on_gpu: bool) -> TraceFigures:
    """The parts of the updates that the trainer has marked in a trace."""
    updates = [(event.start, event.end) for event in events if event.name == UPDATE]
    assert updates, "no update is marked in the trace"
    if on_gpu and not any(event.category in _ON_DEVICE for event in events):
        raise InputError(
            "the driver reported no kernel of the GPU; end other profilers on it, and see whether the driver "
            "lets only administrators profile"
        )
    spans = list(_device_spans(events) if on_gpu else _host_spans(events))
    n, total = len(updates), sum(end - start for start, end in updates)
    seconds = {part: time / n for part, time in _count_once(spans, updates).items()}
    return TraceFigures(n, total / n, seconds, _longest(spans, updates))


def _device_spans(events: Sequence[Event]) -> Iterator[Span]:
    """What runs on the device; and the making of batches on the host, for when it runs nothing."""
    phases = {part: _Phase(events, name) for part, name in _PHASES.items()}
    launches = {
        event.correlation: event
        for event in events
        if event.category in _LAUNCHES and event.correlation is not None
    }
    for event in events:
        if event.category in _ON_DEVICE:
            launch = None if event.correlation is None else launches.get(event.correlation)
            part = part_of_kernel(event.name)
            if launch is not None and part not in ("communication", "copies"):
                part = next((name for name, phase in phases.items() if phase.has(launch)), part)
            yield Span(event.start, event.end, part, event.name)
        elif event.name == DATA:
            yield Span(event.start, event.end, "data", event.name)


_PHASES: Final[dict[Part, str]] = {"optimizer": OPTIMIZER_STEP, "clip": CLIP, "weights": ACCUMULATION}
"""Parts whose kernels are known by what the host was doing when it launched them; first match."""


class _Phase:
    """When the host was within events whose name contains a text, thread by thread."""

    def __init__(self, events: Iterable[Event], name: str) -> None:
        self._ranges: dict[str, list[tuple[float, float]]] = defaultdict(list)
        within = (event for event in events if event.category in _ON_HOST and name in event.name)
        for event in sorted(within, key=lambda event: event.start):
            ranges = self._ranges[event.thread]
            if ranges and event.start <= ranges[-1][1]:  # nested, as a step within a step
                ranges[-1] = (ranges[-1][0], max(ranges[-1][1], event.end))
            else:
                ranges.append((event.start, event.end))

    def has(self, event: Event) -> bool:
        """Whether an event of the host begins within."""
        ranges = self._ranges.get(event.thread, [])
        before = bisect_right(ranges, (event.start, float("inf"))) - 1
        return before >= 0 and event.start <= ranges[before][1]


def _host_spans(events: Sequence[Event]) -> Iterator[Span]:
    """The innermost operators of the thread that trains, and communication in others."""
    main = next(event.thread for event in events if event.name == UPDATE)
    own = [event for event in events if event.thread == main and event.category in _ON_HOST]
    for stack, start, end in _innermost(own):
        if (part := _part_of_stack(stack)) != "idle":
            yield Span(start, end, part, stack[-1])
    for event in events:
        if event.thread != main and event.name.startswith(_WAITED_FOR):
            yield Span(event.start, event.end, "communication", event.name)


def _part_of_stack(names: Sequence[str]) -> Part:
    for part, phase in {**_PHASES, "data": DATA}.items():
        if any(phase in name for name in names):
            return part
    return part_of_operator(names[-1])


def _innermost(events: list[Event]) -> Iterator[tuple[list[str], float, float]]:
    """Nested events cut into pieces that do not overlap: the names from the outermost in, start and end."""
    stack: list[Event] = []
    at = 0.0
    for event in [*sorted(events, key=lambda one: (one.start, -one.end)), None]:
        until = float("inf") if event is None else event.start
        while stack and stack[-1].end <= until:
            end = max(at, stack[-1].end)
            if end > at:
                yield [one.name for one in stack], at, end
            at = end
            stack.pop()
        if event is None:
            return
        if stack and until > at:
            yield [one.name for one in stack], at, until
        stack.append(event)
        at = until


def _count_once(spans: Iterable[Span], updates: Sequence[tuple[float, float]]) -> dict[Part, float]:
    """Seconds of each part within the updates. Where spans overlap, what computes counts, and what it hides
    does not."""
    rank: dict[Part, int] = {part: i for i, part in enumerate(PARTS)}  # `PARTS` ends with what can be hidden
    changes = [(start, len(PARTS), 1) for start, _ in updates] + [(end, len(PARTS), -1) for _, end in updates]
    for span in spans:
        changes += (span.start, rank[span.part], 1), (span.end, rank[span.part], -1)
    active, seconds = [0] * (len(PARTS) + 1), dict.fromkeys(PARTS, 0.0)
    before = 0.0
    for at, which, change in sorted(changes):
        if active[-1] and at > before:
            part = next((part for part in PARTS if active[rank[part]]), PARTS[-1])
            seconds[part] += at - before
        before = at
        active[which] += change
    return seconds


def _longest(spans: Iterable[Span], updates: Sequence[tuple[float, float]]) -> tuple[KernelTime, ...]:
    """The kernels that take longest, each with all its calls."""
    starts = sorted(updates)
    seconds: dict[tuple[str, Part], float] = defaultdict(float)
    calls: dict[tuple[str, Part], int] = defaultdict(int)
    for span in spans:
        update = bisect_right(starts, (span.start, float("inf"))) - 1
        if update >= 0 and span.start < starts[update][1]:
            seconds[span.name, span.part] += span.end - span.start
            calls[span.name, span.part] += 1
    n = len(updates)
    return tuple(
        KernelTime(name[:200], part, seconds[name, part] / n, calls[name, part] / n)
        for name, part in sorted(seconds, key=lambda key: -seconds[key])[:MOST_KERNELS]
    )
