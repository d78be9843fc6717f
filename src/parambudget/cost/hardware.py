"""Accelerators: dense bfloat16 arithmetic, memory and bandwidths, each row with its source.

Vendors print the figure with 2:4 sparsity first, which is twice the dense one, and for GeForce cards the one
with 16-bit accumulation; these rows are dense, with 32-bit accumulation. Those from llm.c's table are its
figures scaled by the number of tensor cores and their clock, as it scales them. Memory is what the driver
reports: a vendor's "80 GB" is a label. Vendors add up both directions of a link; these rows have one.
"""

import math
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Final, Literal

from parambudget.errors import InputError, nearest_in_words, suggest
from parambudget.units import shorten

_READ_ON: Final = date(2026, 11, 22)
_READ_LATER: Final = date(2026, 11, 30)
_MIB: Final = 2**20
PeakDtype = Literal["bfloat16", "float16"]


@dataclass(frozen=True)
class Accelerator:
    """One kind of accelerator."""

    name: str
    memory_bytes: int
    peak_flops: float
    """Dense FLOP/s in `peak_dtype`, with 32-bit accumulation."""
    bandwidth_bytes: float
    """Of its memory, per second."""
    link_bytes: float
    """To the other accelerators of the machine, per second and direction: NVLink, Infinity Fabric or PCIe."""
    source: str
    """GIVEN for one that a person described."""
    read_on: date | None
    """None for one that a person described."""
    device_names: tuple[str, ...]
    """What `torch.cuda.get_device_name()` calls it."""
    board_watts: float | None = None
    """The most that the whole board draws; None where it is not known."""
    board_watts_source: str | None = None
    peak_dtype: PeakDtype = "bfloat16"
    """Of the peak. float16 where the hardware has no bfloat16: before compute capability 8.0."""

    @property
    def has_bfloat16(self) -> bool:
        """Whether it multiplies in bfloat16, which the bundled trainer needs."""
        return self.peak_dtype == "bfloat16"


GIVEN: Final = "given"


def _accelerator(
    name: str, memory_mib: int, teraflops: float, bandwidth_tb: float, link_gb: float,
    power: tuple[float, str], source: str, *device_names: str, dtype: PeakDtype = "bfloat16",
    read_on: date = _READ_LATER,
) -> Accelerator:  # fmt: skip
    return Accelerator(
        name, memory_mib * _MIB, teraflops * 1e12, bandwidth_tb * 1e12, link_gb * 1e9, source, read_on,
        device_names, *power, peak_dtype=dtype,
    )  # fmt: skip


_DRIVER: Final = "memory as in nvidia-smi"
_TITAN: Final = f"data sheet, through torchtitan's get_peak_flops; {_DRIVER}"
_COMMON: Final = f"commonly quoted, not read in a data sheet; {_DRIVER}"
_LLM_C: Final = f"white paper, through llm.c's mfu.h; {_DRIVER}"
_SHEET: Final = f"data sheets, through the table of lamonoai/gpumap; {_DRIVER}"
_VOLTA: Final = "; bandwidth and link recalled"
_RECALLED: Final = f"recalled, not checked; {_DRIVER}"

_CAP: Final = "the cap that nvidia-smi prints"
_TABLE: Final = "data sheet, through the table of lamonoai/gpumap"
_UNCHECKED_POWER: Final = "commonly quoted, not checked"


