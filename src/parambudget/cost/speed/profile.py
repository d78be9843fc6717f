"""What a GPU and its software achieve: the few constants of the throughput model, each with its source.

A constant is a property of the hardware (a rate) or of the software (how often its kernels move the same
bytes). Those of the software are the same on every GPU, which is why a preset can stand for a GPU without
published runs. `benchmarks/throughput.py` fits them to published runs of the fastest stacks and checks this
table against its result; other stacks reach a share of these rates (`cost.speed.stacks`).
"""

import math
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import platformdirs

from parambudget._files import read_json, write_json
from parambudget.cost.hardware import ACCELERATORS, GIVEN, Accelerator, find_accelerator
from parambudget.cost.speed.stacks import BEST, BUNDLED, TrainingStack
from parambudget.errors import InputError

BANDWIDTH_SHARE: Final = 0.88
"""Achieved of the memory bandwidth: an H200 copies at 4.3 of 4.8 TB/s, an A100 at 0.85 to 0.9 of its own."""
LINK_SHARE: Final = 0.75
"""Achieved of the link, in one direction: usual for NCCL's ring all-reduce within a machine. Not fitted."""
LAUNCH_SECONDS: Final = 5e-6
"""From one small kernel to the next, where the host cannot run ahead. Not fitted."""
LAUNCHES_PER_LAYER: Final = 35
"""Of a compiled block in a micro-step, forward and backward: counted in the trainer (docs/benchmarks.md)."""
ATTENTION_HALF_WIDTH: Final = 54.0
"""The head_dim at which a fused kernel reaches half of what it would with infinitely wide heads: from 497,
648 and 756 TFLOP/s at 64, 128 and 256 (Shah et al. 2024, arXiv 2407.08608, figure 5, forward without a mask,
16k tokens on an H100; the first and the last recalled, not read again)."""
ATTENTION_WIDTH: Final = 128
"""The head_dim that `attention_flops` is of."""
GPUS_PER_NODE: Final = 8
"""Of the usual servers for training, where nothing else is said."""
_NEWTON_SCHULZ_KERNELS: Final = 23
"""Of Muon for a stack of matrices: 15 products, and 8 around them."""


@dataclass(frozen=True)
class DeviceProfile:
    """A device with its software, in rates and seconds: everything that `cost.speed.throughput` needs."""

    device: str
    """As torch names it, or the name of a row of accelerators."""
    name: str
    """The software."""
    dtype: str
    """Of the matmuls."""
    peak_flops: float | None
    """Dense FLOP/s of that dtype as published; None where nothing is published, as for a CPU."""
    matmul_flops: float
    """FLOP/s of the arithmetic of a matmul, without moving its operands."""
    matmul_traffic: float
    """Times that every operand of a matmul is moved between memory and chip."""
    attention_flops: float
    """FLOP/s of the scores that a causal mask leaves, with heads of `ATTENTION_WIDTH`."""
    attention_half_width: float
    """The head_dim at which attention reaches half of its greatest speed; 0 where all are equally fast."""
    bandwidth_bytes: float
    """Achieved, per second."""
    element_bytes: float
    """Moved by everything but matmuls, forward and backward, per token and element of the outputs of the
    layers' matmuls."""
    logit_bytes: float
    """Moved per token and entry of the vocabulary by the loss, forward and backward."""
    micro_seconds: float
    """Of every micro-step, whatever its size: kernel launches and the host."""
    layer_seconds: float
    """The same, per layer."""
    host_layer_seconds: float
    """That the host takes to launch a layer's kernels, while the device computes: a micro-step takes at least
    that."""
    newton_schulz_flops: float
    """FLOP/s of the bfloat16 products of Muon."""
    matrix_seconds: float
    """The least that Muon takes for the matrices of one kind, which it orthogonalizes together."""
    link_bytes: float
    """Achieved by a ring through the accelerators of a node, per second and direction; 0 where nothing
    connects them."""
    slowest: float
    """The expected tokens per second times this is the low end of the interval."""
    fastest: float
    """The expected tokens per second times this is the high end of the interval."""
    source: str
    """Where the constants come from."""
    measured_on: str | None = None
    """The day of a calibration; None for a preset."""
    gpus_per_node: int = GPUS_PER_NODE
    """What is shared out among processes is counted as if among those of one node: more have not been seen to
    gain by it."""
    mfu: float | None = None
    """Model FLOPs utilization, full convention, that an update is known to have; its parts keep their
    proportions."""
    reached: float | None = None
    """Share of the fastest stacks' rates that these are; None where they were measured or given."""
    network_bytes: float | None = None
    """Achieved by all ports of a node to the network together, per second and direction; None for one
    node."""

    @property
    def element_size(self) -> int:
        """Bytes of an element of a matmul's operands."""
        return 2 if self.dtype in ("bfloat16", "float16") else 4

    def ring_bytes(self, n_processes: int) -> float:
        """Achieved by a ring through so many accelerators, in as few nodes as hold them: the slower of the
        link and of the ports, as the ring crosses from node to node once per port, with an equal share of the
        bytes on each."""
        if self.network_bytes is None or n_processes <= self.gpus_per_node:
            return self.link_bytes
        return min(self.link_bytes, self.network_bytes)

    @property
    def runs_experts_at_once(self) -> bool:
        """Whether torch's grouped matmul is one kernel there, for which the host need not wait."""
        accelerator = ACCELERATORS.get(self.device) or find_accelerator(self.device)
        return accelerator is not None and accelerator.name in _GROUPED_MATMUL


