"""The flags that say more of a machine than its name, the same in every command that has `--gpu`."""

import inspect
from collections.abc import Callable
from typing import Annotated, Final, TypedDict

import typer

from parambudget.cli._help import MORE_PANEL
from parambudget.cli._options import Command, with_flags


class MachineFigures(TypedDict, total=False):
    """What `api.machine` takes of these flags; absent where it was not given."""

    gpu_memory: str
    gpu_tflops: float
    gpu_bandwidth: str
    grid_intensity: float
    gpus_per_node: int
    network: str
    stack: str
    mfu: float


def _flag(name: str, kind: type, metavar: str, text: str) -> inspect.Parameter:
    option = typer.Option(
        f"--{name.replace('_', '-')}", metavar=metavar, help=text, rich_help_panel=MORE_PANEL,
    )  # fmt: skip
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=None, annotation=Annotated[kind | None, option])


_FIGURES: Final = [
    _flag("gpu_memory", str, "SIZE", "Your own GPU: its memory, such as 24GB; --gpu is then its name."),
    _flag("gpu_tflops", float, "N", "Your own GPU: dense bfloat16 TFLOP/s, with 32-bit accumulation."),
    _flag("gpu_bandwidth", str, "RATE", "Your own GPU: bandwidth of its memory, such as 1008GB/s."),
    _flag("gpus_per_node", int, "N", "GPUs of a node, 8 unless given; more than these are several nodes."),
    _flag(
        "network",
        str,
        "RATE",
        "Between nodes, per GPU, such as 400Gb/s; unless given, 400Gb/s, and 200Gb/s for A100 servers.",
    ),
    _flag(
        "stack",
        str,
        "NAME",
        "Speeds of other training software: best, typical, eager, or one such as torchtitan.",
    ),
    _flag("mfu", float, "SHARE", "The model FLOPs utilization of your trainer, such as 0.35."),
]


_GRID: Final = _flag(
    "grid_intensity", float, "G", "Grams of CO2 equivalent per kWh of electricity; unless given, 473: the "
    "world average of 2024.",
)  # fmt: skip


def with_machine_figures(*, energy: bool = False) -> Callable[[Command], Command]:
    """Give a command the flags that describe a GPU, and with `energy` the one of its electricity; it receives
    those that were used as `figures`."""
    return with_flags("figures", [*_FIGURES, *([_GRID] if energy else [])], dict)
