"""The count of every point of a lattice, from a few evaluations of the table of tensors.

For fixed other sizes a count is affine in the number of layers of each kind and in the width of the FFN or of
one expert: count = outside + sum over kinds of n * (narrowest + i * step), where point i of a column has the
width first + i * the lattice's step. A kind has a FFN (dense layers) or experts; most models have one kind.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from parambudget.arch.config import ModelConfig, met_width, n_moe_layers, some_dense
from parambudget.arch.dims import Size, with_sizes
from parambudget.errors import InputError
from parambudget.plan.arrays import Floats, Ints
from parambudget.plan.space import SearchSpace
from parambudget.search.lattice import Lattice

MOST: Final = 2**53
"""No point counts as much: floats hold every integer up to here."""
_LAYERS: Final = np.array([[0.0], [1.0], [1.0]])
_WIDTHS: Final = np.array([[0.0], [0.0], [1.0]])

Counter = Callable[[Any], Size]


@dataclass(frozen=True, eq=False)
class Kind:
    """Layers of one kind: how many there are at each depth, and what one of them counts in each column."""

    n_layers: Floats
    narrowest: Floats
    step: Floats


@dataclass(frozen=True, eq=False)
class Affine:
    """What every point of a lattice counts. Floats, all of them whole."""

    outside: Floats
    kinds: tuple[Kind, ...]
    widest: tuple[Floats, ...]
    """One layer of each kind at the greatest width."""

    @classmethod
    def of(cls, space: SearchSpace, lattice: Lattice, counter: Counter) -> "Affine":
        """Three evaluations for each kind, not algebra, so that the search stays right when a new tensor
        joins the table."""
        depths, columns = lattice.n_layers.astype(np.float64), len(lattice.first)
        kinds, outside = [], np.empty(columns)
        for n_layers, layers in _kinds(space.choices, depths):
            narrowest, step = np.empty(columns), np.empty(columns)
            for choices, here in _by_shared_experts(space.choices, lattice):
                m = _dims(choices, lattice, here, layers)
                empty, one_layer, one_wide = np.broadcast_to(counter(m), (3, len(lattice.first[here])))
                outside[here], step[here] = empty, (one_wide - one_layer) * lattice.step
                narrowest[here] = one_layer - empty + (one_wide - one_layer) * lattice.first[here]
            kinds.append(Kind(n_layers, narrowest, step))
        widest = tuple(kind.narrowest + (lattice.run - 1) * kind.step for kind in kinds)
        found = cls(outside, tuple(kinds), widest)
        if found.extent()[1] >= MOST:
            raise InputError(
                "the largest model of the lattice has 9.0e15 or more parameters; lower the upper ends"
            )
        return found

    def extent(self) -> tuple[float, float]:
        """The least and the greatest count on the lattice."""
        least, greatest = self.outside, self.outside
        for kind, widest in zip(self.kinds, self.widest, strict=True):
            least, greatest = least + kind.n_layers[0] * kind.narrowest, greatest + kind.n_layers[-1] * widest
        return float(least.min()), float(greatest.max())

    def depths(self, columns: slice, low: int, high: int) -> tuple[Any, Any]:
        """For some columns the first and the end of the depths at which they can count low..high.

        Deeper counts more, so these are consecutive. With layers of two kinds they are all: only the widths
        then tell.
        """
        depths = self.kinds[0].n_layers
        if len(self.kinds) > 1:
            every = np.zeros(len(self.outside[columns]), dtype=np.int64)
            return every, every + len(depths)
        outside, narrowest = self.outside[columns], self.kinds[0].narrowest[columns]
        shallowest = np.searchsorted(depths, (low - outside) / self.widest[0][columns], "left")
        return shallowest, np.searchsorted(depths, (high - outside) / narrowest, "right")

    def row(self, column: Ints, depth: Ints) -> tuple[Floats, Floats]:
        """What columns at depths count at the narrowest, and what each further width adds."""
        first, *others = self.kinds
        n_layers = first.n_layers[depth]
        base, slope = self.outside[column] + n_layers * first.narrowest[column], n_layers * first.step[column]
        for kind in others:
            n_layers = kind.n_layers[depth]
            base, slope = base + n_layers * kind.narrowest[column], slope + n_layers * kind.step[column]
        return base, slope


def _kinds(choices: ModelConfig, depths: Floats) -> list[tuple[Floats, dict[str, Any]]]:
    """Every kind of layer: how many at each depth, and the layers of its three evaluations."""
    if choices.moe is None or not some_dense(choices.moe):
        return [(depths, {"n_layers": _LAYERS})]
    experts = np.asarray(n_moe_layers(choices.moe, depths))
    return [
        (depths - experts, {"n_layers": _LAYERS, "n_dense_layers": _LAYERS, "n_moe_layers": 0.0}),
        (experts, {"n_layers": _LAYERS, "n_dense_layers": 0.0, "n_moe_layers": _LAYERS}),
    ]


def _by_shared_experts(choices: ModelConfig, lattice: Lattice) -> list[tuple[ModelConfig, Any]]:
    """The columns with each number of shared experts, which to the table is a choice and no array."""
    shared = lattice.columns.get("n_shared_experts")
    if shared is None:
        return [(choices, slice(None))]
    return [(choices.replace(n_shared_experts=n), shared == n) for n in np.unique(shared).tolist()]


def _dims(choices: ModelConfig, lattice: Lattice, here: Any, layers: dict[str, Any]) -> Any:
    """The columns as models of the three evaluations."""
    sizes = {name: values[here].astype(np.float64) for name, values in lattice.columns.items()}
    if choices.moe is None:
        return with_sizes(choices, intermediate_size=_WIDTHS, **sizes, **layers)
    sizes |= {"expert_intermediate_size": _WIDTHS, "n_shared_experts": choices.moe.n_shared_experts}
    m = with_sizes(choices, **sizes, **layers)
    if "intermediate_size" in sizes:
        return m
    return with_sizes(choices, **sizes, **layers, intermediate_size=met_width(m.moe))
