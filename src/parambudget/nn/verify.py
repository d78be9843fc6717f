"""The witness: the table of tensors held against a built module, tensor by tensor.

The module is written without knowledge of the table, so where names, shapes, layers and ties agree, the count
is true. The meta device holds shapes and no numbers: a 70B model is verified in a second, in no memory.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import nn

from parambudget.arch.config import ModelConfig
from parambudget.arch.tensors import Tensor, tensors
from parambudget.cost.params import total
from parambudget.errors import CheckFailed
from parambudget.nn.transformer import Transformer

Shape = tuple[int, ...]
Place = tuple[int, ...]
"""The numbers in a tensor's name: (5,) in `layers.5.ffn.up.weight`, () in `embed.weight`."""


@dataclass(frozen=True)
class Difference:
    """One thing that the table and the module say differently."""

    name: str
    table: str
    module: str

    def __str__(self) -> str:
        """One readable line."""
        return f"{self.name}: the table has {self.table}, the module has {self.module}"


@dataclass(frozen=True)
class Verification:
    """What came of holding a module against the table of its model."""

    model: ModelConfig
    n_tensors: int
    """Tensors of the module, a shared one once."""
    total: int
    """Parameters of the module, a shared one once."""
    differences: tuple[Difference, ...]
    """Empty if and only if the module is what was counted."""

    def require_agreement(self) -> None:
        """Raise `CheckFailed` with the first difference, if there is one."""
        if self.differences:
            more = f" (and {len(self.differences) - 1} more)" if len(self.differences) > 1 else ""
            raise CheckFailed(f"the built model is not the counted one: {self.differences[0]}{more}")


def verify(model: ModelConfig) -> Verification:
    """Build `model` on the meta device and hold it against the table."""
    return verify_module(Transformer(model, device="meta"), model)


def verify_module(module: nn.Module, model: ModelConfig) -> Verification:
    """Hold a built module, on whatever device, against the table of `model`."""
    built, rows = _read(module), tensors(model)
    differences = [
        difference
        for row in rows
        for difference in _compare(row, places(row, model), built.pop(row.name, None))
    ]
    differences += [
        Difference(name, "none", _many(group.shapes) + _at(group.shapes)) for name, group in built.items()
    ]
    parameters = list(module.parameters())
    held, counted = sum(parameter.numel() for parameter in parameters), total(model)
    if held != counted:
        differences.append(Difference("total", f"{counted:,} parameters", f"{held:,}"))
    return Verification(model, len(parameters), held, tuple(differences))


@dataclass
class _Group:
    """The module's tensors whose names differ in numbers only."""

    shapes: dict[Place, Shape] = field(default_factory=dict)
    shared_with: dict[Place, str] = field(default_factory=dict)


def _read(module: nn.Module) -> dict[str, _Group]:
    groups: dict[str, _Group] = defaultdict(_Group)
    first_names: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        parts = name.split(".")
        place = tuple(int(part) for part in parts if part.isdecimal())
        group = groups[".".join("*" if part.isdecimal() else part for part in parts)]
        group.shapes[place] = tuple(parameter.shape)
        first_name = first_names.setdefault(id(parameter), name)
        if first_name != name:
            group.shared_with[place] = first_name
    return dict(groups)


def places(row: Tensor, model: ModelConfig) -> list[Place]:
    """Where the tensors of a row stand: in which layers, and for which of their experts."""
    runs_over = row.name.count("*")
    if not runs_over:
        return [()]
    kinds = {"all": (True, False), "dense": (False,), "experts": (True,)}[row.layers]
    layers = [layer for layer in range(model.n_layers) if model.has_experts(layer) in kinds]
    if runs_over == 1 or model.moe is None:
        return [(layer,) for layer in layers]
    return [(layer, expert) for layer in layers for expert in range(model.moe.n_experts)]


def _compare(row: Tensor, where: list[Place], group: _Group | None) -> Iterator[Difference]:
    wanted = dict.fromkeys(where, row.shape)
    if not wanted and group is None:
        return  # a kind of layer that a model of this depth has none of
    if group is None:
        yield Difference(row.name, _many(wanted), "none")
        return
    lacking, surplus = wanted.keys() - group.shapes.keys(), group.shapes.keys() - wanted.keys()
    if lacking:
        yield Difference(row.name, _many(wanted), f"none{_at(lacking)}")
    if surplus:
        yield Difference(row.name, _many(wanted), f"more{_at(surplus)}")
    for shape in sorted(set(group.shapes.values()) - {row.shape}):
        places = [place for place, built in group.shapes.items() if built == shape]
        yield Difference(row.name, _times(row.shape), f"{_times(shape)}{_at(places)}")
    owner = row.shared_with
    for built in sorted({group.shared_with.get(place, "") for place in group.shapes} - {owner or ""}):
        places = [place for place in group.shapes if group.shared_with.get(place, "") == built]
        yield Difference(row.name, _tie(owner), f"{_tie(built)}{_at(places)}")


def _many(shapes: dict[Place, Shape]) -> str:
    kinds = " or ".join(sorted({_times(shape) for shape in shapes.values()}))
    return f"{len(shapes)} tensor{'s' if len(shapes) > 1 else ''} of {kinds}"


def _times(shape: Shape) -> str:
    return " × ".join(map(str, shape)) or "one element"


def _tie(owner: str | None) -> str:
    return f"{owner} itself" if owner else "a tensor of its own"


def _at(places: Iterable[Place]) -> str:
    numbers = [".".join(map(str, place)) for place in sorted(places) if place]
    if not numbers:
        return ""
    rest = f" and {len(numbers) - 6} more" if len(numbers) > 6 else ""
    return f" in layer{'s' if len(numbers) > 1 else ''} {', '.join(numbers[:6])}{rest}"
