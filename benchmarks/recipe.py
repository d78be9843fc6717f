"""Which recipe ends lowest, for the same model, tokens, initial weights and batches?

Each run is a size, an arm (what it changes in the settings or in the model) and a seed. Many run at once, in
processes of one thread: on a CPU, or eagerly on one CUDA device that they share. A finished run is a line of
results.jsonl, and is not made again while its settings are the same. The text is the source of the running
Python's standard library.

    python benchmarks/recipe.py --out DIR --confirm     pairs of seeds: the default against the others, judged
    python benchmarks/recipe.py --out DIR --explore     one seed: what matters, and where the optimum lies
"""

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.arch.style import STYLES
from parambudget.scaling.hyperparameters import HIGHEST_LEARNING_RATE, step_law_rate
from parambudget.text.corpus import read_corpus
from parambudget.text.token_cache import TokenData, token_data
from parambudget.training.config import TrainConfig, with_absent_settings
from parambudget.training.device import Compute, select_device
from parambudget.training.loop import Clock, train_steps
from parambudget.training.run.defaults import with_train_defaults
from parambudget.training.train_state import init_train_state

VOCABULARY = 1024


@dataclass(frozen=True)
class Size:
    """A model and how long it is trained."""

    name: str
    dim: int
    n_layers: int
    n_heads: int
    updates: int
    batch_tokens: int = 4096
    context_length: int = 128

    def model(self, changes: Mapping[str, Any]) -> ModelConfig:
        """The model, with the choices of an arm; an FFN without a gate is wider, for the same count."""
        plain = pb.model(
            dim=self.dim, n_layers=self.n_layers, n_heads=self.n_heads, vocab_size=VOCABULARY,
            context_length=self.context_length,
        )  # fmt: skip
        wider: dict[str, Any] = (
            {} if changes.get("gated", True) else {"intermediate_size": plain.intermediate_size * 3 // 2}
        )
        return plain.replace(**wider, **changes)


SIZES = {
    size.name: size
    for size in (
        Size("tiny", 32, 1, 1, 3, 512),
        Size("1M", 128, 4, 4, 256),
        Size("1M long", 128, 4, 4, 1024),
        Size("1M large batch", 128, 4, 4, 256, 2**14),
        Size("10M", 384, 6, 6, 512),
        Size("10M short", 384, 6, 6, 128),
        Size("50M", 512, 16, 8, 320, 2**14),
    )
}


@dataclass(frozen=True)
class Arm:
    """What a run changes: settings, and choices of the model."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One training run."""

    size: str
    arm: Arm
    seed: int = 1

    @property
    def key(self) -> str:
        """Names the run in the file of results."""
        return f"{self.size} | {self.arm.name} | {self.seed}"


def main() -> None:
    """Make the runs that are missing within the time there is, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: then all processes share it")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one run each at a time")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["1M", "10M short"])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--confirm", action="store_true", help="the default against the others, in pairs")
    which.add_argument("--explore", action="store_true", help="many arms from the first size, with one seed")
    asked = parser.parse_args()
    deadline = time.time() + asked.seconds
    asked.out.mkdir(parents=True, exist_ok=True)
    sweep = Sweep(asked.out / "results.jsonl", asked.device, asked.workers, deadline)
    with sweep:
        if asked.explore:
            explore(sweep, asked.sizes)
        else:
            confirm(sweep, asked.sizes)
    print_tables(sweep)
    if asked.confirm:
        print_verdicts(sweep, asked.sizes)


class Sweep:
    """Makes runs in processes, and keeps what they returned in a file."""

    def __init__(self, file: Path, device: str, n_workers: int, deadline: float) -> None:
        lines = file.read_text().splitlines() if file.exists() else []
        self.results: dict[str, dict[str, Any]] = {row["key"]: row for row in map(json.loads, lines)}
        # Made once, before the workers read it.
        self.data, self.on_cpu = token_data(read_corpus(), VOCABULARY), device == "cpu"
        self.file, self.deadline, self.n_workers = file, deadline, n_workers
        self.pool = ProcessPoolExecutor(
            n_workers, mp_context=get_context("spawn"), initializer=begin, initargs=(device,)
        )
        self.started: dict[Future[dict[str, Any] | None], Run] = {}

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def make(self, runs: Iterable[Run], until: Iterable[Run] | None = None) -> None:
        """Make those that are missing, in this order; return when all of `until` are there (all, unless
        given)."""
        started = {run.key for run in self.started.values()}
        waiting = [run for run in runs if run.key not in started and self.row(run) is None]
        wanted = {run.key for run in (waiting if until is None else until) if self.row(run) is None}
        wanted |= set() if until else {run.key for run in self.started.values()}
        while wanted:
            while waiting and len(self.started) < self.n_workers:
                run = waiting.pop(0)
                self.started[self.pool.submit(train_run, run, self.deadline)] = run
            done, _ = wait(self.started, return_when=FIRST_COMPLETED)
            for future in done:
                run = self.started.pop(future)
                wanted.discard(run.key)
                self.keep(run, future)

    def keep(self, run: Run, future: Future[dict[str, Any] | None]) -> None:
        """Write down what a run returned."""
        if future.exception() is not None:
            print(f"failed: {run.key}: {future.exception()!r}", flush=True)
        elif (row := future.result()) is not None:
            self.results[run.key] = row
            with self.file.open("a") as file:
                file.write(json.dumps(row) + "\n")
            shown = "not finite" if row["val_loss"] is None else f"{row['val_loss']:.4f}"
            print(f"{shown}  {row['seconds']:6.1f} s  {run.key}", flush=True)

    def loss(self, run: Run) -> float:
        """The validation loss of a run: infinite where it is not finite, NaN where the run is missing."""
        row = self.row(run)
        if row is None:
            return math.nan
        return math.inf if row["val_loss"] is None else float(row["val_loss"])

    def row(self, run: Run) -> dict[str, Any] | None:
        """What a run returned, if it was made with the settings that it has now."""
        row = self.results.get(run.key)
        if row is None:
            return None
        model = SIZES[run.size].model(run.arm.model)
        now = settings_of(run, model, self.data, on_cpu=self.on_cpu).model_dump()
        return row if with_absent_settings(row["train"]) == now else None


DEVICE: Compute
DATA: TokenData


def begin(device: str) -> None:
    """What a process does once."""
    global DEVICE, DATA
    torch.set_num_threads(1)
    # Compiling takes longer than a run of this size.
    DEVICE, DATA = replace(select_device(device), compiled=False), token_data(read_corpus(), VOCABULARY)


def settings_of(run: Run, model: ModelConfig, data: TokenData, *, on_cpu: bool) -> TrainConfig:
    """The complete settings: the size's, the arm's, and the defaults."""
    size = SIZES[run.size]
    sequences = size.batch_tokens // size.context_length
    n_micro_steps = max(1, sequences // 8) if on_cpu else 1
    at_the_end = {name: size.updates for name in ("steps", "eval_every", "save_every")}
    given = at_the_end | {
        "batch_size": sequences // n_micro_steps, "gradient_accumulation_steps": n_micro_steps,
        "eval_tokens": size.updates * size.batch_tokens // 8, "seed": run.seed, **run.arm.settings,
    }  # fmt: skip
    if "warmup_share" in given:
        given["warmup_steps"] = math.ceil(given.pop("warmup_share") * size.updates)
    if given.pop("step_law", False):
        law = step_law_rate(pb.count(model).body, size.updates * size.batch_tokens)
        given["learning_rate"] = min(HIGHEST_LEARNING_RATE, law.value)
    if "rate_factor" in given:
        factor = given.pop("rate_factor")
        chosen = with_train_defaults(given, model, len(data.train), on_cpu=on_cpu).config
        given["learning_rate"] = factor * chosen.learning_rate
    return with_train_defaults(given, model, len(data.train), on_cpu=on_cpu).config


def train_run(run: Run, deadline: float) -> dict[str, Any] | None:
    """The result of a run; None where the time is over before it ends."""
    if time.time() > deadline:
        return None
    model = SIZES[run.size].model(run.arm.model)
    config = settings_of(run, model, DATA, on_cpu=DEVICE.device.type == "cpu")
    state, started, losses, last = init_train_state(model, config, DEVICE), time.time(), [], None
    for last in train_steps(state, model, config, DATA, 0, Clock(1, 1, None)):
        losses.append(last.loss)
        if time.time() > deadline:
            return None
    assert last is not None
    return {
        "key": run.key, "size": run.size, "arm": run.arm.name, "seed": run.seed, "val_loss": last.val_loss,
        "loss": losses[:: max(1, len(losses) // 16)], "seconds": time.time() - started,
        "body": pb.count(model).body, "model": dict(run.arm.model), "train": config.model_dump(),
    }  # fmt: skip


def print_tables(sweep: Sweep) -> None:
    """Per size, the arms by their mean loss, with the loss of each seed."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {where}, {os.cpu_count()} CPUs, torch {torch.__version__}")
    print(f"Python {platform.python_version()}, {sweep.n_workers} runs at a time")
    for size in SIZES.values():
        rows = [row for row in sweep.results.values() if row["size"] == size.name]
        if not rows:
            continue
        tokens = size.updates * size.batch_tokens
        print(f"\n{size.name}: {tokens:,} tokens in {size.updates} updates, {rows[0]['body']:,} body\n")
        arms: dict[str, dict[int, float]] = {}
        for row in rows:
            loss = math.inf if row["val_loss"] is None else row["val_loss"]
            arms.setdefault(row["arm"], {})[row["seed"]] = loss
        for name, losses in sorted(arms.items(), key=lambda arm: sum(arm[1].values()) / len(arm[1])):
            mean = sum(losses.values()) / len(losses)
            print(f"{mean:8.4f}  {name:50}", " ".join(f"{losses[seed]:.4f}" for seed in sorted(losses)))


