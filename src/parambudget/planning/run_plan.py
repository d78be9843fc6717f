"""A training run before it begins: whether it fits, its speed, length, cost and expected loss."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Annotated, Any

from typing_extensions import TypedDict

from parambudget._json_types import SchemaOf
from parambudget._tabular import Tabular
from parambudget.arch.config import ModelConfig, ModelDocument
from parambudget.arch.dims import Size
from parambudget.cost.energy import Energy, EnergyDocument, training_energy
from parambudget.cost.flops import Convention, flops_per_token, training_flops
from parambudget.cost.memory.peak import MemoryBreakdown, MemoryDocument, training_memory
from parambudget.cost.params import ParameterCount, count
from parambudget.cost.speed.throughput import (
    TIME_OVERHEAD,
    Interval,
    IntervalDocument,
    Throughput,
    ThroughputDocument,
    rental_cost,
    throughput,
    tokens_in_hours,
)
from parambudget.cost.step import NEVER_CHOSEN, STEP_FIELDS, StepConfig, StepFields, read_step_fields
from parambudget.errors import InputError
from parambudget.planning.advice import no_way_to_fit, suggestions, warnings
from parambudget.planning.budget import check_hours
from parambudget.planning.machine import USABLE_SHARE, Machine
from parambudget.planning.shape_price import ranked_loss
from parambudget.planning.step_search import NOTHING_GIVEN
from parambudget.planning.target_loss import TargetLoss, TargetLossDocument, answer_target
from parambudget.planning.update import choose_step
from parambudget.scaling.anchor import Anchor
from parambudget.scaling.hyperparameters import (
    peak_learning_rate,
    training_tokens,
    whole_updates,
)
from parambudget.scaling.loss import (
    DEFAULT_LAW,
    SEED_NOISE,
    LossEstimate,
    LossLaw,
    estimate_loss,
    expected_loss,
    law_parameters,
    laws_beside,
    range_over_laws,
    repetition_warning,
    require_comparable,
)
from parambudget.scaling.numbers import require_positive
from parambudget.units import format_count


@dataclass(frozen=True)
class Goal:
    """How long to train, and on what text."""

    hours: float | None = None
    """Wall time."""
    tokens: int | None = None
    """Tokens to train on; with neither, 20 per parameter or 4 epochs."""
    unique_tokens: int | None = None
    """Tokens of the text, which is repeated when they are used up; None for unlimited text."""
    bytes_per_token: float | None = None
    """Of the text under its tokenizer; with it, losses are given in bits per byte too."""
    law: LossLaw = DEFAULT_LAW
    target_loss: float | None = None
    """Nats per token that the run should reach."""

    def __post_init__(self) -> None:
        if self.hours is not None and self.tokens is not None:
            raise InputError("`hours` and `tokens` both set the length of the run; give one of them")
        if self.hours is not None:
            check_hours(self.hours)
        if self.unique_tokens is not None:
            require_positive(self.unique_tokens, "unique_tokens")
        if self.bytes_per_token is not None:
            require_positive(self.bytes_per_token, "bytes_per_token")


class MachineDocument(TypedDict):
    """What a run is planned on."""

    name: str
    """Of the GPU, or cpu."""
    gpus: int
    """Devices; 1 for a CPU."""
    gpus_per_node: int
    """More GPUs than these are several nodes."""
    gpu_source: str | None
    """Where the figures of the GPU were read; null where it is not of the list."""
    memory_bytes: int
    """Of one device."""
    usable_share: float
    """Share of the memory that a plan may fill."""
    dollars_per_hour: tuple[float, float] | None
    """Lowest and highest price of one GPU; null where none is known."""
    price_source: str | None
    """Where the price was read; null where none is known."""
    price_read_on: str | None
    """The day of the price; null where it was given."""


class ExpectedLossDocument(TypedDict):
    """The expected loss at the end of the run. Without an anchor it is good for comparing models, not as an
    absolute value: the level is that of the law's own text and tokenizer."""

    expected: float
    """Nats per token."""
    best: float
    """The low end of its interval, nats per token."""
    worst: float
    """The high end of its interval, nats per token."""
    bits_per_byte: float | None
    """null where the bytes per token of the text are not given."""
    law: str
    """The law that expects it."""
    is_bound: bool
    """The law expects more than guessing uniformly, and the loss is that of guessing."""
    anchor: Annotated[dict[str, Any], SchemaOf(Anchor)] | None
    """The measured run that the loss takes its level from; null without one."""
    meaning: str
    """What the figure may be used for, in words."""


