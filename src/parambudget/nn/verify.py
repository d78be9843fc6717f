"""Compare the table of tensors with a built torch module, tensor by tensor.

The module is written without knowledge of the table: where names, shapes, layers and ties agree, the count is
right. The meta device holds shapes and no numbers: a 70B model is verified in a second without its memory.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from parambudget.arch.config import ModelConfig
from parambudget.arch.table import Tensor
from parambudget.arch.tensors import is_in_group, tensors
from parambudget.cost.params import total
from parambudget.errors import CheckFailed
from parambudget.nn.transformer import Transformer
from parambudget.units import count_phrase

Shape = tuple[int, ...]
Indices = tuple[int, ...]
"""The numbers in a tensor's name: (5,) in `layers.5.ffn.up.weight`, () in `embed.weight`."""


@dataclass(frozen=True)
class Difference:
    """One point on which the table and the module disagree."""

    name: str
    table: str
    module: str

    def __str__(self) -> str:
        """One line for a person to read."""
        return f"{self.name}: the table has {self.table}, the module has {self.module}"


@dataclass(frozen=True)
class Verification:
    """The result of comparing a module with the table of its model."""

    model: ModelConfig
    n_tensors: int
    """Tensors of the module, a shared one counted once."""
    total: int
    """Parameters of the module, a shared tensor counted once."""
    differences: tuple[Difference, ...]
    """Empty if and only if the module is what was counted."""

    def __str__(self) -> str:
        """One line: what was compared and agrees, or every difference."""
        if self.differences:
            return "the built model differs from the count: " + "; ".join(map(str, self.differences))
        counted = f"{count_phrase(self.n_tensors, 'tensor')}, {self.total:,} parameters"
        return f"verified: {counted}; the built model matches the count"

    def require_agreement(self) -> None:
        """Raise `CheckFailed` with the first difference, if there is any."""
        if self.differences:
            more = f" (and {len(self.differences) - 1} more)" if len(self.differences) > 1 else ""
            raise CheckFailed(f"the built model differs from the count: {self.differences[0]}{more}")


def verify(model: ModelConfig) -> Verification:
    """Build `model` on the meta device and compare it with the table."""
    return verify_module(Transformer(model, device="meta"), model)


def verify_module(module: nn.Module, model: ModelConfig) -> Verification:
    """Compare a built module, on any device, with the table of `model`."""
    rows = tensors(model)
    counted = {row.name for row in rows if row.is_buffer}
    buffers = {name: one for name, one in module.named_buffers() if _table_name(name) in counted}
    groups = _group_tensors(module, buffers)
    differences: list[Difference] = []
    by_name: dict[str, list[Tensor]] = defaultdict(list)
    for row in rows:
        by_name[row.name].append(row)
    for name, alike in by_name.items():
        shapes = {place: row.shape for row in alike for place in tensor_indices(row, model)}
        differences += _compare(alike[0], shapes, groups.pop(name, None))
    differences += [
        Difference(name, "none", _describe_shapes(group.shapes) + _describe_layers(group.shapes))
        for name, group in groups.items()
    ]
    parameters = [*module.parameters(), *buffers.values()]
    in_module, in_table = sum(parameter.numel() for parameter in parameters), total(model)
    if in_module != in_table:
        differences.append(Difference("total", f"{in_table:,} parameters", f"{in_module:,}"))
    return Verification(model, len(parameters), in_module, tuple(differences))


@dataclass
class _Group:
    """The module's tensors whose names differ only in their numbers."""

    shapes: dict[Indices, Shape] = field(default_factory=dict)
    shared_with: dict[Indices, str] = field(default_factory=dict)


def _table_name(name: str) -> str:
    """The name with * for its numbers."""
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


def _group_tensors(module: nn.Module, buffers: Mapping[str, torch.Tensor]) -> dict[str, _Group]:
    """The parameters of the module, and those of its buffers that the table counts."""
    groups: dict[str, _Group] = defaultdict(_Group)
    first_names: dict[int, str] = {}
    for name, parameter in (*module.named_parameters(remove_duplicate=False), *buffers.items()):
        index = tuple(int(part) for part in name.split(".") if part.isdecimal())
        group = groups[_table_name(name)]
        group.shapes[index] = tuple(parameter.shape)
        first_name = first_names.setdefault(id(parameter), name)
        if first_name != name:
            group.shared_with[index] = first_name
    return dict(groups)


def tensor_indices(row: Tensor, model: ModelConfig) -> list[Indices]:
    """The numbers in the names of a row's tensors: their layers, and with experts which of them."""
    n_wildcards = row.name.count("*")
    if not n_wildcards:
        return [()]
    layers = [layer for layer in range(model.n_layers) if is_in_group(model, row.layers, layer)]
    if n_wildcards == 1 or model.moe is None:
        return [(layer,) for layer in layers]
    return [(layer, expert) for layer in layers for expert in range(model.moe.n_experts)]


def _compare(row: Tensor, expected: dict[Indices, Shape], group: _Group | None) -> Iterator[Difference]:
    """`row` is one of those with this name, which are alike but for their shapes."""
    if not expected and group is None:
        return  # a kind of layer that a model of this depth does not have
    if group is None:
        yield Difference(row.name, _describe_shapes(expected), "none")
        return
    missing, surplus = expected.keys() - group.shapes.keys(), group.shapes.keys() - expected.keys()
    if missing:
        yield Difference(row.name, _describe_shapes(expected), f"none{_describe_layers(missing)}")
    if surplus:
        yield Difference(row.name, _describe_shapes(expected), f"more{_describe_layers(surplus)}")
    differing: dict[tuple[Shape, Shape], list[Indices]] = defaultdict(list)
    for index in expected.keys() & group.shapes.keys():
        if group.shapes[index] != expected[index]:
            differing[expected[index], group.shapes[index]].append(index)
    for (shape, built_shape), places in sorted(differing.items()):
        yield Difference(
            row.name, _format_shape(shape), f"{_format_shape(built_shape)}{_describe_layers(places)}"
        )
    owner = row.shared_with
    for built in sorted({group.shared_with.get(index, "") for index in group.shapes} - {owner or ""}):
        tied = [index for index in group.shapes if group.shared_with.get(index, "") == built]
        yield Difference(row.name, _describe_tie(owner), f"{_describe_tie(built)}{_describe_layers(tied)}")


def _describe_shapes(shapes: dict[Indices, Shape]) -> str:
    kinds = " or ".join(sorted({_format_shape(shape) for shape in shapes.values()}))
    return f"{len(shapes)} tensor{'s' if len(shapes) > 1 else ''} of {kinds}"


def _format_shape(shape: Shape) -> str:
    return " × ".join(map(str, shape)) or "one element"


def _describe_tie(owner: str | None) -> str:
    return f"{owner} itself" if owner else "a tensor of its own"


def _describe_layers(indices: Iterable[Indices]) -> str:
    numbers = [".".join(map(str, index)) for index in sorted(indices) if index]
    if not numbers:
        return ""
    rest = f" and {len(numbers) - 6} more" if len(numbers) > 6 else ""
    return f" in layer{'s' if len(numbers) > 1 else ''} {', '.join(numbers[:6])}{rest}"
