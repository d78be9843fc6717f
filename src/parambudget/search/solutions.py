"""What a search hands back: ranked models with their errors and scores, and the certificate."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, overload

from parambudget._tabular import Tabular
from parambudget.arch.config import ModelConfig
from parambudget.arch.description import shape_in_words
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import active, total
from parambudget.search.certificate import Certificate
from parambudget.search.space import MIX, SIZES, Counted

EQUAL_NATS: Final = 0.005
"""Losses that differ by less are equal to what a law can tell: seeds alone differ by a few thousandths."""
EQUAL_SHARE: Final = 0.01
"""The same of speeds and memories."""


@dataclass(frozen=True)
class Outlook:
    """What is predicted of one model; None where it was not asked for."""

    tokens_per_second: float | None
    peak_bytes: float | None
    batch_size: int | None
    """Sequences per micro-step of the quickest way that fits."""
    gradient_checkpointing: bool | None
    tokens: float | None
    """That the budget has room for."""
    loss: float | None
    """Expected after them, nats per token of the law's text: to compare, not to promise."""
    ranked_loss: float | None
    """The same with a penalty for unusual proportions: what `--rank loss` orders by."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(vars(self))


@dataclass(frozen=True, repr=False)
class Solution:
    """One model that answers the budget."""

    model: ModelConfig
    label: str
    """deep, balanced or wide; with a current model, the way out: narrower, shallower, thinner, ..."""
    counted: int
    """Parameters in the sense of the budget (total or body)."""
    error: int | None
    """counted - target; None where no count was asked for."""
    score: dict[str, float]
    """The shape score, term by term; the lower the sum the more usual the shape."""
    outlook: Outlook | None = None
    """What is predicted of it, where a machine or another budget is named."""
    active_error: int | None = None
    """What is active less a second budget of that; None without one."""

    def __repr__(self) -> str:
        """One line: a model is long when all of its choices are spelled out."""
        active = "" if self.active_error is None else f", {self.active:,} active ({self.active_error:+,})"
        error = "" if self.error is None else f" ({self.error:+,})"
        return f"{self.label}: {shape_in_words(self.model)}: {self.counted:,} parameters{error}{active}"

    @property
    def active(self) -> int:
        """Parameters that one token meets; all of a dense model's."""
        return int(active(self.model))

    @property
    def total_score(self) -> float:
        """The sum that ranks."""
        return sum(self.score.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "label": self.label,
            "model": self.model.model_dump(),
            "counted": self.counted,
            "total": total(self.model),
            "active": self.active,
            **({} if self.error is None else {"error": self.error}),
            **({} if self.active_error is None else {"active_error": self.active_error}),
            "score": round(self.total_score, 6),
            "score_terms": {name: round(value, 6) for name, value in self.score.items()},
        } | ({"outlook": self.outlook.as_dict()} if self.outlook else {})


@dataclass(frozen=True)
class SweepCertificate:
    """What measuring every point of a lattice has shown, where no count is the budget."""

    objective: str
    """loss: least; size: greatest."""
    counted: Counted
    lattice: dict[str, str]
    """Every axis as flag text."""
    lattice_points: int
    possible: int
    """Points that fit in the memory."""
    best: float
    """Of the objective, among all points: a loss has the penalty of unusual aspect ratios in it."""
    by_size: dict[int, float]
    """The best of every size, two sizes an octave."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Better:
    """That a model of another size is expected to do better with the same budget."""

    model: ModelConfig
    counted: int
    loss: float
    than: float
    """Expected loss of the best model of the size that was asked for."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "counted": self.counted,
            "loss": self.loss,
            "than": self.than,
            "model": self.model.model_dump(),
        }


@dataclass(frozen=True)
class Current:
    """The model that a search started from, and what each solution changes."""

    model: ModelConfig
    counted: int
    unavailable: dict[str, str] = field(default_factory=dict)
    """Ways out that the lattice does not offer, each with the reason."""

    def change(self, other: ModelConfig) -> dict[str, int]:
        """Differences other - current in total parameters, FLOPs per token (full convention) and layers."""
        return {
            "total": total(other) - total(self.model),
            "flops_per_token": flops_per_token(other) - flops_per_token(self.model),
            "n_layers": other.n_layers - self.model.n_layers,
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "model": self.model.model_dump(),
            "counted": self.counted,
            "total": total(self.model),
            "flops_per_token": flops_per_token(self.model),
            "unavailable": self.unavailable,
        }


@dataclass(frozen=True, repr=False)
class Solutions(Tabular, Sequence[Solution]):
    """The models shown, best first, never empty; an empty answer is a `NoSolution`."""

    solutions: tuple[Solution, ...]
    certificate: Certificate | SweepCertificate
    tying_was_assumed: bool = False
    current: Current | None = None
    rank: str = "shape"
    top: int = 5
    better: Better | None = None
    """A size that the same budget is better spent on."""
    spent: Mapping[str, Any] = field(default_factory=dict)
    """The budget beside the target, as it was given."""

    @overload
    def __getitem__(self, index: int) -> Solution: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Solution, ...]: ...
    def __getitem__(self, index: int | slice) -> Solution | tuple[Solution, ...]:
        """One solution, or several."""
        return self.solutions[index]

    def __len__(self) -> int:
        """How many are shown."""
        return len(self.solutions)

    def __iter__(self) -> Iterator[Solution]:
        """Best first."""
        return iter(self.solutions)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per solution."""
        return [
            {
                "label": s.label,
                "n_layers": s.model.n_layers,
                "dim": s.model.dim,
                "n_heads": s.model.n_heads,
                "n_kv_heads": s.model.n_kv_heads,
                "head_dim": s.model.head_dim,
                **_widths(s.model),
                self.certificate.counted: s.counted,
                **({} if s.error is None else {"error": s.error}),
                **_active(s),
                "score": round(s.total_score, 3),
            }
            | ({f"change_of_{k}": v for k, v in self.current.change(s.model).items()} if self.current else {})
            | (s.outlook.as_dict() if s.outlook else {})
            for s in self.solutions
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: the certificate, the solutions and, where there is one, the current model."""
        solutions = [s.as_dict() for s in self.solutions]
        better = {"better_size": self.better.as_dict()} if self.better else {}
        if self.current is None:
            return {"certificate": self.certificate.as_dict(), "solutions": solutions, **better}
        changes = [{"change": self.current.change(s.model)} for s in self.solutions]
        solutions = [solution | change for solution, change in zip(solutions, changes, strict=True)]
        return {
            "certificate": self.certificate.as_dict(),
            "current": self.current.as_dict(),
            "solutions": solutions,
        }


def _widths(m: ModelConfig) -> dict[str, Any]:
    """Columns of the FFN, or of experts and of the dense layers beside them."""
    dense = {"intermediate_size": m.intermediate_size} if m.n_dense_layers else {}
    return dense | ({} if m.moe is None else {name: getattr(m.moe, name) for name in (*MIX, SIZES[-1])})


def _active(s: Solution) -> dict[str, Any]:
    """Columns of what is active, where that is not all."""
    if s.model.moe is None:
        return {}
    return {"active": s.active} | ({} if s.active_error is None else {"active_error": s.active_error})
