"""Points of a lattice as equally long arrays."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from parambudget.arch.config import ModelConfig, met_width
from parambudget.arch.dims import Dims, Size, with_sizes
from parambudget.plan.arrays import Floats, Ints

_COUNTS: Final = ("counted", "active")


@dataclass(frozen=True, eq=False)
class Points:
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
    """What counts against a second budget, of what a token meets; None without one."""

    def __len__(self) -> int:
        return len(self.counted)

    def at(self, index: Any) -> "Points":
        """The points at an index array or mask."""
        return Points(**{name: values[index] for name, values in self._there().items()})

    def columns(self) -> dict[str, Ints]:
        """The sizes by name, for `with_sizes`."""
        return {name: values for name, values in self._there().items() if name not in _COUNTS}

    def sizes(self, i: int) -> dict[str, int]:
        """The sizes of point i as plain ints, ready for `ModelConfig.replace`."""
        return {name: int(values[i]) for name, values in self.columns().items()}

    def counts(self) -> list[Ints]:
        """What the points count against each budget."""
        return [self.counted] if self.active is None else [self.counted, self.active]

    @property
    def ffn_width(self) -> Ints:
        """Width of what a token meets in an FFN's place: of its experts and the shared ones, side by side."""
        width: Ints = self.intermediate_size if self.n_experts is None else met_width(self)
        return width

    def _there(self) -> dict[str, Ints]:
        return {name: values for name, values in self.__dict__.items() if values is not None}

    @classmethod
    def joined(cls, parts: "Sequence[Points]") -> "Points":
        """The points of all parts, one or more."""
        there = [part._there() for part in parts]
        return cls(**{name: np.concatenate([part[name] for part in there]) for name in there[0]})


def models(choices: ModelConfig, points: Points) -> Iterator[tuple[Any, Dims]]:
    """The points as models of the choices, with where they are; those with as many shared experts together,
    which to the table are a choice and no array."""
    columns = points.columns()
    shared = columns.pop("n_shared_experts", None)
    if shared is None:
        yield slice(None), with_sizes(choices, **columns)
        return
    for n_shared in np.unique(shared).tolist():
        here = shared == n_shared
        sizes = {name: values[here] for name, values in columns.items()}
        yield here, with_sizes(choices, **sizes, n_shared_experts=n_shared)


def reading(choices: ModelConfig, points: Points, read: Callable[[Any], Size]) -> Floats:
    """What `read` says of every point."""
    found = np.empty(len(points))
    for here, m in models(choices, points):
        found[here] = read(m)
    return found


def misses(counts: Sequence[Ints], targets: Sequence[int]) -> Any:
    """How far points are from their budget in parameters; from two budgets the larger of the shares."""
    off = [np.abs(some - target) for some, target in zip(counts, targets, strict=True)]
    if len(off) == 1:
        return off[0]
    # Correctly rounded quotients of whole numbers: equal shares are equal floats.
    return np.maximum(*(each / target for each, target in zip(off, targets, strict=True)))
