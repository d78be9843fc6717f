"""A trained run in transformers and back: the same logits, the same tokens, or one line that says why not."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.tiny_model import random_tokens
from support.training_data import SENTENCE, small_config, small_data, small_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from parambudget.cli.main import main
from parambudget.errors import InputError
from parambudget.text.tokenizer import tokenizer_files
from parambudget.training import loop
from parambudget.training.device import select_device
from parambudget.training.generate import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = select_device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    loop.train(loop.TrainJob(small_model(), small_config(), small_data(folder), folder / "run"), device="cpu")
    return folder / "run"


@pytest.fixture
def parambudget(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["parambudget", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def exported(run, parambudget, tmp_path) -> Path:
    code, out, _ = parambudget("export", "--to", "hf", "--weights", run, "-o", tmp_path / "hf")
    assert (code, "llama" in out) == (0, True)
    return tmp_path / "hf"


def test_an_exported_run_has_the_same_logits_in_transformers(run, exported):
    ours = load_checkpoint(run, CPU).module
    theirs = AutoModelForCausalLM.from_pretrained(exported).eval()
    tokens = random_tokens(ours.model)
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, ours(tokens), rtol=0, atol=1e-4)


@settings(max_examples=30)
@given(text=st.text(max_size=40))
def test_an_exported_tokenizer_gives_the_same_ids(run, text, tmp_path_factory):
    ours = load_checkpoint(run, CPU).tokenizer
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, held in tokenizer_files(ours, 16).items():
        (folder / name).write_text(held, encoding="utf-8")
    theirs = AutoTokenizer.from_pretrained(folder)
    for words in (text, f"{SENTENCE}\n\n {text}'s 1234"):
        assert theirs(words)["input_ids"] == ours.tokenizer.encode(words).ids
    assert theirs.eos_token_id == ours.end


def test_an_exported_folder_writes_the_same_text(run, exported, parambudget):
    wanted = ("--prompt", "the model", "--temperature", "0", "--max-tokens", "8")
    assert parambudget("sample", exported, *wanted) == parambudget("sample", run, *wanted)


def test_training_starts_from_an_exported_folder_as_from_its_checkpoint(run, exported, data, tmp_path):
    steps = []
    for init in (sorted((run / "checkpoints").iterdir())[-1], exported):
        loop.train(
            loop.TrainJob(small_model(), small_config(steps=2), data, tmp_path / str(len(steps)), init=init),
            device="cpu",
            on_step=steps.append,
        )
    assert [step.loss for step in steps[:2]] == [step.loss for step in steps[2:]]


def test_a_vocabulary_and_its_merges_are_a_tokenizer_too(run, exported, data, parambudget, tmp_path):
    wanted = ("--prompt", "the model", "--temperature", "0", "--max-tokens", "8")
    expected = parambudget("sample", exported, *wanted)
    load_checkpoint(run, CPU).tokenizer.tokenizer.model.save(str(exported))
    (exported / "tokenizer.json").unlink()
    assert parambudget("sample", exported, *wanted) == expected
    notices = train_from(exported, data, tmp_path / "further")
    assert not any("lack" in notice for notice in notices)
    (exported / "merges.txt").unlink()
    code, out, err = parambudget("sample", exported)
    assert (code, out) == (2, "")
    assert "has neither tokenizer.json nor vocab.json with merges.txt; put the model's" in err


def train_from(init: Path, data, out: Path, **changes: object) -> list[str]:
    notices: list[str] = []
    job = loop.TrainJob(small_model().replace(**changes), small_config(steps=2), data, out, init=init)
    loop.train(job, device="cpu", on_notice=notices.append)
    return notices


def test_weights_for_another_function_are_told(exported, data, tmp_path):
    (notice,) = train_from(exported, data, tmp_path / "other", rope_theta=77.0)
    assert "have learned with rope_theta=10000.0 (here 77.0): this model computes something else" in notice


def test_weights_that_are_no_numbers_are_named(exported, data, parambudget, tmp_path):
    weights = load_file(exported / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, exported / "model.safetensors")
    code, out, err = parambudget("sample", exported)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "model.norm.weight in " in err
    with pytest.raises(InputError, match=r"^model.norm.weight in .* has values that are not finite"):
        train_from(exported, data, tmp_path / "further")


def test_a_damaged_checkpoint_is_passed_over(run, parambudget, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    weights = tmp_path / "run" / "checkpoints" / "step-6" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, out, err = parambudget("export", "--to", "hf", "--weights", tmp_path / "run", "-o", tmp_path / "hf")
    assert (code, "step-3" in out, "step-6 is damaged" in err) == (0, True, True)


REFUSED = {
    "no folder": ((), "name their folder with --out"),
    "another tool": (("--to", "litgpt", "-o", "out"), "--to is litgpt"),
    "another model": (("gpt2", "-o", "out"), "is of another model: dim is 32 there and 768 here"),
    "another class": (("--model-type", "gpt2", "-o", "out"), "no config of gpt2 is equivalent to this model"),
    "a file in place": (("-o", __file__), "already exists"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_an_export_that_cannot_be_is_one_line_and_exit_2(run, parambudget, arguments, message):
    code, out, err = parambudget("export", "--weights", run, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
