"""`parambudget train` as a person meets it: its output, its files and its exit code."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator
from support.outcomes import without_status
from support.training_data import small_config, small_model, write_text

from parambudget._documents import write_with_seal
from parambudget._files import sha256_of_file
from parambudget.cli._options import arguments_as_flags
from parambudget.cli.main import main
from parambudget.cli.schema import command_schema
from parambudget.errors import ConfigError, InputError
from parambudget.text.tokenizer import train_bpe
from parambudget.training.checkpoint import files
from parambudget.training.run.request import RunOptions, build_request

SETTINGS = ["--steps", "2", "--batch_size", "2", "--gradient_accumulation_steps", "1", "--device", "cpu"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    write_text(tmp_path / "text")
    (tmp_path / "tiny.txt").write_text("hello")
    config = {"model": small_model().model_dump(), "train": {"seed": 7}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def parambudget(here, monkeypatch, capsys):  # noqa: ARG001 - runs there
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["parambudget", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    return run


def settings_of(run: Path) -> dict:
    return json.loads((run / "config.json").read_text())["train"]


def test_a_config_file_is_trained_as_it_says(here):
    command = [sys.executable, "-c", "from parambudget.cli.main import main; main()", "train", "config.json"]
    ran = subprocess.run(
        [*command, "--data", "text", "--out", "run", *SETTINGS],
        cwd=here, env=os.environ, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "40 documents, 2 held out, sha256" in ran.stdout
    assert "step 2/2  loss" in ran.stdout
    assert "27,168 (planned 27,168)" in ran.stdout
    assert (settings_of(here / "run")["seed"], settings_of(here / "run")["steps"]) == (7, 2)


def test_laws_that_do_not_reach_as_far_as_the_run_are_named_below_its_settings(parambudget):
    shared = ("train", "config.json", "--data", "text", *SETTINGS, "--optimizer", "adamw")
    code, out, err = parambudget(*shared, "--out", "run")
    assert (code, err) == (0, "")
    told = re.search(r"^warning: learning rate: (.*?)\n\n", out, re.DOTALL | re.MULTILINE)
    assert told is not None
    assert " ".join(told[1].split()).endswith(
        "are outside Step Law's range (59M to 1.074B body parameters, 4B to 100B tokens); its end is held"
    )
    assert "warning: batch" not in out, "it was given"
    out = parambudget(*shared, "--out", "given", "--learning-rate", "0.001")[1]
    assert "warning:" not in out
    out = parambudget("train", "--out", "run", "--resume", "--steps", "3", "--device", "cpu")[1]
    assert "step 3/3" in out
    assert "warning:" not in out, "its settings are those of the run so far"


def test_json_is_the_summary_and_nothing_else(here, parambudget):
    code, out, err = parambudget(
        "train", "config.json", "--data", "text", "--out", "run", "--json", *SETTINGS
    )
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((here / "run/summary.json").read_text())


def test_flags_override_the_file_and_no_checkpointing_is_a_flag(here, parambudget):
    flags = ["--seed", "3", "--no_gradient_checkpointing", "--learning-rate", "0.002"]
    parambudget("train", "config.json", "--data", "text", "--out", "run", *SETTINGS, *flags)
    found = settings_of(here / "run")
    assert (found["seed"], found["gradient_checkpointing"], found["learning_rate"]) == (3, False, 0.002)


def test_optimizer_and_schedule_are_flags_and_the_rest_of_the_recipe_is_in_the_file(here, parambudget):
    recipe = {"decay_share": 0.5, "z_loss": 1e-4, "grad_clip": None}
    (here / "recipe.json").write_text(json.dumps({"model": small_model().model_dump(), "train": recipe}))
    flags = ["--optimizer", "adamw", "--schedule", "wsd", "--warmup-steps", "0"]
    code, out, err = parambudget("train", "recipe.json", "--data", "text", "--out", "run", *SETTINGS, *flags)
    assert (code, err) == (0, "")
    found = settings_of(here / "run")
    assert {name: found[name] for name in recipe} == recipe
    assert (found["optimizer"], found["schedule"]) == ("adamw", "wsd")
    rows = [line.split() for line in out.splitlines()]
    for row in (
        ["optimizer", "adamw", "given"],
        ["grad_clip", "none", "given"],
        ["z_loss", "0.0001", "given"],
    ):
        assert row in rows


def test_a_model_is_trained_from_flags_alone_in_the_next_free_folder(here, parambudget):
    sizes = [
        "--dim",
        "32",
        "--n_heads",
        "2",
        "--n-layers",
        "1",
        "--vocab-size",
        "300",
        "--context-length",
        "16",
    ]
    for _ in range(2):
        assert parambudget("train", *sizes, "--data", "text", *SETTINGS)[0] == 0
    assert [path.name for path in sorted((here / "runs").iterdir())] == ["38.37K-1", "38.37K-2"]


def test_what_a_run_wrote_trains_it_again_wherever_that_is_said(here, parambudget, monkeypatch):
    parambudget("train", "config.json", "--data", "text", "--out", "one", *SETTINGS)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    code, out, err = parambudget("train", "../one/config.json", "--out", "two", "--device", "cpu")
    assert (code, err) == (0, "")
    assert (here / "one/config.json").read_text().replace('"text"', f'"{here}/text"') == Path(
        "two/config.json"
    ).read_text()
    assert ["seed", "7", "given"] in [line.split() for line in out.splitlines()]
    assert ["weight_decay", "0.1", "as", "in", "the", "config", "file"] in [
        line.split() for line in out.splitlines()
    ]


NEW_SETTINGS = {
    "embedding_learning_rate": None, "head_learning_rate": None, "scalar_learning_rate": None,
    "embedding_weight_decay": 0.0, "head_weight_decay": None, "weight_decay_schedule": "constant",
    "momentum_warmup_steps": 0, "embedding_beta1": None, "embedding_beta2": None, "head_beta1": None,
    "head_beta2": None,
}  # fmt: skip
"""What a version without these settings did."""


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_of_a_version_without_these_settings_is_trained_as_it_was(here, parambudget, resume):
    as_then = ["--momentum", "0.9", "--momentum-warmup-steps", "0", "--embedding-learning-rate", "none"]
    parambudget("train", "config.json", "--data", "text", "--out", "run", *SETTINGS, *as_then)
    path = here / "run/config.json"
    document = json.loads(path.read_text())
    for name in NEW_SETTINGS:
        del document["train"][name]
    path.write_text(json.dumps(document))
    flags = ["--resume", "--out", "run"] if resume else ["run/config.json", "--out", "again"]
    code, _, err = parambudget("train", *flags, "--device", "cpu")
    assert (code, err) == (0, "")
    found = settings_of(here / ("run" if resume else "again"))
    assert {name: found[name] for name in NEW_SETTINGS} == NEW_SETTINGS
    assert found["momentum"] == 0.9


@pytest.mark.parametrize(("steps", "tenth", "fiftieth"), [("60", 6, 2), ("2", 1, 1)])
def test_another_length_chooses_again_what_no_person_gave(here, parambudget, steps, tenth, fiftieth):
    flags = ["--steps", "30", *SETTINGS[2:], "--save-every", "2", "--learning-rate"]
    parambudget("train", "config.json", "--data", "text", "--out", "one", *flags, "0.002")
    first = settings_of(here / "one")
    assert (first["warmup_steps"], first["eval_every"]) == (1, 3)
    again = ["train", "one/config.json", "--out", "two", "--steps", steps, "--device", "cpu"]
    assert parambudget(*again)[::2] == (0, "")
    found = settings_of(here / "two")
    assert (found["warmup_steps"], found["eval_every"]) == (fiftieth, tenth)
    assert (found["batch_size"], found["save_every"], found["learning_rate"]) == (2, 2, 0.002)


def test_what_a_person_wrote_in_a_file_stays_at_another_length(here, parambudget):
    written = {"steps": 20, "warmup_steps": 5, "batch_size": 2, "gradient_accumulation_steps": 1}
    (here / "mine.json").write_text(json.dumps({"model": small_model().model_dump(), "train": written}))
    run = ["train", "mine.json", "--data", "text", "--out", "run", "--device", "cpu", "--steps"]
    assert parambudget(*run, "10")[0] == 0
    assert settings_of(here / "run")["warmup_steps"] == 5


def test_a_run_goes_on_with_its_own_text_and_says_where_it_is_looked_for(here, parambudget):
    parambudget("train", "config.json", "--data", "text", "--out", "run", *SETTINGS)
    on = ["train", "--resume", "--out", "run", "--device", "cpu", "--steps"]
    code, out, err = parambudget(*on, "3")
    assert (code, err) == (0, "")
    assert ["steps", "3", "given"] in [line.split() for line in out.splitlines()]
    assert "text: 40 documents" in out, "as it was given, not from the root"
    (here / "text").rename(here / "moved")
    code, out, err = parambudget(*on, "4")
    assert (code, without_status(out)) == (2, "")
    assert f"the text of the run is no longer at {here}/text; say where it is with --data" in err
    assert parambudget(*on, "4", "--data", "moved")[0] == 0
    assert parambudget(*on, "5")[0] == 0


def test_a_text_that_has_changed_since_is_told(here, parambudget):
    parambudget("train", "config.json", "--data", "text", "--out", "run", *SETTINGS)
    (here / "text/000.txt").write_text("another document, with other words in it")
    code, _, err = parambudget("train", "run/config.json", "--out", "again", "--device", "cpu")
    assert code == 0
    assert err.startswith("parambudget: the text differs from that of the config file")
    assert err.count("\n") == 1


def test_a_finished_run_keeps_what_was_measured(here, parambudget):
    run = ["train", "config.json", "--data", "text", "--out", "run", *SETTINGS]
    parambudget(*run)
    before = (here / "run/summary.json").read_text()
    code, out, _ = parambudget(*run, "--resume", "--json")
    assert (code, json.loads(out)) == (0, json.loads(before))
    assert (here / "run/summary.json").read_text() == before


def test_a_damaged_config_of_a_run_is_read_from_its_checkpoint(here, parambudget):
    parambudget("train", "config.json", "--data", "text", "--out", "run", *SETTINGS)
    whole = (here / "run/config.json").read_text()
    (here / "run/config.json").write_text(json.dumps(json.loads(whole) | {"train": []}))
    on = ["train", "--resume", "--out", "run", "--device", "cpu", "--steps", "3"]
    code, _, err = parambudget(*on)
    assert code == 0
    assert err == ("parambudget: run/config.json cannot be read; it is replaced by its copy in step-2\n")
    assert json.loads((here / "run/config.json").read_text())["model"] == json.loads(whole)["model"]
    for config in (here / "run").rglob("config.json"):
        config.write_text(whole[:100])
    code, out, err = parambudget(*on)
    assert (code, without_status(out)) == (2, "")
    assert "and no checkpoint has a copy of it; choose another folder with --out" in err
    assert " at at " not in err


def test_a_config_file_whose_list_of_given_settings_is_none_is_named(here, parambudget):
    document = {"model": small_model().model_dump(), "train": {"seed": 1}, "provenance": {"given": 5}}
    (here / "odd.json").write_text(json.dumps(document))
    code, out, err = parambudget("train", "odd.json", "--data", "text", "--out", "run", *SETTINGS)
    assert (code, without_status(out)) == (2, "")
    assert "provenance.given in the config file is 5; it must be a list of settings" in err


def test_a_run_goes_on_without_the_weights_it_started_from(here, parambudget):
    """Its checkpoints have all there is to know; before the first one the weights are read again."""
    parambudget("train", "config.json", "--data", "text", "--out", "one", *SETTINGS)
    init = ["--init", "one/checkpoints/step-2"]
    parambudget("train", "config.json", "--data", "text", "--out", "two", *SETTINGS, *init)
    (here / "one").rename(here / "moved")
    on = ["train", "--resume", "--out", "two", "--device", "cpu", "--steps", "3"]
    assert parambudget(*on)[::2] == (0, "")
    shutil.rmtree(here / "two/checkpoints")
    code, out, err = parambudget(*on)
    assert (code, without_status(out)) == (2, "")
    assert f"{here}/one/checkpoints/step-2 is not a checkpoint" in err
    (here / "moved").rename(here / "one")
    assert parambudget(*on)[::2] == (0, "")


@pytest.mark.parametrize("tokenizer", ["its file", "a folder that names the end of text"])
def test_a_run_goes_on_with_the_copy_of_its_tokenizer_and_its_text_in_another_place(
    here, parambudget, tokenizer
):
    (here / "their").mkdir()
    made = train_bpe(["the model of one or two layers"] * 20, 300)
    made.add_special_tokens(["<other>"])
    made.save(str(here / "their/tokenizer.json"))
    named = "their/tokenizer.json"
    if tokenizer != "its file":
        (here / "their/tokenizer_config.json").write_text('{"eos_token": "<other>"}')
        named = "their"
    start = ["train", "config.json", "--data", "text", "--out", "run", "--tokenizer", named, *SETTINGS[2:]]
    assert parambudget(*start, "--steps", "2")[::2] == (0, "")
    shutil.rmtree(here / "their")
    on = ["train", "--resume", "--out", "run", "--device", "cpu", "--steps"]
    assert parambudget(*on, "3")[::2] == (0, "")
    (here / "text").rename(here / "moved")
    assert parambudget(*on, "4", "--data", "moved")[::2] == (0, "")
    assert parambudget(*start[:3], "moved", *start[4:], "--resume", "--steps", "5")[::2] == (0, "")
    shutil.rmtree(here / "run/checkpoints")
    code, out, err = parambudget(*on, "6")
    assert (code, without_status(out)) == (2, "")
    assert f"the tokenizer of the run is no longer at {here}/{named}" in err
    assert "say where it is with --tokenizer" in err


def test_a_run_needs_no_config_file_to_go_on_and_says_so(here, parambudget):
    parambudget("train", "config.json", "--data", "text", "--out", "run", *SETTINGS)
    (here / "config.json").unlink()
    on = ["--resume", "--out", "run", "--device", "cpu", "--steps", "3"]
    code, out, err = parambudget("train", "config.json", *on)
    assert (code, without_status(out)) == (2, "")
    assert "the run in run has its model: resume it without naming config.json" in err
    assert parambudget("train", *on)[::2] == (0, "")


def test_the_end_of_a_resumed_run_counts_all_updates_and_names_the_session(here, parambudget):
    parambudget("train", "config.json", "--data", "text", "--out", "run", *SETTINGS)
    rows = (here / "run/metrics.jsonl").read_text()
    slow = re.sub('"tokens_per_second": [0-9.e+-]+', '"tokens_per_second": 0.01', rows)  # 3,200 s an update
    for path in (here / "run/metrics.jsonl", here / "run/checkpoints/step-2/metrics.jsonl"):
        path.write_text(slow)
    state = files.read_state(here / "run/checkpoints/step-2", check=False)
    hashes = state.sha256 | {"metrics.jsonl": sha256_of_file(here / "run/metrics.jsonl")}
    write_with_seal(here / "run/checkpoints/step-2/state.json", replace(state, sha256=hashes))
    on = ["train", "--resume", "--out", "run", "--device", "cpu", "--steps", "3"]
    code, out, err = parambudget(*on)
    assert (code, err) == (0, "")
    assert "3 updates, 96 tokens, 1.8 h without evaluation and saving" in out
    assert re.search(r"session +[0-9.]+ s with everything", out)
    shown = json.loads(parambudget("runs", "show", "run", "--json")[1])
    summary = json.loads((here / "run/summary.json").read_text())
    assert summary["update_seconds"] == pytest.approx(shown["update_seconds"])
    assert summary["tokens_per_second"] == pytest.approx(shown["tokens_per_second"])


def test_one_of_anything_is_singular(here, parambudget):  # noqa: ARG001 - runs there
    run = ["train", "config.json", "--data", "text", "--out", "run", *SETTINGS[2:], "--steps", "1"]
    out = parambudget(*run)[1]
    assert "1 update of 32 tokens: 32 tokens" in out
    assert re.search(r"trained +1 update, 32 tokens, ", out)
    assert "finished, 1 of 1 update\n" in parambudget("runs", "show", "run")[1]


LONG = {"steps": 30, "warmup_steps": 10, "batch_size": 2, "gradient_accumulation_steps": 1}


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (["--steps", "6"], "steps=6: its warm-up of 10 updates cannot change; use at least --steps 10, or"),
        (["--tokens", "160"], "steps=5: it has made 6 updates and its warm-up of 10 updates cannot change"),
        (["--steps", "0"], "steps is 0"),
    ],
)
def test_a_run_cannot_end_within_its_warm_up_and_that_is_said_before_any_work(here, length, message):
    run = here / "run"
    (run / "checkpoints/step-6").mkdir(parents=True)
    train = small_config(**LONG).model_dump()
    document = {"model": small_model().model_dump(), "provenance": {}, "train": train}
    (run / "config.json").write_text(json.dumps(document))
    options = RunOptions(out=run, resume=True, tokens=int(length[1]) if "--tokens" in length else None)
    steps = {} if options.tokens else {"steps": int(length[1])}
    with pytest.raises(InputError) as refused:
        build_request(None, {}, steps, options)
    assert message in arguments_as_flags(str(refused.value))


def test_hours_that_end_within_the_warm_up_of_a_resumed_run_are_refused_likewise(here, parambudget):
    start = ["train", "config.json", "--data", "text", "--out", "run", *SETTINGS[2:], "--warmup-steps", "2"]
    parambudget(*start, "--steps", "2")
    document = json.loads((here / "run/config.json").read_text())
    document["provenance"] |= {"hours": 1.0, "update_seconds": 60.0}
    (here / "run/config.json").write_text(json.dumps(document))
    on = ["train", "--resume", "--out", "run", "--device", "cpu", "--hours", "0.02"]
    code, out, err = parambudget(*on)
    assert (code, without_status(out)) == (2, "")
    assert "cannot be resumed with steps=1" in err


@pytest.mark.parametrize(
    ("settings", "tokens", "message"),
    [
        ({"steps": 2, "warmup_steps": 100}, None, "warmup_steps=100 is more than steps=2; use at most 2"),
        ({"warmup_steps": 100, "batch_size": 2, "gradient_accumulation_steps": 1}, 64, "steps=2"),
        ({"learning_rate": 1e-3, "final_learning_rate": 1.0}, None, "final_learning_rate=1 is above"),
        ({"warmup_steps": 100}, None, None),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_any_work(here, settings, tokens, message):
    """Before torch is imported and text is read: by what builds the request."""
    request = RunOptions(out=here / "run", tokens=tokens)
    if message is None:  # the text decides how many steps there are
        assert build_request("config.json", {}, settings, request).requested.fields["warmup_steps"] == 100
        return
    with pytest.raises(ConfigError, match=message):
        build_request("config.json", {}, settings, request)


def test_what_may_change_on_a_resume_is_named_as_flags_that_do(here, parambudget):  # noqa: ARG001
    parambudget("train", "config.json", "--data", "text", "--out", "run", *SETTINGS)
    on = ["train", "--resume", "--out", "run", "--device", "cpu"]
    err = parambudget(*on, "--seed", "3")[2]
    flags = re.findall(r"--[a-z-]+", err.split("only ")[1])
    assert flags == [
        "--steps", "--tokens", "--hours", "--save-every", "--keep", "--eval-every", "--eval-tokens"
    ]  # fmt: skip
    page = (Path(__file__).parents[2] / "docs/training.md").read_text()
    assert ", ".join(f"`{flag}`" for flag in flags[:-1]) in " ".join(page.split())
    lasting = ["--save-every", "2", "--keep", "3", "--eval-every", "2", "--eval-tokens", "64"]
    assert parambudget(*on, "--tokens", "96", *lasting)[::2] == (0, "")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"WORLD_SIZE": "4"},
            "WORLD_SIZE=4 is set in the environment, but not RANK, MASTER_ADDR, MASTER_PORT",
        ),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "WORLD_SIZE=2 is set in the environment, but not MASTER_ADDR"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE=many is set"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 is set"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
            "WORLD_SIZE=2 is set in the environment, with RANK=2: torchrun did not start",
        ),
    ],
)
def test_variables_of_torchrun_that_were_left_behind_are_one_line(
    here, parambudget, monkeypatch, environment, message
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, out, err = parambudget("train", "config.json", "--data", "text", "--out", "run", *SETTINGS)
    assert (code, without_status(out), err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (here / "run").exists()


def test_a_rank_that_was_left_behind_silences_no_error(here, parambudget, monkeypatch):  # noqa: ARG001
    monkeypatch.setenv("RANK", "1")
    code, _, err = parambudget("train", "--no-such-flag")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("out", ["[bold]", "[/]", "run[1e-3]", ":smile:", "[red"])
def test_the_name_of_a_folder_is_printed_as_it_is(here, parambudget, out):
    code, printed, err = parambudget("train", "config.json", "--data", "text", "--out", out, *SETTINGS)
    assert (code, err) == (0, "")
    assert ["out", out] in [line.split() for line in printed.splitlines()]
    assert ["checkpoint", f"{out}/checkpoints/step-2"] in [line.split() for line in printed.splitlines()]
    assert (here / out / "summary.json").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--resume", "--steps", "1"],
            "cannot be resumed with steps=1: it has made 2 updates; use at",
        ),
        (["--resume", "--data", "other"], "has another text"),
        (["--out", "new", "--init", "run/checkpoints/step-2", "--dim", "48"], "is of another model"),
        (["--out", "new", "--hours", "1e-9"], "is too short for one update"),
        (["--out", "new", "--hours", "1e300"], "--hours 1e+300 is more than 2,147,483,648 updates"),
        (["--out", "new", "--batch-size", "3000000000"], "batch_size is 3000000000"),
        (["--out", ""], "'' is not a path"),
        (["--data", ""], "'' is not a path"),
        (["--out", "new", "--steps", "1.5"], "steps '1.5' is not a whole number"),
        (["--out", "new", "--device", "cpu:1"], "use auto, cpu, cuda, cuda:N or mps"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_a_run_that_cannot_start_prints_nothing_and_touches_nothing(here, parambudget, more, message):
    write_text(here / "other", seed=1)
    parambudget("train", "config.json", "--data", "text", "--out", "run", *SETTINGS)
    before = {path: path.read_bytes() for path in (here / "run").rglob("*") if path.is_file()}
    model = ["config.json", "--data", "text", "--out", "run", *SETTINGS[2:]]
    code, out, err = parambudget("train", *model, *more)
    assert (code, without_status(out), err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (here / "new").exists()
    assert {path: path.read_bytes() for path in (here / "run").rglob("*") if path.is_file()} == before


def test_a_folder_without_a_run_asks_for_a_model(here, parambudget):  # noqa: ARG001
    code, out, err = parambudget("train", "--resume", "--out", "nowhere")
    assert (code, without_status(out)) == (2, "")
    assert "there is no run to resume in nowhere; give a model" in err


def test_fewer_tokens_than_an_update_are_one_update_and_that_is_said(here, parambudget):  # noqa: ARG001
    run = ["train", "config.json", "--data", "text", "--out", "run", *SETTINGS[2:]]
    code, out, _ = parambudget(*run, "--tokens", "10")
    assert code == 0
    assert "10 tokens: given, and an update has 32" in out


@pytest.mark.parametrize(
    ("n", "said"), [(1, "1 document, the end of it"), (3, "3 documents, the end of the longest")]
)
def test_a_text_too_short_to_hold_out_a_document_says_whose_end_is(here, parambudget, n, said):
    write_text(here / "few", n)
    out = parambudget("train", "config.json", "--data", "few", "--out", "run", *SETTINGS)[1]
    assert f"{said} held out" in out


NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is not there")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config.json", "--data", "nowhere"], "no data at nowhere"),
        (["config.json", "--data", "text", "--steps", "0"], "steps is 0"),
        (["config.json", "--data", "text", "--device", "gpu"], "use auto, cpu, cuda, cuda:N or mps"),
        pytest.param(["config.json", "--data", "text", "--device", "cuda"], "use cpu or auto", marks=NO_CUDA),
        (["config.json", "--data", "tiny.txt"], "fewer than one window"),
        (["config.json", "--data", "text", "--vocab-size", "100"], "use at least 257"),
        (["nowhere.json"], "nowhere.json"),
        (["config.json", "--data", "text", "--out", "config.json/run"], "cannot create config.json/run"),
        (
            ["config.json", "--data", "text", "--out", "dangling"],
            "dangling is a link to gone, which does",
        ),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(here, parambudget, arguments, message):
    (here / "dangling").symlink_to("gone")
    code, out, err = parambudget("train", *arguments)
    assert (code, without_status(out)) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert not (here / "runs").exists()


def test_a_model_with_experts_and_latents_is_trained_sampled_from_and_trained_on(here, parambudget):
    blocks = ["--n-experts", "4", "--n-experts-per-token", "2", "--kv-lora-rank", "8"]
    model = ["--dim", "32", "--n-layers", "2", "--n-heads", "2", "--qk-nope-head-dim", "8", *blocks]
    model += [
        "--window",
        "8",
        "--window-pattern",
        "local,global",
        "--vocab-size",
        "300",
        "--context-length",
        "16",
    ]
    code, out, err = parambudget("train", *model, "--data", "text", "--out", "run", *SETTINGS)
    assert (code, err) == (0, "")
    assert "step 2/2  loss" in out
    assert json.loads((here / "run/summary.json").read_text())["planned"]["peak_memory_bytes"] > 0
    assert parambudget("sample", "run", "--max-tokens", "4", "--device", "cpu")[0] == 0
    again = ["run/config.json", "--data", "text", "--out", "run", *SETTINGS[2:], "--steps", "3", "--resume"]
    code, out, _ = parambudget("train", *again)
    assert code == 0
    assert "step 3/3  loss" in out


def test_a_forecast_needs_no_value_and_stands_in_the_lines_and_in_the_json(parambudget):
    command = ["train", "config.json", "--data", "text", "--out", "run", *SETTINGS[2:]]
    length = ["--steps", "30", "--eval-every", "3"]
    code, out, err = parambudget(*command, "--forecast", *length)
    assert (code, without_status(err)) == (0, "")
    lines = [line for line in out.splitlines() if line.startswith("step ")]
    assert re.search(r"  ends at \d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\)", lines[-2])
    assert "ends at" not in lines[0] + lines[-1]
    halfway = re.compile(r"forecast +halfway \S+ \(\S+ to \S+\): off by [+-]\S+ %, \S+ is (in|out)side")
    assert halfway.search(out)
    code, out, err = parambudget("runs", "show", "run")
    assert halfway.search(out)
    document = json.loads(parambudget("runs", "show", "run", "--json")[1])
    Draft202012Validator(command_schema("runs show")).validate(document)
    forecast = document["forecast"]
    assert forecast["planned"] is forecast["in_planned"] is forecast["law"] is None
    assert forecast["in_halfway"] == (
        forecast["halfway"]["low"] <= document["val_loss"] <= forecast["halfway"]["high"]
    )
    code, out, _ = parambudget(*command, "--steps", "32", "--resume", "--json", "--forecast")
    Draft202012Validator(command_schema("train")).validate(json.loads(out))
    for wrong, problem in (
        ([*command, "--forecast", "config.json", "--steps", "2"], "config.json"),
        (["train", "--forecast", "config.json"], "config.json is taken as the law of --forecast"),
    ):
        code, out, err = parambudget(*wrong)
        assert (code, out) == (2, "")
        assert problem in err
        assert err.count("\n") == 1
