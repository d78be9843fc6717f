"""What a search hands back: ranked models with their errors and scores, and the certificate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, Final, NotRequired, overload

from typing_extensions import TypedDict

from parambudget._files import write_json
from parambudget._tabular import Tabular
from parambudget._version import __version__
from parambudget.arch.config import ModelConfig, ModelDocument
from parambudget.arch.description import shape_in_words
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import active, total
from parambudget.cost.step import StepConfig, StepDocument
from parambudget.search.certificate import Certificate, CertificateDocument
from parambudget.search.options import DEFAULT_TOP, Rank
from parambudget.search.space import EXPERT_AXES, SIZES
from parambudget.search.vocabulary import EmbeddingShare, EmbeddingShareDocument, embedding_share

EQUAL_SHARE: Final = 0.01
"""Speeds and memories that differ by less are equal as far as a prediction can tell."""
EQUAL_LOSS_SHARE: Final = 0.003
"""Losses that differ by less are equal, as a share of the part that compute can still reduce: what 1.7 % more
compute would buy, and at 1e18 FLOPs 0.005 nats. Seeds alone differ by a few thousandths."""


class ForecastDocument(TypedDict):
    """What is predicted for one model; null where it was not asked for."""

    batch_size: int | None
    """Sequences per micro-step and device."""
    gradient_checkpointing: bool | None
    """Whether blocks are recomputed in the backward pass."""
    tokens_per_second: float | None
    """Expected, of all devices together."""
    peak_bytes: float | None
    """Predicted peak memory of one device."""
    tokens: float | None
    """Trained on within the budget."""
    tokens_per_parameter: float | None
    """Training tokens per parameter, embeddings included."""
    epochs: float | None
    """How often the text is read, where its size is given."""
    hours: float | None
    """Expected wall time."""
    dollars: float | None
    """Expected US dollars of all devices."""
    loss: float | None
    """Expected at the end, nats per token: to compare models, not to promise, unless it is anchored."""
    ranked_loss: float | None
    """The same for the usual shape that is as good as this one: what a ranking by loss orders by."""
    loss_is_bound: bool | None
    """The law expects more than guessing uniformly, and the loss is that of guessing."""
    loss_level: str | None
    """The measured run whose text and tokenizer the loss is of; null where it is of the law's."""
    step: StepDocument | None
    """How an update is executed; null where nothing fits."""
    warnings: list[str]
    """What lies outside the laws, what slows the run down and what is not modelled."""


class ChangeDocument(TypedDict):
    """What a resized model changes: its figure less that of the current model."""

    total: int
    """Parameters."""
    flops_per_token: int
    """Of training, full convention."""
    n_layers: int
    """Layers."""


class SolutionDocument(TypedDict):
    """One model that meets the target or the budget."""

    label: str
    """deep, balanced or wide; of a resized model the direction, such as narrower."""
    model: ModelDocument
    counted: int
    """Parameters as the search counts them (total, body or active)."""
    total: int
    """All parameters."""
    active: int
    """Parameters used per token."""
    error: NotRequired[int]
    """counted - target, in parameters; absent without a target."""
    active_error: NotRequired[int]
    """active - the target for it; absent without one."""
    score: float
    """How unusual the shape is for its size; 0 is the most usual."""
    score_terms: dict[str, float]
    """What the score is the sum of."""
    forecast: NotRequired[ForecastDocument]
    """Absent where neither a machine nor a budget was given."""
    change: NotRequired[ChangeDocument]
    """Absent unless a model was resized."""


class BetterSizeDocument(TypedDict):
    """A model of another size that is expected to end at a lower loss with the same budget."""

    counted: int
    """Its parameters."""
    loss: float
    """Expected, nats per token."""
    baseline_loss: float
    """Expected of the best model of the size that was asked for."""
    model: ModelDocument


class CurrentModelDocument(TypedDict):
    """The model that was resized."""

    model: ModelDocument
    counted: int
    """Parameters as the search counts them."""
    total: int
    """All parameters."""
    flops_per_token: int
    """Of training, full convention."""
    unavailable: dict[str, str]
    """Directions in which there is no model of the target size, each with the reason."""


