"""What a run would be trained on: accelerators with their software, their memory and their price."""

from dataclasses import dataclass, replace
from typing import Final, Self

from parambudget.arch.config import ModelConfig
from parambudget.cost.hardware import (
    Accelerator,
    Price,
    detect_accelerator,
    fixed_price,
    gpu_name,
    parse_accelerator,
    price_of,
)
from parambudget.cost.memory.peak import largest_micro_batch
from parambudget.cost.speed.profile import LINK_SHARE, DeviceProfile, calibrated_profiles, profile_for
from parambudget.cost.step import ON_CPU, ON_CUDA, Backend, StepConfig
from parambudget.errors import InputError
from parambudget.units import format_bytes, short_repr

CPU: Final = "CPU"
"""The processor's name in the trainer and in the calibration."""
MAX_GPUS: Final = 1024
GPUS_PER_NODE: Final = 8
"""Of the usual servers for training, where nothing else is said."""
NETWORK_BYTES: Final = 50e9
"""Between nodes, per second, direction and GPU. Assumed: 400 Gb/s, one port per GPU, as in a DGX H100."""
USABLE_SHARE: Final = 0.94
"""Of a device's memory: a plan that needs more is refused. The rest is for what no plan foresees."""


@dataclass(frozen=True)
class Machine:
    """Equal accelerators, of one node or of several, or a processor, as the bundled trainer uses them."""

    accelerator: Accelerator | None
    """None for a processor."""
    profile: DeviceProfile
    """Its link is the slowest that gradients pass: that of the node, or between nodes the network."""
    world_size: int
    """Accelerators, each driven by a process of its own."""
    memory_bytes: int
    """Of one accelerator, as its driver reports it."""
    price: Price | None
    """Of one accelerator's hour; None where none is known."""
    gpus_per_node: int = GPUS_PER_NODE
    """The most accelerators of a node; more are equal nodes of so many."""

    @property
    def name(self) -> str:
        """As a person writes it: `h100-sxm`, `8 x h100-sxm`, `16 x h100-sxm in 2 nodes`, `CPU`."""
        one = self.accelerator.name if self.accelerator else self.profile.device
        nodes = f" in {self.n_nodes} nodes" if self.n_nodes > 1 else ""
        return one if self.world_size == 1 else f"{self.world_size} x {one}{nodes}"

    @property
    def n_nodes(self) -> int:
        """Nodes that the accelerators stand in."""
        return -(-self.world_size // self.gpus_per_node)

    def with_gpus(self, gpus: int) -> Self:
        """The same with more accelerators; raises `InputError` where they do not fill their nodes."""
        if gpus > self.gpus_per_node and gpus % self.gpus_per_node:
            whole = gpus // self.gpus_per_node * self.gpus_per_node
            raise InputError(
                f"`gpus={gpus}` is no whole number of nodes of {self.gpus_per_node}; use {whole} or "
                f"{whole + self.gpus_per_node}, or other `gpus_per_node`"
            )
        link = self.profile.link_bytes
        if gpus > self.gpus_per_node:
            link = min(link, LINK_SHARE * NETWORK_BYTES)
        return replace(self, world_size=gpus, profile=replace(self.profile, link_bytes=link))

    def with_memory(self, memory_bytes: int) -> Self:
        """The same with that part of each accelerator's memory; raises `InputError` where it has less."""
        if memory_bytes > self.memory_bytes:
            raise InputError(
                f"`memory` is {format_bytes(memory_bytes)} and {self.name} has "
                f"{format_bytes(self.memory_bytes)}; use less, or name another machine"
            )
        return replace(self, memory_bytes=memory_bytes)

    @property
    def backend(self) -> Backend:
        """The trainer's kernels there, which decide what is kept in memory."""
        return ON_CUDA if self.accelerator else ON_CPU

    @property
    def usable_bytes(self) -> int:
        """The part of one accelerator's memory that a plan may use."""
        return usable_bytes(self.memory_bytes)

    def fits(self, peak_bytes: int) -> bool:
        """Whether a predicted peak lies within the usable part of the memory."""
        return peak_bytes <= self.usable_bytes

    def largest_batch_size(self, model: ModelConfig, step: StepConfig) -> int:
        """Sequences per micro-step that fit with everything else as it is; 0 where not even one does."""
        try:
            return largest_micro_batch(model, step, self.usable_bytes)
        except InputError:
            return 0


def usable_bytes(memory_bytes: int) -> int:
    """The part of a device's memory that a plan may use."""
    return int(memory_bytes * USABLE_SHARE)


def machine_for(
    gpu: str | None = None, *, gpus: int = 1, gpus_per_node: int | None = None,
    dollars_per_hour: float | None = None,
) -> Machine:  # fmt: skip
    """The machine that a person means: `h100`, `cpu`, or without a name the one that this runs on.

    Up to `gpus_per_node` the GPUs are connected by the link of their node, beyond by a network. Raises
    `InputError` for an unknown name and, without a name, where there is nothing to detect.
    """
    if isinstance(gpus, bool) or not isinstance(gpus, int) or not 1 <= gpus <= MAX_GPUS:
        raise InputError(
            f"the number of GPUs is {short_repr(gpus)}; use a whole number from 1 to {MAX_GPUS:,}"
        )
    per_node = GPUS_PER_NODE if gpus_per_node is None else gpus_per_node
    if isinstance(per_node, bool) or not isinstance(per_node, int) or not 1 <= per_node <= MAX_GPUS:
        raise InputError(
            f"`gpus_per_node` is {short_repr(per_node)}; use a whole number from 1 to {MAX_GPUS:,}"
        )
    price = None if dollars_per_hour is None else fixed_price(dollars_per_hour)
    accelerator = _accelerator_for(gpu)
    if accelerator is None:
        if gpus > 1:
            raise InputError(f"`gpus={gpus}`, but no GPU was found on this machine; name one with `machine`")
        if gpus_per_node is not None:
            raise InputError(
                f"`gpus_per_node={gpus_per_node}` has no effect: the machine is a processor; leave it out, "
                "or name a GPU with `machine`"
            )
        return Machine(None, profile_for(CPU), 1, main_memory_bytes(), price)
    price = price or price_of(accelerator)
    one = Machine(accelerator, profile_for(accelerator), 1, accelerator.memory_bytes, price, per_node)
    return one.with_gpus(gpus)


def main_memory_bytes() -> int:
    """Of the machine that this runs on."""
    import psutil  # milliseconds that plans for a GPU need not pay for

    return int(psutil.virtual_memory().total)


def _accelerator_for(gpu: str | None) -> Accelerator | None:
    """The accelerator of that name, or the one of this machine; None for the processor."""
    if gpu is not None:
        return None if gpu.strip().lower() == "cpu" else parse_accelerator(gpu)
    if (accelerator := detect_accelerator()) is not None:
        return accelerator
    if (unknown := gpu_name()) is not None:
        raise InputError(
            f"this machine has an {unknown}, which is not in the table of GPUs; name a similar one with "
            "`machine` (`pb.ACCELERATORS` has all)"
        )
    if any(profile.device == CPU for profile in calibrated_profiles()):
        return None
    raise InputError(
        "no GPU was found to plan for; name one with `machine`, such as h100, or measure this processor with "
        "`pb.calibrate()`"
    )