# The arms


MODERN = STYLES["modern"].fields
BEFORE = {
    "warmup_share": 0.1, "step_law": True, "embedding_learning_rate": None, "momentum_warmup_steps": 0,
    "weight_decay_schedule": "constant", "beta1": 0.9,
}  # fmt: skip
"""The default before there were groups: Step Law's rate for all of them."""
ADAMW_RATES = {
    "tiny": (1e-3, 2e-3, 4e-3), "1M": (1.25e-3, 2.5e-3, 5e-3),
    "10M short": (3.125e-4, 6.25e-4, 1.25e-3, 2.5e-3),
}  # fmt: skip
RATES = {"rate x2": 2.0, "rate x0.5": 0.5}
"""Arms of other rates than the default's."""
RATES_WITH_EVERY_SEED = {"tiny", "1M"}
"""Sizes of which these are made with every seed."""
SEEDS = {"tiny": 2, "1M": 5, "10M": 5}
LARGEST_LOSS_OVER_NANOCHAT = 0.02
"""Nats: a modern model with the default recipe may end so much higher."""


def adamw(rate: float) -> Arm:
    """AdamW for all parameters, with the defaults that it has."""
    return Arm(f"AdamW {rate:g}", {"optimizer": "adamw", "learning_rate": rate})


def confirming_arms(size: str) -> list[Arm]:
    """The default and what it is compared with, the most telling first."""
    return [
        Arm("default"), Arm("before", BEFORE), *adamw_arms(size),
        Arm("default, modern", {}, MODERN), *nanochat_arms(size),
        *(Arm(name, {"rate_factor": factor}) for name, factor in RATES.items()),
    ]  # fmt: skip


