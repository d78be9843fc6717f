"""Commands that a person is to run: they start the way this installation is started."""

import os
import shlex
import sys
from pathlib import Path
from shutil import which
from typing import Final

_NEED_TORCH: Final = ("train", "sample", "verify", "calibrate", "data", "runs")
YOUR_TEXT: Final = "YOUR_TEXT"
"""Stands in a command for the text to train on where none was named."""


def runnable_command(command: str, *words: str, processes: int = 1) -> str:
    """`parambudget COMMAND WORDS...` as it can be pasted; words are flags and values as the shell reads them.

    In `uv run`, the environment is uv's, so the command starts with `uv run`, with torch where it is needed.
    """
    start = program()
    if processes > 1:
        start = f"torchrun --standalone --nproc-per-node {processes} --no-python {start}"
    if is_run_by_uv():
        start = f"uv run --extra train {start}" if command.split()[0] in _NEED_TORCH else f"uv run {start}"
    return " ".join([start, command, *(word for word in words if word)])


def is_run_by_uv() -> bool:
    """Whether `uv run` started this process: without it, the shell would not find the command."""
    return "UV_RUN_RECURSION_DEPTH" in os.environ


def program() -> str:
    """The words that start the command line here, without those of uv."""
    typed = Path(sys.argv[0])
    if typed.name == "__main__.py" and typed.parent.name == "parambudget":
        return f"{Path(sys.executable).name} -m parambudget"
    if typed.name == "parambudget" and len(typed.parts) > 1 and which("parambudget") is None:
        return shlex.quote(str(typed))
    return "parambudget"


def data_flag(data: object | None = None) -> str:
    """The flag that names the text to train on."""
    return f"--data {YOUR_TEXT if data is None else shlex.quote(str(data))}"