class RunPlanDocument(TypedDict):
    """What a training run is expected to cost and achieve, with everything that is assumed."""

    model: ModelDocument
    total: int
    """Parameters."""
    body: int
    """Parameters without embeddings and output head."""
    active: int
    """Parameters used per token."""
    machine: MachineDocument
    chosen: list[str]
    """Settings of the update that nobody gave."""
    fits: bool
    """Whether the predicted peak is within the usable part of the memory."""
    memory: MemoryDocument
    largest_batch_size: int
    """Sequences per micro-step that fit with all else as it is; 0 where not even one does."""
    suggestions: list[str]
    """Where it does not fit, what would make it fit."""
    speed: ThroughputDocument
    flops_per_token: dict[Convention, int]
    """Of training on one token, forward and backward, by convention."""
    flops: int
    """Of the whole run, full convention."""
    tokens: int
    """Trained on."""
    updates: int
    """Optimizer steps."""
    why_tokens: str
    """Why the run has this length."""
    tokens_per_parameter: float
    """Training tokens per parameter, embeddings included."""
    unique_tokens: int | None
    """Tokens of the text; null for unlimited text."""
    epochs: float | None
    """How often the text is read; null where its size is not given."""
    hours: IntervalDocument
    """Wall time; the given hours, where they are given."""
    time_overhead: float
    """Share of the time beside updates (evaluation, saving, data); assumed."""
    dollars: IntervalDocument | None
    """US dollars of all devices; null where no price is known."""
    energy: EnergyDocument | None
    """null where the power of the board is not known."""
    loss: ExpectedLossDocument
    target: TargetLossDocument | None
    """What can be told about the loss that was asked for; null where none was."""
    learning_rate: float
    """Peak learning rate that is suggested."""
    why_learning_rate: str
    """Where the learning rate comes from."""
    why_batch: str
    """Why the update has this size."""
    warnings: list[str]
    """What lies outside the laws, what slows the run down and what is not modelled."""


class ComparisonDocument(TypedDict):
    """Plans of several models for the same run, in the same micro-steps and for the same context."""

    plan: RunPlanDocument
    """That of the first model."""
    compared: list[RunPlanDocument]
    """Those of the others, in their order."""


