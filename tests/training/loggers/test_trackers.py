"""Reporting to TensorBoard and trackio: what is written is read back, and equals the run's own metrics."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support.training_data import small_model, write_text
from tensorboardX.proto.event_pb2 import Event

from parambudget.training.loggers.tensorboard_logger import TensorBoardTracker
from parambudget.training.loggers.trackers import TrackedRun, track_steps
from parambudget.training.metrics import StepMetrics

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = [
    "--data", "text", "--batch_size", "2", "--gradient-accumulation-steps", "1", "--device", "cpu",
    "--out", "run",
]  # fmt: skip
READ_TRACKIO = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
runs = SQLiteStorage.get_runs("a-project")
print(json.dumps([SQLiteStorage.get_logs("a-project", run) for run in runs]))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "text")
    (tmp_path / "config.json").write_text(json.dumps({"model": small_model().model_dump()}))
    return tmp_path


def step(number: int, **changes) -> StepMetrics:
    fields = {
        "step": number, "loss": 1.0 / number, "lr": 0.1, "grad_norm": 1.0, "skipped": False,
        "tokens": 8 * number, "tokens_per_second": 1.0, "mfu": None,
    }  # fmt: skip
    return StepMetrics(**fields | changes)


def events_in(folder: Path) -> list[Event]:
    """The events of all files in a folder: records of a length, its checksum, the event, and its checksum."""
    events = []
    for path in sorted(folder.glob("events.*")):
        content, position = path.read_bytes(), 0
        while position < len(content):
            (length,) = struct.unpack_from("<Q", content, position)
            events.append(Event.FromString(content[position + 12 : position + 12 + length]))
            position += length + 16
    return events


def scalars_in(folder: Path) -> dict[tuple[str, int], float]:
    return {
        (value.tag, event.step): value.simple_value
        for event in events_in(folder)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def test_a_run_is_written_for_tensorboard_and_resumed(here, run):
    arguments = ["train", "config.json", *SETTINGS, "--tensorboard", "--save-every", "2"]
    assert run(*arguments, "--steps", "2")[0::2] == (0, "")
    assert run(*arguments, "--steps", "4", "--resume")[0::2] == (0, "")
    rows = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    found = scalars_in(here / "run" / "tensorboard")
    for row in rows:
        for name in ("loss", "lr", "grad_norm", "tokens", "tokens_per_second"):
            assert found[name, row["step"]] == pytest.approx(row[name], rel=1e-6)
    assert {at for name, at in found if name == "val_bits_per_byte"} == {
        row["step"] for row in rows if "val_bits_per_byte" in row
    }
    assert len(list((here / "run" / "tensorboard").iterdir())) == 2


def track(out: Path, tools, on_notice=pytest.fail):
    return track_steps(lambda _: None, TrackedRun(out, {"dim": 32}), tools, on_notice)


def test_what_is_not_known_or_not_finite_is_left_out(tmp_path):
    with track(tmp_path, {"TensorBoard": TensorBoardTracker.open}) as on_step:
        on_step(step(1, loss=None, skipped=True))
    found = scalars_in(tmp_path / "tensorboard")
    assert {"loss", "mfu", "step"} & {name for name, _ in found} == set()
    assert found["skipped", 1] == 1


def test_the_settings_are_written_and_steps_made_again_are_hidden(tmp_path):
    for first in (1, 3):
        with track(tmp_path, {"TensorBoard": TensorBoardTracker.open}) as on_step:
            on_step(step(first))
    events = events_in(tmp_path / "tensorboard")
    texts = [v.tensor.string_val[0] for e in events for v in e.summary.value if "config" in v.tag]
    assert len(texts) == 2
    assert b'"dim": 32' in texts[0]
    assert {event.step for event in events if event.HasField("session_log")} == {1, 3}


class Broken:
    def __init__(self, fails_at: str) -> None:
        self.fails_at = fails_at

    def open(self, _tracked, _step):
        if self.fails_at == "open":
            raise RuntimeError("no\nconnection")
        return self

    def log(self, _step):
        if self.fails_at == "log":
            raise RuntimeError("no\nconnection")

    def finish(self, *, succeeded):
        if self.fails_at == "finish":
            raise RuntimeError(f"no connection, {succeeded}")


@pytest.mark.parametrize("fails_at", ["open", "log", "finish"])
def test_a_tool_that_fails_is_left_out_and_the_others_go_on(tmp_path, fails_at):
    notices = []
    tools = {"broken": Broken(fails_at).open, "TensorBoard": TensorBoardTracker.open}
    with track(tmp_path, tools, notices.append) as on_step:
        for number in (1, 2, 3):
            on_step(step(number))
    assert len(notices) == 1
    assert notices[0].startswith("reporting to broken stopped: no connection")
    assert {at for _, at in scalars_in(tmp_path / "tensorboard")} == {1, 2, 3}


def test_a_run_is_reported_to_trackio_offline_and_resumed(here):
    """In processes of their own: trackio decides on import where it keeps things."""
    for more in (["--steps", "2"], ["--steps", "3", "--resume"]):
        arguments = ["train", "config.json", *SETTINGS, "--trackio", "a-project", "--json", *more]
        ran = subprocess.run(
            [sys.executable, "-m", "parambudget", *arguments], cwd=here, capture_output=True, text=True,
            timeout=240, check=False,
        )  # fmt: skip
        assert (ran.returncode, ran.stderr) == (0, "")
        assert json.loads(ran.stdout)["finished"] is True
    read = subprocess.run(
        [sys.executable, "-c", READ_TRACKIO], capture_output=True, text=True, check=True, timeout=240
    )
    (logged,) = json.loads(read.stdout.splitlines()[-1])
    rows = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in logged] == [1, 2, 3]
    assert [each["loss"] for each in logged] == pytest.approx([row["loss"] for row in rows])
    assert (here / "run" / "trackio" / "name").read_text().startswith("run-")


@pytest.mark.parametrize(
    ("flags", "package"), [(["--tensorboard"], "tensorboardX"), (["--trackio", "p"], "trackio")]
)
def test_a_missing_package_is_named_with_what_installs_it(here, run, monkeypatch, flags, package):
    import parambudget._install as install

    monkeypatch.setattr(install, "find_spec", lambda name: None if name == package else object())
    code, out, err = run("train", "config.json", *SETTINGS, "--steps", "2", *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{flags[0]} needs {package}, not installed here; install with:" in err
    assert not (here / "run").exists()
