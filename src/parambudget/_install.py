"""What to do about a package that is missing: one line for each way that this one can be installed."""

import os
import shlex
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from parambudget.errors import MissingExtra

Extra = Literal["data", "train", "wandb"]

TRAINING: Final = ("torch", "safetensors", "tokenizers")
"""Packages that training, and whatever builds a model or reads weights, needs of the extra `train`."""
_CLONE: Final = Path(__file__).parents[2]
"""The folder of `pyproject.toml`, where this is a clone."""


def is_run_by_uv() -> bool:
    """Whether `uv run` started this process: without it, the shell would not find the command."""
    return "UV_RUN_RECURSION_DEPTH" in os.environ


def install_advice(packages: Iterable[str], extras: Sequence[Extra], command: str = "python ...") -> str:
    """How to get these packages, which are of these extras: in `uv run` by another start of the command, else
    with pip.

    The extras have names in a clone only: nothing of this package is published.
    """
    in_clone = bool(extras) and (_CLONE / "pyproject.toml").is_file()
    if is_run_by_uv():
        words = [f"--extra {one}" for one in extras] if in_clone else [f"--with {one}" for one in packages]
        return f"run it as: uv run {' '.join(words)} {command}"
    pip = "pip install" if find_spec("pip") else "uv pip install"
    if in_clone:
        target = f"{_CLONE}[{','.join(extras)}]"
        return f"install with: {pip} -e {shlex.quote(target)}"
    return f"install with: {pip} {' '.join(packages)}"


def require_packages(
    what: str, packages: Iterable[str], extras: Sequence[Extra], command: str = "python ..."
) -> None:
    """Raise `MissingExtra` with what to do unless all these packages are installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        advice = install_advice(missing, extras, command)
        raise MissingExtra(f"{what} needs {', '.join(missing)}, not installed here; {advice}")