_ROWS: Final = (
    _accelerator(
        "a100-40-sxm", 40_960, 312, 1.555, 300, (400, _UNCHECKED_POWER), f"NVIDIA A100 {_TITAN}",
        "NVIDIA A100-SXM4-40GB", read_on=_READ_ON,
    ),
    _accelerator(
        "a100-80-sxm", 81_920, 312, 2.039, 300, (400, _UNCHECKED_POWER), f"NVIDIA A100 {_TITAN}",
        "NVIDIA A100-SXM4-80GB", read_on=_READ_ON,
    ),
    _accelerator(
        "a100-80-pcie", 81_920, 312, 1.935, 32, (300, _TABLE), f"NVIDIA A100 {_TITAN}",
        "NVIDIA A100 80GB PCIe", read_on=_READ_ON,
    ),
    _accelerator(
        "h100-sxm", 81_559, 989.4, 3.35, 450, (700, _TABLE), f"NVIDIA H100 {_TITAN}",
        "NVIDIA H100 80GB HBM3", read_on=_READ_ON,
    ),
    _accelerator(
        "h100-pcie", 81_559, 756, 2.0, 64, (350, _TABLE), f"NVIDIA H100 {_TITAN}",
        "NVIDIA H100 PCIe", read_on=_READ_ON,
    ),
    _accelerator(
        "h100-nvl", 95_830, 835, 3.9, 300, (400, _TABLE), f"NVIDIA H100 {_TITAN}",
        "NVIDIA H100 NVL", read_on=_READ_ON,
    ),
    _accelerator(
        "h200-sxm", 143_771, 989.4, 4.8, 450, (700, _TABLE), f"NVIDIA H200 {_TITAN}",
        "NVIDIA H200", read_on=_READ_ON,
    ),
    _accelerator(
        "gh200", 97_871, 989.4, 4.0, 450, (900, f"{_CAP}: processor and GPU together"),
        f"NVIDIA GH200 with HBM3, commonly quoted; link of an NVL2; {_DRIVER}",
        "NVIDIA GH200 480GB", "NVIDIA GH200 120GB",
    ),
    _accelerator(
        "b200", 183_359, 2_250, 7.7, 900, (1_000, _CAP),
        f"NVIDIA Blackwell {_TITAN}; bandwidth from bus width and clock, pytorch/ao#4002",
        "NVIDIA B200", read_on=_READ_ON,
    ),
    _accelerator(
        "gb200", 189_471, 2_500, 8.0, 900, (1_200, _CAP),
        f"NVIDIA GB200 {_TITAN}", "NVIDIA GB200", read_on=_READ_ON,
    ),
    _accelerator(
        "b300", 275_040, 2_250, 7.75, 900, (1_100, _CAP),
        f"NVIDIA B300 figures of ai-dynamo/aiconfigurator; {_DRIVER}", "NVIDIA B300 SXM6 AC",
    ),
    _accelerator(
        "l4", 23_034, 121, 0.3, 32, (72, _CAP), f"NVIDIA L4 {_SHEET}", "NVIDIA L4",
    ),
    _accelerator(
        "l40", 46_068, 181.05, 0.864, 32, (300, _TABLE), f"NVIDIA L40 {_SHEET}", "NVIDIA L40",
    ),
    _accelerator(
        "l40s", 46_068, 362, 0.864, 32, (350, _CAP), f"NVIDIA L40S {_TITAN}", "NVIDIA L40S",
        read_on=_READ_ON,
    ),
    _accelerator(
        "a10g", 23_028, 70, 0.6, 32, (300, _UNCHECKED_POWER), _COMMON, "NVIDIA A10G", read_on=_READ_ON,
    ),
    _accelerator(
        "a40", 46_068, 149.7, 0.696, 32, (300, _CAP), f"NVIDIA A40 {_SHEET}", "NVIDIA A40",
    ),
    _accelerator(
        "rtx-a6000", 49_140, 154.8, 0.768, 32, (300, _CAP), f"NVIDIA RTX A6000 {_SHEET}",
        "NVIDIA RTX A6000",
    ),
    _accelerator(
        "rtx-6000-ada", 49_140, 364, 0.960, 32, (300, _CAP), f"NVIDIA RTX 6000 Ada {_SHEET}",
        "NVIDIA RTX 6000 Ada Generation",
    ),
    _accelerator(
        "rtx-pro-6000", 97_887, 503.8, 1.792, 64, (600, _CAP),
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition, bandwidth of the data sheet; the peak is "
        f"recalled, the data sheet's 4,000 sparse FP4 TOPS are eight times 500; {_DRIVER}",
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
    ),
    _accelerator(
        "rtx-3060", 12_288, 25.5, 0.360, 32, (170, _CAP), f"NVIDIA GA102 {_LLM_C}",
        "NVIDIA GeForce RTX 3060",
    ),
    _accelerator(
        "rtx-3060-ti", 8_192, 32.4, 0.448, 32, (200, _TABLE), f"NVIDIA GA102 {_LLM_C}",
        "NVIDIA GeForce RTX 3060 Ti",
    ),
    _accelerator(
        "rtx-3070", 8_192, 40.6, 0.448, 32, (220, _TABLE), f"NVIDIA GA102 {_LLM_C}",
        "NVIDIA GeForce RTX 3070",
    ),
    _accelerator(
        "rtx-3070-ti", 8_192, 43.5, 0.608, 32, (290, _UNCHECKED_POWER), f"NVIDIA GA102 {_LLM_C}",
        "NVIDIA GeForce RTX 3070 Ti",
    ),
    _accelerator(
        "rtx-3080", 10_240, 59.5, 0.760, 32, (320, _CAP), f"NVIDIA GA102 {_LLM_C}",
        "NVIDIA GeForce RTX 3080",
    ),
    _accelerator(
        "rtx-3080-ti", 12_288, 68.2, 0.912, 32, (350, _UNCHECKED_POWER), f"NVIDIA GA102 {_LLM_C}",
        "NVIDIA GeForce RTX 3080 Ti",
    ),
    _accelerator(
        "rtx-3090", 24_576, 71, 0.936, 32, (350, _UNCHECKED_POWER), f"NVIDIA GA102 {_LLM_C}",
        "NVIDIA GeForce RTX 3090", read_on=_READ_ON,
    ),
    _accelerator(
        "rtx-3090-ti", 24_564, 80, 1.008, 32, (450, _TABLE), f"NVIDIA GA102 {_LLM_C}",
        "NVIDIA GeForce RTX 3090 Ti",
    ),
    _accelerator(
        "rtx-4060", 8_188, 30.2, 0.272, 16, (115, _UNCHECKED_POWER), f"NVIDIA Ada {_LLM_C}",
        "NVIDIA GeForce RTX 4060",
    ),
    _accelerator(
        "rtx-4060-ti", 8_188, 44.1, 0.288, 16, (160, _UNCHECKED_POWER), f"NVIDIA Ada {_LLM_C}",
        "NVIDIA GeForce RTX 4060 Ti",
    ),
    _accelerator(
        "rtx-4060-ti-16", 16_380, 44.1, 0.288, 16, (165, _CAP), f"NVIDIA Ada {_LLM_C}",
        "NVIDIA GeForce RTX 4060 Ti",
    ),
    _accelerator(
        "rtx-4070", 12_282, 58.3, 0.504, 32, (200, _CAP), f"NVIDIA Ada {_LLM_C}",
        "NVIDIA GeForce RTX 4070",
    ),
    _accelerator(
        "rtx-4070-super", 12_282, 71.0, 0.504, 32, (220, _UNCHECKED_POWER), f"NVIDIA Ada {_LLM_C}",
        "NVIDIA GeForce RTX 4070 SUPER",
    ),
    _accelerator(
        "rtx-4070-ti", 12_282, 80.2, 0.504, 32, (285, _CAP), f"NVIDIA Ada {_LLM_C}",
        "NVIDIA GeForce RTX 4070 Ti",
    ),
    _accelerator(
        "rtx-4070-ti-super", 16_376, 88.2, 0.672, 32, (285, _UNCHECKED_POWER), f"NVIDIA Ada {_LLM_C}",
        "NVIDIA GeForce RTX 4070 Ti SUPER",
    ),
    _accelerator(
        "rtx-4080", 16_376, 97.5, 0.717, 32, (320, _CAP), f"NVIDIA Ada {_LLM_C}",
        "NVIDIA GeForce RTX 4080",
    ),
    _accelerator(
        "rtx-4080-super", 16_376, 104.5, 0.736, 32, (320, _UNCHECKED_POWER), f"NVIDIA Ada {_LLM_C}",
        "NVIDIA GeForce RTX 4080 SUPER",
    ),
    _accelerator(
        "rtx-4090", 24_564, 165.2, 1.008, 32, (450, _TABLE), f"NVIDIA Ada {_LLM_C}",
        "NVIDIA GeForce RTX 4090", read_on=_READ_ON,
    ),
    _accelerator(
        "rtx-5060-ti", 8_151, 47.4, 0.448, 32, (180, _CAP), f"NVIDIA RTX 5060 Ti {_RECALLED}",
        "NVIDIA GeForce RTX 5060 Ti",
    ),
    _accelerator(
        "rtx-5060-ti-16", 16_311, 47.4, 0.448, 32, (180, _CAP), f"NVIDIA RTX 5060 Ti {_RECALLED}",
        "NVIDIA GeForce RTX 5060 Ti",
    ),
    _accelerator(
        "rtx-5070", 12_227, 61.7, 0.672, 64, (250, _TABLE), f"NVIDIA RTX 50 {_SHEET}",
        "NVIDIA GeForce RTX 5070",
    ),
    _accelerator(
        "rtx-5070-ti", 16_303, 87.9, 0.896, 64, (300, _CAP), f"NVIDIA RTX 50 {_SHEET}",
        "NVIDIA GeForce RTX 5070 Ti",
    ),
    _accelerator(
        "rtx-5080", 16_303, 112.6, 0.960, 64, (360, _CAP), f"NVIDIA RTX 50 {_SHEET}",
        "NVIDIA GeForce RTX 5080",
    ),
    _accelerator(
        "rtx-5090", 32_607, 209.5, 1.792, 64, (575, _TABLE),
        _COMMON, "NVIDIA GeForce RTX 5090", read_on=_READ_ON,
    ),
    _accelerator(
        "t4", 15_360, 65, 0.320, 16, (70, _CAP), f"NVIDIA T4 {_RECALLED}", "Tesla T4", dtype="float16",
    ),
    _accelerator(
        "v100-16-sxm", 16_384, 125, 0.9, 150, (300, _CAP), f"NVIDIA Volta {_LLM_C}{_VOLTA}",
        "Tesla V100-SXM2-16GB", dtype="float16",
    ),
    _accelerator(
        "v100-32-sxm", 32_768, 125, 0.9, 150, (300, _CAP), f"NVIDIA Volta {_LLM_C}{_VOLTA}",
        "Tesla V100-SXM2-32GB", dtype="float16",
    ),
    _accelerator(
        "v100-16-pcie", 16_384, 112, 0.9, 16, (250, "announcement, through io-tech.fi"),
        f"NVIDIA V100 PCIe announcement, through io-tech.fi; {_DRIVER}", "Tesla V100-PCIE-16GB",
        dtype="float16",
    ),
    _accelerator(
        "v100-32-pcie", 32_768, 112, 0.9, 16, (250, "announcement, through io-tech.fi"),
        f"NVIDIA V100 PCIe announcement, through io-tech.fi; {_DRIVER}", "Tesla V100-PCIE-32GB",
        dtype="float16",
    ),
    _accelerator(
        "mi300x", 196_608, 1_307.4, 5.3, 448, (750, _UNCHECKED_POWER),
        "commonly quoted (torchtitan: 1,300); memory as labelled", "AMD Instinct MI300X", read_on=_READ_ON,
    ),
    _accelerator(
        "mi325x", 262_144, 1_307.4, 6.0, 448, (1_000, _UNCHECKED_POWER),
        "commonly quoted (torchtitan: 1,300); memory as labelled", "AMD Instinct MI325X",
    ),
)  # fmt: skip


