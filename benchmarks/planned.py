"""How far are predictions from what is measured on this machine?

    parambudget calibrate && python benchmarks/planned.py            # tokens/s, several shapes in turns
    parambudget calibrate && python benchmarks/planned.py --runs     # memory and tokens/s of whole runs

The constants are those that `calibrate` measured, on other models than these; without them a GPU is predicted
by its preset, and a CPU not at all. In turns: the shapes are trained in one process, a few updates each, so
that whatever else the machine does falls on all of them; the first update of each turn finds the caches cold
and does not count. `--runs`: each shape is trained for a few updates in a process of its own, so that its
peak memory is its own; the trainer itself writes planned and measured into summary.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.cost.flops import flops_per_token
from parambudget.cost.speed.profile import profile_for
from parambudget.cost.speed.throughput import Throughput, throughput
from parambudget.cost.step import StepConfig
from parambudget.training.calibrate import random_text, timing_config
from parambudget.training.device import Compute, select_device
from parambudget.training.loop import Clock, train_steps
from parambudget.training.metrics import StepMetrics
from parambudget.training.train_state import init_train_state

UPDATES = 4
"""Timed in a turn."""


def step_of(batch_size: int, gradient_accumulation_steps: int = 1, **fields: object) -> StepConfig:
    """A step in few words."""
    return StepConfig.read(
        {"batch_size": batch_size, "gradient_accumulation_steps": gradient_accumulation_steps, **fields}
    )


SMALL = {"n_heads": 4, "vocab_size": 4096}
CASES: dict[str, list[tuple[dict[str, int], StepConfig]]] = {
    "cpu": [
        ({"dim": 256, "n_layers": 4, "context_length": 128} | SMALL, step_of(4)),
        ({"dim": 256, "n_layers": 4, "context_length": 128} | SMALL, step_of(1, 4, optimizer="adamw")),
        ({"dim": 128, "n_layers": 6, "context_length": 512} | SMALL, step_of(1, 4)),
        ({"dim": 192, "n_layers": 3, "context_length": 64, "n_heads": 3, "vocab_size": 8192}, step_of(4, 2)),
        ({"dim": 384, "n_layers": 2, "context_length": 256, "n_heads": 6, "vocab_size": 512}, step_of(2)),
        ({"dim": 128, "n_layers": 12, "context_length": 128} | SMALL,
         step_of(4, gradient_checkpointing=True)),
    ],
    "cuda": [
        ({"dim": 768, "n_layers": 12, "context_length": 1024, "n_heads": 12}, step_of(16, 4)),
        ({"dim": 768, "n_layers": 12, "context_length": 1024, "n_heads": 12},
         step_of(4, 16, optimizer="adamw")),
        ({"dim": 896, "n_layers": 24, "context_length": 1024, "n_heads": 14}, step_of(16, 8)),
        ({"dim": 1024, "n_layers": 12, "context_length": 512, "n_heads": 8, "vocab_size": 32_768},
         step_of(32)),
        ({"dim": 1536, "n_layers": 24, "context_length": 2048, "n_heads": 12}, step_of(4, 8)),
        ({"dim": 896, "n_layers": 24, "context_length": 1024, "n_heads": 14},
         step_of(16, 8, gradient_checkpointing=True, loss_chunks=8)),
    ],
}  # fmt: skip
RUN = [sys.executable, "-c", "from parambudget.cli.main import main; main()", "train"]
NOTE = "--dim 896 --n-layers 24 --n-heads 14 --intermediate-size 3584"
RUNS = {
    "cpu": (
        ("--dim 128 --n-layers 4 --vocab-size 2048 --context-length 128", ""),
        ("--dim 256 --n-layers 4 --vocab-size 4096 --context-length 256", "4 x 2"),
        ("--dim 256 --n-layers 8 --vocab-size 4096 --context-length 256 --optimizer adamw", "8 x 1"),
        ("--dim 384 --n-layers 6 --vocab-size 8192 --context-length 256 --gradient-checkpointing", "4 x 2"),
        ("--dim 512 --n-layers 6 --vocab-size 8192 --context-length 256", "8 x 1"),
        ("--dim 768 --n-layers 4 --vocab-size 8192 --context-length 256", "2 x 4"),
    ),
    "cuda": (
        ("--dim 768 --n-layers 12 --n-heads 12", "16 x 4"),
        ("--dim 768 --n-layers 12 --n-heads 6 --optimizer adamw", "32 x 2"),
        (NOTE, "16 x 8"),
        (f"{NOTE} --optimizer adamw --gradient-checkpointing", "16 x 8"),
        ("--dim 1536 --n-layers 24 --n-heads 12 --context-length 2048", "4 x 8"),
        ("--dim 2048 --n-layers 16 --n-kv-heads 4 --context-length 2048", "4 x 4"),
    ),
}
"""Model and batch: sequences per micro-step x micro-steps per update."""


@dataclass
class TrainedShape:
    """One shape in training, and the rates of its updates."""

    model: ModelConfig
    plan: Throughput
    steps: Iterator[StepMetrics]
    rates: list[float] = field(default_factory=list)


def main() -> None:
    """Predict, measure and print."""
    parser = argparse.ArgumentParser(description="Predicted against measured.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--turns", type=int, default=10, help="turns of each shape")
    parser.add_argument("--runs", action="store_true", help="whole runs: memory and tokens/s")
    parser.add_argument("--steps", type=int, default=8, help="updates of each whole run")
    asked = parser.parse_args()
    compute = select_device(asked.device)
    if asked.runs:
        compare_runs(compute, asked.device, asked.steps)
    else:
        compare_in_turns(compute, asked.turns)


def compare_in_turns(compute: Compute, turns: int) -> None:
    """Train all shapes in one process and print a table."""
    cases = [case_of(fields, step, compute) for fields, step in CASES[compute.device.type]]
    for case in cases:
        for _ in range(2):
            next(case.steps)
    for turn in range(turns):
        for case in cases if turn % 2 else reversed(cases):
            timed = [step.tokens_per_second for step in islice(case.steps, 1 + UPDATES)]
            case.rates += timed[1:]
    report(cases, compute)


def case_of(fields: dict[str, int], step: StepConfig, compute: Compute) -> TrainedShape:
    """The plan, and the updates that it is a plan of."""
    model = pb.model(**fields)
    plan = throughput(model, step, profile_for(compute.name))
    clock = Clock(plan.update_tokens, flops_per_token(model), compute.peak_flops)
    config = timing_config(step)
    return TrainedShape(
        model,
        plan,
        train_steps(init_train_state(model, config, compute), model, config, random_text(model), 0, clock),
    )


def report(cases: list[TrainedShape], compute: Compute) -> None:
    """A line each, medians; then how far off they are."""
    stack = cases[0].plan.profile
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {compute.name}, torch {torch.__version__}, ", end="")
    print(f"{stack.name}; constants {stack.source}")
    print(
        "| layers x dim | vocabulary | context | batch | optimizer | expected (interval) | measured | off |"
    )
    print("|---|---|---|---|---|---|---|---|")
    errors = []
    for case in cases:
        m, step, (low, expected, high) = case.model, case.plan.step, case.plan.tokens_per_second
        measured = median(case.rates)
        errors.append(expected / measured - 1)
        again = ", recomputed" if step.gradient_checkpointing else ""
        shape = f"{m.n_layers} x {m.dim} | {m.vocab_size:,} | {m.context_length:,}"
        batch = f"{step.micro_steps_per_device} x {step.batch_size} | {step.optimizer}{again}"
        print(
            f"| {shape} | {batch} | {expected:,.0f} ({low:,.0f} to {high:,.0f}) | {measured:,.0f} "
            f"| {errors[-1]:+.1%} |"
        )
    sizes = [abs(error) for error in errors]
    print(
        f"medians of {len(cases[0].rates)} updates; median error {median(sizes):.1%}, worst {max(sizes):.1%}"
    )


def compare_runs(compute: Compute, device: str, steps: int) -> None:
    """Train each shape in a process of its own and print a table."""
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {compute.name}, torch {torch.__version__}")
    print("| run | peak memory, GiB | planned | off | tokens/s | planned | off |")
    print("|---|---|---|---|---|---|---|")
    memory_errors, speed_errors = [], []
    for flags, batch in RUNS[compute.device.type]:
        sizes = batch.split(" x ") if batch else []
        of_batch = zip(("--batch-size", "--gradient-accumulation-steps"), sizes, strict=False)
        words = [word for pair in of_batch for word in pair]
        summary = summary_of_run([*flags.split(), *words, "--steps", str(steps), "--device", device])
        planned = summary["planned"]
        peak, planned_peak = summary["peak_memory_bytes"], planned["peak_memory_bytes"]
        memory_errors.append(planned_peak / peak - 1)
        line = (
            f"| `{flags}`, {batch or 'default'} | {peak / 2**30:.2f} | {planned_peak / 2**30:.2f} "
            f"| {memory_errors[-1]:+.1%} |"
        )
        rate, expected = summary["tokens_per_second"], planned["tokens_per_second"]
        if expected is None:
            print(f"{line} {rate:,.0f} | not known | |")
            continue
        speed_errors.append(expected / rate - 1)
        print(f"{line} {rate:,.0f} | {expected:,.0f} | {speed_errors[-1]:+.1%} |")
    for what, errors in (("memory", memory_errors), ("tokens/s", speed_errors)):
        if errors:
            sizes = [abs(error) for error in errors]
            print(f"{what}: median error {median(sizes):.1%}, worst {max(sizes):.1%}")


def summary_of_run(flags: list[str]) -> dict[str, Any]:
    """summary.json of a run of these flags."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        subprocess.run([*RUN, *flags, "--out", str(out)], check=True, capture_output=True)
        return dict(json.loads((out / "summary.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
