"""From a current model to another size: one model per direction, each a point of one completely searched
lattice."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import Final, cast

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.fields import ModelFields
from parambudget.arch.validation import MOST_LAYERS
from parambudget.cost.params import body
from parambudget.errors import InputError, NoSolution
from parambudget.search.axis import Axis
from parambudget.search.engine import COUNTERS, Search
from parambudget.search.lattice import Candidates, Floats, count_errors
from parambudget.search.nearest_miss import describe_nearest, no_match_message
from parambudget.search.options import DEFAULT_TOLERANCE, CountKind
from parambudget.search.score import shape_score
from parambudget.search.solutions import CurrentModel, Solution, Solutions
from parambudget.search.solve import make_solution
from parambudget.search.space import (
    EXPERT_AXES,
    MIXER_SIZES,
    SearchSpace,
    choices_like,
    choices_of,
    parse_multiple,
)
from parambudget.units import format_share, format_tolerance

_BAND: Final = 0.05
"""Proportions that differ by less than this share are equally near to the current ones."""
_MOST_ASPECT: Final = 0.25
"""How far, as a logarithm, the aspect ratio of a balanced model may stray."""

_LARGEST_GROWTH: Final = 1000


@dataclass(frozen=True)
class Direction:
    """One way to change a model's size: the axes that move; the others keep their current value."""

    name: str
    moves: frozenset[str]
    description: str


SHRINKING: Final = (
    Direction("narrower", frozenset({"dim"}), "smaller dim, same layers"),
    Direction("shallower", frozenset({"n_layers"}), "fewer layers, same dim"),
    Direction("thinner", frozenset({"intermediate_size"}), "narrower FFN, same dim and layers"),
    Direction("balanced", frozenset({"dim", "n_layers"}), "smaller dim and fewer layers, same aspect ratio"),
)
GROWING: Final = (
    Direction("wider", frozenset({"dim"}), "larger dim, same layers"),
    Direction("deeper", frozenset({"n_layers"}), "more layers, same dim"),
    Direction("fatter", frozenset({"intermediate_size"}), "wider FFN, same dim and layers"),
    Direction("balanced", frozenset({"dim", "n_layers"}), "larger dim and more layers, same aspect ratio"),
)