@dataclass(frozen=True, repr=False)
class RunPlan(Tabular):
    """What a run is expected to cost and achieve; every assumption is a field."""

    breakdown: ParameterCount
    machine: Machine
    goal: Goal
    step: StepConfig
    chosen: tuple[str, ...]
    """Fields of the step that nobody gave."""
    memory: MemoryBreakdown
    suggestions: tuple[str, ...]
    """Where it does not fit, what would make it fit."""
    speed: Throughput
    tokens: int
    updates: int
    why_tokens: str
    hours: Interval
    """Wall time; the given hours, where they are given."""
    cost: Interval | None
    """US dollars; None where no price is known."""
    energy: Energy | None
    """Electricity and emissions; None where the power of the board is not known."""
    loss: LossEstimate
    loss_range: tuple[float, float]
    """Expected loss at both ends of the speed's interval, where the time is given; where the law is anchored,
    the lowest and the highest that any law through that run expects there, and what seeds differ by."""
    target: TargetLoss | None
    """Where and whether the goal's target is reached; None without one."""
    learning_rate: float
    why_learning_rate: str
    why_batch: str
    warnings: tuple[str, ...]
    compared: "tuple[RunPlan, ...]" = ()
    """Plans of other models for the same run, in the same micro-steps."""

    @property
    def model(self) -> ModelConfig:
        """The model to train."""
        return self.breakdown.model

    @property
    def fits(self) -> bool:
        """Whether the predicted peak lies within the usable part of the memory."""
        return self.machine.fits(self.memory.peak_bytes)

    @cached_property
    def largest_batch_size(self) -> int:
        """Sequences per micro-step that fit with everything else as it is; 0 where not even one does."""
        return self.machine.largest_batch_size(self.model, self.step)

    @property
    def tokens_per_parameter(self) -> float:
        """Training tokens per parameter, embeddings included."""
        return self.tokens / self.breakdown.total

    @property
    def epochs(self) -> float | None:
        """How often the text is read; None where its size is not given."""
        unique = self.goal.unique_tokens
        return None if unique is None else self.tokens / unique

    @property
    def repetition(self) -> str | None:
        """The one of `warnings` that says the text is read more than 4 times; None where it is not."""
        unique = self.goal.unique_tokens
        return None if unique is None else repetition_warning(self.tokens, unique, self.goal.law)

    @property
    def flops(self) -> int:
        """Of the whole run, full convention."""
        return training_flops(self.model, self.tokens)

    @property
    def ranked_loss(self) -> float:
        """Expected loss of a model of the usual shape that is as good: what `solve` orders models by."""
        return float(ranked_loss(self.model, self.goal.law, self.tokens, self.goal.unique_tokens))

    def loss_after(self, hours: Size, tokens_per_second: float | None = None) -> Size:
        """Expected loss after so much wall time, at the expected speed or another one; takes arrays too."""
        rate = tokens_per_second or self.speed.tokens_per_second.expected
        tokens = tokens_in_hours(hours, rate)
        return expected_loss(
            self.goal.law, law_parameters(self.model), tokens, self.goal.unique_tokens,
            vocab_size=self.model.vocab_size,
        )  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """One dict per figure: its name, its value, the ends of its interval where it has one; and its value
        in each plan that is compared."""
        rows = self._rows()
        for number, other in enumerate(self.compared, 1):
            for row, same in zip(rows, other._rows(), strict=True):
                row[f"compared_{number}"] = same["expected"]
        return rows

    def _rows(self) -> list[dict[str, Any]]:
        ranges = {
            "tokens_per_second": self.speed.tokens_per_second, "hours": self.hours, "dollars": self.cost,
            "kilowatt_hours": None if self.energy is None else self.energy.kilowatt_hours,
            "kilograms_co2e": None if self.energy is None else self.energy.kilograms_co2e,
        }  # fmt: skip
        plain = {
            "parameters": self.breakdown.total, "fits": self.fits, "peak_bytes": self.memory.peak_bytes,
            "largest_batch_size": self.largest_batch_size, "update_seconds": self.speed.update_seconds,
            "tokens": self.tokens, "tokens_per_parameter": self.tokens_per_parameter,
            "expected_loss": self.loss.loss,
        }  # fmt: skip
        rows = [{"figure": name, "expected": value, "low": "", "high": ""} for name, value in plain.items()]
        return rows + [
            {"figure": name, "expected": r.expected, "low": r.low, "high": r.high}
            for name, r in ranges.items()
            if r is not None
        ]

    def as_dict(self) -> RunPlanDocument:
        """Plain JSON values."""
        m, price = self.machine, self.machine.price
        return {
            "model": self.model.model_dump(),
            "total": self.breakdown.total, "body": self.breakdown.body, "active": self.breakdown.active,
            "machine": {
                "name": m.name, "gpus": m.world_size, "gpus_per_node": m.gpus_per_node,
                "gpu_source": None if m.accelerator is None else m.accelerator.source,
                "memory_bytes": m.memory_bytes,
                "usable_share": USABLE_SHARE,
                "dollars_per_hour": None if price is None else (price.low, price.high),
                "price_source": None if price is None else price.source,
                "price_read_on": None if price is None or price.read_on is None else str(price.read_on),
            },
            "chosen": list(self.chosen),
            "fits": self.fits, "memory": self.memory.as_dict(),
            "largest_batch_size": self.largest_batch_size, "suggestions": list(self.suggestions),
            "speed": self.speed.as_dict(),
            "flops_per_token": {
                "full": flops_per_token(self.model), "causal": flops_per_token(self.model, "causal"),
            },
            "flops": self.flops,
            "tokens": self.tokens, "updates": self.updates, "why_tokens": self.why_tokens,
            "tokens_per_parameter": self.tokens_per_parameter,
            "unique_tokens": self.goal.unique_tokens, "epochs": self.epochs,
            "hours": self.hours.as_dict(), "time_overhead": TIME_OVERHEAD,
            "dollars": None if self.cost is None else self.cost.as_dict(),
            "energy": None if self.energy is None else self.energy.as_dict(),
            "loss": {
                "expected": self.loss.loss, "best": self.loss_range[0], "worst": self.loss_range[1],
                "bits_per_byte": self.loss.bits_per_byte, "law": self.loss.law.name,
                "is_bound": self.loss.is_bound,
                "anchor": None if self.loss.law.anchor is None else asdict(self.loss.law.anchor),
                "meaning": self.loss.meaning,
            },
            "target": None if self.target is None else self.target.as_dict(),
            "learning_rate": self.learning_rate, "why_learning_rate": self.why_learning_rate,
            "why_batch": self.why_batch,
            "warnings": list(self.warnings),
        }  # fmt: skip


