"""Planned beside measured, as the trainer itself writes both into summary.json: memory, tokens/s and time.

    parambudget calibrate && python benchmarks/planned_runs.py

Each shape is trained for a few updates in a process of its own, so that its peak memory is its own. On a CUDA
device the shapes are larger; without a calibration a CPU has no planned speed, and a GPU has its preset's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from parambudget.training.device import select_device

RUN = [sys.executable, "-c", "from parambudget.cli.main import main; main()", "train"]
NOTE = "--dim 896 --n-layers 24 --n-heads 14 --intermediate-size 3584"
CPU = (
    ("--dim 128 --n-layers 4 --vocab-size 2048 --context-length 128", ""),
    ("--dim 256 --n-layers 4 --vocab-size 4096 --context-length 256", "4 x 2"),
    ("--dim 256 --n-layers 8 --vocab-size 4096 --context-length 256 --optimizer adamw", "8 x 1"),
    ("--dim 384 --n-layers 6 --vocab-size 8192 --context-length 256 --gradient-checkpointing", "4 x 2"),
    ("--dim 512 --n-layers 6 --vocab-size 8192 --context-length 256", "8 x 1"),
    ("--dim 768 --n-layers 4 --vocab-size 8192 --context-length 256", "2 x 4"),
)
CUDA = (
    ("--dim 768 --n-layers 12 --n-heads 12", "16 x 4"),
    ("--dim 768 --n-layers 12 --n-heads 6 --optimizer adamw", "32 x 2"),
    (NOTE, "16 x 8"),
    (f"{NOTE} --optimizer adamw --gradient-checkpointing", "16 x 8"),
    ("--dim 1536 --n-layers 24 --n-heads 12 --context-length 2048", "4 x 8"),
    ("--dim 2048 --n-layers 16 --n-kv-heads 4 --context-length 2048", "4 x 4"),
)
"""Model and batch: sequences per micro-step x micro-steps per update."""


def main() -> None:
    """Run all of them and print a table."""
    parser = argparse.ArgumentParser(description="Planned against measured, run by run.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=8)
    asked = parser.parse_args()
    compute = select_device(asked.device)
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {compute.name}, torch {torch.__version__}")
    print("| run | peak memory, GiB | planned | off | tokens/s | planned | off |")
    print("|---|---|---|---|---|---|---|")
    memory_errors, speed_errors = [], []
    for flags, batch in CUDA if compute.device.type == "cuda" else CPU:
        sizes = batch.split(" x ") if batch else []
        of_batch = zip(("--batch-size", "--gradient-accumulation-steps"), sizes, strict=False)
        words = [word for pair in of_batch for word in pair]
        found = trained([*flags.split(), *words, "--steps", str(asked.steps), "--device", asked.device])
        planned = found["planned"]
        held, foreseen = found["peak_memory_bytes"], planned["peak_memory_bytes"]
        memory_errors.append(foreseen / held - 1)
        line = (
            f"| `{flags}`, {batch or 'default'} | {held / 2**30:.2f} | {foreseen / 2**30:.2f} "
            f"| {memory_errors[-1]:+.1%} |"
        )
        rate, expected = found["tokens_per_second"], planned["tokens_per_second"]
        if expected is None:
            print(f"{line} {rate:,.0f} | not known | |")
            continue
        speed_errors.append(expected / rate - 1)
        print(f"{line} {rate:,.0f} | {expected:,.0f} | {speed_errors[-1]:+.1%} |")
    for what, errors in (("memory", memory_errors), ("tokens/s", speed_errors)):
        if errors:
            sizes = [abs(error) for error in errors]
            print(f"{what}: median error {median(sizes):.1%}, worst {max(sizes):.1%}")


def trained(flags: list[str]) -> dict[str, Any]:
    """summary.json of a run of these flags."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        subprocess.run([*RUN, *flags, "--out", str(out)], check=True, capture_output=True)
        return dict(json.loads((out / "summary.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
