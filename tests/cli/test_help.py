"""The help fits a screen and leaves nothing out; what people type is understood or answered with a hint."""

import json
import shlex
import subprocess
import sys

import pytest

from parambudget.arch.config import FIELDS
from parambudget.arch.synonyms import SYNONYMS
from parambudget.cli._settings import STEP_FLAGS
from parambudget.cli.main import _WITHOUT_ARGUMENTS, COMMANDS, application
from parambudget.cost.hardware import ACCELERATORS
from parambudget.cost.own_gpus import own_gpus_file
from parambudget.formats.hf.families.registry import FAMILIES
from parambudget.training.config import TRAIN_FIELDS

LINES = [
    *((name,) for name in COMMANDS), ("data", "prepare"), ("runs", "show"), ("ladder", "plan"),
    ("ladder", "run"), ("ladder", "fit"),
]  # fmt: skip
GROUPS = ("data", "ladder", "runs")
MODEL_COMMANDS = ("count", "solve", "plan", "verify", "export", "train")
BARE = [line for line in [(), *LINES] if line[-1:] not in [(name,) for name in _WITHOUT_ARGUMENTS]]


ACTIONS = {"--class", "--json", "--formula", "--latex", "--verify", "--show", "--clear", "--inference", "-i"}
"""What a command does instead or as well; every other flag without a value is a setting, on or off."""


def options_of(*names: str) -> list:
    """Every option of a command, as typer has it."""
    import typer

    command = typer.main.get_command(application(names[0]))
    for name in names:
        command = command.commands[name] if hasattr(command, "commands") else command
    return [each for each in command.params if each.param_type_name == "option"]


def flags_of(*names: str) -> set[str]:
    return {flag for option in options_of(*names) for flag in (*option.opts, *option.secondary_opts)}


def switches_of(*names: str) -> list:
    return [option for option in options_of(*names) if option.is_flag]


class TestHelp:
    @pytest.mark.parametrize("line", [(), *LINES], ids=" ".join)
    def test_it_fits_a_screen_of_80_columns(self, run, monkeypatch, line):
        monkeypatch.setenv("COLUMNS", "80")
        code, out, err = run(*line, "--help")
        assert (code, err) == (0, "")
        assert len(out.splitlines()) <= 62
        assert max(map(len, out.splitlines())) <= 80
        assert "…" not in out

    @pytest.mark.parametrize("line", [line for line in LINES if line[-1] not in GROUPS], ids=" ".join)
    def test_help_all_names_every_flag(self, run, line):
        out = run(*line, "--help-all")[1]
        assert max(map(len, out.splitlines())) <= 80
        for flag in flags_of(*line) - {"--no-tied"}:
            assert flag in out

    @pytest.mark.parametrize("command", MODEL_COMMANDS)
    def test_help_model_shows_the_fields_of_a_model_and_nothing_else(self, run, command):
        out = run(command, "--help-model")[1]
        assert all(f"--{name.replace('_', '-')}" in out for name in FIELDS)
        assert "--json" not in out

    def test_defaults_are_shown(self, run):
        words = " ".join(run("train", "--help-all")[1].split())
        for default in ("0.95", "linear", "chosen", "rmsnorm", "the next free one in runs/"):
            assert f"[default: {default}]" in words

    @pytest.mark.parametrize("line", BARE, ids=lambda line: " ".join(line) or "none")
    def test_a_bare_command_shows_its_usage_once_and_exits_2(self, run, line):
        code, out, err = run(*line)
        assert (code, out) == (2, "")
        assert err.count("Usage: ") == 1
        assert err.startswith(" ".join(["Usage: parambudget", *line]))

    def test_it_is_also_a_module(self):
        line = [sys.executable, "-m", "parambudget", "count", "gpt2", "--json"]
        assert json.loads(subprocess.run(line, capture_output=True, check=True).stdout)["total"] > 0

    def test_our_own_words_are_explained_where_they_stand(self, run):
        words = " ".join(run("solve", "--help")[1].split())
        assert "Search space (the lattice): " in words
        assert "body: without embeddings and output head; active: used per token" in words
        words = " ".join(run("plan", "gpt2", "--gpu", "h100", "--hours", "1")[1].split())
        assert "full convention (attention over the whole context)" in words
        assert " without embeddings and output head" in words

    def test_completion_is_offered(self, run):
        assert "--install-completion" in run("--help")[1]


