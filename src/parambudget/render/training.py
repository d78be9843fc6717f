"""A training run told to a person: what it will be and how it ended; how it goes is in `show.watching`."""

from pathlib import Path

from rich.console import Group
from rich.table import Table

from parambudget.arch.config import ModelConfig
from parambudget.cost.params import total
from parambudget.show.console import plain_table
from parambudget.text.token_cache import TokenData
from parambudget.training.defaults import Completed
from parambudget.training.metrics import TrainResult
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
