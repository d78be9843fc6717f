"""A ladder before it is trained: the large run, the small ones, and what they cost and tell."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from parambudget._files import sha256_of_text
from parambudget._tabular import Tabular
from parambudget._version import __version__
from parambudget.arch.config import ModelConfig, ModelDocument
from parambudget.cost.flops import flops_per_token
from parambudget.cost.speed.throughput import Interval, IntervalDocument, rental_cost, throughput
from parambudget.errors import InputError
from parambudget.ladders.design import (
    Certainty,
    LadderRequest,
    Rung,
    Target,
    choose_rungs,
    embedding_share,
    simulate,
)
from parambudget.ladders.ladder_file import (
    LadderDocument,
    RungEntry,
    require_free_ladder_folder,
    write_ladder,
)
from parambudget.planning.budget import Budget, Scenario
from parambudget.planning.compute_budget import solve_for_budget
from parambudget.planning.forecast import plan_for
from parambudget.planning.machine import Machine
from parambudget.text.corpus import is_built_in
from parambudget.text.mixture import absolute_source
from parambudget.text.token_cache import TokenData
from parambudget.units import shorten


class RungDocument(TypedDict):
    """One run of a ladder."""

    rung: int
    """Its number, from 1."""
    name: str
    """Of its folder."""
    parameters: int
    """All but those of an output head of its own."""
    embedding_share: float
    """Of the parameters that are the embedding."""
    tokens: int
    """To train on."""
    tokens_per_parameter: float
    """Their ratio."""
    seed: int
    """Of the run."""
    updates: int
    """Of the weights."""
    flops: float
    """Of the whole run, full convention."""
    hours: float | None
    """Expected; null where no machine was given."""
    width_without: float
    """Of the 90 % interval of the large run's loss, in nats per token, without the runs of this size and
    length. From end to end: the screen shows ± half of it."""


class LadderTargetDocument(TypedDict):
    """The large run that a ladder predicts."""

    model: ModelDocument
    """The model."""
    parameters: int
    """All but those of an output head of its own."""
    tokens: int
    """To train on."""
    flops: float
    """Of the whole run, full convention."""
    unique_tokens: int
    """Tokens of the text."""


class LadderPlanDocument(TypedDict):
    """The runs of a ladder before any is made, and what they should tell."""

    target: LadderTargetDocument
    """What they predict."""
    machine: str | None
    """null where none was given."""
    share: float
    """Of the large run's FLOPs that all rungs take together at most."""
    hours: float | None
    """Of all rungs, one after the other; null where no machine was given."""
    dollars: IntervalDocument | None
    """Of all rungs; null where no price is known."""
    expected_loss: float
    """That the simulation supposes of the large run, in nats per token."""
    expected_width: float
    """Of the simulated 90 % interval of the large run's loss, in nats per token, from end to end."""
    neighbours_differ_by: float
    """What models of a quarter and of four times the size differ by, in nats per token."""
    rungs: list[RungDocument]
    """The cheapest first."""
    warning: str | None
    """What no law of the ladder will know of the large run; null where there is nothing."""
    folder: NotRequired[str]
    """Where the ladder was written."""