class SolutionsDocument(TypedDict):
    """What a search has found, and what that proves."""

    certificate: CertificateDocument
    """What the search has shown."""
    solutions: list[SolutionDocument]
    """Best first."""
    current: NotRequired[CurrentModelDocument]
    """Absent unless a model was resized."""
    better_size: NotRequired[BetterSizeDocument]
    """Absent where no other size is expected to be better for the same budget."""
    embedding: NotRequired[EmbeddingShareDocument]
    """How much of the first model its vocabulary takes; absent up to a third."""
    size_interval: NotRequired[list[float]]
    """The least and the most parameters that a fitted law cannot tell from the best, nine times in ten;
    absent for other laws."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What is predicted for one model; None where it was not asked for."""

    step: StepConfig | None = None
    """How its updates are executed: the fastest way that fits; None where none does."""
    tokens_per_second: float | None = None
    peak_bytes: float | None = None
    tokens: float | None = None
    """Trained on within the budget."""
    tokens_per_parameter: float | None = None
    epochs: float | None = None
    """How often the text is read, where its size is given."""
    hours: float | None = None
    dollars: float | None = None
    """Of all accelerators."""
    loss: float | None = None
    """Expected after them, in nats per token: to compare, not to promise."""
    ranked_loss: float | None = None
    """The same for the usual shape that is as good as this one: what `--rank loss` orders by."""
    loss_is_bound: bool | None = None
    """The law expects more than guessing uniformly, and `loss` is the loss of that: ln(vocab_size)."""
    loss_level: str | None = None
    """The measured run whose text and tokenizer `loss` is of; None where it is of the law's."""
    warnings: tuple[str, ...] = ()
    """What lies outside the laws, what slows the run down and what is not modelled, a line each."""

    @property
    def batch_size(self) -> int | None:
        """Sequences per micro-step and device."""
        return None if self.step is None else self.step.batch_size

    @property
    def gradient_checkpointing(self) -> bool | None:
        """Whether blocks are recomputed in the backward pass."""
        return None if self.step is None else self.step.gradient_checkpointing

    @property
    def figures(self) -> dict[str, object]:
        """The numbers by name."""
        apart = ("step", "loss_level", "warnings")
        numbers = {name: value for name, value in vars(self).items() if name not in apart}
        own = {"batch_size": self.batch_size, "gradient_checkpointing": self.gradient_checkpointing}
        return own | numbers

    def as_dict(self) -> ForecastDocument:
        """Plain JSON values."""
        return {
            "batch_size": self.batch_size, "gradient_checkpointing": self.gradient_checkpointing,
            "tokens_per_second": self.tokens_per_second, "peak_bytes": self.peak_bytes,
            "tokens": self.tokens, "tokens_per_parameter": self.tokens_per_parameter, "epochs": self.epochs,
            "hours": self.hours, "dollars": self.dollars, "loss": self.loss,
            "ranked_loss": self.ranked_loss, "loss_is_bound": self.loss_is_bound,
            "loss_level": self.loss_level, "step": None if self.step is None else self.step.as_dict(),
            "warnings": list(self.warnings),
        }  # fmt: skip


