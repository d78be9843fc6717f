"""A run that is gone on with is the run that was never stopped: losses, weights, optimizer and next batch."""

import json
import re
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.training_data import small_config, small_data, small_model

from parambudget.errors import InputError
from parambudget.text.token_cache import TokenData
from parambudget.training import loop
from parambudget.training.metrics import StepMetrics, TrainResult, list_checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 12
SETTINGS = {"steps": STEPS, "save_every": 4, "eval_every": 4, "gradient_accumulation_steps": 2}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    loop.train(loop.TrainJob(small_model(), small_config(**SETTINGS), data, out), device="cpu")
    return out


class After:
    """Asks to stop once so many updates are made."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def trained(data: TokenData, out: Path, stop_after: int = 10**9, **changes) -> tuple[TrainResult, list[str]]:
    """Train in `out`, or go on there; what was told on the way."""
    notices: list[str] = []
    result = loop.train(
        loop.TrainJob(small_model(), small_config(**(SETTINGS | changes)), data, out, resume=True),
        device="cpu",
        stop_requested=After(stop_after),
        on_notice=notices.append,
    )
    return result, notices


def rows_of(out: Path) -> list[dict]:
    """Metrics without what a clock says."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in rows]


def assert_same_run(out: Path, whole: Path, step: int = STEPS) -> None:
    """Every row, weight and optimizer state of the two is equal, bit for bit."""
    assert rows_of(out) == rows_of(whole)
    for name in ("model.safetensors", "optimizer.safetensors"):
        mine, other = (load_file(run / f"checkpoints/step-{step}" / name) for run in (out, whole))
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine), name


@pytest.mark.parametrize("k", [1, 3, 4, 5, 11])
def test_k_steps_a_resume_and_the_rest_are_the_whole_run(data, whole, tmp_path, k):
    stopped, _ = trained(data, tmp_path / "run", stop_after=k)
    assert (stopped.finished, stopped.steps) == (False, k)
    assert json.loads((tmp_path / "run/summary.json").read_text())["finished"] is False
    finished, notices = trained(data, tmp_path / "run")
    assert (finished.finished, finished.steps, notices) == (True, STEPS, [])
    assert_same_run(tmp_path / "run", whole)


def test_stopping_after_every_update_changes_nothing(data, whole, tmp_path):
    while not trained(data, tmp_path / "run", stop_after=1)[0].finished:
        pass
    assert_same_run(tmp_path / "run", whole)


def test_a_run_that_was_stopped_before_its_first_update_starts_then(data, whole, tmp_path):
    stopped, _ = trained(data, tmp_path / "run", stop_after=0)
    assert (stopped.steps, stopped.checkpoint) == (0, None)
    trained(data, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_a_finished_run_has_nothing_to_go_on_with(data, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    result, _ = trained(data, tmp_path / "run")
    assert result.finished
    assert_same_run(tmp_path / "run", whole)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    before = json.loads((whole / "summary.json").read_text())
    assert summary["val_loss"] == before["val_loss"]
    assert summary["tokens_per_second"] == pytest.approx(before["tokens_per_second"], rel=1e-6)


def test_rows_behind_the_checkpoint_are_cut(data, whole, tmp_path):
    trained(data, tmp_path / "run", stop_after=4)
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 99.0, "tokens": 0}\n{"step": 6, "lo')
    trained(data, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_more_steps_may_be_asked_for_later(data, tmp_path):
    trained(data, tmp_path / "run", steps=4)
    result, _ = trained(data, tmp_path / "run", steps=6, save_every=1, keep=5, eval_every=1)
    assert (result.finished, result.steps) == (True, 6)
    assert json.loads((tmp_path / "run/config.json").read_text())["train"]["steps"] == 6


def test_fewer_steps_than_were_made_are_refused(data, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    before = (tmp_path / "run/config.json").read_bytes()
    with pytest.raises(InputError, match=r"step-12 is already beyond steps=5; use at least 12"):
        trained(data, tmp_path / "run", steps=5)
    assert (tmp_path / "run/config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"learning_rate": 0.5},
            "learning_rate is 0.003 there and 0.5 here; only `steps`, `tokens`",
        ),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"batch_size": 2}, "batch_size is 4 there and 2 here"),
    ],
)
def test_another_setting_is_named_and_nothing_is_touched(data, whole, tmp_path, changes, message):
    shutil.copytree(whole, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=message):
        trained(data, tmp_path / "run", **changes)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_another_model_and_another_text_are_named(data, whole, tmp_path):
    config = small_config(**SETTINGS)
    with pytest.raises(InputError, match="is of another model: intermediate_size is 48 there and 64 here"):
        loop.train(
            loop.TrainJob(small_model(intermediate_size=64), config, data, whole, resume=True), device="cpu"
        )
    other = small_data(tmp_path, vocab_size=290)
    with pytest.raises(InputError, match="has another set of training tokens"):
        loop.train(loop.TrainJob(small_model(), config, other, whole, resume=True), device="cpu")


def test_a_run_is_refused_without_resume_and_says_how_to_go_on(data, whole):
    with pytest.raises(
        InputError, match=r"contains another run .*; continue it with `resume=True`, or choose"
    ):
        loop.train(loop.TrainJob(small_model(), small_config(**SETTINGS), data, whole), device="cpu")


