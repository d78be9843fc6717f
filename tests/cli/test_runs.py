"""What a run left is told truly: finished, cut short or damaged, alone or beside others."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
import torch
from support.training_data import small_config, small_data, small_model

from parambudget.cli.main import main
from parambudget.cost.params import total
from parambudget.training import loop


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with two finished runs."""
    folder = tmp_path_factory.mktemp("runs")
    data, before = small_data(folder), torch.get_num_threads()
    torch.set_num_threads(1)
    for seed in (0, 1):
        loop.train(
            loop.TrainJob(small_model(), small_config(seed=seed), data, folder / f"seed-{seed}"), device="cpu"
        )
    torch.set_num_threads(before)
    return folder


@pytest.fixture
def run(runs, tmp_path, monkeypatch) -> Path:
    """A copy of one of them, at hand as `run`."""
    shutil.copytree(runs / "seed-0", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


@pytest.fixture
def parambudget(monkeypatch, capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["parambudget", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    return call


def shown(parambudget, *arguments: str) -> dict:
    code, out, err = parambudget("runs", "show", *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_json_agrees_with_what_the_run_wrote(run, parambudget):
    figures, summary = shown(parambudget, "run"), json.loads((run / "summary.json").read_text())
    for name in ("finished", "parameters", "steps", "tokens", "loss", "val_loss", "val_bits_per_byte", "mfu"):
        assert figures[name] == summary[name], name
    assert figures["parameters"] == figures["planned"] == total(small_model())
    assert figures["mfu"] is None
    # The summary's clock and the metrics' rates are the same measurement.
    assert figures["tokens_per_second"] == pytest.approx(summary["tokens_per_second"], rel=1e-6)
    assert 0 < figures["update_seconds"] <= summary["seconds"]
    assert not (run / "loss.png").exists()


def test_the_table_says_it_to_a_person(run, parambudget):  # noqa: ARG001 - it lies there
    code, out, err = parambudget("runs", "show", "run")
    assert (code, err) == (0, "")
    assert "finished, 6 of 6 updates" in out
    assert "27,168 (as planned)" in out
    assert "bits per byte" in out
    assert out.endswith("loss curve: run/loss.png\n")


def test_the_curve_is_an_opaque_picture_with_something_in_it(run, parambudget):
    parambudget("runs", "show", "run")
    picture = matplotlib.image.imread(run / "loss.png")
    assert picture.shape == (750, 1200, 4)
    assert picture[..., 3].min() == 1
    assert 0.005 < (picture[..., :3].mean(axis=-1) < 0.9).mean() < 0.2


def test_several_runs_stand_side_by_side(runs, parambudget, tmp_path):
    folders = [str(runs / f"seed-{seed}") for seed in (0, 1)]
    code, out, err = parambudget("runs", "show", *folders, "--figure", str(tmp_path / "both.png"))
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["run", "seed-0", "seed-1"]
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    assert [each["run"] for each in shown(parambudget, *folders)] == folders


def test_a_run_that_was_killed_is_told_from_its_metrics(run, parambudget):
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints/step-6")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines[:4], lines[4][:30]]))
    figures = shown(parambudget, "run")
    assert (figures["finished"], figures["steps"], figures["planned_steps"]) == (False, 4, 6)
    assert figures["val_loss"] == json.loads(lines[2])["val_loss"]
    assert "not finished, 4 of 6 updates" in parambudget("runs", "show", "run")[1]


def test_a_loss_that_is_not_finite_is_left_out_of_the_curve_and_counted(run, parambudget):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[4] |= {"loss": None, "grad_norm": None, "skipped": True}
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert shown(parambudget, "run")["skipped"] == 1
    assert parambudget("runs", "show", "run")[0] == 0
    assert (run / "loss.png").exists()


def test_one_broken_run_hides_no_other(run, parambudget):
    shutil.copytree(run, "broken")
    Path("broken/config.json").write_text('{"model": ')
    code, out, err = parambudget("runs", "show", "run", "broken")
    assert code == 2
    assert "finished, 6 of 6 updates" in out
    assert "broken/config.json is not valid JSON" in err
    assert err.count("\n") == 1
    code, out, _ = parambudget("runs", "show", "run", "broken", "--json")
    assert (code, [each["run"] for each in json.loads(out)]) == (2, ["run"])


def test_what_no_run_has_yet_takes_no_line(run, parambudget):
    assert "best validation" in parambudget("runs", "show", "run")[1]
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:2]))
    out = parambudget("runs", "show", "run")[1]
    rows = [re.split(r"  +", line, maxsplit=1) for line in out.splitlines()]
    assert ["validation loss", "not evaluated"] in rows
    assert all(len(row) == 2 and all(row) for row in rows[:-1]), out
    assert "best validation" not in out


def test_figures_are_shown_where_no_picture_can_be_written(run, parambudget):
    (run / "loss.png").mkdir()
    code, out, err = parambudget("runs", "show", "run")
    assert code == 0
    assert "finished, 6 of 6 updates" in out
    assert err.startswith("parambudget: no loss curve: cannot write run/loss.png")


def test_looking_at_runs_imports_no_torch(run):
    code = "import sys; from parambudget.cli.main import main\ntry: main()\n"
    code += "finally: assert 'torch' not in sys.modules"
    ran = subprocess.run(
        [sys.executable, "-c", code, "runs", "show", "run"],
        cwd=run.parent, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"step": 3}, "is not of update 2"),
        ({"loss": "low"}, "loss is 'low'"),
        ({"loss": float("nan")}, "loss is nan"),
        ({"tokens": -1}, "tokens is -1"),
        ({"tokens_per_second": 0}, "is not of update 2"),
        ({"extra": 1}, "extra is 1"),
    ],
)
def test_a_row_that_train_cannot_have_written_is_named(run, parambudget, row, problem):
    shutil.rmtree(run / "checkpoints")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[1] |= row
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = parambudget("runs", "show", "run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "run/metrics.jsonl, line 2," in err
    assert problem in err


@pytest.mark.parametrize("summary", ["[]", "null", "{}", '{"finished": 1}', "nonsense"])
def test_a_damaged_summary_is_named(run, parambudget, summary):
    (run / "summary.json").write_text(summary)
    code, out, err = parambudget("runs", "show", "run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "run/summary.json is" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no run has started in nowhere; give the folder of a run"),
        (["empty"], "empty has no update yet"),
        (["damaged"], "damaged/metrics.jsonl, line 2, is not a line that train wrote"),
        (["other"], "other/metrics.jsonl is damaged: line 2 is not what train wrote; resume the run to "),
        (["run", "--figure", "loss.pdf"], "loss.pdf is not a PNG; use a name that ends in .png"),
        (["run", "--figure", "nowhere/loss.png"], "cannot write nowhere/loss.png: No such file or directory"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(run, parambudget, arguments, message):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    for name, rows in (("empty", []), ("damaged", [lines[0], "none\n"]), ("other", [lines[0], *lines[2:]])):
        shutil.copytree(run, name, ignore=shutil.ignore_patterns("step-*" if name != "other" else ""))
        Path(name, "metrics.jsonl").write_text("".join(rows))
    code, out, err = parambudget("runs", "show", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
