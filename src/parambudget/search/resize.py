"""From a current model to a budget: the ways out, each a point of one completely searched lattice."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import Any, Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.validation import MOST_LAYERS
from parambudget.cost.params import body
from parambudget.errors import InputError, NoSolution
from parambudget.search.axis import Axis
from parambudget.search.engine import COUNTERS, Search
from parambudget.search.lattice import Floats, Points, misses
from parambudget.search.nearest_miss import nearest_said, nothing_within
from parambudget.search.score import shape_score
from parambudget.search.solutions import Current, Solution, Solutions
from parambudget.search.solve import DEFAULT_TOLERANCE, described
from parambudget.search.space import MIX, Counted, SearchSpace, choices_of, read_multiple
from parambudget.units import format_share, format_tolerance, parse_count, parse_tolerance

_BAND: Final = 0.05
"""Proportions that differ by less than this share are equally near to the current ones."""
_MOST_ASPECT: Final = 0.25
"""How far, as a logarithm, the aspect ratio of a balanced way may stray."""

_LARGEST_GROWTH: Final = 1000


@dataclass(frozen=True)
class Way:
    """One way out: which axes keep the current size and which move."""

    name: str
    moves: frozenset[str]
    what: str


TOO_BIG: Final = (
    Way("narrower", frozenset({"dim"}), "smaller dim, layers kept"),
    Way("shallower", frozenset({"n_layers"}), "fewer layers, dim kept"),
    Way("thinner", frozenset({"intermediate_size"}), "narrower FFN, dim and layers kept"),
    Way("balanced", frozenset({"dim", "n_layers"}), "smaller dim and fewer layers, aspect ratio kept"),
)
TOO_SMALL: Final = (
    Way("wider", frozenset({"dim"}), "larger dim, layers kept"),
    Way("deeper", frozenset({"n_layers"}), "more layers, dim kept"),
    Way("fatter", frozenset({"intermediate_size"}), "wider FFN, dim and layers kept"),
    Way("balanced", frozenset({"dim", "n_layers"}), "larger dim and more layers, aspect ratio kept"),
)


def resize(
    current: ModelConfig,
    target: str | int,
    *,
    active: str | int | None = None,
    counted: Counted = "total",
    tolerance: str | float | Fraction = DEFAULT_TOLERANCE,
    **fields: Any,
) -> Solutions:
    """The ways to bring a current model to a budget: narrower, shallower, thinner and balanced, or wider,
    deeper, fatter and balanced where it is too small.

    Its choices, vocabulary, tying, head_dim, kv group, numbers of experts and latents stay, and its ratios of
    FFN width and of attention width to dim stay as near as the budget allows. With experts the FFN's width is
    theirs, and dense layers are as wide as what a token meets of them; `active` is a second budget. A way
    that the lattice does not offer is named in `current.unavailable`, with the reason. `fields` are axes and
    choices as for `solve`, in place of the ones derived from the current model.

    Raises `NoSolution` when there is no way at all, and `InputError` when the model is within tolerance
    already.
    """
    n, share = parse_count(target, "target"), parse_tolerance(tolerance)
    given = {name: value for name, value in fields.items() if value is not None}
    second = None if active is None else parse_count(active, "active")
    choices = {name: given.pop(name) for name in list(given) if name in choices_of(current).keys() - {*MIX}}
    current = current.replace(**choices) if choices else current
    count_now = int(COUNTERS[counted](current))
    met = second is None or abs(int(COUNTERS["active"](current)) - second) <= share * second
    _refuse_what_needs_no_way(count_now, n, share, counted, met=met)
    space = _space(current, count_now, n, given, second, counted)
    whole = Search(space, n, counted, second)
    certificate = whole.certificate(share)
    if not certificate.within_tolerance:
        raise NoSolution(nothing_within(whole, share))
    found, unavailable = [], {}
    for way in TOO_BIG if count_now > n else TOO_SMALL:
        try:
            search = Search(_restricted(space, way, current), n, counted, second)
            found.append(_take(way, current, search, share))
        except NoSolution as reason:
            unavailable[way.name] = str(reason)
    if not found:
        raise NoSolution("; ".join(f"no {name} one: {reason}" for name, reason in unavailable.items()))
    return Solutions(tuple(found), certificate, current=Current(current, count_now, unavailable))


def _refuse_what_needs_no_way(
    count_now: int, target: int, tolerance: Fraction, counted: Counted, *, met: bool
) -> None:
    """`met` is whether a second budget is met already."""
    said = f"the current model has {count_now:,} {counted} parameters"
    if met and abs(count_now - target) <= tolerance * target:
        off = format_share(Fraction(count_now - target, target))
        raise InputError(
            f"{said}, {off} off {target:,} and within {format_tolerance(tolerance)} of it already; "
            "give a smaller tolerance to change it all the same"
        )
    if target > _LARGEST_GROWTH * count_now:
        raise InputError(
            f"{said}, and {target:,} are more than {_LARGEST_GROWTH:,} times as many; "
            "start from a larger one, or take only its choices (like)"
        )


def _space(
    current: ModelConfig, count_now: int, target: int, given: Mapping[str, Any], active: int | None,
    counted: Counted,
) -> SearchSpace:  # fmt: skip
    """One lattice that holds every way: from the current sizes down to the smallest, or up to all that could
    be needed."""
    grows = count_now < target
    multiple = read_multiple(given.get("multiple", 64))
    group = (
        {"n_kv_heads": 1} if current.n_kv_heads == 1 < current.n_heads else {"kv_groups": current.kv_group}
    )
    if grows:
        deepest = min(ceil(target * current.n_layers / body(current)) + 1, MOST_LAYERS)
        # The count grows with dim at least in proportion; the layers with its square, and even where the FFN
        # ratio falls to a quarter with a quarter of that.
        growth = min(target / count_now, 2.1 * (target / body(current)) ** 0.5)
        widest = ceil(current.dim * growth / multiple + 1) * multiple
    else:
        deepest, widest = current.n_layers, current.dim
    ratio = Fraction(_ffn_width(current), current.dim)
    derived: dict[str, Any] = {
        "n_layers": range(current.n_layers if grows else 1, deepest + 1),
        # The current width belongs to the lattice whatever the granularity.
        "dim": {
            current.dim,
            *(d for d in range(multiple, widest + 1, multiple) if grows == (d > current.dim)),
        },
        "head_dim": current.head_dim,
        "ffn_ratio": (ratio / 4, ratio * 4),
    } | group
    if current.n_heads * current.head_dim != current.dim:
        most = ceil(current.n_heads * widest / current.dim) + current.kv_group
        derived["n_heads"] = range(current.kv_group, most + 1, current.kv_group)
    if "n_kv_heads" in given or "kv_groups" in given or current.mla:
        derived = {name: value for name, value in derived.items() if name not in ("n_kv_heads", "kv_groups")}
    if ("expert_intermediate_size" if current.moe else "intermediate_size") in given:
        del derived["ffn_ratio"]
    fields = {**choices_of(current), "multiple": multiple, **derived, **given}
    return SearchSpace.declare(target, fields, active=active, counted=counted)


def _ffn_width(current: ModelConfig) -> int:
    """What a token meets in an FFN's place."""
    return current.active_ffn_width


