"""How far off is the throughput model? Published runs, each predicted by constants that never saw its source.

    python benchmarks/throughput.py          # and whether the shipped constants are the fitted ones
    python benchmarks/throughput.py --all    # every row of llm-foundry's tables as well
    python benchmarks/throughput.py --write  # the table by group in docs/throughput.md as well

The points are in published_speeds.csv, their models and sources in published_speeds.json. Three questions:

    the form        one software on one GPU, llm-foundry: constants fitted to each GPU's table
    the constants   of `cost.speed.profile`: the fastest stacks, both generations at once, the software's
                    constants in common
    the stacks      of `cost.speed.stacks`: what share of those rates others reach, and how many runs of a
                    source that nothing was fitted to lie inside the interval

A fit minimises the log of predicted over published tokens/s, with a loss that forgives outliers and a weak
prior. About a minute.
"""

import argparse
import csv
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.cost.hardware import parse_accelerator
from parambudget.cost.speed import profile
from parambudget.cost.speed.profile import DeviceProfile
from parambudget.cost.speed.roofline import tokens_per_second
from parambudget.cost.speed.stacks import BEST, BUNDLED, EAGER, TYPICAL, TrainingStack, parse_stack
from parambudget.cost.step import StepConfig
from parambudget.planning.machine import Machine, machine_for

HERE = Path(__file__).parent
TABLE_BEGINS = "<!-- the next table is written by benchmarks/throughput.py --write -->"
TABLE_ENDS = "<!-- end of the table -->"
PRIOR = {
    "matmul": (0.8, 0.15), "attention": (0.4, 0.5), "matmul_traffic": (2.0, 0.7), "element_bytes": (4.5, 0.5),
    "logit_bytes": (8.0, 0.5), "micro_seconds": (1e-3, 0.7),
}  # fmt: skip
"""Centre and standard deviation of the log. Measured alone, large bfloat16 products reach 0.78 to 0.9 of the
peak on both generations, and operands move more than once; the loss reads and writes bfloat16 logits and
their gradient twice; the rest is an order of magnitude."""
OF_A_GENERATION = ("matmul", "attention")
NOISE = 0.07


@dataclass(frozen=True)
class Point:
    """One published run."""

    source: str
    software: str
    kind: TrainingStack
    left_out: bool
    """Of every fit and every table: it says why in published_speeds.json."""
    name: str
    model: ModelConfig
    gpu: str
    work: StepConfig
    published: float
    """Tokens per second and GPU."""

    @property
    def generation(self) -> str:
        """What its hardware constants are shared with."""
        return {"a100": "ampere", "h100": "hopper", "rtx-": "ampere"}[self.gpu[:4]]

    def machine(self, stack: TrainingStack) -> Machine:
        """Its GPUs, with this software."""
        return machine_for(self.gpu, gpus=self.work.world_size, stack=stack.name)

    def predicted(self, profile: DeviceProfile) -> float:
        """Tokens per second and GPU."""
        return float(tokens_per_second(self.model, self.work, profile)) / self.work.world_size


Constants = dict[str, float]


def main() -> None:
    """Fit, print and compare with what is shipped."""
    parser = argparse.ArgumentParser(description="Published against predicted tokens/s.")
    parser.add_argument("--all", action="store_true", help="every row of llm-foundry's tables")
    parser.add_argument("--write", action="store_true", help="replace the table in docs/throughput.md")
    asked = parser.parse_args()
    points = [point for point in published() if not point.left_out]
    foundry = [point for point in points if point.source == "llm-foundry"]
    print("the form: llm-foundry, one fit per GPU, the model in question left out")
    for gpu in dict.fromkeys(point.gpu for point in foundry):
        report_table([point for point in foundry if point.gpu == gpu], gpu, rows=asked.all)
    fitted = [point for point in points if point.kind is BEST]
    print(
        "\nthe constants: published tokens/s per GPU, then predicted: shipped, and fitted without that model"
    )
    errors = left_out(fitted)
    for point, error in zip(fitted, errors, strict=True):
        line(point, shipped(point), error)
    summary("fitted without the model", errors)
    summary("shipped", [shipped(point) for point in fitted])
    print("\nthe stacks: as shipped, and with constants that saw nothing of the same software")
    held_out = hold_out(points)
    for point, error in held_out:
        if point.source != "llm-foundry" or asked.all:
            line(point, shipped(point), error)
    print()
    print("\n".join(table(held_out)))
    if asked.write:
        write_table(table(held_out))
    print("\nleft out of all of this:")
    for point in published():
        if point.left_out:
            line(point, shipped(point), None)
    sys.exit(compare(fit(fitted)) or compare_stacks(points))


def published() -> list[Point]:
    """Every point, in the order of the file."""
    facts = json.loads((HERE / "published_speeds.json").read_text(encoding="utf-8"))
    with (HERE / "published_speeds.csv").open(encoding="utf-8", newline="") as file:
        return [point_of(row, facts) for row in csv.DictReader(file)]


