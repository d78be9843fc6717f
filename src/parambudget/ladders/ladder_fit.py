"""What the finished runs of a ladder say: a law, what it predicts, and what is to be said against it."""

from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired

import numpy as np
from typing_extensions import TypedDict

from parambudget._tabular import Tabular
from parambudget.ladders.design import Target
from parambudget.ladders.points import Point
from parambudget.scaling.compute_optimal import OptimalSize
from parambudget.scaling.law_file import write_law
from parambudget.scaling.loss import INTERVAL, LossLaw, expected_loss
from parambudget.scaling.loss_interval import LossInterval, LossIntervalDocument


@dataclass(frozen=True)
class HeldOut:
    """One of the largest rungs, predicted from the smaller ones alone."""

    point: Point
    predicted: LossInterval

    @property
    def error(self) -> float:
        """Of the prediction, as a share of the measured loss."""
        return self.predicted.expected / self.point.loss - 1


class HeldOutDocument(TypedDict):
    """One of the largest rungs, predicted from the smaller ones alone."""

    name: str
    """Of the run."""
    loss: float
    """Measured, in nats per token."""
    predicted: LossIntervalDocument
    """In nats per token."""
    error: float
    """Of the prediction, as a share of the measured loss."""
    in_interval: bool
    """Whether the measured loss lies in it."""


class FittedRunDocument(TypedDict):
    """A run that the law was fitted to."""

    name: str
    """Of the run."""
    parameters: int
    """All but those of an output head of its own."""
    tokens: int
    """Trained on."""
    seed: int
    """Of the run."""
    loss: float
    """Measured, in nats per token."""
    fitted: float
    """What the law says, in nats per token."""
    residual: float
    """The measured loss relative to that, less 1."""
    predicted: float | None
    """From the smaller runs alone, in nats per token; null for those."""
    error: float | None
    """Of that prediction, as a share of the measured loss; null for smaller runs."""


class FittedTargetDocument(TypedDict):
    """What the law says of the large run."""

    parameters: int
    """All but those of an output head of its own."""
    tokens: int
    """To train on."""
    loss: LossIntervalDocument
    """At its end, in nats per token."""


class LadderFitDocument(TypedDict):
    """What the runs of a ladder say."""

    held_out: list[HeldOutDocument]
    """Empty where too few runs are left without the largest ones."""
    constants: dict[str, LossIntervalDocument]
    """Of the law, by name."""
    target: FittedTargetDocument
    """The large run."""
    optimal_size: LossIntervalDocument
    """Parameters that the large run's compute is best spent on."""
    runs: list[FittedRunDocument]
    """Those that the law was fitted to."""
    left_out: list[str]
    """Runs that were not fitted, with the reason."""
    warnings: list[str]
    """What is to be said against the fit."""
    law: NotRequired[str]
    """The file that the law was written to."""
    figure: NotRequired[str | None]
    """The file of the pictures; null where they could not be drawn."""


@dataclass(frozen=True, repr=False, eq=False)
class LadderFit(Tabular):
    """What the runs of a ladder say."""

    law: LossLaw
    target: Target
    points: tuple[Point, ...]
    held_out: tuple[HeldOut, ...]
    """Empty where too few runs are left without the largest ones."""
    prediction: LossInterval
    """Of the target's run."""
    optimum: OptimalSize
    """For the target's compute."""
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]

    def fitted_loss(self, point: Point) -> float:
        """What the law says of a run that it was fitted to."""
        return float(
            expected_loss(self.law, point.entry.n_parameters, point.entry.tokens, self.target.unique_tokens)
        )

    @property
    def constants(self) -> dict[str, LossInterval]:
        """The constants of the law by name, with their 90 % intervals."""
        assert self.law.fit is not None
        names = ["E", "A", "B", "alpha", "beta"]
        if any(point.entry.tokens > self.target.unique_tokens for point in self.points):
            names.append("repetitions")
        found = {}
        for name in names:
            low, high = np.percentile([getattr(sample, name) for sample in self.law.fit.samples], INTERVAL)
            found[name] = LossInterval(getattr(self.law, name), float(low), float(high))
        return found

    def rows(self) -> list[FittedRunDocument]:
        """One row per run; those predicted without the largest ones have what was predicted."""
        held = {each.point.entry.name: each for each in self.held_out}
        rows: list[FittedRunDocument] = []
        for point in self.points:
            fitted, predicted = self.fitted_loss(point), held.get(point.entry.name)
            rows.append({
                "name": point.entry.name, "parameters": round(point.entry.n_parameters),
                "tokens": point.entry.tokens, "seed": point.entry.seed, "loss": point.loss, "fitted": fitted,
                "residual": point.loss / fitted - 1,
                "predicted": None if predicted is None else predicted.predicted.expected,
                "error": None if predicted is None else predicted.error,
            })  # fmt: skip
        return rows

    def as_dict(self) -> LadderFitDocument:
        """Plain JSON values."""
        return {
            "held_out": [
                {
                    "name": each.point.entry.name, "loss": each.point.loss,
                    "predicted": each.predicted.as_dict(), "error": each.error,
                    "in_interval": each.predicted.contains(each.point.loss),
                }
                for each in self.held_out
            ],
            "constants": {name: interval.as_dict() for name, interval in self.constants.items()},
            "target": {
                "parameters": round(self.target.n_parameters), "tokens": self.target.tokens,
                "loss": self.prediction.as_dict(),
            },
            "optimal_size": {
                "expected": self.optimum.expected, "low": self.optimum.low, "high": self.optimum.high
            },
            "runs": self.rows(), "left_out": list(self.left_out),
            "warnings": list(self.warnings),
        }  # fmt: skip

    def save(self, path: Path) -> None:
        """Write the law, for `law` of other verbs and `--law` of other commands."""
        write_law(path, self.law)
