"""A training run before it begins: does it fit, how fast, how long, how much, how good."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parambudget._tabular import Tabular
from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Size
from parambudget.cost.flops import flops_per_token, training_flops
from parambudget.cost.memory.peak import TrainingMemory
from parambudget.cost.params import Breakdown, count
from parambudget.cost.speed.roofline import Work
from parambudget.cost.speed.throughput import STALLS, Range, Throughput, throughput
from parambudget.errors import InputError
from parambudget.planning.advice import caveats, remedies
from parambudget.planning.budget import check_hours
from parambudget.planning.machine import USABLE_SHARE, Machine
from parambudget.planning.step_search import least, quickest
from parambudget.scaling.hyperparameters import learning_rate, training_tokens, update_tokens
from parambudget.scaling.loss import (
    DEFAULT_LAW,
    LossEstimate,
    LossLaw,
    estimate_loss,
    expected_loss,
    law_parameters,
)
from parambudget.scaling.numbers import require_positive
from parambudget.units import format_count


@dataclass(frozen=True)
class Goal:
    """How long to train, and what is known of the text."""

    hours: float | None = None
    """Wall time."""
    tokens: int | None = None
    """Tokens to train on; with neither, 20 per parameter or 4 epochs."""
    unique_tokens: int | None = None
    """Tokens of the text, which is read again when they are used up; None for text without end."""
    bytes_per_token: float | None = None
    """Of the text under its tokenizer: expected losses are given in bits per byte too."""
    law: LossLaw = DEFAULT_LAW

    def __post_init__(self) -> None:
        if self.hours is not None and self.tokens is not None:
            raise InputError("hours and tokens both say how long the run is; give one of them")
        if self.hours is not None:
            check_hours(self.hours)
        if self.unique_tokens is not None:
            require_positive(self.unique_tokens, "unique_tokens")
        if self.bytes_per_token is not None:
            require_positive(self.bytes_per_token, "bytes_per_token")


@dataclass(frozen=True, repr=False)
class RunPlan(Tabular):
    """What a run is expected to take and to give; every assumption is a field."""

    breakdown: Breakdown
    machine: Machine
    goal: Goal
    work: Work
    chosen: tuple[str, ...]
    """Fields of `work` that nobody gave."""
    memory: TrainingMemory
    largest_batch_size: int
    """Sequences per micro-step that fit with everything else as it is; 0 where not one does."""
    remedies: tuple[str, ...]
    """Where it does not fit, what would make it fit."""
    speed: Throughput
    tokens: int
    updates: int
    why_tokens: str
    hours: Range
    """Wall time; of a run that was given hours, those."""
    cost: Range | None
    """US dollars; None where no price is known."""
    loss: LossEstimate
    loss_range: tuple[float, float]
    """Expected loss at the fast and at the slow end of the speed, where the time is given."""
    learning_rate: float
    why_learning_rate: str
    why_batch: str
    warnings: tuple[str, ...]

    @property
    def model(self) -> ModelConfig:
        """What would be trained."""
        return self.breakdown.model

    @property
    def fits(self) -> bool:
        """Whether the predicted peak lies within the usable part of the memory."""
        return self.memory.peak_bytes <= self.machine.usable_bytes

    @property
    def tokens_per_parameter(self) -> float:
        """Training tokens per parameter, embeddings included."""
        return self.tokens / self.breakdown.total

    @property
    def flops(self) -> int:
        """Of the whole run, full convention."""
        return training_flops(self.model, self.tokens)

    def loss_after(self, hours: Size, tokens_per_second: float | None = None) -> Size:
        """Expected loss after so much wall time, at the expected speed or at another one; arrays too."""
        rate = tokens_per_second or self.speed.tokens_per_second.expected
        tokens = hours * (3600 * (1 - STALLS) * rate)
        return expected_loss(self.goal.law, law_parameters(self.model), tokens, self.goal.unique_tokens)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per figure: its name, its value, the ends of its interval where it has one."""
        ranges = {
            "tokens_per_second": self.speed.tokens_per_second, "hours": self.hours, "dollars": self.cost
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

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        m, price = self.machine, self.machine.price
        return {
            "model": self.model.model_dump(),
            "total": self.breakdown.total, "body": self.breakdown.body, "active": self.breakdown.active,
            "machine": {
                "name": m.name, "n_gpus": m.n_gpus, "memory_bytes": m.memory_bytes,
                "usable_share": USABLE_SHARE,
                "dollars_per_hour": None if price is None else [price.low, price.high],
                "price_source": None if price is None else price.source,
                "price_read_on": None if price is None or price.read_on is None else str(price.read_on),
            },
            "chosen": list(self.chosen),
            "fits": self.fits, "memory": self.memory.as_dict(),
            "largest_batch_size": self.largest_batch_size, "remedies": list(self.remedies),
            "speed": self.speed.as_dict(),
            "flops_per_token": {
                "full": flops_per_token(self.model), "causal": flops_per_token(self.model, "causal"),
            },
            "flops": self.flops,
            "tokens": self.tokens, "updates": self.updates, "why_tokens": self.why_tokens,
            "tokens_per_parameter": self.tokens_per_parameter,
            "hours": self.hours._asdict(), "stalls": STALLS,
            "dollars": None if self.cost is None else self.cost._asdict(),
            "loss": {
                "expected": self.loss.loss, "best": self.loss_range[0], "worst": self.loss_range[1],
                "bits_per_byte": self.loss.bits_per_byte, "law": self.loss.law.name,
                "meaning": self.loss.meaning,
            },
            "learning_rate": self.learning_rate, "why_learning_rate": self.why_learning_rate,
            "why_batch": self.why_batch,
            "warnings": list(self.warnings),
        }  # fmt: skip


def plan_run(
    model: ModelConfig, machine: Machine, goal: Goal = Goal(), given: Mapping[str, Any] | None = None
) -> RunPlan:  # fmt: skip
    """The plan of a run; `given` holds fields of `Work` that are decided, the others are chosen.

    What does not fit is planned all the same, in the way that needs least memory, and what would make it fit
    is said.
    """
    fixed = {name: value for name, value in (given or {}).items() if value is not None}
    _require_settings(fixed)
    work, why_batch = _work(model, machine, goal, fixed)
    speed, memory = throughput(model, work, machine.stack), machine.memory(model, work)
    tokens, updates, why = _length(model, goal, speed)
    loss = _loss(model, goal, tokens)
    rate, why_rate = learning_rate(model, tokens)
    return RunPlan(
        breakdown=count(model), machine=machine, goal=goal, work=work,
        chosen=tuple(name for name in vars(work) if name not in fixed and name != "ranks"),
        memory=memory, largest_batch_size=machine.largest_batch_size(model, work),
        remedies=remedies(model, work, machine, fixed) if memory.peak_bytes > machine.usable_bytes else (),
        speed=speed, tokens=tokens, updates=updates, why_tokens=why, hours=_hours(goal, speed, tokens),
        cost=_cost(goal, speed, machine, tokens), loss=loss,
        loss_range=_loss_range(model, goal, speed, tokens),
        learning_rate=rate, why_learning_rate=why_rate, why_batch=why_batch,
        warnings=(*loss.warnings, *caveats(model, machine, speed)),
    )  # fmt: skip


def _require_settings(fixed: Mapping[str, Any]) -> None:
    """Refuse what is no setting of an update, and sizes that are none."""
    allowed = Work.__dataclass_fields__
    for name, value in fixed.items():
        if name not in allowed:
            raise InputError(f"{name} is no setting that a plan depends on; use {', '.join(allowed)}")
        if allowed[name].type is int and require_positive(value, name) != int(value):
            raise InputError(f"{name} is {value}; it must be a whole number")
    if fixed.get("optimizer", "muon") not in ("muon", "adamw"):
        raise InputError(f"optimizer is {fixed['optimizer']!r}; it must be 'muon' or 'adamw'")


def _work(model: ModelConfig, machine: Machine, goal: Goal, fixed: dict[str, Any]) -> tuple[Work, str]:
    """The way to compute an update, and why it has as many sequences."""
    batch, steps = fixed.get("batch_size"), fixed.get("gradient_accumulation_steps")
    if batch and steps:
        sequences, why = batch * steps, "given"
    else:
        tokens = goal.tokens or training_tokens(model, goal.unique_tokens)[0]
        wished, why = update_tokens(model, tokens)
        sequences = max(1, wished // model.context_length)
    try:
        return quickest(model, sequences, machine, fixed), why
    except InputError:
        return least(model, sequences, machine, fixed), why


def _length(model: ModelConfig, goal: Goal, speed: Throughput) -> tuple[int, int, str]:
    """Tokens and updates of the run, in whole updates, and why so many."""
    if goal.hours is not None:
        tokens, why = (
            _tokens_in(goal.hours, speed.tokens_per_second.expected),
            f"{goal.hours:g} h at that speed",
        )
    elif goal.tokens is not None:
        tokens, why = goal.tokens, "given"
    else:
        tokens, why = training_tokens(model, goal.unique_tokens)
    updates = round(tokens / speed.update_tokens)
    if updates < 1 and goal.hours is not None:
        raise InputError(
            f"hours={goal.hours:g} has no room for one update of {format_count(speed.update_tokens)} tokens; "
            "give more time or a smaller batch"
        )
    return max(1, updates) * speed.update_tokens, max(1, updates), why


def _tokens_in(hours: float, tokens_per_second: float) -> int:
    return int(hours * 3600 * (1 - STALLS) * tokens_per_second)


def _hours(goal: Goal, speed: Throughput, tokens: int) -> Range:
    return speed.hours(tokens) if goal.hours is None else Range(goal.hours, goal.hours, goal.hours)


def _cost(goal: Goal, speed: Throughput, machine: Machine, tokens: int) -> Range | None:
    if machine.price is None:
        return None
    if goal.hours is None:
        return speed.cost(tokens, machine.price)
    low, middle, high = (machine.n_gpus * goal.hours * each for each in
                         (machine.price.low, machine.price.middle, machine.price.high))  # fmt: skip
    return Range(low, middle, high)


def _loss(model: ModelConfig, goal: Goal, tokens: float) -> LossEstimate:
    return estimate_loss(
        goal.law, law_parameters(model), tokens, goal.unique_tokens, bytes_per_token=goal.bytes_per_token
    )


def _loss_range(model: ModelConfig, goal: Goal, speed: Throughput, tokens: int) -> tuple[float, float]:
    """Expected loss where the run is as fast, and as slow, as the interval of its speed has it."""
    if goal.hours is None:
        loss = _loss(model, goal, tokens).loss
        return loss, loss
    ends = (speed.tokens_per_second.high, speed.tokens_per_second.low)
    fast, slow = (_loss(model, goal, max(1, _tokens_in(goal.hours, rate))).loss for rate in ends)
    return fast, slow