SOFTWARE: Final = "torch.compile, flash attention"
MATMUL_TRAFFIC: Final = 1.61
ELEMENT_BYTES: Final = 4.47
LOGIT_BYTES: Final = 7.31
MICRO_SECONDS: Final = 0.001
"""The constants of the software in every preset: fitted together with those below. The last one is little
more than the prior of the fit, 1 ms: the published runs have large micro-steps."""


@dataclass(frozen=True)
class Efficiency:
    """Achieved shares of a generation's published peak."""

    matmul: float
    attention: float


AMPERE: Final = Efficiency(matmul=0.908, attention=0.558)
HOPPER: Final = Efficiency(matmul=0.75, attention=0.396)
"""Fitted by benchmarks/throughput.py to twelve runs of llm.c, modded-nanogpt and nanochat. The larger chip
achieves the smaller share in these data: at full load its clock drops."""
GEFORCE: Final = Efficiency(matmul=0.97, attention=0.6)
"""Not fitted. Accumulating in 32 bits at half the rate, these cards wait less for memory, and their clocks
exceed the one that the peak is of: five published runs on a 3090 and 4090 are 10 to 50 % faster than Ampere's
shares say, beside runs of the same software on an A100 or on other GPUs."""
_FITTED: Final = {
    "a100-40-sxm": AMPERE, "a100-80-sxm": AMPERE, "h100-sxm": HOPPER, "h200-sxm": HOPPER,
}  # fmt: skip
_AS_AMPERE: Final = frozenset({"a100-80-pcie", "a10g", "a40", "l4", "l40", "l40s", "t4"})
_AS_AMPERE_FAMILIES: Final = ("rtx-", "v100-")
"""Their matmuls are issued warp by warp, as on an A100; those of all others are assumed to be like
Hopper's."""
_GEFORCE_NAME: Final = re.compile("rtx-[0-9]{4}(-ti|-super)*(-[0-9]+)?")
_GROUPED_MATMUL: Final = frozenset(
    {"h100-sxm", "h100-pcie", "h100-nvl", "h200-sxm", "gh200", "b200", "gb200"}
)
"""Compute capability 9.0 and 10.0: see `nn.mlp.grouped_linear`."""


