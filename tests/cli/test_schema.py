"""`parambudget schema`: every key that --json prints is described, and nothing else is printed."""

import json
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator

from parambudget._install import TRAINING
from parambudget.cli.main import COMMANDS
from parambudget.cli.schema import _NEED_TRAINING, DOCUMENTS, command_schema

SIZES = ["--dim", "32", "--n-layers", "2", "--n-heads", "2", "--vocab-size", "300", "--context-length", "32"]
STEP = "--batch-size 16 --gradient-accumulation-steps 8"
PRINTED = [
    "count gpt2",
    "count --dim 64 --n-layers 2 --verify --formula",
    "count deepseek-v3 --latex",
    "count gpt-oss-20b --formula",
    "count llama-3.1-8b",
    "solve --target 350M",
    "solve --target 350M --top 2 --rank closest --tolerance 0.1% --counted body",
    "solve --target 8B --active 1B --top 2",
    "solve --target 8M --vocab-size 50257 --n-layers 2:4 --tied",
    "solve --target 350M --from gpt2-medium --gpu h100",
    "solve --target 350M --from gpt2",
    "solve --target 350M --gpu v100-32-sxm --top 1",
    "solve --hours 1.5 --gpu h100 --top 2",
    "solve --target 350M --hours 1.5 --gpu h100 --gpus 8 --unique-tokens 1B --top 1",
    "solve --flops 1e18 --top 1",
    "solve --memory 24GB --gpu 4090 --rank size --top 1",
    "solve --dollars 20 --gpu a100 --anchor loss=3.21,tokens=400M,model=gpt2 --top 1",
    f"plan gpt2 --gpu h100 {STEP} --hours 1.5",
    "plan gpt2 --gpu h100 --compare gpt2-medium --compare mixtral-8x7b-v0.1 --tokens 1B --memory 40GB",
    "plan mixtral-8x7b-v0.1 --gpu 4090",
    "plan gpt2 --gpu h100 --gpus 16 --unique-tokens 100M --bytes-per-token 4.2 --shard",
    "plan gpt2 --gpu h100 --target-loss 3.0781",
    "plan gpt2 --gpu h100 --target-loss 3.0781 --anchor loss=3.21,tokens=400M,model=gpt2",
    "plan gpt2 --gpu h100 --target-loss 1.0 --anchor loss=3.21,tokens=400M,model=gpt2",
    "plan gpt2 --gpu mine --gpu-memory 24GB --gpu-tflops 82 --gpu-bandwidth 1008GB/s --price 0.5",
    "plan gpt2 --gpu h100 --mfu 0.35",
    "plan gpt2 --gpu v100-32-sxm",
    "plan gpt2 --inference --gpu 4090",
    "plan llama-3-70b --inference --gpu 4090 --batch-size 64",
    "report gpt2-medium --target 300M --gpu h100 --hours 1 --target-loss 3.4",
    "verify gpt2",
    "export gpt2 --to hf",
    "export llama-3.2-1b --to litgpt",
    "export llama-3-8b --to megatron",
    "presets",
    "presets qwen",
    "gpus",
    "gpus v100",
    "calibrate --show",
    "calibrate --clear",
]  # fmt: skip


@pytest.fixture(scope="module")
def validators():
    return {command: Draft202012Validator(command_schema(command)) for command in DOCUMENTS}


def problems(validators, command, printed):
    """What is printed and not described, or described and not printed, as a list of sentences."""
    errors = validators[command].iter_errors(json.loads(printed))
    return [f"{error.json_path}: {error.message[:300]}" for error in errors]


def test_every_command_with_json_has_a_schema_and_no_other(run):
    lines = [name for name in COMMANDS if name not in ("data", "ladder", "runs")] + [
        "data prepare",
        "runs show",
    ]
    lines += ["ladder plan", "ladder run", "ladder fit"]
    with_json = [line for line in lines if "\n  --json" in run(*line.split(), "--help-all")[1]]
    assert sorted(with_json) == sorted(DOCUMENTS)


