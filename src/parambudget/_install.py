"""What to do about a package that is missing: one line for each way that this one can be installed."""

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Final, Literal

from parambudget.errors import MissingExtra

Extra = Literal[
    "data", "gguf", "hub", "ladder", "mcp", "tensorboard", "trackio", "train", "transformers", "wandb", "web"
]

TRAINING: Final = ("torch", "safetensors", "tokenizers")
"""Packages that training, and whatever builds a model or reads weights, needs of the extra `train`."""
CLASS_PACKAGES: Final = ("torch", "transformers")
"""Packages that counting a class of transformers needs, of the extra of that name."""
_CLONE: Final = Path(__file__).parents[2]
"""The folder of `pyproject.toml`, where this is a clone."""
_LONGEST_COMMAND: Final = 250
"""Characters of a command that a message of one line has room for."""


def is_run_by_uv() -> bool:
    """Whether `uv run` started this process: without it, the shell would not find the command."""
    return "UV_RUN_RECURSION_DEPTH" in os.environ


def program() -> str:
    """The words that start the command line here, without those of uv."""
    typed = Path(sys.argv[0])
    if _is_module(typed):
        return f"{Path(sys.executable).name} -m parambudget"
    if typed.name == "parambudget" and len(typed.parts) > 1 and which("parambudget") is None:
        return shlex.quote(str(typed))
    return "parambudget"


def _is_module(typed: Path) -> bool:
    """Whether `python -m parambudget` was typed."""
    return typed.name == "__main__.py" and typed.parent.name == "parambudget"


def running_command() -> str:
    """What starts this process again, without the words of uv; at a prompt or in a notebook `python`."""
    typed = Path(sys.argv[0])
    if typed.name == "parambudget" or _is_module(typed):
        return f"{program()} {shlex.join(sys.argv[1:])}".rstrip()
    return f"python {shlex.join(sys.argv)}" if typed.suffix == ".py" and typed.is_file() else "python"


def install_advice(packages: Iterable[str], extras: Sequence[Extra]) -> str:
    """How to get these packages, which are of these extras: in `uv run` by another start of what is running,
    else with pip.

    The extras have names in a clone only: nothing of this package is published.
    """
    in_clone = bool(extras) and (_CLONE / "pyproject.toml").is_file()
    if is_run_by_uv():
        words = [f"--extra {one}" for one in extras] if in_clone else [f"--with {one}" for one in packages]
        start, command = f"uv run {' '.join(words)}", running_command()
        if len(command) > _LONGEST_COMMAND:
            return f"start the same command with: {start}"
        return f"run it as: {start} {command}"
    pip = "pip install" if find_spec("pip") else "uv pip install"
    if in_clone:
        target = f"{_CLONE}[{','.join(extras)}]"
        return f"install with: {pip} -e {shlex.quote(target)}"
    return f"install with: {pip} {' '.join(packages)}"


def require_packages(what: str, packages: Iterable[str], extras: Sequence[Extra]) -> None:
    """Raise `MissingExtra` with what to do unless all these packages are installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        advice = install_advice(missing, extras)
        raise MissingExtra(f"{what} needs {', '.join(missing)}, not installed here; {advice}")
