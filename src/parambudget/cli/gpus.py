"""`parambudget gpus`: the accelerators that `--gpu` knows, with their figures and where these come from."""

from typing import Annotated

import typer
from typing_extensions import TypedDict

from parambudget.cli._options import JsonOption, print_json, print_lines, print_notice
from parambudget.cost.hardware import ACCELERATORS, GIVEN, Accelerator
from parambudget.cost.own_gpus import own_gpus_file, read_own_gpus
from parambudget.errors import ConfigError
from parambudget.units import format_byte_rate, format_bytes, format_flop_rate

_HEADINGS = ("name", "memory", "dense peak", "bandwidth", "link", "as of")

_NO_BFLOAT16 = "* in float16: it has no bfloat16, and the bundled trainer refuses it"


class GpuDocument(TypedDict):
    """A GPU that can be named, with its figures and where they were read."""

    name: str
    """What to name it by."""
    memory_bytes: int
    """As the driver reports it, or the label where the source says so."""
    peak_flops: float
    """Dense FLOP/s of matmuls in `peak_dtype`, with 32-bit accumulation."""
    peak_dtype: str
    """bfloat16, or float16 for a GPU that has no bfloat16."""
    bandwidth_bytes_per_second: float
    """Of its memory."""
    link_bytes_per_second: float
    """To the other GPUs of the node, per direction."""
    board_watts: float | None
    """The most that the whole board draws; null where it is not known."""
    board_watts_source: str | None
    """Where that was read; null where it is not known."""
    source: str
    """Where the other figures were read."""
    read_on: str | None
    """The day on which they were read; null for a GPU of your own."""
    device_names: list[str]
    """What torch calls it."""


def gpus(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORDS...", help="Show only GPUs whose name has all of these words."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the GPUs that --gpu knows: memory, speed, bandwidth, link to the other GPUs, and the source.

    Memory is what the driver reports, or the label where it says so; the link is per direction. --json has
    the board power too. Any other GPU is described by --gpu-memory, --gpu-tflops and --gpu-bandwidth, or by
    a row of gpus.toml in your config folder; `parambudget calibrate`, on a machine that has it, measures it.
    """
    own = read_own_gpus()
    for problem in own.problems.values():
        print_notice(problem)
    rows = [
        one
        for one in (*ACCELERATORS.values(), *own.rows.values())
        if all(word.lower() in _searched_text(one) for word in words or ())
    ]
    if not rows:
        raise ConfigError(
            f"no GPU has {' '.join(words or ())!r} in its name; run `parambudget gpus` for all "
            f"{len(ACCELERATORS) + len(own.rows)}"
        )
    if as_json:
        print_json([_as_dict(one) for one in rows])
        return
    from parambudget.render.terminal import bold, table, terminal_width, wrap_text

    head, *lines = table([list(_HEADINGS), *map(_cells, rows)], left=(0,))
    print_lines([bold(head), *lines, ""])
    if any(not one.has_bfloat16 for one in rows):
        print_lines(wrap_text(_NO_BFLOAT16, terminal_width()))
    sources: dict[str, list[str]] = {}
    for one in rows:
        sources.setdefault(_source(one), []).append(one.name)
    for source, names in sources.items():
        print_lines(wrap_text(f"{', '.join(names)}: {source}", terminal_width()))


def _searched_text(accelerator: Accelerator) -> str:
    return " ".join((accelerator.name, *accelerator.device_names)).lower()


def _source(one: Accelerator) -> str:
    return f"{GIVEN} in {own_gpus_file()}" if one.source == GIVEN else one.source


def _cells(one: Accelerator) -> list[str]:
    mark = " " if one.has_bfloat16 else "*"
    return [
        one.name, format_bytes(one.memory_bytes), format_flop_rate(one.peak_flops) + mark,
        format_byte_rate(one.bandwidth_bytes), format_byte_rate(one.link_bytes), str(one.read_on or GIVEN),
    ]  # fmt: skip


def _as_dict(one: Accelerator) -> GpuDocument:
    return {
        "name": one.name, "memory_bytes": one.memory_bytes, "peak_flops": one.peak_flops,
        "peak_dtype": one.peak_dtype, "bandwidth_bytes_per_second": one.bandwidth_bytes,
        "link_bytes_per_second": one.link_bytes, "board_watts": one.board_watts,
        "board_watts_source": one.board_watts_source, "source": _source(one),
        "read_on": None if one.read_on is None else one.read_on.isoformat(),
        "device_names": list(one.device_names),
    }  # fmt: skip