def objects_in(schema):
    """Every object with named keys within a schema."""
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    inside = [each for part in parts for each in objects_in(part)]
    is_object = isinstance(schema, dict) and schema.get("type") == "object" and "properties" in schema
    return [schema, *inside] if is_object else inside


@pytest.mark.parametrize("command", DOCUMENTS)
def test_a_schema_is_valid_closed_and_described(run, command):
    code, out, err = run("schema", *command.split())
    schema = json.loads(out)
    assert (code, err) == (0, "")
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    objects = objects_in(schema)
    assert objects != []
    for each in objects:
        assert each["additionalProperties"] is False
        plain = {name: field for name, field in each["properties"].items() if "$ref" not in field}
        assert [name for name, field in plain.items() if "description" not in field] == []
    assert "None" not in out


@pytest.mark.parametrize("line", PRINTED)
def test_what_is_printed_is_what_the_schema_says(run, validators, line):
    code, out, _ = run(*line.split(), "--json")
    assert code in (0, 1)
    assert problems(validators, line.split()[0], out) == []


def test_a_key_that_no_schema_has_and_one_that_is_missing_are_found(run, validators):
    document = json.loads(run("count", "gpt2", "--json")[1])
    assert problems(validators, "count", json.dumps(document | {"novel": 1})) != []
    del document["model"]["norm_eps"]
    (error,) = validators["count"].iter_errors(document)  # neither a model's count nor a class's
    assert "$.model: 'norm_eps' is a required property" in [
        f"{each.json_path}: {each.message}" for each in error.context
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text, questions, and room for a run."""
    folder = tmp_path_factory.mktemp("schema")
    (folder / "text.txt").write_text("a text that is long enough to be read more than once. " * 400)
    question = {"ctx": "a text that is", "endings": [" long", " short"], "label": 0}
    (folder / "questions.jsonl").write_text(json.dumps(question) + "\n")
    return folder


@pytest.mark.usefixtures("one_thread")
def test_what_runs_and_their_texts_print_is_what_the_schemas_say(run, validators, folder):
    text, questions, out = folder / "text.txt", folder / "questions.jsonl", folder / "run"
    common = ("--device", "cpu", "--steps", 2, "--batch-size", 2, "--gradient-accumulation-steps", 1)
    lines = [
        ("data", "prepare", text, "--tokenizer", "bpe", "--vocab-size", 300, "-o", folder / "tokens"),
        ("train", *SIZES, "--data", folder / "tokens", *common, "--out", out,
         "--eval-choices", questions),
        ("train", "--out", out, "--resume", "--steps", 3),
        ("runs", "show", out),
        ("runs", "show", out, out),
        ("eval", out, "--choices", questions, "--text", text),
        ("sample", out, "--prompt", "a text", "--max-tokens", 2, "--device", "cpu"),
        ("sample", out, "--max-tokens", 2, "--num-samples", 2, "--device", "cpu"),
        ("export", "--weights", out, "-o", folder / "exported"),
    ]  # fmt: skip
    for line in lines:
        code, printed, err = run(*line, "--json")
        assert code == 0, err
        command = " ".join(line[:2]) if line[0] in ("data", "runs") else line[0]
        assert problems(validators, command, printed) == [], line


def test_schema_alone_lists_the_commands_and_an_unknown_one_is_one_line(run):
    assert run("schema") == (0, "\n".join(DOCUMENTS) + "\n", "")
    code, out, err = run("schema", "plna")
    assert (code, out) == (2, "")
    assert err == "parambudget: no command 'plna' has --json; the nearest is plan\n"


def test_without_what_training_needs_a_schema_is_printed_or_says_what_to_install():
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({TRAINING}))\n"
        "from parambudget.cli import schema\n"
        "for command in schema.DOCUMENTS:\n"
        "    try: schema.command_schema(command)\n"
        "    except ImportError: print(command)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert tuple(ended.stdout.splitlines()) == _NEED_TRAINING
