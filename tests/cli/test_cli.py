"""The command line as a person meets it: what it prints, what it writes, how it fails."""

import json
import os
import subprocess
import sys

import pytest

from parambudget import cli
from parambudget._version import __version__
from parambudget.arch.config import FIELDS
from parambudget.arch.presets.registry import PRESETS
from parambudget.cli.main import COMMANDS

OPTION_1 = ["--dim", "896", "--n_layers", "24", "--n_heads", "14", "--head_dim", "64"]
OPTION_1 += ["--intermediate_size", "3584"]
CURRENT = ["--dim", "1024", "--n-layers", "24", "--n-heads", "16", "--intermediate-size", "4096"]


@pytest.fixture
def current(run, tmp_path):
    path = tmp_path / "current.json"
    assert run("count", *CURRENT, "-o", path)[0] == 0
    return path


class TestCount:
    def test_the_notes_first_option_has_353_355_520_parameters(self, run):
        code, out, err = run("count", *OPTION_1)
        assert (code, err) == (0, "")
        assert "353,355,520" in out
        for line in ("24 × 4 × 896×896", "24 × 3 × 3584×896", "50257×896", "65.43%", "308,325,248"):
            assert line in out

    def test_flags_are_the_field_names_with_dash_or_underscore(self, run):
        assert run("count", *OPTION_1) == run("count", *(word.replace("_", "-") for word in OPTION_1))

    def test_what_was_left_out_is_named_with_its_value(self, run):
        out = run("count", "--dim", 896, "--n-layers", 24)[1]
        assert (
            "filled in: n_heads 14, head_dim 64, n_kv_heads 14, intermediate_size 2560, vocab_size 50257"
            in out
        )

    def test_json_lists_every_component_and_what_was_filled_in(self, run):
        document = json.loads(run("count", *OPTION_1, "--json")[1])
        assert document["total"] == 353_355_520 == sum(document["components"].values())
        assert set(document["components"]) == {
            "token_embedding", "position_embedding", "embedding_projection", "attention", "ffn", "router",
            "norm", "lm_head",
        }  # fmt: skip
        assert document["filled"][:2] == ["n_kv_heads", "vocab_size"]

    @pytest.mark.parametrize("form", ["config file", "count output", "bare model"])
    def test_every_form_of_file_counts_the_same(self, run, current, tmp_path, form):
        path = current
        if form != "config file":
            document = json.loads(run("count", current, "--json")[1])
            path = tmp_path / "other.json"
            path.write_text(json.dumps(document if form == "count output" else document["model"]))
        assert json.loads(run("count", path, "--json")[1])["total"] == 454_166_528

    def test_a_preset_counts_its_published_figure(self, run):
        assert "8,030,261,248" in run("count", "llama-3-8b")[1]

    def test_flags_change_fields_of_a_file(self, run, current):
        assert json.loads(run("count", current, "--n-layers", 18, "--json")[1])["total"] == 353_490_944

    def test_expect_within_tolerance_is_one_line_and_exit_0(self, run, current):
        code, out, err = run("count", current, "--expect", "454M")
        assert (code, err) == (0, "")
        assert out == "454,166,528 parameters: +166,528 (+0.04 %) from the expected 454,000,000, within 1%\n"

    @pytest.mark.parametrize(
        ("option", "claimed", "off"),
        [
            ("--dim 896 --n-layers 24 --n-heads 14 --intermediate-size 3584", "349M", "+1.25 %"),
            ("--dim 1024 --n-layers 18 --n-heads 16 --intermediate-size 4096", "345M", "+2.46 %"),
            ("--dim 960 --n-layers 20 --n-heads 15 --intermediate-size 3840", "350M", "-1.94 %"),
        ],
    )
    def test_the_notes_claims_are_refused_with_the_true_number(self, run, option, claimed, off):
        code, out, err = run("count", *option.split(), "--expect", claimed)
        assert (code, out) == (1, "")
        assert err.count("\n") == 1
        assert off in err

    def test_formula_prints_the_closed_form_with_its_legend(self, run):
        out = run("count", *OPTION_1, "--formula")[1]
        assert "total = V*d + 2*L*d*h*(H + K) + 3*L*d*f + d*(2*L + 1)" in out
        assert "= 353,355,520" in out
        assert "intermediate_size  3,584" in out

    def test_latex_is_one_equation(self, run):
        out = run("count", *OPTION_1, "--latex")[1]
        assert out.startswith("N = \\underbrace{V d}_{\\text{token embedding}}")

    def test_verify_holds_the_count_against_the_module(self, run):
        assert (
            "verified: 218 tensors, 353,355,520 parameters; the built model matches the count"
            in run("count", *OPTION_1, "--verify")[1]
        )

    def test_a_failed_expectation_writes_nothing(self, run, tmp_path):
        code, _, _ = run("count", *OPTION_1, "--expect", "1B", "-o", tmp_path / "no.json")
        assert code == 1
        assert list(tmp_path.iterdir()) == []


