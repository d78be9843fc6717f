"""A run that is killed by real signals and then gone on with ends as if nothing had happened."""

import json
import multiprocessing
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.processes import run_command, train_in
from support.training_data import small_model, write_text

from parambudget.training.checkpoint import files
from parambudget.training.metrics import list_checkpoints
from parambudget.training.run.signals import handle_stop_signals

SETTINGS = {"steps": 40, "save_every": 2, "eval_every": 10, "keep": 2}
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """New processes that need not import torch: the server that they are forked from has done it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["parambudget.training.loop", "torch._dynamo"])
    return context


@pytest.fixture(scope="module")
def start(processes, tmp_path_factory) -> Callable[..., multiprocessing.Process]:
    """Starts a run in a new process."""
    text = tmp_path_factory.mktemp("text")

    def start(out: Path, **settings) -> multiprocessing.Process:
        limit = settings.pop("largest_file", None)
        process = processes.Process(target=train_in, args=(out, text, SETTINGS | settings, limit))
        process.start()
        return process

    return start


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory) -> tuple[Path, float]:
    """A run that nobody killed, and its seconds."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finished(start(out.with_name("first")))  # the first process also makes the tokens
    started = time.perf_counter()
    finished(start(out))
    return out, time.perf_counter() - started


def finished(process: multiprocessing.Process) -> None:
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 0, "see the run's -error.txt"


