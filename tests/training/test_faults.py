"""The campaigns behind docs/reliability.md: slow, to be run by hand with `-m slow`."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.processes import train_in
from support.text_files import documents, write_jsonl
from support.training_data import small_config, small_model

from parambudget.errors import ParambudgetError
from parambudget.text.dataset import data_for
from parambudget.text.prepare import PrepareRequest, prepare
from parambudget.training import loop

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SETTINGS = {"steps": 6, "save_every": 2, "eval_every": 2}
FLIPS_PER_FILE = 10


def outcome_of(out: Path, last: int) -> tuple[list[dict], dict[str, torch.Tensor]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    tensors = {
        f"{name}/{key}": tensor
        for name in ("model", "optimizer")
        for key, tensor in load_file(out / f"checkpoints/step-{last}/{name}.safetensors").items()
    }
    return [row | {"tokens_per_second": 0} for row in rows], tensors


def is_same(out: Path, whole: Path, last: int) -> bool:
    (rows, mine), (whole_rows, others) = outcome_of(out, last), outcome_of(whole, last)
    return rows == whole_rows and all(torch.equal(mine[name], others[name]) for name in others)


def flip_a_bit(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def told(capsys, line: str) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{line}\n")


def test_a_flipped_bit_in_any_file_of_a_run_changes_nothing_silently(data, tmp_path, capsys):
    def train(out: Path, stop_after: int = 10**9) -> list[str]:
        notices: list[str] = []
        left = iter(range(stop_after, -1, -1))
        loop.train(
            loop.TrainJob(small_model(), small_config(**SETTINGS), data, out, resume=True),
            device="cpu", stop_requested=lambda: next(left, 0) == 0, on_notice=notices.append,
        )  # fmt: skip
        return notices

    whole, half = tmp_path / "whole", tmp_path / "half"
    train(whole)
    train(half, stop_after=4)
    names = sorted(str(path.relative_to(half)) for path in half.rglob("*") if path.is_file())
    draw, outcomes = random.Random(0), Counter[str]()
    for name in names:
        for _ in range(FLIPS_PER_FILE):
            run = Path(shutil.copytree(half, tmp_path / "run"))
            flip_a_bit(run / name, draw)
            notices, error = [], ""
            try:
                notices = train(run)
            except ParambudgetError as refusal:
                error = str(refusal)
            shown = "refused in one line" if error else "repaired" if notices else "not needed any more"
            outcomes[shown] += 1
            assert len(error) < 500, name
            assert "\n" not in error, name
            assert error or is_same(run, whole, 6), name
            assert error or notices or not name.startswith(("metrics", "checkpoints/step-4")), name
            shutil.rmtree(run)
    told(capsys, f"{FLIPS_PER_FILE} flips in each of {len(names)} files: {dict(outcomes)}")


def test_a_flipped_bit_in_any_file_of_prepared_data_is_named(tmp_path, capsys):
    source = write_jsonl(tmp_path / "a.jsonl", documents())
    prepare(PrepareRequest(str(source), "bpe", 300, validation=0.1), tmp_path / "out")
    draw, n_flips = random.Random(0), 0
    for path in sorted((tmp_path / "out").iterdir()):
        content = path.read_bytes()
        for _ in range(FLIPS_PER_FILE):
            flip_a_bit(path, draw)
            with pytest.raises(ParambudgetError) as caught:
                data_for(tmp_path / "out", 300)
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 500
            path.write_bytes(content)
            n_flips += 1
    data_for(tmp_path / "out", 300)
    told(capsys, f"{n_flips} flips, {n_flips} named")


# What needs processes of its own

LONG = {"steps": 40, "save_every": 2, "eval_every": 10, "keep": 2}


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["parambudget.training.loop", "torch._dynamo"])
    return context


def mount(*arguments: str | Path) -> None:
    """Mount a file system; the test is skipped where nobody may."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """A file-system image as a folder."""
    folder.mkdir(exist_ok=True)
    mount("-o", "loop", image, folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs ext4")
def test_a_power_cut_loses_no_checkpoint_and_no_row_of_one(processes, tmp_path, capsys):
    """The image of a mounted file system, copied while the run stands still, is what a power cut leaves:
    all that was not flushed is missing."""

    def start(out: Path) -> multiprocessing.Process:
        process = processes.Process(target=train_in, args=(out, tmp_path / "text", LONG))
        process.start()
        return process

    def finished(out: Path) -> None:
        process = start(out)
        process.join(120)
        assert process.exitcode == 0, (out.with_name(f"{out.name}-error.txt")).read_text()

    finished(tmp_path / "first")  # makes the tokens
    started = time.perf_counter()
    finished(tmp_path / "whole")
    seconds = time.perf_counter() - started
    draw, resumed = random.Random(0), Counter[str]()
    for n in range(12):
        image, copy = tmp_path / "disk.img", tmp_path / "copy.img"
        image.write_bytes(b"")
        os.truncate(image, 64 * 2**20)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        with mounted(image, tmp_path / "disk") as disk:
            process = start(disk / "run")
            time.sleep(draw.uniform(0.3, 1) * seconds)
            if process.is_alive():
                os.kill(process.pid, signal.SIGSTOP)
            shutil.copyfile(image, copy)
            process.kill()
            process.join()
        with mounted(copy, tmp_path / "again") as disk:
            saved = sorted((disk / "run/checkpoints").glob("step-*")) if (disk / "run").is_dir() else []
            finished(disk / "run")
            error = (disk / "run-error.txt").read_text()
            assert "is damaged: " not in error.replace("metrics.jsonl is damaged", ""), error
            assert is_same(disk / "run", tmp_path / "whole", LONG["steps"]), n
        resumed["from a checkpoint" if saved else "from the start"] += 1
    told(capsys, f"12 power cuts: {dict(resumed)}, all bit-identical")


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
@pytest.mark.parametrize("limit", ["size=600k", "nr_inodes=16"])
def test_a_full_disk_or_no_inodes_left_is_one_line_and_costs_nothing(processes, tmp_path, limit):
    (tmp_path / "disk").mkdir()
    mount("-t", "tmpfs", "-o", limit, "none", tmp_path / "disk")
    try:
        out = tmp_path / "disk/run"
        process = processes.Process(target=train_in, args=(out, tmp_path / "text", LONG | {"keep": 5}))
        process.start()
        process.join(120)
        error = (tmp_path / "disk/run-error.txt").read_text()
        assert process.exitcode == 1, error
        assert error.splitlines()[-1].startswith("cannot save "), error
        subprocess.run(["mount", "-o", "remount,size=64m,nr_inodes=1000", tmp_path / "disk"], check=True)
        for target in (out, tmp_path / "whole"):
            process = processes.Process(target=train_in, args=(target, tmp_path / "text", LONG))
            process.start()
            process.join(120)
            assert process.exitcode == 0
        assert is_same(out, tmp_path / "whole", LONG["steps"])
    finally:
        subprocess.run(["umount", tmp_path / "disk"], check=True)
