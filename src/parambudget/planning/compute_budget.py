"""From hours, arithmetic or memory to models: width, depth and size chosen together.

Every point of a declared lattice is predicted, that of `space_for_sizes` unless sizes are given.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor
from typing import Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size
from parambudget.cost.step import StepFields
from parambudget.errors import ConfigError, InputError, NoSolution
from parambudget.planning.budget import Budget, Scenario
from parambudget.planning.forecast import Predictions, forecast, predict
from parambudget.planning.machine import USABLE_SHARE, Machine
from parambudget.planning.run_plan import Goal, RunPlan
from parambudget.planning.update import usual_flops
from parambudget.scaling.compute_optimal import compute_optimal, optimal_size
from parambudget.scaling.loss import LossLaw, law_parameters, require_comparable
from parambudget.search.certificate import Certificate
from parambudget.search.engine import COUNTERS, Search
from parambudget.search.lattice import Bools, Candidates, Floats, Index, candidate_models
from parambudget.search.nearest_miss import no_match_message
from parambudget.search.options import DEFAULT_TOLERANCE, DEFAULT_TOP, CountKind, Rank
from parambudget.search.score import pick_diverse, rank_candidates, shape_score
from parambudget.search.solutions import (
    EQUAL_LOSS_SHARE,
    EQUAL_SHARE,
    BetterSize,
    Forecast,
    Solution,
    Solutions,
)
from parambudget.search.solve import make_solutions, solve
from parambudget.search.space import (
    SIZES,
    SearchSpace,
    choices_of,
    conventional_depth,
    conventional_width,
    default_multiple,
    lacks_ffn,
    parse_multiple,
    share_of_whole_layers,
)
from parambudget.units import format_bytes, format_count, format_tolerance

AROUND: Final = 5
"""How far from the law's own choice sizes are searched, as a factor."""
LEAST_PARAMETERS: Final = 1_000_000
"""Parameters below which there is nothing to choose by a published law; by one of one's own, its smallest
run."""
LEAST_STATE_BYTES: Final = 12
"""Per parameter, of weights, gradients and optimizer state in float32 under Muon: no larger model fits."""
_SMALLEST_SHARE: Final = 16


def solve_for_budget(
    scenario: Scenario, target: int | None, fields: Mapping[str, object], *, active: int | None = None,
    counted: CountKind = "total", tolerance: Fraction = DEFAULT_TOLERANCE, rank: Rank | None = None,
    top: int = DEFAULT_TOP,
) -> Solutions:  # fmt: skip
    """The models for a budget of hours, FLOPs or memory; with a target, among those of that size.

    Ranked by expected loss where hours or FLOPs are given; without them by the shape score with a target, and
    by size without one; or as `rank` says. By size, the most parameters come first. `fields` are axes and
    choices as for `search.solve.solve`. Raises `NoSolution` where no point of the lattice fits.
    """
    rank = rank or _usual_rank(scenario, target)
    limited = scenario.budget.memory_bytes is not None
    if target is not None and (rank == "closest" or (rank == "shape" and not limited)):
        answer = solve(
            target, fields, active=active, counted=counted, tolerance=tolerance, rank=rank, top=top
        )
        solutions = add_forecasts(answer, scenario)
        if scenario.step and not any(_fits(solution) for solution in solutions):
            fixed = ", ".join(f"{name}={value}" for name, value in scenario.step.items())
            raise NoSolution(f"with `{fixed}` {_memory_shortage(scenario)}")
        return replace(answer, solutions=solutions)
    _require_rank_inputs(scenario, rank, target)
    objective = OBJECTIVES[rank]
    if target is not None:
        return _search_target(scenario, objective, target, active, counted, tolerance, top, fields)
    if active is not None:
        raise ConfigError("`active` is a second target in addition to the first; give `target` as well")
    if tolerance != DEFAULT_TOLERANCE:
        raise ConfigError(
            f"`tolerance={format_tolerance(tolerance)}` has no effect: it is how far off a target a model "
            "may be; give `target` as well, or leave it out"
        )
    return _search_any_size(scenario, objective, counted, top, fields)


