"""The fastest way to execute an update that fits: micro-batch size, gradient checkpointing, chunks of the
logits and sharding, chosen together. A model is sharded among all processes or, where there are several
nodes, within each node and replicated between them.

Every candidate is judged by its predicted memory and time. Among candidates that are equally fast, as far as
a prediction can tell, the one that needs less memory wins.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size
from parambudget.arch.sizes import take_models
from parambudget.cost.memory.peak import peak_bytes
from parambudget.cost.speed.profile import GPUS_PER_NODE
from parambudget.cost.speed.roofline import tokens_per_second
from parambudget.cost.step import (
    MANY_CHUNKS,
    ON_CUDA,
    Backend,
    Sharding,
    StepConfig,
    StepFields,
    accumulation_steps,
    micro_batch_size,
)
from parambudget.errors import InputError
from parambudget.planning.machine import USABLE_SHARE, Machine, usable_bytes
from parambudget.search.lattice import Bools, Floats
from parambudget.units import format_bytes

MAX_MICRO_TOKENS: Final = 2**16
"""Tokens per micro-step: more do not keep a GPU busier."""
WORTH_MEMORY: Final = 0.01
"""A candidate must be faster by this share to be worth more memory."""
NOTHING_FITS: Final = -1
NOTHING_GIVEN: Final[StepFields] = {}
"""Everything about the step is left to be chosen."""


@dataclass(frozen=True, eq=False)
class StepChoice:
    """The candidate chosen for each model; arrays where the sizes are."""

    index: Size
    """Into the list of candidates; `NOTHING_FITS` where none fits."""
    tokens_per_second: Size
    """0 where none fits."""
    peak_bytes: Size
    """Of the candidate chosen; where none fits, of the one that needs the least."""


def fastest_step(
    model: ModelConfig, sequences: int, machine: Machine, given: StepFields = NOTHING_GIVEN
) -> StepConfig:
    """The fastest way to execute an update of about so many sequences that fits on the machine.

    Raises `InputError` with what is needed where none fits.
    """
    candidates = machine_step_candidates(model.context_length, sequences, machine, given)
    choice = choose_fastest(model, candidates, machine)
    if int(choice.index) == NOTHING_FITS:
        raise InputError(
            f"no batch size, checkpointing or sharding makes this model fit on {machine.name}: it needs "
            f"at least {format_bytes(float(choice.peak_bytes))} of {format_bytes(machine.memory_bytes)}, "
            f"of which {USABLE_SHARE:.0%} can be used; {_remedy(machine, given)}"
        )
    return candidates[int(choice.index)]


def machine_step_candidates(
    context_length: int, sequences: int, machine: Machine, given: StepFields = NOTHING_GIVEN
) -> list[StepConfig]:
    """Ways to execute such an update on the machine, those that need less memory first."""
    return step_candidates(
        context_length, sequences, given, world_size=machine.world_size,
        gpus_per_node=machine.gpus_per_node, backend=machine.backend,
    )  # fmt: skip


def step_candidates(
    context_length: int, sequences: int, given: StepFields = NOTHING_GIVEN, *, world_size: int = 1,
    gpus_per_node: int = GPUS_PER_NODE, backend: Backend = ON_CUDA,
) -> list[StepConfig]:  # fmt: skip
    """Ways to execute an update of so many sequences, those that need less memory first.

    What is `given` is not varied; the number of sequences is kept as nearly as the micro-batch and the number
    of devices allow.
    """
    steps, size = given.get("gradient_accumulation_steps"), given.get("batch_size")
    sizes = [size] if size else _batch_sizes(context_length, sequences, world_size, steps)
    recompute = [True, False] if given.get("activation_memory_budget", 1) == 1 else [False]
    recompute = [given["gradient_checkpointing"]] if "gradient_checkpointing" in given else recompute
    chunks = [given["loss_chunks"]] if "loss_chunks" in given else [MANY_CHUNKS, 1]
    base = {**given, "world_size": world_size, "backend": backend}
    return [
        StepConfig.read({
            **base, "batch_size": batch_size,
            "gradient_accumulation_steps": steps or accumulation_steps(sequences, batch_size, world_size),
            "gradient_checkpointing": checkpointing, "loss_chunks": loss_chunks, **vars(sharding),
        })
        for sharding in _shardings(given, world_size, gpus_per_node)
        for checkpointing in recompute
        for loss_chunks in chunks
        for batch_size in sizes
    ]  # fmt: skip


def _shardings(given: StepFields, world_size: int, gpus_per_node: int) -> list[Sharding]:
    """Ways to shard the state, those that need less memory first: among all processes, within each of several
    nodes, not at all."""
    if (only := Sharding.given_by(given.get("shard"), given.get("shard_degree"))) is not None:
        return [only]
    if world_size == 1:
        return [Sharding(False)]
    within_nodes = [Sharding(True, gpus_per_node)] if 1 < gpus_per_node < world_size else []
    return [Sharding(True), *within_nodes, Sharding(False)]


def choose_fastest(m: Dims, candidates: Sequence[StepConfig], machine: Machine) -> StepChoice:
    """The fastest candidate that fits in the usable part of the machine's memory.

    For arrays of sizes, the order of speed is that of the model in the middle: it hardly depends on the
    model.
    """
    order = _fastest_first(_median_model(m), candidates, machine)
    index, peak = _first_that_fits(m, candidates, order, machine.usable_bytes)
    rate = np.zeros(np.shape(index))
    for i in np.unique(index):
        if i != NOTHING_FITS:
            here = index == i
            models = take_models(m, here) if np.ndim(index) else m
            rate[here] = tokens_per_second(models, candidates[i], machine.profile)
    return StepChoice(index, rate, peak)


def choose_last_that_fits(m: Dims, candidates: Sequence[StepConfig], memory_bytes: int) -> StepChoice:
    """The last candidate that fits, where there is no machine to time them on."""
    order = range(len(candidates) - 1, -1, -1)
    most = usable_bytes(memory_bytes)
    index, peak = _first_that_fits(m, candidates, order, most)
    return StepChoice(index, np.zeros(np.shape(index)), peak)


def _fastest_first(m: Dims, candidates: Sequence[StepConfig], machine: Machine) -> Iterator[int]:
    """Indices of the candidates, the fastest first; of equally fast ones the least memory first.

    Whatever is recomputed makes an update slower, so where the same micro-batches recompute is timed only
    when the order has come to those that do not.
    """
    # A utilization that is given says nothing about which way of an update is the fastest.
    profile = replace(machine.profile, mfu=None)
    levels: dict[int, list[int]] = {}

    def time(i: int) -> None:
        level = round(log(float(tokens_per_second(m, candidates[i], profile))) / WORTH_MEMORY)
        levels.setdefault(level, []).append(i)

    recomputing: dict[int, list[int]] = {}
    for alike in _alike_but_for_recomputing(candidates):
        recomputing[alike[0]] = alike[1:]
        time(alike[0])
    while levels:  # the first ones mostly fit, and peaks take the time
        fastest = max(levels)
        for i in levels[fastest]:  # grows meanwhile, by those that are as fast
            for slower in recomputing.pop(i, []):
                time(slower)
        equal = levels.pop(fastest)
        yield from sorted(equal, key=lambda i: float(peak_bytes(m, candidates[i]))) if equal[1:] else equal


def _alike_but_for_recomputing(candidates: Sequence[StepConfig]) -> Iterable[list[int]]:
    """Indices of the candidates in groups that differ in what they recompute alone; first the one of a group
    that recomputes the least, if it is among them."""
    groups: dict[tuple[int, Sharding], list[int]] = {}
    for i, step in enumerate(candidates):
        groups.setdefault((step.batch_size, step.sharding), []).append(i)
    for group in groups.values():
        group.sort(key=lambda i: (candidates[i].gradient_checkpointing, candidates[i].loss_chunks))
    return groups.values()


def _median_model(m: Dims) -> Dims:
    """The model in the middle of the arrays; itself where there are none."""
    n = np.size(m.dim * m.n_layers)
    if np.ndim(m.dim * m.n_layers) == 0:
        return m
    volume = np.broadcast_to(m.dim * m.dim * m.n_layers, n)
    return take_models(m, int(np.argsort(volume)[n // 2]))


def _first_that_fits(
    m: Dims, candidates: Sequence[StepConfig], order: Iterable[int], most: int
) -> tuple[Size, Size]:
    """For every model the first candidate in that order with a peak of at most `most`, and that peak; where
    none fits, the peak of the one that needs the least, which is the first of the candidates."""
    shape = np.shape(m.dim * m.n_layers)

    def peaks_of(some: Bools, i: int) -> Floats:
        models = take_models(m, some) if shape else m
        return np.atleast_1d(np.asarray(peak_bytes(models, candidates[i]), dtype=np.float64))

    left = np.ones(shape or (1,), dtype=bool)
    peak, index = np.zeros(left.shape), np.full(left.shape, NOTHING_FITS)
    for n, i in enumerate(order):
        if n == _HOPEFUL:  # what is left may not fit at all
            peak[left] = peaks_of(left, 0)
            left = left & (peak <= most)
        if not left.any():
            break
        peaks = peaks_of(left, i)
        fits = np.flatnonzero(left)[peaks <= most]
        peak[fits], index[fits], left[fits] = peaks[peaks <= most], i, False
    if left.any():
        peak[left] = peaks_of(left, 0)
    return index.reshape(shape), peak.reshape(shape)


_HOPEFUL: Final = 2
"""Candidates that are looked at before the one of least memory: mostly the first one fits."""


def _remedy(machine: Machine, given: StepFields) -> str:
    open_to_choice = {"batch_size", "gradient_checkpointing", "loss_chunks", "shard", "shard_degree"}
    if fixed := sorted(open_to_choice & given.keys()):
        return f"leave out {', '.join(f'`{name}`' for name in fixed)}, or use a smaller model or more memory"
    more = "more GPUs (`gpus`)" if machine.accelerator else "a GPU"
    return f"use a smaller model, a shorter context_length or {more}"


def _batch_sizes(context_length: int, sequences: int, world_size: int, steps: int | None) -> list[int]:
    """Sequences per micro-step: powers of two up to a device's share, or what the given steps leave."""
    if steps is not None:
        return [micro_batch_size(sequences, steps)]
    most = micro_batch_size(sequences, world_size, at_most=MAX_MICRO_TOKENS // context_length)
    return [2**power for power in range(most.bit_length())]
