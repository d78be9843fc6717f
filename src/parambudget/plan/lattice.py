"""The points of a search space as arrays: columns of (dim, heads, FFN widths), each under every depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any, Final

import numpy as np

from parambudget.arch.sizes import LARGEST_SIZE
from parambudget.errors import InputError
from parambudget.plan.arrays import Ints
from parambudget.plan.space import SearchSpace

MOST_ROWS: Final = 10**8


@dataclass(frozen=True, eq=False)
class Lattice:
    """Columns of equal length C; a column is one width, head layout and run of FFN widths.

    The FFN widths of column c are first[c] + i * step for 0 <= i < run[c]. Every column stands under every
    depth, so there are len(n_layers) * C rows and len(n_layers) * run.sum() points.
    """

    n_layers: Ints
    dim: Ints
    head_dim: Ints
    n_heads: Ints
    n_kv_heads: Ints
    first: Ints
    run: Ints
    step: int

    @property
    def n_points(self) -> int:
        """Points of the lattice, exactly."""
        return len(self.n_layers) * int(self.run.sum())


def expand(space: SearchSpace) -> Lattice:
    """The lattice of a search space; combinations that make no model (a group that does not divide) are no
    points."""
    kv_axis = space.kv_groups or space.n_kv_heads
    axes = [axis.values if axis else (0,) for axis in (space.dim, space.head_dim, kv_axis, space.n_heads)]
    shape, runs = [len(values) for values in axes], _ffn_runs(space)
    if prod(shape) * len(runs) * len(space.n_layers.values) > MOST_ROWS:
        raise InputError(f"the lattice has more than {MOST_ROWS:,} rows; use larger steps or fewer values")
    dims, head_dims, kvs, heads = map(_array, axes)
    d, h, kv = dims[:, None, None, None], head_dims[:, None, None], kvs[:, None]
    if space.n_heads is None:
        fits = (d % h == 0) & (d // h % kv == 0)
    else:
        fits = np.broadcast_to(heads % kv == 0, shape)
    width, head_at, kv_at, heads_at = np.nonzero(fits)
    first, many = (of_dims[:, width] for of_dims in _ffn_widths(space, runs))
    piece, column = np.nonzero(many)
    dim, head_dim, kv = dims[width[column]], head_dims[head_at[column]], kvs[kv_at[column]]
    n_heads = dim // head_dim if space.n_heads is None else heads[heads_at[column]]
    return Lattice(
        _array(space.n_layers.values), dim, head_dim, n_heads, n_heads // kv if space.kv_groups else kv,
        first[piece, column], many[piece, column], runs[0].step,
    )  # fmt: skip


def _ffn_runs(space: SearchSpace) -> list[range]:
    """FFN widths as arithmetic runs: one for the multiples or for an even list, one a width for an uneven."""
    if space.intermediate_size is None:
        return [range(space.multiple, LARGEST_SIZE + 1, space.multiple)]
    values = space.intermediate_size.values
    step = values[1] - values[0] if len(values) > 1 else 1
    even = range(values[0], values[-1] + 1, step)
    return [even] if values == tuple(even) else [range(value, value + 1) for value in values]


def _ffn_widths(space: SearchSpace, runs: list[range]) -> tuple[Ints, Ints]:
    """Of every run (rows) under every dim (columns) the first FFN width within the exact bounds of the ratio,
    and how many there are."""
    low, high = space.ffn_ratio or (Fraction(0), Fraction(LARGEST_SIZE))
    # Python's ints: a ratio of many digits would overflow the array's.
    (a, b), (c, d) = low.as_integer_ratio(), high.as_integer_ratio()
    at_least = _array([-(-a * dim // b) for dim in space.dim.values])
    at_most = _array([c * dim // d for dim in space.dim.values])
    start, stop, step = _array([(run.start, run.stop, run.step) for run in runs]).T[:, :, None]
    first = start + np.maximum(-((start - at_least) // step), 0) * step
    return first, np.maximum((np.minimum(at_most, stop - 1) - first) // step + 1, 0)


def _array(values: Sequence[Any]) -> Ints:
    return np.asarray(values, dtype=np.int64)
