"""What would make a run fit that does not, as flags and figures: all computed, none a rule of thumb."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from parambudget.arch.config import ModelConfig
from parambudget.cost.hardware import ACCELERATORS
from parambudget.cost.update import Work, tokens_per_second
from parambudget.errors import InputError
from parambudget.plan.machine import Machine, usable
from parambudget.plan.ways import MANY_CHUNKS, quickest
from parambudget.units import format_bytes, format_share

_MOST_GPUS = 8


def remedies(model: ModelConfig, work: Work, machine: Machine, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Single changes that are enough, the quickest combination, and other machines; none where nothing is."""
    found = []
    changes = {
        f"loss_chunks {MANY_CHUNKS}": replace(work, loss_chunks=MANY_CHUNKS),
        "--gradient-checkpointing": replace(work, gradient_checkpointing=True),
    }
    for said, changed in changes.items():
        peak = machine.peak_bytes(model, changed)
        if changed != work and peak <= machine.usable_bytes:
            found.append(f"{said}: {_figures(model, work, changed, machine)}")
    if most := machine.largest_batch_size(model, work):
        sequences = work.batch_size * work.gradient_accumulation_steps
        steps = max(1, round(sequences / (most * work.ranks))) * work.ranks
        smaller = replace(work, batch_size=most, gradient_accumulation_steps=steps)
        found.append(
            f"--batch-size {most} --gradient-accumulation-steps {steps}: "
            f"{_figures(model, work, smaller, machine)}"
        )
    found += _quickest(model, work, machine, given)
    return (*found, *_elsewhere(model, work, machine))


def _figures(model: ModelConfig, before: Work, after: Work, machine: Machine) -> str:
    peak = machine.peak_bytes(model, after)
    change = tokens_per_second(model, after, machine.stack) / tokens_per_second(model, before, machine.stack)
    return f"{format_bytes(peak)}, {format_share(change - 1, 0)} tokens/s"


def _quickest(model: ModelConfig, work: Work, machine: Machine, given: Mapping[str, Any]) -> list[str]:
    """The quickest way that fits when only the optimizer stays as given."""
    kept = {name: value for name, value in given.items() if name == "optimizer"}
    try:
        best = quickest(model, work.batch_size * work.gradient_accumulation_steps, machine, kept)
    except InputError:
        return []
    words = [
        f"--batch-size {best.batch_size}",
        f"--gradient-accumulation-steps {best.gradient_accumulation_steps}",
    ]
    words += ["--gradient-checkpointing"] * best.gradient_checkpointing + ["--shard"] * best.sharded
    words += [f"with the logits in {best.loss_chunks} parts"] if best.loss_chunks > 1 else []
    return [f"the quickest that fits, {' '.join(words)}: {_figures(model, work, best, machine)}"]


def _elsewhere(model: ModelConfig, work: Work, machine: Machine) -> list[str]:
    """Machines that hold it as it is."""
    if machine.accelerator is None:
        return []
    found = []
    peak = machine.peak_bytes(model, work)
    larger = [row for row in ACCELERATORS if usable(row.memory_bytes) >= peak]
    if larger:
        least = min(larger, key=lambda row: row.memory_bytes)
        found.append(f"--gpu {least.name}: {format_bytes(least.memory_bytes)} hold it as it is")
    for n in range(max(2, machine.n_gpus), _MOST_GPUS + 1):
        steps = -(-work.gradient_accumulation_steps // n) * n
        shared = replace(work, ranks=n, sharded=True, gradient_accumulation_steps=steps)
        if shared != work and machine.peak_bytes(model, shared) <= machine.usable_bytes:
            found.append(f"--gpus {n} --shard: {format_bytes(machine.peak_bytes(model, shared))} each")
            break
    return found
