"""A training run told to a person: what it will be and how it ended; how it goes is in `render.training`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from parambudget.arch.config import ModelConfig
from parambudget.cost.params import total
from parambudget.render.console import plain_table
from parambudget.text.token_cache import TokenData
from parambudget.training.defaults import ResolvedTrainConfig
from parambudget.training.forecast import Prediction
from parambudget.training.metrics import Step, TrainResult
from parambudget.units import format_bytes, format_count, format_mfu, format_seconds, format_share


def introduction(model: ModelConfig, device: str, data: TokenData, out: Path) -> Table:
    """What will be trained, on what and where."""
    table = Table.grid(padding=(0, 2))
    table.add_row("model", f"{total(model):,} parameters, on {device}")
    held_out = f"{data.n_held_out:,} held out"
    if not data.n_held_out and len(data.validation):
        held_out = f"the end of {'the longest' if data.n_documents > 1 else 'it'} held out"
    documents = f"{data.n_documents:,} document{'s' * (data.n_documents != 1)}, {held_out}"
    table.add_row("text", f"{data.name}: {documents}, sha256 {data.sha256[:16]}")
    length = f"{data.train_bytes / len(data.train):.2f} bytes each"
    table.add_row("tokens", f"{format_count(len(data.train))} to train on, {length}")
    fewer = f", fewer than vocab_size={model.vocab_size:,}: rarer ones could hardly be learned"
    entries = f"{data.entries:,} entries{fewer if data.entries < model.vocab_size else ''}"
    table.add_row("tokenizer", entries)
    table.add_row("out", str(out))
    return table


def settings(completed: ResolvedTrainConfig, model: ModelConfig) -> Group:
    """Every setting, with the reason of those that were filled in."""
    table = plain_table()
    for heading in ("setting", "value", "why"):
        table.add_column(heading)
    config = completed.config
    update_tokens = config.step.tokens_per_update(model.context_length)
    for name, value in config.model_dump().items():
        why = completed.reasons.get(name, "given" if name in completed.given else "")
        table.add_row(name, _written(value), why)
    whole = f"{format_count(config.steps * update_tokens)} tokens"
    return Group("", table, "", f"{config.steps:,} updates of {update_tokens:,} tokens: {whole}", "")


def conclusion(result: TrainResult, model: ModelConfig) -> Table:
    """What came of the run."""
    table = Table.grid(padding=(0, 2))
    table.add_row()
    table.add_row("parameters", f"{result.parameters:,} (planned {total(model):,})")
    table.add_row(
        "trained", f"{result.steps:,} updates, {result.tokens:,} tokens, {format_seconds(result.seconds)}"
    )
    planned = result.planned or {}
    rate, peak = planned.get("tokens_per_second"), planned.get("peak_memory_bytes")
    speed = f"{result.tokens_per_second:,.0f} tokens/s on {result.device}"
    if rate is not None:
        speed += f", planned {rate:,.0f} ({format_share(result.tokens_per_second / rate - 1, 1)})"
    if result.mfu is not None and result.peak_flops is not None:
        speed += f", MFU {format_mfu(result.mfu, result.peak_flops)}"
    table.add_row("speed", speed)
    if result.peak_memory_bytes is not None:
        held = format_bytes(result.peak_memory_bytes)
        if peak is not None:
            off = format_share(result.peak_memory_bytes / peak - 1, 1)
            held += f", planned {format_bytes(peak)} ({off})"
        table.add_row("peak memory", held)
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


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value or "none")


MOST_SILENT_SECONDS: Final = 30.0
PLAIN_LINES: Final = 20
"""Lines for a whole run where the output is no terminal, beside evaluations and long silences."""
KEPT: Final = 0.95
"""Of the smoothed loss at each update: it is a mean over about the last 20."""

Memory = Callable[[], int | None]


@contextmanager
def watching(
    console: Console,
    n_steps: int,
    peak_flops: float | None,
    memory: Memory,
    planned: Prediction | None = None,
) -> Iterator[Callable[[Step], None]]:
    """What to call after each update; `memory` gives the most bytes held so far, where that is known.

    What was `planned` stands beside what is measured.
    """
    figures = Figures(n_steps, peak_flops, memory, planned)
    if not console.is_terminal:
        yield _plain(console, figures)
        return
    bar = Progress(
        TextColumn("training"), BarColumn(bar_width=None), MofNCompleteColumn(),
        TextColumn("left:"), TimeRemainingColumn(compact=True), TextColumn(_whole(planned, n_steps)),
        console=console, expand=True,
    )  # fmt: skip
    with Live(bar, console=console, refresh_per_second=4) as live:
        task: TaskID | None = None

        def show(step: Step) -> None:
            nonlocal task
            if task is None:  # a resumed run does not start at 0
                task = bar.add_task("train", total=n_steps, completed=step.step - 1)
            bar.update(task, completed=step.step)
            live.update(Group(bar, Padding(figures.written(step), (0, 0, 0, 2))))
            if step.val_loss is not None or step.skipped:
                live.console.print(figures.line(step), highlight=False)

        yield show


@dataclass
class Figures:
    """What is told of an update; keeps the smoothed loss, so each update is told once."""

    n_steps: int
    peak_flops: float | None
    """What the MFU is a share of."""
    memory: Memory
    planned: Prediction | None = None
    _sum: float = 0.0
    _weight: float = 0.0
    _told: int = -1

    def line(self, step: Step) -> str:
        """The update on a line of its own, with an evaluation if one followed it."""
        line = f"step {step.step:>{len(str(self.n_steps))}}/{self.n_steps}  {self.written(step)}"
        if step.val_loss is not None:
            line += f"  val {step.val_loss:.4f}  bits/byte {step.val_bits_per_byte:.4f}"
        return line

    def written(self, step: Step) -> str:
        """Loss and smoothed loss, learning rate, speed and memory."""
        self.note(step)
        loss = f"loss {step.loss:.4f}" if step.loss is not None else "loss not finite"
        rate, peak = (None, None) if self.planned is None else self.planned.table_cells
        parts = [loss, f"lr {step.lr:.2e}", f"{step.tokens_per_second:,.0f} tok/s{_beside(rate)}"]
        if self._weight:
            parts.insert(1, f"smoothed {self._sum / self._weight:.4f}")
        if step.mfu is not None and self.peak_flops is not None:
            parts.append(f"MFU {format_mfu(step.mfu, self.peak_flops)}")
        if (held := self.memory()) is not None:
            parts.append(f"peak {format_bytes(held)}{_beside(peak)}")
        if step.skipped:
            parts.append("update skipped")
        return "  ".join(parts)

    def note(self, step: Step) -> None:
        """Let the smoothed loss take in an update that is not told of."""
        if step.step != self._told and step.loss is not None:
            self._sum = KEPT * self._sum + (1 - KEPT) * step.loss
            self._weight = KEPT * self._weight + (1 - KEPT)
        self._told = step.step


def _beside(planned: str | None) -> str:
    return "" if planned is None else f" (planned {planned})"


def _whole(planned: Prediction | None, n_steps: int) -> str:
    """How long all updates were planned to take."""
    if planned is None or planned.update_seconds is None:
        return ""
    return f"planned: {format_seconds(n_steps * planned.update_seconds)}"


def _plain(console: Console, figures: Figures) -> Callable[[Step], None]:
    every = -(-figures.n_steps // PLAIN_LINES)
    last = perf_counter()

    def show(step: Step) -> None:
        nonlocal last
        figures.note(step)
        silent = perf_counter() - last > MOST_SILENT_SECONDS
        if silent or step.step == 1 or step.step % every == 0 or step.val_loss is not None or step.skipped:
            console.print(figures.line(step), highlight=False, soft_wrap=True)
            last = perf_counter()

    return show
