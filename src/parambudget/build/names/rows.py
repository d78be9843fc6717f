"""How one tensor of a Hugging Face checkpoint is made of ours: a name, our names, and a way there and back.

In every name the first `*` runs over the layers and the second over experts or heads.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from parambudget.arch.config import ModelConfig

Shape = Sequence[int]


@dataclass(frozen=True)
class Way:
    """From our tensors to one of theirs and back; each undoes the other."""

    join: Callable[[Sequence[Tensor], ModelConfig], Tensor]
    split: Callable[[Tensor, Sequence[Shape], ModelConfig], Sequence[Tensor]]
    """Also takes the shapes of ours."""


@dataclass(frozen=True)
class Row:
    """One kind of tensor in their files."""

    theirs: str
    ours: tuple[str, ...]
    way: Way
    endings: Mapping[str, str]
    """What our names end with, and what theirs end with; an ending that a model lacks is no tensor."""


WEIGHT: Final = {".weight": ".weight"}
BIAS: Final = {".bias": ".bias"}
BOTH: Final = WEIGHT | BIAS
BARE: Final = {"": ""}
"""A parameter or buffer that is no module's weight or bias."""


def in_groups(n_groups: Callable[[ModelConfig], int]) -> Way:
    """Ours in equal groups of rows, the first group of each, then the second of each, and so on."""

    def join(parts: Sequence[Tensor], m: ModelConfig) -> Tensor:
        return torch.cat([part.unflatten(0, (n_groups(m), -1)) for part in parts], dim=1).flatten(0, 1)

    def split(whole: Tensor, shapes: Sequence[Shape], m: ModelConfig) -> Sequence[Tensor]:
        rows = [shape[0] // n_groups(m) for shape in shapes]
        return [part.flatten(0, 1) for part in whole.unflatten(0, (n_groups(m), -1)).split(rows, dim=1)]

    return Way(join, split)


def transposed(way: Way) -> Way:
    """The same with matrices as (in, out); vectors stay."""
    return Way(
        lambda parts, m: way.join(parts, m).t(),
        lambda whole, shapes, m: way.split(whole.t(), shapes, m),
    )


AS_IT_IS: Final = Way(lambda parts, _: parts[0], lambda whole, *_: [whole])
LESS_ONE: Final = Way(lambda parts, _: parts[0] - 1, lambda whole, *_: [whole + 1])
"""Scales of norms that are kept as what they exceed 1 by."""
ONE_AFTER_ANOTHER: Final = in_groups(lambda _: 1)
BY_KV_HEAD: Final = in_groups(lambda m: m.n_kv_heads)
"""The queries of one key/value head, its key and its value, then those of the next."""
IN_FOUR: Final = in_groups(lambda _: 4)
"""As CodeGen was laid out for four devices."""
OF_EXPERTS: Final = Way(
    lambda parts, _: torch.cat(list(parts), dim=1), lambda whole, *_: whole.chunk(2, dim=1)
)
"""Gate and up of all experts, (experts, rows, in)."""
TURNED: Final = Way(lambda parts, _: _turned(parts[0]), lambda whole, *_: [_turned(whole)])
"""Matrices of all experts as (experts, in, out)."""
ALTERNATING: Final = Way(
    lambda parts, _: _turned(torch.stack(list(parts), dim=2).flatten(1, 2)),
    lambda whole, *_: _turned(whole).unflatten(1, (-1, 2)).unbind(2),
)
"""The same of gate and up, a row of one and a row of the other."""


def _turned(stack: Tensor) -> Tensor:
    return stack.transpose(1, 2) if stack.dim() == 3 else stack


def plain(
    names: Mapping[str, str], way: Way = AS_IT_IS, endings: Mapping[str, str] = BOTH
) -> tuple[Row, ...]:
    """Rows of tensors that are one of ours each: our names and theirs."""
    return tuple(Row(theirs, (ours,), way, endings) for ours, theirs in names.items())


def fused(theirs: str, *ours: str, way: Way) -> Row:
    """One row of several of ours."""
    return Row(theirs, ours, way, BOTH)
