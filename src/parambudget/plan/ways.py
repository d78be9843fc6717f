"""How an update is best computed: micro-batch, recomputation and logits in parts, the quickest way that fits.

Every way is judged by what is predicted of it, its memory and its time. Among ways that are equally quick to
within what a prediction can tell, the one that needs less memory is taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size
from parambudget.cost.memory import peak_bytes
from parambudget.cost.tape import Kernels
from parambudget.cost.update import Work, tokens_per_second
from parambudget.errors import InputError
from parambudget.plan.machine import USABLE_SHARE, Machine, memory_plan, usable
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
    """The quickest of the ways that fits in the usable part of `memory_bytes`, or else of the machine's."""
    most = machine.usable_bytes if memory_bytes is None else usable(memory_bytes)
    way: Size = np.int64(NONE)
    rate: Size = 0.0
    peak: Size = np.inf
    for i, work in enumerate(candidates):
        its_peak, its_rate = machine.peak_bytes(m, work), tokens_per_second(m, work, machine.stack)
        better = (its_peak <= most) & (its_rate > rate * (1 + WORTH_MEMORY * (way != NONE)))
        least = (way == NONE) & (its_peak < peak)
        peak = np.where(better | least, its_peak, peak)
        rate, way = np.where(better, its_rate, rate), np.where(better, i, way)
    return Taken(way, rate, peak)


def least_changed(m: Dims, candidates: Sequence[Work], memory_bytes: int) -> Taken:
    """The last of the ways that fits, where there is no machine to time them on."""
    way: Size = np.int64(NONE)
    peak: Size = np.inf
    for i, work in enumerate(candidates):
        its_peak = peak_bytes(m, memory_plan(work, Kernels()))
        fits = its_peak <= usable(memory_bytes)
        peak = np.where(fits | ((way == NONE) & (its_peak < peak)), its_peak, peak)
        way = np.where(fits, i, way)
    return Taken(way, 0.0 * peak, peak)


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