def _restricted(space: SearchSpace, way: Way, current: ModelConfig) -> SearchSpace:
    """The part of the lattice in which the way's sizes move and the others of depth, width and heads stay."""

    def axis(name: str) -> Axis:
        now, values = getattr(current, name), getattr(space, name).values
        kept = [value for value in values if (value != now if name in way.moves else value == now)]
        if not kept:
            raise NoSolution(f"the lattice has no {name} {'other than' if name in way.moves else 'of'} {now}")
        return Axis.of(kept, name)

    heads = (
        Axis.of([current.n_heads], "n_heads") if space.n_heads and "dim" not in way.moves else space.n_heads
    )
    return replace(space, n_layers=axis("n_layers"), dim=axis("dim"), n_heads=heads)


def _take(way: Way, current: ModelConfig, search: Search, tolerance: Fraction) -> Solution:
    """The point of the way that stays nearest to the current proportions, then the most usual, then the
    nearest."""
    points = search.within(tolerance)
    if not len(points):
        raise NoSolution(f"{way.what} comes to {nearest_said(search)} at the nearest")
    aspect = np.abs(np.log(points.dim / points.n_layers) - np.log(current.dim / current.n_layers))
    if {"dim", "n_layers"} <= way.moves:
        points, aspect = points.at(aspect <= _MOST_ASPECT), aspect[aspect <= _MOST_ASPECT]
        if not len(points):
            raise NoSolution(f"{way.what} is not to be had within {format_tolerance(tolerance)}")
    else:
        aspect = np.zeros(len(points))
    terms = shape_score(search.space.choices, points, search.space.size)
    unusual = terms["heads"] + terms["width"] + terms["depth"] if way.moves else aspect
    strayed, error = _strayed(current, points), misses(points.counts(), search.targets)
    keys = (np.floor(aspect / _BAND), np.floor(strayed / _BAND), unusual, np.round(strayed, 9), error)
    best = points.at(np.lexsort((points.n_layers, points.dim, *reversed(keys)))[:1])
    score = shape_score(search.space.choices, best, search.space.size)
    return described(search.space.choices, best, 0, search.target, way.name, score, search.active)


def _strayed(current: ModelConfig, points: Points) -> Floats:
    """Logarithmic distance from the current ratios of FFN and attention width to dim."""
    ffn = np.log(points.ffn_width / points.dim * current.dim / _ffn_width(current))
    now = current.n_heads * current.head_dim / current.dim
    heads = np.log(points.n_heads * points.head_dim / points.dim / now)
    strayed: Floats = np.hypot(ffn, heads)
    return strayed
