"""GPUs that a person describes: by three figures, or by rows of a TOML file in the user's config folder.

[my-card]
memory = "24GB"
tflops = 82                # dense, with 32-bit accumulation
bandwidth = "1008GB/s"     # of its memory
link = "32GB/s"            # to the other GPUs, per direction; PCIe 4.0 x16 unless given
watts = 350                # of the whole board; without it no energy is estimated
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

from parambudget._files import read_regular
from parambudget.cost.hardware import GIVEN, Accelerator, accelerators_by_word, normalize_gpu_name
from parambudget.errors import InputError
from parambudget.units import parse_byte_rate, parse_bytes, short_repr, shorten

ASSUMED_LINK_BYTES: Final = 32e9
"""Between GPUs whose link nobody gave, per second and direction: PCIe 4.0 x16."""
OWN_NAME: Final = "own GPU"
"""Where a person gave figures and no name."""
_NEEDED: Final = ("memory", "tflops", "bandwidth")
_KEYS: Final = (*_NEEDED, "link", "watts")
_LONGEST_NAME: Final = 60
_LARGEST_FILE: Final = 1_000_000
_LARGEST_TFLOPS: Final = 100_000
_LARGEST_WATTS: Final = 10_000


def describe_gpu(
    name: str | None, memory: str | int | None, tflops: float | None, bandwidth: str | None
) -> Accelerator:
    """The GPU with these figures; `name` is only shown.

    Memory in bytes or as "24GB"; dense TFLOP/s with 32-bit accumulation; the bandwidth of its memory as
    "1008GB/s" (a small b means bits). Raises `InputError` unless all three are there and possible.
    """
    figures = {"gpu_memory": memory, "gpu_tflops": tflops, "gpu_bandwidth": bandwidth}
    if missing := [f"`{each}`" for each, value in figures.items() if value is None]:
        given = " and ".join(f"`{each}`" for each, value in figures.items() if value is not None)
        raise InputError(
            f"{given} {'do' if ' and ' in given else 'does'} not describe a GPU without "
            f"{' and '.join(missing)}; give all three"
        )
    shown = OWN_NAME if name is None else " ".join(name.split())
    _check_name(shown, "machine")
    assert memory is not None
    return Accelerator(
        shown, _parse_memory(memory, "gpu_memory"), 1e12 * _check(tflops, "gpu_tflops", _LARGEST_TFLOPS),
        parse_byte_rate(bandwidth or "", "gpu_bandwidth"), ASSUMED_LINK_BYTES, GIVEN, None, (),
    )  # fmt: skip


@dataclass(frozen=True)
class OwnGpus:
    """What the file says."""

    rows: Mapping[str, Accelerator]
    """By name, as it is written there."""
    problems: Mapping[str, str]
    """Of rows that cannot be used, by name: a line with the file, the row and what is wrong."""


def own_gpus_file() -> Path:
    """Where a person's GPUs are described; XDG_CONFIG_HOME moves it."""
    return platformdirs.user_config_path("parambudget") / "gpus.toml"


def read_own_gpus() -> OwnGpus:
    """The rows of the file, good and bad; none where there is no file. Raises `InputError` for a file that
    cannot be read as TOML."""
    path = own_gpus_file()
    if not path.exists():
        return OwnGpus({}, {})
    rows: dict[str, Accelerator] = {}
    problems: dict[str, str] = {}
    taken = {word: row.name for word, row in accelerators_by_word().items()}
    for name, row in _read_toml(path).items():
        word = normalize_gpu_name(name)
        try:
            if word in taken:
                raise InputError(f"the name is taken by {taken[word]!r}; choose another one")
            rows[name] = _read_row(name, row)
            taken[word] = name
        except InputError as error:
            problems[name] = f"{path}: row {shorten(name)!r}: {error}"
    return OwnGpus(rows, problems)


def find_own_gpu(name: str) -> Accelerator | None:
    """The row of the file that a name means, whatever its case and punctuation; None where there is none.
    Raises `InputError` where that row cannot be used."""
    own, wanted = read_own_gpus(), normalize_gpu_name(name)
    for problem in (line for row, line in own.problems.items() if normalize_gpu_name(row) == wanted):
        raise InputError(problem)
    return next((gpu for row, gpu in own.rows.items() if normalize_gpu_name(row) == wanted), None)


def _read_toml(path: Path) -> dict[str, object]:
    try:
        large = path.stat().st_size > _LARGEST_FILE
        content = b"" if large else read_regular(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; make it readable, or remove it") from None
    try:
        if large:
            raise ValueError(f"larger than {_LARGEST_FILE:,} bytes")
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{path} is not valid TOML ({shorten(reason, 120)}); correct or remove it") from None


def _read_row(name: str, row: object) -> Accelerator:
    _check_name(name, "the name")
    if not isinstance(row, dict):
        raise InputError(f"it is {short_repr(row)}; write it as a table, [{shorten(name)}] with its figures")
    if unknown := [key for key in row if key not in _KEYS]:
        raise InputError(f"{shorten(unknown[0])!r} is not a figure of a GPU; use {', '.join(_KEYS)}")
    if missing := [key for key in _NEEDED if key not in row]:
        raise InputError(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    watts = _check(row["watts"], "watts", _LARGEST_WATTS) if "watts" in row else None
    return Accelerator(
        name, _parse_memory(row["memory"], "memory"), 1e12 * _check(row["tflops"], "tflops", _LARGEST_TFLOPS),
        parse_byte_rate(row["bandwidth"]), parse_byte_rate(row.get("link", "32GB/s"), "link"), GIVEN, None,
        (name,), watts, None if watts is None else GIVEN,
    )  # fmt: skip


def _check_name(name: str, what: str) -> None:
    if not (0 < len(name) <= _LONGEST_NAME and name.isprintable()):
        raise InputError(
            f"{what} {short_repr(name)} is not a name to show; use 1 to {_LONGEST_NAME} printable characters"
        )


def _parse_memory(memory: object, what: str) -> int:
    if isinstance(memory, str):
        return parse_bytes(memory, what)
    if type(memory) is not int or not 0 < memory <= 10**18:
        raise InputError(f"{what} is {short_repr(memory)}; use a size such as '24GB' or '24GiB'")
    return memory


def _check(value: object, what: str, most: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{what} is {short_repr(value)}; use a number above 0")
    if not 0 < value <= most:
        raise InputError(f"{what} is {value:g}; use a number above 0, at most {most:,}")
    return float(value)
