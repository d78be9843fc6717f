"""How one update is executed: the type that memory model, speed model, planner and trainer share.

An update is a number of micro-steps whose gradients are added up before the optimizer takes its step. With
several devices each of them computes an equal share of the micro-steps.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self, TypedDict, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from parambudget._json_types import SchemaOf
from parambudget.arch.dims import Size
from parambudget.arch.synonyms import hint_for
from parambudget.arch.validation import NonNegativeFloat, format_validation_error, plain_numbers
from parambudget.errors import ConfigError
from parambudget.units import shorten

FLOAT32: Final = 4
BFLOAT16: Final = 2
INT64: Final = 8
BOOL: Final = 1
"""Bytes per element."""

HEAD_MULTIPLE: Final = 64
"""On a GPU the trainer pads the rows of the output head to a multiple of this, in the forward pass alone."""
MANY_CHUNKS: Final = 8
"""Chunks of the logits where they do not fit at once."""
MAX_COUNT: Final = 2**31

PositiveInt = Annotated[int, Field(ge=1, le=MAX_COUNT)]
OptimizerName = Literal["muon", "adamw"]
MatmulWeights = Literal["separate", "joined", "leaves"]
"""What a matmul multiplies with: its parameter, cast where autocast does; the parameters that multiply the
same input, joined in the step; or leaves, bfloat16 copies of joined parameters that are cast once an update
and have gradients of their own."""


@dataclass(frozen=True)
class Backend:
    """Whose kernels run: not all of them save the same tensors for the backward pass."""

    device: Literal["cuda", "cpu"] = "cuda"
    bf16: bool = True
    """Matrices are multiplied in bfloat16 under autocast; the weights stay float32."""
    compiled: bool = True

    @property
    def matmul_bytes(self) -> int:
        """Bytes per element of the operands of a matmul."""
        return BFLOAT16 if self.bf16 else FLOAT32

    @property
    def runs_experts_at_once(self) -> bool:
        """Whether all experts of a layer are multiplied by one grouped matmul, and so are compiled with what
        surrounds them."""
        return self.device == "cuda" and self.bf16 and self.compiled


ON_CUDA: Final = Backend()
"""The trainer's on a GPU."""
ON_CPU: Final = Backend("cpu", bf16=False, compiled=False)
"""The trainer's on a CPU."""


@dataclass(frozen=True)
class Overhead:
    """Memory that a process takes beside the tensors of an update."""

    context_bytes: int
    """Device context, kernels and workspaces of the matmul library."""
    communication_bytes: int
    """Buffers of the communication library, where there are several processes."""
    unused_percent: int
    """Reserved by the allocator in pieces that nothing fits in, as a share of the tensors' bytes."""
    source: str


