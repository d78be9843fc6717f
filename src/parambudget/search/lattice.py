"""The points of a search space as arrays: columns of (dim, heads, experts, widths), each under all depths."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from itertools import product
from math import prod
from typing import Any, Final, cast

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import ffn_convention
from parambudget.arch.dims import (
    Dims,
    Size,
    active_expert_width,
    can_route,
    has_attention_layers,
    has_ffn_layers,
)
from parambudget.arch.fields import ModelFields
from parambudget.arch.mixers.proportions import mixer_sizes_at
from parambudget.arch.sizes import with_sizes
from parambudget.arch.validation import LARGEST_SIZE
from parambudget.errors import InputError
from parambudget.search.axis import Axis
from parambudget.search.space import EXPERT_AXES, SearchSpace

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Strings = np.ndarray[Any, np.dtype[np.str_]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Index = Ints | Bools | slice
"""What selects some of an array's elements and keeps it an array."""

MOST_ROWS: Final = 10**8
_UNBOUNDED: Final = 2**62


@dataclass(frozen=True, eq=False)
class Lattice:
    """Columns of equal length C; a column is one width, head layout, mix of experts and run of FFN widths.

    The widths of column c, of the FFN or of one expert, are first[c] + i * step for 0 <= i < run[c]. Every
    column stands under every depth, so there are len(n_layers) * C rows and len(n_layers) * run.sum() points.
    """

    n_layers: Ints
    columns: dict[str, Ints]
    """Sizes by name that are the same for all points of a column."""
    first: Ints
    run: Ints
    step: int

    @property
    def n_points(self) -> int:
        """Points of the lattice, exactly."""
        return len(self.n_layers) * int(self.run.sum())


