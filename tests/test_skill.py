"""The skill for agents: its form, and that what it names exists. Its blocks are run by tests/test_docs.py."""

import re

import pytest
import yaml
from support.docs_outputs import SKILL

from parambudget.cli.main import COMMANDS
from parambudget.cli.schema import command_schema

TEXT = SKILL.read_text(encoding="utf-8")


def inline_commands(text):
    """What stands in backticks and begins with a command: (command, flags)."""
    found = {}
    for quoted in re.findall(r"`(?:parambudget )?([^`\n]+)`", text):
        if quoted.split()[0] in COMMANDS:
            found.setdefault(quoted.split()[0], set()).update(re.findall(r"--[a-z-]+", quoted))
    return found


def test_its_front_matter_names_the_folder_and_says_when_to_use_it():
    front = yaml.safe_load(TEXT.split("---\n")[1])
    assert front.keys() == {"name", "description"}
    assert front["name"] == SKILL.parent.name
    assert 200 < len(front["description"]) <= 1024
    assert "Use it when" in front["description"]


@pytest.mark.parametrize(("command", "flags"), inline_commands(TEXT).items())
def test_the_commands_that_it_names_have_these_flags(run, command, flags):
    groups = {"data": ("data", "prepare"), "runs": ("runs", "show")}
    help_text = run(*groups.get(command, (command,)), "--help-all")[1]
    assert [flag for flag in flags if flag not in help_text] == []


def test_the_check_of_commands_can_fail():
    assert inline_commands("`count gpt2 --vrify` and `solve`") == {"count": {"--vrify"}, "solve": set()}


def test_the_keys_of_the_json_that_it_explains_exist():
    plan = command_schema("plan")["$defs"]
    keys = {"fits", "memory", "speed", "hours", "dollars", "loss", "suggestions", "warnings"}
    assert keys <= plan["RunPlanDocument"]["properties"].keys()
    assert "peak_bytes" in plan["MemoryDocument"]["properties"]
    assert "tokens_per_second" in plan["ThroughputDocument"]["properties"]
    solve = command_schema("solve")
    assert {"solutions", "certificate", "command"} <= solve["properties"].keys()
    solution = solve["$defs"]["TrainableSolutionDocument"]["properties"].keys()
    assert {"model", "total", "error", "score", "forecast", "train"} <= solution
