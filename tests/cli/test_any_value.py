"""Whatever a flag is given, the outcome is success or one line."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from support import outcomes
from support.odd_values import any_value
from support.outcomes import check_outcome
from support.training_data import small_model, write_text

from parambudget.cli.main import application

MODEL = ["config.json"]
NO_RUN = ["--device", "cpu"]
COMMANDS = {
    "count": MODEL,
    "solve": ["--target", "2M", "--vocab-size", "1000", "--n-layers", "4:8", "--head-dim", "32"],
    "plan": [*MODEL, "--gpu", "h100"],
    "data prepare": ["text", "--tokenizer", "bpe", "--vocab-size", "300", "-o", "nowhere.txt/x"],
    "presets": [], "gpus": [], "calibrate": ["--show"], "runs show": ["text"],
    "train": [*MODEL, "--data", "nowhere", "--out", "made/run", *NO_RUN],
    "sample": ["text", *NO_RUN], "eval": ["text", *NO_RUN],
}  # fmt: skip
"""What comes to an end within a moment, by command."""
LONG = {
    "verify": MODEL,
    "export": [*MODEL, "--to", "hf", "-o", "made/folder"],
    "report": [*MODEL, "--target", "1M", "--gpu", "h100", "-o", "made/report.md"],
}


def flags_of(command: str) -> list[str]:
    """The flags of a command that take a value."""
    parts = command.split()
    found = typer.main.get_command(application(parts[0]))
    for part in parts:
        found = getattr(found, "commands", {}).get(part, found)
    return [
        max(option.opts, key=len)
        for option in found.params
        if option.param_type_name == "option" and not option.is_flag
    ]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def make_files(here: Path) -> None:
    """What the commands begin from, whatever the one before has made of it."""
    shutil.rmtree(here / "made", ignore_errors=True)
    (here / "made").mkdir()
    write_text(here / "text", 2)
    (here / "config.json").write_text(json.dumps({"model": small_model().model_dump()}))


def check_any_value(command: str, arguments: list[str], here: Path, examples) -> None:
    flags = flags_of(command)

    @examples(40)
    @given(data=st.data())
    def outcome(data: st.DataObject) -> None:
        make_files(here)
        words = list(arguments)
        if words and data.draw(st.integers(0, 9)) == 0:
            words[0] = data.draw(any_value())  # the model, the source
        for flag in data.draw(st.lists(st.sampled_from(flags), min_size=1, max_size=2)) if flags else ():
            writes = flag in ("--out", "--weights")
            words += [flag, data.draw(any_value(leaves_here=not writes))]
        check_outcome(*command.split(), *words)

    outcome()


@pytest.mark.parametrize("command", COMMANDS)
def test_any_value_of_any_flag_is_used_or_refused_in_one_line(command, here, examples):
    check_any_value(command, COMMANDS[command], here, examples)


@pytest.mark.parametrize(
    ("error", "most_bytes"),
    [
        (ZeroDivisionError("a traceback"), outcomes.MOST_BYTES), (SystemExit(3), outcomes.MOST_BYTES),
        (None, -1),
    ],
)  # fmt: skip
def test_the_check_of_outcomes_can_fail(monkeypatch, error, most_bytes):
    def ends() -> None:
        if error is not None:
            raise error
        raise SystemExit(0)

    monkeypatch.setattr(outcomes, "main", ends)
    monkeypatch.setattr(outcomes, "MOST_BYTES", most_bytes)
    with pytest.raises((AssertionError, ZeroDivisionError)):
        check_outcome("count")


@pytest.mark.parametrize("printed", ["", "one\ntwo\n", "x" * 500 + "\n", "\x1b[31mred\n"])
def test_the_check_of_messages_can_fail(monkeypatch, printed):
    def ends() -> None:
        sys.stderr.write(printed)
        raise SystemExit(2)

    monkeypatch.setattr(outcomes, "main", ends)
    with pytest.raises((AssertionError, ValueError)):
        check_outcome("count")


@pytest.mark.slow
@pytest.mark.parametrize("command", LONG)
def test_any_value_of_a_long_command_too(command, here, examples):
    check_any_value(command, LONG[command], here, examples)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count", "9" * 5_000], f"parambudget: unknown preset '{'9' * 30}"),
        (["count", *MODEL, "-o", "a" * 3_000], "File name too long"),
        (["plan", *MODEL, "--hours", "a b " * 900], "Invalid value for '--hours'"),
        (["solve", "\u202e"], "write --from \\u202e to resize"),
        (["count", *MODEL, "--norm", "\x1b[31m"], "\\x1b[31m"),
        (["solve", "--target", "2M", "--rotary-fraction", "9" * 5_000], "rotary_fraction"),
        (["solve", "--target", "2M", "--rotary-fraction", "nan"], "rotary_fraction"),
        (["data", "prepare", "text", "--tokenizer", "bpe", "--vocab-size", "300", "-o", "\udcff"],
         "the argument '\\udcff' is not UTF-8 text; write it in UTF-8"),
    ],
    ids=lambda value: " ".join(map(ascii, value))[:40] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_value_is_quoted_in_a_line_that_fits(here, run, arguments, message):
    make_files(here)
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err
    assert len(err) < 500
    assert err.removesuffix("\n").isprintable()
