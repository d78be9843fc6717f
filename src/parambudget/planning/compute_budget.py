"""From hours, arithmetic or memory to models: width, depth and size chosen together.

Every point of a declared lattice is measured, that of `planning.compute_budget` unless sizes are given.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor, isfinite
from typing import Any, Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims
from parambudget.cost.step import StepFields
from parambudget.errors import ConfigError, InputError, NoSolution
from parambudget.planning.forecast import Spending, forecast, predict
from parambudget.planning.machine import USABLE_SHARE, Machine, machine_for
from parambudget.planning.run_plan import MOST_HOURS, Goal, RunPlan
from parambudget.scaling.compute_optimal import compute_optimal
from parambudget.search.engine import COUNTERS, Search
from parambudget.search.lattice import Bools, Floats, Points, models
from parambudget.search.nearest_miss import nothing_within
from parambudget.search.score import aspect_deviation, diverse, labels, order, shape_score
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
from parambudget.search.space import SIZES, Counted, SearchSpace, choices_of, granularity, read_multiple
from parambudget.units import format_bytes, format_count, parse_bytes, parse_count, parse_tolerance, shortened

AT_ONCE: Final = 2**17
"""Points that are measured together: the arrays stay in the cache."""
_BINS_PER_OCTAVE: Final = 2


@dataclass(frozen=True, eq=False)
class Measured:
    """What some points are predicted to do, an array entry each."""

    value: Floats
    """What is minimised."""
    possible: Bools
    """Which may be chosen at all."""
    figures: dict[str, Floats]
    """What else is worth showing."""

    def at(self, index: Any) -> "Measured":
        """The entries at an index array or mask."""
        return Measured(
            self.value[index], self.possible[index], {name: v[index] for name, v in self.figures.items()}
        )


Measure = Callable[[Dims], Measured]


@dataclass(frozen=True, eq=False)
class Swept:
    """What measuring every point has shown."""

    points: Points
    """All points within the band of the best."""
    measured: Measured
    n_points: int
    possible: int
    best: float
    by_size: dict[int, float]
    """The least value among the possible points of each size, two sizes an octave, by the mean count."""


def sweep(
    pieces: Iterable[Points], choices: ModelConfig, measure: Measure, band: Callable[[float], float]
) -> Swept:
    """Measure all points; `band` gives the greatest value that counts as equal to the best.

    Raises `NoSolution` where no point is possible.
    """
    kept: list[tuple[Points, Measured]] = []
    best, n_points, n_possible = np.inf, 0, 0
    bins: dict[int, float] = {}
    alike = ((piece.at(here), m) for piece in pieces for here, m in models(choices, piece))
    for piece, m in alike:
        measured = measure(m)
        n_points += len(piece)
        points, measured = piece.at(measured.possible), measured.at(measured.possible)
        if not len(points):
            continue
        n_possible += len(points)
        _note(bins, points, measured.value)
        best = min(best, float(measured.value.min()))
        near = measured.value <= band(best)
        kept.append((points.at(near), measured.at(near)))
    if not n_possible:
        raise NoSolution(f"none of the {n_points:,} points is possible")
    pool, values = _joined(kept)
    near = values.value <= band(best)
    sizes = {round(2 ** (i / _BINS_PER_OCTAVE)): value for i, value in sorted(bins.items())}
    return Swept(pool.at(near), values.at(near), n_points, n_possible, best, sizes)


def _note(bins: dict[int, float], points: Points, values: Floats) -> None:
    """Keep the least value of every size."""
    size = np.rint(np.log2(points.counted) * _BINS_PER_OCTAVE).astype(np.int64)
    for i in np.unique(size).tolist():
        bins[i] = min(bins.get(i, np.inf), float(values[size == i].min()))


def _joined(kept: list[tuple[Points, Measured]]) -> tuple[Points, Measured]:
    points = Points.joined([part for part, _ in kept])
    parts = [measured for _, measured in kept]
    figures = {name: np.concatenate([part.figures[name] for part in parts]) for name in parts[0].figures}
    return points, Measured(
        np.concatenate([part.value for part in parts]), np.concatenate([part.possible for part in parts]),
        figures,
    )  # fmt: skip


AROUND: Final = 5
"""How far from the law's own choice sizes are searched, as a factor."""
SMALLEST: Final = 1_000_000
"""Parameters below which there is nothing to choose by a loss law."""
LEAST_STATE_BYTES: Final = 12
"""Per parameter, of weights, gradients and optimizer state in float32 under Muon: no larger model fits."""
_SMALLEST_SHARE: Final = 16
_USUAL_SHARE: Final = 0.6
"""Of the speed of matmuls, that whole updates reach: only the sizes to search follow from it."""