def adamw_arms(size: str) -> list[Arm]:
    """AdamW at several rates."""
    return [*map(adamw, ADAMW_RATES.get(size, (6.25e-4, 1.25e-3, 2.5e-3)))]


def nanochat_arms(size: str) -> list[Arm]:
    """nanochat's rates, scaled to the width, and twice those."""
    dim = SIZES[size].dim
    rates = 0.1 / math.sqrt(dim), 2 / math.sqrt(dim), 0.004 * math.sqrt(768 / dim)
    return [like_nanochat(*rates), like_nanochat(*(2 * rate for rate in rates))]


def tuned_on_first(sweep: Sweep, size: str, arms: list[Arm]) -> Arm:
    """The arm that ends lowest with the first seed: the one that the other seeds are made with."""
    losses = [sweep.loss(Run(size, arm)) for arm in arms]
    return arms[min(range(len(arms)), key=lambda i: (math.isnan(losses[i]), losses[i]))]


def confirm(sweep: Sweep, sizes: list[str]) -> None:
    """The first seed of every size, which also tunes the rates of the others' recipes; then the pairs; last
    what no pair needs."""
    first = [Run(size, arm) for size in sizes for arm in confirming_arms(size)]
    in_no_pair = [run for run in first if run.arm.name in RATES and run.size not in RATES_WITH_EVERY_SEED]
    sweep.make(run for run in first if run not in in_no_pair)
    sweep.make(
        Run(size, arm, seed)
        for seed in range(2, 1 + max(SEEDS.values()))
        for size in sizes
        if seed <= SEEDS.get(size, 2)
        for arm in pairs_of(sweep, size)
    )
    sweep.make(in_no_pair)


