"""How to train: every setting of a run, complete and validated once."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from parambudget.arch.validation import format_validation_error
from parambudget.errors import ConfigError

Count = Annotated[int, Field(ge=1, le=2**31)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class TrainConfig(BaseModel):
    """Everything that decides which numbers a run computes, beside the model and the data.

    Frozen, strict and closed. To have what is left out filled in, go through `training.defaults.complete`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    steps: Count = Field(description="Optimizer updates.")
    batch_size: Count = Field(description="Sequences per micro-step and device.")
    gradient_accumulation_steps: Count = Field(description="Micro-steps per update.")
    optimizer: Literal["muon", "adamw"] = Field(
        "muon",
        description="Muon for the matrices between embedding and head, AdamW for the rest; or AdamW for all.",
    )
    learning_rate: PositiveFloat = Field(description="Peak learning rate.")
    final_learning_rate: NonNegativeFloat = Field(description="Learning rate that the decay ends at.")
    warmup_steps: Annotated[int, Field(ge=0, le=2**31)] = Field(
        description="Updates over which the learning rate rises to its peak."
    )
    schedule: Literal["linear", "cosine", "wsd"] = Field(
        "linear",
        description=(
            "The fall of the learning rate after the warm-up: all the way along a line or a half cosine, or "
            "constant at first and then in the last `decay_share` of the steps (warm-up, stable, decay)."
        ),
    )
    decay_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="Share of the steps over which the learning rate falls under wsd."
    )
    weight_decay: NonNegativeFloat = Field(0.1, description="Decoupled weight decay, on matrices only.")
    momentum: Share = Field(0.95, description="Muon's decay of the mean gradient.")
    beta1: Share = Field(0.9, description="AdamW's decay of the mean gradient.")
    beta2: Share = Field(0.95, description="AdamW's decay of the mean squared gradient.")
    grad_clip: PositiveFloat | None = Field(
        1.0, description="Largest norm of the whole gradient; a longer one is scaled down to it. null: none."
    )
    z_loss: NonNegativeFloat = Field(
        0.0,
        description="Weight of the mean squared log of the softmax's denominator in what is minimised.",
    )
    balance_loss: NonNegativeFloat = Field(
        0.0, description="Weight of the load-balancing loss of experts in what is minimised."
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Recompute each block in the backward pass: a third more arithmetic, far less memory.",
    )
    loss_chunks: Count = Field(
        1,
        description="Parts in which the logits are made, used and forgotten: less memory, more work.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="Decides the initial weights and the order of the data."
    )
    eval_every: Count = Field(
        description="Updates between evaluations; the last update is always followed by one."
    )
    eval_tokens: Count = Field(
        description="Validation tokens that one evaluation reads at most; always the same ones."
    )
    save_every: Count = Field(
        description="Updates between checkpoints; the last update is always followed by one."
    )
    keep: Count = Field(
        2, description="Checkpoints that stay, the newest ones; older ones are removed after each save."
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
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

    @property
    def sequences_per_update(self) -> int:
        """Sequences that one update on one device sees."""
        return self.batch_size * self.gradient_accumulation_steps

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """Settings from a complete set of fields; what is wrong is one line, not pydantic's report."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise ConfigError(format_validation_error(error, cls)) from None