def sizes(spending: Spending) -> tuple[int, int]:
    """The least and the greatest count that is searched."""
    high = None
    if (flops := _approximate_flops(spending)) is not None:
        optimum = compute_optimal(spending.law, flops).n_parameters
        low, high = optimum / AROUND, optimum * AROUND
    memory = spending.memory_bytes or (spending.machine.memory_bytes if spending.machine else None)
    if memory is not None:
        ranks = spending.machine.world_size if spending.machine else 1
        most = memory * ranks / LEAST_STATE_BYTES
        low, high = (most / _SMALLEST_SHARE, most) if high is None else (min(low, most), min(high, most))
    assert high is not None
    if high < SMALLEST:
        raise InputError(
            f"the budget is enough for about {format_count(high)} parameters, fewer than {SMALLEST:,}; "
            "give more hours, FLOPs or memory"
        )
    return max(int(low), SMALLEST // AROUND), int(high)


def _approximate_flops(spending: Spending) -> float | None:
    """About what the budget can compute, to find the sizes that are worth measuring."""
    if spending.flops is not None:
        return spending.flops
    if spending.hours is None or spending.machine is None:
        return None
    stack = spending.machine.profile
    reached = _USUAL_SHARE * stack.matmul_flops
    return spending.hours * 3600 * reached * spending.machine.world_size


def space_of(low: int, high: int, usual: int, fields: Mapping[str, Any]) -> SearchSpace:
    """The lattice of a range of sizes: boxes around the usual shapes of its ends, in larger steps.

    n_layers from half of 0.225 low**0.228 to twice 0.225 high**0.228 and dim from half of 0.640 low**0.382 to
    twice 0.640 high**0.382, as in `SearchSpace.declare`; even depths, dim and FFN widths in twice its steps.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    multiple = read_multiple(given.get("multiple", 2 * granularity(usual)))
    shallow, deep = 0.225 * low**0.228 / 2, 0.225 * high**0.228 * 2
    narrow, broad = 0.640 * low**0.382 / 2, 0.640 * high**0.382 * 2
    rule: dict[str, Any] = {
        "n_layers": range(max(2, 2 * floor(shallow / 2)), 2 * ceil(deep / 2) + 1, 2),
        "dim": range(
            max(1, floor(narrow / multiple)) * multiple, ceil(broad / multiple) * multiple + 1, multiple
        ),
        "multiple": multiple,
    }
    if "intermediate_size" not in given and "ffn_ratio" not in given:
        rule["ffn_ratio"] = (Fraction(2), Fraction(6))
    return SearchSpace.declare(usual, rule | given)


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
    return tuple(replace(each, outlook=forecast(each.model, spending)) for each in found)


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
    ends = _least_loss(forecast(each.model, spending) for each in than)
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
        figures = predict(m, spending) | {"counted": np.asarray(COUNTERS[search.counted](m)), "alike": 0.0}
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


def spending(
    *, hours: float | None = None, dollars: float | None = None, flops: str | float | None = None,
    memory: str | int | None = None, gpu: str | None = None, batch_size: int | None = None,
) -> Spending:  # fmt: skip
    """A budget; raises `InputError` where parts of it contradict each other or say nothing possible."""
    lengths = {"hours": hours, "dollars": dollars, "flops": flops}
    if len(said := [name for name, value in lengths.items() if value is not None]) > 1:
        raise InputError(f"{' and '.join(said)} each say how long the run is; give one of them")
    for name, value in {"hours": hours, "dollars": dollars, "batch_size": batch_size}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f"{name} is {shortened(repr(value))}; it must be a number")
    needs_machine = hours is not None or dollars is not None or gpu is not None
    machine = machine_for(gpu) if needs_machine else None
    if dollars is not None and machine is not None:
        hours = _hours_for(dollars, machine)
    if hours is not None and not 0 < hours <= MOST_HOURS:
        raise InputError(
            f"hours={hours:g} is no time to train for; use a number above 0, at most {MOST_HOURS:,.0f}"
        )
    given: StepFields = {} if batch_size is None else {"batch_size": batch_size}
    return Spending(
        machine, hours, None if flops is None else _parse_flops(flops),
        memory if memory is None or isinstance(memory, int) else parse_bytes(memory), given,
    )  # fmt: skip


def _hours_for(dollars: float, machine: Machine) -> float:
    if not (isfinite(dollars) and dollars > 0):
        raise InputError(f"dollars={dollars:g} is no budget; use a number above 0")
    if machine.price is None or machine.price.middle == 0:
        raise InputError(f"no price is known for {machine.name}; give hours instead of dollars")
    return dollars / machine.price.middle


def _parse_flops(written: str | float) -> float:
    try:
        number = float(written)
    except ValueError:
        number = 0.0
    if not 1e12 <= number <= 1e30:
        raise InputError(
            f"flops {shortened(str(written))!r} is no budget; use a number such as 1e19, from 1e12 to 1e30"
        )
    return number
