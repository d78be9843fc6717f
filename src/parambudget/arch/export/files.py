"""What is exported as text and as a file, in the form that the other tool reads."""

import json
import os
from pathlib import Path

from parambudget.arch.export.target import Export
from parambudget.errors import InputError
from parambudget.files import write_whole


def text_of(export: Export) -> str:
    """The document as the tool's file has it."""
    return json.dumps(export.document, indent=2) + "\n"


def write_into(folder: Path, export: Export, *, force: bool = False) -> Path:
    """Write the file into a folder, which is made if need be; a file that is there stays unless told."""
    path = folder / "config.json"
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
