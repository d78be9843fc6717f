"""Two processes train one model as one process does, and a run goes on with more or fewer of them."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping
from multiprocessing import Process
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_data import small_config, small_model, write_text
from training_process import run_command

from parambudget.errors import InputError
from parambudget.train.checkpoint import read_state
from parambudget.train.distributed import Ranks

PATIENCE_SECONDS = 120
NOTHING: Mapping[str, str] = {}
MUON_BAND = 1e-4
"""Relative difference of losses over eight updates; 3e-6 was measured: docs/distributed.md."""
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
def begun(processes, folder) -> Callable[..., list[Process]]:
    """Starts the command in some processes, as torchrun would; the `last` one may have an environment of its
    own."""

    def begin(
        n_processes: int, out: str, *more: str, last: Mapping[str, str] = NOTHING, config: str = "config.json"
    ) -> list[Process]:
        command = ["train", config, "--data", "text", "--device", "cpu", "--out", out, *more]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started = []
        for rank in range(n_processes):
            environment = {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n_processes),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            } | (last if rank == n_processes - 1 else {})  # fmt: skip
            process = processes.Process(target=run_command, args=(command, folder, rank, environment))
            process.start()
            started.append(process)
        return started

    return begin


@pytest.fixture(scope="module")
def trained(begun) -> Callable[..., list[int | None]]:
    """Runs the command in some processes to the end; their exit codes."""

    def train(n_processes: int, out: str, *more: str, **how: Any) -> list[int | None]:
        started = begun(n_processes, out, *more, **how)
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


@pytest.fixture(scope="module")
def shared(trained, folder) -> Path:
    """The run of two processes that each hold a part of the model."""
    assert trained(2, "shared", "--shard") == [0, 0]
    return folder / "shared"


def test_a_model_that_is_shared_out_has_the_losses_of_one_process(shared, alone):
    assert_same_within_float32(shared, alone)


def test_recomputed_blocks_and_logits_in_parts_are_shared_out_too(trained, folder):
    config = json.loads((folder / "config.json").read_text())
    config["model"]["tied"] = False
    config["train"] |= {"gradient_checkpointing": True, "loss_chunks": 2, "z_loss": 1e-4}
    (folder / "other.json").write_text(json.dumps(config))
    for n_processes, more in ((1, []), (2, ["--shard"])):
        assert trained(n_processes, f"other-{n_processes}", *more, config="other.json") == [0] * n_processes
    assert_same_within_float32(folder / "other-2", folder / "other-1")


def test_a_checkpoint_of_several_processes_is_the_files_of_one(shared, alone):
    """Whole tensors in safetensors files, each with its hash, and nothing else: none of it can run code."""
    mine, other = (
        sorted(path.name for path in (run / "checkpoints/step-8").iterdir()) for run in (shared, alone)
    )
    assert mine == other
    for step in (4, 8):
        for name in ("model.safetensors", "optimizer.safetensors"):
            tensors, others = (load_file(run / f"checkpoints/step-{step}" / name) for run in (shared, alone))
            assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in others.items()}
    assert read_state(shared / "checkpoints/step-8")["surroundings"]["shard"] is True
    assert not list((shared / "checkpoints").glob(".*"))


@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_shared_out_run_goes_on_alone_and_one_of_its_own_shared_out(
    trained, folder, alone, shared, n_processes
):
    out = folder / f"shared-now-{n_processes}"
    shutil.copytree(shared if n_processes == 1 else alone, out)
    shutil.rmtree(out / "checkpoints/step-8")
    more = ["--shard"] if n_processes == 2 else []
    assert trained(n_processes, out.name, "--resume", *more) == [0] * n_processes
    assert_same_within_float32(out, alone)


@pytest.mark.parametrize("more", [[], ["--shard"]], ids=["copied", "shared out"])
def test_muon_on_two_processes_stays_within_a_band(trained, folder, more):
    """Its iteration is in bfloat16, 8 bits: other sums of gradients are other updates in the third digit."""
    runs = []
    for n_processes, flags in ((1, []), (2, more)):
        out = f"muon-{n_processes}-{len(more)}"
        assert trained(n_processes, out, "--optimizer", "muon", *flags) == [0] * n_processes
        runs.append([row["loss"] for row in rows_of(folder / out)])
    assert runs[1] == pytest.approx(runs[0], rel=MUON_BAND)
    assert runs[1][0] == pytest.approx(runs[0][0], rel=1e-6)


def test_a_shared_out_run_that_is_killed_goes_on_from_its_last_whole_checkpoint(
    begun, trained, folder, alone
):
    """Both processes at once, at moments of which some fall into a save."""
    draw = random.Random(0)
    for _ in range(3):
        started = begun(2, "killed", "--shard", "--resume", "--save-every", "1")
        until = time.monotonic() + PATIENCE_SECONDS
        rows = folder / "killed/metrics.jsonl"
        seen = rows.stat().st_size if rows.exists() else 0
        while not (rows.exists() and rows.stat().st_size > seen) and time.monotonic() < until:
            if all(process.exitcode is not None for process in started):
                break
            time.sleep(0.005)
        time.sleep(draw.random() * 0.1)
        for process in started:
            process.kill()
            process.join()
    assert trained(2, "killed", "--shard", "--resume", "--save-every", "4") == [0, 0]
    assert_same_within_float32(folder / "killed", alone)
    assert not list((folder / "killed/checkpoints").glob(".*"))


def test_a_disk_that_is_full_for_one_process_is_told_and_hangs_nobody(trained, folder):
    """The last process cannot write its rows: no checkpoint is whole, and the run says so at its end."""
    codes = trained(2, "full", "--shard", last={"LARGEST_FILE": "4096"})
    said = (folder / "err.txt").read_text()
    assert codes == [2, 0]
    assert "cannot save full/checkpoints/step-4: " in said
    assert "training goes on and the next save tries again" in said
    assert said.splitlines()[-1].startswith("parambudget: cannot save full/checkpoints/step-8: ")
    assert len(rows_of(folder / "full")) == 8
    assert list((folder / "full/checkpoints").iterdir()) == []


def test_one_process_has_nobody_to_share_with(trained, folder):
    assert trained(1, "lonely", "--shard") == [2]
    said = (folder / "err.txt").read_text()
    assert said.startswith(
        "parambudget: --shard shares the model out among several processes and there is one"
    )
    assert not (folder / "lonely").exists()


def test_micro_steps_that_cannot_be_shared_out_are_refused():
    with pytest.raises(InputError, match="gradient_accumulation_steps=3 cannot be shared out evenly among 2"):
        Ranks(0, 2).require_even(small_config(gradient_accumulation_steps=3))