class TestGeneratedFlags:
    def test_every_setting_of_a_run_has_a_flag(self):
        flags = flags_of("train")
        settings = TRAIN_FIELDS.keys() | {"shard", "shard_degree"}
        assert {f"--{name.replace('_', '-')}" for name in settings} <= flags

    @pytest.mark.parametrize("command", ["plan", "report", "solve"])
    def test_every_setting_of_a_step_has_a_flag(self, command):
        assert {f"--{name.replace('_', '-')}" for name in STEP_FLAGS} <= flags_of(command)

    def test_one_setting_has_one_text(self, run):
        for name, info in STEP_FLAGS.items():
            text = " ".join(str(info.description).split())
            for command in ("train", "plan", "report", "solve"):
                assert text in " ".join(run(command, "--help-all")[1].split()), (name, command)

    @pytest.mark.parametrize("command", MODEL_COMMANDS)
    def test_every_switch_has_its_no(self, command):
        flags = flags_of(command)
        switches = [name for name, info in FIELDS.items() if "bool" in str(info.annotation)]
        assert {f"--no-{name.replace('_', '-')}" for name in switches} <= flags

    @pytest.mark.parametrize("line", [line for line in LINES if line[-1] not in GROUPS], ids=" ".join)
    def test_a_flag_without_its_no_is_an_action(self, line):
        single = {option.opts[-1] for option in switches_of(*line) if not option.secondary_opts}
        assert single <= ACTIONS

    def test_no_tied_is_untied_and_no_gated_has_two_matrices(self, run):
        counts = [
            json.loads(run("count", "--dim", 64, "--n-layers", 2, *flags, "--json")[1])["model"]
            for flags in (["--no-tied"], ["--untied"], ["--no-gated"])
        ]
        assert [model["tied"] for model in counts] == [False, False, True]
        assert [model["gated"] for model in counts] == [True, True, False]


class TestSynonyms:
    OTHERS = (
        "--hidden_size 256 --num-hidden-layers 4 --num_attention_heads 4 --num_key_value_heads 2 "
        "--max_position_embeddings 512",
        "--n_embd 256 --n_layer 4 --n_head 4 --num_kv_heads 2 --block_size 512",
        "--d_model=256 --num_layers=4 --num_heads=4 --n-head-kv=2 --max-seq-len=512",
    )
    OURS = "--dim 256 --n-layers 4 --n-heads 4 --n-kv-heads 2 --context-length 512"

    @pytest.mark.parametrize("line", OTHERS)
    def test_other_tools_names_are_taken_with_a_note(self, run, line):
        code, out, err = run("count", *line.split(), "--json")
        assert code == 0
        assert json.loads(out)["model"] == json.loads(run("count", *self.OURS.split(), "--json")[1])["model"]
        assert err.count("\n") == 5
        assert " is --dim here\n" in err

    def test_a_switch_may_be_named_so_too(self, run):
        out = run("count", "gpt2", "--no-tie-word-embeddings", "--json")[1]
        assert json.loads(out)["model"]["tied"] is False

    @pytest.mark.parametrize("line", ["--hidden-size 64 --dim 64", "--n-embd 64 --d-model 64"])
    def test_both_spellings_are_an_error(self, run, line):
        code, out, err = run("count", *line.split())
        assert (code, out) == (2, "")
        assert "are the same setting; give one of them" in err

    def test_a_value_that_looks_like_a_flag_stays(self, run):
        assert "'--n-embd' is not a whole number" in run("count", "--dim", "--n-embd")[2]

    OF_SEVERAL_PARTS = frozenset({
        "state_size", "conv_kernel", "use_conv_bias", "use_bias", "mamba_d_state", "mamba_d_conv",
        "mamba_conv_bias", "mamba_proj_bias", "add_bias_linear",
    })  # fmt: skip

    def test_the_table_holds_every_key_of_the_importer_and_only_names_of_others(self):
        keys = {key for family in FAMILIES.values() for key in family.config.keys.values()}
        keys -= {"logits_scaling"}  # Granite divides by it, HyperCLOVA X multiplies
        keys -= {*self.OF_SEVERAL_PARTS, "n_groups"}  # which may be those of experts
        keys = {key for key in keys if "." not in key}  # inside an object
        assert keys - FIELDS.keys() <= SYNONYMS.keys()
        assert not SYNONYMS.keys() & (FIELDS.keys() | TRAIN_FIELDS.keys())

    def test_no_key_of_the_importer_has_two_meanings(self):
        """But some: JetMoE derives its query heads from its key/value heads, Mamba-2's heads are those of its
        mixer, keys of both Mambas are of one or the other, and Zamba2 has one for all biases."""
        keys = {name: family.config.keys for name, family in FAMILIES.items()}
        assert keys.pop("jetmoe")["n_heads"] == "num_key_value_heads"
        assert keys.pop("mamba2")["mamba2_n_heads"] == "num_heads"
        keys = {
            name: {ours: key for ours, key in of_type.items() if key not in self.OF_SEVERAL_PARTS}
            for name, of_type in keys.items()
        }
        meanings = {(key, ours) for of_type in keys.values() for ours, key in of_type.items()}
        assert len({key for key, _ in meanings}) == len(meanings)