class TestSolve:
    def test_350m_is_certified_and_ranked(self, run):
        code, out, err = run("solve", "--target", "350M")
        assert (code, err) == (0, "")
        assert "Checked all 638,550 shapes; 1,005 are within 0.5% of 350,000,000" in out
        assert "350,349,312" in out

    @pytest.mark.parametrize(
        "request_",
        [
            "350M",
            "7B --counted body",
            "1.3B --tolerance 0.1% --tied --vocab-size 32768",
            "350M --rank closest --top 3",
            "100M --from gpt2 --tolerance 0.3%",
            "130M --like mamba-130m",
            "100M --from mamba2-130m --tolerance 5%",
        ],
    )
    def test_the_lattice_pasted_back_as_flags_gives_the_same_answer(self, run, request_):
        first = json.loads(run("solve", "--target", *request_.split(), "--json")[1])
        again = json.loads(run(*first["command"].split()[1:], "--json")[1])
        assert again == first

    def test_output_writes_the_picked_solution_with_its_provenance(self, run, tmp_path):
        path = tmp_path / "config.json"
        shown = json.loads(run("solve", "--target", "350M", "--pick", 2, "-o", path, "--json")[1])
        written = json.loads(path.read_text())
        assert written["model"] == shown["solutions"][1]["model"]
        assert written["provenance"]["certificate"] == shown["certificate"]
        assert written["provenance"]["version"] == __version__

    def test_a_current_model_gets_its_ways_out_and_the_commands_that_train_them(self, run, current):
        out = run("solve", "--target", "350M", "--from", current)[1]
        assert "454,166,528" in out
        for way in ("narrower", "shallower", "thinner", "balanced"):
            assert f"{way}: parambudget train --dim" in out

    def test_the_printed_training_flags_say_that_very_model(self, run, current):
        found = json.loads(run("solve", "--target", "350M", "--from", current, "--json")[1])
        lines = run("solve", "--target", "350M", "--from", current)[1].splitlines()
        for solution in found["solutions"]:
            line = next(line for line in lines if line.startswith(f"{solution['label']}: "))
            command = line.removeprefix(f"{solution['label']}: parambudget train ")
            flags = command.removesuffix(" --data YOUR_TEXT").split()
            assert json.loads(run("count", *flags, "--json")[1])["model"] == solution["model"]

    def test_like_takes_the_choices_and_searches_the_sizes(self, run):
        found = json.loads(run("solve", "--target", "350M", "--like", "qwen3-0.6b", "--json")[1])
        assert {s["model"]["qk_norm"] for s in found["solutions"]} == {"head"}
        assert {s["model"]["vocab_size"] for s in found["solutions"]} == {151_936}

    @pytest.mark.filterwarnings("default")
    def test_what_the_model_of_like_computes_beyond_the_fields_is_a_note(self, run):
        code, out, err = run("solve", "--target", "350M", "--like", "phi-3.5-moe")
        assert (code, "Checked all" in out) == (0, True)
        assert err.startswith("parambudget: note: phi-3.5-moe: counted exactly, but built without rescal")
        assert err.count("\n") == 1

    @pytest.mark.parametrize("columns", [80, 160])
    def test_the_table_fits_the_terminal(self, run, monkeypatch, columns):
        monkeypatch.setattr("parambudget.render.terminal.PIPED_WIDTH", columns)
        out = run("solve", "--target", "70B")[1]
        table = out[: out.index("Checked all")]
        assert max(map(len, table.splitlines())) <= columns
        assert all(name in table for name in ("balanced", "deep", "wide", "aspect"))

    def test_choices_beside_from_are_part_of_the_current_model(self, run, current):
        found = json.loads(
            run("solve", "--target", "440M", "--from", current, "--vocab-size", "32000", "--json")[1]
        )
        assert found["current"]["total"] == 435_471_360
        assert [s["label"] for s in found["solutions"]] == ["wider", "deeper", "fatter", "balanced"]

    def test_no_number_is_cut_short_on_a_narrow_terminal(self, run, monkeypatch):
        monkeypatch.setattr("parambudget.render.terminal.PIPED_WIDTH", 80)
        out = run("solve", "--target", "380B", "--from", "llama-3.1-405b")[1]
        assert "378,127,210,496" in out
        assert "…" not in out


