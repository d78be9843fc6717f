"""From hours, arithmetic or memory to models: width, depth and size chosen together.

Every point of a declared lattice is measured, that of `plan.reach` unless sizes are given.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final

import numpy as np

from parambudget.arch.dims import Dims
from parambudget.errors import ConfigError, NoSolution
from parambudget.plan.arrays import Floats
from parambudget.plan.choose import diverse, labels, order
from parambudget.plan.points import Points
from parambudget.plan.reach import sizes, space_of
from parambudget.plan.space import SearchSpace, choices_of
from parambudget.plan.sweep import AT_ONCE, Measured, Swept, sweep
from parambudget.planning.forecast import Spending, measured, outlook
from parambudget.planning.machine import USABLE_SHARE, Machine
from parambudget.planning.run_plan import Goal, RunPlan
from parambudget.search.engine import COUNTERS, Search
from parambudget.search.nearest_miss import nothing_within
from parambudget.search.score import aspect_deviation, shape_score
from parambudget.search.solutions import (
    EQUAL_NATS,
    EQUAL_SHARE,
    Better,
    Outlook,
    Solution,
    Solutions,
    SweepCertificate,
)
from parambudget.search.solve import DEFAULT_TOLERANCE, Rank, check, described, solve
from parambudget.search.space import SIZES, Counted
from parambudget.units import format_bytes, parse_count, parse_tolerance

LARGE_ENOUGH: Final = 0.1
"""A usual shape is worth this share of the size: the very largest that fits is of an exotic one."""
BANDS: Final = 4
"""How many of these beyond the best are kept to choose from."""
_BEYOND_ANY_SCORE: Final = 1e6


@dataclass(frozen=True)
class Objective:
    """What is minimised, and how much of it cannot be told apart."""

    name: str
    column: str
    sign: int

    def value(self, figures: Mapping[str, Floats]) -> Floats:
        """What is minimised, of measured figures."""
        found: Floats = self.sign * np.asarray(figures[self.column], dtype=np.float64)
        return found

    def band(self, best: float, n: int = 1) -> float:
        """The greatest value that is at most n bands from the best."""
        share = LARGE_ENOUGH if self.name == "size" else EQUAL_SHARE
        return best + n * (EQUAL_NATS if self.name == "loss" else share * abs(best))


OBJECTIVES: Final = {
    each.name: each
    for each in (
        Objective("loss", "ranked_loss", 1),
        Objective("speed", "tokens_per_second", -1),
        Objective("memory", "peak_bytes", 1),
        Objective("size", "counted", -1),
        Objective("shape", "alike", 1),
    )
}


def solve_for(
    spending: Spending, target: str | int | None = None, *, active: str | int | None = None,
    counted: Counted = "total", tolerance: str | float | Fraction = DEFAULT_TOLERANCE, top: int = 5,
    rank: str | None = None, **fields: Any,
) -> Solutions:  # fmt: skip
    """The models of a budget of hours, FLOPs or memory; with a target, among those of that count.

    Ranked by expected loss where hours or FLOPs are given; without them by the shape score with a target, and
    by size without one; or as `rank` says. `fields` are axes and choices as for `search.solve.solve`. Raises
    `NoSolution` where no point of the lattice fits.
    """
    check(counted, top, rank, allowed=("closest", *OBJECTIVES))
    wanted = rank or _usual_rank(spending, target)
    if target is not None and (wanted == "closest" or (wanted == "shape" and spending.memory_bytes is None)):
        usual: Rank = "closest" if wanted == "closest" else "shape"
        found = solve(
            target, active=active, counted=counted, tolerance=tolerance, top=top, rank=usual, **fields
        )
        solutions = with_outlook(found, spending)
        batch = (spending.given or {}).get("batch_size")
        if batch is not None and not any(_fits(each) for each in solutions):
            raise NoSolution(f"with batch_size={batch} {_lack(spending)}")
        return replace(found, solutions=solutions)
    objective = _objective(spending, rank, target)
    second = None if active is None else parse_count(active, "active")
    if target is not None:
        n = parse_count(target, "target")
        return _of_a_count(spending, objective, n, second, counted, tolerance, top, fields)
    if second is not None:
        raise ConfigError("--active is a second budget beside a --target; give a --target as well")
    return _of_any_size(spending, objective, counted, top, fields)


def _fits(solution: Solution) -> bool:
    return solution.outlook is not None and solution.outlook.batch_size is not None


def with_outlook(found: Iterable[Solution], spending: Spending) -> tuple[Solution, ...]:
    """The solutions, each with what is predicted of it."""
    return tuple(replace(each, outlook=outlook(each.model, spending)) for each in found)


def _of_any_size(
    spending: Spending, objective: Objective, counted: Counted, top: int, fields: Mapping[str, Any]
) -> Solutions:
    low, high = sizes(spending)
    # What is usual at the size that is looked for: the middle, or the largest.
    usual = high if objective.name == "size" else round((low * high) ** 0.5)
    search = Search(space_of(low, high, usual, fields), usual, counted)
    swept = _swept(search, search.everything(AT_ONCE), spending, objective)
    best = int(swept.points.counted[np.argmin(swept.measured.value)])
    certificate = SweepCertificate(
        objective.name, counted, search.space.flags(), swept.n_points, swept.possible,
        objective.sign * swept.best, {size: objective.sign * value for size, value in swept.by_size.items()},
    )  # fmt: skip
    chosen = _chosen(search, swept, objective, best, top)
    solutions = with_outlook(_described(search, chosen, best, None), spending)
    return Solutions(solutions, certificate, fields.get("tied") is None, rank=objective.name, top=top)


def _of_a_count(
    spending: Spending, objective: Objective, target: int, active: int | None, counted: Counted,
    tolerance: str | float | Fraction, top: int, fields: Mapping[str, Any],
) -> Solutions:  # fmt: skip
    share = parse_tolerance(tolerance)
    space = SearchSpace.declare(target, fields, active=active, counted=counted)
    search = Search(space, target, counted, active)
    certificate = search.certificate(share)
    if not certificate.within_tolerance:
        raise NoSolution(nothing_within(search, share))
    swept = _swept(search, [search.within(share)], spending, objective)
    chosen = _chosen(search, swept, objective, target, top)
    solutions = with_outlook(_described(search, chosen, target, target), spending)
    assumed = fields.get("tied") is None
    found = Solutions(solutions, certificate, assumed, rank=objective.name, top=top)
    if spending.hours is None and spending.flops is None:
        return found
    elsewhere = {name: value for name, value in fields.items() if name not in SIZES} | {
        "tied": found[0].model.tied
    }
    ends = swept.best if objective.name == "loss" else _least_loss(s.outlook for s in found)
    return replace(found, better=_better(spending, ends, counted, elsewhere))


def better_size(machine: Machine, goal: Goal, than: Sequence[RunPlan]) -> Better | None:
    """The size that the hours of some plans are better spent on than on any of them, if there is one; its
    choices are those of the first."""
    spending = Spending(machine, hours=goal.hours, law=goal.law)
    ends = _least_loss(outlook(each.model, spending) for each in than)
    return _better(spending, ends, "total", choices_of(than[0].model))


def _least_loss(outlooks: Iterable[Outlook | None]) -> float | None:
    found = [each.ranked_loss for each in outlooks if each is not None and each.ranked_loss is not None]
    return min(found, default=None)


def _better(
    spending: Spending, asked: float | None, counted: Counted, choices: Mapping[str, Any]
) -> Better | None:
    """The best size for the budget, if it is expected to end lower than `asked`; both as they are ranked."""
    best = _of_any_size(spending, OBJECTIVES["loss"], counted, 1, choices)[0]
    ends = _least_loss([best.outlook])
    if asked is None or ends is None or ends >= asked - EQUAL_NATS:
        return None
    return Better(best.model, best.counted, ends, asked)


def _swept(search: Search, pieces: Iterable[Points], spending: Spending, objective: Objective) -> Swept:
    def measure(m: Dims) -> Measured:
        figures = measured(m, spending) | {"counted": np.asarray(COUNTERS[search.counted](m)), "alike": 0.0}
        shape = np.shape(figures["counted"])
        value = np.broadcast_to(objective.value(figures), shape)
        return Measured(value, np.broadcast_to(figures["possible"], shape), {})

    try:
        return sweep(pieces, search.space.choices, measure, lambda best: objective.band(best, BANDS))
    except NoSolution as none:
        raise NoSolution(f"{none}: {_lack(spending)}") from None


def _lack(spending: Spending) -> str:
    memory = spending.memory_bytes or (spending.machine.memory_bytes if spending.machine else 0)
    return (
        f"none fits in {format_bytes(memory)}, of which {USABLE_SHARE:.0%} can be used; give more memory, a "
        "smaller batch, or smaller sizes"
    )


def _chosen(search: Search, swept: Swept, objective: Objective, size: int, top: int) -> Points:
    """The models to show: band by band of what is minimised, within each by the shape score."""
    points, choices = swept.points, search.space.choices
    usual = search.space.size if choices.moe else size
    score = np.sum(list(shape_score(choices, points, usual).values()), axis=0)
    width = objective.band(swept.best) - swept.best
    band = np.floor((swept.measured.value - swept.best) / width) if width else np.zeros(len(points))
    ranked = order(points, band * _BEYOND_ANY_SCORE + score, size, search.active, closest=False)
    return points.at(diverse(points, ranked, top))


def _described(search: Search, points: Points, size: int, target: int | None) -> list[Solution]:
    choices = search.space.choices
    terms = shape_score(choices, points, search.space.size if choices.moe else size)
    names = labels(aspect_deviation(choices, points))
    return [
        described(choices, points, i, target, str(names[i]), terms, search.active) for i in range(len(points))
    ]


def _usual_rank(spending: Spending, target: str | int | None) -> str:
    if spending.hours is not None or spending.flops is not None:
        return "loss"
    return "size" if target is None else "shape"


def _objective(spending: Spending, rank: str | None, target: str | int | None) -> Objective:
    wanted = rank or _usual_rank(spending, target)
    needs = {
        "loss": (spending.hours or spending.flops, "--hours with --gpu, or --flops"),
        "speed": (spending.machine, "--gpu"),
        "memory": (spending.machine or spending.memory_bytes, "--gpu or --memory"),
        "size": (spending.machine or spending.memory_bytes, "--gpu or --memory"),
    }
    there, what = needs.get(wanted, (target, "a --target"))
    if not there:
        raise ConfigError(f"--rank {wanted} needs {what}")
    if target is None and wanted in ("speed", "memory"):
        raise ConfigError(
            f"--rank {wanted} without a --target is the smallest model of the lattice; give a --target"
        )
    return OBJECTIVES[wanted]