def preset_profile(accelerator: Accelerator, stack: TrainingStack = BUNDLED) -> DeviceProfile:
    """What a stack should achieve there, with matmuls in the dtype of the peak. A GPU that a person described
    is taken to be like Hopper, which achieves the smaller share."""
    name = "" if accelerator.source == GIVEN else accelerator.name
    fitted = name in _FITTED
    efficiency, peak = _efficiency_of(name), accelerator.peak_flops
    kind = {AMPERE: "Ampere", HOPPER: "Hopper", GEFORCE: "GeForce cards"}[efficiency]
    source = f"fitted to published runs on {kind}" if fitted else f"scaled from the constants of {kind}"
    source = source if name else f"peak and bandwidth {GIVEN}, {source}"
    share = f"; {stack.reached:.0%} of those rates: {stack.source}" if stack is not BEST else ""
    return DeviceProfile(
        device=accelerator.name, name=SOFTWARE if stack is BUNDLED else f"{stack.name} ({stack.what})",
        dtype=accelerator.peak_dtype, peak_flops=peak, matmul_flops=stack.reached * efficiency.matmul * peak,
        matmul_traffic=MATMUL_TRAFFIC, attention_flops=stack.reached * efficiency.attention * peak,
        attention_half_width=ATTENTION_HALF_WIDTH,
        bandwidth_bytes=stack.reached * BANDWIDTH_SHARE * accelerator.bandwidth_bytes,
        element_bytes=ELEMENT_BYTES, logit_bytes=LOGIT_BYTES, micro_seconds=MICRO_SECONDS, layer_seconds=0.0,
        host_layer_seconds=LAUNCHES_PER_LAYER * LAUNCH_SECONDS,
        newton_schulz_flops=stack.reached * efficiency.matmul * peak,
        matrix_seconds=_NEWTON_SCHULZ_KERNELS * LAUNCH_SECONDS,
        link_bytes=LINK_SHARE * accelerator.link_bytes, slowest=stack.slowest,
        fastest=stack.fastest, source=source + share, reached=stack.reached,
    )  # fmt: skip


def _efficiency_of(name: str) -> Efficiency:
    """What a row of the table is taken to achieve."""
    if name in _FITTED:
        return _FITTED[name]
    if _GEFORCE_NAME.fullmatch(name):
        return GEFORCE
    return AMPERE if name in _AS_AMPERE or name.startswith(_AS_AMPERE_FAMILIES) else HOPPER


_RATES: Final = ("matmul_flops", "attention_flops", "newton_schulz_flops", "bandwidth_bytes")
"""Of one device: a stack reaches the same share of each."""


def at_utilization(profile: DeviceProfile, mfu: float) -> DeviceProfile:
    """The same device with updates of a given model FLOPs utilization (full convention, dense peak)."""
    return replace(
        profile, name="another trainer", mfu=mfu, slowest=_GIVEN_SLOWEST, fastest=1 / _GIVEN_SLOWEST,
        source=f"a model FLOPs utilization of {mfu:.1%}, given", measured_on=None, reached=None,
    )  # fmt: skip


def at_measured_speed(profile: DeviceProfile, factor: float, source: str) -> DeviceProfile:
    """The same device so many times as fast in everything, as a measured run was; `source` says which.

    One run cannot tell which part of an update is faster, so all of them get the factor, and for other models
    and steps the interval is wider than what repeated runs differ by.
    """
    times = ("micro_seconds", "layer_seconds", "host_layer_seconds", "matrix_seconds")
    rates = [*_RATES, "link_bytes", *(["network_bytes"] if profile.network_bytes is not None else [])]
    scaled = {name: getattr(profile, name) * factor for name in rates}
    scaled |= {name: getattr(profile, name) / factor for name in times}
    return replace(
        profile, **scaled, slowest=1 - _MEASURED_MARGIN, fastest=1 + _MEASURED_MARGIN, source=source,
        reached=None,
    )  # fmt: skip