class TestOthers:
    def test_verify_says_what_was_compared(self, run, current):
        code, out, _ = run("verify", current)
        counted = "218 tensors, 454,166,528 parameters"
        assert (code, out) == (0, f"verified: {counted}; the built model matches the count\n")

    def test_verify_holds_what_is_not_built_against_its_class(self, run, tmp_path, monkeypatch):
        code, out, _ = run("verify", "gemma-3n-e2b")
        assert (code, out.startswith("counted and not built: 4,435,182,688 parameters, as many as")) == (
            0,
            True,
        )
        config = {
            "model_type": "jetmoe", "num_hidden_layers": 2, "hidden_size": 64, "num_key_value_heads": 2,
            "kv_channels": 16, "intermediate_size": 48, "num_local_experts": 4, "vocab_size": 100,
        }  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config))
        code, out, _ = run("verify", str(tmp_path / "config.json"))
        assert (code, "as many as the class JetMoeForCausalLM of transformers" in out) == (0, True)
        monkeypatch.setattr("parambudget.cost.params.total", lambda _: 5)
        code, out, err = run("verify", str(tmp_path / "config.json"))
        assert (code, out) == (1, "")
        assert "the count differs from the class JetMoeForCausalLM" in err
        assert "total: the table has 5, the class has 122,688" in err
        assert run("verify", "gemma-3n-e2b", "--dim", "64")[0] == 2

    def test_verify_names_the_difference_and_exits_1(self, run, current, monkeypatch):
        from parambudget.nn import verify as witness
        from parambudget.nn.transformer import Transformer

        def one_layer_short(model, device):
            return Transformer(model.replace(n_layers=model.n_layers - 1), device=device)

        monkeypatch.setattr(witness, "Transformer", one_layer_short)
        code, out, err = run("verify", current)
        assert (code, out) == (1, "")
        assert "layers.*.attention.q.weight" in err

    def test_presets_are_listed_and_searched(self, run):
        out = run("presets", "qwen3")[1]
        assert "596,049,920" in out
        assert "llama" not in out

    def test_presets_are_found_by_every_word_of_their_name_or_source(self, run):
        (row,) = json.loads(run("presets", "Mixtral", "8x7B", "--json")[1])
        assert (row["name"], row["total"], row["active"]) == (
            "mixtral-8x7b-v0.1", 46_702_792_704, 12_879_925_248,
        )  # fmt: skip
        assert set(row) == {
            "name", "total", "body", "active", "dim", "layers", "heads", "context", "source",
        }  # fmt: skip
        assert len(json.loads(run("presets", "DeepseekV3ForCausalLM", "--json")[1])) == 4

    def test_no_preset_of_that_name_ends_in_one_line(self, run):
        code, out, err = run("presets", "no", "such")
        assert (code, out) == (2, "")
        advice = f"run `parambudget presets` for all {len(PRESETS)}"
        assert f"no preset has 'no such' in its name or source; {advice}" in err

    def test_version_is_printed(self, run):
        assert run("--version")[:2] == (0, f"{__version__}\n")

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_has_help_in_its_own_words(self, run, command):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert f"parambudget {command}" in out
        assert "typing." not in out

    def test_every_model_field_has_a_described_flag(self, run):
        out = run("count", "--help-model")[1]
        for name, info in FIELDS.items():
            assert f"--{name.replace('_', '-')}" in out
            assert info.description

    @pytest.mark.parametrize(("command", "threads"), [("solve", "1"), ("verify", None)])
    def test_only_commands_that_multiply_no_matrices_stop_the_threads_of_blas(
        self, run, monkeypatch, command, threads
    ):
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "4")
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
        assert run(command, "--help")[0] == 0
        assert os.environ.get("OPENBLAS_NUM_THREADS") == threads

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_a_terminal_of_few_letters_still_gets_its_figures(self, encoding):
        code = "from parambudget.cli.main import main; main()"
        surroundings = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        line = [sys.executable, "-c", code, "count", "gpt2"]
        done = subprocess.run(line, capture_output=True, check=True, env=surroundings)
        assert b"124,439,808" in done.stdout

    def test_a_full_disk_under_the_output_is_one_line(self):
        code = "from parambudget.cli.main import main; main()"
        with open("/dev/full", "w") as full:
            line = [sys.executable, "-c", code, "count", "gpt2", "--json"]
            done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1

    def test_a_reader_that_leaves_is_no_error(self):
        line = f"{sys.executable} -c 'from parambudget.cli.main import main; main()' presets | head -1"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False
        )
        assert done.stderr == ""