ACCELERATORS: Final[Mapping[str, Accelerator]] = MappingProxyType({row.name: row for row in _ROWS})

_ALIASES: Final = {
    "a100": "a100-80-sxm", "a10080": "a100-80-sxm", "a10080gb": "a100-80-sxm", "a100sxm": "a100-80-sxm",
    "a10040": "a100-40-sxm", "a10040gb": "a100-40-sxm", "a100pcie": "a100-80-pcie",
    "h100": "h100-sxm", "h10080gb": "h100-sxm", "h200": "h200-sxm", "mi300": "mi300x", "mi325": "mi325x",
    "v100": "v100-16-sxm", "v10016gb": "v100-16-sxm", "v10032gb": "v100-32-sxm", "v100sxm": "v100-16-sxm",
    "v100pcie": "v100-16-pcie",
}  # fmt: skip


def find_accelerator(device_name: str, memory_bytes: int | None = None) -> Accelerator | None:
    """The row of a device as torch names it, or None.

    An unknown name is not guessed: slices (MIG), laptop and export versions differ. Some cards are sold with
    two sizes of memory under one name: the nearest to `memory_bytes` is meant, or else the smallest.
    """
    wanted = " ".join(device_name.split())
    rows = [row for row in ACCELERATORS.values() if wanted in row.device_names]
    return min(rows, key=lambda row: abs(row.memory_bytes - (memory_bytes or 0)), default=None)


