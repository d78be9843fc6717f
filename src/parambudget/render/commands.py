"""Commands that a person is to run: they start the way this installation is started."""

import re
import shlex
from typing import Final

from parambudget._install import is_run_by_uv, program
from parambudget.cost.step import StepConfig

_NEED_TORCH: Final = ("train", "sample", "verify", "calibrate", "data", "runs", "ladder")
_RENDEZVOUS: Final = "--rdzv-backend c10d --rdzv-endpoint FIRST_NODE:29500"
YOUR_TEXT: Final = "YOUR_TEXT"
"""Stands in a command for the text to train on where none was named."""


def runnable_command(command: str, *words: str, processes: int = 1, nodes: int = 1) -> str:
    """`parambudget COMMAND WORDS...` as it can be pasted; words are flags and values as the shell reads them.

    `processes` are those of all nodes together; the command is run on every node. In `uv run`, the
    environment is uv's, so the command starts with `uv run`, with torch where it is needed.
    """
    start = program()
    if processes > 1:
        where = "--standalone" if nodes == 1 else f"--nnodes {nodes} {_RENDEZVOUS}"
        start = f"torchrun {where} --nproc-per-node {processes // nodes} --no-python {start}"
    if is_run_by_uv():
        start = f"uv run --extra train {start}" if command.split()[0] in _NEED_TORCH else f"uv run {start}"
    return " ".join([start, command, *(word for word in words if word)])


def step_flags(step: StepConfig) -> list[str]:
    """The flags with which `train` executes its updates so."""
    words = [
        f"--batch-size {step.batch_size}",
        f"--gradient-accumulation-steps {step.gradient_accumulation_steps}",
        "--gradient-checkpointing" if step.gradient_checkpointing else "--no-gradient-checkpointing",
    ]  # fmt: skip
    budget = step.activation_memory_budget
    words += [f"--activation-memory-budget {budget:g}"] if budget < 1 else []
    words += ["--optimizer adamw"] if step.optimizer == "adamw" else []
    words += [f"--loss-chunks {step.loss_chunks}"] if step.loss_chunks > 1 else []
    words += ["--shard"] if step.shard else []
    return [*words, *([] if step.shard_degree is None else [f"--shard-degree {step.shard_degree}"])]


def flag(name: str) -> str:
    """The flag of a field or an argument."""
    return f"--{name.replace('_', '-')}"


def value_flag(name: str, value: object) -> str:
    """A flag with its value, as the shell reads it."""
    return f"{flag(name)} {shlex.quote(str(value))}"


_COMMAND: Final = re.compile("`parambudget ([a-z][^`]*)`")


def with_runnable_commands(text: str) -> str:
    """The text with every command in backticks, as in `parambudget gpus`, in the form that can be pasted
    here."""
    return _COMMAND.sub(lambda command: f"`{runnable_command(command[1])}`", text)


def data_flag(data: object | None = None) -> str:
    """The flag that names the text to train on."""
    return f"--data {YOUR_TEXT if data is None else shlex.quote(str(data))}"
