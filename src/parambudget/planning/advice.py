"""What would make a run fit that does not, as flags and figures: all computed, none a rule of thumb."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from parambudget.arch.config import ModelConfig
from parambudget.arch.layers import needs_mask, uses_eager_attention
from parambudget.cost.hardware import ACCELERATORS
from parambudget.cost.speed.roofline import Work, tokens_per_second
from parambudget.cost.speed.throughput import Throughput
from parambudget.errors import InputError
from parambudget.planning.machine import Machine, usable
from parambudget.planning.step_search import MANY_CHUNKS, quickest
from parambudget.units import format_bytes, format_share

_MOST_GPUS = 8


def remedies(model: ModelConfig, work: Work, machine: Machine, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Single changes that are enough, what would be chosen, and other machines; none where nothing is."""
    found = []
    changes = {
        f"loss_chunks {MANY_CHUNKS}": replace(work, loss_chunks=MANY_CHUNKS),
        "--gradient-checkpointing": replace(work, gradient_checkpointing=True),
    }
    for said, changed in changes.items():
        peak = machine.peak_bytes(model, changed)
        if changed != work and peak <= machine.usable_bytes:
            found.append(f"{said}: {_figures(model, work, changed, machine)}")
    smaller = _smaller(model, work, machine)
    if smaller is not None:
        found.append(f"{_batch(smaller)}: {_figures(model, work, smaller, machine)}")
    return (*found, *_chosen(model, work, machine, given), *_elsewhere(model, work, machine, given))


def _smaller(model: ModelConfig, work: Work, machine: Machine) -> Work | None:
    """The same update in the largest micro-steps that fit."""
    # Several of them keep the sum of their gradients, one does not.
    several = replace(work, gradient_accumulation_steps=2 * work.ranks)
    size = machine.largest_batch_size(model, several)
    if not 0 < size < work.batch_size:
        return None
    sequences = work.batch_size * work.gradient_accumulation_steps
    return replace(several, batch_size=size, gradient_accumulation_steps=_steps(sequences, size, work.ranks))


def _steps(sequences: int, size: int, ranks: int) -> int:
    return max(1, round(sequences / (size * ranks))) * ranks


def _batch(work: Work) -> str:
    return f"--batch-size {work.batch_size} --gradient-accumulation-steps {work.gradient_accumulation_steps}"


def _figures(model: ModelConfig, before: Work, after: Work, machine: Machine) -> str:
    peak = machine.peak_bytes(model, after)
    change = tokens_per_second(model, after, machine.stack) / tokens_per_second(model, before, machine.stack)
    speed = "as quick" if abs(change - 1) < 0.005 else f"{format_share(change - 1, 0)} tokens/s"
    return f"{format_bytes(peak)}, {speed}"


def _chosen(model: ModelConfig, work: Work, machine: Machine, given: Mapping[str, Any]) -> list[str]:
    """The way that would be taken if only the optimizer stayed as given, where something else is given."""
    best = _way(model, work, machine, given)
    if best is None or not given.keys() - {"optimizer"}:
        return []
    return [f"left to be chosen, {_said(best)}: {_figures(model, work, best, machine)}"]


def _way(model: ModelConfig, work: Work, machine: Machine, given: Mapping[str, Any]) -> Work | None:
    kept = {name: value for name, value in given.items() if name == "optimizer"}
    try:
        return quickest(model, work.batch_size * work.gradient_accumulation_steps, machine, kept)
    except InputError:
        return None


def _said(work: Work) -> str:
    words = [_batch(work)]
    words += ["--gradient-checkpointing"] * work.gradient_checkpointing + ["--shard"] * work.sharded
    words += [f"with the logits in {work.loss_chunks} parts"] if work.loss_chunks > 1 else []
    return " ".join(words)


def _elsewhere(model: ModelConfig, work: Work, machine: Machine, given: Mapping[str, Any]) -> Iterator[str]:
    """Machines that hold it: a larger one as it is, or the fewest of these in the way that is best there."""
    if machine.accelerator is None:
        return
    peak = machine.peak_bytes(model, work)
    larger = [row for row in ACCELERATORS if usable(row.memory_bytes) >= peak]
    if larger:
        least = min(larger, key=lambda row: row.memory_bytes)
        yield f"--gpu {least.name}: {format_bytes(least.memory_bytes)} hold it as it is"
    for n in range(machine.n_gpus + 1, _MOST_GPUS + 1):
        several = replace(machine, n_gpus=n)
        best = _way(model, work, several, given)
        if best is not None:
            yield f"--gpus {n} {_said(best)}: {format_bytes(several.peak_bytes(model, best))} each"
            return


def caveats(model: ModelConfig, machine: Machine, speed: Throughput) -> Iterator[str]:
    """One line each."""
    yield from _vocabulary(model, machine)
    yield from _attention(model, speed)
    if model.moe is None:
        return
    yield (
        "the expected loss is that of a dense model of the active parameters: with experts it is lower, by "
        "how much this law does not say"
    )
    n_matrices = model.n_moe_layers * model.moe.n_experts * (3 if model.gated else 2)
    yield (
        f"experts are run one after the other, {n_matrices:,} matrices in a micro-step, and each is taken to "
        "get as many tokens as any other; how uneven routing slows them is not modelled"
    )


def _vocabulary(model: ModelConfig, machine: Machine) -> Iterator[str]:
    missing = -model.vocab_size % 64
    if missing and machine.accelerator:
        price = missing * model.embedding_width * (1 if model.tied else 2)
        yield (
            f"vocab_size {model.vocab_size:,} is no multiple of 64; the trainer pads the head inside the "
            f"step, and {model.vocab_size + missing:,} would cost {price:,} parameters"
        )


def _attention(model: ModelConfig, speed: Throughput) -> Iterator[str]:
    share = f"{speed.parts['attention'] / speed.update_seconds:.0%}"
    if uses_eager_attention(model):
        what = "soft-capped scores" if model.attention_softcap is not None else "attention sinks"
        yield f"{what} are in no kernel: every score is written down, and attention takes {share} of the time"
        return
    windows = {model.window} if model.n_local_layers else set()
    if needs_mask(model, None) or any(needs_mask(model, window) for window in windows):
        what = "ALiBi" if model.position == "alibi" else f"a window of {model.window:,}"
        yield (
            f"{what} takes a mask, which keeps attention off the fastest kernels, and what it hides is "
            f"computed all the same: attention takes {share} of the time"
        )
