"""Options and checks that several commands share."""

from importlib.util import find_spec
from typing import Annotated

import typer

from parambudget.errors import MissingExtra

SourceArgument = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="Config file or preset's name; flags change its fields."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def require_torch(command: str) -> None:
    """Raise `MissingExtra` with the install command unless the whole `train` extra is there."""
    missing = [name for name in ("torch", "safetensors", "tokenizers") if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"{command} needs {', '.join(missing)}, not installed here; run it as: "
            f"uv run --extra train parambudget {command} ... (or: pip install 'parambudget[train]')"
        )
