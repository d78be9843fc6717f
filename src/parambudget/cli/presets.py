"""`parambudget presets`: published models that can be named in place of a config file."""

from typing import Annotated, Final

import typer
from typing_extensions import TypedDict

from parambudget.arch.presets.registry import PRESETS
from parambudget.cli._options import JsonOption, print_json, print_lines
from parambudget.cost.params import count
from parambudget.errors import ConfigError

_OPTIONAL: Final = ("source", "body", "context", "active")
"""Columns that a narrow terminal leaves out, in this order."""
_LEAST_SOURCE: Final = 40
"""Columns of the terminal that a source gets at least; it is wrapped in them."""


class PresetDocument(TypedDict):
    """A published model that can be named in place of a config file."""

    name: str
    """What to name it by."""
    total: int
    """Parameters, exactly."""
    body: int
    """Parameters without embeddings and output head."""
    active: int
    """Parameters used per token."""
    dim: int
    """Model width."""
    layers: int
    """Transformer blocks."""
    heads: str
    """Query heads / key/value heads."""
    context: int
    """Longest sequence, in tokens."""
    source: str
    """Where its sizes and its count were read."""


def presets(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORDS...", help="Show only models with all of these words in their name or source."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List published models with their exact counts and sources."""
    rows = [
        _row(name) for name in PRESETS if all(word.lower() in _searched_text(name) for word in words or ())
    ]
    if not rows:
        wanted = " ".join(words or ())
        raise ConfigError(
            f"no preset has {wanted!r} in its name or source; run `parambudget presets` for all "
            f"{len(PRESETS)}"
        )
    if as_json:
        print_json(rows)
        return
    from parambudget.render.terminal import table, terminal_width

    width = terminal_width()
    columns = _columns_that_fit(rows, width)
    cells = [columns, *([row[name] for name in columns] for row in map(_cells, rows))]
    left = [i for i, name in enumerate(columns) if name in ("name", "source")]
    fluid = columns.index("source") if "source" in columns else None
    print_lines(table(cells, left=left, head=True, fluid=fluid, width=width))


def _searched_text(name: str) -> str:
    """What the words are searched in. The source names the class, such as MixtralForCausalLM."""
    return f"{name} {PRESETS[name].source}".lower()


def _row(name: str) -> PresetDocument:
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


def _columns_that_fit(rows: list[PresetDocument], width: int) -> list[str]:
    """The columns that there is room for, two spaces apart."""
    cells = [_cells(row) for row in rows]
    widths = {name: max(len(name), *(len(row[name]) for row in cells)) for name in rows[0]}
    widths["source"] = min(widths["source"], _LEAST_SOURCE)
    for name in _OPTIONAL:
        if sum(widths.values()) + 2 * len(widths) > width:
            del widths[name]
    return list(widths)


def _cells(row: PresetDocument) -> dict[str, str]:
    return {name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in row.items()}
