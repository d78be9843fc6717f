"""What a training run may take, and where it runs."""

from dataclasses import dataclass, field
from math import isfinite
from typing import Final

from parambudget._no_effect import NoEffect, without_effect
from parambudget.cost.step import StepConfig, StepFields
from parambudget.errors import InputError
from parambudget.planning.machine import Machine
from parambudget.planning.step_search import machine_step_candidates, step_candidates
from parambudget.scaling.loss import DEFAULT_LAW, LossLaw
from parambudget.units import parse_bytes, shorten

MOST_HOURS: Final = 1e6


@dataclass(frozen=True, init=False)
class Budget:
    """What a training run may take: at most one of hours, dollars and FLOPs, and the memory of one GPU."""

    hours: float | None
    dollars: float | None
    flops: float | None
    memory_bytes: int | None

    def __init__(
        self, *, hours: float | None = None, dollars: float | None = None, flops: str | float | None = None,
        memory: str | int | None = None,
    ) -> None:  # fmt: skip
        """Take FLOPs as a number or "1e19" and memory as bytes or "24GB"; raises `InputError` where parts
        contradict each other or are impossible."""
        lengths = {"hours": hours, "dollars": dollars, "flops": flops}
        if len(given := [name for name, value in lengths.items() if value is not None]) > 1:
            names = " and ".join(f"`{name}`" for name in given)
            raise InputError(f"{names} each set the length of the run; give one of them")
        for name, value in (("hours", hours), ("dollars", dollars)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise InputError(f"`{name}` is {shorten(repr(value))}; it must be a number")
        if hours is not None:
            check_hours(hours)
        if dollars is not None and not (isfinite(dollars) and dollars > 0):
            raise InputError(f"`dollars={dollars:g}` is not a budget; use a number above 0")
        object.__setattr__(self, "hours", hours)
        object.__setattr__(self, "dollars", dollars)
        object.__setattr__(self, "flops", None if flops is None else _parse_flops(flops))
        object.__setattr__(self, "memory_bytes", None if memory is None else parse_memory(memory))


@dataclass(frozen=True)
class Scenario:
    """A run as it is predicted: what it may take, on which machine, by which law."""

    budget: Budget = field(default_factory=Budget)
    machine: Machine | None = None
    """With no more memory than the budget allows."""
    law: LossLaw = DEFAULT_LAW
    unique_tokens: int | None = None
    """Tokens of the text, which is read again when they are used up; None for text without end."""
    step: StepFields = field(default_factory=StepFields)
    """What is decided of how an update is executed."""

    def __post_init__(self) -> None:
        if self.machine is not None and self.budget.memory_bytes is not None:
            object.__setattr__(self, "machine", self.machine.with_memory(self.budget.memory_bytes))
        if self.machine is None and (self.budget.hours is not None or self.budget.dollars is not None):
            raise InputError("`hours` and `dollars` need a machine to be spent on; give `machine` as well")
        if self.budget.dollars is not None:
            check_hours(self._hours_for(self.budget.dollars))
        given: dict[str, object] = {}
        anchor = self.law.anchor
        unchosen = self.law == DEFAULT_LAW if anchor is None else self.law.name == DEFAULT_LAW.name
        given |= {} if unchosen else {"law": self.law.name}
        given |= {} if anchor is None else {"anchor": anchor.source}
        given |= {} if self.unique_tokens is None else {"unique_tokens": self.unique_tokens}
        for sentence in without_effect(_NO_EFFECT, given, self):
            raise InputError(f"{sentence}; give hours, dollars or FLOPs, or leave it out")
        if self.step and self.memory_bytes is None:
            raise InputError(
                f"`{'`, `'.join(self.step)}` decides what fits in memory; give `machine` or `memory` too"
            )

    @property
    def hours(self) -> float | None:
        """Wall time: as given, or what the dollars pay for."""
        return self.budget.hours if self.budget.dollars is None else self._hours_for(self.budget.dollars)

    @property
    def flops(self) -> float | None:
        """Arithmetic of the run, where that is the budget."""
        return self.budget.flops

    @property
    def memory_bytes(self) -> int | None:
        """Of one accelerator: as given, or the machine's; None where neither is."""
        return self.budget.memory_bytes if self.machine is None else self.machine.memory_bytes

    @property
    def limits_training(self) -> bool:
        """Whether the budget decides how long the run is."""
        return self.hours is not None or self.flops is not None

    @property
    def predicts(self) -> bool:
        """Whether it says anything about what a model would do."""
        return self.memory_bytes is not None or self.limits_training

    def step_candidates(self, context_length: int, sequences: int = 1) -> list[StepConfig]:
        """The steps to choose from for an update of so many sequences, with what is decided."""
        if self.machine is None:
            return step_candidates(context_length, sequences, {"batch_size": 1, **self.step})
        return machine_step_candidates(context_length, sequences, self.machine, self.step)

    def _hours_for(self, dollars: float) -> float:
        assert self.machine is not None
        price = self.machine.price
        if price is None or price.middle == 0:
            raise InputError(f"no price is known for {self.machine.name}; give `hours` instead of `dollars`")
        return dollars / (price.middle * self.machine.world_size)


_NO_EFFECT: Final[tuple[NoEffect[Scenario], ...]] = (
    NoEffect(
        ("anchor", "law", "unique_tokens"),
        lambda scenario: not scenario.limits_training,
        "a loss is expected only where the budget says how long the run is",
    ),
)


def check_hours(hours: float) -> None:
    """Raise `InputError` where so many hours cannot be trained for."""
    if not 0 < hours <= MOST_HOURS:
        raise InputError(
            f"`hours={hours:g}` is not a training time; use a number above 0, at most {MOST_HOURS:,.0f}"
        )


def _parse_flops(given: str | float) -> float:
    try:
        flops = float(given)
    except (TypeError, ValueError):
        flops = 0.0
    if not 1e12 <= flops <= 1e30:
        raise InputError(
            f"`flops` {shorten(str(given))!r} is not a budget; use a number such as 1e19, from 1e12 to 1e30"
        )
    return flops


def parse_memory(given: str | int) -> int:
    """Bytes of one device's memory, from a number or text such as '24GB'."""
    if isinstance(given, str):
        return parse_bytes(given)
    if type(given) is not int or given <= 0:
        raise InputError(
            f"`memory` {given!r} is not a size; use a number of bytes, or one such as '24GB' or '24GiB'"
        )
    return given
