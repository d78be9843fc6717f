"""The runs of a ladder in real processes: killed and gone on with, and shared by two at once."""

import json
import multiprocessing
import os
import signal
import time

import pytest
from support.finished_ladder import document_of
from support.processes import run_command
from support.training_data import small_config, small_data, small_model, write_text

from parambudget.ladders.design import Rung
from parambudget.ladders.ladder_file import RungEntry, run_path, write_ladder
from parambudget.training.metrics import TrainResult, read_metrics

STEPS = 16
PATIENCE_SECONDS = 240
LINE = ["ladder", "run", "ladder", "--device", "cpu"]


@pytest.fixture(scope="module")
def processes():
    """New processes that need not import torch: the server that they are forked from has done it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["parambudget.ladders.run", "torch._dynamo"])
    return context


@pytest.fixture
def folder(tmp_path):
    """A folder with a ladder of four tiny runs, whose tokens are in its cache."""
    text = write_text(tmp_path / "text")
    data = small_data(tmp_path)
    (tmp_path / "cache" / "parambudget").mkdir()
    (tmp_path / "cache" / "tokens").rename(tmp_path / "cache" / "parambudget" / "tokens")
    rungs = {
        f"r{seed}": Rung(small_model(), small_config(seed=seed, steps=STEPS, eval_every=STEPS, save_every=2))
        for seed in range(4)
    }
    entries = [
        RungEntry(name, rung.n_parameters, rung.tokens, seed, 1.0, None)
        for seed, (name, rung) in enumerate(rungs.items())
    ]
    document = document_of(
        entries, data=str(text), tokens_sha256=data.tokens_sha256, corpus_sha256=data.sha256,
        context_length=16,
    )  # fmt: skip
    write_ladder(tmp_path / "ladder", document, rungs)
    return tmp_path


def start(processes, folder, rank=0):
    process = processes.Process(target=run_command, args=(LINE, folder, rank))
    process.start()
    return process


def finish(process):
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 0


def runs_of(folder):
    return [run_path(folder / "ladder", f"r{seed}") for seed in range(4)]


def test_a_ladder_that_is_killed_goes_on_with_the_same_line(processes, folder):
    process, second = start(processes, folder), runs_of(folder)[1] / "checkpoints"
    until = time.monotonic() + PATIENCE_SECONDS
    while not list(second.glob("step-*")):
        assert process.is_alive(), (folder / "err.txt").read_text()
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == -signal.SIGKILL
    first = (runs_of(folder)[0] / "summary.json").read_bytes()
    assert not (runs_of(folder)[2]).exists()
    finish(start(processes, folder))
    assert (runs_of(folder)[0] / "summary.json").read_bytes() == first  # not trained a second time
    losses = set()
    for out in runs_of(folder):
        result = TrainResult.read(out)
        assert (result.finished, result.steps) == (True, STEPS)
        assert read_metrics(out).count(b"\n") == STEPS
        losses.add(result.val_loss)
    assert len(losses) == 4


def test_two_processes_share_the_runs_and_train_none_twice(processes, folder):
    both = [start(processes, folder, rank) for rank in range(2)]
    for process in both:
        finish(process)
    said = [(folder / name).read_text() for name in ("out.txt", "out-1.txt")]
    trained = [[f"training rung {n} of 4" in text for n in range(1, 5)] for text in said]
    assert all(TrainResult.read(out).finished for out in runs_of(folder))
    assert [first + second for first, second in zip(*trained, strict=True)] == [1, 1, 1, 1], said
    rows = [json.loads(line) for line in read_metrics(runs_of(folder)[0]).splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