def parse_accelerator(name: str) -> Accelerator:
    """The row that a person means: `h100`, `A100-80GB`, `rtx_4090`, a device as torch names it.

    Case, spaces and punctuation do not matter. The plain name of a family is its SXM version; that of the
    A100 has 80 GB, that of the V100 16 GB.
    """
    known, wanted = accelerators_by_word(), normalize_gpu_name(name)
    if wanted in known:
        return known[wanted]
    near = list(dict.fromkeys(known[key].name for key in suggest(wanted, known, most=8)))[:3]
    nearest = f"{nearest_in_words(near)}; " if near else ""
    raise InputError(
        f"no GPU is known as {shorten(name)!r}; {nearest}`pb.ACCELERATORS` lists all. Describe it with "
        f"{DESCRIBED}; on a machine that has it, `pb.calibrate()` measures it, and `train` predicts with that"
    )


DESCRIBED: Final = "`gpu_memory=24GB, gpu_tflops=82, gpu_bandwidth=1008GB/s`"
"""How a person describes a GPU that is not in the table, with a card's figures as an example."""


def accelerators_by_word() -> dict[str, Accelerator]:
    """Every row by all that people call it, as `normalize_gpu_name` leaves it."""
    rows = [*ACCELERATORS.values()]
    # A name that two rows share means the first of them.
    known = {normalize_gpu_name(device): row for row in reversed(rows) for device in row.device_names}
    known |= {normalize_gpu_name(row.name.removeprefix("rtx-")): row for row in rows}
    known |= {normalize_gpu_name(row.name): row for row in rows}
    return known | {short: known[normalize_gpu_name(full)] for short, full in _ALIASES.items()}


