"""Damage to the files of a run is named when it is resumed, repaired from a checkpoint, never half used."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.damage import damaged_bytes
from support.training_data import small_config, small_model

from parambudget._documents import SEAL, sealed_fields
from parambudget.errors import InputError
from parambudget.training import loop
from parambudget.training.checkpoint import files
from parambudget.training.device import select_device
from parambudget.training.generate import load_checkpoint
from parambudget.training.metrics import read_run, run_config_path
from parambudget.training.run.run_folder import lock_run_folder, require_free_run_folder

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {"steps": 6, "save_every": 2, "eval_every": 2}


def train(data, out: Path, stop_after: int = 10**9, **changes) -> list[str]:
    """Start a run or go on with it; what was told on the way."""
    notices: list[str] = []
    left = iter(range(stop_after, -1, -1))
    loop.train(
        loop.TrainJob(small_model(), small_config(**SETTINGS | changes), data, out, resume=True),
        device="cpu", stop_requested=lambda: next(left, 0) == 0, on_notice=notices.append,
    )  # fmt: skip
    return notices


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(data, out)
    return out


@pytest.fixture(scope="module")
def half(data, tmp_path_factory) -> Path:
    """The same run, stopped after update 4: checkpoints of steps 2 and 4."""
    out = tmp_path_factory.mktemp("half") / "run"
    train(data, out, stop_after=4)
    return out


@pytest.fixture
def run(half, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(half, tmp_path / "run"))


def assert_same_run(out: Path, whole: Path) -> None:
    rows, whole_rows = (
        [
            json.loads(line) | {"tokens_per_second": 0}
            for line in (each / "metrics.jsonl").read_text().splitlines()
        ]
        for each in (out, whole)
    )
    assert rows == whole_rows
    for name in ("model.safetensors", "optimizer.safetensors"):
        mine, other = (load_file(each / "checkpoints/step-6" / name) for each in (out, whole))
        assert all(torch.equal(mine[key], other[key]) for key in other)


def lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    """Damage that changes the lines of metrics.jsonl."""

    def damage(path: Path) -> None:
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return damage


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


METRICS_DAMAGE = {
    "a digit": (lines(lambda rows: [rows[0].replace('"loss": 5', '"loss": 4'), *rows[1:]]), 1),
    "a line dropped": (lines(lambda rows: [rows[0], *rows[2:]]), 2),
    "a line twice": (lines(lambda rows: [rows[0], *rows]), 2),
    "lines swapped": (lines(lambda rows: [rows[1], rows[0], *rows[2:]]), 1),
    "the last lines gone": (lines(lambda rows: rows[:2]), 3),
    "cut in a line": (lambda path: path.write_bytes(path.read_bytes()[:200]), 2),
    "NaN": (lines(lambda rows: [*rows[:2], rows[2].replace('"loss": ', '"loss": NaN, "x": '), rows[3]]), 3),
    "another type": (lines(lambda rows: ["[]\n", *rows[1:]]), 1),
    "an empty line": (lines(lambda rows: [rows[0], "\n", *rows[1:]]), 2),
    "zeros": (lambda path: path.write_bytes(bytes(path.stat().st_size)), 1),
    "empty": (lambda path: path.write_text(""), 1),
    "missing": (lambda path: path.unlink(), None),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), None),
    "a pipe": (replace_by_pipe, None),
}


@pytest.mark.parametrize("kind", METRICS_DAMAGE)
def test_damaged_metrics_are_named_and_restored_from_the_checkpoint(data, run, whole, kind):
    damage, line = METRICS_DAMAGE[kind]
    damage(run / "metrics.jsonl")
    (notice,) = train(data, run)
    problem = "cannot read" if line is None else f"is damaged: line {line} is not what train wrote"
    assert f"{problem}" in notice
    assert notice.endswith("; restored from the checkpoint of step 4")
    assert (run / "damaged-metrics.jsonl").exists() == (kind != "missing")
    assert_same_run(run, whole)


def test_rows_of_a_checkpoint_are_flushed_before_it_is_there(data, tmp_path, monkeypatch):
    """By the order of the calls: a power cut cannot be had here."""
    from parambudget.training.checkpoint import files as checkpoint
    from parambudget.training.run import run_folder

    calls = []
    for module, name in ((run_folder, "sync_to_disk"), (checkpoint, "publish_folder")):
        call = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *paths, call=call, name=name: (calls.append(name), call(*paths))
        )
    train(data, tmp_path / "run", steps=2, save_every=1)
    assert calls == ["sync_to_disk", "publish_folder"] * 2


def state(**changes: object) -> Callable[[Path], None]:
    """Damage that changes values in state.json, and leaves its seal."""

    def damage(folder: Path) -> None:
        path = folder / "state.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def forged(**changes: object) -> Callable[[Path], None]:
    """Values in state.json that cannot be, under a seal that matches."""

    def damage(folder: Path) -> None:
        path = folder / "state.json"
        fields = json.loads(path.read_text())
        del fields[SEAL]
        path.write_text(json.dumps(sealed_fields(fields | changes)))

    return damage


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


CHECKPOINT_DAMAGE = {
    "torch_rng": state(torch_rng="00" * 5056),
    "step": state(step=3),
    "tokens": state(tokens=0),
    "surroundings": state(surroundings={}),
    "no hashes": state(sha256={}),
    "a seal of its own": state(seal="0" * 64),
    "forged: no hashes": forged(sha256={}),
    "forged: hashes of other files": forged(sha256={"../../config.json": "0" * 64}),
    "forged: torch_rng": forged(torch_rng="xyz"),
    "forged: step": forged(step=-1),
    "forged: surroundings": forged(surroundings=[]),
    "another key": forged(more=1),
    "a list": write("state.json", "[]"),
    "null": write("state.json", "null"),
    "not JSON": write("state.json", "\0"),
    "NaN": write("state.json", '{"loss": NaN}'),
    "config": write("config.json", "{}"),
    "tokenizer": write("tokenizer.json", "{}"),
    "metrics": write("metrics.jsonl", ""),
    "a pipe": lambda folder: replace_by_pipe(folder / "model.safetensors"),
    "a folder": lambda folder: (
        (folder / "model.safetensors").unlink(),
        (folder / "model.safetensors").mkdir(),
    ),
}


@pytest.mark.parametrize("kind", CHECKPOINT_DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(data, run, whole, kind):
    CHECKPOINT_DAMAGE[kind](run / "checkpoints/step-4")
    (notice,) = train(data, run)
    assert "checkpoints/step-4 is " in notice
    assert notice.endswith("it is set aside, and the run continues from step-2")
    assert len(notice) < 500
    assert_same_run(run, whole)


def test_a_checkpoint_under_another_number_is_named_and_set_aside(data, run, whole):
    (run / "checkpoints/step-4").rename(run / "checkpoints/step-20")
    (notice,) = train(data, run)
    assert "checkpoints/step-20 is damaged: it holds step 4" in notice
    assert (run / "checkpoints/damaged-step-20").is_dir()
    assert_same_run(run, whole)


def test_a_random_state_of_another_torch_is_one_line(data, run):
    for step in (2, 4):
        forged(torch_rng="00")(run / f"checkpoints/step-{step}")
    with pytest.raises(InputError, match=r"the random state in .*step-4 is not one of this torch"):
        train(data, run)


def test_a_changed_config_of_the_run_is_named(data, run):
    """The checkpoint has the config that the run was trained with, under a hash."""
    path = run / "config.json"
    document = json.loads(path.read_text())
    document["train"]["learning_rate"] = 0.5
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"step-4 has other settings: learning_rate is 0\.003 there"):
        train(data, run, learning_rate=0.5)


@pytest.mark.parametrize(
    "damage",
    [
        {"train": []}, {"train": None}, {"provenance": None}, {"model": "gpt2"}, {"provenance": {"given": 5}},
        {"provenance": {"update_seconds": "fast"}}, {"provenance": {"hours": -1}},
        {"provenance": {"data": 1}},
    ],
)  # fmt: skip
def test_a_config_with_a_part_that_is_none_is_read_from_a_checkpoint_or_named(run, damage):
    path = run / "config.json"
    document = json.dumps(json.loads(path.read_text()) | damage)
    path.write_text(document)
    assert run_config_path(run) == run / "checkpoints/step-4/config.json"
    for copy in run.glob("checkpoints/*/config.json"):
        copy.write_text(document)
    with pytest.raises(
        InputError, match=f"{next(iter(damage))}.*, and no checkpoint has a copy of it; choose"
    ):
        run_config_path(run)


def test_a_checkpoint_of_an_older_version_is_refused_in_one_line(run):
    path = run / "checkpoints/step-4/state.json"
    fields = json.loads(path.read_text())
    del fields[SEAL]
    path.write_text(json.dumps(fields))
    with pytest.raises(
        InputError, match=r"state.json has no seal of its content: it is damaged, or of an older"
    ):
        files.read_state(path.parent)


def refusal(read: Callable[[], object]) -> str:
    """The error of what is refused; empty if it is read. Anything else than an error of ours is raised."""
    try:
        read()
    except InputError as error:
        return str(error)
    return ""


FILES = ("config.json", "metrics.jsonl", "summary.json", "checkpoints/step-4/state.json")


@settings(max_examples=500)
@given(draw=st.data())
def test_anything_in_any_file_of_a_run_is_read_or_refused_in_one_line(half, draw):
    path = half / draw.draw(st.sampled_from(FILES))
    before = path.read_bytes()
    try:
        path.write_bytes(draw.draw(damaged_bytes(before)))
        for read in (
            lambda: json.dumps(read_run(half).as_dict(), allow_nan=False),
            lambda: run_config_path(half),
            lambda: files.read_state(half / "checkpoints/step-4", check=False),
        ):
            error = refusal(read)
            assert len(error) < 500
            assert error.isprintable()
    finally:
        path.write_bytes(before)


# What others have put into the folder


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_a_copy_of_the_rows_that_is_no_file_is_not_read(run, kind):
    copy = run / "checkpoints/step-4/metrics.jsonl"
    copy.unlink()
    os.mkfifo(copy) if kind == "a pipe" else copy.symlink_to("/dev/zero")
    assert len(read_run(run).steps) == 4


def test_rows_changed_in_the_checkpoint_too_are_found_by_its_hash(run):
    for path in (run / "metrics.jsonl", run / "checkpoints/step-4/metrics.jsonl"):
        METRICS_DAMAGE["a digit"][0](path)
    with pytest.raises(InputError, match=r"step-4 is damaged: metrics\.jsonl does not match its hash, so"):
        read_run(run)


def test_a_checkpoint_of_another_run_is_not_taken_for_one_of_this(data, run, tmp_path):
    other = tmp_path / "other"
    train(data, other, stop_after=4, seed=5)
    shutil.rmtree(run / "checkpoints/step-4")
    shutil.copytree(other / "checkpoints/step-4", run / "checkpoints/step-4")
    with pytest.raises(InputError, match=r"step-4 is not of the run in .*: seed is 5 there and 0 here; name"):
        load_checkpoint(run, select_device("cpu"))
    assert load_checkpoint(run / "checkpoints/step-4", select_device("cpu")).folder.name == "step-4"


@pytest.mark.parametrize("name", [*files.HASHED, "state.json"])
def test_a_file_of_a_checkpoint_is_not_read_through_a_link_to_elsewhere(run, tmp_path, name):
    path = run / "checkpoints/step-4" / name
    path.rename(tmp_path / name)
    path.symlink_to(tmp_path / name)
    with pytest.raises(
        InputError, match=r"step-4 is not complete .*it is a link that leads out of its folder"
    ):
        files.read_state(path.parent)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json"])
def test_a_file_of_a_run_is_not_read_through_a_link_to_elsewhere(run, tmp_path, name):
    (run / name).rename(tmp_path / name)
    (run / name).symlink_to(tmp_path / name)
    with pytest.raises(InputError, match=f"cannot read .*{name}: it is a link that leads out of its folder"):
        read_run(run)


def test_the_folder_of_a_run_may_be_a_link(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    assert len(read_run(tmp_path / "link").steps) == 4
    files.read_state(tmp_path / "link/checkpoints/step-4")


def test_a_checkpoint_without_its_state_is_named_in_a_whole_sentence(data, run):
    (run / "checkpoints/step-4/state.json").unlink()
    (notice,) = train(data, run)
    assert notice.endswith(
        "state.json: No such file or directory); it is set aside, and the run continues from step-2"
    )


@pytest.mark.parametrize("kind", ["a pipe", "a link"])
def test_checkpoints_that_are_no_folder_are_refused(tmp_path, kind):
    place = tmp_path / "run/checkpoints"
    place.parent.mkdir()
    os.mkfifo(place) if kind == "a pipe" else place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"run/checkpoints is .*; (remove it|create that folder), or choose"):
        require_free_run_folder(place.parent, resume=True)


def test_what_a_run_leaves_that_is_killed_before_it_writes_anything_is_no_run(tmp_path):
    """The lock is the first thing that a run makes, and its config the next."""
    lock = tmp_path / "run/checkpoints/.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    for resume in (False, True):
        with lock_run_folder(tmp_path / "run", resume=resume) as checkpoints:
            assert checkpoints == lock.parent
    lock.parent.mkdir(parents=True, exist_ok=True)
    (lock.parent / "step-2").mkdir()
    with pytest.raises(InputError, match=r"contains another run \(checkpoints\)"):
        require_free_run_folder(tmp_path / "run", resume=True)