def resize(
    current: ModelConfig, target: int, fields: Mapping[str, object], *, active: int | None = None,
    counted: CountKind = "total", tolerance: Fraction = DEFAULT_TOLERANCE,
) -> Solutions:  # fmt: skip
    """The current model brought to a size: narrower, shallower, thinner and balanced, or wider, deeper,
    fatter and balanced where it is too small.

    Its choices, vocabulary, tying, head_dim, kv group, numbers of experts and latents stay, and its ratios of
    FFN width and of attention width to dim stay as near as the target allows. With experts the FFN's width is
    theirs, and dense layers are as wide as the active width; `active` is a second target. A direction in
    which the lattice has no model of that size is named in `current.unavailable`, with the reason. `fields`
    are axes and choices as for `solve`, in place of the ones derived from the current model.

    Raises `NoSolution` when there is no model in any direction, and `InputError` when the current model is
    within tolerance already.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    own = choices_of(current).keys() - {*EXPERT_AXES}
    # Sizes of a mixer stay among what is given, which fixes them.
    choices = {
        name: given[name] if name in MIXER_SIZES else given.pop(name) for name in list(given) if name in own
    }
    current = current.replace(**cast(ModelFields, choices)) if choices else current
    count_now = int(COUNTERS[counted](current))
    active_off = 0 if active is None else abs(int(COUNTERS["active"](current)) - active)
    active_fits = active is None or active_off <= tolerance * active
    _require_change(count_now, target, tolerance, counted, active_fits=active_fits)
    space = _space_around(current, count_now, target, given, active, counted)
    whole = Search(space, target, counted, active)
    certificate = whole.certificate(tolerance)
    if not certificate.within_tolerance:
        raise NoSolution(no_match_message(whole, tolerance, current))
    solutions, unavailable = [], {}
    for direction in SHRINKING if count_now > target else GROWING:
        if "intermediate_size" in direction.moves and not current.n_ffn_layers:
            continue
        try:
            search = Search(_restrict(space, direction, current), target, counted, active)
            solutions.append(_best_in_direction(direction, current, search, tolerance))
        except NoSolution as reason:
            unavailable[direction.name] = str(reason)
    if not solutions:
        raise NoSolution("; ".join(f"no {name} model: {reason}" for name, reason in unavailable.items()))
    return Solutions(
        tuple(solutions), certificate, mixer_follows_dim=space.mixer_follows_dim,
        current=CurrentModel(current, count_now, unavailable),
    )  # fmt: skip


def _require_change(
    count_now: int, target: int, tolerance: Fraction, counted: CountKind, *, active_fits: bool
) -> None:
    """Raise `InputError` where the model has the size already, or is far too small to start from."""
    now = f"the current model has {count_now:,} {counted} parameters"
    if active_fits and abs(count_now - target) <= tolerance * target:
        off = format_share(Fraction(count_now - target, target))
        raise InputError(
            f"{now}, already within {format_tolerance(tolerance)} of {target:,} ({off}); "
            "give a smaller `tolerance` to change it anyway"
        )
    if target > _LARGEST_GROWTH * count_now:
        raise InputError(
            f"{now}, and {target:,} is more than {_LARGEST_GROWTH:,} times that; "
            "start from a larger model, or take only its choices with `like`"
        )


def _space_around(
    current: ModelConfig, count_now: int, target: int, given: Mapping[str, object], active: int | None,
    counted: CountKind,
) -> SearchSpace:  # fmt: skip
    """One lattice for all directions: from the current sizes down to the smallest, or up to all that could be
    needed."""
    grows = count_now < target
    multiple = parse_multiple(given.get("multiple", 64))
    if grows:
        deepest = min(ceil(target * current.n_layers / body(current)) + 1, MOST_LAYERS)
        # The count grows with dim at least in proportion; the layers with its square, and even where the FFN
        # ratio falls to a quarter with a quarter of that.
        growth = min(target / count_now, 2.1 * (target / body(current)) ** 0.5)
        widest = ceil(current.dim * growth / multiple + 1) * multiple
    else:
        deepest, widest = current.n_layers, current.dim
    derived: dict[str, object] = {
        "n_layers": range(current.n_layers if grows else 1, deepest + 1),
        # The current width belongs to the lattice whatever the granularity.
        "dim": {
            current.dim,
            *(d for d in range(multiple, widest + 1, multiple) if grows == (d > current.dim)),
        },
    }
    if current.n_attention_layers:
        derived |= {"head_dim": current.head_dim, **_heads_around(current, widest, given)}
    widths = "expert_intermediate_size" if current.moe else "intermediate_size"
    if current.n_ffn_layers and widths not in given:
        ratio = Fraction(current.active_ffn_width, current.dim)
        derived["ffn_ratio"] = (ratio / 4, ratio * 4)
    fields = choices_like(current, {"multiple": multiple, **derived, **given})
    return SearchSpace.declare(target, fields, active=active, counted=counted)


def _heads_around(current: ModelConfig, widest: int, given: Mapping[str, object]) -> dict[str, object]:
    """The kv group of the current model, unless one is given, and free heads where it has them."""
    heads: dict[str, object] = {}
    if "n_kv_heads" not in given and "kv_groups" not in given and not current.mla:
        if current.n_kv_heads == 1 < current.n_heads:
            heads["n_kv_heads"] = 1
        else:
            heads["kv_groups"] = current.kv_group
    if current.n_heads * current.head_dim != current.dim:
        most = ceil(current.n_heads * widest / current.dim) + current.kv_group
        heads["n_heads"] = range(current.kv_group, most + 1, current.kv_group)
    return heads


def _restrict(space: SearchSpace, direction: Direction, current: ModelConfig) -> SearchSpace:
    """The part of the lattice in which the direction's axes move and the others of depth, width and heads
    stay."""

    def restrict_axis(axis: Axis, name: str, now: int) -> Axis:
        moves = name in direction.moves
        values = [value for value in axis.values if (value != now if moves else value == now)]
        if not values:
            raise NoSolution(f"the search space has no {name} {'other than' if moves else 'of'} {now}")
        return Axis.from_values(values, name)

    heads = space.n_heads
    if heads and "dim" not in direction.moves:
        heads = Axis.from_values([current.n_heads], "n_heads")
    return replace(
        space, n_layers=restrict_axis(space.n_layers, "n_layers", current.n_layers),
        dim=restrict_axis(space.dim, "dim", current.dim), n_heads=heads,
    )  # fmt: skip


def _best_in_direction(
    direction: Direction, current: ModelConfig, search: Search, tolerance: Fraction
) -> Solution:
    """The point of the direction that stays nearest to the current proportions, then the most usual, then the
    nearest to the target."""
    points = search.candidates_within(tolerance)
    if not len(points):
        raise NoSolution(f"the nearest with {direction.description} is {describe_nearest(search)}")
    aspect = np.abs(np.log(points.dim / points.n_layers) - np.log(current.dim / current.n_layers))
    if {"dim", "n_layers"} <= direction.moves:
        points, aspect = points.select(aspect <= _MOST_ASPECT), aspect[aspect <= _MOST_ASPECT]
        if not len(points):
            raise NoSolution(f"none with {direction.description} is within {format_tolerance(tolerance)}")
    else:
        aspect = np.zeros(len(points))
    choices, size = search.space.choices, search.space.size
    terms = shape_score(choices, points, size)
    no_term = np.zeros(len(points))
    unusual = terms.get("heads", no_term) + terms["width"] + terms["depth"]
    drift, error = _proportion_drift(current, points), count_errors(points.counts(), search.targets)
    keys = (np.floor(aspect / _BAND), np.floor(drift / _BAND), unusual, np.round(drift, 9), error)
    best = points.select(np.lexsort((points.n_layers, points.dim, *reversed(keys)))[:1])
    score = shape_score(choices, best, size)
    return make_solution(choices, best, 0, search.target, direction.name, score, search.active)


def _proportion_drift(current: ModelConfig, points: Candidates) -> Floats:
    """Logarithmic distance from the current ratios of FFN and attention width to dim."""
    ffn = np.zeros(len(points))
    if current.n_ffn_layers:
        ffn = np.log(points.ffn_width / points.dim * current.dim / current.active_ffn_width)
    now = current.n_heads * current.head_dim / current.dim
    heads = np.log(points.n_heads * points.head_dim / points.dim / now)
    drift: Floats = np.hypot(ffn, heads)
    return drift
