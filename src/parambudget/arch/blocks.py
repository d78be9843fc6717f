"""The nested blocks of a config, and its fields with and without them.

No field of a block has the name of another field, so a name alone says where it belongs: flags and keyword
arguments know no blocks.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel

from parambudget.arch.mla import MLA
from parambudget.arch.moe import MoE

BLOCKS: Final[dict[str, type[BaseModel]]] = {"moe": MoE, "mla": MLA}
"""The field of each block and its class."""


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with those of blocks, given by their own names, put into their blocks."""
    whole = dict(fields)
    for name, block in BLOCKS.items():
        own = {key: whole.pop(key) for key in block.model_fields if key in whole}
        held = whole.get(name)
        if isinstance(held, BaseModel | Mapping):
            whole[name] = dict(held) | own
        elif own and held is None:
            whole[name] = own
    return whole


def flat(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a model, each by its own name, those of blocks that are there behind the others."""
    whole = dict(fields)
    blocks = [block for name in BLOCKS if (block := whole.pop(name, None)) is not None]
    return whole | {name: value for block in blocks for name, value in block}
