"""How an update is best computed: micro-batch, recomputation and logits in parts, the quickest way that fits.

Every way is judged by what is predicted of it, its memory and its time. Among ways that are equally quick to
within what a prediction can tell, the one that needs less memory is taken.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size
from parambudget.arch.sizes import take_models
from parambudget.cost.memory.graph import Kernels
from parambudget.cost.memory.peak import peak_bytes
from parambudget.cost.speed.roofline import Work, tokens_per_second
from parambudget.errors import InputError
from parambudget.planning.machine import USABLE_SHARE, Machine, memory_plan, usable
from parambudget.search.lattice import Floats
from parambudget.units import format_bytes

MOST_MICRO_TOKENS: Final = 2**16
"""A larger micro-step fills no GPU better."""
MANY_CHUNKS: Final = 8
"""Of the logits, where they do not fit at once."""
WORTH_MEMORY: Final = 0.01
"""A way must be quicker by this share to be worth more memory."""
NONE: Final = -1


@dataclass(frozen=True, eq=False)
class Taken:
    """The way taken for each model; arrays where the sizes are."""

    way: Size
    """Its place in the list of ways; `NONE` where none fits."""
    tokens_per_second: Size
    """0 where none fits."""
    peak_bytes: Size
    """Of the way taken, or of the one that needs least where none fits."""


def ways(
    context_length: int, sequences: int, n_gpus: int = 1, given: Mapping[str, Any] | None = None
) -> list[Work]:
    """Ways to compute an update of so many sequences, those that need less memory first.

    `given` holds fields of `Work` that are not to be chosen; the number of sequences is kept as nearly as the
    batch and the number of GPUs allow.
    """
    fixed = {name: value for name, value in (given or {}).items() if name != "ranks"}
    steps = fixed.pop("gradient_accumulation_steps", None)
    size = fixed.pop("batch_size", None)
    sharded = [fixed.pop("sharded")] if "sharded" in fixed else [False] + [True] * (n_gpus > 1)
    recomputed = _chosen(fixed, "gradient_checkpointing", [True, False])
    chunks = _chosen(fixed, "loss_chunks", [MANY_CHUNKS, 1])
    sizes = [size] if size else _sizes(context_length, sequences, n_gpus, steps)
    return [
        Work(
            batch_size=each, gradient_accumulation_steps=steps or _steps(each, sequences, n_gpus),
            gradient_checkpointing=again, loss_chunks=parts, ranks=n_gpus, sharded=share, **fixed,
        )
        for share in reversed(sharded)
        for again in recomputed
        for parts in chunks
        for each in sizes
    ]  # fmt: skip


def take(m: Dims, candidates: Sequence[Work], machine: Machine, memory_bytes: int | None = None) -> Taken:
    """The quickest of the ways that fits in the usable part of `memory_bytes`, or else of the machine's.

    Of a lattice, quickest for the model in its middle: the order of the ways hardly depends on the model.
    """
    most = machine.usable_bytes if memory_bytes is None else usable(memory_bytes)
    order = _quickest_first(_middle(m), candidates, machine)
    way, peak = _first_that_fits(m, order, lambda of, i: machine.peak_bytes(of, candidates[i]), most)
    rate = np.zeros(np.shape(way))
    for i in np.unique(way):
        if i != NONE:
            chosen = way == i
            models = take_models(m, chosen) if np.ndim(way) else m
            rate[chosen] = tokens_per_second(models, candidates[i], machine.stack)
    return Taken(way, rate, peak)


def least_changed(m: Dims, candidates: Sequence[Work], memory_bytes: int) -> Taken:
    """The last of the ways that fits, where there is no machine to time them on."""
    order = range(len(candidates) - 1, -1, -1)
    plans = [memory_plan(work, Kernels()) for work in candidates]
    way, peak = _first_that_fits(m, order, lambda of, i: peak_bytes(of, plans[i]), usable(memory_bytes))
    return Taken(way, np.zeros(np.shape(way)), peak)


def _quickest_first(m: Dims, candidates: Sequence[Work], machine: Machine) -> list[int]:
    """Places in the list of ways, the quickest first; of ways that are equally quick the least memory."""
    rates = [float(tokens_per_second(m, work, machine.stack)) for work in candidates]
    peaks = [float(machine.peak_bytes(m, work)) for work in candidates]
    steps = [round(log(rate) / WORTH_MEMORY) for rate in rates]
    return sorted(range(len(candidates)), key=lambda i: (-steps[i], peaks[i]))


def _middle(m: Dims) -> Dims:
    """The model in the middle of the arrays; itself where there are none."""
    n = np.size(m.dim * m.n_layers)
    if np.ndim(m.dim * m.n_layers) == 0:
        return m
    volume = np.broadcast_to(m.dim * m.dim * m.n_layers, n)
    return take_models(m, int(np.argsort(volume)[n // 2]))


def _first_that_fits(
    m: Dims, order: Iterable[int], peak_of: Callable[[Dims, int], Size], most: int
) -> tuple[Any, Any]:
    """For every model the first way with a peak of at most `most`, and that peak; where none fits, the peak
    of the way that needs least, which is the first in the list."""
    shape = np.shape(m.dim * m.n_layers)

    def peaks_of(some: Any, i: int) -> Floats:
        return np.atleast_1d(np.asarray(peak_of(take_models(m, some) if shape else m, i), dtype=np.float64))

    peak = peaks_of(np.ones(shape, dtype=bool), 0)
    way, left = np.full(peak.shape, NONE), peak <= most
    for i in order:
        if not left.any():
            break
        peaks = peaks_of(left, i)
        fits = np.flatnonzero(left)[peaks <= most]
        peak[fits], way[fits], left[fits] = peaks[peaks <= most], i, False
    return way.reshape(shape), peak.reshape(shape)


def quickest(
    model: ModelConfig, sequences: int, machine: Machine, given: Mapping[str, Any] | None = None
) -> Work:
    """The quickest way that fits on the machine; raises `InputError` with what is needed where none does."""
    candidates = ways(model.context_length, sequences, machine.n_gpus, given)
    taken = take(model, candidates, machine)
    if int(taken.way) == NONE:
        raise InputError(
            f"no way of training this model fits on {machine.name}: at least "
            f"{format_bytes(float(taken.peak_bytes))} are needed, and {format_bytes(machine.memory_bytes)} "
            f"are there, of which {USABLE_SHARE:.0%} can be used; {_remedy(machine, given)}"
        )
    return candidates[int(taken.way)]


def least(
    model: ModelConfig, sequences: int, machine: Machine, given: Mapping[str, Any] | None = None
) -> Work:
    """The way that needs least memory, whether or not it fits."""
    return ways(model.context_length, sequences, machine.n_gpus, given)[0]


def _remedy(machine: Machine, given: Mapping[str, Any] | None) -> str:
    fixed = set(given or {}) & {"batch_size", "gradient_checkpointing", "loss_chunks", "sharded"}
    if fixed:
        return f"leave {', '.join(sorted(fixed))} to be chosen, or take a smaller model or more memory"
    more = "more GPUs (--gpus)" if machine.accelerator else "a GPU"
    return f"take a smaller model, a shorter context_length or {more}"


def _chosen(fixed: dict[str, Any], name: str, choices: list[Any]) -> list[Any]:
    return [fixed.pop(name)] if fixed.get(name) is not None else choices


def _sizes(context_length: int, sequences: int, n_gpus: int, steps: int | None) -> list[int]:
    """Sequences of a micro-step: powers of two up to a device's share, or what the given steps leave."""
    if steps is not None:
        return [max(1, sequences // steps)]
    most = max(1, min(sequences // n_gpus, MOST_MICRO_TOKENS // context_length))
    return [2**power for power in range(most.bit_length())]


def _steps(size: int, sequences: int, n_gpus: int) -> int:
    return max(1, round(sequences / (size * n_gpus))) * n_gpus
