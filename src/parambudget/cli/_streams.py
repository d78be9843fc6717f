"""Standard output and error that stay usable whatever becomes of the terminal, the pipe or the log."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from parambudget.errors import InputError


class ClosedOutput(io.TextIOBase):
    """A standard output that was closed before this process began: `parambudget ... >&-`."""

    def write(self, text: str) -> int:
        """Refuse the text in one line."""
        raise InputError(
            f"standard output is closed, so {len(text):,} characters cannot be printed; redirect it to a "
            "file, or to /dev/null"
        )


class LossyStream:
    """A stream of which is lost what cannot be written: long work does not end because nobody reads it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text, or lose it."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what was written; what cannot be flushed now is tried again with the next text."""
        with suppress(OSError, ValueError):
            self._stream.flush()


@contextmanager
def lossy_output() -> Iterator[None]:
    """In here, nothing that becomes of standard output and error is an error."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, LossyStream(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            discard_unwritten(stream)


def discard_unwritten(stream: TextIO) -> None:
    """Flush the stream, or let Python's own flush at the exit go nowhere."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def replace_closed_streams() -> None:
    """Give streams that this process was started without a place: files that are opened later would get
    their numbers, and what other libraries print."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if name == "stdout":
            sys.stdout = ClosedOutput()
        elif name == "stderr":
            sys.stderr = io.StringIO()
