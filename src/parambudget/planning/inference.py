"""What generating text with a model takes: weights and the cache of keys and values, on one device."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from typing_extensions import TypedDict

from parambudget._no_effect import NoEffect, without_effect
from parambudget._tabular import Tabular
from parambudget.arch.config import ModelConfig, ModelDocument
from parambudget.cost.hardware import ACCELERATORS
from parambudget.cost.memory.state import InferenceMemory, InferenceMemoryDocument, inference_memory
from parambudget.cost.params import ParameterCount, count
from parambudget.cost.step import CUDA_OVERHEAD, MAX_COUNT, STEP_FIELDS
from parambudget.errors import ConfigError, InputError
from parambudget.planning.machine import USABLE_SHARE, Machine, usable_bytes
from parambudget.units import format_bytes, shorten

CACHE_DTYPE: Final[Literal["bfloat16"]] = "bfloat16"
"""Of weights and cache, 2 bytes an element; float16 takes as much."""


class InferenceMachineDocument(TypedDict):
    """What text is generated on: one device."""

    name: str
    """Of the device."""
    memory_bytes: int
    """Of the device."""
    usable_share: float
    """Share of the memory that a plan may fill."""


class NeededMemoryDocument(InferenceMemoryDocument):
    """Memory of generating text on a device, in bytes."""

    overhead_bytes: int
    """Of the device's context beside the tensors: assumed."""
    needed_bytes: int
    """The sum of all that."""


class InferencePlanDocument(TypedDict):
    """Whether a model generates so many sequences at once on a device."""

    mode: Literal["inference"]
    """What tells this plan from one of training."""
    model: ModelDocument
    total: int
    """Parameters."""
    body: int
    """Parameters without embeddings and output head."""
    active: int
    """Parameters used per token."""
    machine: InferenceMachineDocument
    batch_size: int
    """Sequences at once."""
    context_length: int
    """Tokens of each sequence, the prompt included."""
    dtype: Literal["bfloat16"]
    """Of weights and cache."""
    fits: bool
    """Whether what is needed is within the usable part of the memory."""
    memory: NeededMemoryDocument
    largest_batch_size: int
    """Sequences of that length that fit at once; 0 where not even one does."""
    suggestions: list[str]
    """Where it does not fit, what would."""
    warnings: list[str]
    """What differs from what was asked."""


