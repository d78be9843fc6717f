"""`report` decides: one answer with `plan`, the recommendation, JSON, anchors, a target loss."""

import json
import os
import re
import shlex
from urllib.parse import unquote

import pytest
from support.finished_run import MODEL, SIZES, write_run

import parambudget as pb

SMALL = ["--dim", 512, "--n-layers", 8, "--n-heads", 8, "--vocab-size", 8192]
ASKED = ["--target", "25M", "--gpu", "h100"]


@pytest.fixture
def current(run, tmp_path):
    path = tmp_path / "current.json"
    run("count", *SMALL, "-o", path)
    return path


def every_entry(document):
    """What the document has of each planned model, by label."""
    entries = {"current": document["current"]} | {entry["label"]: entry for entry in document["options"]}
    return entries | ({"another size": document["another_size"]} if document["another_size"] else {})


@pytest.mark.parametrize(
    "more",
    [
        ["--hours", 0.3, "--batch-size", 32, "--price", 2.5, "--memory", "40GB", "--unique-tokens", "300M",
         "--law", "muennighoff-2023", "--optimizer", "adamw", "--target-loss", 3.3, "--grid-intensity", 30],
        pytest.param(["--hours", 1, "--gpus", 16, "--network", "200Gb/s", "--stack", "best"],
                     marks=pytest.mark.slow),
        ["--hours", 0.2, "--target-loss", 3.3,
         "--anchor", "loss=3.42,tokens=300M,model=current.json,tokens-per-second=700000"],
    ],
    ids=["one", "nodes", "anchored"],
)  # fmt: skip
def test_the_printed_command_gives_every_figure_again(run, current, monkeypatch, more):
    monkeypatch.chdir(current.parent)
    code, out, err = run("report", current, *ASKED, *more, "--json")
    assert (code, err) == (0, "")
    assert [path.name for path in current.parent.iterdir()] == ["current.json"]
    entries = every_entry(json.loads(out))
    assert len(entries) >= 4
    for entry in entries.values():
        program, *words = shlex.split(entry["command"])
        assert (program, words[0]) == ("parambudget", "plan")
        assert json.loads(run(*words, "--json")[1]) == entry["plan"]


def test_the_decision_stands_first_and_the_document_agrees_with_the_json(run, current, tmp_path):
    code, out, err = run("report", current, *ASKED, "--json", "-o", tmp_path / "plan.md")
    assert (code, err) == (0, "")
    text, document = (tmp_path / "plan.md").read_text(), json.loads(out)
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == [
        "Recommendation", "The options", "What to expect", "Pictures", "The formula",
        "The current model, component by component", "How it was verified", "Commands", "Assumptions",
    ]  # fmt: skip
    best, entries = document["recommendation"], every_entry(document)
    assert best["decision"] in ("option", "current", "another size")
    assert f"the {best['option']} option: " in text.split("## The options")[0]
    for sentence in (*best["reasons"], *best["option_reasons"]):
        assert f"- {sentence}\n" in text
    now = document["current"]["plan"]["loss"]["expected"]
    for label, entry in entries.items():
        assert f"$ {entry['command']}\n" in text
        assert f" {entry['plan']['speed']['tokens_per_second']['expected']:,.0f}" in text
        if label != "current":
            difference = entry["plan"]["loss"]["expected"] - now
            assert best["differences"][label]["expected"] == pytest.approx(difference)
            assert entry["train"].startswith("parambudget train --dim ")
    for entry in document["options"]:
        assert entry["error"] == entry["plan"]["total"] - document["target"]
    assert document["verified"].startswith("verified: ")
    assert list(document["figures"].values()) == ["plan-hours.png", "plan-sizes.png", "plan-memory.png"]


def test_pictures_are_linked_whatever_the_document_is_called(run, current, tmp_path):
    code, _, err = run("report", current, *ASKED, "-o", tmp_path / "my plan (1).md")
    assert (code, err) == (0, "")
    links = re.findall(r"!\[[^]]*\]\((\S+)\)\n", (tmp_path / "my plan (1).md").read_text())
    assert links == [f"my%20plan%20%281%29-{what}.png" for what in ("hours", "sizes", "memory")]
    assert all((tmp_path / unquote(link)).exists() for link in links)


def test_a_report_to_nowhere_is_one_line(run, current):
    code, out, err = run("report", current, *ASKED)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "give one with -o FILE.md, or print it with --json" in err


def target_section(path, loss):
    return path.read_text().split(f"## Is a loss of {loss} reached?\n")[1].split("\n## ")[0]


def test_a_target_without_a_run_is_answered_once(run, current, tmp_path):
    path = tmp_path / "plan.md"
    asked = ["report", current, *ASKED, "--hours", 3, "--target-loss", 3.3]
    document, section = json.loads(run(*asked, "--json", "-o", path)[1]), target_section(path, 3.3)
    assert "3.3 nats per token cannot be told for this text and tokenizer without one run." in section
    assert section.count("$ parambudget train ") == 1
    first = document["first_run"]
    assert f"$ {first['train']}\n" in section
    plans = {label: entry["plan"] for label, entry in every_entry(document).items()}
    shares = {label: plan["target"]["first_run"]["share"] for label, plan in plans.items()}
    assert shares[first["label"]] == min(shares[label] for label in shares if label != "another size")
    assert first["train"].endswith(f" --steps {plans[first['label']]['target']['first_run']['updates']}")
    differences = document["recommendation"]["differences"]
    ends = [differences[entry["label"]]["expected"] for entry in document["options"]]
    assert f"end {min(ends):+.3f} to {max(ends):+.3f} nats from the current model" in section


