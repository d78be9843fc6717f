"""What a GPU and its software achieve: the few constants of the throughput model, each with its source.

A constant is a property of the hardware (a rate) or of the software (how often its kernels move the same
bytes). Those of the software are the same on every GPU, which is why a preset can stand for a GPU without
published runs. `benchmarks/throughput.py` fits them to published runs and checks this table against its
result.
"""

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import platformdirs

from parambudget._files import read_json, write_json
from parambudget.cost.hardware import ACCELERATORS, GIVEN, Accelerator, find_accelerator
from parambudget.errors import InputError

BANDWIDTH_SHARE: Final = 0.88
"""Achieved of the memory bandwidth: an H200 copies at 4.3 of 4.8 TB/s, an A100 at 0.85 to 0.9 of its own."""
LINK_SHARE: Final = 0.75
"""Achieved of the link, in one direction: usual for NCCL's ring all-reduce within a machine. Not fitted."""
LAUNCH_SECONDS: Final = 5e-6
"""From one small kernel to the next, where the host cannot run ahead. Not fitted."""
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
    """FLOP/s of the scores that a causal mask leaves."""
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
    newton_schulz_flops: float
    """FLOP/s of the bfloat16 products of Muon."""
    matrix_seconds: float
    """The least that Muon takes for the matrices of one kind, which it orthogonalizes together."""
    link_bytes: float
    """Achieved between the accelerators of a machine, per second and direction; 0 where there is only one."""
    slowest: float
    """The expected tokens per second times this is the low end of the interval; times `fastest`, the high
    end."""
    fastest: float
    source: str
    measured_on: str | None = None
    """The day of a calibration; None for a preset."""

    @property
    def element_size(self) -> int:
        """Bytes of an element of a matmul's operands."""
        return 2 if self.dtype in ("bfloat16", "float16") else 4

    @property
    def runs_experts_at_once(self) -> bool:
        """Whether torch's grouped matmul is one kernel there, for which the host need not wait."""
        accelerator = ACCELERATORS.get(self.device) or find_accelerator(self.device)
        return accelerator is not None and accelerator.name in _GROUPED_MATMUL


SOFTWARE: Final = "torch.compile, flash attention"
MATMUL_TRAFFIC: Final = 1.66
ELEMENT_BYTES: Final = 4.52
LOGIT_BYTES: Final = 7.08
MICRO_SECONDS: Final = 0.000997
"""The constants of the software in every preset: fitted together with those below. The last one is little
more than the prior of the fit, 1 ms: the published runs have large micro-steps."""


@dataclass(frozen=True)
class Efficiency:
    """Achieved shares of a generation's published peak."""

    matmul: float
    attention: float


AMPERE: Final = Efficiency(matmul=0.889, attention=0.553)
HOPPER: Final = Efficiency(matmul=0.729, attention=0.362)
"""Fitted by benchmarks/throughput.py to ten runs of llm.c, modded-nanogpt and nanochat. The larger chip
achieves the smaller share in these data: at full load its clock drops."""
_FITTED: Final = {
    "a100-40-sxm": AMPERE, "a100-80-sxm": AMPERE, "h100-sxm": HOPPER, "h200-sxm": HOPPER,
}  # fmt: skip
_AS_AMPERE: Final = frozenset({"a100-80-pcie", "a10g", "a40", "l4", "l40", "l40s", "t4"})
_AS_AMPERE_FAMILIES: Final = ("rtx-", "v100-")
"""Their matmuls are issued warp by warp, as on an A100; those of all others are assumed to be like
Hopper's."""
_GROUPED_MATMUL: Final = frozenset(
    {"h100-sxm", "h100-pcie", "h100-nvl", "h200-sxm", "gh200", "b200", "gb200"}
)
"""Compute capability 9.0 and 10.0: see `nn.mlp.grouped_linear`."""


def preset_profile(accelerator: Accelerator) -> DeviceProfile:
    """What the bundled trainer should achieve there: compiled, with flash attention and autocast to the dtype
    of the peak. One that a person described is taken to be like Hopper, which achieves the smaller share."""
    name = "" if accelerator.source == GIVEN else accelerator.name
    fitted = name in _FITTED
    by_kind = AMPERE if name in _AS_AMPERE or name.startswith(_AS_AMPERE_FAMILIES) else HOPPER
    efficiency, peak = _FITTED.get(name, by_kind), accelerator.bf16_flops
    kind = "Ampere" if efficiency is AMPERE else "Hopper"
    source = f"fitted to published runs on {kind}" if fitted else f"scaled from the constants of {kind}"
    source = source if name else f"peak and bandwidth {GIVEN}, {source}"
    # Without published runs of that generation the interval is wider; by how much has not been measured.
    slowest, fastest = (0.75, 1.15) if fitted else (0.55, 1.25)
    return DeviceProfile(
        device=accelerator.name, name=SOFTWARE, dtype=accelerator.peak_dtype, peak_flops=peak,
        matmul_flops=efficiency.matmul * peak, matmul_traffic=MATMUL_TRAFFIC,
        attention_flops=efficiency.attention * peak,
        bandwidth_bytes=BANDWIDTH_SHARE * accelerator.bandwidth_bytes, element_bytes=ELEMENT_BYTES,
        logit_bytes=LOGIT_BYTES, micro_seconds=MICRO_SECONDS, layer_seconds=0.0,
        newton_schulz_flops=efficiency.matmul * peak, matrix_seconds=_NEWTON_SCHULZ_KERNELS * LAUNCH_SECONDS,
        link_bytes=LINK_SHARE * accelerator.link_bytes, slowest=slowest, fastest=fastest, source=source,
    )  # fmt: skip


_LAYOUT: Final = 1
_TEXTS: Final = frozenset({"device", "name", "dtype", "source", "measured_on"})
_OPTIONAL: Final = frozenset({"peak_flops", "measured_on"})


def profile_for(device: Accelerator | str) -> DeviceProfile:
    """The constants to predict with: the newest measured on that device, else its preset.

    `device` is a row of the table of accelerators, or a name that torch gives one; the processor is "cpu",
    and has no preset.
    """
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
    if row.keys() != {field.name for field in fields(DeviceProfile)}:
        raise ValueError("unexpected fields")
    for name, value in row.items():
        if value is None and name in _OPTIONAL:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not (isinstance(value, str) if name in _TEXTS else number and value >= 0):
            raise ValueError(f"{name} is {value!r}")
    return DeviceProfile(**row)
