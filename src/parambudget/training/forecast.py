"""What the planner expects of a run on the device at hand.

The trainer chooses and refuses by it, and shows it beside what it measures.
"""

import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from parambudget.arch.config import ModelConfig
from parambudget.cost.hardware import Accelerator, find
from parambudget.cost.memory.graph import Kernels
from parambudget.cost.memory.peak import peak_bytes
from parambudget.cost.memory.state import NONE, optimizer_bytes, weight_bytes
from parambudget.cost.speed.profile import calibrated, stack_for
from parambudget.cost.speed.roofline import Work
from parambudget.cost.speed.throughput import throughput
from parambudget.errors import InputError
from parambudget.planning.advice import remedies
from parambudget.planning.machine import CPU, Machine, memory_plan
from parambudget.training.config import TrainConfig
from parambudget.training.device import Compute
from parambudget.training.distributed import SINGLE_PROCESS, ProcessGroup
from parambudget.units import format_bytes

SURE_SHARE: Final = 0.75
"""Of the memory: a plan that takes less is not tried before the run. Trying it costs a compilation."""


@dataclass(frozen=True)
class Expected:
    """Predictions for a run, to stand beside its measured figures."""

    peak_memory_bytes: int
    """As `Compute.peak_memory_bytes` measures it."""
    tokens_per_second: float | None
    """Of all processes; None on a device whose speed nobody has measured."""
    slowest: float | None
    fastest: float | None
    update_seconds: float | None
    """Of one update; a run takes as many of these as it has steps, and evaluations and saves."""

    @property
    def shown(self) -> tuple[str | None, str]:
        """Tokens per second and peak memory as they stand beside measured ones."""
        rate = None if self.tokens_per_second is None else f"{self.tokens_per_second:,.0f}"
        return rate, format_bytes(self.peak_memory_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def expected(
    model: ModelConfig,
    config: TrainConfig,
    compute: Compute,
    ranks: ProcessGroup = SINGLE_PROCESS,
    *,
    shard: bool = False,
) -> Expected | None:
    """What is predicted of these settings here; None of a model with choices that are not modelled."""
    work, machine = work_of(config, ranks, shard=shard), machine_of(compute, ranks)
    peak = tensor_bytes(model, work, compute)
    if compute.device.type == "cpu":
        peak = _with_saves(peak, model, config) + _resident_bytes()
    if machine is None:
        return Expected(peak, None, None, None, None)
    speed = throughput(model, work, machine.stack)
    rate = speed.tokens_per_second
    return Expected(peak, rate.expected, rate.low, rate.high, speed.update_seconds)


def work_of(config: TrainConfig, ranks: ProcessGroup = SINGLE_PROCESS, *, shard: bool = False) -> Work:
    """The settings as far as speed and memory depend on them."""
    return Work(
        config.batch_size, config.gradient_accumulation_steps, config.optimizer,
        config.gradient_checkpointing, config.loss_chunks, ranks.world_size, shard,
    )  # fmt: skip


def machine_of(compute: Compute, ranks: ProcessGroup = SINGLE_PROCESS) -> Machine | None:
    """The device as the planner knows it; None where its speed, or the link between several, is not known."""
    known = _known(compute)
    device = CPU if compute.device.type == "cpu" else compute.name
    if known is None and not any(stack.device.lower() == device.lower() for stack in calibrated()):
        return None
    stack = stack_for(device)
    if ranks.world_size > 1 and not stack.link_bytes:
        return None
    return Machine(known, stack, ranks.world_size, memory_bytes(compute), price=None)


def kernels_of(compute: Compute) -> Kernels:
    """Whose operations run, as the memory model tells them apart."""
    kind = "cuda" if compute.device.type == "cuda" else "cpu"
    return Kernels(kind, bf16=compute.bf16, compiled=compute.compiled)  # type: ignore[arg-type]


def memory_bytes(compute: Compute) -> int:
    """Of the device, or of the whole machine where that is the processor."""
    if compute.device.type == "cuda":
        return torch.cuda.get_device_properties(compute.device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def tensor_bytes(model: ModelConfig, work: Work, compute: Compute) -> int:
    """The most that torch holds in tensors on the device: what it counts as allocated."""
    return int(peak_bytes(model, replace(memory_plan(work, kernels_of(compute)), overhead=NONE)))


def require_room(
    model: ModelConfig,
    config: TrainConfig,
    compute: Compute,
    ranks: ProcessGroup = SINGLE_PROCESS,
    *,
    shard: bool = False,
) -> None:
    """Refuse, before anything is allocated, settings whose tensors alone are more than the memory holds.

    What is assumed beside the tensors refuses nothing: it has been measured on too few machines.
    """
    work, there = work_of(config, ranks, shard=shard), memory_bytes(compute)
    needed = tensor_bytes(model, work, compute)
    if needed <= there:
        return
    machine = machine_of(compute, ranks)
    ways_out = remedies(model, work, machine, {}) if machine is not None else ()
    advice = (
        ways_out[0] if ways_out else "use a smaller batch_size, gradient_checkpointing or a smaller model"
    )
    raise InputError(
        f"batch_size={config.batch_size} cannot fit: its tensors alone take {format_bytes(needed)} and "
        f"{compute.name} has {format_bytes(there)}; {advice}"
    )


def surely_fits(
    model: ModelConfig,
    config: TrainConfig,
    compute: Compute,
    ranks: ProcessGroup = SINGLE_PROCESS,
    *,
    shard: bool = False,
) -> bool:
    """Whether so much memory is left over that the settings need not be tried first."""
    plan = memory_plan(work_of(config, ranks, shard=shard), kernels_of(compute))
    return bool(peak_bytes(model, plan) <= SURE_SHARE * memory_bytes(compute))


def _known(compute: Compute) -> Accelerator | None:
    return find(compute.name) if compute.device.type == "cuda" else None


def _with_saves(peak: int, model: ModelConfig, config: TrainConfig) -> int:
    """The most that a run on a CPU holds: while it learns, or while a checkpoint is written, or while both
    happen.

    A checkpoint on its way from the memory to the disk is a copy of all, and of one file its bytes. That of
    the last update meets no activations.
    """
    weights, optimizer = int(weight_bytes(model)), int(optimizer_bytes(model, config.optimizer))
    saved = weights + optimizer + max(weights, optimizer)
    return peak + saved if config.save_every < config.steps else max(peak, weights + optimizer + saved)


def _resident_bytes() -> int:
    """What this process holds now: Python, the text, and torch with what it only loads for an update."""
    if sys.platform != "linux":
        return 0
    matrix = nn.Parameter(torch.zeros(2, 2))
    (matrix @ matrix).sum().backward()
    for optimizer in (torch.optim.AdamW([matrix]), torch.optim.Muon([matrix])):
        optimizer.step()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
