"""The sizes that a budget reaches, and the lattice around them.

By one rule: from a fifth to five times the size that the loss law would choose, or below the largest that
fits.
"""

from collections.abc import Mapping
from fractions import Fraction
from math import ceil, floor
from typing import Any, Final

from parambudget.errors import InputError
from parambudget.plan.box import granularity
from parambudget.plan.space import SearchSpace
from parambudget.planning.forecast import Spending
from parambudget.scaling.compute_optimal import compute_optimal
from parambudget.search.space import read_multiple
from parambudget.units import format_count

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
    if (flops := _flops(spending)) is not None:
        optimum = compute_optimal(spending.law, flops).n_parameters
        low, high = optimum / AROUND, optimum * AROUND
    memory = spending.memory_bytes or (spending.machine.memory_bytes if spending.machine else None)
    if memory is not None:
        ranks = spending.machine.n_gpus if spending.machine else 1
        most = memory * ranks / LEAST_STATE_BYTES
        low, high = (most / _SMALLEST_SHARE, most) if high is None else (min(low, most), min(high, most))
    assert high is not None
    if high < SMALLEST:
        raise InputError(
            f"the budget is enough for about {format_count(high)} parameters, fewer than {SMALLEST:,}; "
            "give more hours, FLOPs or memory"
        )
    return max(int(low), SMALLEST // AROUND), int(high)


def _flops(spending: Spending) -> float | None:
    """About what the budget can compute, to find the sizes that are worth measuring."""
    if spending.flops is not None:
        return spending.flops
    if spending.hours is None or spending.machine is None:
        return None
    stack = spending.machine.stack
    reached = _USUAL_SHARE * stack.matmul_flops
    return spending.hours * 3600 * reached * spending.machine.n_gpus


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