@dataclass(frozen=True, repr=False)
class Solution:
    """One model that meets the target or the budget."""

    model: ModelConfig
    label: str
    """deep, balanced or wide; of a resized model the direction: narrower, shallower, thinner, ..."""
    counted: int
    """Parameters as the search counts them (total, body or active)."""
    error: int | None
    """counted - target; None without a target."""
    score: dict[str, float]
    """The shape score, term by term; the lower the sum the more usual the shape."""
    forecast: Forecast | None = None
    """What is predicted for it, where a machine or a budget is given."""
    active_error: int | None = None
    """The active count less the target for it; None without one."""

    def __repr__(self) -> str:
        """One line: a model is long when all of its choices are spelled out."""
        active = "" if self.active_error is None else f", {self.active:,} active ({self.active_error:+,})"
        error = "" if self.error is None else f" ({self.error:+,})"
        return f"{self.label}: {shape_in_words(self.model)}: {self.counted:,} parameters{error}{active}"

    @property
    def total(self) -> int:
        """All parameters."""
        return int(total(self.model))

    @property
    def active(self) -> int:
        """Parameters used per token; all of a dense model's."""
        return int(active(self.model))

    @property
    def total_score(self) -> float:
        """The sum of the terms, by which solutions are ranked."""
        return sum(self.score.values())

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to a config file, with where it comes from."""
        provenance = self.provenance() | {"version": __version__}
        write_json(Path(path), {"model": self.model.model_dump(), "provenance": provenance})

    def provenance(self) -> dict[str, object]:
        """What a config file says of how the model came about."""
        return {
            "label": self.label,
            "count": self.counted,
            **({} if self.error is None else {"error": self.error}),
            **(
                {}
                if self.active_error is None
                else {"active": self.active, "active_error": self.active_error}
            ),
        }

    def as_dict(self) -> SolutionDocument:
        """Plain JSON values."""
        document: SolutionDocument = {
            "label": self.label,
            "model": self.model.model_dump(),
            "counted": self.counted,
            "total": self.total,
            "active": self.active,
            "score": round(self.total_score, 6),
            "score_terms": {name: round(value, 6) for name, value in self.score.items()},
        }
        if self.error is not None:
            document["error"] = self.error
        if self.active_error is not None:
            document["active_error"] = self.active_error
        if self.forecast is not None:
            document["forecast"] = self.forecast.as_dict()
        return document


@dataclass(frozen=True)
class BetterSize:
    """A model of another size that is expected to end at a lower loss with the same budget."""

    model: ModelConfig
    counted: int
    loss: float
    baseline_loss: float
    """Expected loss of the best model of the size that was asked for."""

    def as_dict(self) -> BetterSizeDocument:
        """Plain JSON values."""
        return {
            "counted": self.counted,
            "loss": self.loss,
            "baseline_loss": self.baseline_loss,
            "model": self.model.model_dump(),
        }


@dataclass(frozen=True)
class CurrentModel:
    """The model that a search started from, and what each solution changes."""

    model: ModelConfig
    counted: int
    unavailable: dict[str, str] = field(default_factory=dict)
    """Directions in which the lattice has no model of the target size, each with the reason."""

    def change(self, other: ModelConfig) -> ChangeDocument:
        """Differences other - current in total parameters, FLOPs per token (full convention) and layers."""
        return {
            "total": total(other) - total(self.model),
            "flops_per_token": flops_per_token(other) - flops_per_token(self.model),
            "n_layers": other.n_layers - self.model.n_layers,
        }

    def as_dict(self) -> CurrentModelDocument:
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
    """The models shown, best first. A search without any raises `NoSolution`; only a slice can be empty."""

    solutions: tuple[Solution, ...]
    certificate: Certificate
    tying_was_assumed: bool = False
    current: CurrentModel | None = None
    """The model that was resized; None where none was."""
    mixer_follows_dim: bool = False
    """Whether the mixer beside attention has sizes in proportion to the width, those of a model that the
    search was to be like."""
    rank: Rank = "shape"
    top: int = DEFAULT_TOP
    """How many were asked for."""
    better: BetterSize | None = None
    """A size that the same budget is better spent on."""
    size_interval: tuple[float, float] | None = None
    """N of the models that a fitted law cannot tell from the best one, nine times in ten; None for other
    laws."""

    @overload
    def __getitem__(self, index: int) -> Solution: ...
    @overload
    def __getitem__(self, index: slice) -> "Solutions": ...
    def __getitem__(self, index: int | slice) -> "Solution | Solutions":
        """One solution, or some of them under the same certificate."""
        if isinstance(index, slice):
            return replace(self, solutions=self.solutions[index])
        return self.solutions[index]

    def __len__(self) -> int:
        """How many are shown."""
        return len(self.solutions)

    def __iter__(self) -> Iterator[Solution]:
        """Best first."""
        return iter(self.solutions)

    @property
    def embedding(self) -> EmbeddingShare | None:
        """The part of the first model that its vocabulary takes, where that is more than a third."""
        return embedding_share(self.solutions[0].model) if self.solutions else None

    def rows(self) -> list[dict[str, Any]]:
        """One dict per solution."""
        return [
            {
                "label": s.label,
                "n_layers": s.model.n_layers,
                "dim": s.model.dim,
                **_head_columns(s.model),
                **_width_columns(s.model),
                self.certificate.counted: s.counted,
                **({} if s.error is None else {"error": s.error}),
                **_active_columns(s),
                "score": round(s.total_score, 3),
            }
            | ({f"change_of_{k}": v for k, v in self.current.change(s.model).items()} if self.current else {})
            | (s.forecast.figures if s.forecast else {})
            for s in self.solutions
        ]

    def as_dict(self) -> SolutionsDocument:
        """Plain JSON values: the certificate, the solutions and, where there is one, the current model."""
        certificate, solutions = self.certificate.as_dict(), [s.as_dict() for s in self.solutions]
        if self.current is not None:
            for solution, document in zip(self.solutions, solutions, strict=True):
                document["change"] = self.current.change(solution.model)
            return {"certificate": certificate, "current": self.current.as_dict(), "solutions": solutions}
        found: SolutionsDocument = {"certificate": certificate, "solutions": solutions}
        if self.better is not None:
            found["better_size"] = self.better.as_dict()
        if self.embedding is not None:
            found["embedding"] = self.embedding.as_dict()
        if self.size_interval is not None:
            found["size_interval"] = list(self.size_interval)
        return found


def _head_columns(m: ModelConfig) -> dict[str, int]:
    """Columns of the heads, where some layer has any."""
    if not m.n_attention_layers:
        return {}
    return {"n_heads": m.n_heads, "n_kv_heads": m.n_kv_heads, "head_dim": m.head_dim}


def _width_columns(m: ModelConfig) -> dict[str, int]:
    """Columns of the FFN, or of experts and of the dense layers beside them."""
    dense = {"intermediate_size": m.intermediate_size} if m.n_dense_layers else {}
    return dense | (
        {} if m.moe is None else {name: getattr(m.moe, name) for name in (*EXPERT_AXES, SIZES[-1])}
    )


def _active_columns(s: Solution) -> dict[str, int]:
    """Columns of the active count, where that is not the total."""
    if s.model.moe is None:
        return {}
    return {"active": s.active} | ({} if s.active_error is None else {"active_error": s.active_error})
