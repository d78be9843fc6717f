"""Does the default recipe end lower than AdamW with a tuned learning rate, for the same tokens and size?

Each seed is a pair: the default settings against the best of AdamW at some learning rates, on the same
model, initial weights, batches and schedule. Runs that are finished are not made again. The text is the
source of the running Python's standard library.

    python benchmarks/recipe.py --out DIR
"""

import argparse
import json
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.text.corpus import read_corpus
from parambudget.text.token_cache import token_data
from parambudget.training.loop import TrainJob, train
from parambudget.training.run.defaults import with_train_defaults

TEXT = {"vocab_size": 512, "context_length": 128}


@dataclass(frozen=True)
class Run:
    """One training run: what it is called, and what is not left to the defaults."""

    name: str
    given: dict[str, Any]


def main() -> None:
    """Make the runs that are missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="of AdamW, over the default one"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time, of one thread each")
    asked = parser.parse_args()
    model = pb.model(dim=asked.dim, n_layers=asked.layers, n_heads=asked.dim // 32, **TEXT)
    data = token_data(read_corpus(), model.vocab_size)
    at_the_end = {name: asked.steps for name in ("steps", "eval_every", "save_every")}
    shared = at_the_end | {"eval_tokens": 2**16}
    default = with_train_defaults(shared, model, len(data.train), on_cpu=True).config
    kinds: dict[str, dict[str, Any]] = {"default": {}} | {
        f"AdamW {times:g}x": {"optimizer": "adamw", "learning_rate": times * default.learning_rate}
        for times in asked.rates
    }
    runs = {
        (kind, seed): Run(f"{kind.replace(' ', '-').lower()}-seed-{seed}", shared | given | {"seed": seed})
        for seed in asked.seeds
        for kind, given in kinds.items()
    }
    with ProcessPoolExecutor(asked.at_once, mp_context=get_context("spawn")) as pool:
        found = pool.map(finished, [asked.out] * len(runs), [model] * len(runs), runs.values())
        results = dict(zip(runs, found, strict=True))
    tokens = asked.steps * default.step.tokens_per_update(model.context_length)
    machine = f"{platform.machine()} with {os.cpu_count()} CPUs, torch {torch.__version__}"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine}, one thread a run")
    print(f"{pb.count(model).body:,} body parameters, {pb.count(model).total:,} in all; {tokens:,} tokens in")
    print(f"{asked.steps} updates, {default.schedule} schedule, learning rate {default.learning_rate:g}\n")
    table({key: result["val_loss"] for key, result in results.items()}, list(kinds), asked.seeds)


def finished(out: Path, model: ModelConfig, run: Run) -> dict[str, Any]:
    """The summary of a run, which is made now if it is not there, or gone on with."""
    torch.set_num_threads(1)
    folder = out / run.name
    summary = folder / "summary.json"
    if not summary.exists() or not json.loads(summary.read_text())["finished"]:
        data = token_data(read_corpus(), model.vocab_size)
        config = with_train_defaults(run.given, model, len(data.train), on_cpu=True).config
        train(TrainJob(model, config, data, folder, resume=True), device="cpu")
    found: dict[str, Any] = json.loads(summary.read_text())
    return found


def table(losses: dict[tuple[str, int], float], kinds: list[str], seeds: list[int]) -> None:
    """Validation losses by seed, and how much lower the default ends than the best of AdamW."""
    print("| seed |", " | ".join(kinds), "| default less best AdamW |")
    print("|---" * (len(kinds) + 2) + "|")
    gains = []
    for seed in seeds:
        default, *adamw = (losses[kind, seed] for kind in kinds)
        gains.append(default - min(adamw))
        print(f"| {seed} |", " | ".join(f"{loss:.4f}" for loss in (default, *adamw)), f"| {gains[-1]:+.4f} |")
    print(f"\nthe default ends lower in {sum(gain < 0 for gain in gains)} of {len(seeds)} pairs")


if __name__ == "__main__":
    main()
