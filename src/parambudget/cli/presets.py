"""`parambudget presets`: the published models that can be named instead of a file."""

from typing import Annotated, Any, Final

import typer

from parambudget.arch.presets.registry import PRESETS
from parambudget.cli._options import JsonOption, print_json
from parambudget.cost.params import count
from parambudget.errors import ConfigError

_SPARED: Final = ("source", "body", "context", "active")
"""Columns that a narrow terminal does without, the first of them first."""


def presets(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORDS]...", help="Only rows with all of these in their name or source."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Published models by name, with their exact counts and sources."""
    rows = [_row(name) for name in PRESETS if all(word.lower() in _text(name) for word in words or ())]
    if not rows:
        wanted = " ".join(words or ())
        raise ConfigError(
            f"no preset has {wanted!r} in its name or source; run parambudget presets for all {len(PRESETS)}"
        )
    if as_json:
        print_json(rows)
        return
    from parambudget.render.console import console, plain_table

    to, table = console(), plain_table()
    columns = _fitting(rows, to.width)
    for name in columns:
        table.add_column(
            name, justify="left" if name in ("name", "source") else "right", no_wrap=name != "source"
        )
    for row in rows:
        table.add_row(*(_said(row[name]) for name in columns))
    to.print(table)


def _text(name: str) -> str:
    """What is searched: a class such as MixtralForCausalLM stands in the source."""
    return f"{name} {PRESETS[name].source}".lower()


def _row(name: str) -> dict[str, Any]:
    row, model = PRESETS[name], PRESETS[name].model
    counted = count(model)
    return {
        "name": name,
        "total": counted.total,
        "body": counted.body,
        "active": counted.active,
        "dim": model.dim,
        "layers": model.n_layers,
        "heads": f"{model.n_heads}/{model.n_kv_heads}",
        "context": model.context_length,
        "source": row.source,
    }


def _fitting(rows: list[dict[str, Any]], width: int) -> list[str]:
    """The columns that the width has room for, two spaces apart; a source may run over lines."""
    wide = {name: max(len(name), *(len(_said(row[name])) for row in rows)) for name in rows[0]}
    wide["source"] = min(wide["source"], 40)
    for name in _SPARED:
        if sum(wide.values()) + 2 * len(wide) > width:
            del wide[name]
    return list(wide)


def _said(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
