"""What the commands print with: lines of text, or one JSON document."""

import json
from collections.abc import Iterable
from typing import Any

import typer


def print_lines(lines: Iterable[str]) -> None:
    """Lines on standard output, styled on a terminal and plain when piped."""
    typer.echo("\n".join(lines))


def print_json(value: Any) -> None:
    """One JSON document on standard output, numbers exact, never wrapped."""
    typer.echo(json.dumps(value, indent=2))


def tell(notice: str) -> None:
    """One line beside the results, on standard error."""
    typer.echo(f"parambudget: {notice}", err=True)
