"""A run as a caller asks for it: `pb.train`, its events, and what importing the trainer costs."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.training_data import small_model, write_text

import parambudget as pb
from parambudget.training.run.request import RunOptions, build_request

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {"batch_size": 2, "gradient_accumulation_steps": 1, "steps": 3, "eval_every": 3}


@pytest.fixture
def text(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_text(tmp_path / "text")


def run_in(out: Path, text: Path, events: pb.TrainEvents | None = None, **more) -> pb.TrainResult:
    return pb.train(small_model(), out, data=text, device="cpu", events=events, **(SETTINGS | more))


def test_a_run_from_python_prints_nothing_and_returns_its_result(text, tmp_path, capfd):
    result = run_in(tmp_path / "run", text)
    assert (result.finished, result.steps) == (True, 3)
    assert result.checkpoint == tmp_path / "run/checkpoints/step-3"
    assert capfd.readouterr() == ("", "")


def test_events_come_in_order(text, tmp_path):
    calls: list[str] = []
    events = pb.TrainEvents(
        on_status=lambda text: calls.append("status" if text else "done"),
        on_start=lambda run: calls.append(f"start on {run.device}"),
        on_step=lambda step: calls.append(f"step {step.step}"),
        on_notice=calls.append,
        on_end=lambda result: calls.append(f"end after {result.steps}"),
    )
    run_in(tmp_path / "run", text, events)
    preparing, running = calls[:6], calls[6:]
    assert preparing == ["status", "done"] * 3
    assert running == ["start on CPU", "step 1", "step 2", "step 3", "end after 3"]


def test_a_run_is_resumed_from_python(text, tmp_path):
    run_in(tmp_path / "run", text)
    result = pb.train(small_model(), tmp_path / "run", resume=True, steps=5, device="cpu")
    assert (result.finished, result.steps) == (True, 5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"hours": 1.0}, "both set the length of the run"),
        ({"learning_rte": 1.0}, "learning_rte"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"init": "nowhere"}, "nowhere is not a checkpoint"),
        ({"device": "tpu"}, "'tpu' is not a device"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_trained_is_refused_and_leaves_nothing(text, tmp_path, more, message):
    arguments = {"data": text, "device": "cpu", **SETTINGS, **more}
    with pytest.raises(pb.InputError, match=message):
        pb.train(small_model(), tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_without_a_folder_a_run_gets_the_next_free_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = []
    for _ in range(2):
        folders.append(build_request("gpt2", {}, {}, RunOptions()).out)
        folders[-1].mkdir(parents=True)
    assert folders == [Path("runs/gpt2-1"), Path("runs/gpt2-2")]


def imported_after(code: str) -> set[str]:
    code += "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_request_is_built_before_torch_is_imported():
    assert "torch" not in imported_after("import parambudget.cli.train")
