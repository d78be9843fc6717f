"""How far off the curve of a run is before its end: the forecasts of `train --forecast` against the end.

Small models on the text that comes with Python, with all schedules, both optimizers and two sizes. Every run
is kept in FOLDER and resumed from there: stop it at any time, and start the same line again. Further runs
that were evaluated on their way may stand after it.

    python benchmarks/end_loss.py FOLDER [RUN...]
"""

import sys
from pathlib import Path
from typing import Final

import numpy as np

import parambudget as pb
from parambudget.scaling.loss_interval import LossInterval
from parambudget.training.config import ScheduleName, TrainConfig
from parambudget.training.metrics import read_run, read_run_config
from parambudget.training.run.end_loss import RunForecast

MODELS: Final = {
    "108K": pb.model(
        dim=48, n_layers=3, n_heads=3, intermediate_size=128, vocab_size=512, context_length=256
    ),
    "359K": pb.model(
        dim=80, n_layers=4, n_heads=5, intermediate_size=224, vocab_size=512, context_length=256
    ),
}
RUNS: Final[list[tuple[str, str, ScheduleName, int]]] = [
    ("108K", "muon", "linear", 800_000), ("108K", "muon", "wsd", 600_000),
    ("108K", "muon", "cosine", 800_000), ("108K", "adamw", "linear", 600_000),
    ("359K", "muon", "linear", 800_000), ("108K", "muon", "wsd", 1_200_000),
    ("108K", "adamw", "wsd", 600_000),
]  # fmt: skip
SHARES: Final = (0.25, 0.5, 0.75)


def main() -> None:
    """Train what is not finished; print each run's forecasts, and how far off they are."""
    folders = [_train(Path(sys.argv[1]), seed) for seed in range(len(RUNS))]
    errors: dict[float, list[float]] = {share: [] for share in SHARES}
    halves: dict[float, list[float]] = {share: [] for share in SHARES}
    for folder in [*folders, *map(Path, sys.argv[2:])]:
        loss, found = _forecasts(folder)
        cells = []
        for share, interval in zip(SHARES, found, strict=True):
            if interval is None:
                cells.append(f"{'-':>18}")
                continue
            errors[share].append(interval.expected / loss - 1)
            halves[share].append((interval.high - interval.expected) / loss)
            cells.append(f"{errors[share][-1]:+7.1%} of ±{halves[share][-1]:5.1%}")
        print(f"{folder.name:32} {loss:.3f}  {'  '.join(cells)}", flush=True)
    for share in SHARES:
        off, half = np.abs(errors[share]), np.array(halves[share])
        print(
            f"after {share:.0%}: {len(off)} runs, off by {np.sqrt(np.mean(off**2)):.1%} (root mean square), "
            f"interval ±{np.median(half):.1%}, {np.sum(off <= half)} inside"
        )


def _train(parent: Path, seed: int) -> Path:
    size, optimizer, schedule, tokens = RUNS[seed]
    folder = parent / f"{size}-{optimizer}-{schedule}-{tokens}"
    if not (folder / "summary.json").exists() or not pb.run(folder).finished:
        pb.train(
            MODELS[size], folder, data="builtin", tokens=tokens, seed=seed, resume=True, device="cpu",
            optimizer="muon" if optimizer == "muon" else "adamw", schedule=schedule, eval_tokens=65_536,
        )  # fmt: skip
    return folder


def _forecasts(folder: Path) -> tuple[float, list[LossInterval | None]]:
    """The loss at the end, and what the curve said of it after each share of the updates."""
    document, run = read_run_config(folder), read_run(folder)
    assert document is not None
    assert run.summary is not None
    assert run.summary.val_loss is not None
    follower, found = RunForecast(TrainConfig.read(document["train"])), []
    steps = [round(share * len(run.steps)) for share in SHARES]
    for step in run.steps:
        follower.add(step)
        if step.step in steps:
            found.append(follower.newest.ends_at)
    return run.summary.val_loss, found


if __name__ == "__main__":
    main()
