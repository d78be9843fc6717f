"""From a target to models: the complete search, ranked the way a practitioner would, with its certificate."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Final, Literal

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.errors import NoSolution
from parambudget.search.engine import Search
from parambudget.search.lattice import Candidates, Floats
from parambudget.search.nearest_miss import no_match_message
from parambudget.search.options import DEFAULT_TOLERANCE, DEFAULT_TOP, CountKind
from parambudget.search.score import (
    aspect_deviation,
    free_traits,
    pick_diverse,
    rank_candidates,
    shape_labels,
    shape_score,
)
from parambudget.search.solutions import Solution, Solutions
from parambudget.search.space import SearchSpace

_LARGEST_POOL: Final = 1_000_000


def solve(
    target: int, fields: Mapping[str, object], *, active: int | None = None, counted: CountKind = "total",
    tolerance: Fraction = DEFAULT_TOLERANCE, rank: Literal["shape", "closest"] = "shape",
    top: int = DEFAULT_TOP,
) -> Solutions:  # fmt: skip
    """The best models of a size, from a complete search of a declared lattice.

    `target` is a count in the sense of `counted`; `active`, for models with experts, a second target for the
    parameters used per token. `fields` are the axes and choices of `SearchFields`; what is left out follows
    from the target, see `space.default_ranges`.

    Raises `NoSolution` when no point is within tolerance; rank "closest" ignores the tolerance and always
    answers.
    """
    space = SearchSpace.declare(target, fields, active=active, counted=counted)
    search = Search(space, target, counted, active)
    certificate = search.certificate(tolerance)
    if rank == "closest":
        shown = _closest(search, top)
    elif certificate.within_tolerance:
        points = search.candidates_within(tolerance)
        ranked = rank_candidates(points, total_score(search, points), target, active, closest=False)
        labels = shape_labels(aspect_deviation(space.choices, points))
        shown = points.select(pick_diverse(points, ranked, top, labels))
    else:
        raise NoSolution(no_match_message(search, tolerance))
    solutions = make_solutions(search, shown, space.size, target)
    return Solutions(
        tuple(solutions), certificate, fields.get("tied") is None,
        mixer_follows_dim=space.mixer_follows_dim, rank=rank, top=top,
    )  # fmt: skip


def make_solutions(search: Search, points: Candidates, size: int, target: int | None) -> list[Solution]:
    """Points as solutions, labelled by their aspect ratio and scored by what is usual at `size`."""
    choices = search.space.choices
    terms = shape_score(choices, points, size)
    names = shape_labels(aspect_deviation(choices, points)).tolist()
    return [
        make_solution(choices, points, i, target, names[i], terms, search.active) for i in range(len(points))
    ]


def make_solution(
    choices: ModelConfig, points: Candidates, i: int, target: int | None, label: str,
    terms: Mapping[str, Floats], active: int | None = None,
) -> Solution:  # fmt: skip
    """Point i as a solution: a validated model, its exact errors and its score."""
    counted = int(points.counted[i])
    score = {term: float(values[i]) for term, values in terms.items()}
    active_error = None if active is None or points.active is None else int(points.active[i]) - active
    model = choices.replace(**points.sizes(i))
    error = None if target is None else counted - target
    return Solution(model, label, counted, error, score, active_error=active_error)


def total_score(search: Search, points: Candidates) -> Floats:
    """The shape score of each point."""
    terms = shape_score(search.space.choices, points, search.space.size)
    score: Floats = np.sum(list(terms.values()), axis=0)
    return score


def _closest(search: Search, top: int) -> Candidates:
    """The nearest points of the whole lattice that differ from each other."""
    pool = 64 * top
    while True:
        points = search.nearest_candidates(pool)
        score = total_score(search, points)
        ranked = rank_candidates(points, score, search.target, search.active, closest=True)
        shown = pick_diverse(points, ranked, top)
        # The nearest may all be of one kind where the lattice is not.
        enough = len(shown) == top and free_traits(points).sum() >= 2
        if enough or len(points) < pool or pool == _LARGEST_POOL:
            return points.select(shown)
        pool = min(16 * pool, _LARGEST_POOL)
