"""`--style`: one named set of choices for a model that is given by its sizes, in every command and verb."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

import parambudget as pb
from parambudget.arch.style import STYLES, MeasuredGain, with_style
from parambudget.render import solutions

SIZES = {"dim": 64, "n_layers": 2, "vocab_size": 300, "context_length": 32}
FLAGS = ("--dim", 64, "--n-layers", 2, "--vocab-size", 300, "--context-length", 32)
# Embedding and head, then per layer: attention, its two norms of 64, two matrices of 4 * dim, two norms.
MODERN_TOTAL = 2 * 300 * 64 + 2 * (4 * 64 * 64 + 2 * 64 + 2 * 64 * 256 + 2 * 64) + 64


def test_modern_is_what_it_says():
    model = pb.model(style="modern", **SIZES)
    assert (model.qk_norm, model.gated, model.activation, model.logit_softcap) == ("head", False, "relu2", 15)
    assert (model.tied, model.zero_init_out, model.intermediate_size) == (False, True, 4 * 64)
    assert pb.count(style="modern", **SIZES).total == pb.count(model).total == MODERN_TOTAL


def test_llama_is_the_default():
    assert pb.model(style="llama", **SIZES) == pb.model(**SIZES)
    assert pb.solve("10M", style="llama") == pb.solve("10M")


def test_the_built_module_has_the_tensors_that_were_counted(run):
    assert pb.verify(style="modern", **SIZES).differences == ()
    assert f"{MODERN_TOTAL:,} parameters" in run("verify", *FLAGS, "--style", "modern")[1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"tied": True}, {"tied": True, "gated": False}),
        ({"gated": True}, {"gated": True, "intermediate_size": 256, "activation": "relu2"}),
        ({"activation": "gelu"}, {"activation": "gelu", "gated": False}),
        ({"logit_softcap": None}, {"logit_softcap": None, "qk_norm": "head"}),
        ({"intermediate_size": 128}, {"intermediate_size": 128}),
        ({"kv_lora_rank": 16}, {"qk_norm": "none", "gated": False}),
        ({"n_experts": 4, "n_experts_per_token": 2}, {"gated": False, "qk_norm": "head"}),
    ],
    ids=str,
)
def test_what_is_given_wins(given, expected):
    model = pb.model(style="modern", **SIZES, **given)
    assert {name: getattr(model, name) for name in expected} == expected


@pytest.mark.parametrize("command", ["count", "plan"])
def test_a_command_takes_it_and_flags_win(run, command):
    flags = [*FLAGS, "--style", "modern", "--tied", "--logit-softcap", "none", "--json"]
    model = json.loads(run(command, *flags, *(["--gpu", "h100"] if command == "plan" else []))[1])["model"]
    assert (model["gated"], model["activation"]) == (False, "relu2")
    assert (model["tied"], model["logit_softcap"]) == (True, None)


def test_a_search_has_its_choices_and_widths_around_four_times_dim(run, tmp_path):
    found = pb.solve("30M", style="modern", vocab_size=8192, top=3)
    assert not found.tying_was_assumed
    for solution in found:
        m = solution.model
        assert m == m.replace(**STYLES["modern"].fields)
        assert 3 <= m.intermediate_size / m.dim <= 5
    code, out, err = run(
        "solve", "--target", "30M", "--vocab-size", 8192, "--style", "modern", "-o", tmp_path / "config.json"
    )
    assert (code, err) == (0, "")
    assert "--qk-norm head --no-gated --activation relu2 --logit-softcap 15.0 --zero-init-out" in out
    assert pb.model(tmp_path / "config.json") == found[0].model


def test_a_search_with_a_choice_taken_back_has_it_not():
    model = pb.solve("30M", style="modern", vocab_size=8192, logit_softcap=None, top=1)[0].model
    assert (model.logit_softcap, model.gated) == (None, False)


def test_the_repeated_search_is_the_same(run):
    out = run("solve", "--target", "30M", "--style", "modern", "--top", 1)[1]
    again = out.splitlines()[-1].partition("parambudget ")[2]
    assert run(*again.split())[1] == out


def test_a_run_is_trained_in_it_and_its_config_spells_the_choices_out(run, tmp_path):
    (tmp_path / "text.txt").write_text("a text that is long enough to be read more than once. " * 400)
    settings = ("--steps", 2, "--batch-size", 2, "--gradient-accumulation-steps", 1, "--device", "cpu")
    folder = tmp_path / "run"
    words = ("train", *FLAGS, "--style", "modern", "--data", tmp_path / "text.txt", "--out", folder)
    code, _, err = run(*words, *settings)
    assert (code, "Traceback" in err) == (0, False)
    assert pb.model(folder) == pb.model(style="modern", **SIZES)
    more = ("--steps", 3, *settings[2:])
    assert run(*words, *more, "--resume")[0] == 0
    assert pb.run(folder).steps == 3


@pytest.mark.parametrize(
    "words",
    [
        ("count", "gpt2"),
        ("verify", "gpt2"),
        ("plan", "gpt2", "--gpu", "h100"),
        ("export", "gpt2"),
        ("train", "gpt2"),
        ("train", "--init", "gpt2"),
        ("train", "--resume", "--out", "gpt2"),
        ("solve", "--target", "100M", "--like", "gpt2"),
        ("solve", "--target", "100M", "--from", "gpt2"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("style", ["llama", "modern"])
def test_with_a_complete_model_it_is_refused_in_one_line(run, words, style):
    code, out, err = run(*words, "--style", style)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"--style {style} is for a model that is given by its sizes, and gpt2 is complete; leave" in err


@pytest.mark.parametrize(
    "call",
    [
        lambda: pb.model("gpt2", style="modern"),
        lambda: pb.count(pb.model("gpt2"), style="llama"),
        lambda: pb.solve("100M", like="gpt2", style="modern"),
        lambda: pb.plan("gpt2", style="modern"),
        lambda: pb.resize("gpt2", "100M", style="modern"),
        lambda: pb.train("gpt2", "run", style="modern"),
    ],
)
def test_a_verb_refuses_it_likewise(call):
    with pytest.raises(pb.ConfigError, match=r"complete"):
        call()


def test_an_unknown_style_is_named_with_the_known_ones(run):
    with pytest.raises(pb.ConfigError, match="`style` is 'gpt'; use 'llama' or 'modern'"):
        pb.model(style="gpt", **SIZES)
    assert "'gpt' is not one of 'llama', 'modern'" in run("count", *FLAGS, "--style", "gpt")[2]


def test_a_style_alone_is_no_model(run):
    code, _, err = run("count", "--style", "modern")
    assert code == 2
    assert "no model is given" in err


def test_without_a_style_fields_stay_as_they_are():
    assert with_style(None, {"tied": None}, complete="gpt2") == {"tied": None}


class TestTheLineOfSolve:
    SEARCH = ("solve", "--target", "10M", "--vocab-size", 4096, "--top", 1)

    def lines(self, run, *more) -> list[str]:
        out = run(*self.SEARCH, *more)[1]
        return [line for line in out.splitlines() if line.startswith("--style modern")]

    def test_it_is_there_once_where_the_choices_are_open(self, run):
        assert len(self.lines(run)) == len(self.lines(run, "--tied")) == 1

    @pytest.mark.parametrize(
        "more", [("--style", "llama"), ("--style", "modern"), ("--like", "llama-3-8b"), ("--no-gated",)]
    )
    def test_it_is_not_there_where_they_are_made(self, run, more):
        assert self.lines(run, *more) == []

    def test_it_is_not_there_where_a_model_is_resized(self, run):
        assert "--style" not in run("solve", "--target", "100M", "--from", "gpt2")[1]

    def test_the_gains_are_printed_with_their_setting_and_date(self, run, monkeypatch):
        gains = (
            MeasuredGain(0.0312, "10M body, 2 seeds", date(2026, 11, 30)),
            MeasuredGain(-0.2, "1B body, 1 seed", date(2026, 12, 1)),
        )
        styles = {**STYLES, "modern": replace(STYLES["modern"], gains=gains)}
        monkeypatch.setattr(solutions, "STYLES", styles)
        words = " ".join(run(*self.SEARCH)[1].split())
        assert (
            "after as many tokens it ended 0.031 nats lower (10M body, 2 seeds) and -0.200 nats lower (1B "
            "body, 1 seed): measured on 2026-12-01, see docs/recipe.md To repeat this search: "
        ) in words

    def test_the_gains_are_those_of_the_recorded_runs(self):
        """Mean of the pairs of seeds, from the file that benchmarks/recipe.py writes."""
        file = Path(__file__).parents[2] / "benchmarks/recipe_runs/results.jsonl"
        lines = map(json.loads, file.read_text().splitlines())  # the last one of a run counts
        rows = {(row["size"], row["arm"], row["seed"]): row["val_loss"] for row in lines}
        for gain, (size, n_seeds) in zip(STYLES["modern"].gains, [("1M", 5), ("10M short", 2)], strict=True):
            pairs = [
                rows[size, "default", seed] - rows[size, "default, modern", seed]
                for seed in range(1, n_seeds + 1)
            ]
            assert gain.nats == pytest.approx(sum(pairs) / n_seeds, abs=5e-4)
            assert f"{n_seeds} seeds" in gain.setting
