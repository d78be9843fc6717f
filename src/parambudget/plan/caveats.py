"""What a person should know of a plan beside its figures: what is slow, what is assumed, what would help."""

from collections.abc import Iterator

from parambudget.arch.config import ModelConfig
from parambudget.arch.layers import masked, written_out
from parambudget.cost.speed.throughput import Throughput
from parambudget.planning.machine import Machine


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
        price = missing * (model.embedding_dim or model.dim) * (1 if model.tied else 2)
        yield (
            f"vocab_size {model.vocab_size:,} is no multiple of 64; the trainer pads the head inside the "
            f"step, and {model.vocab_size + missing:,} would cost {price:,} parameters"
        )


def _attention(model: ModelConfig, speed: Throughput) -> Iterator[str]:
    share = f"{speed.parts['attention'] / speed.update_seconds:.0%}"
    if written_out(model):
        what = "soft-capped scores" if model.attention_softcap is not None else "attention sinks"
        yield f"{what} are in no kernel: every score is written down, and attention takes {share} of the time"
        return
    windows = {model.window} if model.n_local_layers else set()
    if masked(model, None) or any(masked(model, window) for window in windows):
        what = "ALiBi" if model.position == "alibi" else f"a window of {model.window:,}"
        yield (
            f"{what} takes a mask, which keeps attention off the fastest kernels, and what it hides is "
            f"computed all the same: attention takes {share} of the time"
        )
