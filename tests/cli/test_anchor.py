"""`--anchor` and `--target-loss` at the command line: runs in folders, runs described in a line, refusals."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from support.finished_run import MODEL, SIZES, TOKENS, write_run

import parambudget as pb
from parambudget.planning.finished_runs import newest_finished_run
from parambudget.training.anchor_source import read_measured_run


def test_a_finished_run_is_read_with_its_text_and_its_update(tmp_path):
    run = read_measured_run(str(write_run(tmp_path / "a")))
    assert (run.loss, run.tokens, run.model, run.unique_tokens) == (3.25, TOKENS, MODEL, TOKENS)
    assert (run.tokens_per_second, run.device) == (300_000.0, "NVIDIA H100 80GB HBM3")
    assert run.step.tokens_per_update(64) == 4096
    assert run.step.world_size == 1
    repeated = read_measured_run(str(write_run(tmp_path / "b", provenance={"train_tokens": 10**6})))
    assert repeated.unique_tokens == 10**6
    unknown = read_measured_run(str(write_run(tmp_path / "c", provenance={"version": "0"})))
    assert unknown.unique_tokens is None
    four = read_measured_run(str(write_run(tmp_path / "d", peak_flops=4 * 989.4e12)))
    assert four.step.world_size == 4


def test_the_sets_of_a_mixture_are_repeated_each_as_often_as_it_is_read(tmp_path):
    sets = [
        {"name": "web", "share": "3/4", "train_tokens": 10**9},
        {"name": "books", "share": "1/4", "train_tokens": 10_000},
    ]
    run = read_measured_run(str(write_run(tmp_path / "a", provenance={"mixture": sets})))
    assert run.unique_tokens == TOKENS * 3 // 4 + 10_000


def test_a_run_is_described_in_a_line():
    run = read_measured_run("loss=3.21, tokens=400M,model=gpt2,unique_tokens=1M,tokens-per-second=140_000")
    assert (run.loss, run.tokens, run.model) == (3.21, 400_000_000, pb.model("gpt2"))
    assert (run.unique_tokens, run.tokens_per_second, run.device) == (1_000_000, 140_000.0, None)


def test_a_plan_is_anchored_at_a_run_from_beginning_to_end(run, tmp_path):
    folder = write_run(tmp_path / "a")
    shown = run(
        "plan", *SIZES, "--gpu", "h100", "--hours", 0.01, "--anchor", folder, "--target-loss", 3.0,
        "--batch-size", 16, "--gradient-accumulation-steps", 4,
    )  # fmt: skip
    code, out, err = shown
    assert (code, err) == (0, "")
    assert "speed     300,000 tokens/s (255,000 to 345,000)\n" in out
    assert f"besiroglu-2024 at the level of {folder} (3.25 nats per token after 2.048M tokens)" in out
    assert "over the laws through that run, seeds and speeds)" in out
    assert "\ntarget    3 nats per token: reached after " in out
    values = json.loads(
        run("plan", *SIZES, "--gpu", "h100", "--tokens", "2.048M", "--anchor", folder, "--json")[1]
    )
    assert values["loss"]["anchor"] == {
        "loss": 3.25, "tokens": TOKENS, "vocab_size": 400, "source": str(folder), "unique_tokens": TOKENS,
        "n_parameters": pb.count(MODEL).total,
    }  # fmt: skip
    assert values["target"] is None


def test_a_target_without_a_run_is_answered_with_the_command_of_one(run):
    code, out, _ = run("plan", "gpt2", "--gpu", "h100", "--hours", 10, "--target-loss", 3.0781)
    assert code == 0
    assert "target    3.0781 nats per token cannot be told for this text and tokenizer without one run" in out
    (first,) = [line for line in out.splitlines() if line.startswith("first run")]
    first_run = pb.plan("gpt2", "h100", hours=10, target_loss=3.0781).target.first_run
    assert f"1/{round(1 / first_run.share)} of this run" in out
    assert first.endswith(f" --steps {first_run.updates}")
    assert " train " in first


def test_a_target_that_is_never_reached_has_the_limit_of_the_model(run):
    out = run(
        "plan", "gpt2", "--gpu", "h100", "--hours", 1, "--target-loss", 1.5,
        "--anchor", "loss=3.5,tokens=400M,model=gpt2",
    )[1]  # fmt: skip
    assert "1.5 nats per token: not reached by this model, however long it trains: its limit is 2.2" in out


def test_solve_searches_at_the_level_of_a_run(run, tmp_path):
    anchor = "loss=3.5,tokens=400M,model=gpt2"
    flags = ("--flops", "1e18", "--top", 1, "--n-layers", 12, "--head-dim", 64, "--anchor", anchor)
    code, out, err = run("solve", *flags)
    assert (code, err) == (0, "")
    assert "losses are at the level of the given run: of its text and tokenizer" in out
    assert f"--anchor {anchor}" in out
    assert json.loads(run("solve", *flags, "--json")[1])["solutions"][0]["forecast"]["loss_level"]
    code, _, err = run("solve", "--flops", "1e18", "--anchor", write_run(tmp_path / "a"))
    assert (code, "--vocab-size 400" in err) == (2, True)


@pytest.mark.parametrize(
    ("anchor", "said"),
    [
        ("nowhere", "--anchor nowhere is no folder; give that of a finished run, or loss=3.21,"),
        ("", "--anchor is empty; give the folder of a finished run, or loss="),
        ("loss=3.21", "give loss, tokens and model together"),
        ("loss=3.21,tokens=400M,model=gpt2,tokns=3", "--anchor has no tokns; use tokens: "),
        ("loss=low,tokens=400M,model=gpt2", "--anchor has loss=low, which is no number; write loss=3.21,"),
        ("loss=3,loss=4", "--anchor has loss twice; give it once"),
        ("loss=3,tokens", "--anchor has 'tokens', which is no key=value; write"),
        ("loss=3,tokens=many,model=gpt2", "tokens of the anchor 'many' is not a count"),
        ("loss=3,tokens=1M,model=no-such-model", "unknown preset 'no-such-model'"),
        ("loss=inf,tokens=1M,model=gpt2", "loss is inf; it must be a finite number above 0"),
        ("tokens-per-second=0", "tokens_per_second is 0; it must be a finite number above 0"),
    ],
)
def test_a_wrong_anchor_is_one_line(run, anchor, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("plan", "gpt2", "--gpu", "h100", "--hours", 1, "--anchor", anchor)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize(
    ("provenance", "summary", "said"),
    [
        (None, {"finished": False}, "has not finished: it stands at 500 updates"),
        (None, {"val_loss": None}, "has no finite validation loss; use another run as --anchor"),
        ({"init": "runs/base"}, {}, "has started from other weights, so its loss is not that of its tokens"),
        ({"train_tokens": 0}, {}, "provenance in "),
        (None, {"tokens": "many"}, "summary.json is damaged: tokens is 'many'"),
    ],
)
def test_a_run_that_cannot_be_an_anchor_is_one_line(run, tmp_path, provenance, summary, said):
    folder = write_run(tmp_path / "a", provenance=provenance, **summary)
    code, out, err = run("plan", *SIZES, "--gpu", "h100", "--hours", 1, "--anchor", folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_a_folder_without_a_run_or_without_a_summary_is_one_line(run, tmp_path):
    (tmp_path / "empty").mkdir()
    unsaved = write_run(tmp_path / "unsaved")
    (unsaved / "summary.json").unlink()
    for folder in (tmp_path / "empty", unsaved):
        code, _, err = run("plan", *SIZES, "--gpu", "h100", "--hours", 1, "--anchor", folder)
        assert (code, err.count("\n")) == (2, 1)
        assert "holds no run that has been saved" in err


def test_a_finished_run_of_the_same_vocabulary_is_offered(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = ("plan", *SIZES, "--gpu", "h100", "--hours", 0.01)
    assert run(*plan)[2] == ""
    for n, name in enumerate(("older", "newer")):
        folder = write_run(tmp_path / "runs" / name)
        os.utime(folder / "summary.json", (n, n))
    write_run(tmp_path / "runs" / "unfinished", finished=False)
    code, out, err = run(*plan)
    assert (code, err.count("\n")) == (0, 1)
    assert "the finished run runs/newer has the same vocabulary; with --anchor runs/newer losses" in err
    assert run("plan", "gpt2", "--gpu", "h100", "--hours", 1)[2] == ""
    assert run(*plan, "--anchor", "runs/newer")[2] == ""
    assert "runs/newer" not in run(*plan, "--json")[1] + out


def test_what_is_damaged_is_not_offered(tmp_path):
    shutil.copytree(write_run(tmp_path / "runs" / "good"), tmp_path / "runs" / "cut")
    assert newest_finished_run(tmp_path / "runs", 400) is not None
    for name in ("good", "cut"):
        (tmp_path / "runs" / name / "config.json").write_text("{")
    assert newest_finished_run(tmp_path / "runs", 400) is None
    assert newest_finished_run(tmp_path / "nowhere", 400) is None


@pytest.mark.parametrize(("flag", "said"), [("--anchor", "runs/a"), ("--target-loss", "3")])
def test_inference_reaches_no_loss(run, flag, said):
    code, out, err = run("plan", "gpt2", "--inference", "--gpu", "h100", flag, said)
    assert (code, out) == (2, "")
    assert f"{flag} {said} has no effect: nothing is trained" in err


def test_a_model_to_resize_has_no_loss_to_anchor(run):
    code, _, err = run("solve", "--from", "gpt2", "--target", "100M", "--anchor", "runs/a")
    assert (code, "--law, --unique-tokens and --anchor are for a budget" in err) == (2, True)


def test_an_anchor_is_read_without_torch(tmp_path):
    code = (
        "import sys, parambudget as pb\n"
        "model = pb.model(dim=64, n_layers=2, n_heads=2, vocab_size=400)\n"
        f"pb.plan(model, 'h100', anchor={str(tmp_path / 'a')!r})\n"
        "print('torch' in sys.modules)"
    )
    write_run(tmp_path / "a")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
