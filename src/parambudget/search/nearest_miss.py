"""A lattice without a point in tolerance, in one line: the nearest point, and what to relax."""

from fractions import Fraction
from math import ceil

from parambudget.arch.description import shape_in_words
from parambudget.search.engine import Search
from parambudget.search.lattice import Points
from parambudget.units import format_share, format_tolerance


def nothing_within(search: Search, tolerance: Fraction) -> str:
    """One line for a lattice without a point in tolerance: the nearest point and what to relax."""
    wanted = f"{search.target:,} {search.counted}"
    wanted += "" if search.active is None else f" and {search.active:,} active"
    nearest = search.nearest(1)
    relax = (_relax if search.active is None else _relax_one_of_two)(search, nearest)
    return (
        f"no model within {format_tolerance(tolerance)} of {wanted} parameters; "
        f"nearest is {_said(search, nearest)}; {relax}"
    )


def nearest_said(search: Search) -> str:
    """The nearest point of a lattice in words: its counts, how far off they are, and its sizes."""
    return _said(search, search.nearest(1))


def _said(search: Search, nearest: Points) -> str:
    found, nearest_model = int(nearest.counted[0]), search.space.choices.replace(**nearest.sizes(0))
    off = format_share(Fraction(found - search.target, search.target))
    if search.active is not None and nearest.active is not None:
        second = int(nearest.active[0])
        off += f", {second:,} active {format_share(Fraction(second - search.active, search.active))}"
    return f"{found:,} ({off}: {shape_in_words(nearest_model)})"


def _relax(search: Search, nearest: Points) -> str:
    found, dim = int(nearest.counted[0]), int(nearest.dim[0])
    smallest, largest = search.extent()
    if found == largest < search.target:
        return f"it is the largest on the lattice: raise the upper end of {_ends(search)}"
    if found == smallest > search.target:
        choices = search.space.choices
        vocabulary = choices.vocab_size * dim * (1 if choices.tied else 2)
        relax = f"it is the smallest on the lattice: lower {_ends(search)}"
        if search.counted != "body" and vocabulary * 4 > found:
            relax += f", or vocab_size (its embedding alone is {vocabulary:,})"
        return relax
    finer = max(1, search.space.multiple // 2)
    return f"allow tolerance {_needed(search, nearest)}, more layers or widths, or multiple {finer}"


def _ends(search: Search) -> str:
    """The axes whose ends bound the count."""
    space = search.space
    widths, name = space.intermediate_size, "intermediate_size"
    if space.choices.moe:
        widths, name = space.expert_intermediate_size, "expert_intermediate_size"
    return f"n_layers, dim or {name if widths else 'ffn_ratio'}"


def _relax_one_of_two(search: Search, nearest: Points) -> str:
    """What brings both counts nearer: the share of experts that a token meets where one is too large and the
    other too small, else the sizes."""
    assert nearest.active is not None and search.active is not None  # noqa: PT018
    total, active = int(nearest.counted[0]) - search.target, int(nearest.active[0]) - search.active
    if total < 0 < active:
        way = "more n_experts or fewer n_experts_per_token"
    elif active < 0 < total:
        way = "fewer n_experts or more n_experts_per_token"
    else:
        way = f"{'lower' if total + active > 0 else 'higher'} {_ends(search)}"
    finer = max(1, search.space.multiple // 2)
    return f"allow tolerance {_needed(search, nearest)}, {way}, or multiple {finer}"


def _needed(search: Search, nearest: Points) -> str:
    """The least tolerance, in hundredths of a percent, that the nearest point is within."""
    off = max(
        Fraction(abs(int(count[0]) - target), target)
        for count, target in zip(nearest.counts(), search.targets, strict=True)
    )
    return format_tolerance(Fraction(ceil(off * 10_000 + Fraction(1, 10**6)), 10_000))