_MEASURED_MARGIN: Final = 0.15
"""Assumed: for a model or batch unlike the measured one."""


def fastest_stacks(profile: DeviceProfile) -> DeviceProfile | None:
    """The same device with the rates of the fastest stacks; None where it is not known what share of them
    its own rates are."""
    if profile.reached is None:
        return None
    of_the_fastest = {name: getattr(profile, name) / profile.reached for name in _RATES}
    return replace(profile, **of_the_fastest, reached=1.0)


_GIVEN_SLOWEST: Final = 0.9
"""Assumed: what is given is of some other model and batch."""


_LAYOUT: Final = 2
_TEXTS: Final = frozenset({"device", "name", "dtype", "source", "measured_on"})
_OPTIONAL: Final = frozenset({"peak_flops", "measured_on", "mfu", "reached", "network_bytes"})


def profile_for(device: Accelerator | str, stack: TrainingStack = BUNDLED) -> DeviceProfile:
    """The constants to predict with: the newest measured on that device, else its preset.

    `device` is a row of the table of accelerators, or a name that torch gives one; the processor is "cpu",
    and has no preset. What was measured is the bundled trainer's.
    """
    if stack is not BUNDLED and isinstance(device, Accelerator):
        return preset_profile(device, stack)
    names = device.device_names if isinstance(device, Accelerator) else (device,)
    wanted = {name.lower() for name in names}
    measured = [profile for profile in calibrated_profiles() if profile.device.lower() in wanted]
    if measured:
        return measured[-1]
    row = device if isinstance(device, Accelerator) else find_accelerator(device)
    if row is None:
        raise InputError(
            f"the speed of {device!r} is unknown; measure it with `pb.calibrate()`, or name a GPU"
        )
    return preset_profile(row)


def calibrated_profiles() -> list[DeviceProfile]:
    """Every measured profile, the newest last."""
    path = calibration_file()
    if not path.exists():
        return []
    try:
        document = read_json(path)
        if not isinstance(document, dict) or document.get("layout") != _LAYOUT:
            raise ValueError(f"it has not the layout {_LAYOUT}")
        return [_read_profile(row) for row in document["stacks"]]
    except (InputError, ValueError, KeyError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).removeprefix(f"{path} is ")
        raise InputError(
            f"{path} does not hold measured constants ({reason}); delete it, or measure again with "
            "`pb.calibrate()`"
        ) from None


def save_profile(profile: DeviceProfile) -> Path:
    """Save measured constants, in place of older ones of that device and software; returns the file."""
    path = calibration_file()
    try:
        before = calibrated_profiles()
    except InputError:
        before = []  # an unreadable file is replaced
    others = [other for other in before if (other.device, other.name) != (profile.device, profile.name)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot save constants in {path.parent}: {error.strerror}; "
            "set XDG_DATA_HOME to a writable folder"
        ) from None
    write_json(path, {"layout": _LAYOUT, "stacks": [asdict(one) for one in (*others, profile)]})
    return path


def clear_profiles() -> bool:
    """Delete everything that was measured; whether there was anything."""
    path = calibration_file()
    existed = path.exists()
    path.unlink(missing_ok=True)
    return existed


def calibration_file() -> Path:
    """Where measured constants are saved; XDG_DATA_HOME moves it."""
    return platformdirs.user_data_path("parambudget") / "calibration.json"


def _read_profile(row: dict[str, Any]) -> DeviceProfile:
    names = {field.name for field in fields(DeviceProfile)}
    # Saved by a version without it.
    if row.keys() | {"network_bytes"} != names:
        raise ValueError("unexpected fields")
    for name, value in row.items():
        if value is None and name in _OPTIONAL:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not (isinstance(value, str) if name in _TEXTS else number and value >= 0):
            raise ValueError(f"{name} is {value!r}")
    return DeviceProfile(**row)
