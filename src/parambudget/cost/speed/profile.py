"""What a GPU and its software reach: the few constants that the throughput model has, each with its source.

A constant is a property of the hardware (a rate) or of the software (how often its kernels move the same
bytes). The software's are the same on every GPU, which is what lets a preset stand for a GPU that nobody has
published runs of. `benchmarks/throughput.py` fits them to published runs and holds this table to its result.
"""

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import platformdirs

from parambudget._files import read_json, write_json
from parambudget.cost.hardware import Accelerator, find_accelerator
from parambudget.errors import InputError

BANDWIDTH_SHARE: Final = 0.88
"""Of the memory's: an H200 copies at 4.3 of 4.8 TB/s, an A100 at 0.85 to 0.9 of its own."""
LINK_SHARE: Final = 0.75
"""Of the link's, one direction: what NCCL's ring all-reduce usually reaches within a machine. Not fitted."""
LAUNCH_SECONDS: Final = 5e-6
"""From one small kernel to the next, where the host cannot run ahead. Not fitted."""
_NEWTON_SCHULZ_KERNELS: Final = 23
"""Of torch.optim.Muon per matrix: 15 products, and 8 around them."""


@dataclass(frozen=True)
class DeviceProfile:
    """A device with its software, in rates and seconds: all that `cost.speed.throughput` needs to know."""

    device: str
    """As torch names it, or the name of a row of accelerators."""
    name: str
    """The software."""
    dtype: str
    """Of the matmuls."""
    peak_flops: float | None
    """Dense FLOP/s of that dtype as published; None where nothing is, as for a CPU."""
    matmul_flops: float
    """FLOP/s of the arithmetic of a matmul, apart from the moving of its operands."""
    matmul_traffic: float
    """How often every operand of a matmul is moved between memory and chip."""
    attention_flops: float
    """FLOP/s of the scores that a causal mask leaves."""
    bandwidth_bytes: float
    """Reached, per second."""
    element_bytes: float
    """Moved by what is no matmul, forward and backward, per token and element of the layers' outputs of
    matmuls."""
    logit_bytes: float
    """Moved per token and entry of the vocabulary by the loss, forward and backward."""
    micro_seconds: float
    """Of a micro-step whatever its size: launches, and the host."""
    layer_seconds: float
    """The same, of every layer."""
    newton_schulz_flops: float
    """FLOP/s of the bfloat16 products of Muon."""
    matrix_seconds: float
    """That Muon takes for any matrix at least."""
    link_bytes: float
    """Reached between the accelerators of a machine, per second and direction; 0 where there is but one."""
    slowest: float
    """Share of the expected tokens per second that a run may fall to; `fastest`: that it may reach."""
    fastest: float
    source: str
    measured_on: str | None = None
    """The day of a calibration; None for a preset."""

    @property
    def element_size(self) -> int:
        """Bytes of an element of a matmul's operands."""
        return 2 if self.dtype == "bfloat16" else 4


SOFTWARE: Final = "torch.compile, flash attention"
MATMUL_TRAFFIC: Final = 1.66
ELEMENT_BYTES: Final = 4.52
LOGIT_BYTES: Final = 7.08
MICRO_SECONDS: Final = 0.000997
"""The software's constants of every preset: fitted with those below, see there. The last one is hardly more
than the prior of the fit, 1 ms: the published runs have large micro-steps."""


@dataclass(frozen=True)
class Efficiency:
    """Shares of a generation's published peak."""

    matmul: float
    attention: float


AMPERE: Final = Efficiency(matmul=0.889, attention=0.553)
HOPPER: Final = Efficiency(matmul=0.729, attention=0.362)
"""Fitted by benchmarks/throughput.py to ten runs of llm.c, modded-nanogpt and nanochat. That the larger chip
reaches the smaller share is in the data: at full load its clock falls."""
_FITTED: Final = {
    "a100-40-sxm": AMPERE, "a100-80-sxm": AMPERE, "h100-sxm": HOPPER, "h200-sxm": HOPPER,
}  # fmt: skip
_AS_AMPERE: Final = frozenset({"a100-80-pcie", "l40s", "a10g", "rtx-3090", "rtx-4090", "rtx-5090"})
"""Their matmuls are issued warp by warp, as an A100's; all others' are taken to be like Hopper's."""


