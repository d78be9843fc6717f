"""`parambudget presets`: the published models that can be named instead of a file."""

from typing import Annotated, Any, Final

import typer

from parambudget.arch.presets import PRESETS
from parambudget.cli.options import JsonOption
from parambudget.cli.output import print_json
from parambudget.cost.count import count
from parambudget.errors import ConfigError

_WIDE: Final = 120
_LONG: Final = ("source", "body")
"""Columns for which a narrow terminal has no room."""


def presets(
    search: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="Only names that contain this.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Published models by name, with their exact counts and sources."""
    rows = [_row(name) for name in PRESETS if (search or "").lower() in name]
    if not rows:
        raise ConfigError(
            f"no preset's name contains {search!r}; run parambudget presets for all {len(PRESETS)}"
        )
    from parambudget.show.console import console, plain_table

    if as_json:
        print_json(rows)
        return
    to, table = console(), plain_table()
    if to.width < _WIDE:
        rows = [{name: value for name, value in row.items() if name not in _LONG} for row in rows]
    for name in rows[0]:
        table.add_column(
            name, justify="left" if name in ("name", "source") else "right", no_wrap=name != "source"
        )
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in row.values()))
    to.print(table)


def _row(name: str) -> dict[str, Any]:
    row, model = PRESETS[name], PRESETS[name].model
    counted = count(model)
    return {
        "name": name,
        "total": counted.total,
        "body": counted.body,
        "dim": model.dim,
        "layers": model.n_layers,
        "heads": f"{model.n_heads}/{model.n_kv_heads}",
        "context": model.context_length,
        "source": row.source,
    }
