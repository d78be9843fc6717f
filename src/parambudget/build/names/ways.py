"""How a class of Hugging Face keeps several of our tensors in one: each way there and back.

E experts
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from parambudget.arch.config import ModelConfig

_CODEGEN_PARTS: Final = 4


class Way(NamedTuple):
    """From our tensors to the one of the class, and from that one to ours."""

    join: Callable[[Sequence[Tensor], ModelConfig], Tensor]
    split: Callable[[Tensor, Sequence[torch.Size], ModelConfig], Sequence[Tensor]]
    """Told the shapes of ours."""


def _rows(parts: Sequence[Tensor], _: ModelConfig) -> Tensor:
    return torch.cat(tuple(parts)) if len(parts) > 1 else parts[0]


def _of_rows(whole: Tensor, shapes: Sequence[torch.Size], _: ModelConfig) -> Sequence[Tensor]:
    return whole.split([shape[0] for shape in shapes])


def _turned(parts: Sequence[Tensor], m: ModelConfig) -> Tensor:
    return _rows(parts, m).T if parts[0].dim() == 2 else _rows(parts, m)


def _of_turned(whole: Tensor, shapes: Sequence[torch.Size], m: ModelConfig) -> Sequence[Tensor]:
    return _of_rows(whole.T if whole.dim() == 2 else whole, shapes, m)


def _heads(parts: Sequence[Tensor], m: ModelConfig) -> Tensor:
    by_group = [part.unflatten(0, (m.n_kv_heads, -1)) for part in parts]
    return torch.cat(by_group, dim=1).flatten(0, 1)


def _of_heads(whole: Tensor, shapes: Sequence[torch.Size], m: ModelConfig) -> Sequence[Tensor]:
    by_group = whole.unflatten(0, (m.n_kv_heads, -1))
    parts = by_group.split([shape[0] // m.n_kv_heads for shape in shapes], dim=1)
    return [part.flatten(0, 1) for part in parts]


def _codegen(parts: Sequence[Tensor], _: ModelConfig) -> Tensor:
    q, k, v = (part.unflatten(0, (_CODEGEN_PARTS, -1)) for part in parts)
    return torch.stack((q, v, k), dim=1).flatten(0, 2)


def _of_codegen(whole: Tensor, _shapes: Sequence[torch.Size], _m: ModelConfig) -> Sequence[Tensor]:
    q, v, k = whole.unflatten(0, (_CODEGEN_PARTS, 3, -1)).unbind(1)
    return [part.flatten(0, 1) for part in (q, k, v)]


def _stacks(parts: Sequence[Tensor], m: ModelConfig) -> list[Tensor]:
    """The parts of every expert in one tensor, kind by kind: all gates, all ups."""
    assert m.moe is not None, "only experts are stacked"
    n_experts = m.moe.n_experts
    return [torch.stack(tuple(parts[i : i + n_experts])) for i in range(0, len(parts), n_experts)]


def _stacked(parts: Sequence[Tensor], m: ModelConfig) -> Tensor:
    return torch.cat(_stacks(parts, m), dim=1)


def _of_stacked(whole: Tensor, shapes: Sequence[torch.Size], _: ModelConfig) -> Sequence[Tensor]:
    n_experts = whole.shape[0]
    kinds = whole.split([shape[0] for shape in shapes[::n_experts]], dim=1)
    return [expert for kind in kinds for expert in kind]


def _alternating(parts: Sequence[Tensor], m: ModelConfig) -> Tensor:
    rows = torch.stack(_stacks(parts, m), dim=2).flatten(1, 2)
    return rows.transpose(1, 2) if rows.dim() == 3 else rows


def _of_alternating(whole: Tensor, shapes: Sequence[torch.Size], _: ModelConfig) -> Sequence[Tensor]:
    n_kinds = len(shapes) // whole.shape[0]
    rows = whole.transpose(1, 2) if whole.dim() == 3 else whole
    return [expert for kind in rows.unflatten(1, (-1, n_kinds)).unbind(2) for expert in kind]


ROWS: Final = Way(_rows, _of_rows)
"""One below the other; a tensor by itself as it is."""
TURNED: Final = Way(_turned, _of_turned)
"""One below the other, and matrices (in, out): the Conv1D of the first GPTs."""
HEADS: Final = Way(_heads, _of_heads)
"""Head after head: the queries that share a key, the key, the value."""
CODEGEN: Final = Way(_codegen, _of_codegen)
"""Queries, values and keys of a quarter of the heads, four times."""
STACKED: Final = Way(_stacked, _of_stacked)
"""All experts in one tensor (E, out, in), the gate above the up."""
ALTERNATING: Final = Way(_alternating, _of_alternating)
"""All experts in one tensor (E, in, out), columns of gate and up taking turns: GPT-OSS."""
