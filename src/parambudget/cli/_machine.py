"""The flags that describe a GPU, with the same text in every command that has `--gpu`."""

import inspect
from collections.abc import Callable
from typing import Annotated, Final, TypedDict, cast

import typer

from parambudget.cli._help import MORE_PANEL
from parambudget.cli._options import Command, with_flags


class GpuFigures(TypedDict, total=False):
    """What `api.machine` takes to describe a GPU; absent where it was not given."""

    gpu_memory: str
    gpu_tflops: float
    gpu_bandwidth: str


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
]


def with_gpu_figures() -> Callable[[Command], Command]:
    """Give a command the flags that describe a GPU; it receives those that were used as `figures`."""

    def parse(used: dict[str, object]) -> dict[str, object]:
        return cast("dict[str, object]", GpuFigures(**used))  # type: ignore[typeddict-item]

    return with_flags("figures", _FIGURES, parse)