WRONG = {
    "zero size": ("count --dim 0 --n-layers 2", "dim is 0"),
    "negative size": ("count --dim -64 --n-layers 2", "dim is -64; it must be greater than or equal to 1"),
    "absurd size": ("count --dim 64 --n-layers 20000", "10000"),
    "non-numeric size": ("count --dim big --n-layers 2", "dim 'big' is not a whole number"),
    "missing size": ("count --n-layers 24", "dim is missing"),
    "heads that do not divide": (
        "count --dim 900 --n-layers 2 --n-heads 16",
        "n_heads=16 does not divide dim=900",
    ),
    "kv heads that do not divide": (
        "count --dim 896 --n-layers 2 --n-heads 14 --n-kv-heads 4",
        "use one of [1, 2, 7, 14]",
    ),
    "unknown choice": (
        "count --dim 64 --n-layers 2 --position relative",
        "'rotary', 'learned', 'sinusoidal', 'alibi', 'none'",
    ),
    "unknown flag": ("count --dims 64", "--dim"),
    "unknown command": ("slove --target 350M", "Did you mean 'solve'"),
    "unknown preset": ("count lama-3-8b", "llama-3-8b"),
    "no such file": ("count nowhere.json", "No such file"),
    "budget with an unknown letter": ("solve --target 350X", "'350X' is not a count"),
    "budget of nothing": ("solve --target 0", "out of range"),
    "tolerance without percent": ("solve --target 350M --tolerance 2", "use 2% or 0.01"),
    "backward range": ("solve --target 350M --n-layers 9:3", "write 3:9"),
    "empty lattice": ("solve --target 350M --dim 896 --head-dim 100", "the search space is empty"),
    "both kv flags": ("solve --target 350M --kv-groups 2 --n-kv-heads 4", "give one of them"),
    "out of reach": ("solve --target 10B --dim 896 --n-layers 4", "raise the upper end"),
    "below the vocabulary": ("solve --target 1M", "vocab_size"),
    "tolerance without a target": ("solve --flops 1e19 --tolerance 2%", "--tolerance 2% has no effect"),
    "pick without a file": (
        "solve --target 350M --pick 2",
        "--pick 2 has no effect: it is the model that -o",
    ),
    "pick beyond the list": ("solve --target 350M --pick 9", "use 1 to 5"),
    "from and like": ("solve --target 350M --from gpt2 --like gpt2", "leave out --like, --top and --rank"),
    "expect of nothing": ("count gpt2 --expect=", "'' is not a count"),
    "size beyond any": (f"count --dim {'9' * 20} --n-layers 2", "dim is 99999999999999999999"),
    "size of many digits": (f"count --dim {'9' * 5000} --n-layers 2", "is not a whole number"),
    "ratio beyond any": ("solve --target 350M --ffn-ratio 1e999999999", "is not a pair of ratios"),
    "list or number": ("solve --target 350M --dim 1,024", "write 1024 if it is one"),
    "top of the ways": ("solve --target 100M --from gpt2 --top 3", "leave out --like, --top and --rank"),
    "expect without a number": ("count gpt2 --expect many", "'many' is not a count"),
    "output in no folder": ("count gpt2 -o no/such/folder.json", "nothing was written"),
}


