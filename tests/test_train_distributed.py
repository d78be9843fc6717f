"""Two processes train one model as one process does, and a run goes on with more or fewer of them."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_data import small_config, small_model, write_text
from training_process import run_command

from parambudget.errors import InputError
from parambudget.train.checkpoint import read_state
from parambudget.train.distributed import Ranks

PATIENCE_SECONDS = 120
SETTINGS = {
    "steps": 8, "save_every": 4, "eval_every": 4, "batch_size": 2, "gradient_accumulation_steps": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """New processes that need not import torch: the server that they are forked from has done it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["parambudget.train.loop", "torch._dynamo"])
    return context


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A config file and its text."""
    folder = tmp_path_factory.mktemp("runs")
    write_text(folder / "text")
    config = {"model": small_model().model_dump(), "train": small_config(**SETTINGS).model_dump()}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def begun(processes, folder) -> Callable[..., list[multiprocessing.Process]]:
    """Starts the command in some processes, as torchrun would."""

    def begin(n_processes: int, out: str, *more: str) -> list[multiprocessing.Process]:
        command = ["train", "config.json", "--data", "text", "--device", "cpu", "--out", out, *more]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started = []
        for rank in range(n_processes):
            environment = {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n_processes),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
            process = processes.Process(target=run_command, args=(command, folder, rank, environment))
            process.start()
            started.append(process)
        return started

    return begin


@pytest.fixture(scope="module")
def trained(begun) -> Callable[..., list[int | None]]:
    """Runs the command in some processes to the end; their exit codes."""

    def train(n_processes: int, out: str, *more: str) -> list[int | None]:
        started = begun(n_processes, out, *more)
        for process in started:
            process.join(PATIENCE_SECONDS)
        return [process.exitcode for process in started]

    return train


@pytest.fixture(scope="module")
def alone(trained, folder) -> Path:
    """The run of one process."""
    assert trained(1, "alone") == [0]
    return folder / "alone"


@pytest.fixture(scope="module")
def together(trained, folder) -> Path:
    """The same run of two processes."""
    assert trained(2, "together") == [0, 0]
    assert "8 updates" in (folder / "out.txt").read_text()
    assert (folder / "out-1.txt").read_text() == (folder / "err-1.txt").read_text() == ""
    return folder / "together"


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_same_within_float32(out: Path, alone: Path) -> None:
    """Sums of gradients in another order: 24 bits, and what eight updates make of it."""
    for name in ("loss", "grad_norm", "val_loss"):
        mine, other = ([row[name] for row in rows_of(run) if name in row] for run in (out, alone))
        assert mine == pytest.approx(other, rel=1e-5), name
    weights, others = (load_file(run / "checkpoints/step-8/model.safetensors") for run in (out, alone))
    torch.testing.assert_close(weights, others, rtol=1e-3, atol=1e-5)


def test_two_processes_have_the_losses_of_one(together, alone):
    assert_same_within_float32(together, alone)


@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_run_goes_on_with_another_number_of_processes(trained, folder, alone, together, n_processes):
    """From the checkpoint in the middle of the other run."""
    out = folder / f"now-{n_processes}"
    shutil.copytree(together if n_processes == 1 else alone, out)
    shutil.rmtree(out / "checkpoints/step-8")
    assert trained(n_processes, out.name, "--resume") == [0] * n_processes
    assert_same_within_float32(out, alone)
    there, here = 3 - n_processes, n_processes
    told = f"parambudget: the run goes on, but not bit for bit: processes {there} there and {here} here\n"
    assert (folder / "err.txt").read_text() == told


def test_a_signal_to_one_process_stops_all_at_the_same_step(begun, folder):
    started = begun(2, "stopped", "--steps", "100000")
    rows = folder / "stopped/metrics.jsonl"
    until = time.monotonic() + PATIENCE_SECONDS
    while not (rows.exists() and rows.stat().st_size) and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(started[1].pid, signal.SIGTERM)
    for process in started:
        process.join(PATIENCE_SECONDS)
    assert [process.exitcode for process in started] == [0, 0]
    summary = json.loads((folder / "stopped/summary.json").read_text())
    assert summary["finished"] is False
    state = read_state(folder / "stopped/checkpoints" / f"step-{summary['steps']}")
    assert state["step"] == len(rows_of(folder / "stopped"))


def test_micro_steps_that_cannot_be_shared_out_are_refused():
    with pytest.raises(InputError, match="gradient_accumulation_steps=3 cannot be shared out evenly among 2"):
        Ranks(0, 2).require_even(small_config(gradient_accumulation_steps=3))
