"""Reporting to Weights & Biases, offline: what the run's own metrics say, and nothing where it is refused."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import wandb
from support.training_data import small_model, write_text

from parambudget.cli.main import main
from parambudget.training.loggers.trackers import TrackedRun, track_steps
from parambudget.training.loggers.wandb_logger import WandbTracker
from parambudget.training.metrics import StepMetrics

SETTINGS = [
    "--data", "text", "--batch_size", "2", "--gradient-accumulation-steps", "1", "--device", "cpu",
    "--steps", "2", "--out", "run",
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in os.environ:
        if name.startswith("WANDB"):
            monkeypatch.delenv(name)
    wandb.teardown()  # it keeps the settings of its first use in a process, which another test may have been
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "text")
    (tmp_path / "config.json").write_text(json.dumps({"model": small_model().model_dump()}))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def reports_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def step(number: int) -> StepMetrics:
    return StepMetrics(
        step=number, loss=1.0, lr=0.1, grad_norm=1.0, skipped=False, tokens=8 * number,
        tokens_per_second=1.0, mfu=None,
    )  # fmt: skip


def test_a_run_is_reported_offline(here, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    # It advertises Weave wherever a package such as mcp is imported, which another test may have done.
    monkeypatch.setenv("WANDB_DISABLE_WEAVE", "true")
    monkeypatch.setattr(
        sys, "argv", ["parambudget", "train", "config.json", *SETTINGS, "--wandb", "a-project"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().err == ""
    (report,) = reports_of(here / "run")
    names, wait_until = (b"a-project", b"val_bits_per_byte", b"tokens_per_second"), time.monotonic() + 30
    # Its service writes the file, and may do so after `finish` returns.
    while not all(name in report.read_bytes() for name in names) and time.monotonic() < wait_until:
        time.sleep(0.1)
    assert [name for name in names if name not in report.read_bytes()] == []


def track(out: Path, on_step=print):
    tools = {"Weights & Biases": lambda tracked, _: WandbTracker.open("a-project", tracked)}
    return track_steps(on_step, TrackedRun(out, {}), tools, pytest.fail)


def test_a_resume_is_reported_under_the_same_name(here, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    seen: list[StepMetrics] = []
    for number in (1, 2):
        with track(here, seen.append) as on_step:
            on_step(step(number))
    assert seen == [step(1), step(2)]
    assert len({report.name for report in reports_of(here)}) == 1


def test_a_run_that_makes_no_step_leaves_nothing(here):
    with pytest.raises(RuntimeError, match="refused"), track(here):
        raise RuntimeError("refused")
    assert not (here / "wandb").exists()


def test_without_an_account_nothing_is_begun(here):
    code = "from parambudget.cli.main import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, "train", "config.json", *SETTINGS, "--wandb", "a-project"],
        cwd=here, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert "--wandb found no account; run wandb login, or set WANDB_MODE=offline" in ran.stderr
    assert not (here / "run").exists()