@dataclass(frozen=True, repr=False)
class InferencePlan(Tabular):
    """Whether a model generates so many sequences at once on a machine."""

    breakdown: ParameterCount
    machine: Machine
    batch_size: int
    """Sequences at once."""
    context: int
    """Tokens of each, the prompt included."""
    memory: InferenceMemory
    overhead_bytes: int
    """Of the GPU's context beside the tensors: assumed, as for training."""
    largest_batch_size: int
    """Sequences of that length that fit at once; 0 where not even one does."""
    suggestions: tuple[str, ...]
    """Where it does not fit, what would."""

    @property
    def model(self) -> ModelConfig:
        """The model that generates."""
        return self.breakdown.model

    @property
    def needed_bytes(self) -> int:
        """Of the device's memory."""
        return int(self.memory.total_bytes) + self.overhead_bytes

    @property
    def fits(self) -> bool:
        """Whether that is within the usable part of the memory."""
        return self.machine.fits(self.needed_bytes)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What differs from what was asked."""
        gpu = self.machine.accelerator
        if gpu is None or gpu.has_bfloat16:
            return ()
        return (
            f"{gpu.name} has no bfloat16, and this package generates no text there; software that uses "
            f"{gpu.peak_dtype} takes as much memory",
        )

    def rows(self) -> list[dict[str, Any]]:
        """One dict per part, and the sum."""
        *parts, _ = self.memory.rows()
        return [
            *parts, {"part": "overhead", "bytes": self.overhead_bytes},
            {"part": "needed", "bytes": self.needed_bytes},
        ]  # fmt: skip

    def as_dict(self) -> InferencePlanDocument:
        """Plain JSON values."""
        return {
            "mode": "inference", "model": self.model.model_dump(),
            "total": self.breakdown.total, "body": self.breakdown.body, "active": self.breakdown.active,
            "machine": {
                "name": self.machine.name, "memory_bytes": self.machine.memory_bytes,
                "usable_share": USABLE_SHARE,
            },
            "batch_size": self.batch_size, "context_length": self.context, "dtype": CACHE_DTYPE,
            "fits": self.fits,
            "memory": {
                **self.memory.as_dict(), "overhead_bytes": self.overhead_bytes,
                "needed_bytes": self.needed_bytes,
            },
            "largest_batch_size": self.largest_batch_size, "suggestions": list(self.suggestions),
            "warnings": list(self.warnings),
        }  # fmt: skip


def plan_inference(
    model: ModelConfig, machine: Machine, *, batch_size: int = 1, context: int | None = None
) -> InferencePlan:
    """Weights and cache for `batch_size` sequences of `context` tokens, as long as the model takes unless
    given, on one device of the machine. Raises `InputError` for sizes that cannot be."""
    if type(batch_size) is not int or not 1 <= batch_size <= MAX_COUNT:
        raise InputError(f"`batch_size` is {shorten(repr(batch_size))}; use a whole number above 0")
    if context is not None:
        check_context(model, context)
    n_tokens = context or model.context_length
    overhead = 0 if machine.accelerator is None else CUDA_OVERHEAD.context_bytes
    one, memory = (inference_memory(model, n, n_tokens) for n in (1, batch_size))
    free = machine.usable_bytes - overhead - int(one.weights_bytes)
    # Nothing is cached where convolutions of one token are all that mixes.
    most = MAX_COUNT if one.cache_bytes == 0 else free // int(one.cache_bytes)
    largest = max(0, min(MAX_COUNT, most)) if free >= 0 else 0
    plan = InferencePlan(count(model), machine, batch_size, n_tokens, memory, overhead, largest, ())
    return plan if plan.fits else _with_suggestions(plan)


def check_context(model: ModelConfig, context: int) -> None:
    """Raise `ConfigError` for a sequence that the model cannot have."""
    most = model.context_length if model.position == "learned" else None
    if type(context) is not int or context < 1 or (most is not None and context > most):
        limit = "" if most is None else f", at most {most:,}: the model learned no positions beyond"
        raise ConfigError(f"`context` is {shorten(repr(context))}; use a whole number above 0{limit}")


_NO_EFFECT: Final[tuple[NoEffect[None], ...]] = (
    NoEffect(
        ("hours", "tokens", "law", "unique_tokens", "bytes_per_token", "anchor", "target_loss"),
        lambda _: True, "nothing is trained",
    ),
    NoEffect(("dollars_per_hour", "grid_intensity"), lambda _: True, "how long it runs is not planned"),
    NoEffect(("gpus", "gpus_per_node", "network"), lambda _: True, "a model generates on one GPU"),
    NoEffect(("stack", "mfu"), lambda _: True, "the speed of generating is not planned"),
    NoEffect(("compare",), lambda _: True, "one model is planned at a time"),
    NoEffect(
        tuple(name for name in STEP_FIELDS if name != "batch_size"),
        lambda _: True, "it is how an update of training is executed",
    ),
)  # fmt: skip
"""What a plan of training takes and one of inference does not."""


def require_effect(given: Mapping[str, object]) -> None:
    """Raise `InputError` for the first of these settings that changes nothing about inference."""
    for sentence in without_effect(_NO_EFFECT, given, None):
        raise InputError(f"{sentence}; leave it out, or plan the training: without `inference`")


def _with_suggestions(plan: InferencePlan) -> InferencePlan:
    return InferencePlan(
        plan.breakdown, plan.machine, plan.batch_size, plan.context, plan.memory, plan.overhead_bytes,
        plan.largest_batch_size, tuple(_suggestions(plan)),
    )  # fmt: skip


def _suggestions(plan: InferencePlan) -> Iterator[str]:
    """Single changes with which it would fit, and what the package does not do."""
    if plan.largest_batch_size:
        yield f"would fit: `batch_size={plan.largest_batch_size}`"
    if (longest := _longest_context(plan)) > 0:
        yield f"would fit: `context_length={longest}`"
    rows = [row for row in ACCELERATORS.values() if usable_bytes(row.memory_bytes) >= plan.needed_bytes]
    if plan.machine.accelerator is not None and rows:
        least = min(rows, key=lambda row: row.memory_bytes)
        yield f"would fit: `machine={least.name}` ({format_bytes(least.memory_bytes)})"
    most = max(usable_bytes(row.memory_bytes) for row in ACCELERATORS.values())
    if int(plan.memory.weights_bytes) + plan.overhead_bytes > most:
        yield (
            f"the weights alone, {format_bytes(plan.memory.weights_bytes)}, are more than any GPU of the "
            "table holds: such models are split over several by tensor, pipeline or expert parallelism, or "
            "stored in fewer bits, which this package neither plans nor does"
        )


def _longest_context(plan: InferencePlan) -> int:
    """The most tokens of each sequence with which it would fit; 0 where not even one does."""

    def fits(n_tokens: int) -> bool:
        memory = inference_memory(plan.model, plan.batch_size, n_tokens)
        return plan.machine.fits(int(memory.total_bytes) + plan.overhead_bytes)

    below, above = 0, plan.context
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below
