"""What a run would be trained on: accelerators with their software, their memory and their price."""

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Self, TypedDict

from parambudget.arch.config import ModelConfig
from parambudget.cost.energy import check_grid_intensity
from parambudget.cost.hardware import (
    DESCRIBED,
    Accelerator,
    Price,
    accelerators_by_word,
    detect_accelerator,
    fixed_price,
    gpu_name,
    known_price,
    normalize_gpu_name,
    parse_accelerator,
)
from parambudget.cost.memory.peak import largest_micro_batch
from parambudget.cost.own_gpus import describe_gpu, find_own_gpu
from parambudget.cost.speed.profile import (
    GPUS_PER_NODE,
    LINK_SHARE,
    DeviceProfile,
    at_utilization,
    calibrated_profiles,
    profile_for,
)
from parambudget.cost.speed.stacks import BUNDLED, STACKS, TrainingStack, parse_stack
from parambudget.cost.step import ON_CPU, ON_CUDA, Backend, StepConfig
from parambudget.errors import InputError
from parambudget.units import format_bytes, format_exact_bytes, parse_byte_rate, short_repr

CPU: Final = "CPU"
"""The processor's name in the trainer and in the calibration."""
MAX_GPUS: Final = 1024
NETWORK_BYTES: Final = 50e9
"""Between nodes, per second, direction and GPU, where nothing else is said: 400 Gb/s, one port per GPU, as in
a DGX H100."""
SLOWER_NETWORKS: Final = {"a100-40-sxm": 25e9, "a100-80-sxm": 25e9}
"""The same of other usual servers: 200 Gb/s in a DGX A100."""
USABLE_SHARE: Final = 0.94
"""Of a device's memory: a plan that needs more is refused. The rest is for what no plan foresees."""