def test_a_target_with_a_run_is_answered_for_every_model(run, current, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "plan.md"
    asked = ["report", current, *ASKED, "--hours", 3, "--anchor", "loss=3.6,tokens=1B,model=current.json"]
    document = json.loads(run(*asked, "--target-loss", 3.4, "--json", "-o", path)[1])
    assert document["first_run"] is None
    reaches = {label: entry["plan"]["target"]["reach"] for label, entry in every_entry(document).items()}
    soon = [label for label, reach in reaches.items() if reach["within_plan"]]
    section = target_section(path, 3.4)
    assert f"Within 3.0 h it is expected of {', '.join(soon)}.\n" in section
    reasons, best = (document["recommendation"][name] for name in ("option_reasons", "option"))
    where = "within" if best in soon else "beyond"
    assert any(
        re.fullmatch(
            rf"It is expected to reach 3.4 nats per token after [\d.]+ (?:min|h), {where} the planned time\.",
            why,
        )
        for why in reasons
    )
    for label, reach in reaches.items():
        low, expected, high = reach["limit"].values()
        assert re.search(rf"\| \**{label}\** \|.*\| {expected:.3f} \({low:.3f} to {high:.3f}\) \|", section)
    run(*asked, "--target-loss", 1, "-o", path)
    assert "Not within 3.0 h, by any of the models." in target_section(path, 1)
    assert "| never | never |" in target_section(path, 1)


def test_a_speed_without_its_model_is_refused_where_many_are_compared(run, current):
    code, out, err = run("report", current, *ASKED, "--json", "--anchor", "tokens-per-second=700000")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "here many are compared; give model as well" in err


def test_a_finished_run_of_the_same_vocabulary_is_offered(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("count", *SIZES, "-o", "current.json")
    folder = write_run(tmp_path / "runs" / "a")
    os.utime(folder / "summary.json", (1, 1))
    target = pb.count(MODEL, n_layers=1).total
    asked = ["report", "current.json", "--target", target, "--gpu", "h100", "--hours", 0.01]
    code, _, err = run(*asked, "-o", "plan.md")
    assert (code, err.count("\n")) == (0, 1)
    assert "the finished run runs/a has the same vocabulary; with --anchor runs/a losses" in err
    code, out, err = run(*asked, "--anchor", "runs/a", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["current"]["plan"]["loss"]["anchor"]["source"] == "runs/a"


def test_settings_in_the_config_file_are_those_of_the_plan(run, current):
    document = json.loads(current.read_text())
    current.write_text(json.dumps(document | {"train": {"batch_size": 4, "optimizer": "adamw"}}))
    report = json.loads(run("report", current, *ASKED, "--hours", 1, "--json")[1])
    plan = json.loads(run("plan", current, "--gpu", "h100", "--hours", 1, "--json")[1])
    assert report["current"]["plan"] == plan
    assert report["options"][0]["plan"]["speed"]["step"]["optimizer"] == "adamw"


def test_a_current_model_that_does_not_fit_is_compared_in_the_micro_steps_of_one_that_does(run, tmp_path):
    out = tmp_path / "plan.md"
    asked = ["report", "gpt2-xl", "--target", "100M", "--gpu", "4090", "--memory", "8GB", "--hours", 10]
    document = json.loads(run(*asked, "--json", "-o", out)[1])
    assert document["current"]["plan"]["fits"] is False
    fitting = [entry["label"] for entry in document["options"] if entry["plan"]["fits"]]
    assert document["recommendation"]["option"] in fitting
    entries = [document["current"], *document["options"]]
    assert len({json.dumps(entry["plan"]["speed"]["step"]) for entry in entries}) == 1
    assert re.search(r"^current would fit with --", out.read_text(), re.MULTILINE)
    first = next(entry["plan"] for entry in document["options"] if entry["plan"]["fits"])
    own = pb.plan(pb.ModelConfig.read(first["model"]), "4090", hours=10, memory="8GB")
    assert own.speed.as_dict()["step"] == first["speed"]["step"]
    assert "and does not fit." in document["recommendation"]["option_reasons"][0]


def test_where_nothing_fits_the_line_says_how_much_is_needed(run, current):
    code, out, err = run("report", current, "--target", "25M", "--gpu", "4090", "--memory", "0.9GB", "--json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(
        r"none of the models fits on rtx-4090: at least [\d.]+ GiB are needed; give a smaller", err
    )


def test_the_library_reports_without_a_file_and_says_what_no_flags_stand_for(tmp_path):
    model = pb.model(dim=512, n_layers=8, n_heads=8, vocab_size=8192)
    report = pb.report(model, "25M", machine=pb.machine("h100", gpus=8), hours=0.1, target_loss=3.3)
    assert "--gpu h100-sxm --gpus 8 --hours 0.1 --target-loss 3.3" in report.plan_command(report.current)
    assert json.dumps(report.as_dict()["current"]["plan"]) == json.dumps(report.current.as_dict())
    measured = pb.MeasuredRun(loss=3.6, tokens=10**9, model=model)
    anchored = pb.report(model, "25M", tmp_path / "plan.md", machine="h100", hours=0.1, anchor=measured)
    assert anchored.plan_command(anchored.current) is None
    assert "No flags stand for what was planned with" in (tmp_path / "plan.md").read_text()
    assert "$ parambudget train --dim" in (tmp_path / "plan.md").read_text()