def add_forecasts(solutions: Iterable[Solution], scenario: Scenario) -> tuple[Solution, ...]:
    """The solutions, each with its predictions; as they are where the scenario predicts nothing."""
    if not scenario.predicts:
        return tuple(solutions)
    return tuple(replace(solution, forecast=forecast(solution.model, scenario)) for solution in solutions)


def better_size(machine: Machine, goal: Goal, than: Sequence[RunPlan], step: StepFields) -> BetterSize | None:
    """The size that the hours of some plans are better spent on than on any of them, if there is one; its
    choices are those of the first. Of the step so much is given; the rest is the fastest for each model."""
    scenario = Scenario(Budget(hours=goal.hours), machine, goal.law, goal.unique_tokens, step)
    try:
        size_range(scenario)
    except InputError:  # too few hours to choose a size by the law
        return None
    loss = _least_loss(forecast(plan.model, scenario) for plan in than)
    return _better_size(scenario, loss, "total", choices_of(than[0].model))


def size_range(scenario: Scenario) -> tuple[int, int]:
    """The least and the greatest count that is searched."""
    high = None
    if (flops := _approximate_flops(scenario)) is not None:
        optimum = compute_optimal(scenario.law, flops).n_parameters
        low, high = optimum / AROUND, optimum * AROUND
    if scenario.memory_bytes is not None:
        world_size = scenario.machine.world_size if scenario.machine else 1
        most = scenario.memory_bytes * world_size / LEAST_STATE_BYTES
        low, high = (most / _SMALLEST_SHARE, most) if high is None else (min(low, most), min(high, most))
    assert high is not None
    least = LEAST_PARAMETERS if scenario.law.fit is None else int(scenario.law.parameters.low)
    if high < least:
        raise InputError(
            f"the budget is enough for about {format_count(high)} parameters, fewer than {least:,}; "
            "give more `hours`, `flops` or `memory`"
        )
    return max(int(low), least // AROUND), int(high)


def _approximate_flops(scenario: Scenario) -> float | None:
    """About what the budget can compute, to find the sizes that are worth predicting."""
    if scenario.flops is not None:
        return scenario.flops
    if scenario.hours is None or scenario.machine is None:
        return None
    return usual_flops(scenario.hours, scenario.machine)


def space_for_sizes(low: int, high: int, usual: int, fields: Mapping[str, object]) -> SearchSpace:
    """The lattice of a range of sizes: boxes around the usual shapes of its ends, in larger steps.

    n_layers from half of the conventional depth of `low` to twice that of `high` and dim likewise, as in
    `search.space.default_ranges`; dim and FFN widths in twice its steps, from 100M in twice those of five
    times the size; depths in steps of 2, 4 from 1B and 8 from 100B.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    coarse = usual if usual < 10**8 else 5 * usual
    multiple = parse_multiple(given.get("multiple", 2 * default_multiple(coarse)))
    whole = share_of_whole_layers(given)
    shallow, deep = conventional_depth(low) / whole / 2, conventional_depth(high) / whole * 2
    narrow, broad = conventional_width(low) / 2, conventional_width(high) * 2
    step = 2 if usual < 10**9 else 4 if usual < 10**11 else 8
    ranges: dict[str, object] = {
        "n_layers": range(max(2, step * floor(shallow / step)), step * ceil(deep / step) + 1, step),
        "dim": range(
            max(1, floor(narrow / multiple)) * multiple, ceil(broad / multiple) * multiple + 1, multiple
        ),
        "multiple": multiple,
    }
    if given.keys().isdisjoint({"intermediate_size", "ffn_ratio"}) and not lacks_ffn(given):
        ranges["ffn_ratio"] = (Fraction(2), Fraction(6))
    return SearchSpace.declare(usual, ranges | given)


LARGE_ENOUGH: Final = 0.1
"""A usual shape is worth this share of the size: the very largest that fits has an exotic one."""
BANDS: Final = 4
"""How many of these beyond the best are kept to choose from."""
SIZE_BANDS: Final = 12
"""The same where models of different sizes are shown: there, the sizes are about a factor of 2 from the best
one."""
BETTER_SHARE: Final = 0.05
"""Of compute: another size is named where it saves more than this."""
_BEYOND_ANY_SCORE: Final = 1e6


@dataclass(frozen=True)
class Objective:
    """What is optimised, and how much of it cannot be told apart."""

    name: Rank
    quantity: Callable[[Predictions, Size], Size]
    """From the predictions and the counts."""
    is_maximised: bool = False

    def value(self, predictions: Predictions, counted: Size) -> Size:
        """What is minimised."""
        return self.flip(self.quantity(predictions, counted))

    def flip(self, value: Size) -> Size:
        """From the quantity to what is minimised, or back."""
        return -value if self.is_maximised else value

    def band(self, best: float, law: LossLaw, n: int = 1) -> float:
        """The greatest value that is at most n bands from the best."""
        if self.name == "loss":
            return best + n * EQUAL_LOSS_SHARE * max(best - law.E, 0.0)
        share = LARGE_ENOUGH if self.name == "size" else EQUAL_SHARE
        return best + n * share * abs(best)


OBJECTIVES: Final = {
    objective.name: objective
    for objective in (
        Objective("loss", lambda predictions, _: predictions.ranked_loss),
        Objective("speed", lambda predictions, _: predictions.tokens_per_second, is_maximised=True),
        Objective("memory", lambda predictions, _: predictions.peak_bytes),
        Objective("size", lambda _, counted: counted, is_maximised=True),
        Objective("shape", lambda _, counted: 0.0 * counted),
    )
}


def _usual_rank(scenario: Scenario, target: int | None) -> Rank:
    if scenario.limits_training:
        return "loss"
    return "size" if target is None else "shape"


def _require_rank_inputs(scenario: Scenario, rank: Rank, target: int | None) -> None:
    """Raise `ConfigError` where a rank lacks what it is predicted from."""
    has_memory = scenario.memory_bytes is not None
    needs = {
        "loss": (scenario.limits_training, "`hours` or `dollars` with a `machine`, or `flops`"),
        "speed": (scenario.machine is not None, "`machine`"),
        "memory": (has_memory, "`machine` or `memory`"),
        "size": (has_memory or target is not None, "`target`, `machine` or `memory`"),
    }
    has_inputs, inputs = needs.get(rank, (target is not None, "`target`"))
    if not has_inputs:
        raise ConfigError(f"`rank={rank}` needs {inputs}")
    if target is None and rank in ("speed", "memory"):
        raise ConfigError(f"`rank={rank}` without a target would only find the smallest model; give `target`")


def _search_any_size(
    scenario: Scenario, objective: Objective, counted: CountKind, top: int, fields: Mapping[str, object]
) -> Solutions:
    low, high = size_range(scenario)
    # What is usual at the size that is looked for: the middle, or the largest.
    usual = high if objective.name == "size" else round((low * high) ** 0.5)
    search = Search(space_for_sizes(low, high, usual, fields), usual, counted)
    bands = SIZE_BANDS if objective.name == "loss" else BANDS
    swept = _run_sweep(search, search.all_points(AT_ONCE), scenario, objective, bands)
    best_count = int(swept.points.counted[np.argmin(swept.values)])
    certificate = Certificate(
        counted=counted, lattice=search.space.flags(), lattice_points=swept.n_points,
        objective=objective.name, feasible=swept.n_possible, best=objective.flip(swept.best),
        by_size={size: objective.flip(value) for size, value in swept.by_size.items()},
    )  # fmt: skip
    points = _pick_best(search, swept, objective, scenario.law, best_count, top, any_size=True)
    solutions = add_forecasts(make_solutions(search, points, _usual_size(search, best_count), None), scenario)
    return Solutions(
        solutions, certificate, fields.get("tied") is None,
        mixer_follows_dim=search.space.mixer_follows_dim, rank=objective.name, top=top,
        size_interval=_size_interval(solutions[0], scenario),
    )  # fmt: skip


def _size_interval(best: Solution, scenario: Scenario) -> tuple[float, float] | None:
    """The sizes that the samples of a fitted law find best for the compute that the first model would use."""
    if scenario.law.fit is None or best.forecast is None or best.forecast.tokens is None:
        return None
    n_parameters = float(law_parameters(best.model))
    found = optimal_size(scenario.law, n_parameters, best.forecast.tokens, scenario.unique_tokens)
    return found.low, found.high


def _search_target(
    scenario: Scenario, objective: Objective, target: int, active: int | None, counted: CountKind,
    tolerance: Fraction, top: int, fields: Mapping[str, object],
) -> Solutions:  # fmt: skip
    space = SearchSpace.declare(target, fields, active=active, counted=counted)
    search = Search(space, target, counted, active)
    certificate = search.certificate(tolerance)
    if not certificate.within_tolerance:
        raise NoSolution(no_match_message(search, tolerance))
    swept = _run_sweep(search, [search.candidates_within(tolerance)], scenario, objective, BANDS)
    points = _pick_best(search, swept, objective, scenario.law, target, top, exact=objective.name == "size")
    solutions = add_forecasts(make_solutions(search, points, _usual_size(search, target), target), scenario)
    answer = Solutions(
        solutions, certificate, fields.get("tied") is None, mixer_follows_dim=space.mixer_follows_dim,
        rank=objective.name, top=top,
    )  # fmt: skip
    if not scenario.limits_training:
        return answer
    # The settings of this lattice, given or not: the command that repeats the search spells them out.
    choices = dict(fields) | space.flags()
    choices = {name: value for name, value in choices.items() if name not in SIZES}
    choices["tied"] = answer[0].model.tied
    loss = swept.best if objective.name == "loss" else _least_loss(s.forecast for s in answer)
    return replace(answer, better=_better_size(scenario, loss, counted, choices))


def _usual_size(search: Search, size: int) -> int:
    """The size whose shapes are usual: with experts the active count."""
    return search.space.size if search.space.choices.moe else size


def _fits(solution: Solution) -> bool:
    return solution.forecast is not None and solution.forecast.batch_size is not None


def _least_loss(forecasts: Iterable[Forecast | None]) -> float | None:
    losses = (None if one is None else one.ranked_loss for one in forecasts)
    return min((loss for loss in losses if loss is not None), default=None)


def _better_size(
    scenario: Scenario, loss: float | None, counted: CountKind, choices: Mapping[str, object]
) -> BetterSize | None:
    """The best size for the budget, if it is expected to end lower than `loss`; both as they are ranked."""
    best = _search_any_size(scenario, OBJECTIVES["loss"], counted, 1, choices)[0]
    lower = _least_loss([best.forecast])
    if loss is None or lower is None or lower >= loss - scenario.law.gain(lower, BETTER_SHARE):
        return None
    return BetterSize(best.model, best.counted, lower, loss)


def _memory_shortage(scenario: Scenario) -> str:
    return (
        f"none fits in {format_bytes(scenario.memory_bytes or 0)}, of which {USABLE_SHARE:.0%} can be used; "
        "give more memory, a smaller `batch_size`, a shorter `context_length` or smaller sizes"
    )


def _pick_best(
    search: Search, swept: "SweepResult", objective: Objective, law: LossLaw, size: int, top: int, *,
    exact: bool = False, any_size: bool = False,
) -> Candidates:  # fmt: skip
    """The models to show: band by band of what is minimised, within each by the shape score. With `exact`,
    only equal values share a band; losses of `any_size` are shown of sizes that differ."""
    points = swept.points
    terms = shape_score(search.space.choices, points, _usual_size(search, size))
    score = np.sum(list(terms.values()), axis=0)
    width = objective.band(swept.best, law) - swept.best
    band = np.zeros(len(points))
    if exact:
        band = band + np.unique(swept.values, return_inverse=True)[1]
    elif width:
        band = np.floor((swept.values - swept.best) / width)
    ranked = rank_candidates(points, band * _BEYOND_ANY_SCORE + score, size, search.active, closest=False)
    apart = SIZES_APART if any_size and objective.name == "loss" else None
    return points.select(pick_diverse(points, ranked, top, apart=apart))


SIZES_APART: Final = 1.19
"""The factor, a quarter of an octave, that sizes shown beside each other differ by: so the list shows how
flat the optimum is."""
AT_ONCE: Final = 2**17
"""Points that are predicted together: the arrays stay in the cache."""
_BINS_PER_OCTAVE: Final = 2


@dataclass(frozen=True, eq=False)
class Measurement:
    """What some points are worth, an array entry each."""

    value: Floats
    """What is minimised."""
    possible: Bools
    """Which may be chosen at all."""


@dataclass(frozen=True, eq=False)
class SweepResult:
    """What measuring every point has shown."""

    points: Candidates
    """All points within the band of the best."""
    values: Floats
    """What is minimised, of these points."""
    n_points: int
    n_possible: int
    best: float
    by_size: dict[int, float]
    """The least value among the possible points of each size, two sizes an octave, by the mean count."""


def sweep(
    batches: Iterable[Candidates], choices: ModelConfig, measure: Callable[[Dims], Measurement],
    band: Callable[[float], float],
) -> SweepResult:  # fmt: skip
    """Measure all points; `band` gives the greatest value that counts as equal to the best.

    Raises `NoSolution` where no point is possible.
    """
    near_best: list[tuple[Candidates, Floats]] = []
    best, n_points, n_possible = np.inf, 0, 0
    bins: dict[int, float] = {}
    for batch, m in _batch_models(batches, choices):
        measurement = measure(m)
        n_points += len(batch)
        points, values = batch.select(measurement.possible), measurement.value[measurement.possible]
        if not len(points):
            continue
        n_possible += len(points)
        _record_best_by_size(bins, points, values)
        best = min(best, float(values.min()))
        near = values <= band(best)
        near_best.append((points.select(near), values[near]))
    if not n_possible:
        raise NoSolution(f"none of the {n_points:,} shapes is possible")
    pool = Candidates.concatenate([points for points, _ in near_best])
    values = np.concatenate([values for _, values in near_best])
    near = values <= band(best)
    by_size = {round(2 ** (i / _BINS_PER_OCTAVE)): value for i, value in sorted(bins.items())}
    return SweepResult(pool.select(near), values[near], n_points, n_possible, best, by_size)


def _batch_models(batches: Iterable[Candidates], choices: ModelConfig) -> Iterable[tuple[Candidates, Dims]]:
    """The points in batches whose sizes are the arrays of one model each, and that model."""
    for batch in batches:
        here: Index
        for here, m in candidate_models(choices, batch):
            yield batch.select(here), m


def _record_best_by_size(bins: dict[int, float], points: Candidates, values: Floats) -> None:
    """Keep the least value of every size."""
    size = np.rint(np.log2(points.counted) * _BINS_PER_OCTAVE).astype(np.int64)
    for i in np.unique(size).tolist():
        bins[i] = min(bins.get(i, np.inf), float(values[size == i].min()))


def _run_sweep(
    search: Search, batches: Iterable[Candidates], scenario: Scenario, objective: Objective, bands: int
) -> SweepResult:
    choices = search.space.choices
    require_comparable(scenario.law, choices.vocab_size, choices.context_length)
    fits = False

    def measure(m: Dims) -> Measurement:
        nonlocal fits
        counted, predictions = np.asarray(COUNTERS[search.counted](m)), predict(m, scenario)
        fits = fits or bool(np.any(predictions.fits))
        value = np.asarray(objective.value(predictions, counted), dtype=np.float64)
        return Measurement(
            np.broadcast_to(value, counted.shape), np.broadcast_to(predictions.possible, counted.shape)
        )

    try:
        return sweep(
            batches, search.space.choices, measure, lambda best: objective.band(best, scenario.law, bands)
        )
    except NoSolution as none:
        if not fits:
            raise NoSolution(f"{none}: {_memory_shortage(scenario)}") from None
        raise NoSolution(
            f"{none}: `hours={scenario.hours:g}` is too short for one update; give more time, a shorter "
            "context_length or smaller sizes"
        ) from None
