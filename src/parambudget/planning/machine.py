"""What a run would be trained on: accelerators with their software, their memory and their price."""

import os
from dataclasses import dataclass
from typing import Final

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size
from parambudget.cost.hardware import Accelerator, Price, detected, device_name, given_price, named, price_of
from parambudget.cost.memory.graph import Kernels
from parambudget.cost.memory.peak import (
    MemoryPlan,
    TrainingMemory,
    largest_micro_batch,
    peak_bytes,
    training_memory,
)
from parambudget.cost.speed.profile import Stack, calibrated, stack_for
from parambudget.cost.speed.roofline import Work
from parambudget.errors import InputError

CPU: Final = "CPU"
"""What the trainer and the calibration call the processor."""
MOST_GPUS: Final = 1024
USABLE_SHARE: Final = 0.94
"""Of a device's memory: a plan that needs more is refused. What lies beyond is for what no plan foresees."""


@dataclass(frozen=True)
class Machine:
    """Equal accelerators of one machine, or its processor, as the bundled trainer uses them."""

    accelerator: Accelerator | None
    """None for a processor."""
    stack: Stack
    n_gpus: int
    memory_bytes: int
    """Of one accelerator, as its driver reports it."""
    price: Price | None
    """Of one accelerator's hour; None where none is known."""

    @property
    def name(self) -> str:
        """What it is called: `h100-sxm`, `8 x h100-sxm`, `CPU`."""
        one = self.accelerator.name if self.accelerator else self.stack.device
        return one if self.n_gpus == 1 else f"{self.n_gpus} x {one}"

    @property
    def kernels(self) -> Kernels:
        """Whose operations run there, which decides what they keep in memory."""
        return Kernels() if self.accelerator else Kernels("cpu", bf16=False, compiled=False)

    @property
    def usable_bytes(self) -> int:
        """Of one accelerator's memory, what a plan may take."""
        return usable(self.memory_bytes)

    def peak_bytes(self, m: Dims, work: Work) -> Size:
        """The most that one accelerator holds; an array where the sizes of `m` are."""
        return peak_bytes(m, memory_plan(work, self.kernels))

    def memory(self, model: ModelConfig, work: Work) -> TrainingMemory:
        """The same by part and by phase."""
        return training_memory(model, memory_plan(work, self.kernels))

    def largest_batch_size(self, model: ModelConfig, work: Work) -> int:
        """Sequences per micro-step that fit with everything else as it is; 0 where not one does."""
        try:
            return largest_micro_batch(model, memory_plan(work, self.kernels), self.usable_bytes)
        except InputError:
            return 0


def usable(memory_bytes: int) -> int:
    """Of a device's memory, what a plan may take."""
    return int(memory_bytes * USABLE_SHARE)


def memory_plan(work: Work, kernels: Kernels) -> MemoryPlan:
    """A way of working as far as memory depends on it."""
    return MemoryPlan(
        work.batch_size, work.gradient_accumulation_steps, work.optimizer, work.gradient_checkpointing,
        work.loss_chunks, n_ranks=work.ranks, sharded=work.sharded, kernels=kernels,
    )  # fmt: skip


def machine_for(gpu: str | None = None, *, n_gpus: int = 1, dollars_per_hour: float | None = None) -> Machine:
    """The machine that a person means: `h100`, `cpu`, or without a name the one that this runs on.

    Raises `InputError` for a name that is not known and, without one, where there is nothing to detect.
    """
    if isinstance(n_gpus, bool) or not isinstance(n_gpus, int) or not 1 <= n_gpus <= MOST_GPUS:
        raise InputError(f"the number of GPUs is {n_gpus!r}; use a whole number from 1 to {MOST_GPUS:,}")
    price = None if dollars_per_hour is None else given_price(dollars_per_hour)
    accelerator = _asked(gpu)
    if accelerator is None:
        if n_gpus > 1:
            raise InputError(f"--gpus {n_gpus} counts GPUs, and here is none; name one with --gpu")
        return Machine(None, stack_for(CPU), 1, _main_memory(), price)
    price = price or price_of(accelerator)
    return Machine(accelerator, stack_for(accelerator), n_gpus, accelerator.memory_bytes, price)


def _asked(gpu: str | None) -> Accelerator | None:
    """The accelerator asked for or found; None for the processor."""
    if gpu is not None:
        return None if gpu.strip().lower() == "cpu" else named(gpu)
    if (found := detected()) is not None:
        return found
    if (unknown := device_name()) is not None:
        raise InputError(f"{unknown} is here, and not in the table of GPUs; name one like it with --gpu")
    if any(stack.device == CPU for stack in calibrated()):
        return None
    raise InputError(
        "no GPU is here to plan for; name one with --gpu, such as h100, or measure this processor: "
        "parambudget calibrate"
    )


def _main_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
