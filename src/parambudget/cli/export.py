"""`parambudget export`: the same model in another tool's words, exactly, or why it cannot be said there."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from parambudget.arch.source import load
from parambudget.cli.fields import with_model_fields
from parambudget.cli.options import SourceArgument
from parambudget.cost.count import total


@with_model_fields()
def export(
    source: SourceArgument = None,
    to: Annotated[
        Literal["hf"],
        typer.Option(help="The tool: Hugging Face transformers."),
    ] = "hf",
    model_type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="The class, by its model_type, such as qwen3 (hf only).",
            show_default="the plainest",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Folder to write to.", show_default="print it"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    *,
    fields: dict[str, Any],
) -> None:
    """Write the model for another tool: one that loads as exactly the planned parameters, or the reason why
    not.

    parambudget export gpt2 --to hf -o folder
    """
    from parambudget.arch.export.files import text_of, write_into
    from parambudget.arch.hf.write import to_hf

    completed = load(source, fields)
    made = to_hf(completed.model, model_type)
    for note in (*completed.notes, *made.notes):
        typer.echo(f"parambudget: {note}", err=True)
    if out is None:
        typer.echo(text_of(made), nl=False)
        return
    written = write_into(out, made, force=force)
    typer.echo(f"wrote {written}: {made.name}, {total(completed.model):,} parameters")
