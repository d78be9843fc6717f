"""Settings that are made to fit the memory and the time, before a run begins."""

import json
import sys

import pytest
import torch
from support.training_data import small_config, small_model, write_text

import parambudget as pb
from parambudget.cli.main import main
from parambudget.cost.step import ON_CPU
from parambudget.errors import InputError
from parambudget.planning.step_search import fastest_step
from parambudget.scaling.hyperparameters import update_tokens
from parambudget.training.config import TrainConfig
from parambudget.training.device import explain_out_of_memory, select_device
from parambudget.training.run import autotune, settings
from parambudget.training.run.autotune import attempts, first_that_fits, settings_for_hours, settings_that_fit
from parambudget.training.run.defaults import with_train_defaults
from parambudget.training.run.requested import RequestedSettings

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = small_config(batch_size=16, gradient_accumulation_steps=8)


def tried(given: set[str]) -> list[tuple[int, int, int, bool]]:
    return [
        (s.batch_size, s.gradient_accumulation_steps, s.loss_chunks, s.gradient_checkpointing)
        for s in (config.step for config in attempts(CONFIG, given, context_length=1024))
    ]


def test_memory_is_saved_first_where_it_costs_least():
    assert tried(set()) == [
        (16, 8, 1, False), (16, 8, 8, False), (8, 16, 1, False), (8, 16, 8, False), (4, 32, 1, False),
        (4, 32, 8, False),
        (16, 8, 1, True), (16, 8, 8, True), (8, 16, 1, True), (8, 16, 8, True), (4, 32, 1, True),
        (4, 32, 8, True), (2, 64, 1, True), (2, 64, 8, True), (1, 128, 1, True), (1, 128, 8, True),
    ]  # fmt: skip


def test_what_was_given_is_not_changed():
    assert tried({"batch_size", "gradient_checkpointing", "loss_chunks"}) == [(16, 8, 1, False)]
    assert {size for size, *_ in tried({"batch_size"})} == {16}
    assert {recomputed for *_, recomputed in tried({"gradient_checkpointing"})} == {False}
    assert tried({"gradient_checkpointing"})[-1][0] == 1


def test_within_a_budget_of_activations_no_block_is_recomputed():
    config = small_config(activation_memory_budget=0.5)
    found = [c.step for c in attempts(config, {"activation_memory_budget"}, 4096)]
    assert found
    assert not any(step.gradient_checkpointing for step in found)
    assert {step.activation_memory_budget for step in found} == {0.5}


def test_an_odd_batch_is_cut_in_whole_parts():
    config = small_config(batch_size=15, gradient_accumulation_steps=1)
    sizes = [c.step.batch_size for c in attempts(config, {"loss_chunks", "gradient_checkpointing"}, 4096)]
    assert sizes == [15, 5, 1]


def room_for(most: int):
    def try_one(config: TrainConfig) -> None:
        if config.step.batch_size > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return try_one


def test_the_first_settings_that_fit_are_taken():
    assert first_that_fits(attempts(CONFIG, set(), 1024), room_for(5)).step.batch_size == 4


def test_where_nothing_fits_one_line_says_so():
    with pytest.raises(InputError, match="not even batch_size=1 fits in the memory of this device"):
        first_that_fits(attempts(CONFIG, set(), 1024), room_for(0))


def test_a_trial_leaves_settings_alone_that_fit(data):
    found = with_train_defaults({"steps": 5}, small_model(), len(data.train), on_cpu=True)
    assert settings_that_fit(found, small_model(), data, select_device("cpu")).config == found.config


