"""A loss that a run should reach: how much text it takes, or which short run would tell.

The level of a law is that of its own text and tokenizer. So without a measured run nothing can be said of an
absolute loss, but how short a run is enough can: laws that are anchored at it must agree about the end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf, isfinite, log
from typing import Final

from typing_extensions import TypedDict

from parambudget.arch.config import ModelConfig
from parambudget.cost.hardware import Price
from parambudget.cost.speed.throughput import (
    Interval,
    IntervalDocument,
    Throughput,
    hours_for_tokens,
    rental_cost,
)
from parambudget.errors import InputError
from parambudget.scaling.loss import (
    LOSS_LAWS,
    LossLaw,
    expected_loss,
    law_parameters,
    laws_beside,
    range_over_laws,
    uniform_loss,
)
from parambudget.scaling.numbers import require_positive

AGREED: Final = 0.01
"""A short run tells the end of a long one where the laws through it differ there by at most this share."""
FEWEST_UPDATES: Final = 100
"""Of a run that tells anything: a shorter one has hardly left its warm-up."""
_WITHOUT_END: Final = 1e30
"""Tokens, beyond which no law falls any more."""


class FirstRunDocument(TypedDict):
    """The shortest run that would tell whether a loss is reached: the beginning of the planned one."""

    share: float
    """Of the planned run."""
    updates: int
    """Of that run."""
    tokens: int
    """Trained on."""
    hours: IntervalDocument
    """Wall time."""
    cost: IntervalDocument | None
    """US dollars; null where no price is known."""


class OpenIntervalDocument(TypedDict):
    """An expected value, and the interval that it should lie in; null for what is never reached."""

    low: float | None
    """The low end."""
    expected: float | None
    """The middle of what is expected."""
    high: float | None
    """The high end."""


class ReachDocument(TypedDict):
    """Where a model reaches a loss, by all laws through a measured run."""

    tokens: OpenIntervalDocument
    hours: OpenIntervalDocument
    cost: OpenIntervalDocument | None
    """US dollars; null where no price is known."""
    limit: OpenIntervalDocument
    """The loss after text without end, or after endless repetition of the text that there is."""
    within_plan: bool
    """Whether the expected tokens are at most those of the planned run."""


class TargetLossDocument(TypedDict):
    """What can be told about a loss that the run should reach."""

    loss: float
    """Nats per token."""
    first_run: FirstRunDocument | None
    """The run that would tell; null where a measured run is given."""
    reach: ReachDocument | None
    """null without a measured run."""


@dataclass(frozen=True)
class FirstRun:
    """The shortest run that would tell whether a loss is reached: the beginning of the planned one, with the
    schedule of a whole run."""

    share: float
    """Of the planned run, 2^-k."""
    updates: int
    tokens: int
    hours: Interval
    cost: Interval | None
    """US dollars; None where no price is known."""

    def as_dict(self) -> FirstRunDocument:
        """Plain JSON values."""
        return {
            "share": self.share, "updates": self.updates, "tokens": self.tokens,
            "hours": self.hours.as_dict(), "cost": None if self.cost is None else self.cost.as_dict(),
        }  # fmt: skip


@dataclass(frozen=True)
class Reach:
    """Where a model reaches a loss, by all laws through a measured run; infinite where it never does."""

    tokens: Interval
    hours: Interval
    cost: Interval | None
    """US dollars; None where no price is known."""
    limit: Interval
    """The loss after text without end, or after endless repetition of the text that there is."""
    within_plan: bool
    """The expected tokens are at most those of the planned run."""

    def as_dict(self) -> ReachDocument:
        """Plain JSON values: null for what is never reached."""
        return {
            "tokens": _open_interval(self.tokens), "hours": _open_interval(self.hours),
            "cost": None if self.cost is None else _open_interval(self.cost),
            "limit": _open_interval(self.limit), "within_plan": self.within_plan,
        }  # fmt: skip


@dataclass(frozen=True)
class TargetLoss:
    """What can be told about a loss."""

    loss: float
    first_run: FirstRun | None
    """What would tell; None where a measured run is there."""
    reach: Reach | None
    """None without a measured run."""

    def as_dict(self) -> TargetLossDocument:
        """Plain JSON values: null for what is never reached."""
        return {
            "loss": self.loss,
            "first_run": None if self.first_run is None else self.first_run.as_dict(),
            "reach": None if self.reach is None else self.reach.as_dict(),
        }


def _open_interval(interval: Interval) -> OpenIntervalDocument:
    low, expected, high = (value if isfinite(value) else None for value in interval)
    return {"low": low, "expected": expected, "high": high}


def answer_target(
    target: float, law: LossLaw, model: ModelConfig, speed: Throughput, updates: int,
    unique_tokens: int | None, price: Price | None,
) -> TargetLoss:  # fmt: skip
    """What can be told about the loss, for a planned run of so many updates.

    Raises `InputError` for a loss that guessing uniformly has as well.
    """
    guessing = uniform_loss(model.vocab_size)
    if require_positive(target, "target_loss") >= guessing:
        raise InputError(
            f"`target_loss={target:g}` is not below ln {model.vocab_size:,} = {guessing:.4g} nats per token, "
            "that of guessing uniformly; give a lower one"
        )
    if not law.is_measured:
        return TargetLoss(target, _first_run(model, speed, updates, unique_tokens, price), None)
    return TargetLoss(target, None, _reach(target, law, model, speed, updates, unique_tokens, price))


def _first_run(
    model: ModelConfig, speed: Throughput, updates: int, unique_tokens: int | None, price: Price | None
) -> FirstRun:
    whole = updates * speed.update_tokens
    k = 0
    while updates // 2 ** (k + 1) >= FEWEST_UPDATES and (
        disagreement(model, whole / 2 ** (k + 1), whole, unique_tokens) <= AGREED
    ):
        k += 1
    steps = updates // 2**k
    tokens = steps * speed.update_tokens
    hours = speed.hours(tokens)
    cost = None if price is None else rental_cost(hours, price, speed.step.world_size)
    return FirstRun(2.0**-k, steps, tokens, hours, cost)


def disagreement(model: ModelConfig, measured: float, end: float, unique_tokens: int | None) -> float:
    """The share that the laws differ by at the end of a run, if all of them pass through its loss after so
    many tokens, whatever that is."""
    n = law_parameters(model)
    ratios = [
        expected_loss(law, n, end, unique_tokens) / expected_loss(law, n, measured, unique_tokens)
        for law in LOSS_LAWS.values()
    ]
    return float(max(ratios) / min(ratios) - 1)


def _reach(
    target: float, law: LossLaw, model: ModelConfig, speed: Throughput, updates: int,
    unique_tokens: int | None, price: Price | None,
) -> Reach:  # fmt: skip
    n = float(law_parameters(model))
    laws = laws_beside(law)
    losses = [_loss_of(each, n, unique_tokens) for each in laws]
    tokens = _over_laws(law, [_tokens_until(target, loss) for loss in losses])
    rate = speed.tokens_per_second
    hours = Interval(
        hours_for_tokens(tokens.low, rate.high), hours_for_tokens(tokens.expected, rate.expected),
        hours_for_tokens(tokens.high, rate.low),
    )  # fmt: skip
    return Reach(
        tokens, hours, None if price is None else rental_cost(hours, price, speed.step.world_size),
        _over_laws(law, [loss(_WITHOUT_END) for loss in losses]),
        within_plan=tokens.expected <= updates * speed.update_tokens,
    )  # fmt: skip


def _loss_of(law: LossLaw, n_parameters: float, unique_tokens: int | None) -> Callable[[float], float]:
    return lambda tokens: float(expected_loss(law, n_parameters, tokens, unique_tokens))


def _over_laws(law: LossLaw, values: list[float]) -> Interval:
    """The range of what several laws say, of which the first is the expected one."""
    low, high = range_over_laws(law, values, values)
    return Interval(low, values[0], high)


def _tokens_until(target: float, loss: Callable[[float], float]) -> float:
    """Tokens after which a loss that falls with them is reached; infinite where it never is."""
    if loss(_WITHOUT_END) >= target:
        return inf
    low, high = 0.0, log(_WITHOUT_END)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if loss(exp(middle)) > target else (low, middle)
    return exp(high)
