"""Commands that a person is to run: they start the way this installation is started."""

import shlex
import sys
from pathlib import Path
from shutil import which
from typing import Final

from parambudget._install import is_run_by_uv

_NEED_TORCH: Final = ("train", "sample", "verify", "calibrate", "data", "runs")
_RENDEZVOUS: Final = "--rdzv-backend c10d --rdzv-endpoint FIRST_NODE:29500"
YOUR_TEXT: Final = "YOUR_TEXT"
"""Stands in a command for the text to train on where none was named."""


def runnable_command(command: str, *words: str, processes: int = 1, nodes: int = 1) -> str:
    """`parambudget COMMAND WORDS...` as it can be pasted; words are flags and values as the shell reads them.

    `processes` are those of all nodes together; the command is run on every node. In `uv run`, the
    environment is uv's, so the command starts with `uv run`, with torch where it is needed.
    """
    start = program()
    if processes > 1:
        where = "--standalone" if nodes == 1 else f"--nnodes {nodes} {_RENDEZVOUS}"
        start = f"torchrun {where} --nproc-per-node {processes // nodes} --no-python {start}"
    if is_run_by_uv():
        start = f"uv run --extra train {start}" if command.split()[0] in _NEED_TORCH else f"uv run {start}"
    return " ".join([start, command, *(word for word in words if word)])


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
