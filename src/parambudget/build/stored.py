"""Which tensors a file of a Hugging Face class holds, and which of ours each is made of.

The smallest parts are ours: experts one by one, whether or not the module stacks them.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from parambudget.arch.config import ModelConfig
from parambudget.build.names.experts_like import EXPERTS_LIKE
from parambudget.build.names.gpt_like import GPT_LIKE
from parambudget.build.names.llama_like import LLAMA_LIKE
from parambudget.build.names.names import Names, Parts
from parambudget.build.names.ways import Way
from parambudget.errors import ConfigError

NAMES: Final[Mapping[str, Names]] = {**LLAMA_LIKE, **GPT_LIKE, **EXPERTS_LIKE}
"""By `model_type`."""
_KINDS: Final = (".weight", ".bias", "")


@dataclass(frozen=True)
class Stored:
    """One tensor of a file."""

    name: str
    parts: tuple[str, ...]
    """The names of ours."""
    way: Way
    less_one: bool = False

    def of(self, ours: Mapping[str, Tensor], m: ModelConfig) -> Tensor:
        """The tensor, made of ours."""
        joined = self.way.join([ours[part] for part in self.parts], m)
        return joined - 1 if self.less_one else joined

    def put(self, tensor: Tensor, ours: Mapping[str, Tensor], m: ModelConfig) -> None:
        """Copy its numbers to ours, in whatever precision they have."""
        places = [ours[part] for part in self.parts]
        for place, part in zip(
            places, self.way.split(tensor, [place.shape for place in places], m), strict=True
        ):
            place.copy_(part)
            if self.less_one:
                place.add_(1)


def names_of(kind: str) -> Names:
    """The names of a `model_type`."""
    if kind not in NAMES:
        raise ConfigError(
            f"weights of model_type {kind!r} have no known names; use one of {', '.join(NAMES)}"
        )
    return NAMES[kind]


def parts_of(tensors: Mapping[str, Tensor], m: ModelConfig, names: Names) -> dict[str, Tensor]:
    """The tensors of a module, a tied head once, those of all experts taken apart; views, not copies."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if m.tied and name == "lm_head.weight":
            continue
        stem, routed, rest = name.partition(".experts.")
        if routed and m.moe is not None and m.moe.fused_experts:
            found |= {f"{stem}.experts.{i}.{rest}": tensor[i] for i in range(m.moe.n_experts)}
        elif names.heads_apart and name.endswith(("q_norm.weight", "k_norm.weight")):
            stem, _, kind = name.rpartition(".")
            found |= {f"{stem}.{i}.{kind}": tensor[i] for i in range(len(tensor))}
        else:
            found[name] = tensor
    return found


def placed(
    kind: str, tensors: Mapping[str, Tensor], m: ModelConfig, held: Collection[str]
) -> tuple[list[Stored], dict[str, Tensor], Names]:
    """Where each tensor of a module stands among the tensors that are `held`, in the form of the class that
    lacks the fewest of them."""
    forms = []
    for form in names_of(kind).forms():
        parts = parts_of(tensors, m, form)
        rows = stored(form, parts, m)
        forms.append((sum(row.name not in held for row in rows), rows, parts, form))
    _, rows, parts, form = min(forms, key=lambda found: found[0])
    return rows, parts, form


def stored(names: Names, parts: Collection[str], m: ModelConfig) -> list[Stored]:
    """The tensors of a file, in the order of the layers; refuses a part that the class has no name for."""
    found = [row for theirs, ours in names.top.items() for row in _rows("", theirs, "", ours, names, parts)]
    block = names.block if names.parallel is None or m.block != "parallel" else names.parallel
    for layer in range(m.n_layers):
        place, own = f"{names.layers}.{layer}.", f"layers.{layer}."
        for theirs, ours in block.items():
            found += _rows(place, theirs, own, ours, names, parts)
    placed = {part for row in found for part in row.parts}
    if left := [part for part in parts if part not in placed]:
        raise ConfigError(f"this class has no place for {left[0]} (and {len(left) - 1} more tensors)")
    return found


def _rows(
    place: str, theirs: str, own: str, ours: Parts, names: Names, parts: Collection[str]
) -> Iterator[Stored]:
    """The tensors under one name of the class: weight, bias, one per expert, as far as the model has them."""
    way = names.way(theirs)
    for kind in _KINDS:
        mine = [f"{own}{part}{kind}" for part in ((ours,) if isinstance(ours, str) else ours)]
        less_one = names.norms_less_one and mine[0].endswith("norm.weight")
        if "*" not in mine[0]:
            if mine[0] in parts:
                yield Stored(f"{place}{theirs}{kind}", tuple(mine), way, less_one)
            continue
        n = 0
        while mine[0].replace("*", str(n)) in parts:
            n += 1
        if "*" in theirs:
            for i in range(n):
                one = tuple(part.replace("*", str(i)) for part in mine)
                yield Stored(f"{place}{theirs}{kind}".replace("*", str(i)), one, way, less_one)
        elif n:
            all_of_them = tuple(part.replace("*", str(i)) for part in mine for i in range(n))
            yield Stored(f"{place}{theirs}{kind}", all_of_them, way, less_one)


def shape_of(row: Stored, ours: Mapping[str, Tensor], m: ModelConfig) -> torch.Size:
    """The shape that the class gives the tensor."""
    return row.of({part: ours[part].to("meta") for part in row.parts}, m).shape
