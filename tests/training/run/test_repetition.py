"""A run says that it reads its text too often, and the built-in text is no silent default of a long run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.training_data import small_config, small_model, write_text

import parambudget as pb
from parambudget.errors import InputError
from parambudget.text import corpus
from parambudget.training.run.repetition import repetition_notice

pytestmark = pytest.mark.usefixtures("one_thread")

OWN = Path("my-text")


def notice(data, steps: int, named: Path | None) -> str | None:
    """Of a run whose updates are each a tenth of an epoch."""
    of_640_tokens = replace(data, train=np.zeros(640, np.uint16))
    return repetition_notice(small_config(steps=steps), small_model(), of_640_tokens, named)


@pytest.mark.parametrize("named", [None, OWN, corpus.BUILT_IN])
def test_a_run_speaks_above_four_epochs_whatever_its_text(data, named):
    assert notice(data, 40, named) is None
    said = notice(data, 41, named)
    assert said.startswith("4.1 epochs: the run reads 2.624K tokens from a text of 640; ")
    assert said.endswith("(Muennighoff et al. 2023)")


def test_above_twenty_epochs_a_text_is_a_persons_choice(data):
    assert notice(data, 200, None).startswith("20 epochs: ")
    for named in (OWN, corpus.BUILT_IN):
        assert notice(data, 210, named).startswith("21 epochs: ")
    with pytest.raises(InputError, match=r"no text was named.* 21 times.*`tokens=12_700`.*`data='builtin'`"):
        notice(data, 210, None)


def test_where_not_even_one_update_is_short_enough_the_batch_is_named(data):
    few = replace(data, train=np.zeros(20, np.uint16))
    with pytest.raises(InputError, match="use a smaller `batch_size`"):
        repetition_notice(small_config(batch_size=40), small_model(), few, None)


# On the command line


@pytest.fixture
def train(run, tmp_path, monkeypatch):
    """The command, in a folder, where the built-in text is a short one."""
    files = sorted(write_text(tmp_path / "library").iterdir())
    monkeypatch.setattr(corpus, "_standard_library", lambda: files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    small_model().save("config.json")
    fixed = ["--out", "run", "--device", "cpu"]
    return lambda *arguments: run("train", *arguments, *fixed)


LARGE = ["config.json", "--batch-size", "128", "--gradient-accumulation-steps", "4"]
"""An update is more than an epoch of that text."""


def state() -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in Path("run").rglob("*") if file.is_file()}


def test_a_long_run_on_the_built_in_text_is_refused_in_one_line_and_leaves_nothing(train):
    for length in (["--steps", "30"], ["--tokens", "250_000"], ["--hours", "1"]):
        code, _, err = train(*LARGE, *length)
        assert (code, err.count("\n")) == (2, 1), err
        assert "name your text with --data, use at most --tokens " in err
        assert err.endswith("or choose the built-in text with --data 'builtin'\n")
        assert len(err) < 500
        assert not Path("run").exists()


def test_a_long_run_on_the_built_in_text_is_made_for_one_who_names_it_and_goes_on(train):
    code, _, err = train(*LARGE, "--steps", "20", "--data", "builtin")
    assert (code, err.count("\n")) == (0, 1), err
    assert " epochs: the run reads 163.8K tokens from a text of " in err
    assert json.loads(Path("run/config.json").read_text())["provenance"]["data"] == "builtin"
    code, _, err = train("--resume", "--steps", "22")
    assert (code, err.count("\n")) == (0, 1), err
    assert " epochs: the run reads 180.2K tokens" in err


def test_a_run_that_would_be_resumed_beyond_the_limit_stays_as_it_is(train):
    assert train(*LARGE, "--steps", "2")[0] == 0
    before = state()
    code, _, err = train("--resume", "--steps", "30")
    assert code == 2
    assert "no text was named" in err
    assert state() == before
    code, _, err = train("--resume", "--steps", "30", "--data", "builtin", "--save-every", "30")
    assert code == 0, err
    assert "epochs: the run reads 245.8K tokens" in err


def test_ones_own_text_is_read_as_often_as_one_likes(train, tmp_path):
    code, _, err = train(*LARGE, "--steps", "20", "--data", str(tmp_path / "library"))
    assert code == 0
    assert "above 16, little is gained" in err


def test_a_folder_of_the_name_is_that_folder(train):
    write_text(Path("builtin"), seed=1)
    assert train(*LARGE, "--steps", "1", "--data", "builtin")[0] == 0
    assert json.loads(Path("run/config.json").read_text())["provenance"]["data"] == str(
        Path("builtin").absolute()
    )


@pytest.mark.usefixtures("train")
def test_from_python_the_notice_is_an_event_and_the_error_names_arguments(tmp_path):
    said: list[str] = []
    events = pb.TrainEvents(on_notice=said.append)
    model = pb.model("config.json")
    fields = {"batch_size": 128, "gradient_accumulation_steps": 4, "device": "cpu"}
    with pytest.raises(pb.InputError, match="name your text with `data`"):
        pb.train(model, tmp_path / "one", steps=30, **fields)
    pb.train(model, tmp_path / "two", steps=20, data="builtin", events=events, **fields)
    assert [line.split(": ")[1].split(" tokens")[0] for line in said] == ["the run reads 163.8K"]


def test_the_length_that_the_refusal_names_is_allowed(train):
    err = train(*LARGE, "--steps", "30")[2]
    named = err.split("use at most ")[1].split(",")[0].split()
    assert train(*LARGE, *named)[0] == 0