def point_of(row: dict[str, str], facts: dict[str, dict[str, dict[str, str]]]) -> Point:
    """A row of the file. A model that is not in the facts is a preset of the package."""
    name, n_gpus = row["model"], int(row["n_gpus"])
    known, context_length = facts["models"].get(name), int(row["context_length"])
    model = pb.model(**known, context_length=context_length) if known else pb.model(name)
    work = StepConfig(
        batch_size=int(row["batch_size"]), gradient_accumulation_steps=int(row["micro_steps"]) * n_gpus,
        optimizer="muon" if row["optimizer"] == "muon" else "adamw",
        gradient_checkpointing=row["checkpointing"] == "yes", world_size=n_gpus,
        shard=row["sharded"] == "yes",
    )  # fmt: skip
    source = facts["sources"][row["source"]]
    kind = parse_stack(source.get("stack", source["software"]))
    return Point(
        row["source"], source["software"], kind, "left_out" in source, name,
        model.replace(context_length=context_length), row["gpu"], work,
        float(row["tokens_per_second_per_gpu"]),
    )  # fmt: skip


def stack_of(constants: Constants, point: Point) -> DeviceProfile:
    """The stack of a point's GPU with these constants in it."""
    of = {name: constants.get(f"{name}, {point.generation}", constants.get(name, 0.0)) for name in PRIOR}
    peak = parse_accelerator(point.gpu).peak_flops
    software = {name: of[name] for name in PRIOR if name not in OF_A_GENERATION}
    return replace(
        point.machine(BEST).profile, matmul_flops=of["matmul"] * peak,
        newton_schulz_flops=of["matmul"] * peak, attention_flops=of["attention"] * peak, **software,
    )  # fmt: skip


def fit(points: Sequence[Point]) -> Constants:
    """The constants under which these points are predicted best: Levenberg and Marquardt, in logs."""
    generations = dict.fromkeys(point.generation for point in points)
    names = [f"{name}, {generation}" for name in OF_A_GENERATION for generation in generations]
    names += [name for name in PRIOR if name not in OF_A_GENERATION]
    centre, spread = np.array([PRIOR[name.split(",")[0]] for name in names]).T

    def residuals(logs: np.ndarray) -> np.ndarray:
        constants = dict(zip(names, np.exp(logs), strict=True))
        off = np.array([math.log(p.predicted(stack_of(constants, p)) / p.published) / NOISE for p in points])
        forgiving = np.sign(off) * 2 * np.sqrt(np.log1p((off / 2) ** 2))
        return np.concatenate([forgiving, (logs - np.log(centre)) / spread])

    return dict(zip(names, np.exp(least_squares(residuals, np.log(centre))).tolist(), strict=True))


def least_squares(residuals: Callable[[np.ndarray], np.ndarray], start: np.ndarray) -> np.ndarray:
    """Where the sum of squared residuals is least, from `start`."""
    at, damping, step = start, 1e-2, 1e-4
    now = residuals(at)
    for _ in range(100):
        slopes = np.array([(residuals(at + step * unit) - now) / step for unit in np.eye(len(at))]).T
        normal = slopes.T @ slopes
        moved = at - np.linalg.solve(normal + damping * np.diag(np.diag(normal)), slopes.T @ now)
        then = residuals(moved)
        gained = now @ now - then @ then
        if gained < 0:
            damping *= 4
            continue
        at, now, damping = moved, then, damping / 3
        if gained < 1e-9 * (now @ now):
            break
    return at


def left_out(points: Sequence[Point]) -> list[float]:
    """The error of every point under a fit to the points of other models."""
    fits = {
        name: fit([point for point in points if point.name != name])
        for name in dict.fromkeys(point.name for point in points)
    }
    return [point.predicted(stack_of(fits[point.name], point)) / point.published - 1 for point in points]


def shipped(point: Point) -> float:
    """The error of the preset."""
    return point.predicted(point.machine(point.kind).profile) / point.published - 1


def hold_out(points: Sequence[Point]) -> list[tuple[Point, float]]:
    """Every point with the error of constants, or of a share of them, that saw nothing of its software."""
    found = []
    of_all = fit([point for point in points if point.kind is BEST])
    for software in dict.fromkeys(point.software for point in points):
        own = [point for point in points if point.software == software]
        others = [point for point in points if point.software != software]
        seen = [point for point in others if point.kind is BEST]
        fastest = fit(seen) if own[0].kind is BEST else of_all
        for point in own:
            share = 1.0 if point.kind is BEST else reached(others, point.kind)
            expected = share * point.predicted(stack_of(fastest, point))
            found.append((point, expected / point.published - 1))
    return found


def reached(points: Sequence[Point], kind: TrainingStack) -> float:
    """The median, over the software of a kind, of the share of the fastest stacks' speed that it reaches."""
    shares: dict[str, list[float]] = {}
    for point in points:
        if point.kind is kind:
            best = point.predicted(point.machine(BEST).profile)
            shares.setdefault(point.software, []).append(point.published / best)
    return median(median(of) for of in shares.values())


