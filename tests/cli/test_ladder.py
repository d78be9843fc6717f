"""`ladder` at the command line: the screen of a fit, its law in other commands, and refusals in one line."""

import json

import pytest
from jsonschema import Draft202012Validator
from support.finished_ladder import write_finished_ladder

from parambudget.cli.schema import command_schema
from parambudget.ladders.ladder import Ladder
from parambudget.ladders.ladder_file import run_path

TINY = ["--dim", 128, "--n-layers", 4, "--n-heads", 2, "--vocab-size", 300, "--context-length", 64]


@pytest.fixture
def ladder(tmp_path):
    return write_finished_ladder(tmp_path / "ladder")


def test_a_fit_prints_the_held_out_runs_first_and_its_law_goes_where_a_law_may(run, ladder):
    code, out, err = run("ladder", "fit", ladder)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(
        "held out: the largest runs, predicted from the smaller ones alone, are off by"
    )
    assert lines[0].endswith("2 of 2 inside the 90 % interval")
    assert f"law: {ladder / 'law.json'}" in lines
    assert (ladder / "fit.png").is_file()
    law = ladder / "law.json"
    code, out, err = run("plan", *TINY, "--gpu", "h100", "--tokens", "20M", "--law", law)
    assert (code, err) == (0, "")
    assert "over nine of ten laws that fit as well, with seeds" in out
    code, out, err = run(
        "plan", *TINY[:6], "--vocab-size", 500, "--gpu", "h100", "--tokens", "20M", "--law", law
    )
    assert (code, out) == (2, "")
    assert "use a model with --vocab-size 300 --context-length 64, or another --law" in err
    code, out, err = run("solve", "--flops", "2e15", "--law", law)
    assert (code, err) == (0, "")
    assert "The law cannot tell sizes from " in out


def test_what_is_said_of_a_range_is_true_of_a_fitted_law(run, ladder, tmp_path):
    """Nothing is said of a run that the law was anchored at: there is none."""
    run("ladder", "fit", ladder)
    law = ["--law", ladder / "law.json", "--target-loss", 2.9]
    out = " ".join(run("plan", *TINY, "--gpu", "h100", "--tokens", "20M", *law)[1].split())
    assert out.count("over nine of ten laws that fit as well") == 3  # the loss, the target, its limit
    run("count", *TINY, "-o", tmp_path / "current.json")
    current, report = tmp_path / "current.json", tmp_path / "report.md"
    code, _, err = run(
        "report", current, "--target", "0.5M", "--gpu", "h100", "--hours", 0.01, *law, "-o", report
    )
    assert (code, err) == (0, "")
    said = report.read_text()
    assert "is the difference in expected loss by nine of ten laws that fit as well. " in said
    assert "Ranges are over nine of ten laws that fit as well; the runs' own spread is in them." in said
    assert "through that run" not in out + said
    assert "published laws" not in said


def test_a_fit_as_json_has_what_the_screen_has(run, ladder):
    code, out, _ = run("ladder", "fit", ladder, "--json")
    document = json.loads(out)
    assert code == 0
    Draft202012Validator(command_schema("ladder fit")).validate(document)
    assert len(document["runs"]) == 10
    assert document["target"]["loss"]["low"] < document["target"]["loss"]["high"]
    assert (document["law"], document["figure"]) == (str(ladder / "law.json"), str(ladder / "fit.png"))
    assert (ladder / "fit.png").is_file()


def spoil_configs(ladder, **changes):
    """Let the first run of the ladder be of another model or text."""
    path = run_path(ladder, Ladder(ladder).document.rungs[0].name) / "config.json"
    config = json.loads(path.read_text())
    for block, fields in changes.items():
        config[block] |= fields
    path.write_text(json.dumps(config))


def spoil_summaries(ladder, keep, **changes):
    """Let all runs of the ladder but those with these beginnings of their names have ended otherwise."""
    for entry in Ladder(ladder).document.rungs:
        if not entry.name.startswith(keep):
            path = run_path(ladder, entry.name) / "summary.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda ladder: spoil_configs(ladder, provenance={"tokens_sha256": "cd" * 32}),
            "has tokens with the hash cdcdcdcdcdcd, and the ladder abababababab: their losses do not compare",
        ),
        (
            lambda ladder: spoil_configs(ladder, model={"context_length": 32}),
            "has a context of 32, and the ladder 64: their losses do not compare",
        ),
        (
            lambda ladder: spoil_configs(ladder, model={"vocab_size": 299}),
            "has a vocabulary of 299, and the ladder 300: their losses do not compare",
        ),
        (
            lambda ladder: spoil_summaries(ladder, ("32-1",), val_loss=None),
            "2 pairs of size and tokens in",
        ),
        (
            lambda ladder: spoil_summaries(ladder, ("32",), finished=False),
            "4 pairs of size and tokens in",
        ),
    ],
    ids=["another text", "another context", "another vocabulary", "diverged", "fewer pairs than constants"],
)  # fmt: skip
def test_a_ladder_that_cannot_be_fitted_is_one_line_and_leaves_no_law(run, ladder, spoil, message):
    spoil(ladder)
    code, out, err = run("ladder", "fit", ladder)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (ladder / "law.json").exists()
    if "pairs" in message:
        assert "train more of its runs with" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nowhere"], "nowhere holds no ladder (ladder.json is missing)"),
        (["fit", "nowhere", "-o", ""], "'' is not a path"),
        (["run", "nowhere"], "nowhere holds no ladder (ladder.json is missing)"),
        (["plan", "--share", "much", "--flops", "1e15"], "--share 'much' is not a share of the target's"),
        (["plan", "--ratios", "5;15", "--flops", "1e15"], "--ratios is '5;15'; give numbers, such as 5,15"),
        (["plan", "--tokens", "5M", "--vocab-size", 300], "--tokens are of a model; give --target as well"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, arguments, message):
    code, out, err = run("ladder", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
