"""The library's verbs. Each opens the heavy room it needs (numpy, sympy, torch) when it is called, not on
import."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parambudget.arch.config import ModelConfig
from parambudget.cost.params import Breakdown
from parambudget.cost.params import count as count_parameters
from parambudget.errors import ConfigError
from parambudget.formats.source import load
from parambudget.units import parse_count, shortened

if TYPE_CHECKING:
    from parambudget.cost.formula import Formula
    from parambudget.nn.verify import Verification
    from parambudget.planning.run_plan import RunPlan
    from parambudget.search.solutions import Solutions
    from parambudget.training.metrics import TrainResult
    from parambudget.training.request import TrainEvents

ModelLike = ModelConfig | str | Path
"""A model, a config file's path or a preset's name."""


def model(source: ModelLike | None = None, /, **fields: Any) -> ModelConfig:
    """A complete model from a source, from fields, or from a source with some fields changed.

    What is left out gets its conventional value: `model(dim=896, n_layers=24, n_heads=14)`.
    """
    if isinstance(source, ModelConfig):
        return source.replace(**fields) if fields else source
    if source is not None and not isinstance(source, str | Path):
        raise ConfigError(
            f"{shortened(repr(source))} is no model; give a ModelConfig, the path of a config file or a "
            "preset's name"
        )
    return load(source, fields).model


def count(source: ModelLike | None = None, /, **fields: Any) -> Breakdown:
    """Parameters, exactly: `count("gpt2")`, `count(config)`, `count(dim=896, n_layers=24)`."""
    return count_parameters(model(source, **fields))


def formula(source: ModelLike | None = None, /, **fields: Any) -> Formula:
    """The closed form of the parameter count of a model's choices; renders itself in a notebook."""
    from parambudget.cost.formula import formula as closed_form

    return closed_form(model(source, **fields))


def verify(source: ModelLike | None = None, /, **fields: Any) -> Verification:
    """The built torch module held against the count, tensor by tensor; `differences` is empty where all
    agree."""
    from parambudget.nn.verify import verify as build_and_compare

    return build_and_compare(model(source, **fields))


def solve(
    target: str | int | None = None, *, current: ModelLike | None = None, like: ModelLike | None = None,
    hours: float | None = None, dollars: float | None = None, flops: str | float | None = None,
    memory: str | int | None = None, gpu: str | None = None, batch_size: int | None = None, **asked: Any,
) -> Solutions:  # fmt: skip
    """The models of a budget: `solve("350M", n_layers=24, head_dim=[64, 128], dim="256:4096:64")`; of two,
    with experts: `solve("8B", active="1B")`.

    With `current`, the ways from that model to the budget (see `search.resize`); with `like`, a search of all
    sizes around that model's choices. Other budgets stand in the place of the target or beside it: hours or
    dollars on a `gpu`, FLOPs, the memory of one GPU; see `planning.compute_budget`. Everything else is as for
    `search.solve.solve`.
    """
    if current is not None and like is not None:
        raise ConfigError(
            "current starts from a model's sizes, like only takes its choices; give one of the two"
        )
    spent: dict[str, Any] = {"hours": hours, "dollars": dollars, "flops": flops, "memory": memory, "gpu": gpu,
             "batch_size": batch_size}  # fmt: skip
    spent = {name: value for name, value in spent.items() if value is not None}
    if current is not None:
        return _resized(model(current), target, spent, asked)
    from parambudget.search.solve import solve as search
    from parambudget.search.space import choices_of

    choices = choices_of(model(like)) if like is not None else {}
    fields = choices | {name: value for name, value in asked.items() if value is not None}
    if not spent and fields.get("rank") in (None, "shape", "closest"):
        if target is None:
            raise ConfigError(
                "no budget is given; give a --target, or --hours with --gpu, --flops or --memory"
            )
        return search(target, **fields)
    from parambudget.planning.compute_budget import solve_for, spending

    return replace(solve_for(spending(**spent), target, **fields), spent=spent)


def plan_run(
    source: ModelLike, /, gpu: str | None = None, *, gpus: int = 1, price: float | None = None,
    hours: float | None = None, tokens: str | int | None = None, law: str | None = None,
    unique_tokens: str | int | None = None, bytes_per_token: float | None = None, **way: Any,
) -> RunPlan:  # fmt: skip
    """What a training run would take and give: `plan_run("gpt2", "h100", hours=1.5, batch_size=16)`.

    Without `gpu` the machine's own. `price` is in US dollars per hour and GPU; the law is a name of
    `scaling.loss.LAWS`. `way` holds what is decided of `cost.speed.roofline.Work`: batch_size (sequences per
    micro-step), gradient_accumulation_steps, gradient_checkpointing, loss_chunks, optimizer, sharded; the
    rest is chosen.
    """
    from parambudget.planning.machine import machine_for
    from parambudget.planning.run_plan import Goal
    from parambudget.planning.run_plan import plan_run as planned
    from parambudget.scaling.loss import DEFAULT_LAW, loss_law

    goal = Goal(
        hours, None if tokens is None else parse_count(tokens, "tokens"),
        None if unique_tokens is None else parse_count(unique_tokens, "unique_tokens"), bytes_per_token,
        DEFAULT_LAW if law is None else loss_law(law),
    )  # fmt: skip
    machine = machine_for(gpu, n_gpus=gpus, dollars_per_hour=price)
    return planned(model(source), machine, goal, way)


def _resized(
    current: ModelConfig, target: str | int | None, spent: dict[str, Any], asked: dict[str, Any]
) -> Solutions:
    """The ways out of a current model, each with its outlook where a GPU is named."""
    from parambudget.search.resize import resize

    if target is None or spent.keys() - {"gpu", "batch_size"}:
        raise ConfigError(
            "a current model is brought to a --target; leave out hours, dollars, FLOPs and memory"
        )
    found = resize(current, target, **asked)
    if not spent:
        return found
    from parambudget.planning.compute_budget import spending, with_outlook

    return replace(found, solutions=with_outlook(found, spending(**spent)), spent=spent)


def train(
    source: ModelLike, /, out: str | Path, *, data: str | Path | None = None, tokens: str | int | None = None,
    hours: float | None = None, resume: bool = False, init: str | Path | None = None,
    shard: bool | None = None, device: str = "auto", events: TrainEvents | None = None, **settings: Any,
) -> TrainResult:  # fmt: skip
    """Train a model and keep the run in `out`: `train("config.json", "runs/mine", hours=1.5)`.

    Prints nothing; `events` are called as the run goes on. `settings` are fields of `TrainConfig` and take
    precedence over those of a config file; the rest is chosen. `steps`, `tokens` or `hours` set the length.
    With `resume`, the run in `out` is resumed if there is one. `init` is a checkpoint or a Hugging Face
    folder whose weights a new run starts from.
    """
    from parambudget.training.request import RunOptions, build_request
    from parambudget.training.run import run

    options = RunOptions(
        out=Path(out), data=None if data is None else Path(data),
        tokens=None if tokens is None else parse_count(tokens, "tokens"), hours=hours, resume=resume,
        init=None if init is None else Path(init), shard=shard,
    )  # fmt: skip
    named = source if isinstance(source, str | Path) else model(source)
    return run(lambda: build_request(named, {}, settings, options), device=device, events=events)
