"""What is exported as text and as a file, in the form that the other tool reads."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from parambudget._files import write_whole
from parambudget.arch.export.target import Export
from parambudget.errors import InputError


def text_of(export: Export) -> str:
    """The document as the tool's file has it."""
    return _FORMS[export.file](export.document)


def write_into(folder: Path, export: Export, *, force: bool = False) -> Path:
    """Write the file into a folder, which is made if need be; a file that is there stays unless told."""
    path = folder / export.file
    require_free(path, force=force)
    make_folder(folder)
    write_whole(path, text_of(export))
    return path


def require_free(path: Path, *, force: bool) -> None:
    """Refuse to write over a file without being told to."""
    if not force and os.path.lexists(path):
        raise InputError(f"{path} is there already; choose another --out, or --force to replace it")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if they are not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder}: {error.strerror}; choose another one with --out") from None


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


def _yaml(document: Mapping[str, Any]) -> str:
    """Keys with JSON values, which YAML 1.1 reads too, but for numbers like 1e-05."""
    return "".join(f"{key}: {_yaml_value(value)}\n" for key, value in document.items())


def _yaml_value(value: Any) -> str:
    said = json.dumps(value)
    if isinstance(value, float) and "e" in said and "." not in said:
        return said.replace("e", ".0e")
    return said


def _arguments(document: Mapping[str, Any]) -> str:
    """One argument a line; true is a flag without a value."""
    return "".join(f"{name}\n" if value is True else f"{name} {value}\n" for name, value in document.items())


_FORMS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "config.json": _json,
    "model_config.yaml": _yaml,
    "megatron_args.txt": _arguments,
}