@dataclass(frozen=True, repr=False, eq=False)
class LadderPlan(Tabular):
    """Rungs with what they cost and tell."""

    target: Target
    rungs: tuple[Rung, ...]
    machine: Machine | None
    """Where the rungs are to run; None where its speed is not known."""
    data: TokenData
    source: Path
    certainty: Certainty

    @property
    def share(self) -> float:
        """Of the target's FLOPs."""
        return sum(rung.flops for rung in self.rungs) / self.target.flops

    def hours(self, rung: Rung) -> float | None:
        """Expected on the machine, of that rung alone."""
        if self.machine is None:
            return None
        speed = throughput(rung.model, rung.config.step, self.machine.profile)
        return speed.hours(rung.tokens).expected

    @property
    def total_hours(self) -> float | None:
        """One rung after the other."""
        hours = [hours for rung in self.rungs if (hours := self.hours(rung)) is not None]
        return sum(hours) if len(hours) == len(self.rungs) else None

    @property
    def dollars(self) -> Interval | None:
        """Of all rungs; None where no price is known."""
        hours = self.total_hours
        if self.machine is None or self.machine.price is None or hours is None:
            return None
        price = self.machine.price
        return rental_cost(Interval(hours, hours, hours), price, self.machine.world_size)

    def rows(self) -> list[RungDocument]:
        """One row per rung."""
        return [
            {
                "rung": number, "name": rung.name, "parameters": round(rung.n_parameters),
                "embedding_share": embedding_share(rung.model), "tokens": rung.tokens,
                "tokens_per_parameter": rung.tokens / rung.n_parameters, "seed": rung.config.seed,
                "updates": rung.config.steps, "flops": rung.flops, "hours": self.hours(rung),
                "width_without": self.certainty.without[rung.n_parameters, rung.tokens],
            }
            for number, rung in enumerate(self.rungs, 1)
        ]  # fmt: skip

    def as_dict(self) -> LadderPlanDocument:
        """Plain JSON values."""
        dollars = self.dollars
        return {
            "target": {
                "model": self.target.model.model_dump(), "parameters": round(self.target.n_parameters),
                "tokens": self.target.tokens, "flops": self.target.flops,
                "unique_tokens": self.target.unique_tokens,
            },
            "machine": None if self.machine is None else self.machine.name,
            "share": self.share, "hours": self.total_hours,
            "dollars": None if dollars is None else dollars.as_dict(),
            "expected_loss": self.certainty.loss, "expected_width": self.certainty.width,
            "neighbours_differ_by": self.certainty.neighbours, "rungs": self.rows(),
            "warning": self.target.overfitting_warning,
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """Make the folder a ladder."""
        require_free_ladder_folder(folder)
        names = {rung.name: rung for rung in self.rungs}
        assert len(names) == len(self.rungs)
        model, data = self.target.model, self.data
        write_ladder(
            folder,
            LadderDocument(
                version=__version__,
                data=str(self.source if is_built_in(self.source) else absolute_source(self.source)),
                corpus=data.name, corpus_sha256=data.sha256, tokens_sha256=data.tokens_sha256,
                tokenizer_sha256=sha256_of_text(data.tokenizer_json),
                unique_tokens=self.target.unique_tokens, vocab_size=model.vocab_size,
                context_length=model.context_length, target=model.model_dump(),
                target_tokens=self.target.tokens, machine=None if self.machine is None else self.machine.name,
                expected_loss=self.certainty.loss, expected_width=self.certainty.width,
                rungs=tuple(
                    RungEntry(
                        rung.name, rung.n_parameters, rung.tokens, rung.config.seed, float(rung.flops),
                        self.hours(rung),
                    )
                    for rung in self.rungs
                ),
            ),
            names,
        )  # fmt: skip


def parse_share(given: str | float) -> float:
    """A share of the target's compute: `10%` or 0.1; it may be above 1."""
    text = str(given).strip()
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise InputError(
            f"`share` {shorten(text)!r} is not a share of the target's compute; use 10% or 0.1"
        ) from None


def design_ladder(
    target: Target, request: LadderRequest, machine: Machine | None, data: TokenData, source: Path
) -> LadderPlan:
    """The ladder for a target. Raises `InputError` where it would not tell what it is for."""
    rungs = choose_rungs(target, request, on_cpu=machine is None or machine.accelerator is None)
    certainty = simulate(target, rungs)
    if certainty.width / 2 > certainty.neighbours:
        raise InputError(
            f"this ladder would tell the target's loss to ±{certainty.width / 2:.2g} nats (half of a "
            "simulated 90 % interval), and models of a quarter and of four times its size differ from it by "
            f"{certainty.neighbours:.2g}: it could not tell them apart; give a larger `share` or more `seeds`"
        )
    return LadderPlan(target, rungs, machine, data, source, certainty)


def require_length(budget: Budget, model: ModelConfig | None, tokens: int | None) -> None:
    """Raise `InputError` unless exactly one thing says how long the target is trained."""
    has_budget = any(limit is not None for limit in (budget.hours, budget.dollars, budget.flops))
    if tokens is not None and model is None:
        raise InputError(
            "`tokens` are of a model; give `target` as well, or `hours`, `dollars` or `flops` instead"
        )
    if tokens is not None and has_budget:
        raise InputError("`tokens` and a budget both set the length of the target's run; give one of them")
    if tokens is None and not has_budget:
        raise InputError(
            "nothing says how long the large run is; give `hours`, `dollars` or `flops`, or a model as "
            "`target` with `tokens`"
        )


def choose_target(
    scenario: Scenario, data: TokenData, model: ModelConfig | None, tokens: int | None,
    fields: Mapping[str, object],
) -> Target:  # fmt: skip
    """The run to predict: of a model for a budget or so many tokens, or of the best model for a budget."""
    unique = data.n_unique_tokens
    if model is None:
        best = solve_for_budget(scenario, None, {"vocab_size": data.entries, **fields}, top=1)[0]
        assert best.forecast is not None
        assert best.forecast.tokens is not None
        return Target(best.model, round(best.forecast.tokens), unique)
    if data.entries > model.vocab_size:
        raise InputError(
            f"the text has a tokenizer of {data.entries:,} entries, more than the vocabulary of the target, "
            f"{model.vocab_size:,}; use a `target` with `vocab_size={data.entries}`"
        )
    if tokens is None and scenario.machine is not None:
        tokens = plan_for(model, scenario, scenario.machine).tokens
    elif tokens is None:
        assert scenario.flops is not None
        tokens = max(1, int(scenario.flops / flops_per_token(model)))
    return Target(model, tokens, unique)