NO_OVERHEAD: Final = Overhead(0, 0, 0, "tensors alone")
CUDA_OVERHEAD: Final = Overhead(
    context_bytes=800 * 2**20, communication_bytes=500 * 2**20, unused_percent=8,
    source=(
        "assumed, not measured here: contexts of 0.3 to 0.6 GB, cuBLAS workspaces of 8 to 32 MiB and NCCL's "
        "0.2 to 1 GB are commonly quoted. Reserved over allocated memory has a median of 1.08 in 15 public "
        "logs of modded-nanogpt, 1.04 to 1.19"
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Sharding:
    """Whether the model's state is divided among processes, and among how many."""

    shard: bool
    shard_degree: int | None = None
    """Processes that hold one copy of the state; None for all of them."""

    @classmethod
    def given_by(cls, shard: bool | None, shard_degree: int | None) -> Self | None:
        """The sharding that these ask for, where a degree alone is enough; None if neither is given."""
        if shard is None and shard_degree is None:
            return None
        return cls(shard is None or shard, shard_degree)


SHARDING_FIELDS: Final = tuple(Sharding.__annotations__)


class StepConfig(BaseModel):
    """How one update is executed.

    Frozen, strict and closed. The settings come first: a run's config file holds them. Where the update is
    executed comes last (`shard`, `shard_degree`, `world_size`, `backend`): a run may be resumed with other
    values of these, so they are not dumped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    # Defaults by keyword: without its plugin, mypy takes a field with a positional one for required.

    batch_size: PositiveInt = Field(description="Sequences per micro-step and device.")
    gradient_accumulation_steps: PositiveInt = Field(
        description="Micro-steps per update, summed over all processes."
    )
    optimizer: OptimizerName = Field(
        default="muon",
        description="Muon for the matrices inside blocks and AdamW for the rest, or AdamW for everything.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Recompute each block in the backward pass: a third more FLOPs, far less memory.",
    )
    activation_memory_budget: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description=(
            "Share of the activations that a compiled step may keep for its backward pass; torch recomputes "
            "the rest. For GPUs; not with gradient checkpointing or sharding."
        ),
    )
    loss_chunks: PositiveInt = Field(
        default=1, description="Compute the loss in N chunks of the logits: less memory, more FLOPs."
    )
    z_loss: NonNegativeFloat = Field(
        default=0.0,
        description="Weight of the z-loss (mean squared log of the softmax denominator) added to the loss.",
    )
    mask_documents: bool = Field(
        default=False,
        description="A token attends only to its own document, and windows begin at one where they can.",
    )
    shard: bool = Field(
        default=False,
        exclude=True,
        description="Shard weights, gradients and optimizer state across processes (FSDP2, ZeRO-3).",
    )
    shard_degree: PositiveInt | None = Field(
        default=None,
        exclude=True,
        description=(
            "Shard within groups of N processes, and replicate between them (HSDP); unless given, across all."
        ),
    )
    world_size: PositiveInt = Field(
        default=1, exclude=True, description="Processes, each with a device of its own."
    )
    backend: Backend = Field(default=ON_CUDA, exclude=True, description="Device and precision.")
    overhead: Overhead | None = Field(
        default=None,
        exclude=True,
        description="Memory in addition to the tensors; unless set, that of the device.",
    )

    @model_validator(mode="after")
    def _check_world_size(self) -> Self:
        if self.shard and self.world_size == 1 and self.shard_degree is not None:
            raise ValueError(
                f"`shard_degree={self.shard_degree}` divides a model among processes, and there is one; use "
                "several `gpus`, in training one process for each"
            )
        if self.shard and self.world_size == 1:
            raise ValueError("shard=True divides a model among processes, and world_size=1; use 2 or more")
        if self.shard and self.mask_documents:
            raise ValueError("mask_documents=True cannot be used with shard=True; leave one of them out")
        self._check_shard_degree()
        self._check_activation_memory_budget()
        whole, left = divmod(self.gradient_accumulation_steps, self.world_size)
        if left:
            raise ValueError(
                f"gradient_accumulation_steps={self.gradient_accumulation_steps} cannot be divided evenly "
                f"among {self.world_size} processes; use {(whole + 1) * self.world_size}"
            )
        return self

    def _check_shard_degree(self) -> None:
        degree = self.shard_degree
        if degree is None:
            return
        if not self.shard:
            raise ValueError(f"`shard_degree={degree}` needs `shard=True`; leave one of them out")
        if degree == 1 or self.world_size % degree:
            fits = [n for n in range(2, self.world_size + 1) if self.world_size % n == 0]
            raise ValueError(
                f"shard_degree={degree} does not divide {self.world_size} processes into equal groups of at "
                f"least 2; use {' or '.join(map(str, fits))}"
            )

    def _check_activation_memory_budget(self) -> None:
        budget = f"activation_memory_budget={self.activation_memory_budget:g}"
        if self.activation_memory_budget == 1:
            return
        if self.gradient_checkpointing:
            raise ValueError(
                f"gradient_checkpointing=True recomputes whole blocks, and {budget} what torch chooses; "
                "give one of them"
            )
        if self.shard:
            # Each layer is a graph of its own there, with the budget's share of its own activations.
            raise ValueError(f"{budget} cannot be used with shard=True; leave one of them out")
        if not self.backend.compiled:
            raise ValueError(
                f"{budget} is for steps that are compiled, which they are on a CUDA GPU alone; leave it out, "
                "or use gradient_checkpointing"
            )

    @classmethod
    def read(cls, fields: Mapping[str, object]) -> Self:
        """A step from its fields; raises `ConfigError` with one line instead of pydantic's report."""
        try:
            return cls(**plain_numbers(fields))
        except ValidationError as error:
            raise ConfigError(format_validation_error(error, cls)) from None

    def replace(self, **changes: object) -> Self:
        """A validated copy."""
        return type(self).read(vars(self) | changes)

    @property
    def sharding(self) -> Sharding:
        """Whether the state is divided, and among how many processes."""
        return Sharding(self.shard, self.shard_degree)

    @property
    def n_shards(self) -> int:
        """Processes among which one copy of the model's state is divided; 1 where each has all of it."""
        if not self.shard:
            return 1
        return self.world_size if self.shard_degree is None else self.shard_degree

    @property
    def n_replicas(self) -> int:
        """Copies of the model's state that all processes together hold."""
        return self.world_size // self.n_shards

    @property
    def n_sharing_muon(self) -> int:
        """Processes among which Muon's matrices are shared out: those of one copy where it is sharded."""
        return self.n_shards if self.shard else self.world_size

    @property
    def matmul_weights(self) -> MatmulWeights:
        """What the trainer's matmuls multiply with."""
        if self.shard or not self.backend.bf16:
            return "separate"
        return "leaves" if self.world_size == 1 else "joined"

    @property
    def micro_steps_per_device(self) -> int:
        """Micro-steps of an update that each device computes."""
        return self.gradient_accumulation_steps // self.world_size

    @property
    def accumulates(self) -> bool:
        """Whether a device computes several micro-steps of an update, and keeps gradients between them."""
        return self.micro_steps_per_device > 1

    @property
    def sequences_per_update(self) -> int:
        """Sequences that all devices together see in one update."""
        return self.batch_size * self.gradient_accumulation_steps

    def tokens_per_update(self, context_length: Size) -> int:
        """Tokens that all devices together see in one update."""
        return self.sequences_per_update * int(context_length)

    def with_batch_size(self, batch_size: int) -> Self:
        """About the same update in micro-steps of another size."""
        steps = accumulation_steps(self.sequences_per_update, batch_size, self.world_size)
        return self.replace(batch_size=batch_size, gradient_accumulation_steps=steps)

    def overhead_bytes(self, tensor_bytes: Size) -> Size:
        """Memory beside so many bytes of tensors."""
        default = CUDA_OVERHEAD if self.backend.device == "cuda" else NO_OVERHEAD
        overhead = default if self.overhead is None else self.overhead
        communication = overhead.communication_bytes if self.world_size > 1 else 0
        return overhead.context_bytes + communication + tensor_bytes * overhead.unused_percent // 100

    @property
    def step_fields(self) -> "StepFields":
        """Every field that a person can decide, as it is here."""
        return cast(StepFields, {name: getattr(self, name) for name in STEP_FIELDS})

    def as_dict(self) -> "StepDocument":
        """Plain JSON values: what a person can decide, and the number of processes."""
        return {**self.step_fields, "world_size": self.world_size}


StepDocument = Annotated[dict[str, Any], SchemaOf(StepConfig, without=("backend", "overhead"))]
"""How an update is executed."""


SETTINGS: Final[dict[str, FieldInfo]] = {
    name: info for name, info in StepConfig.model_fields.items() if not info.exclude
}
"""The fields that a run's config file holds."""


class StepFields(TypedDict, total=False):
    """What is decided of a step; what is absent is left to be chosen."""

    batch_size: int
    gradient_accumulation_steps: int
    optimizer: OptimizerName
    gradient_checkpointing: bool
    activation_memory_budget: float
    loss_chunks: int
    z_loss: float
    mask_documents: bool
    shard: bool
    shard_degree: int


STEP_FIELDS: Final = tuple(StepFields.__annotations__)
NEVER_CHOSEN: Final = ("z_loss", "mask_documents", "activation_memory_budget")
"""Fields of which the default stays where nobody gives another value: those that change the loss, and the
one whose other values are a person's to try."""


def read_step_fields(given: Mapping[str, object], *, world_size: int = 1) -> StepFields:
    """The fields that are given, if a step of so many processes can have them; None stands for not given.

    Who gives a `shard_degree` wants the model sharded.
    """
    fields = {name: value for name, value in given.items() if value is not None}
    require_step_names(fields)
    if "shard_degree" in fields:  # it says that, too
        fields = {"shard": True} | fields
    StepConfig.read(
        {"batch_size": 1, "gradient_accumulation_steps": world_size, "world_size": world_size} | fields
    )
    return cast(StepFields, fields)


def require_step_names(names: Iterable[str], others: Iterable[str] = ()) -> None:
    """Raise `ConfigError` for a name that is no field of a step; `others` may have been meant as well."""
    for name in names:
        if name not in STEP_FIELDS:
            hint = hint_for(name, [*STEP_FIELDS, *others], _hint(name))
            raise ConfigError(f"{shorten(name)} is not a setting of an update; {hint}")


def _hint(name: str) -> str:
    """What to do about a name that resembles no setting."""
    if name in ("gpu", "gpus", "ranks", "world_size", "n_gpus", "dollars_per_hour", "price"):
        return "GPUs and their price belong to the machine: machine('h100', gpus=8)"
    return f"use {', '.join(STEP_FIELDS)}"


def accumulation_steps(sequences: int, batch_size: int, world_size: int = 1) -> int:
    """Micro-steps per update, of all processes together, that come closest to so many sequences."""
    return max(1, round(sequences / (batch_size * world_size))) * world_size


def micro_batch_size(sequences: int, micro_steps: int = 1, *, at_most: int | None = None) -> int:
    """Sequences per micro-step, for an update of so many sequences in at least so many micro-steps."""
    size = sequences // micro_steps
    return max(1, size if at_most is None else min(size, at_most))