def pairs_of(sweep: Sweep, size: str) -> list[Arm]:
    """What is made with every seed."""
    chosen = [tuned_on_first(sweep, size, arms(size)) for arms in (adamw_arms, nanochat_arms)]
    tuned_away = {arm.name for arms in (adamw_arms, nanochat_arms) for arm in arms(size)}
    tuned_away -= {arm.name for arm in chosen}
    if size not in RATES_WITH_EVERY_SEED:
        tuned_away |= RATES.keys()
    return [arm for arm in confirming_arms(size) if arm.name not in tuned_away]


def print_verdicts(sweep: Sweep, sizes: list[str]) -> None:
    """Whether the default is what it should be, criterion by criterion."""
    print("\nDifferences in nats; below 0 the default is better.")
    for size in sizes:
        seeds = range(1, 1 + SEEDS.get(size, 2))
        losses = {
            arm.name: [sweep.loss(Run(size, arm, seed)) for seed in seeds] for arm in confirming_arms(size)
        }
        adamw_best, nanochat = (
            tuned_on_first(sweep, size, ways(size)).name for ways in (adamw_arms, nanochat_arms)
        )
        default, modern, most = losses["default"], losses["default, modern"], LARGEST_LOSS_OVER_NANOCHAT
        print(f"\n{size}, {len(seeds)} seeds; best with the first one: {adamw_best}; {nanochat}")
        verdict("lower than AdamW at its best rate in every pair", default, losses[adamw_best], every=True)
        verdict("lower than the default before in every pair", default, losses["before"], every=True)
        verdict(f"modern: mean at most {most} over nanochat-like", modern, losses[nanochat], most=most)
        verdict("modern lower than the default in every pair", modern, default, every=True)
        verdict("mean at twice the rate is not lower", default, losses["rate x2"])
        verdict("mean at half the rate is not lower", default, losses["rate x0.5"])


def verdict(
    claim: str, own: list[float], others: list[float], *, every: bool = False, most: float = 0.0
) -> None:
    """One line: whether the claim holds, and the difference of each pair."""
    differences = [mine - other for mine, other in zip(own, others, strict=True)]
    found = [difference for difference in differences if not math.isnan(difference)]
    mean = sum(found) / len(found) if found else math.nan
    holds = all(difference < 0 for difference in found) if every else not mean > most
    missing = len(differences) - len(found)
    said = "open " if holds and missing else "holds" if holds else "fails"
    pairs = " ".join(f"{difference:+.4f}" for difference in found)
    print(f"{said}  {claim}: mean {mean:+.4f} ({pairs}){f', {missing} pairs missing' * bool(missing)}")