def plan_run(
    model: ModelConfig, machine: Machine, goal: Goal = Goal(), given: Mapping[str, object] = NOTHING_GIVEN
) -> RunPlan:  # fmt: skip
    """The plan of a run; `given` holds what is decided of `StepFields`, the rest is chosen.

    What does not fit is planned all the same, with the step that needs the least memory, and the plan has
    suggestions that would make it fit. Raises `InputError` for a field that is unknown or cannot be on this
    machine.
    """
    require_comparable(goal.law, model.vocab_size, model.context_length)
    fields = read_step_fields(given, world_size=machine.world_size)
    step, why_batch, batch_warning = choose_step(
        model, machine, fields, hours=goal.hours, tokens=goal.tokens, unique_tokens=goal.unique_tokens
    )
    speed, memory = throughput(model, step, machine.profile), training_memory(model, step)
    tokens, updates, why = _length(model, goal, speed)
    loss = _loss(model, goal, tokens)
    suggested = peak_learning_rate(
        model, tokens, step.optimizer, step.tokens_per_update(model.context_length)
    )
    of_laws = (warning for warning in (suggested.warning, batch_warning) if warning)
    hours = _hours(goal, speed, tokens)
    fits = machine.fits(memory.peak_bytes)
    would_fit = () if fits else suggestions(model, step, machine, fields)
    return RunPlan(
        breakdown=count(model), machine=machine, goal=goal, step=step,
        chosen=_chosen_fields(fields, machine),
        memory=memory, suggestions=would_fit,
        speed=speed, tokens=tokens, updates=updates, why_tokens=why, hours=hours,
        cost=None if machine.price is None else rental_cost(hours, machine.price, machine.world_size),
        energy=training_energy(hours, machine.accelerator, machine.world_size, machine.grid_intensity),
        loss=loss,
        loss_range=_loss_range(model, goal, speed, tokens),
        target=_target(model, goal, machine, speed, updates),
        learning_rate=suggested.rate, why_learning_rate=suggested.why, why_batch=why_batch,
        warnings=(
            *(() if fits or would_fit else [no_way_to_fit(model, step, machine)]),
            *loss.warnings, *warnings(model, machine, speed), *of_laws,
        ),
    )  # fmt: skip


def _chosen_fields(given: StepFields, machine: Machine) -> tuple[str, ...]:
    """What was chosen of a step: some fields never are, sharding only where there are several devices, and
    among how many of them only where these stand in several nodes and nobody gave `shard`."""
    no_choice = {*NEVER_CHOSEN}
    no_choice |= set() if machine.world_size > 1 else {"shard"}
    no_choice |= set() if machine.n_nodes > 1 and "shard" not in given else {"shard_degree"}
    return tuple(name for name in STEP_FIELDS if name not in {*given, *no_choice})


def _length(model: ModelConfig, goal: Goal, speed: Throughput) -> tuple[int, int, str]:
    """Tokens and updates of the run, in whole updates, and why so many."""
    if goal.hours is not None:
        tokens = int(tokens_in_hours(goal.hours, speed.tokens_per_second.expected))
        why = f"{goal.hours:g} h at that speed"
    elif goal.tokens is not None:
        tokens, why = goal.tokens, "given"
    else:
        tokens, why = training_tokens(model, goal.unique_tokens)
    if goal.hours is not None and round(tokens / speed.update_tokens) < 1:
        raise InputError(
            f"`hours={goal.hours:g}` is too short for one update of {format_count(speed.update_tokens)} "
            "tokens; use more time or a smaller batch"
        )
    updates = whole_updates(tokens, speed.update_tokens, goal.unique_tokens)
    return updates * speed.update_tokens, updates, why


def _hours(goal: Goal, speed: Throughput, tokens: int) -> Interval:
    return speed.hours(tokens) if goal.hours is None else Interval(goal.hours, goal.hours, goal.hours)


def _loss(model: ModelConfig, goal: Goal, tokens: float) -> LossEstimate:
    return estimate_loss(
        goal.law, law_parameters(model), tokens, goal.unique_tokens, bytes_per_token=goal.bytes_per_token,
        vocab_size=model.vocab_size,
    )  # fmt: skip


def _loss_range(model: ModelConfig, goal: Goal, speed: Throughput, tokens: int) -> tuple[float, float]:
    """The lowest and the highest loss at the fast and the slow end of the speed's interval, by all laws where
    there is a run to anchor them at."""
    fast = slow = tokens
    if goal.hours is not None:
        rates = (speed.tokens_per_second.high, speed.tokens_per_second.low)
        fast, slow = (max(1, int(tokens_in_hours(goal.hours, rate))) for rate in rates)
    of_laws = [replace(goal, law=law) for law in laws_beside(goal.law)]
    low, high = range_over_laws(
        goal.law, *([_loss(model, each, end).loss for each in of_laws] for end in (fast, slow))
    )
    # Both the measured and the planned run are one seed each.
    noise = 0.0 if goal.law.anchor is None else (1 + SEED_NOISE) ** 2 - 1
    return low * (1 - noise), high * (1 + noise)


def _target(
    model: ModelConfig, goal: Goal, machine: Machine, speed: Throughput, updates: int
) -> TargetLoss | None:
    if goal.target_loss is None:
        return None
    return answer_target(goal.target_loss, goal.law, model, speed, updates, goal.unique_tokens, machine.price)