def test_running_out_of_memory_is_one_line_that_says_what_to_change():
    with (
        pytest.raises(InputError, match=r"batch_size=16 does not fit .* use a smaller `batch_size`"),
        explain_out_of_memory(CONFIG),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(RuntimeError, match="something else"), explain_out_of_memory(CONFIG):
        raise RuntimeError("something else")


def test_resolved_settings_hold_the_step_as_planned_and_executed_here(data, monkeypatch):
    planned_with = []

    def recording(model, sequences, machine, given):
        planned_with.append(given)
        return fastest_step(model, sequences, machine, given)

    monkeypatch.setattr(settings, "fastest_step", recording)
    monkeypatch.setattr(settings, "machine_of", lambda *_: pb.machine("h100"))
    requested = RequestedSettings({"steps": 5, "z_loss": 0.25}, frozenset({"steps", "z_loss"}))
    compute = select_device("cpu")
    found = settings.resolve_settings(requested, small_model(), data, compute, None, None).resolved
    assert [given["z_loss"] for given in planned_with] == [0.25]
    assert (found.config.step.z_loss, found.config.step.backend) == (0.25, ON_CPU)
    assert "z_loss" not in found.reasons


def test_hours_become_steps_that_fill_them_with_evaluations(data):
    model, compute = small_model(), select_device("cpu")
    first = with_train_defaults({}, model, len(data.train), on_cpu=True)
    found, seconds = settings_for_hours(first, {}, model, data, compute, 1.0, update_seconds=0.5)
    assert seconds == 0.5
    assert 7200 / (1 + 1 / 6) - 1 <= found.config.steps <= 7200
    assert "1 h at 0.5 s an update" in found.reasons["steps"]
    again, _ = settings_for_hours(first, {}, model, data, compute, 1.0, update_seconds=0.5)
    assert again == found


def test_hours_too_short_for_an_update_are_refused(data):
    first = with_train_defaults({}, small_model(), len(data.train), on_cpu=True)
    with pytest.raises(InputError, match=r"`hours=0.0001` .* one update"):
        settings_for_hours(first, {}, small_model(), data, select_device("cpu"), 1e-4, update_seconds=10.0)


@pytest.mark.parametrize("hours", [1e-4, 0.01, 1.0])
def test_hours_have_the_step_of_their_plan(data, monkeypatch, hours):
    monkeypatch.setattr(settings, "machine_of", lambda *_: pb.machine("h100"))
    monkeypatch.setattr(autotune, "timed_update_seconds", lambda *_, **__: 1e-3)
    requested = RequestedSettings({}, frozenset())
    found = settings.resolve_settings(requested, small_model(), data, select_device("cpu"), None, hours)
    planned = pb.plan(small_model(), "h100", hours=hours).step
    step = found.resolved.config.step
    assert step.step_fields == planned.step_fields


def test_the_update_of_a_device_that_nobody_knows_follows_from_the_time_it_takes(data, monkeypatch):
    model, compute = small_model(), select_device("cpu")
    seconds = []

    def timed(model, config, *_, **__):
        seconds.append(config.step.tokens_per_update(model.context_length) / 1e6)
        return seconds[-1]

    monkeypatch.setattr(autotune, "timed_update_seconds", timed)
    requested = RequestedSettings({}, frozenset())
    found = settings.resolve_settings(requested, model, data, compute, None, hours=10.0).resolved.config
    update = found.step.tokens_per_update(model.context_length)
    assert update == update_tokens(model, found.steps * update).tokens > seconds[0] * 1e6
    assert len(seconds) == 2


# On the command line


@pytest.fixture
def parambudget(tmp_path, monkeypatch, capsys):
    write_text(tmp_path / "text")
    (tmp_path / "config.json").write_text(json.dumps({"model": small_model().model_dump()}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments: str) -> tuple[int, str, str]:
        fixed = ["--data", "text", "--out", "run", "--device", "cpu", "--optimizer", "adamw"]
        monkeypatch.setattr(sys, "argv", ["parambudget", "train", *arguments, *fixed])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    return run


def stored(folder) -> dict:
    return json.loads((folder / "run/config.json").read_text())


def test_hours_are_timed_once_and_stored(parambudget, tmp_path):
    batch = ["--batch-size", "2", "--gradient-accumulation-steps", "1"]
    code, _, err = parambudget("config.json", "--hours", "0.0005", *batch)
    assert (code, err) == (0, "")
    before = stored(tmp_path)
    assert before["provenance"]["hours"] == 0.0005
    code, out, err = parambudget("config.json", "--hours", "0.0005", "--resume")
    assert (code, err) == (0, "")
    assert stored(tmp_path) == before
    steps = before["train"]["steps"]
    assert f"{steps:,} updates" in out


def test_tokens_become_steps_and_the_same_line_resumes(parambudget, tmp_path):
    batch = ["--batch-size", "4", "--gradient-accumulation-steps", "2"]
    assert parambudget("config.json", "--tokens", "640", "--resume", *batch)[0] == 0
    assert stored(tmp_path)["train"]["steps"] == 5
    assert parambudget("--tokens", "1_280", "--resume")[0] == 0
    assert stored(tmp_path)["train"]["steps"] == 10
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 10


def test_a_resumed_run_keeps_the_settings_that_are_not_given_again(parambudget, tmp_path):
    parambudget("config.json", "--steps", "4", "--learning-rate", "0.002", "--batch-size", "2")
    before = stored(tmp_path)["train"]
    assert parambudget("--resume", "--steps", "6", "--keep", "7")[0] == 0
    assert stored(tmp_path)["train"] == before | {"steps": 6, "keep": 7}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["config.json", "--steps", "3", "--hours", "1"],
            "--steps and --hours both set the length of the run",
        ),
        (["config.json", "--hours", "nan"], "--hours nan is not a duration"),
        (["config.json", "--tokens", "many"], "--tokens 'many' is not a count"),
        (["--resume", "--learning-rate", "0.5"], "learning_rate is 0.002 there and 0.5 here"),
        (["config.json", "--resume", "--intermediate-size", "64"], "is of another model"),
        (["config.json", "--init", "nowhere"], "nowhere is not a checkpoint; give a folder"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(parambudget, arguments, message):
    parambudget("config.json", "--steps", "2", "--learning-rate", "0.002")
    code, out, err = parambudget(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