HINTS = {
    "solve 350M": "write --target 350M",
    "solve --target 350": "did you mean 350M?",
    "solve --target 350M --n-layers 20-30": "ranges are written 20:30",
    "solve --target 350M --dim 256..1024": "ranges are written 256:1024",
    "solve gpt2": "write --from gpt2 to resize that model, or --like gpt2 to take its choices",
    "solve --rank size": "--rank size needs --target, --gpu or --memory",
    "train LICENSE": "LICENSE is where the model stands; train on that text with --data LICENSE",
    "plan gpt2 --gpu h100 --gpus 12": "--gpus 12 is no whole number of nodes of 8; use 8 or 16, or other",
    "train --data my.txt": "no model is given; name a preset or a config file (parambudget train gpt2 --data",
    "train gpt2 --weight-decy 0.1": "did you mean --weight-decay?",
    "count --hiden-size 64": "did you mean --dim?",
    "count gpt2 --no-such-thing": "`parambudget count --help-all` lists the flags",
    "plan gpt2 --warmup-steps 100": "no such option: --warmup-steps; it belongs to train",
    "plan gpt2 --lr 1e-3": "no such option: --lr; --learning-rate belongs to train",
    "train gpt2 --target 3M": "no such option: --target; it belongs to solve, report",
    "gpus --dim 64": "no such option: --dim; it belongs to count, solve, plan and 4 others",
    "plan gpt2 --separator x": "no such option: --separator; it belongs to data prepare",
    "count gpt2 gpt3": "'gpt3' is not expected here",
    "gpus h9000": "no GPU has 'h9000' in its name",
    "solve --target 350M --batch-size 8": "--batch-size decides what fits in memory; give --gpu or --memory",
    "solve --target 350M --kv-groups 2 --n-kv-heads 2": "--kv-groups and --n-kv-heads both set the number",
    "solve --target 350M --rank speed": "--rank speed needs --gpu",
}


@pytest.mark.parametrize(("line", "says"), HINTS.items())
def test_the_line_that_helps(run, tmp_path, monkeypatch, line, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "LICENSE").write_text("a text")
    code, out, err = run(*line.split())
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({"dim": 64, "zzz": 1}, "count --help-model"),
        ({"dim": 64, "moe": {"zzz": 1}}, "count --help-model"),
        ({"model": {"dim": 64}, "train": {"zzz": 1}}, "train --help-all"),
        ({"model": {"dim": 64}, "train": {"z" * 999: 1}}, "train --help-all"),
    ],
)  # fmt: skip
def test_an_unknown_field_of_a_file_says_where_all_are_listed(run, tmp_path, document, where):
    (tmp_path / "config.json").write_text(json.dumps(document))
    code, out, err = run("plan", tmp_path / "config.json", "--gpu", "h100")
    assert (code, out) == (2, "")
    assert f"; see `parambudget {where}`\n" in err
    assert len(err) < 500


class TestSolve:
    def test_a_fixed_step_is_in_the_forecast_and_in_the_command_that_repeats_the_search(self, run):
        line = "solve --target 350M --n-layers 24 --gpu h100 --gpus 8 --top 1 --json"
        step = "--batch-size 4 --gradient-checkpointing --no-shard --optimizer adamw"
        document = json.loads(run(*line.split(), *step.split())[1])
        forecast = document["solutions"][0]["forecast"]
        assert (forecast["batch_size"], forecast["gradient_checkpointing"]) == (4, True)
        again = shlex.split(document["command"])
        assert {*step.split(), "--gpus"} <= {*again}
        repeated = json.loads(run(*again[1:], "--json")[1])
        assert repeated["solutions"] == document["solutions"]

    def test_by_size_the_answer_needs_no_gpu(self, run):
        out = run("solve", "--target", "350M", "--n-layers", 24, "--rank", "size")[1]
        assert "rows are ordered by their parameters, the most first" in out
        assert "tokens/s" not in out


