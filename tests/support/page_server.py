"""A process that serves the page, for the tests that need one."""

import os
import re
import signal
import subprocess
import sys


def start_server(*arguments, folder=None):
    """A server of the page on a free port, and the address that it has printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    process = subprocess.Popen(
        [sys.executable, "-m", "parambudget", "explore", "--no-open", "--port", "0", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder,
    )  # fmt: skip
    line = process.stdout.readline()
    match = re.search(r"http://[^\s?]+/", line)
    assert match, line + process.communicate(timeout=30)[1]
    return process, match[0]


def stop_server(process):
    """Interrupt it as Ctrl-C does; its exit code and what it still printed."""
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=60)
    return process.returncode, *printed
