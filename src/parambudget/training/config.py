"""Every setting of a training run, complete and validated once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from parambudget.arch.validation import NonNegativeFloat, PositiveFloat, format_validation_error
from parambudget.cost.step import SETTINGS, PositiveInt, StepConfig, StepFields
from parambudget.errors import ConfigError

RUNS: Final = Path("runs")
"""Where runs are kept for which nobody names a folder."""
DecayRate = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
ScheduleName = Literal["linear", "cosine", "wsd"]
WeightDecaySchedule = Literal["constant", "proportional"]
GroupName = Literal["matrices", "embeddings", "head", "scalars"]
"""The groups of parameters that have settings of their own: by the role of a tensor in the table."""


@dataclass(frozen=True)
class GroupSettings:
    """What the optimizer does with the parameters of one group."""

    learning_rate: float
    """At the peak; all groups follow the same schedule."""
    weight_decay: float
    """Before the schedule of the weight decay."""
    betas: tuple[float, float]
    """Of AdamW."""


class TrainConfig(BaseModel):
    """Everything that decides what a run computes, beside the model and the data.

    Frozen, strict and closed. The settings of an update are those of its `StepConfig`; in JSON and in the
    constructor they stand beside the others. To fill in what is left out, use
    `training.run.defaults.with_train_defaults`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    steps: PositiveInt = Field(description="Optimizer updates.")
    step: StepConfig = Field(exclude=True, description="How one update is executed.")
    learning_rate: PositiveFloat = Field(description="Peak learning rate of the matrices in blocks.")
    embedding_learning_rate: PositiveFloat | None = Field(
        default=None,
        description="Peak learning rate of embeddings, a tied output head too. none: that of the matrices.",
    )
    head_learning_rate: PositiveFloat | None = Field(
        default=None,
        description=(
            "Peak learning rate of an output head that is not tied, and of routers. none: that of the "
            "matrices."
        ),
    )
    scalar_learning_rate: PositiveFloat | None = Field(
        default=None,
        description="Peak learning rate of norms, biases and sinks. none: that of the matrices.",
    )
    final_learning_rate: NonNegativeFloat = Field(
        description="Learning rate of the matrices at the end of the decay."
    )
    warmup_steps: Annotated[int, Field(ge=0, le=2**31)] = Field(
        description="Updates over which the learning rate rises to its peak."
    )
    schedule: ScheduleName = Field(
        default="linear",
        description=(
            "Learning rate after the warm-up: linear or cosine decay to the end, or wsd (warm-up, stable, "
            "decay): constant, then falling over the last decay_share of the steps."
        ),
    )
    decay_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.2, description="Share of the steps in which the learning rate decays (wsd only)."
    )
    weight_decay: NonNegativeFloat = Field(
        default=0.1, description="Decoupled weight decay of the matrices inside blocks."
    )
    embedding_weight_decay: NonNegativeFloat = Field(
        default=0.0, description="Decoupled weight decay of embeddings, a tied output head too."
    )
    head_weight_decay: NonNegativeFloat | None = Field(
        default=None,
        description=(
            "Decoupled weight decay of an output head that is not tied, and of routers. none: that of the "
            "matrices."
        ),
    )
    weight_decay_schedule: WeightDecaySchedule = Field(
        default="constant",
        description=(
            "Weight decay over the run: constant, or proportional to the learning rate once that has warmed "
            "up. It is multiplied by the learning rate in either case."
        ),
    )
    momentum: DecayRate = Field(
        default=0.95, description="Muon's momentum: decay rate of the running mean of the gradient."
    )
    momentum_warmup_steps: Annotated[int, Field(ge=0, le=2**31)] = Field(
        default=0, description="Updates over which Muon's momentum rises from 0.85 to its value."
    )
    beta1: DecayRate = Field(
        default=0.9, description="AdamW's decay rate of the running mean of the gradient."
    )
    beta2: DecayRate = Field(
        default=0.95, description="AdamW's decay rate of the running mean of the squared gradient."
    )
    embedding_beta1: DecayRate | None = Field(
        default=None, description="The same as beta1, of embeddings. none: beta1."
    )
    embedding_beta2: DecayRate | None = Field(
        default=None, description="The same as beta2, of embeddings. none: beta2."
    )
    head_beta1: DecayRate | None = Field(
        default=None, description="The same as beta1, of an untied output head and of routers. none: beta1."
    )
    head_beta2: DecayRate | None = Field(
        default=None, description="The same as beta2, of an untied output head and of routers. none: beta2."
    )
    grad_clip: PositiveFloat | None = Field(
        default=1.0,
        description="Largest norm of the gradient; a larger one is scaled down to it. none: no clipping.",
    )
    balance_loss: NonNegativeFloat = Field(
        default=0.0, description="Weight of the load-balancing loss that is added to the loss (experts only)."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=0, description="Seed of the initial weights and of the order of the data."
    )
    eval_every: PositiveInt = Field(
        description="Updates between evaluations; there is always one at the end."
    )
    eval_tokens: PositiveInt = Field(
        description="Validation tokens per evaluation, at most; always the same ones."
    )
    save_every: PositiveInt = Field(
        description="Updates between checkpoints; there is always one at the end."
    )
    keep: PositiveInt = Field(
        default=2, description="How many of the newest checkpoints to keep; each save removes older ones."
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} is more than steps={self.steps}; use at most {self.steps}"
            )
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate={self.final_learning_rate:g} is above "
                f"learning_rate={self.learning_rate:g}; use at most {self.learning_rate:g}"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _nest_step(cls, fields: object) -> object:
        if not isinstance(fields, Mapping):
            return fields
        if isinstance(fields.get("step"), StepConfig):
            if beside := [name for name in SETTINGS if name in fields]:
                raise ValueError(
                    f"step and {', '.join(beside)} both say how an update is executed; give one of them"
                )
            return fields
        if "step" in fields:
            raise ValueError("unknown field 'step'; did you mean 'steps'?")
        step = {name: fields[name] for name in SETTINGS if name in fields}
        return {name: value for name, value in fields.items() if name not in SETTINGS} | {"step": step}

    @model_serializer(mode="wrap")
    def _flatten_step(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        own = dump(self)
        return {name: getattr(self.step, name) if name in SETTINGS else own[name] for name in TRAIN_FIELDS}

    @classmethod
    def read(cls, fields: Mapping[str, object]) -> Self:
        """Settings from a complete set of fields; raises `ConfigError` with one line instead of pydantic's
        report."""
        try:
            return cls(**cast(dict[str, Any], dict(fields)))
        except ValidationError as error:
            raise ConfigError(format_validation_error(error, cls)) from None

    def group_settings(self, group: GroupName) -> GroupSettings:
        """The settings of one group, those of the matrices where it has none of its own."""
        rate, decay, betas = self.learning_rate, self.weight_decay, (self.beta1, self.beta2)
        if group == "matrices":
            return GroupSettings(rate, decay, betas)
        if group == "embeddings":
            own = self.embedding_learning_rate, self.embedding_beta1, self.embedding_beta2
            decay = self.embedding_weight_decay
        elif group == "head":
            own = self.head_learning_rate, self.head_beta1, self.head_beta2
            decay = decay if self.head_weight_decay is None else self.head_weight_decay
        else:
            own, decay = (self.scalar_learning_rate, None, None), 0.0
        return GroupSettings(own[0] or rate, decay, (_or(own[1], betas[0]), _or(own[2], betas[1])))

    def replace(self, **changes: object) -> Self:
        """A validated copy. A field of the step is changed in the step, and its other fields stay."""
        in_step = {name: changes.pop(name) for name in StepConfig.model_fields if name in changes}
        copy = type(self).read(vars(self) | changes)
        return copy.replace(step=copy.step.replace(**in_step)) if in_step else copy


def _or(own: float | None, common: float) -> float:
    return common if own is None else own


TRAIN_FIELDS: Final[dict[str, FieldInfo]] = {
    name: info
    for own, whole in TrainConfig.model_fields.items()
    for name, info in (SETTINGS if own == "step" else {own: whole}).items()
}
"""Every setting of a run by its own name, those of a step too."""


def with_absent_settings(train: Mapping[str, object]) -> dict[str, object]:
    """The settings of a run's own file, and those that its version did not have with what they were then."""
    return {name: info.default for name, info in TRAIN_FIELDS.items() if not info.is_required()} | dict(train)


class TrainFields(StepFields, total=False):
    """Settings of a run as keyword arguments, those of a step beside the others; what is absent is chosen.

    One key per field of `TrainConfig` and per field of `StepConfig` that a person can decide.
    """

    steps: int
    learning_rate: float
    embedding_learning_rate: float | None
    head_learning_rate: float | None
    scalar_learning_rate: float | None
    final_learning_rate: float
    warmup_steps: int
    schedule: ScheduleName
    decay_share: float
    weight_decay: float
    embedding_weight_decay: float
    head_weight_decay: float | None
    weight_decay_schedule: WeightDecaySchedule
    momentum: float
    momentum_warmup_steps: int
    beta1: float
    beta2: float
    embedding_beta1: float | None
    embedding_beta2: float | None
    head_beta1: float | None
    head_beta2: float | None
    grad_clip: float | None
    balance_loss: float
    seed: int
    eval_every: int
    eval_tokens: int
    save_every: int
    keep: int