def build_lattice(space: SearchSpace) -> Lattice:
    """The lattice of a search space; combinations that make no model (a group that does not divide, more
    experts per token than there are) are no points."""
    kv_axis = space.kv_groups or space.n_kv_heads
    axes = [axis.values if axis else (0,) for axis in (space.dim, space.head_dim, kv_axis, space.n_heads)]
    shape, runs = [len(values) for values in axes], _ffn_runs(space)
    mixes = [axis.values for axis in _axes_of_mixes(space).values()]
    n_rows = prod(shape) * len(runs) * len(space.n_layers.values) * prod(map(len, mixes))
    if n_rows > MOST_ROWS:
        raise InputError(
            f"the search space has more than {MOST_ROWS:,} rows; use larger steps or fewer values"
        )
    dims, head_dims, kvs, heads = map(_int_array, axes)
    d, h, kv = dims[:, None, None, None], head_dims[:, None, None], kvs[:, None]
    n_heads = d // h if space.n_heads is None else heads
    fits = (n_heads % kv == 0) & ((d % h == 0) | (space.n_heads is not None))
    fits = fits & _allows_heads(space.choices, n_heads, n_heads // kv if space.kv_groups else kv)
    fits = np.broadcast_to(fits, shape)
    width, head_at, kv_at, heads_at = np.nonzero(fits)
    mix = _expert_mixes(space)
    first, many = (of_dims[..., width] for of_dims in _ffn_widths(space, runs, mix))
    run_at, mix_at, column = np.nonzero(many)
    dim, head_dim, kv = dims[width[column]], head_dims[head_at[column]], kvs[kv_at[column]]
    n_heads = dim // head_dim if space.n_heads is None else heads[heads_at[column]]
    if not has_attention_layers(space.choices) and space.choices.mla is None:
        head_dim = dim  # of the one head that the config has
    n_kv_heads = n_heads // kv if space.kv_groups else kv
    sizes = {"dim": dim, "head_dim": head_dim, "n_heads": n_heads, "n_kv_heads": n_kv_heads}
    sizes |= {name: values[mix_at] for name, values in mix.sizes.items()}
    if space.mixer_follows_dim:
        sizes |= mixer_sizes_at(space.choices, dim)
    at = (run_at, mix_at, column)
    return Lattice(_int_array(space.n_layers.values), sizes, first[at], many[at], runs[0].step)


def _allows_heads(choices: ModelConfig, n_heads: Ints, n_kv_heads: Ints) -> Any:
    """Where heads go with what layers without a window have of their own, and with differential attention."""
    own = choices.global_n_kv_heads
    allowed = n_heads % own == 0 if own is not None and choices.global_n_heads is None else True
    return allowed & (n_kv_heads % 2 == 0) if choices.differential_attention else allowed


@dataclass(frozen=True, eq=False)
class _ExpertMixes:
    """The possible numbers of experts, one mix an element: per_width * width + fixed is the active FFN width.

    A dense model has one mix, of one FFN.
    """

    sizes: dict[str, Ints]
    per_width: Ints
    fixed: Ints


def _axes_of_mixes(space: SearchSpace) -> dict[str, Axis]:
    """The axes that a mix of experts is a choice from; none without experts."""
    if space.choices.moe is None:
        return {}
    axes = {name: space.axis(name) for name in (*EXPERT_AXES, "intermediate_size")}
    return {name: axis for name, axis in axes.items() if axis is not None}


def _expert_mixes(space: SearchSpace) -> _ExpertMixes:
    axes, moe = _axes_of_mixes(space), space.choices.moe
    if moe is None:
        return _ExpertMixes({}, _int_array([1]), _int_array([0]))
    every = _int_array(list(product(*(axis.values for axis in axes.values())))).T
    possible = can_route(every[0], every[1], moe.n_expert_groups, moe.n_groups_per_token)
    sizes = dict(zip(axes, every[:, possible], strict=True))
    per_token, n_shared = sizes["n_experts_per_token"], sizes["n_shared_experts"]
    if moe.shared_intermediate_size is None:
        return _ExpertMixes(sizes, per_token + n_shared, 0 * n_shared)
    sizes["shared_intermediate_size"] = np.full_like(n_shared, moe.shared_intermediate_size)
    return _ExpertMixes(sizes, per_token, n_shared * moe.shared_intermediate_size)


def _ffn_runs(space: SearchSpace) -> list[range]:
    """Widths as arithmetic runs: one for multiples or an even list, one per width for an uneven list; one
    width where no layer has an FFN."""
    if not has_ffn_layers(space.choices):
        return [range(1, 2)]
    axis = space.expert_intermediate_size if space.choices.moe else space.intermediate_size
    if axis is None:
        return [range(space.multiple, LARGEST_SIZE + 1, space.multiple)]
    values = axis.values
    step = values[1] - values[0] if len(values) > 1 else 1
    even = range(values[0], values[-1] + 1, step)
    return [even] if values == tuple(even) else [range(value, value + 1) for value in values]


def _ffn_widths(space: SearchSpace, runs: list[range], mixes: _ExpertMixes) -> tuple[Ints, Ints]:
    """Of every run, under every mix and every dim: the first width whose active width is within the exact
    bounds of the ratio, and how many there are. Where no layer has an FFN, the one that its config has."""
    if not has_ffn_layers(space.choices):
        usual = [ffn_convention(dim, space.choices.gated) for dim in space.dim.values]
        return _int_array(usual)[None, None], np.ones((1, 1, len(usual)), dtype=np.int64)
    low, high = space.ffn_ratio or (Fraction(0), Fraction(_UNBOUNDED))
    # Python's ints: a ratio of many digits would overflow the array's.
    (a, b), (c, d) = low.as_integer_ratio(), high.as_integer_ratio()
    at_least = _int_array([-(-a * dim // b) for dim in space.dim.values])
    at_most = _int_array([min(c * dim // d, _UNBOUNDED) for dim in space.dim.values])
    start, stop, step = _int_array([(run.start, run.stop, run.step) for run in runs]).T[:, :, None, None]
    per_width, fixed = mixes.per_width[:, None], mixes.fixed[:, None]
    narrowest, widest = -((fixed - at_least) // per_width), (at_most - fixed) // per_width
    first = start + np.maximum(-((start - narrowest) // step), 0) * step
    return first, np.maximum((np.minimum(widest, stop - 1) - first) // step + 1, 0)


def _int_array(values: Sequence[int] | Sequence[tuple[int, ...]]) -> Ints:
    return np.asarray(values, dtype=np.int64)


_COUNTS: Final = ("counted", "active")


@dataclass(frozen=True, eq=False)
class Candidates:
    """Points of a lattice as equally long arrays; None where the choices have no such size."""

    n_layers: Ints
    dim: Ints
    head_dim: Ints
    n_heads: Ints
    n_kv_heads: Ints
    intermediate_size: Ints
    """Of the FFN; of dense layers where the others have experts."""
    counted: Ints
    n_experts: Ints | None = None
    n_experts_per_token: Ints | None = None
    n_shared_experts: Ints | None = None
    expert_intermediate_size: Ints | None = None
    shared_intermediate_size: Ints | None = None
    active: Ints | None = None
    """Active parameters, where they have a target of their own; None elsewhere."""
    mixer: dict[str, Ints] | None = None
    """Sizes of a mixer that follows dim, by name."""

    def __len__(self) -> int:
        return len(self.counted)

    def select(self, index: Index) -> "Candidates":
        """The points at an index array, a mask or a slice."""
        return Candidates.of({name: values[index] for name, values in self._arrays().items()})

    def columns(self) -> dict[str, Ints]:
        """The sizes by name, for `with_sizes`."""
        return {name: values for name, values in self._arrays().items() if name not in _COUNTS}

    def sizes(self, i: int) -> ModelFields:
        """The sizes of point i as plain ints, ready for `ModelConfig.replace`."""
        return cast(ModelFields, {name: int(values[i]) for name, values in self.columns().items()})

    def counts(self) -> list[Ints]:
        """What the points count against each target."""
        return [self.counted] if self.active is None else [self.counted, self.active]

    @property
    def ffn_width(self) -> Ints:
        """The active FFN width: of a token's experts and the shared ones, side by side."""
        width: Ints = self.intermediate_size if self.n_experts is None else active_expert_width(self)
        return width

    def _arrays(self) -> dict[str, Ints]:
        own = {name: v for name, v in vars(self).items() if v is not None and name != "mixer"}
        return own | (self.mixer or {})

    @classmethod
    def of(cls, arrays: Mapping[str, Ints]) -> "Candidates":
        """The points with these sizes by name; those that every model has no field for are its mixer's."""
        known = {field.name for field in fields(cls)}
        mixer = {name: values for name, values in arrays.items() if name not in known}
        own = {name: values for name, values in arrays.items() if name in known}
        return cls(**own, mixer=mixer or None)

    @classmethod
    def concatenate(cls, parts: "Sequence[Candidates]") -> "Candidates":
        """The points of all parts, one or more."""
        arrays = [part._arrays() for part in parts]
        return cls.of({name: np.concatenate([part[name] for part in arrays]) for name in arrays[0]})


def candidate_models(choices: ModelConfig, points: Candidates) -> Iterator[tuple[Index, Dims]]:
    """The points as models of the choices, with where they are; those with as many shared experts together,
    which to the table are a choice and not an array."""
    columns = points.columns()
    shared = columns.pop("n_shared_experts", None)
    if shared is None:
        yield slice(None), with_sizes(choices, **columns)
        return
    for n_shared in np.unique(shared).tolist():
        here = shared == n_shared
        sizes = {name: values[here] for name, values in columns.items()}
        yield here, with_sizes(choices, **sizes, n_shared_experts=n_shared)


def evaluate_points(choices: ModelConfig, points: Candidates, quantity: Callable[[Dims], Size]) -> Floats:
    """A quantity of every point."""
    values = np.empty(len(points))
    for here, m in candidate_models(choices, points):
        values[here] = quantity(m)
    return values


def count_errors(counts: Sequence[Ints], targets: Sequence[int]) -> Ints | Floats:
    """How far points are from their target in parameters; with two targets, the larger relative error."""
    off = [np.abs(count - target) for count, target in zip(counts, targets, strict=True)]
    if len(off) == 1:
        return off[0]
    # Correctly rounded quotients of whole numbers: equal shares are equal floats.
    larger: Floats = np.maximum(off[0] / targets[0], off[1] / targets[1])
    return larger
