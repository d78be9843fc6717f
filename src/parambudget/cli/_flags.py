"""Flags in place of Python's arguments, in the messages of the library.

The library names what it means as it is written in Python, in backticks: `machine`, `batch_size=16`,
`batch_size=16, gradient_accumulation_steps=8`. A command prints the flag of that name instead.
"""

import re
from typing import Final

from parambudget.arch.config import FIELDS

_OTHER_NAMES: Final = {"machine": "gpu", "max_tokens": "max-tokens", "dollars_per_hour": "price"}
"""Arguments whose flag is named differently."""
_ARGUMENTS: Final = frozenset({
    *_OTHER_NAMES, *FIELDS,
    # of a search, a plan and a report
    "target", "active", "tolerance", "like", "rank", "top", "gpus", "hours", "dollars", "flops", "memory",
    "law", "tokens", "unique_tokens", "bytes_per_token", "kv_groups", "ffn_ratio", "multiple",
    # of an update and a run
    "batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "optimizer", "loss_chunks",
    "shard", "data", "out", "resume", "init", "steps", "device", "wandb",
    # of a generation and an export
    "temperature", "top_k", "seed", "to", "model_type", "weights", "force",
})  # fmt: skip
"""What the library may name in backticks. Anything else there, such as a command, stays as it is."""
_SWITCHES: Final = {"True": "--", "False": "--no-"}
_QUOTED: Final = re.compile(r"`([^`]+)`")
_ASSIGNMENT: Final = re.compile(r"([a-z_]+)(?:=([^,\s]+))?")


def arguments_as_flags(message: str) -> str:
    """The message with flags in place of the arguments that it has in backticks."""
    return _QUOTED.sub(lambda quoted: _flags(quoted[1]) or quoted[0], message)


def _flags(arguments: str) -> str | None:
    """`batch_size=16, shard=True` as `--batch-size 16 --shard`; None for text that names no arguments."""
    flags = []
    for argument in arguments.split(", "):
        match = _ASSIGNMENT.fullmatch(argument)
        if match is None or match[1] not in _ARGUMENTS:
            return None
        name, value = _OTHER_NAMES.get(match[1], match[1]).replace("_", "-"), match[2]
        if value is None or value in _SWITCHES:
            flags.append(_SWITCHES.get(value or "True", "--") + name)
        else:
            flags.append(f"--{name} {value}")
    return " ".join(flags)