def outcome_of(out: Path) -> tuple[list[dict], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    last = out / f"checkpoints/step-{SETTINGS['steps']}"
    files.read_state(last)
    weights, optimizer = (load_file(last / f"{name}.safetensors") for name in ("model", "optimizer"))
    return [row | {"tokens_per_second": 0} for row in rows], weights, optimizer


def assert_same_outcome(out: Path, whole: Path) -> None:
    (rows, *mine), (whole_rows, *others) = outcome_of(out), outcome_of(whole)
    assert rows == whole_rows
    for tensors, other in zip(mine, others, strict=True):
        assert tensors.keys() == other.keys()
        assert all(torch.equal(tensors[name], other[name]) for name in tensors)
    assert not list(out.rglob(".*"))


def killed_and_gone_on_with(start, out: Path, whole: tuple[Path, float], seed: int) -> bool:
    """Kill a run at a random moment, go on, compare; whether the kill left a checkpoint half written."""
    process = start(out)
    time.sleep(random.Random(seed).uniform(0, whole[1]))
    process.kill()
    process.join()
    torn = bool(list(out.glob("checkpoints/.unfinished-*")))
    finished(start(out))
    assert_same_outcome(out, whole[0])
    return torn


@pytest.mark.parametrize("seed", range(10))
def test_sigkill_at_a_random_moment_loses_nothing(start, whole, tmp_path, seed):
    killed_and_gone_on_with(start, tmp_path / "run", whole, seed)


@pytest.mark.slow
def test_sixty_kills_lose_nothing(start, whole, tmp_path, capsys):
    torn = [killed_and_gone_on_with(start, tmp_path / str(seed), whole, seed) for seed in range(1_000, 1_060)]
    with capsys.disabled():
        sys.stdout.write(f"{len(torn)} kills and resumes, all bit-identical; {sum(torn)} tore a save\n")
    assert any(torn), "no kill hit a save"


def test_kills_one_after_another_lose_nothing(start, whole, tmp_path):
    draw = random.Random(0)
    for _ in range(6):
        process = start(tmp_path / "run")
        time.sleep(draw.uniform(0.2, 1) * whole[1])
        process.kill()
        process.join()
    finished(start(tmp_path / "run"))
    assert_same_outcome(tmp_path / "run", whole[0])


# A full disk


def test_a_disk_too_small_for_a_checkpoint_ends_in_one_line_and_keeps_the_rows(start, tmp_path):
    process = start(tmp_path / "run", largest_file=50_000)
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 1
    error = (tmp_path / "run-error.txt").read_text()
    assert re.fullmatch(
        r"cannot save .*step-40: .*File too large.*; there is no checkpoint yet; free .*\n", error
    )
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == SETTINGS["steps"]
    assert not list((tmp_path / "run/checkpoints").iterdir())


def test_a_disk_that_was_full_for_a_while_costs_nothing(start, whole, tmp_path):
    out = tmp_path / "run"
    process = start(out)
    while not (out / "checkpoints/step-4").exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    newest = list_checkpoints(out / "checkpoints")[0]
    full = start(out, largest_file=50_000)
    full.join(PATIENCE_SECONDS)
    assert full.exitcode == 1
    files.read_state(newest)
    finished(start(out))
    assert_same_outcome(out, whole[0])


def test_rows_that_the_disk_refused_are_written_when_there_is_room(start, whole, tmp_path):
    """The limit is reached by metrics.jsonl too, in the middle of a row."""
    out = tmp_path / "run"
    full = start(out, largest_file=4_000)
    full.join(PATIENCE_SECONDS)
    assert full.exitcode == 1
    text = (out / "metrics.jsonl").read_text()
    assert text.endswith("}\n")
    assert 0 < len(text) <= 4_000
    finished(start(out))
    assert_same_outcome(out, whole[0])


# Signals to the command


@pytest.fixture
def command(tmp_path) -> list[str]:
    config = {
        "model": small_model().model_dump(),
        "train": {"steps": 100_000, "batch_size": 2, "gradient_accumulation_steps": 1, "save_every": 1_000},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_text(tmp_path / "text")
    return ["train", "config.json", "--data", "text", "--out", "run", "--device", "cpu"]


@pytest.fixture
def begun(processes, command, tmp_path) -> Callable[..., multiprocessing.Process]:
    """Starts the command, and returns once its first row is there."""

    def begin(*more: str) -> multiprocessing.Process:
        process = processes.Process(target=run_command, args=([*command, *more], tmp_path))
        process.start()
        until = time.monotonic() + PATIENCE_SECONDS
        rows = tmp_path / "run/metrics.jsonl"
        while not (rows.exists() and rows.stat().st_size) and process.is_alive() and time.monotonic() < until:
            time.sleep(0.02)
        return process

    return begin


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP"])
def test_a_signal_saves_at_the_step_boundary_and_prints_how_to_go_on(begun, command, tmp_path, name):
    process = begun()
    os.kill(process.pid, signal.Signals[name])
    process.join(PATIENCE_SECONDS)
    error = (tmp_path / "err.txt").read_text()
    assert process.exitcode == 0, error
    again = shlex.join(["parambudget", *command, "--resume"])
    last = error.splitlines()[-1]  # before it, the text is said to be read very often
    match = re.fullmatch(rf"parambudget: stopped by {name} after step (\d+); continue with: {again}", last)
    assert match, error
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["finished"], summary["steps"]) == (False, int(match[1]))
    assert files.read_state(tmp_path / "run/checkpoints" / f"step-{match[1]}").step == int(match[1])
    assert f"step-{match[1]}" in (tmp_path / "out.txt").read_text()


def test_a_hangup_that_was_ignored_from_the_start_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handle_stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with handle_stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal_name == "SIGHUP"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_interrupt_stops_at_once(command, tmp_path):
    """Both come between micro-steps of one update, from the process itself: one from outside may meet the
    boundary of an update, where the run saves."""
    start = "import os, signal\nfrom pathlib import Path\n"
    start += "from parambudget.cli.main import main\nimport parambudget.training.loop as loop\n"
    start += "whole, rows = loop.accumulate_gradients, Path('run/metrics.jsonl')\n"
    start += "def accumulate(loss_fn, batches, *more):\n"
    start += "    def interrupted():\n"
    start += "        for number, batch in enumerate(batches):\n"
    start += "            if number in (3, 4) and rows.exists() and rows.stat().st_size:\n"
    start += "                os.kill(os.getpid(), signal.SIGINT)\n"
    start += "                print('interrupt', number, flush=True)\n"
    start += "            yield batch\n"
    start += "    return whole(loss_fn, interrupted(), *more)\n"
    start += "loop.accumulate_gradients = accumulate\nmain()"
    whole = [sys.executable, "-c", start, *command, "--gradient-accumulation-steps", "10"]
    ended = subprocess.run(
        whole, cwd=tmp_path, text=True, capture_output=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.splitlines()[-1] == "parambudget: interrupted"
    assert "interrupt 3\n" in ended.stdout
    assert not list((tmp_path / "run/checkpoints").iterdir())


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 0), ("SIGUSR1", 0), ("SIGINT", 130)])
def test_a_signal_before_the_first_update_is_one_line_and_leaves_nothing(command, tmp_path, name, code):
    """While torch is imported, or while the tokenizer is trained: the cache is empty."""
    start = "from parambudget.cli.main import main\n"
    start += "import parambudget.cli.train as train\nrun = train._run\n"
    start += "def begin(*given, **named):\n    print('begun', flush=True)\n    run(*given, **named)\n"
    start += "train._run = begin\nmain()"
    process = subprocess.Popen(
        [sys.executable, "-c", start, *command], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "empty")},
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    os.kill(process.pid, signal.Signals[name])
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    again = shlex.join(["parambudget", *command])
    told = (
        f"stopped by {name} before the first update; start it with: {again}" if code == 0 else "interrupted"
    )
    assert (process.returncode, out, err) == (code, "", f"parambudget: {told}\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_process_that_waits_for_the_others_says_so_and_can_be_stopped(command, tmp_path, name):
    """Python does not see a signal while torch waits."""
    start = "import parambudget.training.distributed as distributed\n"
    start += "distributed.QUIET_WAIT_SECONDS = 0.1\n"
    start += "from parambudget.cli.main import main\nmain()"
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    alone = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-c", start, *command], cwd=tmp_path, text=True, stderr=subprocess.PIPE,
        env={**os.environ, **alone},
    )  # fmt: skip
    told = process.stderr.readline()
    os.kill(process.pid, signal.Signals[name])
    _, more = process.communicate(timeout=PATIENCE_SECONDS)
    assert told.startswith(f"parambudget: waiting at localhost:{port} for the others of 2 processes")
    assert (process.returncode, more) == (-signal.Signals[name], "")
    assert not (tmp_path / "run").exists()


def test_a_disk_too_small_for_any_file_leaves_no_folder(processes, command, tmp_path):
    def begun(out, limit):
        arguments = [*command, "--steps", "1", "--out", out]
        return processes.Process(target=run_command, args=(arguments, tmp_path, 0, None, limit))

    for out, limit, code in (("first", None, 0), ("second", 500, 2)):
        process = begun(out, limit)
        process.start()
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == code, (tmp_path / "err.txt").read_text()
    assert "second/config.json: File too large; nothing was written" in (tmp_path / "err.txt").read_text()
    assert not (tmp_path / "second").exists()