def preset_profile(accelerator: Accelerator) -> DeviceProfile:
    """What the bundled trainer is expected to reach there: compiled, flash attention, bfloat16 autocast."""
    fitted = accelerator.name in _FITTED
    by_kind = AMPERE if accelerator.name in _AS_AMPERE else HOPPER
    reached, peak = _FITTED.get(accelerator.name, by_kind), accelerator.bf16_flops
    kind = "Ampere" if reached is AMPERE else "Hopper"
    source = f"fitted to published runs on {kind}" if fitted else f"scaled from the constants of {kind}"
    # Without a run of that generation to look at the interval is wider; how wide, nobody has measured.
    slowest, fastest = (0.75, 1.15) if fitted else (0.55, 1.25)
    return DeviceProfile(
        device=accelerator.name, name=SOFTWARE, dtype="bfloat16", peak_flops=peak,
        matmul_flops=reached.matmul * peak, matmul_traffic=MATMUL_TRAFFIC,
        attention_flops=reached.attention * peak,
        bandwidth_bytes=BANDWIDTH_SHARE * accelerator.bandwidth_bytes, element_bytes=ELEMENT_BYTES,
        logit_bytes=LOGIT_BYTES, micro_seconds=MICRO_SECONDS, layer_seconds=0.0,
        newton_schulz_flops=reached.matmul * peak, matrix_seconds=_NEWTON_SCHULZ_KERNELS * LAUNCH_SECONDS,
        link_bytes=LINK_SHARE * accelerator.link_bytes, slowest=slowest, fastest=fastest, source=source,
    )  # fmt: skip


_LAYOUT: Final = 1
_TEXTS: Final = frozenset({"device", "name", "dtype", "source", "measured_on"})
_OPTIONAL: Final = frozenset({"peak_flops", "measured_on"})


def profile_for(device: Accelerator | str) -> DeviceProfile:
    """The constants to predict with: the newest that were measured on that device, else its preset.

    `device` is a row of accelerators, or what torch calls one; the processor is "cpu", and has no preset.
    """
    names = device.device_names if isinstance(device, Accelerator) else (device,)
    asked = {name.lower() for name in names}
    measured = [profile for profile in calibrated_profiles() if profile.device.lower() in asked]
    if measured:
        return measured[-1]
    row = device if isinstance(device, Accelerator) else find_accelerator(device)
    if row is None:
        raise InputError(
            f"nothing is known of the speed of {device!r}; measure it: parambudget calibrate, or name a GPU"
        )
    return preset_profile(row)


def calibrated_profiles() -> list[DeviceProfile]:
    """Every stack that was measured, the newest last."""
    path = calibration_file()
    if not path.exists():
        return []
    try:
        document = read_json(path)
        if document["layout"] != _LAYOUT:
            raise ValueError(f"layout {document['layout']!r}")
        return [_read_profile(row) for row in document["stacks"]]
    except (InputError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not hold measured constants ({error}); run parambudget calibrate --clear, "
            "or parambudget calibrate to measure again"
        ) from None


def save_profile(profile: DeviceProfile) -> Path:
    """Add measured constants to the file, in place of older ones of that device and software; returns it."""
    path = calibration_file()
    try:
        before = calibrated_profiles()
    except InputError:
        before = []  # what cannot be read is measured anew
    others = [other for other in before if (other.device, other.name) != (profile.device, profile.name)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot keep constants in {path.parent}: {error.strerror}; "
            "set XDG_DATA_HOME to a folder that is writable"
        ) from None
    write_json(path, {"layout": _LAYOUT, "stacks": [asdict(each) for each in (*others, profile)]})
    return path


def clear_profiles() -> bool:
    """Forget everything that was measured; whether there was anything."""
    path = calibration_file()
    there = path.exists()
    path.unlink(missing_ok=True)
    return there


def calibration_file() -> Path:
    """Where the constants are kept; XDG_DATA_HOME moves it."""
    return platformdirs.user_data_path("parambudget") / "calibration.json"


def _read_profile(row: dict[str, Any]) -> DeviceProfile:
    if row.keys() != {field.name for field in fields(DeviceProfile)}:
        raise ValueError("other fields than expected")
    for name, value in row.items():
        if value is None and name in _OPTIONAL:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not (isinstance(value, str) if name in _TEXTS else number and value >= 0):
            raise ValueError(f"{name} is {value!r}")
    return DeviceProfile(**row)
