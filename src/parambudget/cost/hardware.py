"""Accelerators: dense bfloat16 arithmetic, memory and bandwidths, each row with its source.

Vendors print the figure with 2:4 sparsity first, which is twice the dense one, and for GeForce cards the one
with 16-bit accumulation; these rows are dense, with 32-bit accumulation. Memory is what the driver reports: a
vendor's "80 GB" is a label. Vendors add up both directions of a link; these rows have one.
"""

import math
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Final

from parambudget.errors import InputError, nearest_in_words, suggest
from parambudget.units import shorten

_READ_ON: Final = date(2026, 11, 22)
_MIB: Final = 2**20


@dataclass(frozen=True)
class Accelerator:
    """One kind of accelerator."""

    name: str
    memory_bytes: int
    bf16_flops: float
    """Dense FLOP/s."""
    bandwidth_bytes: float
    """Of its memory, per second."""
    link_bytes: float
    """To the other accelerators of the machine, per second and direction: NVLink, Infinity Fabric or PCIe."""
    source: str
    read_on: date
    device_names: tuple[str, ...]
    """What `torch.cuda.get_device_name()` calls it."""


def _accelerator(
    name: str, memory_mib: int, teraflops: float, bandwidth_tb: float, link_gb: float, source: str,
    *device_names: str,
) -> Accelerator:  # fmt: skip
    return Accelerator(
        name, memory_mib * _MIB, teraflops * 1e12, bandwidth_tb * 1e12, link_gb * 1e9, source, _READ_ON,
        device_names,
    )  # fmt: skip


_DRIVER: Final = "memory as in nvidia-smi"
_TITAN: Final = f"data sheet, through torchtitan's get_peak_flops; {_DRIVER}"
_COMMON: Final = f"commonly quoted, not read in a data sheet; {_DRIVER}"
_LLM_C: Final = f"white paper, through llm.c's mfu.h; {_DRIVER}"
_ROWS: Final = (
    _accelerator(
        "a100-40-sxm", 40_960, 312, 1.555, 300, f"NVIDIA A100 {_TITAN}", "NVIDIA A100-SXM4-40GB",
    ),
    _accelerator(
        "a100-80-sxm", 81_920, 312, 2.039, 300, f"NVIDIA A100 {_TITAN}", "NVIDIA A100-SXM4-80GB",
    ),
    _accelerator(
        "a100-80-pcie", 81_920, 312, 1.935, 32, f"NVIDIA A100 {_TITAN}", "NVIDIA A100 80GB PCIe",
    ),
    _accelerator(
        "h100-sxm", 81_559, 989.4, 3.35, 450, f"NVIDIA H100 {_TITAN}",
        "NVIDIA H100 80GB HBM3",
    ),
    _accelerator(
        "h100-pcie", 81_559, 756, 2.0, 64, f"NVIDIA H100 {_TITAN}",
        "NVIDIA H100 PCIe",
    ),
    _accelerator(
        "h100-nvl", 95_830, 835, 3.9, 300, f"NVIDIA H100 {_TITAN}",
        "NVIDIA H100 NVL",
    ),
    _accelerator(
        "h200-sxm", 143_771, 989.4, 4.8, 450, f"NVIDIA H200 {_TITAN}",
        "NVIDIA H200",
    ),
    _accelerator(
        "b200", 183_359, 2_250, 7.7, 900,
        f"NVIDIA Blackwell {_TITAN}; bandwidth from bus width and clock, pytorch/ao#4002",
        "NVIDIA B200",
    ),
    _accelerator(
        "gb200", 189_471, 2_500, 8.0, 900,
        f"NVIDIA GB200 {_TITAN}", "NVIDIA GB200",
    ),
    _accelerator("l40s", 46_068, 362, 0.864, 32, f"NVIDIA L40S {_TITAN}", "NVIDIA L40S"),
    _accelerator(
        "a10g", 23_028, 70, 0.6, 32, _COMMON, "NVIDIA A10G",
    ),
    _accelerator(
        "rtx-3090", 24_576, 71, 0.936, 32, f"NVIDIA GA102 {_LLM_C}",
        "NVIDIA GeForce RTX 3090",
    ),
    _accelerator(
        "rtx-4090", 24_564, 165.2, 1.008, 32, f"NVIDIA Ada {_LLM_C}",
        "NVIDIA GeForce RTX 4090",
    ),
    _accelerator(
        "rtx-5090", 32_607, 209.5, 1.792, 64,
        _COMMON, "NVIDIA GeForce RTX 5090",
    ),
    _accelerator(
        "mi300x", 196_608, 1_307.4, 5.3, 448, "commonly quoted (torchtitan: 1,300); memory as labelled",
        "AMD Instinct MI300X",
    ),
)  # fmt: skip


ACCELERATORS: Final[Mapping[str, Accelerator]] = MappingProxyType({row.name: row for row in _ROWS})