def tuned(rate: float, embedding: float, name: str = "", **changes: Any) -> Arm:
    """Rates of their own, a short warm-up, and what is changed from there."""
    settings = {
        "learning_rate": rate, "embedding_learning_rate": embedding, "scalar_learning_rate": 0.01,
        "warmup_share": 0.02,
    }  # fmt: skip
    model = {
        key: changes.pop(key) for key in [*changes] if key in (*MODERN, "zero_init_out", "embedding_norm")
    }
    return Arm(f"rate {rate:g}, embedding {embedding:g} {name}".strip(), settings | changes, model)


def like_nanochat(rate: float, embedding: float, head: float, **changes: Any) -> Arm:
    """nanochat's recipe in the settings of this trainer (Karpathy 2025, scripts/base_train.py, 00255c1,
    whose rates are for a width of 768 and 524,288 tokens an update: 0.02 for orthogonal updates, 0.3 for
    embeddings of size 1, which here are of size 0.02, and 0.004 to 0.008 for the head)."""
    others = {
        "head_learning_rate": head, "warmup_share": 0.0, "momentum_warmup_steps": 300, "grad_clip": None,
        "weight_decay_schedule": "proportional", "beta1": 0.8, "schedule": "wsd", "decay_share": 0.65,
        "final_learning_rate": rate / 20,
    }  # fmt: skip
    name = f"nanochat-like, head {head:g} {' '.join(changes)}".strip()
    return tuned(rate, embedding, name, **others, **MODERN, **changes)


def explore(sweep: Sweep, sizes: list[str]) -> None:
    """Rates first, then one change at a time from the best of them, while larger models are trained."""
    main, *others = sizes
    rates = [Run(main, arm) for arm in coarse_arms(SIZES[main].dim)]
    larger = [Run(size, arm) for size in others for arm in transfer_arms(size)]
    longest = [run for run in larger if run.size == "50M"]
    sweep.make([*longest, *rates, *larger], until=rates)
    grid = [run for run in rates if run.arm.name.startswith("rate ") and not run.arm.model]
    made = [run for run in grid if not math.isnan(sweep.loss(run))]
    if not made:
        return
    best = min(made, key=sweep.loss).arm
    print(f"\nbest of the grid: {best.name}\n", flush=True)
    sweep.make([*(Run(main, arm) for arm in single_changes(best)), *larger])


def coarse_arms(dim: int) -> Iterator[Arm]:
    """Rates of matrices and embeddings, crossed; the recipes to compare with."""
    for rate in (0.005, 0.01, 0.02, 0.04, 0.08):
        for embedding in (0.005, 0.015, 0.05, 0.15):
            yield tuned(rate, embedding)
    yield Arm("before", BEFORE)
    yield from map(adamw, (1.25e-3, 2.5e-3, 5e-3, 1e-2))
    width = math.sqrt(768 / dim)
    yield like_nanochat(0.01, 0.2, 0.01)
    yield like_nanochat(0.02, 0.2, 0.02)
    yield like_nanochat(0.02, 0.2, 0.005)
    yield like_nanochat(0.1 / math.sqrt(dim), 0.3 * width, 0.004 * width)
    yield like_nanochat(0.1 / math.sqrt(dim), 0.3 * width, 0.004 * width, embedding_norm=True)
    for rate, embedding, head in (
        (0.02, 0.05, 0.005), (0.02, 0.05, 0.02), (0.02, 0.2, 0.005), (0.02, 0.2, 0.02), (0.02, 0.01, 0.01),
        (0.04, 0.05, 0.005), (0.04, 0.05, 0.02), (0.04, 0.2, 0.005), (0.04, 0.2, 0.02),
    ):  # fmt: skip
        for zero in (False, True):
            name = f"modern, head {head:g}" + zero * ", zero-init"
            yield tuned(rate, embedding, name, head_learning_rate=head, **{**MODERN, "zero_init_out": zero})


