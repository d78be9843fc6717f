"""A model as flags, and flags as a model: both ways agree."""

import shlex
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from support.strategies import models

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import with_defaults
from parambudget.cli._options import with_model_fields
from parambudget.render.model import flags

SEEN: list[dict[str, Any]] = []


@with_model_fields()
def command(source: str = "", *, fields: dict[str, Any]) -> None:
    SEEN.append(fields | {"source": source} if source else fields)


def fields_of(words: list[str]) -> dict[str, Any]:
    app = typer.Typer(add_completion=False)
    app.command()(command)
    app(words, standalone_mode=False)
    return SEEN.pop()


@settings(max_examples=60, deadline=None)
@given(models())
def test_the_flags_of_a_model_say_that_model(model: ModelConfig):
    assert with_defaults(fields_of(shlex.split(flags(model)))).model == model


def test_a_command_receives_the_fields_that_were_used_beside_its_own_options():
    used = fields_of(["--n-layers=3", "--untied", "--source", "x"])
    assert used == {"n_layers": 3, "tied": False, "source": "x"}


@pytest.mark.parametrize("name", ["window", "q_lora_rank", "embedding_dim", "n_experts", "n_first_dense"])
def test_a_size_is_a_whole_number_written_in_full(name: str):
    assert fields_of([f"--{name.replace('_', '-')}", "50_257"]) == {name: 50257}
