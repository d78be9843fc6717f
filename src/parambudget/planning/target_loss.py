"""A loss that a run should reach: how much text it takes, or which short run would tell.

The level of a law is that of its own text and tokenizer. So without a measured run nothing can be said of an
absolute loss, but how short a run is enough can: laws that are anchored at it must agree about the end.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import exp, inf, isinf, log
from typing import Any, Final

from parambudget.arch.config import ModelConfig
from parambudget.cost.hardware import Price
from parambudget.cost.speed.throughput import Interval, Throughput, hours_for_tokens, rental_cost
from parambudget.errors import InputError
from parambudget.scaling.loss import (
    LOSS_LAWS,
    LossLaw,
    expected_loss,
    law_parameters,
    laws_beside,
    uniform_loss,
)
from parambudget.scaling.numbers import require_positive

AGREED: Final = 0.01
"""A short run tells the end of a long one where the laws through it differ there by at most this share."""
FEWEST_UPDATES: Final = 100
"""Of a run that tells anything: a shorter one has hardly left its warm-up."""
_WITHOUT_END: Final = 1e30
"""Tokens, beyond which no law falls any more."""


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


@dataclass(frozen=True)
class TargetLoss:
    """What can be told about a loss."""

    loss: float
    first_run: FirstRun | None
    """What would tell; None where a measured run is there."""
    reach: Reach | None
    """None without a measured run."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: null for what is never reached."""
        return {
            "loss": self.loss,
            "first_run": None if self.first_run is None else _finite(asdict(self.first_run)),
            "reach": None if self.reach is None else _finite(asdict(self.reach)),
        }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, Interval):
            return {name: plain(each) for name, each in value._asdict().items()}
        return None if isinstance(value, float) and isinf(value) else value

    return {name: plain(value) for name, value in values.items()}


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
    if law.anchor is None:
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
    tokens = _over_laws([_tokens_until(target, loss) for loss in losses])
    rate = speed.tokens_per_second
    hours = Interval(
        hours_for_tokens(tokens.low, rate.high), hours_for_tokens(tokens.expected, rate.expected),
        hours_for_tokens(tokens.high, rate.low),
    )  # fmt: skip
    return Reach(
        tokens, hours, None if price is None else rental_cost(hours, price, speed.step.world_size),
        _over_laws([loss(_WITHOUT_END) for loss in losses]),
        within_plan=tokens.expected <= updates * speed.update_tokens,
    )  # fmt: skip


def _loss_of(law: LossLaw, n_parameters: float, unique_tokens: int | None) -> Callable[[float], float]:
    return lambda tokens: float(expected_loss(law, n_parameters, tokens, unique_tokens))


def _over_laws(values: list[float]) -> Interval:
    """The range of what several laws say, of which the first is the expected one."""
    return Interval(min(values), values[0], max(values))


def _tokens_until(target: float, loss: Callable[[float], float]) -> float:
    """Tokens after which a loss that falls with them is reached; infinite where it never is."""
    if loss(_WITHOUT_END) >= target:
        return inf
    low, high = 0.0, log(_WITHOUT_END)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if loss(exp(middle)) > target else (low, middle)
    return exp(high)
