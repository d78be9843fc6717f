"""What any input may lead to: success, or exit 2 with one line; soon, and in little memory."""

import io
import resource
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from parambudget.cli.main import main

MOST_CHARACTERS = 500
MOST_SECONDS = 10
HANGS_AFTER_SECONDS = 60
"""Of the clock. Other processes use the machine too: its own seconds are held to `MOST_SECONDS`."""
MOST_BYTES = 2**30


def check_outcome(*arguments: object) -> None:
    """Run a command in this process. A finding, such as a model that does not fit, is a success here."""
    out, err = io.StringIO(), io.StringIO()
    words = [str(each) for each in arguments]
    with (
        patch.object(sys, "argv", ["parambudget", *words]), redirect_stdout(out), redirect_stderr(err),
        within_limits(), warnings.catch_warnings(),
    ):  # fmt: skip
        try:
            main()
        except SystemExit as end:
            code = end.code
    finds = words[0] == "plan" or "--expect" in words
    assert code in ((0, 1, 2) if finds else (0, 2)), (code, words, err.getvalue())
    if code == 2:
        *notes, error, rest = err.getvalue().split("\n")
        assert not rest
        assert all(note.startswith(("note: ", "warning: ")) for note in notes), err.getvalue()
        check_line(error)


def check_line(message: str) -> None:
    """A message for a person: one line that is neither empty nor long."""
    assert message
    assert len(message) < MOST_CHARACTERS, message
    assert message.isprintable(), message


@contextmanager
def within_limits() -> Iterator[None]:
    """Fail what hangs, computes for long or takes much memory."""
    started, memory = time.process_time(), _reset_peak()
    before = signal.signal(signal.SIGALRM, _fail_hanging)
    signal.alarm(HANGS_AFTER_SECONDS)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    # Before the machine suffers.
    resource.setrlimit(resource.RLIMIT_AS, (_bytes_of("VmSize") + 4 * MOST_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert time.process_time() - started < MOST_SECONDS
    assert _bytes_of("VmHWM") - memory < MOST_BYTES


class Hangs(BaseException):
    """No handler for ordinary errors catches it."""


def _fail_hanging(*_: Any) -> None:
    raise Hangs


def _reset_peak() -> int:
    """Let the peak of this process's memory begin now, at what is in use; that in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _bytes_of("VmHWM")


def _bytes_of(name: str) -> int:
    """A line of this process's status, which Linux gives in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


STATUS = ("reading the text", "choosing the settings", "timing updates", "building the model")
"""How the lines begin that say, where output is piped, what `train` is doing before its first update."""


def without_status(out: str) -> str:
    """Standard output without them: nothing, of a run that was refused."""
    return "".join(line for line in out.splitlines(keepends=True) if not line.startswith(STATUS))