def normalize_gpu_name(name: str) -> str:
    """A name without its case, spaces, punctuation and makers."""
    return re.sub("nvidia|geforce|tesla|amd|instinct|[^a-z0-9]", "", name.lower())


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


def known_price(accelerator: Accelerator) -> Price | None:
    """The price of renting it, as of the date in the answer; None where none is known."""
    if accelerator.source == GIVEN or accelerator.name not in _PRICES:
        return None
    low, high, source = _PRICES[accelerator.name]
    return Price(low, high, source, _READ_ON, _MEDIANS.get(accelerator.name))


def price_of(accelerator: Accelerator) -> Price:
    """The price of renting it; raises `InputError` where none is known."""
    price = known_price(accelerator)
    if price is None:
        raise InputError(f"no price is known for {accelerator.name}; give one in US dollars per hour")
    return price


def fixed_price(dollars_per_hour: float) -> Price:
    """A price that a person gave; 0 for an accelerator of their own."""
    if not (math.isfinite(dollars_per_hour) and dollars_per_hour >= 0):
        raise InputError(f"price {dollars_per_hour:g} is not a price; use US dollars per hour, 0 or more")
    return Price(dollars_per_hour, dollars_per_hour, "given", None)


_PATIENCE_SECONDS = 10.0


def gpu_name() -> str | None:
    """The driver's name of the first GPU, which is also torch's; None where there is none."""
    return _ask_driver("name")


def detect_accelerator() -> Accelerator | None:
    """The row of this machine's GPU; None where there is none, or where it is not in the table."""
    name = gpu_name()
    if name is None or (found := find_accelerator(name)) is None:
        return None
    if sum(found.device_names == row.device_names for row in ACCELERATORS.values()) == 1:
        return found
    memory = (_ask_driver("memory.total") or "").split()
    return find_accelerator(name, int(memory[0]) * _MIB) if memory and memory[0].isdecimal() else found


def _ask_driver(field: str) -> str | None:
    """What the driver says of the first GPU; None where there is none."""
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(answer.stdout.splitlines()), "").strip() or None
