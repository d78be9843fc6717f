"""Tokens per second, MFU, hours and cost of a run of the bundled trainer, each as an interval."""

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final, NamedTuple

from typing_extensions import TypedDict

from parambudget._json_types import SchemaOf
from parambudget._tabular import Tabular
from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Size
from parambudget.cost.flops import Convention, flops_per_token
from parambudget.cost.hardware import Price
from parambudget.cost.speed.profile import DeviceProfile, fastest_stacks
from parambudget.cost.speed.roofline import step_seconds, tokens_per_second
from parambudget.cost.step import StepConfig, StepDocument
from parambudget.errors import InputError

TIME_OVERHEAD: Final = 0.03
"""Share of a run's time beside its updates: evaluations, checkpoints, waiting for data. Usually 2 to 5 %; not
measured."""


def tokens_in_hours(hours: Size, tokens_per_second: Size) -> Size:
    """Tokens that a run of so much wall time trains on; takes arrays too."""
    return hours * 3600 * (1 - TIME_OVERHEAD) * tokens_per_second


def hours_for_tokens(
    n_tokens: float, tokens_per_second: float, time_overhead: float = TIME_OVERHEAD
) -> float:
    """Wall time of a run over that many tokens."""
    return n_tokens / tokens_per_second / (1 - time_overhead) / 3600


class IntervalDocument(TypedDict):
    """An expected value, and the interval that it should lie in."""

    low: float
    """The low end."""
    expected: float
    """The middle of what is expected."""
    high: float
    """The high end."""


class Interval(NamedTuple):
    """An expected value, and the interval that it should lie in."""

    low: float
    expected: float
    high: float

    def as_dict(self) -> IntervalDocument:
        """Plain JSON values."""
        return {"low": self.low, "expected": self.expected, "high": self.high}


class ThroughputDocument(TypedDict):
    """The predicted speed of training, and what it is predicted with."""

    profile: Annotated[dict[str, Any], SchemaOf(DeviceProfile)]
    """The constants of the device and its software."""
    step: StepDocument
    """How an update is executed."""
    seconds: dict[str, float]
    """Expected seconds of an update by what takes them (matmuls, attention, optimizer, ...)."""
    update_seconds: float
    """Expected seconds of one update: the sum of its parts."""
    update_tokens: int
    """Tokens that all devices together see in one update."""
    tokens_per_second: IntervalDocument
    """Of all devices together; expected is the middle of what such software reaches."""
    best_tokens_per_second: float | None
    """What the fastest published software would reach; null where that is not known."""
    limit_tokens_per_second: float | None
    """The hardware limit: the dense peak spent on nothing but the FLOPs under the causal mask; null where no
    peak is known."""
    mfu: dict[Convention, float] | None
    """Expected model FLOPs utilization: share of the dense peak, by convention of counting FLOPs; null where
    no peak is known."""


def rental_cost(hours: Interval, price: Price, world_size: int) -> Interval:
    """US dollars of all devices for so many hours; the low end is the short run at the low price."""
    prices = (price.low, price.middle, price.high)
    return Interval(*(world_size * time * dollars for time, dollars in zip(hours, prices, strict=True)))


@dataclass(frozen=True, repr=False)
class Throughput(Tabular):
    """How fast one model trains with one kind of step on one device."""

    profile: DeviceProfile
    step: StepConfig
    seconds: dict[str, float]
    """Expected, of an update, part by part: `cost.speed.roofline`."""
    update_tokens: int
    tokens_per_second: Interval
    """Of all devices together; expected is the middle of what such stacks reach."""
    best_tokens_per_second: float | None
    """What the fastest published stacks would reach; None where the constants are not a share of theirs."""
    limit_tokens_per_second: float | None
    """The hardware limit: the dense peak spent on nothing but the FLOPs under the causal mask; None where no
    peak is known."""
    mfu: dict[Convention, float] | None
    """Expected share of the dense peak, in each convention; None where no peak is known."""

    @property
    def update_seconds(self) -> float:
        """Expected, of one update."""
        return sum(self.seconds.values())

    @property
    def micro_seconds(self) -> float:
        """Expected, of one micro-step, without its share of the optimizer and of communication."""
        once = self.seconds["optimizer"] + self.seconds["communication"]
        return (self.update_seconds - once) / self.step.micro_steps_per_device

    def hours(self, n_tokens: int, *, time_overhead: float = TIME_OVERHEAD) -> Interval:
        """Of a run over that many tokens; `time_overhead` is the share of its time beside updates."""
        if not 0 <= time_overhead < 1:
            raise InputError(
                f"time_overhead={time_overhead:g} is not a share of a run; use a number from 0 to below 1"
            )
        rates = reversed(self.tokens_per_second)
        return Interval(*(hours_for_tokens(n_tokens, rate, time_overhead) for rate in rates))

    def cost(self, n_tokens: int, price: Price, *, time_overhead: float = TIME_OVERHEAD) -> Interval:
        """US dollars of all devices: the low end is the fast run at the low price."""
        return rental_cost(self.hours(n_tokens, time_overhead=time_overhead), price, self.step.world_size)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per part, and the whole update."""
        whole = self.update_seconds
        rows = [
            {"part": name, "milliseconds": 1e3 * seconds, "share": seconds / whole}
            for name, seconds in self.seconds.items()
        ]
        return [*rows, {"part": "update", "milliseconds": 1e3 * whole, "share": 1.0}]

    def as_dict(self) -> ThroughputDocument:
        """Plain JSON values."""
        return {
            "profile": asdict(self.profile),
            "step": self.step.as_dict(),
            "seconds": dict(self.seconds),
            "update_seconds": self.update_seconds,
            "update_tokens": self.update_tokens,
            "tokens_per_second": self.tokens_per_second.as_dict(),
            "best_tokens_per_second": self.best_tokens_per_second,
            "limit_tokens_per_second": self.limit_tokens_per_second,
            "mfu": self.mfu,
        }


def throughput(model: ModelConfig, step: StepConfig, profile: DeviceProfile) -> Throughput:
    """What is expected with this model, this step and this device."""
    seconds = {name: float(value) for name, value in step_seconds(model, step, profile).items()}
    tokens = step.tokens_per_update(model.context_length)
    expected = tokens / sum(seconds.values())
    peak = profile.peak_flops * step.world_size if profile.peak_flops else None
    limit = peak / flops_per_token(model, "causal") if peak else None
    conventions: tuple[Convention, ...] = ("full", "causal")
    mfu = None
    if peak:
        mfu = {name: expected * flops_per_token(model, name) / peak for name in conventions}
    fastest = fastest_stacks(profile)
    best = None if fastest is None else float(tokens_per_second(model, step, fastest))
    return Throughput(
        profile, step, seconds, tokens,
        Interval(profile.slowest * expected, expected, min(profile.fastest * expected, limit or math.inf)),
        best, limit, mfu,
    )  # fmt: skip
