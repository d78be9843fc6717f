"""What is exported as text and as a file, in the form that the other tool reads."""

import json
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from parambudget.arch.export.target import Export
from parambudget.errors import InputError
from parambudget.files import write_whole


def as_json(document: Mapping[str, Any]) -> str:
    """A JSON object, two spaces deep."""
    return json.dumps(document, indent=2) + "\n"


def as_yaml(document: Mapping[str, Any]) -> str:
    """A YAML mapping. What is JSON is YAML, but for floats, which YAML 1.1 takes for text without a point."""
    return "".join(f"{key}: {_scalar(value)}\n" for key, value in document.items())


def as_arguments(document: Mapping[str, Any]) -> str:
    """A bash array as in Megatron's example scripts, to be sourced; True is a flag without a value."""
    lines = [
        f"  --{name}" if value is True else f"  --{name} {shlex.quote(str(value))}"
        for name, value in document.items()
    ]
    return "\n".join(["MODEL_ARGS=(", *lines, ")"]) + "\n"


FILES: Final[Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]]] = {
    "hf": ("config.json", as_json),
    "litgpt": ("model_config.yaml", as_yaml),
    "megatron": ("megatron_args.sh", as_arguments),
}
"""Each tool's file and how its text is made."""


def text_of(tool: str, export: Export) -> str:
    """The document as the tool's file has it."""
    return FILES[tool][1](export.document)


def write_into(folder: Path, tool: str, export: Export, *, force: bool = False) -> Path:
    """Write the file into a folder, which is made if need be; a file that is there stays unless told."""
    path = folder / FILES[tool][0]
    if not force and os.path.lexists(path):
        raise InputError(f"{path} is there already; choose another --out, or --force to replace it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder}: {error.strerror}; choose another one with --out") from None
    write_whole(path, text_of(tool, export))
    return path


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        digits, exponent, power = repr(value).partition("e")
        return f"{digits if '.' in digits else digits + '.0'}{exponent}{power}"
    return json.dumps(value)
