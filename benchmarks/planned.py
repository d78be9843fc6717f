"""Predicted beside measured: tokens/s of the trainer on this machine, several shapes and batches, in turns.

    parambudget calibrate && python benchmarks/planned.py

The constants are those that `calibrate` measured, on other models than these; without them a GPU is predicted
by its preset. The shapes are trained in one process, a few updates each in turns, so that whatever else the
machine does falls on all of them; the first update of each turn finds the caches cold and does not count.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from statistics import median

import torch

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.cost.flops import flops_per_token
from parambudget.cost.speed.profile import stack_for
from parambudget.cost.speed.roofline import Work
from parambudget.cost.speed.throughput import Throughput, throughput
from parambudget.training.calibrate import random_text, timing_config
from parambudget.training.device import Compute, select_device
from parambudget.training.loop import Clock, train_steps
from parambudget.training.metrics import StepMetrics
from parambudget.training.train_state import init_train_state

UPDATES = 4
"""Timed in a turn."""
SMALL = {"n_heads": 4, "vocab_size": 4096}
CASES: dict[str, list[tuple[dict[str, int], Work]]] = {
    "cpu": [
        ({"dim": 256, "n_layers": 4, "context_length": 128} | SMALL, Work(4)),
        ({"dim": 256, "n_layers": 4, "context_length": 128} | SMALL, Work(1, 4, "adamw")),
        ({"dim": 128, "n_layers": 6, "context_length": 512} | SMALL, Work(1, 4)),
        ({"dim": 192, "n_layers": 3, "context_length": 64, "n_heads": 3, "vocab_size": 8192}, Work(4, 2)),
        ({"dim": 384, "n_layers": 2, "context_length": 256, "n_heads": 6, "vocab_size": 512}, Work(2)),
        ({"dim": 128, "n_layers": 12, "context_length": 128} | SMALL, Work(4, gradient_checkpointing=True)),
    ],
    "cuda": [
        ({"dim": 768, "n_layers": 12, "context_length": 1024, "n_heads": 12}, Work(16, 4)),
        ({"dim": 768, "n_layers": 12, "context_length": 1024, "n_heads": 12}, Work(4, 16, "adamw")),
        ({"dim": 896, "n_layers": 24, "context_length": 1024, "n_heads": 14}, Work(16, 8)),
        ({"dim": 1024, "n_layers": 12, "context_length": 512, "n_heads": 8, "vocab_size": 32_768}, Work(32)),
        ({"dim": 1536, "n_layers": 24, "context_length": 2048, "n_heads": 12}, Work(4, 8)),
        ({"dim": 896, "n_layers": 24, "context_length": 1024, "n_heads": 14},
         Work(16, 8, gradient_checkpointing=True, loss_chunks=8)),
    ],
}  # fmt: skip


@dataclass
class Case:
    """One shape in training, and the rates of its updates."""

    model: ModelConfig
    plan: Throughput
    steps: Iterator[StepMetrics]
    rates: list[float] = field(default_factory=list)


def main() -> None:
    """Predict, measure and print."""
    parser = argparse.ArgumentParser(description="Predicted against measured tokens/s.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--turns", type=int, default=10, help="turns of each shape")
    asked = parser.parse_args()
    compute = select_device(asked.device)
    cases = [case_of(fields, work, compute) for fields, work in CASES[compute.device.type]]
    for case in cases:
        for _ in range(2):
            next(case.steps)
    for turn in range(asked.turns):
        for case in cases if turn % 2 else reversed(cases):
            timed = [step.tokens_per_second for step in islice(case.steps, 1 + UPDATES)]
            case.rates += timed[1:]
    report(cases, compute)


def case_of(fields: dict[str, int], work: Work, compute: Compute) -> Case:
    """The plan, and the updates that it is a plan of."""
    model = pb.model(**fields)
    plan = throughput(model, work, stack_for(compute.name))
    clock = Clock(plan.update_tokens, flops_per_token(model), compute.peak_flops)
    config = timing_config(work)
    return Case(
        model,
        plan,
        train_steps(init_train_state(model, config, compute), model, config, random_text(model), 0, clock),
    )


def report(cases: list[Case], compute: Compute) -> None:
    """A line each, medians; then how far off they are."""
    stack = cases[0].plan.stack
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {compute.name}, torch {torch.__version__}, ", end="")
    print(f"{stack.name}; constants {stack.source}")
    print(
        "| layers x dim | vocabulary | context | batch | optimizer | expected (interval) | measured | off |"
    )
    print("|---|---|---|---|---|---|---|---|")
    errors = []
    for case in cases:
        m, work, (low, expected, high) = case.model, case.plan.work, case.plan.tokens_per_second
        measured = median(case.rates)
        errors.append(expected / measured - 1)
        again = ", recomputed" if work.gradient_checkpointing else ""
        shape = f"{m.n_layers} x {m.dim} | {m.vocab_size:,} | {m.context_length:,}"
        batch = f"{work.own_steps} x {work.batch_size} | {work.optimizer}{again}"
        print(
            f"| {shape} | {batch} | {expected:,.0f} ({low:,.0f} to {high:,.0f}) | {measured:,.0f} "
            f"| {errors[-1]:+.1%} |"
        )
    sizes = [abs(error) for error in errors]
    print(
        f"medians of {len(cases[0].rates)} updates; median error {median(sizes):.1%}, worst {max(sizes):.1%}"
    )


if __name__ == "__main__":
    main()
