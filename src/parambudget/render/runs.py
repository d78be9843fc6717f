"""Runs told to a person, side by side."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from parambudget.show.console import plain_table
from parambudget.train.history import Run
from parambudget.units import format_bytes, format_count, format_mfu, format_seconds


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
