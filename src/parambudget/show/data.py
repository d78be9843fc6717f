"""The preparation of data told to a person: how it goes, and what it made."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from parambudget.text import prepare
from parambudget.text.shards import Manifest
from parambudget.units import format_bytes, format_count

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
