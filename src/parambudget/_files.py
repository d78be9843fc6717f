"""Files are read within bounds and written whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from parambudget.errors import InputError

LARGEST_CONFIG_BYTES: Final = 5_000_000


def read_json(path: Path) -> Any:
    """The JSON value in a file of at most 5 MB; every way this can fail is one line that names the file."""
    if os.path.isdir(path):
        raise InputError(f"{path} is a directory; give a JSON file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path} is a device or a pipe; give a JSON file")
    try:
        with path.open("rb") as file:
            held = file.read(LARGEST_CONFIG_BYTES + 1)
        if len(held) > LARGEST_CONFIG_BYTES:
            raise InputError(f"{path} has more than the {LARGEST_CONFIG_BYTES:,} bytes of any config file")
        text = held.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give an existing JSON file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; give a JSON file") from None
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(
            f"{path} is not valid JSON ({error.msg.removesuffix(' at')} at {where}); is it complete?"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not usable JSON ({error}); give a plain config object") from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document whole, two spaces deep, with a newline at its end."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write text under a temporary name beside `path`, then rename it: a reader never sees half a file.

    A link stays a link: its target is written.
    """
    path = Path(os.path.realpath(path))
    if os.path.isdir(path):
        raise InputError(f"cannot write {path}: it is a directory; give a file name")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"cannot write {path}: it is a device or a pipe; give a file name")
    temporary = path.parent / f".{path.name[:40]}.{os.getpid()}.tmp"
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; nothing was written, "
            "choose a folder that exists and is writable"
        ) from None
    finally:
        # Gone after a success; nowhere to be where the folder is none.
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def folder_whole(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write into, which gets that name when all is written, and else is gone.

    An empty folder may be there already.
    """
    path = Path(os.path.abspath(path))
    temporary = path.parent / f".{path.name[:40]}.{os.getpid()}.tmp"
    try:
        if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
            raise InputError(f"{path} is there already; choose another folder, or remove it")
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            with file.open("r+b") as written:
                os.fsync(written.fileno())
            file.chmod(0o644)
        if os.path.isdir(path):
            path.rmdir()  # Windows renames to no folder that is there
        temporary.rename(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot write {path}: {reason}; nothing was written") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
