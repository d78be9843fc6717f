"""Runs told to a person, side by side."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from parambudget.cost.speed.profile import Stack
from parambudget.render.console import plain_table
from parambudget.render.terminal import table
from parambudget.text import prepare
from parambudget.text.shards import Manifest
from parambudget.training.calibrate import CalibrationProgress
from parambudget.training.metrics import Run
from parambudget.units import format_bytes, format_count, format_mfu, format_seconds, format_share


def runs_table(runs: Sequence[Run]) -> Table:
    """The figures of each run, one run a column."""
    table = plain_table()
    table.add_column("run")
    for run in runs:
        table.add_column(run.name, justify="right" if len(runs) > 1 else "left")
    columns = [_figures(run.as_dict()) for run in runs]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _figures(figures: dict[str, Any]) -> dict[str, str]:
    planned = f"{figures['planned']:,}"
    built = figures["parameters"]
    state = "finished" if figures["finished"] else "not finished"
    plan = figures["planned_figures"] or {}
    rate, peak, each = map(plan.get, ("tokens_per_second", "peak_memory_bytes", "update_seconds"))
    speed = f"{figures['tokens_per_second']:,.0f} tokens/s"
    return {
        "state": f"{state}, {figures['steps']:,} of {figures['planned_steps'] or figures['steps']:,} updates",
        "parameters": f"{planned} (as planned)" if built == figures["planned"] else _differ(built, planned),
        "tokens": format_count(figures["tokens"]),
        "time in updates": format_seconds(figures["update_seconds"])
        + _planned(each, lambda seconds: format_seconds(seconds * figures["steps"])),
        "speed": speed + _planned(rate, lambda rate: f"{rate:,.0f}"),
        "MFU": format_mfu(figures["mfu"], figures["peak_flops"])
        if figures["mfu"] is not None and figures["peak_flops"] is not None
        else "peak not known",
        "peak memory": "not measured"
        if figures["peak_memory_bytes"] is None
        else format_bytes(figures["peak_memory_bytes"]) + _planned(peak, format_bytes),
        "device": figures["device"] or "",
        "training loss": _written(figures["loss"], "{:.4f} nats per token", "not finite"),
        "validation loss": _written(figures["val_loss"], "{:.4f} nats per token", "not evaluated"),
        "": _written(figures["val_bits_per_byte"], "{:.4f} bits per byte", ""),
        "best validation": _written(figures["best_val_loss"], "{:.4f} at step ", "")
        + _written(figures["best_step"], "{:,}", ""),
        "updates skipped": f"{figures['skipped']:,}",
    }


def _planned(value: float | None, form: Callable[[float], str]) -> str:
    return "" if value is None else f" (planned {form(value)})"


def _differ(built: int | None, planned: str) -> str:
    return f"{planned} (planned)" if built is None else f"{built:,}, planned {planned}"


def _written(value: Any, form: str, missing: str) -> str:
    return missing if value is None else form.format(value)


PLAIN_SECONDS: Final = 10.0
"""Between two lines where the output is no terminal."""


@contextmanager
def preparing(console: Console) -> Iterator[Callable[[prepare.Progress], None]]:
    """What to call as the work goes on: a bar on a terminal, plain lines elsewhere."""
    started = perf_counter()
    first: prepare.Progress | None = None

    def figures(now: prepare.Progress) -> str:
        nonlocal first
        first = first or now
        rate = (now.n_bytes - first.n_bytes) / max(1e-9, perf_counter() - started)
        text, speed = format_bytes(now.n_bytes), format_bytes(rate)
        return f"{text} of text, {format_count(now.n_tokens)} tokens, {speed}/s"

    if not console.is_terminal:
        yield _plain(console, figures)
        return
    columns = (
        TaskProgressColumn(), BarColumn(bar_width=24), TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("prepare", total=1.0, figures="reading the source and its tokenizer")
        yield lambda now: bar.update(task, completed=now.share, figures=figures(now))


def prepared(manifest: Manifest, out: Path) -> Table:
    """What there is to train on."""
    table = Table.grid(padding=(0, 2))
    held_out = f"{manifest.validation.n_documents:,} held out"
    table.add_row("text", f"{manifest.source}: {manifest.n_documents:,} documents, {held_out}")
    length = f"{manifest.train_bytes / max(1, manifest.n_tokens):.2f} bytes each"
    table.add_row(
        "tokens",
        f"{manifest.n_tokens:,} to train on, {length}, and {manifest.validation.n_tokens:,} to validate",
    )
    table.add_row("tokenizer", f"{manifest.tokenizer}, {manifest.entries:,} entries")
    table.add_row("files", f"{len(manifest.shards):,} of {manifest.dtype} in {out}, listed in manifest.json")
    table.add_row("next", f"parambudget train ... --vocab-size {manifest.entries} --data {out}")
    return table


def _plain(
    console: Console, figures: Callable[[prepare.Progress], str]
) -> Callable[[prepare.Progress], None]:
    last = perf_counter()

    def show(now: prepare.Progress) -> None:
        nonlocal last
        line = figures(now)
        if perf_counter() - last > PLAIN_SECONDS:
            console.print(f"{now.share:4.0%}  {line}", highlight=False, soft_wrap=True)
            last = perf_counter()

    return show


def stack_lines(stack: Stack) -> list[str]:
    """What a device with its software reaches, and how far off predictions from it are claimed to be."""
    once, most = format_seconds(stack.micro_seconds), format_share(stack.fastest - 1, 0)
    least = format_seconds(stack.matrix_seconds)
    rows = [
        ["device", stack.device],
        ["software", f"{stack.name}, {stack.dtype}"],
        ["source", stack.source + (f", {stack.measured_on}" if stack.measured_on else "")],
        ["matmuls", f"{_rate(stack.matmul_flops)}, operands moved {stack.matmul_traffic:.2g} times"],
        ["attention", f"{_rate(stack.attention_flops)} of what the mask leaves"],
        ["Muon", f"{_rate(stack.newton_schulz_flops)}, {least} or more a matrix"],
        ["memory", f"{format_bytes(stack.bandwidth_bytes)} a second"],
        ["elementwise", f"{stack.element_bytes:.3g} bytes per token and output of a matmul"],
        ["loss", f"{stack.logit_bytes:.3g} bytes per token and entry of the vocabulary"],
        ["launches", f"{once} a micro-step, {format_seconds(stack.layer_seconds)} a layer"],
        ["claimed", f"tokens/s within {format_share(stack.slowest - 1, 0)} and {most}"],
    ]  # fmt: skip
    return table(rows, left=(0, 1))


def _rate(flops: float) -> str:
    return f"{format_count(float(f'{flops:.3g}'))} FLOP/s"


@contextmanager
def calibrating(to: Console) -> Iterator[Callable[[CalibrationProgress], None]]:
    """What to call as the work goes on: a bar on a terminal, a line per stage elsewhere."""
    if not to.is_terminal:
        yield lambda stage: to.print(f"{stage.share:4.0%}  {stage.doing}", highlight=False, soft_wrap=True)
        return
    columns = (TaskProgressColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
    with Progress(*columns, console=to, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda stage: bar.update(task, completed=stage.share, description=stage.doing)
