"""What the planner predicts of a run on the device at hand.

The trainer chooses and refuses settings by it, and shows it beside what it measures.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

import psutil
import torch
from torch import nn

from parambudget.arch.config import ModelConfig
from parambudget.cost.hardware import Accelerator, find_accelerator
from parambudget.cost.memory.peak import peak_bytes
from parambudget.cost.memory.state import optimizer_bytes, weight_bytes
from parambudget.cost.speed.profile import calibrated_profiles, profile_for
from parambudget.cost.speed.roofline import clip_seconds
from parambudget.cost.speed.throughput import throughput
from parambudget.cost.step import NO_OVERHEAD, StepConfig
from parambudget.errors import InputError
from parambudget.planning.advice import suggestions
from parambudget.planning.machine import CPU, Machine, main_memory_bytes
from parambudget.training.config import TrainConfig
from parambudget.training.device import Compute
from parambudget.training.launch import processes_per_node
from parambudget.training.optimization.muon import Muon
from parambudget.training.profiling.kernels import Part
from parambudget.units import format_bytes

AMPLE_SHARE: Final = 0.75
"""Of the memory: a step that takes less is not tried before the run. A trial costs a compilation."""


@dataclass(frozen=True)
class Prediction:
    """Predictions for a run, to stand beside its measured figures."""

    peak_memory_bytes: int
    """As `Compute.peak_memory_bytes` measures it."""
    tokens_per_second: float | None
    """Of all processes; None on a device whose speed nobody has measured."""
    slowest: float | None
    fastest: float | None
    update_seconds: float | None
    """Of one update; a run takes its steps times this, and evaluations and saves."""

    @property
    def table_cells(self) -> tuple[str | None, str]:
        """Tokens per second and peak memory, to stand beside measured ones."""
        rate = None if self.tokens_per_second is None else f"{self.tokens_per_second:,.0f}"
        return rate, format_bytes(self.peak_memory_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def predict_run(model: ModelConfig, config: TrainConfig, compute: Compute) -> Prediction:
    """What is predicted of these settings, whose step is executed on this device."""
    step, machine = config.step, machine_of(compute, config.step.world_size)
    peak = tensor_bytes(model, step)
    if compute.device.type == "cpu":
        peak = _with_saves(peak, model, config) + _resident_bytes()
    if machine is None:
        return Prediction(peak, None, None, None, None)
    speed = throughput(model, step, machine.profile)
    rate = speed.tokens_per_second
    return Prediction(peak, rate.expected, rate.low, rate.high, speed.update_seconds)


def predict_parts(model: ModelConfig, config: TrainConfig, compute: Compute) -> dict[Part, float] | None:
    """The expected seconds of every part of an update; None on a device whose speed is not known.

    Clipping stands on its own, and launching kernels is what leaves the device idle.
    """
    step, machine = config.step, machine_of(compute, config.step.world_size)
    if machine is None:
        return None
    seconds = throughput(model, step, machine.profile).seconds
    clip = float(clip_seconds(model, step, machine.profile))
    return {
        "matmuls": seconds["matmuls"], "attention": seconds["attention"],
        "elementwise": seconds["elementwise"], "loss": seconds["loss"], "weights": seconds["weights"],
        "clip": clip, "optimizer": seconds["optimizer"] - clip, "communication": seconds["communication"],
        "idle": seconds["kernel_launch"],
    }  # fmt: skip


def machine_of(compute: Compute, world_size: int = 1) -> Machine | None:
    """The device as the planner knows it; None where its speed, or the link between several, is unknown."""
    known = _accelerator(compute)
    device = CPU if compute.device.type == "cpu" else compute.name
    if known is None and not any(
        profile.device.lower() == device.lower() for profile in calibrated_profiles()
    ):
        return None
    profile = profile_for(device)
    if world_size > 1 and not profile.link_bytes:
        return None
    one = Machine(known, profile, 1, memory_bytes(compute), None, processes_per_node(world_size))
    return one.with_gpus(world_size)


def memory_bytes(compute: Compute) -> int:
    """Of the device, or of the whole machine where that is the processor."""
    if compute.device.type == "cuda":
        return torch.cuda.get_device_properties(compute.device).total_memory
    return main_memory_bytes()


def tensor_bytes(model: ModelConfig, step: StepConfig) -> int:
    """The peak of the tensors on one device: what torch counts as allocated."""
    return int(peak_bytes(model, step.replace(overhead=NO_OVERHEAD)))


def require_room(model: ModelConfig, step: StepConfig, compute: Compute) -> None:
    """Refuse, before anything is allocated, a step whose tensors alone exceed the memory.

    The overhead assumed beside the tensors refuses nothing: it has been measured on too few machines.
    """
    needed, there = tensor_bytes(model, step), memory_bytes(compute)
    if needed <= there:
        return
    machine = machine_of(compute, step.world_size)
    advice = "use a smaller batch_size, gradient_checkpointing or a smaller model"
    if machine is not None:
        advice = next(iter(suggestions(model, step, machine, {})), advice)
    raise InputError(
        f"batch_size={step.batch_size} cannot fit: its tensors alone take {format_bytes(needed)} and "
        f"{compute.name} has {format_bytes(there)}; {advice}"
    )


def has_ample_room(model: ModelConfig, step: StepConfig, compute: Compute) -> bool:
    """Whether so much memory is left that the settings need no trial before the run."""
    return bool(peak_bytes(model, step) <= AMPLE_SHARE * memory_bytes(compute))


def _accelerator(compute: Compute) -> Accelerator | None:
    return find_accelerator(compute.name) if compute.device.type == "cuda" else None


def _with_saves(peak: int, model: ModelConfig, config: TrainConfig) -> int:
    """The peak of a run on a CPU: during an update, while a checkpoint is written, or during both at once.

    A checkpoint on its way to the disk is a copy of everything, and the bytes of one file. The one after the
    last update coincides with no activations.
    """
    weights, optimizer = int(weight_bytes(model)), int(optimizer_bytes(model, config.step.optimizer))
    saved = weights + optimizer + max(weights, optimizer)
    return peak + saved if config.save_every < config.steps else max(peak, weights + optimizer + saved)


def _resident_bytes() -> int:
    """The memory of this process now: Python, the text, and torch with what it loads for the first update."""
    matrix = nn.Parameter(torch.zeros(2, 2))
    (matrix @ matrix).sum().backward()
    for optimizer in (torch.optim.AdamW([matrix]), Muon([matrix], lr=0.0, weight_decay=0.0, momentum=0.0)):
        optimizer.step()
    return int(psutil.Process().memory_info().rss)
