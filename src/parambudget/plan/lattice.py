"""The points of a search space as arrays: columns of (dim, heads, FFN widths), each under every depth."""

from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from parambudget.errors import InputError
from parambudget.plan.arrays import Ints
from parambudget.plan.space import SearchSpace

MOST_ROWS: Final = 10**8


@dataclass(frozen=True)
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
    columns = [space.dim, space.head_dim, space.kv_groups or space.n_kv_heads, space.n_heads]
    values = [axis.values if axis else (0,) for axis in columns]
    listed = space.intermediate_size
    runs = _runs(listed.values) if listed else [(0, 0, space.multiple)]
    if prod(map(len, [*values, runs, space.n_layers.values])) > MOST_ROWS:
        raise InputError(f"the lattice has more than {MOST_ROWS:,} rows; use larger steps or fewer values")
    grid = np.meshgrid(*(_array(axis) for axis in values), indexing="ij")
    dim, head_dim, kv, n_heads = (axis.ravel() for axis in grid)
    if space.n_heads is None:
        n_heads = dim // head_dim
        fits = (n_heads > 0) & (n_heads * head_dim == dim) & (n_heads % kv == 0)
    else:
        fits = n_heads % kv == 0
    dim, head_dim, n_heads, kv = dim[fits], head_dim[fits], n_heads[fits], kv[fits]
    n_kv_heads = n_heads // kv if space.kv_groups else kv
    pieces = [_ffn_run(space, dim, *run) for run in runs]
    first, run = np.concatenate([p[0] for p in pieces]), np.concatenate([p[1] for p in pieces])
    holds = run > 0
    dim, head_dim, n_heads, n_kv_heads = (
        np.tile(axis, len(runs))[holds] for axis in (dim, head_dim, n_heads, n_kv_heads)
    )
    layers = _array(space.n_layers.values)
    return Lattice(layers, dim, head_dim, n_heads, n_kv_heads, first[holds], run[holds], step=runs[0][2])


def _runs(values: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """FFN widths as arithmetic runs (first, last, step): one for a range, one each for an uneven list."""
    step = values[1] - values[0] if len(values) > 1 else 1
    if values == tuple(range(values[0], values[-1] + 1, step)):
        return [(values[0], values[-1], step)]
    return [(value, value, 1) for value in values]


def _ffn_run(space: SearchSpace, dim: Ints, first: int, last: int, step: int) -> tuple[Ints, Ints]:
    """First FFN width and their number, per column, within the run and the exact bounds of the ratio."""
    if space.ffn_ratio is None:
        return np.full_like(dim, first), np.full_like(dim, (last - first) // step + 1)
    low, high = space.ffn_ratio
    at_least = -(-low.numerator * dim // low.denominator)
    at_most = high.numerator * dim // high.denominator
    if space.intermediate_size is None:
        first = step
        at_least = np.maximum(at_least, step)
    else:
        at_least, at_most = np.maximum(at_least, first), np.minimum(at_most, last)
    start = first + -((first - at_least) // step) * step
    return start, np.maximum((at_most - start) // step + 1, 0)


def _array(values: tuple[int, ...]) -> Ints:
    return np.asarray(values, dtype=np.int64)
