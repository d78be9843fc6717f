"""Output that is closed, full or gone: training goes on, other commands say so in one line."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.training_data import small_model, write_text

from parambudget.cli.main import main

COMMAND = shlex.join([sys.executable, "-m", "parambudget"])
SETTINGS = ["--steps", "2", "--batch-size", "2", "--gradient-accumulation-steps", "1", "--device", "cpu"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    write_text(tmp_path / "text")
    (tmp_path / "config.json").write_text(json.dumps({"model": small_model().model_dump()}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def gone_terminal() -> int:
    master, slave = os.openpty()
    os.close(master)
    return slave


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("console", [closed_pipe, gone_terminal, full_disk])
@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        (["train", "config.json", "--data", "text", "--out", "out", *SETTINGS], "summary.json"),
        (
            ["data", "prepare", "text", "--tokenizer", "bpe", "--vocab-size", "300", "-o", "out"],
            "manifest.json",
        ),
    ],
    ids=["train", "prepare"],
)
def test_work_goes_on_whatever_the_console_is(
    here: Path, monkeypatch, console: Callable[[], int], arguments: list[str], result: str
):
    with os.fdopen(console(), "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["parambudget", *arguments])
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    assert (here / "out" / result).is_file()


@pytest.mark.parametrize(
    ("line", "code", "error"),
    [
        ("count gpt2 >&-", 2, "parambudget: standard output is closed, so "),
        ("count gpt2 --json >&-", 2, "parambudget: standard output is closed, so "),
        ("count gpt2 2>&-", 0, ""),
        ("count nothing 2>&-", 2, ""),
        ("count gpt2 >/dev/full", 2, "parambudget: [Errno 28] No space left on device; check the free space"),
        ("count nothing 2>/dev/full", 2, ""),
        ("count gpt2 | true", 0, ""),
    ],
)
def test_a_stream_that_takes_nothing_is_at_most_one_line(tmp_path, line, code, error):
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{COMMAND} {line}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == code
    assert ran.stderr.startswith(error)
    assert ran.stderr.count("\n") == bool(error)


def test_training_without_any_stream_goes_on_and_writes_to_no_file_of_its_own(here):
    arguments = ["train", "config.json", "--data", "text", "--out", "run", *SETTINGS]
    ran = subprocess.run(
        ["bash", "-c", f"{COMMAND} {shlex.join(arguments)} <&- >&- 2>&-"], cwd=here, timeout=120
    )
    assert ran.returncode == 0
    assert len((here / "run/metrics.jsonl").read_text().splitlines()) == 2
    assert json.loads((here / "run/summary.json").read_text())["finished"]