def single_changes(best: Arm) -> Iterator[Arm]:
    """One change at a time."""
    rate, embedding = best.settings["learning_rate"], best.settings["embedding_learning_rate"]
    changes: list[tuple[str, dict[str, Any]]] = [
        *((f"scalars {value:g}", {"scalar_learning_rate": value}) for value in (0.001, 0.003, 0.03, 0.1)),
        *((f"warm-up {value:g}", {"warmup_share": value}) for value in (0.0, 0.01, 0.05, 0.1)),
        *((f"momentum {value:g}", {"momentum": value}) for value in (0.9, 0.97, 0.985)),
        *((f"momentum ramp {value}", {"momentum_warmup_steps": value}) for value in (50, 300)),
        *((f"decay {value:g}", {"weight_decay": value}) for value in (0.0, 0.03, 0.3)),
        *((f"decay {value:g} proportional", {"weight_decay": value, "weight_decay_schedule": "proportional"})
          for value in (0.1, 0.3)),
        ("embedding decay 0.1", {"embedding_weight_decay": 0.1}),
        *((f"beta2 {value:g}", {"beta2": value}) for value in (0.9, 0.98, 0.995)),
        *((f"beta1 {value:g}", {"beta1": value}) for value in (0.8, 0.95)),
        ("no clip", {"grad_clip": None}),
        ("final rate 0", {"final_learning_rate": 0.0}),
        ("final rate 5 %", {"final_learning_rate": rate / 20}),
        ("wsd 0.65", {"schedule": "wsd", "decay_share": 0.65}),
        ("cosine", {"schedule": "cosine"}),
        ("zero-init", {"zero_init_out": True}),
        ("QK-norm", {"qk_norm": "head"}),
        ("zero-init, QK-norm", {"zero_init_out": True, "qk_norm": "head"}),
        ("soft cap 15", {"logit_softcap": 15.0}),
        ("ReLU^2", {"activation": "relu2", "gated": False}),
        *((f"untied, head {head:g}", {"tied": False, "head_learning_rate": head}) for head in (0.005, 0.02)),
    ]  # fmt: skip
    for name, change in changes:
        yield tuned(rate, embedding, name, **change)
    for other in (embedding / 1.7, embedding * 1.7):
        yield tuned(rate, float(f"{other:.2g}"))
    for other in (rate / 1.4, rate * 1.4):
        yield tuned(float(f"{other:.2g}"), embedding)


def transfer_arms(size: str) -> Iterator[Arm]:
    """How the optimum moves with width, batch and length."""
    if size.startswith("1M"):
        yield from (tuned(rate, 0.015) for rate in (0.01, 0.02, 0.04))
        yield from (tuned(0.02, embedding) for embedding in (0.005, 0.05))
        return
    if size == "50M":
        yield from (tuned(rate, 0.015) for rate in (0.0025, 0.005, 0.01, 0.02))
        return
    yield from (tuned(rate, 0.015) for rate in (0.0025, 0.005, 0.01, 0.02, 0.04))
    yield from (tuned(0.01, embedding) for embedding in (0.005, 0.05))
    yield tuned(0.01, 0.015, "zero-init", zero_init_out=True)
    yield Arm("before", BEFORE)
    yield from map(adamw, (6.25e-4, 1.25e-3, 2.5e-3))
    yield like_nanochat(0.01, 0.2, 0.01)
    yield like_nanochat(0.02, 0.2, 0.005)
    for rate, embedding, head in ((0.01, 0.05, 0.005), (0.02, 0.05, 0.005), (0.01, 0.2, 0.005)):
        yield tuned(rate, embedding, f"modern, head {head:g}", head_learning_rate=head, **MODERN)


if __name__ == "__main__":
    main()