_ALIASES: Final = {
    "a100": "a100-80-sxm", "a10080": "a100-80-sxm", "a10080gb": "a100-80-sxm", "a100sxm": "a100-80-sxm",
    "a10040": "a100-40-sxm", "a10040gb": "a100-40-sxm", "a100pcie": "a100-80-pcie",
    "h100": "h100-sxm", "h10080gb": "h100-sxm", "h200": "h200-sxm",
    "3090": "rtx-3090", "4090": "rtx-4090", "5090": "rtx-5090", "mi300": "mi300x",
}  # fmt: skip


def find_accelerator(device_name: str) -> Accelerator | None:
    """The row of a device as torch names it, or None.

    An unknown name is not guessed: slices (MIG), laptop and export versions differ.
    """
    wanted = " ".join(device_name.split())
    return next((row for row in ACCELERATORS.values() if wanted in row.device_names), None)


def parse_accelerator(name: str) -> Accelerator:
    """The row that a person means: `h100`, `A100-80GB`, `rtx_4090`, a device as torch names it.

    Case, spaces and punctuation do not matter. The plain name of a family is its SXM version; that of the
    A100 has 80 GB.
    """
    known = {_normalize_name(row.name): row for row in ACCELERATORS.values()}
    known |= {_normalize_name(device): row for row in ACCELERATORS.values() for device in row.device_names}
    known |= {short: known[_normalize_name(full)] for short, full in _ALIASES.items()}
    wanted = _normalize_name(name)
    if wanted in known:
        return known[wanted]
    near = list(dict.fromkeys(known[key].name for key in suggest(wanted, known, most=8)))[:3]
    nearest = f"{nearest_in_words(near)}; " if near else ""
    raise InputError(
        f"no GPU is known as {shorten(name)!r}; {nearest}`pb.ACCELERATORS` lists all. Plan for a similar "
        "one; on a machine that has this one, `pb.calibrate()` measures it, and `train` predicts with that"
    )


def _normalize_name(name: str) -> str:
    return re.sub("nvidia|geforce|amd|instinct|[^a-z0-9]", "", name.lower())


@dataclass(frozen=True)
class Price:
    """US dollars for an hour of one accelerator."""

    low: float
    high: float
    source: str
    read_on: date | None
    """None for a price that a person gave."""
    median: float | None = None
    """Where the source has one."""

    @property
    def middle(self) -> float:
        """The median, or else the geometric mean of the two ends."""
        return math.sqrt(self.low * self.high) if self.median is None else self.median


_SEEN: Final = "published on-demand prices, from marketplaces to hyperscalers"
_UNCHECKED: Final = "commonly quoted, not checked against a price list"
_PRICES: Final = {
    "a100-40-sxm": (0.8, 2.0, _UNCHECKED),
    "a100-80-sxm": (0.8, 3.0, f"{_SEEN}, May 2026"),
    "a100-80-pcie": (0.8, 3.0, f"{_SEEN}, May 2026, of the SXM version"),
    "h100-sxm": (2.0, 5.0, f"{_SEEN}, May 2026"),
    "h100-pcie": (1.8, 3.0, _UNCHECKED),
    "h100-nvl": (2.2, 3.5, _UNCHECKED),
    "h200-sxm": (2.5, 7.0, f"{_SEEN}, March to May 2026"),
    "b200": (4.5, 8.0, "around Spheron's price of 6.03, March 2026"),
    "gb200": (4.5, 10.0, "around half of Spheron's price of 9.08 for two, March 2026"),
    "l40s": (0.8, 2.0, _UNCHECKED),
    "a10g": (0.5, 1.3, _UNCHECKED),
    "rtx-3090": (0.15, 0.4, _UNCHECKED),
    "rtx-4090": (0.3, 0.8, _UNCHECKED),
    "rtx-5090": (0.45, 1.2, _UNCHECKED),
    "mi300x": (1.9, 4.0, _UNCHECKED),
}
_MEDIANS: Final = {"h100-sxm": 2.95}


def price_of(accelerator: Accelerator) -> Price:
    """The price of renting it, as of the date in the answer."""
    if accelerator.name not in _PRICES:
        raise InputError(f"no price is known for {accelerator.name}; give one in US dollars per hour")
    low, high, source = _PRICES[accelerator.name]
    return Price(low, high, source, _READ_ON, _MEDIANS.get(accelerator.name))


def fixed_price(dollars_per_hour: float) -> Price:
    """A price that a person gave; 0 for an accelerator of their own."""
    if not (math.isfinite(dollars_per_hour) and dollars_per_hour >= 0):
        raise InputError(f"price {dollars_per_hour:g} is not a price; use US dollars per hour, 0 or more")
    return Price(dollars_per_hour, dollars_per_hour, "given", None)


_PATIENCE_SECONDS = 10.0


def gpu_name() -> str | None:
    """The driver's name of the first GPU, which is also torch's; None where there is none."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(answer.stdout.splitlines()), "").strip() or None


def detect_accelerator() -> Accelerator | None:
    """The row of this machine's GPU; None where there is none, or where it is not in the table."""
    name = gpu_name()
    return find_accelerator(name) if name else None
