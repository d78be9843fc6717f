"""Options and checks that several commands share."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from parambudget.errors import MissingExtra

SourceArgument = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="Config file or preset's name; flags change its fields."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def place(text: str) -> Path:
    """A path as a flag gives it. An empty one, as of a variable that is not set, would be this folder."""
    if not text:
        raise typer.BadParameter("'' is no path; give a name, or . for this folder")
    return Path(text)


def require_torch(command: str) -> None:
    """Raise `MissingExtra` with the install command unless the whole `train` extra is there."""
    missing = [name for name in ("torch", "safetensors", "tokenizers") if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"{command} needs {', '.join(missing)}, not installed here; run it as: "
            f"uv run --extra train parambudget {command} ... (or: pip install 'parambudget[train]')"
        )
