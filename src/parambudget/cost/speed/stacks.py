"""How fast different training software is, on the same GPU and for the same model.

One model of parts (`cost.speed.roofline`) has constants fitted to the fastest stacks. Another stack reaches a
share of those rates, which is the median over the stacks of its kind whose speeds are published;
`benchmarks/throughput.py` computes it and how many published runs the interval holds.
"""

from dataclasses import dataclass
from typing import Final

from parambudget.arch.synonyms import hint_for
from parambudget.errors import InputError
from parambudget.units import shorten


@dataclass(frozen=True)
class TrainingStack:
    """A kind of training software."""

    name: str
    reached: float
    """Share of the fastest stacks' rates."""
    slowest: float
    """The expected tokens per second times this is the low end of the interval; times `fastest`, the high
    end."""
    fastest: float
    what: str
    software: tuple[str, ...]
    """Names by which it can be asked for as well."""
    source: str


SLOWEST: Final = 0.72
FASTEST: Final = 1.4
"""A factor of less than 2 apart: nine in ten published runs of a kind lie within."""
BUNDLED: Final = TrainingStack(
    "parambudget", 0.82, SLOWEST, FASTEST, "the bundled trainer: torch.compile, flash attention", (),
    "one measurement (docs/throughput.md)",
)  # fmt: skip
"""Its share: 140,615 tokens/s of the planning note's model on an H200 on 2026-11-29, times what the step has
gained since by the bound of its generated code, 197.3 / 179.4 (docs/benchmarks.md), over the 187,500 that the
parts say."""
BEST: Final = TrainingStack(
    "best", 1.0, 0.75, 1.2, "the fastest there are: llm.c, modded-nanogpt, nanochat",
    ("llm.c", "modded-nanogpt", "nanochat"), "the constants are fitted to them",
)  # fmt: skip
TYPICAL: Final = TrainingStack(
    "typical", 0.76, SLOWEST, FASTEST,
    "compiled or fused by hand, flash attention: torchtitan, llm-foundry, OLMo-core",
    ("torchtitan", "llm-foundry", "olmo-core", "fms-fsdp", "nanotron", "tinyllama", "litgpt", "megatron",
     "nanogpt", "cs336", "forgelm"),
    "the median of published runs",
)  # fmt: skip
EAGER: Final = TrainingStack(
    "eager", 0.6, SLOWEST, FASTEST, "not compiled, or without flash attention: gpt-neox, languini",
    ("gpt-neox", "languini", "transformers", "huggingface"), "the median of published runs",
)  # fmt: skip
STACKS: Final = {stack.name: stack for stack in (BUNDLED, BEST, TYPICAL, EAGER)}


def parse_stack(name: str) -> TrainingStack:
    """The stack of that name, or the one that a piece of software belongs to."""
    wanted = name.strip().lower()
    for stack in STACKS.values():
        if wanted == stack.name or wanted in stack.software:
            return stack
    known = [*STACKS, *(software for stack in STACKS.values() for software in stack.software)]
    hint = hint_for(wanted, known, f"use {', '.join(STACKS)}, or give `mfu`")
    raise InputError(f"no stack is known as {shorten(repr(name))}; {hint}")