def table(held_out: Sequence[tuple[Point, float]]) -> list[str]:
    """The held-out points in groups: how many lie inside their interval, and how far off they are."""
    groups: dict[str, list[tuple[Point, float]]] = {}
    for point, error in held_out:
        own_table = " (8 GPUs)" if point.source == "llm-foundry" else ""
        for name in (f"{point.kind.name}: {point.software}{own_table}", point.kind.name + ", all", "all"):
            groups.setdefault(name, []).append((point, error))
        if point.source != "llm-foundry":
            groups.setdefault("all without llm-foundry's table of 8 GPUs", []).append((point, error))
            bundled = point.predicted(point.machine(BUNDLED).profile) / point.published - 1
            in_its_place = replace(point, kind=BUNDLED)
            groups.setdefault("these, as if by the bundled trainer", []).append((in_its_place, bundled))
        if point.work.world_size > 8:
            groups.setdefault("several nodes", []).append((point, error))
    rows = [
        "| group | runs | inside | median error | median of published / expected |",
        "|---|---|---|---|---|",
    ]
    for name in sorted(groups, key=lambda name: (name.startswith(("all", "several", "these")), name)):
        of = groups[name]
        n_inside = sum(p.kind.slowest <= 1 / (1 + e) <= p.kind.fastest for p, e in of)
        size, lean = median(abs(e) for _, e in of), median(1 / (1 + e) for _, e in of)
        rows.append(f"| {name} | {len(of)} | {n_inside / len(of):.0%} | {size:.1%} | {lean:.2f} |")
    return rows


def write_table(rows: Sequence[str]) -> None:
    """Put it in the place of the one in the docs."""
    page = HERE.parent / "docs" / "throughput.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(TABLE_BEGINS)
    after = rest.partition(TABLE_ENDS)[2]
    page.write_text(f"{before}{TABLE_BEGINS}\n{chr(10).join(rows)}\n{TABLE_ENDS}{after}", encoding="utf-8")


def compare_stacks(points: Sequence[Point]) -> int:
    """Whether the shares in `cost.speed.stacks` are those of the points; 1 if not."""
    found = {kind.name: round(reached(points, kind), 2) for kind in (TYPICAL, EAGER)}
    differ = {kind.name: kind.reached for kind in (TYPICAL, EAGER) if kind.reached != found[kind.name]}
    print("shares of the stacks:", found, "as shipped" if not differ else f"; shipped: {differ}")
    return 1 if differ else 0


def line(point: Point, of_preset: float, of_fit: float | None) -> None:
    """One point."""
    work = f"{point.work.batch_size} x {point.model.context_length}"
    parts = [f"{point.source:14} {point.name:15} {point.gpu:12} {work:>10} {point.published:>9,.0f}"]
    parts += [f"{error:+7.1%}" for error in (of_preset, of_fit) if error is not None]
    print("  ".join(parts))


def report_table(points: Sequence[Point], gpu: str, *, rows: bool) -> None:
    """One GPU of llm-foundry."""
    errors = left_out(points)
    if rows:
        for point, error in zip(points, errors, strict=True):
            line(point, shipped(point), error)
    summary(gpu, errors)
    print("   ", ", ".join(f"{name} {value:.3g}" for name, value in fit(points).items()))


def summary(what: str, errors: Iterable[float]) -> None:
    """Median, ninth decile and worst of the absolute errors, and which way they lean."""
    off = np.array(list(errors))
    size = np.abs(off)
    print(
        f"{what}: {len(off)} points, median {np.median(size):.1%}, nine in ten within "
        f"{np.quantile(size, 0.9):.1%}, worst {off[size.argmax()]:+.1%}, mean {off.mean():+.1%}"
    )


def compare(constants: Constants) -> int:
    """Whether the table in `cost.speed.profile` is this fit; 1 if not."""
    found = {name: float(f"{value:.3g}") for name, value in constants.items()}
    ours = {
        "matmul, ampere": profile.AMPERE.matmul, "matmul, hopper": profile.HOPPER.matmul,
        "attention, ampere": profile.AMPERE.attention, "attention, hopper": profile.HOPPER.attention,
        "matmul_traffic": profile.MATMUL_TRAFFIC, "element_bytes": profile.ELEMENT_BYTES,
        "logit_bytes": profile.LOGIT_BYTES, "micro_seconds": profile.MICRO_SECONDS,
    }  # fmt: skip
    print("\nfitted:", ", ".join(f"{name} {value:g}" for name, value in found.items()))
    differ = {name: (value, ours[name]) for name, value in found.items() if value != ours[name]}
    print(
        "shipped constants are the fitted ones"
        if not differ
        else f"shipped differ (fitted, shipped): {differ}"
    )
    return 1 if differ else 0


if __name__ == "__main__":
    main()
