"""Files are read within bounds, and written completely or not at all, by one process at a time."""

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape as glob_escape
from pathlib import Path
from typing import Any, BinaryIO, Final

from parambudget.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    _FULL_SYNC = None
else:
    _FULL_SYNC = getattr(fcntl, "F_FULLFSYNC", None)

LARGEST_CONFIG_BYTES: Final = 5_000_000
_FOLDERS_CANNOT_SYNC: Final = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)


def read_json(path: Path, *, finite: bool = True) -> Any:
    """The JSON value in a file of at most 5 MB; every error is one line that names the file.

    Numbers that are not `finite` (NaN, Infinity, 1e999) are refused unless the caller does so for those that
    it reads.
    """
    if os.path.isdir(path):
        raise InputError(f"{path} is a directory; give a JSON file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path} is a device or a pipe; give a JSON file")
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_CONFIG_BYTES + 1)
        if len(content) > LARGEST_CONFIG_BYTES:
            raise InputError(
                f"{path} is larger than {LARGEST_CONFIG_BYTES:,} bytes, the most for a config file"
            )
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give an existing JSON file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; give a JSON file") from None
    try:
        return json.loads(
            text, parse_float=_finite_float if finite else float,
            parse_constant=_refuse_constant if finite else float, object_pairs_hook=_refuse_repeated_keys,
        )  # fmt: skip
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(
            f"{path} is not valid JSON ({error.msg.removesuffix(' at')} at {where}); is it complete?"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not usable JSON ({error}); give a plain config object") from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document atomically, indented by two spaces, with a newline at its end."""
    atomic_write(path, json_text(value, indent=2) + "\n")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """The value as JSON, which has no NaN and no infinity: null stands for them."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_without_infinities(value), indent=indent)


def _without_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinities(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the whole new one; every error is one line.

    A link stays a link: its target is written. Text becomes UTF-8 with the newlines it has.
    """
    path = Path(os.path.realpath(path))
    if os.path.isdir(path):
        raise InputError(f"cannot write {path}: it is a directory; give a file name")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"cannot write {path}: it is a device or a pipe; give a file name")
    with write_errors(path, "choose a folder that exists and is writable"), atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path, *, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write into, which replaces `path` once everything is on disk and is removed otherwise.

    `temporary` is its name until then, on the same disk; by default one beside `path` that is not used yet.
    """
    temporary = temporary or _temporary_name(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            _sync_descriptor(file.fileno())
        temporary.replace(path)
        sync_to_disk(path.parent)
    finally:
        # Already renamed after a success; never created if its folder does not exist.
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into, which becomes `path` once everything is on disk and is removed otherwise.

    `path` must not exist, or be an empty folder, unless it may be overwritten.
    """
    path = Path(os.path.abspath(path))
    temporary = _temporary_name(path)
    if not overwrite:
        require_new_folder(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if os.path.isdir(path):
            # Windows renames to no folder that exists.
            shutil.rmtree(path, ignore_errors=True) if overwrite else path.rmdir()
        publish_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_new_folder(path: Path) -> None:
    """Refuse what exists, except an empty folder, as the place of a new folder."""
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise InputError(f"{path} already exists; choose another folder, or remove it")


def publish_folder(temporary: Path, path: Path) -> None:
    """Give a folder its final name once everything in it is on disk."""
    for entry in (*temporary.rglob("*"), temporary):
        if entry.is_file():
            entry.chmod(0o644)  # safetensors lets nobody else read its files
        sync_to_disk(entry)
    temporary.rename(path)
    sync_to_disk(path.parent)


@contextmanager
def write_errors(path: Path, hint: str = "") -> Iterator[None]:
    """What the disk refuses becomes one line that names `path`, for writes that are complete or not done."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}; nothing was written"
        raise InputError(f"cannot write {path}: {reason}{f', {hint}' if hint else ''}") from None


def sync_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, survive a loss of power.

    Windows syncs only descriptors that may write, and opens no folders; some network file systems cannot sync
    folders either. There the names are left to the system.
    """
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        _sync_descriptor(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in _FOLDERS_CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def only_writer(lock_file: Path, busy: str, *, wait_seconds: float = 0) -> Iterator[None]:
    """Keep other processes from what this file locks; raises `InputError` with `busy` where one has it.

    The lock ends with the process, however that ends, on every system.
    """
    # In the extra `train`, like everything that writes folders for long.
    from filelock import FileLock, Timeout

    lock, is_ours = FileLock(lock_file), False
    try:
        while not is_ours:
            # Open before and in place after: the file that was locked in between is this one, and not one
            # that its last owner has removed.
            with lock_file.open("a") as file:
                lock.acquire(timeout=wait_seconds)
                is_ours = _is_in_place(file.fileno(), lock_file)
            if not is_ours:
                lock.release()
    except Timeout:
        raise InputError(busy) from None
    except (OSError, NotImplementedError):
        pass  # some network file systems have no locks; there nobody is kept out
    try:
        yield
    finally:
        if is_ours:
            # Removed while it is still held: afterwards it could be the lock of another process. Windows
            # removes no open file; there it stays, which does no harm.
            with suppress(OSError):
                lock_file.unlink()
            lock.release()


def _is_in_place(descriptor: int, path: Path) -> bool:
    """Whether a file that is open still has that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def require_place(path: Path, flag: str) -> None:
    """Refuse a link that leads nowhere as the place of a new folder."""
    if path.is_symlink() and not path.exists():
        raise InputError(
            f"{path} is a link to {os.readlink(path)}, which does not exist; create that folder, or choose "
            f"another one with {flag}"
        )


def remove_temporaries(folder: Path, name: str = "") -> None:
    """Remove what a killed process has left of files and folders that it was writing into `folder`; with a
    `name`, of those alone that were to have it."""
    for path in folder.glob(f".{glob_escape(name[:40])}*.tmp"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def require_regular(path: Path) -> None:
    """Raise `OSError` for what is not a file on a disk: a device or a pipe may never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))


def require_inside(path: Path) -> None:
    """Raise `OSError` for a link that leads out of the folder that the file stands in: what is there belongs
    to something else. The folder itself may be a link."""
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        raise OSError(errno.EPERM, "it is a link that leads out of its folder", str(path))


def read_inside(path: Path) -> bytes:
    """The content of a file on a disk, in its own folder; raises `OSError` for anything else."""
    require_inside(path)
    return read_regular(path)


def read_regular(path: Path) -> bytes:
    """The content of a file on a disk; raises `OSError` for anything else."""
    require_regular(path)
    return path.read_bytes()


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file on a disk, in hexadecimal; raises `OSError` for anything else."""
    require_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_text(text: str) -> str:
    """SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _temporary_name(path: Path) -> Path:
    """A new hidden name beside `path`. Random, as a process number is often the same in every container."""
    return path.parent / f".{path.name[:40]}.{secrets.token_hex(4)}.tmp"


def _sync_descriptor(descriptor: int) -> None:
    if _FULL_SYNC is not None:
        # On macOS fsync leaves the data in the drive's own cache.
        with suppress(OSError):
            fcntl.fcntl(descriptor, _FULL_SYNC)
            return
    os.fsync(descriptor)


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} appears twice")
    return document


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
