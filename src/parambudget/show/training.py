"""A training run told to a person: what it will be, how it goes, how it ended."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Final

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from parambudget.arch.config import ModelConfig
from parambudget.cost.count import total
from parambudget.show.console import plain_table
from parambudget.train.defaults import Completed
from parambudget.train.results import Step, TrainResult
from parambudget.train.tokens import TokenData
from parambudget.units import format_bytes, format_count, format_seconds

MOST_SILENT_SECONDS: Final = 30.0
PLAIN_LINES: Final = 20
"""Lines for a whole run where the output is no terminal, beside evaluations and long silences."""


def introduction(model: ModelConfig, device: str, data: TokenData, out: Path) -> Table:
    """What will be trained, on what and where."""
    table = Table.grid(padding=(0, 2))
    table.add_row("model", f"{total(model):,} parameters, on {device}")
    documents = f"{data.n_documents:,} documents, {data.n_held_out:,} held out"
    table.add_row("text", f"{data.name}: {documents}, sha256 {data.sha256[:16]}")
    length = f"{data.train_bytes / len(data.train):.2f} bytes each"
    table.add_row("tokens", f"{format_count(len(data.train))} to train on, {length}")
    fewer = f", fewer than vocab_size={model.vocab_size:,}: rarer ones could hardly be learned"
    entries = f"{data.entries:,} entries{fewer if data.entries < model.vocab_size else ''}"
    table.add_row("tokenizer", entries)
    table.add_row("out", str(out))
    return table


def settings(completed: Completed, model: ModelConfig) -> Group:
    """Every setting, with the reason of those that were filled in."""
    table = plain_table()
    for heading in ("setting", "value", "why"):
        table.add_column(heading)
    config = completed.config
    update_tokens = config.sequences_per_update * model.context_length
    for name, value in config.model_dump().items():
        why = completed.reasons.get(name, "given" if name in completed.given else "")
        table.add_row(name, _written(value), why)
    whole = f"{format_count(config.steps * update_tokens)} tokens"
    return Group("", table, "", f"{config.steps:,} updates of {update_tokens:,} tokens: {whole}", "")


@contextmanager
def watching(console: Console, n_steps: int) -> Iterator[Callable[[Step], None]]:
    """What to call after each update: a live line on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield _plain(console, n_steps)
        return
    columns = (
        MofNCompleteColumn(),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as progress:
        task: TaskID | None = None

        def show(step: Step) -> None:
            nonlocal task
            if task is None:  # a resumed run does not start at 0
                task = progress.add_task("train", total=n_steps, completed=step.step - 1, figures="")
            progress.update(task, completed=step.step, figures=_figures(step))
            if step.val_loss is not None or step.skipped:
                progress.console.print(_line(step, n_steps), highlight=False)

        yield show


def conclusion(result: TrainResult, model: ModelConfig) -> Table:
    """What came of the run."""
    table = Table.grid(padding=(0, 2))
    table.add_row()
    table.add_row("parameters", f"{result.parameters:,} (planned {total(model):,})")
    table.add_row(
        "trained", f"{result.steps:,} updates, {result.tokens:,} tokens, {format_seconds(result.seconds)}"
    )
    speed = f"{result.tokens_per_second:,.0f} tokens/s on {result.device}"
    if result.mfu is not None:
        speed += f", {result.mfu:.1%} MFU (full convention, dense bf16 peak)"
    table.add_row("speed", speed)
    if result.peak_memory_bytes is not None:
        table.add_row("peak memory", format_bytes(result.peak_memory_bytes))
    if result.val_loss is not None and result.val_bits_per_byte is not None:
        table.add_row(
            "validation",
            f"{result.val_loss:.4f} nats per token, {result.val_bits_per_byte:.4f} bits per byte",
        )
    if result.checkpoint is not None:
        run = result.checkpoint.parent.parent
        table.add_row("checkpoint", str(result.checkpoint))
        table.add_row("next", f"parambudget runs show {run}, parambudget sample {run} --prompt ...")
    return table


def _plain(console: Console, n_steps: int) -> Callable[[Step], None]:
    every = -(-n_steps // PLAIN_LINES)
    last = perf_counter()

    def show(step: Step) -> None:
        nonlocal last
        silent = perf_counter() - last > MOST_SILENT_SECONDS
        if silent or step.step == 1 or step.step % every == 0 or step.val_loss is not None or step.skipped:
            console.print(_line(step, n_steps), highlight=False, soft_wrap=True)
            last = perf_counter()

    return show


def _line(step: Step, n_steps: int) -> str:
    line = f"step {step.step:>{len(str(n_steps))}}/{n_steps}  {_figures(step)}"
    if step.val_loss is not None:
        line += f"  val {step.val_loss:.4f}  bits/byte {step.val_bits_per_byte:.4f}"
    return line


def _figures(step: Step) -> str:
    loss = f"loss {step.loss:.4f}" if step.loss is not None else "loss not finite"
    parts = [loss, f"lr {step.lr:.2e}", f"{step.tokens_per_second:,.0f} tok/s"]
    if step.mfu is not None:
        parts.append(f"MFU {step.mfu:.1%}")
    if step.skipped:
        parts.append("update skipped")
    return "  ".join(parts)


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value or "none")
