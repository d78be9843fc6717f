"""Work of some seconds shows on a terminal that it goes on, and leaves nothing behind."""

import os
import pty
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("command", "text", "code"),
    [
        (["solve", "--target", "350M", "--json"], "searching", 0),
        (["solve", "--target", "7"], "searching", 2),
        (["report", "gpt2", "--target", "100M", "--gpu", "h100", "--json"], "searching, planning", 0),
        (["ladder", "plan", "--hours", "0.1", "--gpu", "h100", "-o", "ladder"], "choosing runs", 2),
    ],
)
def test_a_terminal_is_told_and_a_pipe_is_not(command, text, code, tmp_path):
    whole = [sys.executable, "-m", "parambudget", *command]
    terminal, standard_error = pty.openpty()
    with (
        (tmp_path / "out.txt").open("w") as out,
        subprocess.Popen(
            whole, stdout=out, stderr=standard_error, cwd=tmp_path,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        ) as process,
    ):  # fmt: skip
        os.close(standard_error)
        shown = read_all(terminal)
    printed = (tmp_path / "out.txt").read_text()
    assert process.returncode == code
    assert text in shown
    after = shown.rpartition("\x1b[2K")[2]  # the line is erased, and what follows is on no other one
    piped = subprocess.run(whole, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (printed, after.replace("\r\n", "\n")) == (piped.stdout, piped.stderr)


def read_all(terminal):
    """What is written to a terminal until nobody has it open any more."""
    parts = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # as Linux says that it is over
            part = b""
        if not part:
            os.close(terminal)
            return b"".join(parts).decode()
        parts.append(part)
