"""Every tensor of a Hugging Face checkpoint of a model, and the tensors of ours that it is made of."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from parambudget.arch.config import ModelConfig
from parambudget.arch.tensors import Tensor as TableRow
from parambudget.arch.tensors import tensors
from parambudget.build.names.experts_like import EXPERTS_LIKE
from parambudget.build.names.gpt_like import FALCON_OF_TWO_NORMS, GPT_LIKE
from parambudget.build.names.llama_like import LLAMA_LIKE
from parambudget.build.names.rows import Row, Shape, Way
from parambudget.build.verify import places

NAMES: Final[Mapping[str, tuple[Row, ...]]] = {**LLAMA_LIKE, **GPT_LIKE, **EXPERTS_LIKE}
"""The rows of each `model_type`."""


@dataclass(frozen=True)
class Entry:
    """One tensor of theirs."""

    theirs: str
    ours: tuple[str, ...]
    """A name may be of one expert where all lie in one tensor, or of all where each has its own."""
    shapes: tuple[Shape, ...]
    """Of ours."""
    way: Way
    model: ModelConfig

    def join(self, get: Callable[[str], Tensor]) -> Tensor:
        """Their tensor, of ours by name."""
        return self.way.join([get(name) for name in self.ours], self.model)

    def split(self, whole: Tensor) -> Mapping[str, Tensor]:
        """Ours by name, of theirs."""
        return dict(zip(self.ours, self.way.split(whole, self.shapes, self.model), strict=True))


def entries(kind: str, model: ModelConfig) -> list[Entry]:
    """The checkpoint of a class that this model is, in the order of the class's rows."""
    table = {row.name: row for row in (*tensors(model), *_buffers(model)) if row.shared_with is None}
    rows = FALCON_OF_TWO_NORMS if kind == "falcon" and model.block == "parallel" else NAMES[kind]
    return [entry for row in rows for entry in _of_row(row, table, model)]


def _buffers(model: ModelConfig) -> list[TableRow]:
    """What a checkpoint holds beside the parameters."""
    if model.moe is None or not model.moe.correction_bias:
        return []
    name, shape = "layers.*.ffn.correction", (model.moe.n_experts,)
    return [TableRow(name, shape, "bias", "router", model.n_moe_layers, layers="experts")]


def _of_row(row: Row, table: Mapping[str, TableRow], model: ModelConfig) -> Iterator[Entry]:
    for own_ending, their_ending in row.endings.items():
        found = [_held(f"{name}{own_ending}", table, model) for name in row.ours]
        held = [each for each in found if each is not None]
        if len(held) < len(found):
            continue
        shapes = tuple(shape for shape, _ in held)
        for place in held[0][1]:
            yield Entry(
                _at(f"{row.theirs}{their_ending}", place),
                tuple(_at(f"{name}{own_ending}", place) for name in row.ours),
                shapes,
                row.way,
                model,
            )


def _held(
    name: str, table: Mapping[str, TableRow], model: ModelConfig
) -> tuple[Shape, list[tuple[int, ...]]] | None:
    """Shape and places of what a name stands for: tensors of the table, a part of one, or several as one."""
    if name in table:
        return table[name].shape, places(table[name], model)
    whole = table.get(without_second(name))
    if whole is not None and name.count("*") == 2:
        return whole.shape[1:], [(*at, i) for at in places(whole, model) for i in range(whole.shape[0])]
    single = table.get(with_second(name, "*"))
    if single is not None and model.moe is not None:
        layers = sorted({at[:1] for at in places(single, model)})
        return (model.moe.n_experts, *single.shape), layers
    return None


def without_second(name: str) -> str:
    """The name of the tensor that holds those of all experts or heads, of the name of one."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part == "*" or part.isdecimal()]
    return ".".join(part for i, part in enumerate(parts) if i != numbers[1]) if len(numbers) > 1 else name


def with_second(name: str, number: object) -> str:
    """The name of one expert's tensor, of the name of the tensor that would hold all."""
    return name.replace(".experts.", f".experts.{number}.")


def _at(name: str, place: tuple[int, ...]) -> str:
    return name.replace("*", "{}").format(*place)
