"""Memory of training: does a plan fit, what takes the most, and how large may a micro-batch be."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from parambudget._tabular import Tabular
from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size, part
from parambudget.arch.layers import kinds
from parambudget.cost.memory.peak import PARTS, PHASES, Held, MemoryPlan, Phase, moments
from parambudget.cost.sizes import largest
from parambudget.errors import InputError
from parambudget.units import format_bytes


@dataclass(frozen=True, repr=False)
class TrainingMemory(Tabular):
    """What one device holds while a model is trained. Bytes."""

    model: ModelConfig
    plan: MemoryPlan
    peak_bytes: int
    peak_phase: Phase
    """The phase that holds the most."""
    parts: dict[str, int]
    """What is held at the peak; sums to `peak_bytes`."""
    phases: dict[Phase, int]
    """The most that is held in each phase."""

    def rows(self) -> list[dict[str, Any]]:
        """One dict per part of the peak, and the peak."""
        rows: list[dict[str, Any]] = [
            {"part": name, "bytes": size, "share": size / self.peak_bytes}
            for name, size in self.parts.items()
            if size
        ]
        return [*rows, {"part": f"peak: {self.peak_phase}", "bytes": self.peak_bytes, "share": 1.0}]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "peak_bytes": self.peak_bytes,
            "peak_phase": self.peak_phase,
            "parts": dict(self.parts),
            "phases": dict(self.phases),
        }


def training_memory(model: ModelConfig, plan: MemoryPlan) -> TrainingMemory:
    """What the bundled trainer holds on each device while it trains `model` so, in the steady state.

    No torch needed; tests hold it against torch's own tracker of a step. What is assumed of a GPU beside the
    tensors is in `cost.overhead`.
    """
    by_phase: dict[Phase, Held] = {}
    for held in moments(model, plan):
        if held.phase not in by_phase or held.total > by_phase[held.phase].total:
            by_phase[held.phase] = held
    peak = max(by_phase.values(), key=lambda held: held.total)
    return TrainingMemory(
        model, plan, peak_bytes=peak.total, peak_phase=peak.phase,
        parts={part: getattr(peak, part) for part in PARTS},
        phases={phase: by_phase[phase].total for phase in PHASES if phase in by_phase},
    )  # fmt: skip


def peak_bytes(m: Dims, plan: MemoryPlan) -> Size:
    """The most that one device holds: an array where the sizes of `m` are arrays."""
    if not np.ndim(m.n_layers) or len(kinds(m)) == 1:
        return largest(held.total for held in moments(m, plan))
    # Which layers come before which is known for one depth at a time.
    found = np.zeros(np.shape(m.n_layers), dtype=np.int64)
    for n_layers in np.unique(m.n_layers[m.n_layers > 0]):
        there = m.n_layers == n_layers
        one = SimpleNamespace(**vars(part(m, there)) | {"n_layers": int(n_layers)})
        found[there] = largest(held.total for held in moments(cast(Dims, one), plan))
    return found


def largest_micro_batch(model: ModelConfig, plan: MemoryPlan, memory_bytes: int) -> int:
    """The most sequences per micro-step with which training stays within `memory_bytes` on a device.

    The plan's own batch size does not matter. Found by trying: the more sequences, the more is held.
    """

    def fits(n: int) -> bool:
        return bool(peak_bytes(model, replace(plan, batch_size=n)) <= memory_bytes)

    if not fits(1):
        least = format_bytes(peak_bytes(model, replace(plan, batch_size=1)))
        raise InputError(
            f"not even one sequence of {model.context_length} tokens fits: it takes {least} and there are "
            f"{format_bytes(memory_bytes)}; use gradient checkpointing, loss chunks, more devices or a "
            "smaller model"
        )
    below, above = 1, 2
    while fits(above):
        below, above = above, 2 * above
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below
