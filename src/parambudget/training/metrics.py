"""What a run says while it goes and when it ends: plain values, as in metrics.jsonl and summary.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Step:
    """One update, after it was made; an evaluation's figures are there when one followed it."""

    step: int
    """Completed updates, from 1."""
    loss: float | None
    """Mean nats per token over the update's batch; None if it was not finite."""
    lr: float
    grad_norm: float | None
    """Before clipping; None if it was not finite."""
    skipped: bool
    """Loss or gradient was not finite, and the weights were left as they were."""
    tokens: int
    """Training tokens seen so far."""
    tokens_per_second: float
    """Of this update alone, without evaluation and saving."""
    mfu: float | None
    """Share of the device's dense peak, full convention; None where the peak is not known."""
    busiest_expert: float | None = None
    """Tokens of the busiest expert over an even share, in the worst layer; None of a dense model."""
    val_loss: float | None = None
    """Mean nats per validation token."""
    val_bits_per_byte: float | None = None
    """The same loss in bits per byte of text: comparable between tokenizers."""

    def as_row(self) -> dict[str, Any]:
        """The line in metrics.jsonl: without the figures that this update or this model has none of."""
        row = asdict(self)
        if self.val_loss is None:
            del row["val_loss"], row["val_bits_per_byte"]
        if not self.skipped:
            del row["skipped"]
        if self.busiest_expert is None:
            del row["busiest_expert"]
        return row

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """What `as_row` gave, back."""
        return cls(**({"skipped": False} | dict(row)))


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    finished: bool
    parameters: int
    """Learned parameters of the module that was trained, equal to the planned total."""
    steps: int
    tokens: int
    loss: float | None
    val_loss: float | None
    val_bits_per_byte: float | None
    tokens_per_second: float
    """Over all updates but the first, those before a resume too, without evaluation and saving."""
    mfu: float | None
    """Full convention, of `peak_flops`."""
    peak_flops: float | None
    """Dense bfloat16 FLOP/s of all devices; None where not known."""
    peak_memory_bytes: int | None
    """As `Compute.peak_memory_bytes` has it."""
    seconds: float
    """From the start, or the resume, to the last save."""
    device: str
    planned: dict[str, Any] | None
    """What was expected of peak memory, tokens per second and update time: `training.forecast.Expected`."""
    checkpoint: Path | None
    """The newest one; None if the run was stopped before its first update."""

    @classmethod
    def of_dict(cls, held: Mapping[str, Any]) -> Self:
        """What `as_dict` gave, back."""
        saved = held.get("checkpoint")
        return cls(**{**held, "checkpoint": Path(saved) if saved else None})

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, as in summary.json."""
        return asdict(self) | {"checkpoint": str(self.checkpoint) if self.checkpoint else None}
