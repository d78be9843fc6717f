"""`parambudget gpus`: the accelerators that `--gpu` knows, with their figures and where these come from."""

from typing import Annotated

import typer

from parambudget.cli._options import JsonOption, print_json, print_lines
from parambudget.cost.hardware import ACCELERATORS, Accelerator
from parambudget.errors import ConfigError
from parambudget.units import format_bytes, format_flop_rate

_HEADINGS = ("name", "memory", "bf16, dense", "bandwidth", "link", "as of")


def gpus(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORDS...", help="Show only GPUs whose name has all of these words."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the GPUs that --gpu knows: memory, speed, bandwidth, link to the other GPUs, and the source.

    Memory is what the driver reports, or the label where it says so; the link is per direction. `parambudget
    calibrate`, on a machine that has one, measures any other GPU.
    """
    rows = [
        one
        for one in ACCELERATORS.values()
        if all(word.lower() in _searched_text(one) for word in words or ())
    ]
    if not rows:
        raise ConfigError(
            f"no GPU has {' '.join(words or ())!r} in its name; run `parambudget gpus` for all "
            f"{len(ACCELERATORS)}"
        )
    if as_json:
        print_json([_as_dict(one) for one in rows])
        return
    from parambudget.render.terminal import bold, table, terminal_width, wrap_text

    head, *lines = table([list(_HEADINGS), *map(_cells, rows)], left=(0,))
    print_lines([bold(head), *lines, ""])
    sources: dict[str, list[str]] = {}
    for one in rows:
        sources.setdefault(one.source, []).append(one.name)
    for source, names in sources.items():
        print_lines(wrap_text(f"{', '.join(names)}: {source}", terminal_width()))


def _searched_text(accelerator: Accelerator) -> str:
    return " ".join((accelerator.name, *accelerator.device_names)).lower()


def _cells(one: Accelerator) -> list[str]:
    return [
        one.name, format_bytes(one.memory_bytes), format_flop_rate(one.bf16_flops),
        f"{one.bandwidth_bytes / 1e12:.2f} TB/s", f"{one.link_bytes / 1e9:,.0f} GB/s", str(one.read_on),
    ]  # fmt: skip


def _as_dict(one: Accelerator) -> dict[str, object]:
    return {
        "name": one.name, "memory_bytes": one.memory_bytes, "bf16_flops": one.bf16_flops,
        "bandwidth_bytes_per_second": one.bandwidth_bytes, "link_bytes_per_second": one.link_bytes,
        "source": one.source, "read_on": one.read_on.isoformat(), "device_names": list(one.device_names),
    }  # fmt: skip
