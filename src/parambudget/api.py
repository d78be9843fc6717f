"""The library's verbs. Each opens the heavy room it needs (numpy, sympy, torch) when it is called, not on
import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from parambudget.arch.config import ModelConfig
from parambudget.arch.source import load
from parambudget.cost.count import Breakdown
from parambudget.cost.count import count as count_parameters
from parambudget.errors import ConfigError

if TYPE_CHECKING:
    from parambudget.build.verify import Verification
    from parambudget.plan.solution import Solutions
    from parambudget.show.formula import Formula

ModelLike = ModelConfig | str | Path
"""A model, a config file's path or a preset's name."""


def model(source: ModelLike | None = None, /, **fields: Any) -> ModelConfig:
    """A complete model from a source, from fields, or from a source with some fields changed.

    What is left out gets its conventional value: `model(dim=896, n_layers=24, n_heads=14)`.
    """
    if isinstance(source, ModelConfig):
        return source.replace(**fields) if fields else source
    return load(source, fields).model


def count(source: ModelLike | None = None, /, **fields: Any) -> Breakdown:
    """Parameters, exactly: `count("gpt2")`, `count(config)`, `count(dim=896, n_layers=24)`."""
    return count_parameters(model(source, **fields))


def formula(source: ModelLike | None = None, /, **fields: Any) -> Formula:
    """The closed form of the parameter count of a model's choices; renders itself in a notebook."""
    from parambudget.show.formula import formula as closed_form

    return closed_form(model(source, **fields))


def verify(source: ModelLike | None = None, /, **fields: Any) -> Verification:
    """The built torch module held against the count, tensor by tensor; `differences` is empty where all
    agree."""
    from parambudget.build.verify import verify as build_and_compare

    return build_and_compare(model(source, **fields))


def solve(
    target: str | int, *, current: ModelLike | None = None, like: ModelLike | None = None, **asked: Any
) -> Solutions:
    """The models of a budget: `solve("350M", n_layers=24, head_dim=[64, 128], dim="256:4096:64")`.

    With `current`, the ways from that model to the budget (see `plan.resize`); with `like`, a search of all
    sizes around that model's choices. Everything else is as for `plan.solve.solve`.
    """
    if current is not None and like is not None:
        raise ConfigError(
            "current starts from a model's sizes, like only takes its choices; give one of the two"
        )
    if current is not None:
        from parambudget.plan.resize import resize

        return resize(model(current), target, **asked)
    from parambudget.plan.solve import solve as search
    from parambudget.plan.space import choices_of

    choices = choices_of(model(like)) if like is not None else {}
    return search(target, **choices | {name: value for name, value in asked.items() if value is not None})
