"""The MCP server, asked by the protocol's own client: its answers are those of the command line."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator
from mcp import Client
from mcp.client.stdio import StdioServerParameters

import parambudget as pb
from parambudget import mcp
from parambudget.cli.schema import command_schema
from parambudget.cost.step import STEP_FIELDS

SIZES = {"dim": 64, "n_layers": 2, "n_heads": 2, "vocab_size": 300}


@pytest.fixture(scope="module")
def session():
    """What a server on standard input and output answered: its tools, a count, an error, a count after it."""

    async def ask():
        command = StdioServerParameters(
            command=sys.executable, args=["-m", "parambudget", "mcp"], env=dict(os.environ)
        )
        async with Client(command) as client:
            calls = [("count", {"model": "gpt2"}), ("plan", {"model": "gtp2"}), ("count", {"model": SIZES})]
            return (await client.list_tools()).tools, [await client.call_tool(*call) for call in calls]

    return asyncio.run(ask())


def test_a_client_sees_the_tools_with_the_schemas_of_what_they_take_and_give(session):
    tools = {tool.name: tool for tool in session[0]}
    assert list(tools) == ["count", "solve", "resize", "plan", "compare"]
    for tool in tools.values():
        Draft202012Validator.check_schema(tool.input_schema)
        Draft202012Validator.check_schema(tool.output_schema)
        assert tool.output_schema["type"] == "object"
        assert tool.input_schema["additionalProperties"] is False
        assert all(field["description"] for field in tool.input_schema["properties"].values())
        assert tool.annotations.read_only_hint
    of_count = command_schema("count")["$defs"]["CountDocument"]  # the other document is of `--class`
    commands = {"count": of_count["properties"], "solve": command_schema("solve")["properties"]}
    assert {name: tools[name].output_schema["properties"] for name in commands} == commands


def test_a_client_gets_the_document_of_the_command_line_and_the_same_line_for_an_error(session, run):
    first, error, second = session[1]
    document = json.loads(run("count", "gpt2", "--json")[1])
    assert first.structured_content == document == json.loads(first.content[0].text)
    assert error.is_error
    (line,) = error.content
    assert f"parambudget: {line.text.partition('; ')[0]}" in run("plan", "gtp2")[2]
    assert second.structured_content["total"] == pb.count(**SIZES).total


STEP = {"batch_size": 16, "gradient_accumulation_steps": 8}
FLAGS = "--batch-size 16 --gradient-accumulation-steps 8"


@pytest.mark.parametrize(
    ("tool", "arguments", "line"),
    [
        ("count", {"model": "llama-3-8b", "changes": {"context_length": 512}, "formula": True},
         "count llama-3-8b --context-length 512 --formula"),
        ("count", {"model": SIZES, "style": "modern"},
         "count --dim 64 --n-layers 2 --n-heads 2 --vocab-size 300 --style modern"),
        ("solve", {"target": 350_000_000, "top": 2, "sizes": {"n_layers": "20:24", "head_dim": [64, 128]}},
         "solve --target 350M --top 2 --n-layers 20:24 --head-dim 64,128"),
        ("solve", {"hours": 1.5, "machine": "h100", "unique_tokens": "1B", "dollars_per_hour": 2.5, **STEP},
         f"solve --hours 1.5 --gpu h100 --unique-tokens 1B --price 2.5 {FLAGS}"),
        ("resize", {"current": "gpt2-medium", "target": "300M", "machine": "h100"},
         "solve --from gpt2-medium --target 300M --gpu h100"),
        ("plan", {"model": "gpt2", "machine": "h100", "gpus": 8, "hours": 1.5, "target_loss": 3.0, **STEP},
         f"plan gpt2 --gpu h100 --gpus 8 --hours 1.5 --target-loss 3.0 {FLAGS}"),
        ("plan", {"model": "gpt2", "machine": "h100", "law": "hoffmann-2022", "memory": "40GB",
                  "bytes_per_token": 4.2},
         "plan gpt2 --gpu h100 --law hoffmann-2022 --memory 40GB --bytes-per-token 4.2"),
        ("solve", {"hours": 1.5, "machine": "h100", "law": "hoffmann-2022", "top": 2},
         "solve --hours 1.5 --gpu h100 --law hoffmann-2022 --top 2"),
        ("compare", {"models": ["gpt2", "gpt2-medium"], "machine": "h100", "tokens": "1B"},
         "plan gpt2 --compare gpt2-medium --gpu h100 --tokens 1B"),
    ],
)  # fmt: skip
def test_a_tool_answers_what_the_command_prints(run, tool, arguments, line):
    answer = mcp.TOOLS[tool].answer(arguments)
    document = json.loads(run(*line.split(), "--json")[1])
    assert not answer.is_error, answer.content
    assert json.loads(json.dumps(answer.structured_content)) == document


def test_an_answer_is_the_model_of_the_next_question_and_what_is_not_expressed_is_noted():
    found = mcp.TOOLS["solve"].answer({"target": "8M", "sizes": {"vocab_size": 4096}}).structured_content
    model = found["solutions"][0]["model"]
    planned = mcp.TOOLS["plan"].answer({"model": model, "machine": "h100"})
    assert planned.structured_content["total"] == found["solutions"][0]["total"]
    smaller = mcp.TOOLS["resize"].answer({"current": model, "target": "4M"}).structured_content
    assert "--from YOUR_MODEL " in smaller["command"]
    noted = mcp.TOOLS["plan"].answer({"model": {"model_type": "gpt2", "is_causal": False}, "machine": "h100"})
    assert noted.content[1].text.startswith("note: counted exactly, but built without attention to later")


@pytest.mark.parametrize(
    ("tool", "arguments", "line"),
    [
        ("count", {}, "`model` is missing; give a preset's name (gpt2, llama-3-8b), the path of a config"),
        ("count", {"model": 3}, "`model` is 3; it must be a valid string or be a valid dictionary"),
        ("count", {"model": {"dims": 64}}, "the model: unknown field 'dims'; did you mean 'dim'?"),
        ("plan", {"model": "gpt2", "machine": "h1000"}, "no GPU is known as 'h1000'"),
        ("plan", {"model": "gpt2", "gpu": "h100"}, "unknown argument 'gpu'; the nearest"),
        ("plan", {"model": "gpt2", "hours": "1"}, "`hours` is '1'; it must be a valid number"),
        ("solve", {}, "there is nothing to solve for"),
        ("solve", {"target": "350M", "sizes": {"n_layer": 24, "n_layers": 24}}, "n_layer"),
        ("solve", {"target": "350M", "sizes": {"top": 3}}, "top is neither; give `top` as an argument"),
        ("solve", {"target": "350M", "sizes": {"world_size": 8}}, "; give `machine=\"h100\", gpus=8`"),
        ("solve", {"target": "350M", "sizes": {"per_device_train_batch_size": 8}}, "; give `batch_size` as"),
        ("solve", {"target": "350M", "sizes": {"budget": 8}}, "and budget is neither; leave it out"),
        ("solve", {"target": "350M", "sizes": {"seed": 8}}, "an argument of `parambudget train`, which is"),
        ("solve", {"target": "350M", "sizes": {"wings": 2}}, "see the `model` of an answer of count"),
        ("resize", {"current": "gpt2", "target": "99M", "sizes": {"style": "modern"}},
         "as in the `model` that count answers for style='modern'"),
        ("plan", {"model": "gpt2", "machine": "wing"}, "`parambudget gpus` in a shell lists all"),
        ("solve", {"target": "350M", "sizes": {"n_layers": {"from": 1}}}, "n_layers"),
        ("solve", {"target": "350M", "sizes": {"moe": 3}}, "moe is 3; give a MoEConfig or its fields"),
        ("count", {"model": {"dim": "64", "n_layers": [2]}}, "the model: dim is '64'"),
        ("count", {"model": "gpt2", "changes": {"dims": 3}}, "gpt2: unknown field 'dims'"),
        ("plan", {"model": "gpt2", "machine": "h100", "anchor": "nowhere"}, "nowhere"),
        ("plan", {"model": SIZES, "machine": "h100", "hours": 1e-300}, "`hours=1e-300` is too short for one"),
        ("compare", {"models": ["gpt2"]}, "compare takes two models or more, and `models` has 1 model; plan"),
        ("compare", {"models": []}, "and `models` has no models"),
        ("compare", {"models": ["gpt2", {"dims": 64}]}, "model 2: the model: unknown field 'dims'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(tool, arguments, line):
    answer = mcp.TOOLS[tool].answer(arguments)
    assert answer.is_error
    (content,) = answer.content
    assert line in content.text
    assert "\n" not in content.text
    assert "pb." not in content.text
    assert len(content.text) < 500


def test_every_setting_of_an_update_can_be_given():
    assert [name for name in STEP_FIELDS if name not in mcp.StepArguments.model_fields] == []
    given = {"model": SIZES, "machine": "h100", "gpus": 16, "tokens": "1B", "shard_degree": 8}
    answer = mcp.TOOLS["plan"].answer(given)
    assert answer.structured_content["speed"]["step"]["shard_degree"] == 8


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_the_server_while_the_agent_holds_standard_input_open(number, code):
    with subprocess.Popen(
        [sys.executable, "-m", "parambudget", "mcp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        server.stdin.write('{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        server.stdin.flush()
        assert json.loads(server.stdout.readline())["id"] == 1  # it reads, and waits for the next line
        server.send_signal(number)
        try:
            assert server.wait(timeout=20) == code
        finally:
            server.kill()
        assert server.stderr.read() == ("parambudget: interrupted\n" if number == signal.SIGINT else "")


def test_without_the_package_the_command_says_how_to_install_it(run, monkeypatch):
    monkeypatch.setattr("parambudget._install.find_spec", lambda _: None)
    code, out, err = run("mcp")
    assert (code, out) == (2, "")
    assert err.startswith("parambudget: mcp needs mcp, not installed here; install with: ")
    assert "[mcp]" in err