def test_a_second_process_is_kept_out(data, tmp_path):
    trained(data, tmp_path / "run", stop_after=2)
    stops: list[Exception] = []

    def second() -> bool:
        with pytest.raises(InputError, match="another process is training in") as caught:
            trained(data, tmp_path / "run")
        stops.append(caught.value)
        return True

    loop.train(
        loop.TrainJob(small_model(), small_config(**SETTINGS), data, tmp_path / "run", resume=True),
        device="cpu",
        stop_requested=second,
    )
    assert stops


# Checkpoints that are damaged


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    held = bytearray(path.read_bytes())
    held[-3] ^= 16
    path.write_bytes(held)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: cut_in_half(folder / "model.safetensors"),
        lambda folder: flip_a_bit(folder / "optimizer.safetensors"),
        lambda folder: cut_in_half(folder / "state.json"),
        lambda folder: (folder / "state.json").write_text("[]"),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "state.json").unlink(),
    ],
    ids=["half the weights", "a flipped bit", "half a state", "another state", "no weights", "no state"],
)
def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_is_used(data, whole, tmp_path, damage):
    trained(data, tmp_path / "run", stop_after=10)
    damage(tmp_path / "run/checkpoints/step-10")
    _, notices = trained(data, tmp_path / "run")
    assert len(notices) == 1
    assert "step-10 is" in notices[0]
    assert "set aside, and the run continues from step-8" in notices[0]
    assert_same_run(tmp_path / "run", whole)
    assert (tmp_path / "run/checkpoints/damaged-step-10").is_dir()


def test_a_run_without_any_whole_checkpoint_says_so(data, tmp_path):
    trained(data, tmp_path / "run", stop_after=5)
    for folder in list_checkpoints(tmp_path / "run/checkpoints"):
        cut_in_half(folder / "model.safetensors")
    with pytest.raises(
        InputError, match=r"no checkpoint in .* is complete .*; start again in another folder"
    ):
        trained(data, tmp_path / "run")


def test_what_an_interrupted_save_has_left_is_cleared_away(data, whole, tmp_path):
    trained(data, tmp_path / "run", stop_after=5)
    (tmp_path / "run/checkpoints/.unfinished-abc").mkdir()
    (tmp_path / "run/checkpoints/.unfinished-abc/model.safetensors").write_bytes(b"half")
    (tmp_path / "run/.summary.json.123.tmp").write_text("{")
    trained(data, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)
    assert not list((tmp_path / "run").rglob(".*"))


def test_a_disk_that_is_full_for_a_while_is_told_and_costs_nothing(data, whole, tmp_path):
    """From step 3 to 6 no file may grow: the save after step 4 fails, the one after step 8 does not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    notices: list[str] = []

    def fill_or_empty(step: StepMetrics) -> None:
        if step.step in (2, 6):
            resource.setrlimit(resource.RLIMIT_FSIZE, (300 if step.step == 2 else before[0], before[1]))

    try:
        loop.train(
            loop.TrainJob(small_model(), small_config(**SETTINGS), data, tmp_path / "run"),
            device="cpu",
            on_step=fill_or_empty,
            on_notice=notices.append,
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_same_run(tmp_path / "run", whole)
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == {"step-8", "step-12"}
    rows, save = sorted(notices, key=lambda notice: "cannot save" in notice)
    assert "its rows are kept in memory and written later" in rows
    assert re.search(r"cannot save .*step-4: .*; training continues and the next save tries again", save)


def test_other_surroundings_are_one_line_and_no_error(data, tmp_path):
    trained(data, tmp_path / "run", stop_after=4)
    torch.set_num_threads(2)
    try:
        _, notices = trained(data, tmp_path / "run")
    finally:
        torch.set_num_threads(1)
    assert notices == ["the run continues, but not bit for bit: threads 1 there and 2 here"]


def test_the_best_checkpoint_stays_beside_the_newest(data, tmp_path):
    """The learning rate becomes so high that later losses are worse."""
    settings = {"save_every": 1, "eval_every": 1, "keep": 2, "warmup_steps": 12, "learning_rate": 1.0}
    out = tmp_path / "run"
    trained(data, out, **settings)
    rows = rows_of(out)
    best = min(rows, key=lambda row: row["val_loss"])["step"]
    assert best < 11
    assert {path.name for path in (out / "checkpoints").iterdir()} == {f"step-{best}", "step-11", "step-12"}


# Weights from elsewhere


def test_a_new_run_starts_from_the_weights_of_another(data, whole, tmp_path):
    init = whole / "checkpoints/step-12"
    still = {"learning_rate": 1e-30, "final_learning_rate": 0.0, "weight_decay": 0.0}
    config = small_config(steps=1, warmup_steps=0, **still)
    result = loop.train(loop.TrainJob(small_model(), config, data, tmp_path / "run", init=init), device="cpu")
    weights, given = (load_file(path / "model.safetensors") for path in (result.checkpoint, init))
    assert all(torch.equal(weights[name], given[name]) for name in given)
    provenance = json.loads((tmp_path / "run/config.json").read_text())["provenance"]
    assert provenance["init"] == str(init)


def test_weights_of_another_tokenizer_are_told(whole, tmp_path):
    other = small_data(tmp_path, vocab_size=290)
    notices: list[str] = []
    loop.train(
        loop.TrainJob(
            small_model(), small_config(steps=2), other, tmp_path / "run", init=whole / "checkpoints/step-12"
        ),
        device="cpu",
        on_notice=notices.append,
    )
    assert len(notices) == 1
    assert "trained with another tokenizer" in notices[0]
