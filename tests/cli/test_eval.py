"""`parambudget eval`, and the evaluation at the end of `train`."""

import json

import pytest
import torch
from support.training_data import WORDS, small_model, write_text

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a text, questions, and what is no question."""
    folder = tmp_path_factory.mktemp("here")
    write_text(folder / "text")
    (folder / "config.json").write_text(json.dumps({"model": small_model().model_dump()}))
    question = {"ctx": "the model of", "endings": ["one or two", "learns"], "label": "0"}
    (folder / "questions.jsonl").write_text(4 * (json.dumps(question) + "\n"))
    (folder / "broken.jsonl").write_text(json.dumps(question) + "\n" + json.dumps(question | {"label": 2}))
    (folder / "held_out.txt").write_text(" ".join(WORDS * 3))
    return folder


def train(run, *more: str):
    return run(
        "train", "config.json", "--data", "text", "--batch-size", 8, "--gradient-accumulation-steps", 1,
        "--steps", 3, "--device", "cpu", *more,
    )  # fmt: skip


def test_a_run_is_evaluated_at_its_end_and_again_with_the_same_result(here, run, monkeypatch):
    monkeypatch.chdir(here)
    files = ["--eval-choices", "questions.jsonl", "--eval-text", "held_out.txt"]
    code, out, err = train(run, "--out", "run", *files, "--json")
    assert code == 0, err
    at_end = json.loads(out)["eval"]
    again = ["eval", "run", "--choices", "questions.jsonl", "--text", "held_out.txt", "--device", "cpu"]
    code, out, err = run(*again, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == at_end
    code, out, _ = run(*again)
    assert code == 0
    assert "questions.jsonl: 4 questions, guessing gets 50.0 %" in out
    assert f"{at_end['text']['bits_per_byte']:.4f} bits per byte" in out
    (kept,) = json.loads((here / "run" / "eval.json").read_text())
    assert kept == at_end | {"checkpoint": "step-3"}
    code, out, _ = run("runs", "show", "run")
    assert "evaluated  step-3: acc_norm" in out
    assert json.loads(run("runs", "show", "run", "--json")[1])["eval"] == [kept]


def test_without_files_the_held_out_text_of_the_run_is_read(here, run, monkeypatch):
    monkeypatch.chdir(here)
    if not (here / "run").exists():
        assert train(run, "--out", "run")[0] == 0
    code, out, err = run("eval", "run", "--device", "cpu", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["choices"], found["text"]["file"]) == (None, "text, held out")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eval-choices", "broken.jsonl"], "broken.jsonl, line 2: 'label' is 2, not 0 to 1"),
        (["--eval-choices", "nothing"], "no questions at nothing"),
        (["--eval-text", "nothing"], "no data at nothing"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_before_the_run(here, run, monkeypatch, flags, message):
    monkeypatch.chdir(here)
    code, out, err = train(run, "--out", "refused", *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (here / "refused").exists()


@pytest.mark.parametrize("arguments", [["eval", "text"], ["eval", "nothing", "--text", "text"]], ids=str)
def test_what_is_no_model_is_refused_in_one_line(here, run, monkeypatch, arguments):
    monkeypatch.chdir(here)
    code, out, err = run(*arguments, "--device", "cpu")
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_nearly_the_same(here, run, monkeypatch):
    monkeypatch.chdir(here)
    if not (here / "run").exists():
        assert train(run, "--out", "run")[0] == 0
    scores = [
        json.loads(run("eval", "run", "--text", "held_out.txt", "--device", device, "--json")[1])["text"]
        for device in ("cpu", "cuda")
    ]
    # bfloat16 has 8 bits: half a per cent of a logit.
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], rel=0.02)