@pytest.mark.parametrize(("line", "says"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_on_stderr_and_exit_2(run, tmp_path, monkeypatch, line, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*line.split())
    assert (code, out) == (2, "")
    assert err.startswith("parambudget: ")
    assert err.count("\n") == 1
    assert says in err
    assert list(tmp_path.iterdir()) == []


WRONG_FILES = {
    "truncated": ('{"model": {"dim": 64,', "is not valid JSON"),
    "a list": ("[1, 2]", "a list"),
    "unknown field": ('{"dim": 64, "n_layers": 2, "n_embd": 3}', "unknown field 'n_embd'"),
    "unknown key": ('{"model": {"dim": 64, "n_layers": 2}, "modle": 1}', "unknown key 'modle'"),
    "string for a number": ('{"dim": "64", "n_layers": 2}', "dim is '64'"),
    "true for one": ('{"dim": 64, "n_layers": true}', "n_layers is True"),
    "not a number": ('{"dim": NaN, "n_layers": 2}', "NaN"),
    "unknown Hugging Face type": ('{"model_type": "t5"}', "'t5' is not supported"),
    "deep nesting": ("[" * 100_000, "JSON"),
    "binary": ("\x00\xff", "JSON"),
}


@pytest.mark.parametrize(("text", "says"), WRONG_FILES.values(), ids=WRONG_FILES)
@pytest.mark.parametrize("command", ["count", "verify"])
def test_a_wrong_file_is_one_line_on_stderr_and_exit_2(run, tmp_path, command, text, says):
    path = tmp_path / "model.json"
    path.write_text(text)
    code, out, err = run(command, path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert says in err


def test_a_directory_for_a_file_is_one_line(run, tmp_path):
    code, _, err = run("count", tmp_path)
    assert code == 2
    assert "is a directory" in err


def test_an_existing_output_survives_a_failed_write(run, tmp_path):
    (tmp_path / "config.json").mkdir()
    code, _, err = run("solve", "--target", "350M", "-o", tmp_path / "config.json")
    assert code == 2
    assert "is a directory" in err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_cli_package_holds_one_file_per_command():
    from pathlib import Path

    files = {path.stem for path in Path(next(iter(cli.__path__))).glob("*.py")}
    assert set(COMMANDS) <= files


def test_an_interrupt_while_the_command_line_is_imported_is_one_line():
    code = "import sys\nclass Late:\n    def find_spec(self, name, *_):\n"
    code += "        if name == 'typer': raise KeyboardInterrupt\n"
    code += "sys.meta_path.insert(0, Late())\nfrom parambudget.__main__ import main\nmain()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "parambudget: interrupted\n")
