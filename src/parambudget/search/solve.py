"""From a budget to models: the complete search, ranked the way a practitioner would, with its certificate."""

from fractions import Fraction
from typing import Any, Final, Literal, get_args

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.errors import ConfigError, NoSolution
from parambudget.search.engine import Search
from parambudget.search.lattice import Floats, Points
from parambudget.search.nearest_miss import nothing_within
from parambudget.search.score import aspect_deviation, diverse, free_traits, labels, order, shape_score
from parambudget.search.solutions import Solution, Solutions
from parambudget.search.space import Counted, SearchSpace
from parambudget.units import parse_count, parse_tolerance

Rank = Literal["shape", "closest"]

DEFAULT_TOLERANCE: Final = "0.5%"
MOST_SHOWN: Final = 1000
_LARGEST_POOL: Final = 1_000_000


def solve(
    target: str | int,
    *,
    active: str | int | None = None,
    counted: Counted = "total",
    tolerance: str | float | Fraction = DEFAULT_TOLERANCE,
    top: int = 5,
    rank: Rank = "shape",
    **fields: Any,
) -> Solutions:
    """The best models of a budget, from a complete search of a declared lattice.

    `target` is a count ("350M" or 350_000_000) in the sense of `counted`; `active`, of models with experts, a
    second budget of what a token meets. `fields` are axes, each a value, a list, a range "lo:hi" or
    "lo:hi:step" (n_layers, dim, head_dim, n_heads, n_kv_heads or kv_groups, intermediate_size; n_experts,
    n_experts_per_token, n_shared_experts, expert_intermediate_size), their bounds (ffn_ratio="1:6",
    multiple=64) and any other field of `ModelConfig`; what is left out follows from the target, see
    `SearchSpace.declare`. An embedding is tied below 1B and untied from there unless `tied` is given.

    Raises `NoSolution` when no point is within tolerance; rank "closest" ignores the tolerance and always
    answers.
    """
    n, share = parse_count(target, "target"), parse_tolerance(tolerance)
    check(counted, top, rank, allowed=get_args(Rank))
    second = None if active is None else parse_count(active, "active")
    search = Search(SearchSpace.declare(n, fields, active=second, counted=counted), n, counted, second)
    certificate, choices = search.certificate(share), search.space.choices
    if rank == "closest":
        shown = _closest(search, top)
    elif certificate.within_tolerance:
        points = search.within(share)
        ranked = order(points, _score(search, points), n, second, closest=False)
        shown = points.at(diverse(points, ranked, top, labels(aspect_deviation(choices, points))))
    else:
        raise NoSolution(nothing_within(search, share))
    terms = shape_score(choices, shown, search.space.size)
    names = labels(aspect_deviation(choices, shown))
    solutions = [described(choices, shown, i, n, str(names[i]), terms, second) for i in range(len(shown))]
    assumed = fields.get("tied") is None
    return Solutions(tuple(solutions), certificate, assumed, rank=rank, top=top)


def described(
    choices: ModelConfig,
    points: Points,
    i: int,
    target: int | None,
    name: str,
    terms: dict[str, Floats],
    active: int | None = None,
) -> Solution:
    """Point i as a solution: a validated model, its exact errors and its score."""
    counted = int(points.counted[i])
    score = {term: float(values[i]) for term, values in terms.items()}
    second = None if active is None or points.active is None else int(points.active[i]) - active
    model = choices.replace(**points.sizes(i))
    error = None if target is None else counted - target
    return Solution(model, name, counted, error, score, active_error=second)


def _closest(search: Search, top: int) -> Points:
    """The nearest points of the whole lattice that differ from each other."""
    pool = 64 * top
    while True:
        points = search.nearest(pool)
        ranked = order(points, _score(search, points), search.target, search.active, closest=True)
        shown = diverse(points, ranked, top)
        # The nearest may all be of one kind where the lattice is not.
        enough = len(shown) == top and free_traits(points).sum() >= 2
        if enough or len(points) < pool or pool == _LARGEST_POOL:
            return points.at(shown)
        pool = min(16 * pool, _LARGEST_POOL)


def _score(search: Search, points: Points) -> Floats:
    terms = shape_score(search.space.choices, points, search.space.size)
    score: Floats = np.sum(list(terms.values()), axis=0)
    return score


def check(counted: str, top: int, rank: str | None, *, allowed: tuple[str, ...]) -> None:
    """Refuse a count, a rank or a number of models that there is not."""
    for name, got, known in (("counted", counted, get_args(Counted)), ("rank", rank or allowed[0], allowed)):
        if got not in known:
            raise ConfigError(f"{name} is {got!r}; use {' or '.join(known)}")
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= MOST_SHOWN:
        raise ConfigError(f"top is {top!r}; use a whole number from 1 to {MOST_SHOWN}")