@dataclass(frozen=True)
class Machine:
    """Equal accelerators, of one node or of several, or a processor, as the bundled trainer uses them."""

    accelerator: Accelerator | None
    """None for a processor."""
    profile: DeviceProfile
    """It knows the nodes, and how fast they are connected, where there are several."""
    world_size: int
    """Accelerators, each driven by a process of its own."""
    memory_bytes: int
    """Of one accelerator, as its driver reports it."""
    price: Price | None
    """Of one accelerator's hour; None where none is known."""
    gpus_per_node: int = GPUS_PER_NODE
    """The most accelerators of a node; more are equal nodes of so many."""
    grid_intensity: float | None = None
    """Grams of CO2 equivalent per kWh of its electricity; None for the world's average."""
    network_bytes: float = NETWORK_BYTES
    """Between nodes, per second, direction and accelerator."""
    notes: tuple[str, ...] = ()
    """What else is to be said of its speeds, a line each."""

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
        ports = LINK_SHARE * self.gpus_per_node * self.network_bytes if gpus > self.gpus_per_node else None
        profile = replace(self.profile, network_bytes=ports, gpus_per_node=self.gpus_per_node)
        return replace(self, world_size=gpus, profile=profile)

    @property
    def has_bfloat16(self) -> bool:
        """Whether the bundled trainer runs there: on a GPU it multiplies in bfloat16, on a processor not."""
        return self.accelerator is None or self.accelerator.has_bfloat16

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
    gpu: str | None = None, *, gpus: int = 1, gpus_per_node: int | None = None, network: str | None = None,
    dollars_per_hour: float | None = None, gpu_memory: str | int | None = None,
    gpu_tflops: float | None = None, gpu_bandwidth: str | None = None,
    grid_intensity: float | None = None, stack: str | None = None, mfu: float | None = None,
) -> Machine:  # fmt: skip
    """The machine that a person means: `h100`, `cpu`, or without a name the one that this runs on.

    With `gpu_memory`, `gpu_tflops` and `gpu_bandwidth` it is the GPU that these describe, and its name is
    only shown. Up to `gpus_per_node` the GPUs are connected by the link of their node, beyond by a network of
    so much per GPU ("400Gb/s" or "50GB/s"). Speeds are those of the bundled trainer, of another `stack`
    (`STACKS`), or follow from a model FLOPs utilization, as 0.35. Raises `InputError` for an unknown name
    and, without a name, where there is nothing to detect.
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
    software = _software(stack, mfu)
    network_bytes = None if network is None else parse_byte_rate(network, "network")
    if network_bytes is not None and gpus <= per_node:
        raise InputError(
            f"`network={network}` has no effect: {gpus} GPUs are one node of up to {per_node}; give more "
            "`gpus`, other `gpus_per_node`, or leave it out"
        )
    figures = gpu_memory, gpu_tflops, gpu_bandwidth
    accelerator = _accelerator_for(gpu) if figures == (None, None, None) else _accelerator_of(gpu, *figures)
    grid = None if grid_intensity is None else check_grid_intensity(grid_intensity)
    if grid is not None and (accelerator is None or accelerator.board_watts is None):
        raise InputError(
            f"`grid_intensity={grid:g}` has no effect: no energy is estimated, as the power of "
            f"{accelerator.name if accelerator else CPU} is not known; leave it out"
        )
    if accelerator is None:
        for name, value in (("stack", stack), ("mfu", mfu)):
            if value is not None:
                raise InputError(
                    f"`{name}={value}` has no effect: the speeds of a processor are measured, with the "
                    "bundled trainer; leave it out, or name a GPU with `machine`"
                )
        if gpus > 1:
            raise InputError(f"`gpus={gpus}`, but no GPU was found on this machine; name one with `machine`")
        if gpus_per_node is not None:
            raise InputError(
                f"`gpus_per_node={gpus_per_node}` has no effect: the machine is a processor; leave it out, "
                "or name a GPU with `machine`"
            )
        return Machine(None, profile_for(CPU), 1, main_memory_bytes(), price)
    price = price or known_price(accelerator)
    between = network_bytes or _usual_network(accelerator)
    profile = profile_for(accelerator, software)
    if mfu is not None:
        profile = at_utilization(profile, mfu)
    one = Machine(accelerator, profile, 1, accelerator.memory_bytes, price, per_node, grid, between)
    return one.with_gpus(gpus)


class MachineKeywords(TypedDict, total=False):
    """What `machine_for` takes by name."""

    gpu: str
    gpus: int
    gpus_per_node: int
    network: str
    dollars_per_hour: float
    gpu_memory: str
    gpu_tflops: float
    gpu_bandwidth: str
    grid_intensity: float
    stack: str
    mfu: float


def machine_keywords(machine: Machine) -> MachineKeywords | None:
    """The fewest arguments with which `machine_for` makes this machine again, with all of its memory; None
    where no arguments do, as for one whose speeds were changed."""
    gpu = machine.accelerator
    whole = main_memory_bytes() if gpu is None else gpu.memory_bytes
    machine = replace(machine, memory_bytes=whole)
    given: MachineKeywords = {"gpu": CPU.lower() if gpu is None else gpu.name}
    if machine.world_size > 1:
        given["gpus"] = machine.world_size
    if machine.gpus_per_node != GPUS_PER_NODE:
        given["gpus_per_node"] = machine.gpus_per_node
    if machine.n_nodes > 1 and machine.network_bytes != _usual_network(gpu):
        given["network"] = f"{machine.network_bytes / 1e9:.15g}GB/s"
    if machine.price is not None and machine.price.read_on is None:
        given["dollars_per_hour"] = machine.price.low
    if machine.grid_intensity is not None:
        given["grid_intensity"] = machine.grid_intensity
    if machine.profile.mfu is not None:
        given["mfu"] = machine.profile.mfu
    figures: MachineKeywords = {} if gpu is None else {
        "gpu_memory": format_exact_bytes(gpu.memory_bytes), "gpu_tflops": gpu.peak_flops / 1e12,
        "gpu_bandwidth": f"{gpu.bandwidth_bytes / 1e9:.15g}GB/s",
    }  # fmt: skip
    for described in (given, given | figures):
        for stack in (None, *STACKS):
            keywords = described if stack is None else described | MachineKeywords(stack=stack)
            with suppress(InputError):
                if machine_for(**keywords) == machine:
                    return keywords
    return None


def _usual_network(accelerator: Accelerator | None) -> float:
    """Between nodes of it, where nothing else is said."""
    return SLOWER_NETWORKS.get(accelerator.name, NETWORK_BYTES) if accelerator else NETWORK_BYTES


def _software(stack: str | None, mfu: float | None) -> TrainingStack:
    if stack is not None and mfu is not None:
        raise InputError("`stack` and `mfu` each say how fast the training software is; give one of them")
    if mfu is not None and (isinstance(mfu, bool) or not isinstance(mfu, int | float) or not 0 < mfu <= 1):
        raise InputError(
            f"`mfu` is {short_repr(mfu)}; it is a share of the dense peak: use a number such as 0.35"
        )
    return BUNDLED if stack is None else parse_stack(stack)


def main_memory_bytes() -> int:
    """Of the machine that this runs on."""
    import psutil  # milliseconds that plans for a GPU need not pay for

    return int(psutil.virtual_memory().total)


_APPLE: Final = re.compile("(apple)?m[1-9](pro|max|ultra)?|applegpu(mps)?|mps")
"""Apple's GPUs as people name them, without spaces and punctuation."""
_NO_APPLE: Final = (
    "nothing is predicted for Apple's GPUs: the trainer's plain float32 step there (`device=mps`, untried) "
    "has never been timed, and these speeds are of compiled bfloat16; a short run there shows its tokens/s: "
    "`parambudget train MODEL --device mps --steps 20`"
)


def _is_processor(gpu: str) -> bool:
    """Whether the name means the processor; raises `InputError` where it means one of Apple's GPUs."""
    if _APPLE.fullmatch(normalize_gpu_name(gpu)):
        raise InputError(_NO_APPLE)
    return gpu.strip().lower() == "cpu"


def _accelerator_of(
    gpu: str | None, memory: str | int | None, tflops: float | None, bandwidth: str | None
) -> Accelerator:
    if gpu is not None and _is_processor(gpu):
        raise InputError(f"{gpu!r} is a processor, which figures of a GPU do not describe; leave them out")
    return describe_gpu(gpu, memory, tflops, bandwidth)


def _accelerator_for(gpu: str | None) -> Accelerator | None:
    """The accelerator of that name, or the one of this machine; None for the processor."""
    if gpu is not None:
        if _is_processor(gpu):
            return None
        known = normalize_gpu_name(gpu) in accelerators_by_word()
        return (None if known else find_own_gpu(gpu)) or parse_accelerator(gpu)
    if (accelerator := detect_accelerator()) is not None:
        return accelerator
    if (unlisted := gpu_name()) is not None:
        if (own := find_own_gpu(unlisted)) is not None:
            return own
        raise InputError(
            f"this machine has an {unlisted}, which is not in the table of GPUs (`pb.ACCELERATORS` has all); "
            f"describe it with {DESCRIBED} and its own figures, or name a similar one with `machine`"
        )
    if any(profile.device == CPU for profile in calibrated_profiles()):
        return None
    raise InputError(
        "no GPU was found to plan for; name one with `machine`, such as h100, or measure this processor with "
        "`pb.calibrate()`"
    )
