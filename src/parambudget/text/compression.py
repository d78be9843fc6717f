"""Compressed files, told by their first bytes and read as a stream: never the whole of one is in memory.

Python brings gzip, xz and bzip2; zstd needs the package `zstandard`, which is imported on demand.
"""

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

from parambudget._install import require_packages
from parambudget.errors import InputError

Compression = Literal["gzip", "xz", "bzip2", "zstd"]
_MAGIC: Final[dict[Compression, re.Pattern[bytes]]] = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "bzip2": re.compile(rb"BZh[1-9]1AY&SY"),
    # The second is a frame to be skipped, with which pzstd begins.
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", re.DOTALL),
}
_FED_BYTES: Final = 4_096
"""Given to zstd at once: a few bytes may stand for 128 KiB."""
_PROBED_BYTES: Final = 4_000_000


def compression_of(head: bytes) -> Compression | None:
    """How a file that begins with `head` is compressed."""
    return next((name for name, magic in _MAGIC.items() if magic.match(head)), None)


@contextmanager
def open_bytes(path: Path, compression: Compression | None) -> Iterator[BinaryIO]:
    """The content of a file, unpacked while it is read. A damaged one is named in one line."""
    with path.open("rb") as file, _damage_errors(path, compression):
        yield _unpack(file, path, compression)


@contextmanager
def _damage_errors(path: Path, compression: Compression | None) -> Iterator[None]:
    try:
        yield
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"{path} is damaged or cut short ({error}); get it again") from None
    except OSError as error:
        # gzip and bzip2 report damage as an OSError that no system call has caused.
        if compression is None or error.errno is not None:
            raise
        raise InputError(f"{path} is damaged ({error}); get it again") from None


def _unpack(file: BinaryIO, path: Path, compression: Compression | None) -> BinaryIO:
    if compression is None:
        return file
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if compression == "xz":
        return cast(BinaryIO, lzma.LZMAFile(file))
    if compression == "bzip2":
        return cast(BinaryIO, bz2.BZ2File(file))
    require_packages(f"reading {path}", ["zstandard"], ["data", "train"])
    return io.BufferedReader(_ZstdStream(file), 2**17)


class _ZstdStream(io.RawIOBase):
    """Frames of zstd one after another. Its own reader, because that of `zstandard` takes a file that was cut
    short for a whole one."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard

        self._new_frame = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj
        self._error = zstandard.ZstdError
        self._file = file
        self._frame: Any = None
        self._packed, self._unpacked, self._position = b"", b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._position == len(self._unpacked):
            self._packed = self._packed or self._file.read(_FED_BYTES)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the last frame is not complete")
                return 0
            self._unpacked, self._position = self._next_block(), 0
        n = min(len(buffer), len(self._unpacked) - self._position)
        buffer[:n] = self._unpacked[self._position : self._position + n]
        self._position += n
        return n

    def _next_block(self) -> bytes:
        if self._frame is None:
            self._frame = self._new_frame()
        try:
            unpacked = self._frame.decompress(self._packed)
        except self._error as error:
            raise EOFError(str(error)) from None
        self._packed = b""
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None
        return bytes(unpacked)


def unpacked_bytes(path: Path, compression: Compression | None) -> int:
    """Bytes of the content: exact for small files, else estimated from how well the beginning is packed."""
    size = path.stat().st_size
    if compression is None:
        return size
    n_bytes = 0
    with path.open("rb") as raw, _damage_errors(path, compression):
        file = _unpack(raw, path, compression)
        while n_bytes < _PROBED_BYTES:
            block = file.read(_PROBED_BYTES // 4)
            if not block:
                return n_bytes
            n_bytes += len(block)
        return max(n_bytes, round(n_bytes * size / max(1, raw.tell())))


def count_bytes(path: Path, compression: Compression | None) -> int:
    """Bytes of the content, exactly: a compressed file is read to its end."""
    if compression is None:
        return path.stat().st_size
    n_bytes = 0
    with open_bytes(path, compression) as file:
        while block := file.read(_PROBED_BYTES):
            n_bytes += len(block)
    return n_bytes
