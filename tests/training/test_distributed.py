"""Two processes train one model as one process does, and a run goes on with more or fewer of them.

Each with the whole model, and with the model shared out among them.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support import two_process_checks as checks
from support.outcomes import without_status
from support.processes import PATIENCE_SECONDS, Together, ended, in_step, run_command
from support.training_data import small_config, small_model, write_text
from torch.testing import assert_close

from parambudget.cost.step import Sharding
from parambudget.errors import InputError
from parambudget.training.checkpoint.files import read_state
from parambudget.training.distributed import SINGLE_PROCESS

SETTINGS = {
    "steps": 8, "save_every": 4, "eval_every": 4, "batch_size": 2, "gradient_accumulation_steps": 4,
}  # fmt: skip
WAYS = pytest.mark.parametrize("shard", [[], ["--shard"]], ids=["whole", "shared out"])


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Together:
    """Processes in a folder with a config file and its text."""
    folder = tmp_path_factory.mktemp("runs")
    write_text(folder / "text")
    config = {"model": small_model().model_dump(), "train": small_config(**SETTINGS).model_dump()}
    (folder / "config.json").write_text(json.dumps(config))
    return Together(folder)


@pytest.fixture(scope="module")
def alone(two) -> Path:
    """The run of one process."""
    assert two.train(1, "alone") == [0]
    return two.folder / "alone"


@pytest.fixture(scope="module")
def together(two) -> dict[bool, Path]:
    """The same run of two processes, without and with --shard."""
    for out, more in (("together", []), ("shared", ["--shard"])):
        assert two.train(2, out, *more) == [0, 0], two.said()
        assert "8 updates" in two.said(to="out")
        assert two.said(1, "out") == two.said(1) == two.said() == ""
    return {False: two.folder / "together", True: two.folder / "shared"}


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def saved_in(out: Path, name: str = "model", step: int = 8) -> dict:
    return load_file(out / f"checkpoints/step-{step}/{name}.safetensors")


def assert_same_within_float32(out: Path, alone: Path) -> None:
    """Sums of gradients in another order: 24 bits, and what eight updates make of it."""
    for name in ("loss", "grad_norm", "val_loss"):
        mine, other = ([row[name] for row in rows_of(run) if name in row] for run in (out, alone))
        assert mine == pytest.approx(other, rel=1e-5), name
    for name in ("model", "optimizer"):
        assert_close(saved_in(out, name), saved_in(alone, name), rtol=1e-3, atol=1e-5)


@WAYS
def test_two_processes_have_the_losses_of_one(together, alone, shard):
    assert_same_within_float32(together[bool(shard)], alone)


def test_a_checkpoint_is_the_same_files_whoever_wrote_it(together, alone):
    kept = {path.relative_to(alone) for path in alone.rglob("*")}
    for out in together.values():
        assert {path.relative_to(out) for path in out.rglob("*")} == kept
        hashed = read_state(out / "checkpoints/step-8").sha256
        assert hashed.keys() == read_state(alone / "checkpoints/step-8").sha256.keys()


@WAYS
@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_run_goes_on_with_another_number_of_processes(two, alone, together, n_processes, shard):
    """From the checkpoint in the middle of the other run."""
    out = two.folder / f"now-{n_processes}-{len(shard)}"
    shutil.copytree(together[bool(shard)] if n_processes == 1 else alone, out)
    shutil.rmtree(out / "checkpoints/step-8")
    more = shard if n_processes == 2 else []
    assert two.train(n_processes, out.name, "--resume", *more) == [0] * n_processes, two.said()
    assert_same_within_float32(out, alone)
    there, here = 3 - n_processes, n_processes
    change = f", shards {there} there and {here} here" if shard else ""
    told = f"the run continues, but not bit for bit: processes {there} there and {here} here{change}"
    assert two.said() == f"parambudget: {told}\n"


def test_settings_that_are_left_open_are_chosen_for_two(two):
    """Nothing is known of the link between processes on a CPU: no plan, but even micro-steps."""
    (two.folder / "open.json").write_text(json.dumps({"model": small_model().model_dump()}))
    command = ["train", "open.json", "--data", "text", "--device", "cpu", "--out", "open", "--steps", "2"]
    assert ended(two.begin(2, run_command, command)) == [0, 0], two.said()
    stored = json.loads((two.folder / "open/config.json").read_text())["train"]
    assert stored["gradient_accumulation_steps"] % 2 == 0


def test_muon_has_nearly_the_losses_of_one_process(two):
    """Its iteration rounds to 8 bits, and turns the last bits of a gradient into other ones."""
    assert two.train(1, "muon", "--optimizer", "muon") == [0]
    expected = [row["loss"] for row in rows_of(two.folder / "muon")]
    for n_processes, *more in ((2,), (2, "--shard"), (4, "--shard-degree", "2")):
        out = f"muon-{len(more)}"
        codes = two.train(n_processes, out, "--optimizer", "muon", *more)
        assert codes == [0] * n_processes, two.said()
        assert [row["loss"] for row in rows_of(two.folder / out)] == pytest.approx(expected, rel=1e-3)


@WAYS
def test_a_signal_to_one_process_stops_all_at_the_same_step(two, shard):
    out = two.folder / f"stopped-{len(shard)}"
    started = two.begin_run(2, out.name, "--steps", "100000", *shard)
    rows = out / "metrics.jsonl"
    wait_until(lambda: rows.exists() and rows.stat().st_size)
    os.kill(started[1].pid, signal.SIGTERM)
    assert ended(started) == [0, 0]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["finished"] is False
    state = read_state(out / "checkpoints" / f"step-{summary['steps']}")
    assert state.step == len(rows_of(out))


def wait_until(so: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not so() and time.monotonic() < until:
        time.sleep(0.005)


def saved_names(out: Path) -> set[str]:
    """Of checkpoints, finished or not."""
    return {path.name for path in out.glob("checkpoints/*")}


def test_hours_are_timed_in_step(two):
    assert two.train(2, "hours", "--hours", "0.0002", "--shard") == [0, 0], two.said()
    stored = json.loads((two.folder / "hours/config.json").read_text())
    steps = 0.0002 * 3600 / stored["provenance"]["update_seconds"]
    assert len(rows_of(two.folder / "hours")) == stored["train"]["steps"]
    assert 0.4 * steps <= stored["train"]["steps"] <= steps + 1


def test_a_text_that_is_read_too_often_is_said_once(two):
    batch = ["--batch-size", "64", "--gradient-accumulation-steps", "8"]
    assert two.train(2, "often", *batch) == [0, 0], two.said()
    assert two.said().count("epochs: the run reads") == 1
    assert two.said(1) == two.said(1, "out") == ""


@WAYS
def test_a_run_that_diverges_ends_on_all_processes(two, shard):
    assert two.train(2, f"mad-{len(shard)}", "--learning-rate", "1e18", *shard) == [1, 0]
    assert "not finite" in two.said()
    assert two.said(1) == ""


# Where the model is shared out, all of them write


def test_sigkill_at_random_moments_loses_nothing(two, together):
    """Two addends have one sum: with two processes, a run repeats itself bit for bit."""
    out, draw = two.folder / "killed", random.Random(0)
    for _ in range(5):
        before = saved_names(out)
        started = two.begin_run(2, out.name, "--shard", "--resume", "--save-every", "1")
        # Or the run has come to its end: then there is nothing more to save.
        wait_until(
            lambda before=before, started=started: (
                saved_names(out) != before or all(process.exitcode is not None for process in started)
            )
        )
        time.sleep(draw.uniform(0, 0.2))
        for process in started:
            process.kill()
        ended(started)
    assert two.train(2, out.name, "--shard", "--resume") == [0, 0], two.said()
    for name in ("loss", "grad_norm", "val_loss"):
        mine, others = ([row.get(name) for row in rows_of(run)] for run in (out, together[True]))
        assert mine == others
    for name in ("model", "optimizer"):
        assert_close(saved_in(out, name), saved_in(together[True], name), rtol=0, atol=0)
    assert not list(out.rglob(".*"))


@pytest.mark.slow
@WAYS
def test_signals_at_random_moments_lose_nothing(two, together, shard):
    """SIGTERM, SIGINT, SIGHUP or SIGKILL to one process or both, before, in and after the updates."""
    out, draw = two.folder / f"signals-{len(shard)}", random.Random(len(shard))
    for _ in range(10):
        started = two.begin_run(2, out.name, "--resume", "--save-every", "1", *shard)
        before = saved_names(out)
        if draw.random() < 0.7:  # else while the processes start
            wait_until(
                lambda before=before, started=started: (
                    saved_names(out) != before or any(process.exitcode is not None for process in started)
                )
            )
        time.sleep(draw.uniform(0, 0.2))
        kind = draw.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
        for process in started if kind == signal.SIGKILL else draw.sample(started, draw.randint(1, 2)):
            with suppress(ProcessLookupError):  # it has come to its end
                os.kill(process.pid, kind)
        for process in started:
            process.join(20)
            process.kill()  # as torchrun does to the others when one has ended
        ended(started)
        assert "Traceback" not in two.said() + two.said(1)
    assert two.train(2, out.name, "--resume", *shard) == [0, 0], two.said()
    for name in ("loss", "grad_norm", "val_loss"):
        mine, others = ([row.get(name) for row in rows_of(run)] for run in (out, together[bool(shard)]))
        assert mine == others
    for name in ("model", "optimizer"):
        assert_close(saved_in(out, name), saved_in(together[bool(shard)], name), rtol=0, atol=0)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_disk_that_is_full_for_one_process_is_told_once_and_stops_no_training(two, rank):
    out = f"full-{rank}"
    codes = two.train(2, out, "--shard", "--steps", "12", limits={rank: 6_000})
    assert codes == [2, 0], two.said()
    told = two.said().splitlines()
    assert len(told) == 3
    for step, line in zip((4, 8, 12), told, strict=True):
        assert f"cannot save {out}/checkpoints/step-{step}: File too large" in line
    assert "there is no checkpoint yet" in told[-1]
    assert two.said(1) == ""
    assert len(rows_of(two.folder / out)) == 12
    assert not list((two.folder / out / "checkpoints").iterdir())


def test_a_damaged_checkpoint_is_set_aside_by_all(two, together):
    out = two.folder / "damaged"
    shutil.copytree(together[True], out)
    with (out / "checkpoints/step-8/optimizer.safetensors").open("r+b") as file:
        file.truncate(1_000)
    assert two.train(2, out.name, "--shard", "--resume") == [0, 0]
    assert "damaged: optimizer.safetensors does not match its hash; it is set aside" in two.said()
    for name in ("model", "optimizer"):
        assert_close(saved_in(out, name), saved_in(together[True], name), rtol=0, atol=0)


def test_a_shared_run_starts_from_the_weights_of_another(two, alone):
    first = ["--steps", "2", "--init", "alone/checkpoints/step-8"]
    assert two.train(1, "init-1", *first) == [0]
    assert two.train(2, "init-2", *first, "--shard") == [0, 0], two.said()
    losses = [rows_of(two.folder / out)[0]["loss"] for out in ("init-1", "init-2")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert losses[0] < rows_of(alone)[0]["loss"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "alone contains another run"),
        (["--out", "config.json"], "config.json is not a writable folder"),
        (["--out", "new", "--data", "nowhere"], "no data at nowhere"),
        (
            ["--resume", "--steps", "3"],
            "run in alone cannot be resumed with steps=3: it has made 8 updates",
        ),
        (["--out", "new", "--init", "broken"], "checkpoint broken is damaged: model.safetensors"),
        (["--out", "new", "--steps", "0"], "steps is 0"),
        (["--out", "new", "--tokens", "1M", "--steps", "2"], "both set the length of the run"),
        (["--out", "new", "--unknown"], "no such option: --unknown"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line_of_the_leading_process(two, alone, more, message):
    """Whichever of them finds it: the others end in silence with the same code, and nothing is left."""
    broken = two.folder / "broken"
    if not broken.exists():
        shutil.copytree(alone / "checkpoints/step-8", broken)
        with (broken / "model.safetensors").open("r+b") as file:
            file.truncate(1_000)
    before = {path: path.read_bytes() for path in alone.rglob("*") if path.is_file()}
    assert two.train(2, "alone", *more) == [2, 2], two.said() + two.said(1)
    assert message in two.said()
    assert two.said().count("\n") == 1
    assert two.said(1) == without_status(two.said(to="out")) == two.said(1, "out") == ""
    assert {path: path.read_bytes() for path in alone.rglob("*") if path.is_file()} == before
    assert not (two.folder / "new").exists()


def test_there_is_nobody_to_share_with_in_one_process(two):
    assert two.train(1, "lonely", "--shard") == [2]
    assert "and there is only one; start it with torchrun" in two.said()
    assert not (two.folder / "lonely").exists()
    with pytest.raises(InputError, match="`shard=True` splits the model among several processes"):
        SINGLE_PROCESS.require_possible(Sharding(True))


@pytest.mark.parametrize(
    "check",
    [
        checks.weights_drawn_in_pieces_are_those_of_one_process,
        checks.every_choice_gives_the_gradient_of_one_process,
        checks.experts_learn_as_in_one_process,
        checks.buffers_stay_the_same_although_they_are_never_sent,
        checks.all_stop_after_the_same_update,
        checks.layers_that_travel_in_bfloat16_give_nearly_the_loss_of_one_process,
        checks.muon_makes_the_update_of_whole_matrices,
        checks.settings_that_fit_are_agreed_on,
    ],
    ids=lambda check: check.__name__,
)
def test_in_step(two, check):
    assert ended(two.begin(2, in_step, [check])) == [0, 0], two.said() + two.said(1)


# Four processes, of which two hold one copy of the model


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(checks.weights_drawn_in_pieces_are_those_of_one_process, marks=pytest.mark.slow),
        checks.every_choice_gives_the_gradient_of_one_process,
        pytest.param(checks.experts_learn_as_in_one_process, marks=pytest.mark.slow),
        checks.muon_makes_the_update_of_whole_matrices,
        pytest.param(checks.settings_that_fit_are_agreed_on, marks=pytest.mark.slow),
    ],
    ids=lambda check: check.__name__,
)
def test_four_in_step(two, check):
    assert ended(two.begin(4, in_step, [check])) == [0] * 4, "".join(map(two.said, range(4)))


@pytest.fixture(scope="module")
def replicated(two) -> Path:
    """The same run of four processes with two copies of the model, each divided between two."""
    assert two.train(4, "replicated", "--shard-degree", "2") == [0] * 4, two.said()
    return two.folder / "replicated"


def test_two_copies_on_four_processes_have_the_losses_of_one_process(replicated, alone):
    assert_same_within_float32(replicated, alone)
    kept = {path.relative_to(alone) for path in alone.rglob("*")}
    assert {path.relative_to(replicated) for path in replicated.rglob("*")} == kept
    stored = json.loads((replicated / "config.json").read_text())["train"]
    assert stored == json.loads((alone / "config.json").read_text())["train"]


@pytest.mark.parametrize(
    ("n_processes", "more", "changed"),
    [
        (2, ["--shard"], "processes 4 there and 2 here"),
        (1, [], "processes 4 there and 1 here, shards 2 there and 1 here"),
    ],
)
def test_a_run_with_replicas_goes_on_without_them(two, replicated, alone, n_processes, more, changed):
    out = two.folder / f"from-replicas-{n_processes}"
    shutil.copytree(replicated, out)
    shutil.rmtree(out / "checkpoints/step-8")
    assert two.train(n_processes, out.name, "--resume", *more) == [0] * n_processes, two.said()
    assert_same_within_float32(out, alone)
    assert two.said() == f"parambudget: the run continues, but not bit for bit: {changed}\n"


def test_a_run_goes_on_with_replicas(two, together, alone):
    out = two.folder / "to-replicas"
    shutil.copytree(together[True], out)
    shutil.rmtree(out / "checkpoints/step-8")
    assert two.train(4, out.name, "--resume", "--shard-degree", "2") == [0] * 4, two.said()
    assert_same_within_float32(out, alone)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shard-degree", "3"], "does not divide 2 processes into equal groups of at least 2; use 2"),
        (["--shard-degree", "2", "--no-shard"], "--shard-degree 2 needs --shard; leave one of them out"),
    ],
)
def test_a_shard_degree_that_cannot_be_is_a_line(two, more, message):
    assert two.train(2, "degree", *more) == [2, 2]
    assert message in two.said()
    assert two.said().count("\n") == 1
    assert not (two.folder / "degree").exists()