class TestGpus:
    def test_every_accelerator_stands_there_with_its_figures_and_source(self, run, monkeypatch):
        monkeypatch.setattr("parambudget.render.terminal.PIPED_WIDTH", 80)
        code, out, err = run("gpus")
        assert (code, err) == (0, "")
        words = " ".join(out.split())
        for accelerator in ACCELERATORS.values():
            assert accelerator.name in words
            assert accelerator.source in words
        assert "989.4 TFLOP/s 3.35 TB/s 450 GB/s 20" in words
        assert max(map(len, out.splitlines())) <= 80

    def test_json_has_plain_numbers(self, run):
        (row,) = json.loads(run("gpus", "4090", "--json")[1])
        assert (row["name"], row["peak_flops"]) == ("rtx-4090", 165.2e12)
        assert {"memory_bytes", "bandwidth_bytes_per_second", "link_bytes_per_second"} < row.keys()
        assert {"source", "read_on"} < row.keys()
        assert (row["peak_dtype"], row["board_watts"]) == ("bfloat16", 450)

    def test_a_float16_peak_is_marked(self, run):
        out = run("gpus", "v100-16-sxm")[1]
        assert "125 TFLOP/s*" in out
        assert "* in float16: it has no bfloat16, and the bundled trainer refuses it" in out
        assert "float16" not in run("gpus", "h100")[1]

    def test_own_rows_stand_there_and_bad_ones_get_a_line_each(self, run, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        own_gpus_file().parent.mkdir()
        own_gpus_file().write_text(
            '[mine]\nmemory = "24GB"\ntflops = 82\nbandwidth = "1TB/s"\n[bad]\ntflops = 3\n[worse]\n'
        )
        code, out, err = run("gpus", "mine")
        assert (code, err.count("\n")) == (0, 2)
        assert f"{own_gpus_file()}: row 'bad': memory and bandwidth are missing" in err
        assert f"mine: given in {own_gpus_file()}" in " ".join(out.split())


class TestPrintedCommands:
    PLAN = ("plan", "qwen3-0.6b", "--gpu", "h100", "--hours", "1")

    def planned_command(self, run, monkeypatch, columns):
        monkeypatch.setattr("parambudget.render.terminal.PIPED_WIDTH", columns)
        (line,) = [line for line in run(*self.PLAN)[1].splitlines() if line.startswith("next")]
        return line.removeprefix("next").strip()

    @pytest.mark.parametrize("columns", [40, 80, 200])
    def test_a_planned_command_trains_the_same_model_at_any_width(self, run, monkeypatch, columns):
        command = self.planned_command(run, monkeypatch, columns)
        words = shlex.split(command)
        assert words[:2] == ["parambudget", "train"]
        assert words[words.index("--data") + 1] == "YOUR_TEXT"
        model = words[2 : words.index("--data")]
        planned = json.loads(run(*self.PLAN, "--json")[1])["model"]
        assert json.loads(run("count", *model, "--json")[1])["model"] == planned

    def test_in_uv_a_command_starts_with_uv_run(self, run, monkeypatch):
        monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
        command = self.planned_command(run, monkeypatch, 80)
        assert command.startswith("uv run --extra train parambudget train ")
        assert "search: uv run parambudget solve --target" in run("solve", "--target", "350M")[1]

    @pytest.mark.parametrize(
        ("line", "command"),
        [
            ("plan gpt2 --gpu v200", "`uv run parambudget gpus` lists all"),
            ("plan gpt2 --gpu v200", "`uv run --extra train parambudget calibrate` measures it"),
            ("plan gpt2 --gpu cpu", "`uv run --extra train parambudget calibrate`"),
            ("gpus no-such-gpu", "`uv run parambudget gpus` for all"),
            ("presets no-such-preset", "`uv run parambudget presets` for all"),
            ("plan gpt2 --no-such-thing", "`uv run parambudget plan --help-all` lists the flags"),
            ("calibrate --show", "run uv run --extra train parambudget calibrate"),
            ("solve --help", "uv run parambudget solve --target 350M"),
            ("gpus --help", "`uv run --extra train parambudget calibrate`"),
        ],
    )
    def test_a_command_that_a_message_or_a_help_names_can_be_pasted(self, run, monkeypatch, line, command):
        monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
        _, out, err = run(*line.split())
        assert command in " ".join((out + err).split())

    def test_several_gpus_are_started_by_torchrun_in_the_same_environment(self, run, monkeypatch):
        monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
        out = run(*self.PLAN, "--gpus", "8")[1]
        start = "uv run --extra train torchrun --standalone --nproc-per-node 8 --no-python parambudget train "
        assert start in out

    def test_as_a_module_it_is_named_so(self):
        line = [sys.executable, "-m", "parambudget", "solve", "--target", "350M"]
        out = subprocess.run(line, capture_output=True, text=True, check=True).stdout
        assert "-m parambudget solve --target 350000000" in out
