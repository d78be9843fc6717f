"""Messages for a lattice without a point in tolerance: the nearest point, and what to relax."""

from fractions import Fraction
from math import ceil

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.description import shape_in_words
from parambudget.arch.dims import has_ffn_layers
from parambudget.search.engine import Search
from parambudget.search.lattice import Candidates
from parambudget.units import format_share, format_tolerance


def no_match_message(search: Search, tolerance: Fraction, other_than: ModelConfig | None = None) -> str:
    """One line for a lattice without a point in tolerance: the nearest point, other than a model that is no
    answer, and what to relax."""
    wanted = f"{search.target:,} {search.counted}"
    wanted += "" if search.active is None else f" and {search.active:,} active"
    nearest = search.nearest_candidates(1 if other_than is None else 2)
    replace = search.space.choices.replace
    others = (i for i in range(len(nearest)) if replace(**nearest.sizes(i)) != other_than)
    nearest = nearest.select(np.array([next(others, 0)]))
    relax = (_what_to_relax if search.active is None else _what_to_relax_of_two)(search, nearest)
    return (
        f"no model within {format_tolerance(tolerance)} of {wanted} parameters; "
        f"nearest is {_description(search, nearest)}; {relax}"
    )


def describe_nearest(search: Search) -> str:
    """The nearest point of a lattice in words: its counts, how far off they are, and its sizes."""
    return _description(search, search.nearest_candidates(1))


def _description(search: Search, nearest: Candidates) -> str:
    count, model = int(nearest.counted[0]), search.space.choices.replace(**nearest.sizes(0))
    off = format_share(Fraction(count - search.target, search.target))
    if search.active is not None and nearest.active is not None:
        active = int(nearest.active[0])
        off += f", {active:,} active {format_share(Fraction(active - search.active, search.active))}"
    return f"{count:,} ({off}: {shape_in_words(model)})"


def _what_to_relax(search: Search, nearest: Candidates) -> str:
    count, dim = int(nearest.counted[0]), int(nearest.dim[0])
    smallest, largest = search.extent()
    if count == largest < search.target:
        return f"it is the largest in the search space: raise the upper end of {_bounding_axes(search)}"
    if count == smallest > search.target:
        choices = search.space.choices
        vocabulary = choices.vocab_size * dim * (1 if choices.tied else 2)
        relax = f"it is the smallest in the search space: lower {_bounding_axes(search)}"
        if search.counted != "body" and vocabulary * 4 > count:
            relax += f", or vocab_size (its embedding alone is {vocabulary:,})"
        return relax
    tolerance = f"allow tolerance {_needed_tolerance(search, nearest)}"
    if not has_ffn_layers(search.space.choices):
        return f"{tolerance}, or more values of n_layers or dim"
    return f"{tolerance}, more layers or widths, or multiple {max(1, search.space.multiple // 2)}"


def _bounding_axes(search: Search) -> str:
    """The axes whose ends bound the count."""
    space = search.space
    if not has_ffn_layers(space.choices):
        return "n_layers or dim"
    widths, name = space.intermediate_size, "intermediate_size"
    if space.choices.moe:
        widths, name = space.expert_intermediate_size, "expert_intermediate_size"
    return f"n_layers, dim or {name if widths else 'ffn_ratio'}"


def _what_to_relax_of_two(search: Search, nearest: Candidates) -> str:
    """What brings both counts nearer: the share of active experts where one count is too large and the other
    too small, else the sizes."""
    assert nearest.active is not None and search.active is not None  # noqa: PT018
    total, active = int(nearest.counted[0]) - search.target, int(nearest.active[0]) - search.active
    if total < 0 < active:
        change = "more n_experts or fewer n_experts_per_token"
    elif active < 0 < total:
        change = "fewer n_experts or more n_experts_per_token"
    else:
        change = f"{'lower' if total + active > 0 else 'higher'} {_bounding_axes(search)}"
    finer = max(1, search.space.multiple // 2)
    return f"allow tolerance {_needed_tolerance(search, nearest)}, {change}, or multiple {finer}"


def _needed_tolerance(search: Search, nearest: Candidates) -> str:
    """The least tolerance, in hundredths of a percent, that the nearest point is within."""
    off = max(
        Fraction(abs(int(count[0]) - target), target)
        for count, target in zip(nearest.counts(), search.targets, strict=True)
    )
    return format_tolerance(Fraction(ceil(off * 10_000 + Fraction(1, 10**6)), 10_000))
