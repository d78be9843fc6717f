"""A loss as it is predicted: the middle, and where nine of ten runs end."""

from dataclasses import dataclass

from typing_extensions import TypedDict

from parambudget._documents import CLOSED
from parambudget.scaling.loss import LossLaw, expected_loss, laws_beside, range_over_laws


class LossIntervalDocument(TypedDict):
    """A value as it is predicted, with its 90 % interval."""

    expected: float
    """The middle of what is expected."""
    low: float
    """The low end."""
    high: float
    """The high end."""


@dataclass(frozen=True)
class LossInterval:
    """A loss as it is predicted, in nats per token."""

    __pydantic_config__ = CLOSED

    expected: float
    """The middle of what is expected."""
    low: float
    """The low end: nine of ten runs end between it and the high one."""
    high: float
    """The high end."""

    def contains(self, loss: float) -> bool:
        """Whether a loss lies within."""
        return self.low <= loss <= self.high

    def overlaps(self, other: "LossInterval") -> bool:
        """Whether any loss lies within both."""
        return self.low <= other.high and other.low <= self.high

    def as_dict(self) -> LossIntervalDocument:
        """Plain JSON values."""
        return {"expected": self.expected, "low": self.low, "high": self.high}


def predict_loss(law: LossLaw, n_parameters: float, tokens: int, unique_tokens: int) -> LossInterval:
    """The loss of one run by a fitted law, with the interval of a single seed: what `plan` says of it."""
    assert law.fit is not None
    losses = [
        float(expected_loss(each, n_parameters, tokens, unique_tokens, vocab_size=law.fit.vocab_size))
        for each in laws_beside(law)
    ]
    return LossInterval(losses[0], *range_over_laws(law, losses, losses))
