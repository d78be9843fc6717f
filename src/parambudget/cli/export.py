"""`parambudget export`: the same model in another tool's words, exactly, or why it cannot be said there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from parambudget.arch.export.meaning import differences
from parambudget.arch.source import load
from parambudget.cli.fields import with_model_fields
from parambudget.cli.options import SourceArgument, require_torch
from parambudget.cost.count import total
from parambudget.errors import InputError

if TYPE_CHECKING:
    from parambudget.train.saved import Saved


@with_model_fields()
def export(
    source: SourceArgument = None,
    to: Annotated[
        Literal["hf"],
        typer.Option(help="Hugging Face transformers (config.json)."),
    ] = "hf",
    model_type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="The class, such as qwen3 (hf only).", show_default="the plainest that fits"
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Write these weights and their tokenizer too: a run, its checkpoint or a safetensors file "
            "(hf only).",
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

    if weights is not None and out is None:
        raise InputError("--weights writes a folder; say which with --out DIR")
    saved = _saved(weights, source, fields) if weights is not None else None
    completed = load(source, fields) if saved is None else None
    model = completed.model if completed else saved.model
    made = to_hf(model, model_type)
    if saved is not None and out is not None:
        from parambudget.train.export import write_pretrained

        write_pretrained(saved, made, out, force=force)
        typer.echo(f"wrote {out}: {made.name}, {total(model):,} parameters, their weights and tokenizer")
        return
    for note in (*completed.notes, *made.notes):
        typer.echo(f"parambudget: {note}", err=True)
    if out is None:
        typer.echo(text_of(made), nl=False)
        return
    written = write_into(out, made, force=force)
    typer.echo(f"wrote {written}: {made.name}, {total(model):,} parameters")


def _saved(weights: Path, source: str | None, fields: dict[str, Any]) -> "Saved":
    """The weights; refused where a model is given as well and they are of another one."""
    require_torch("export --weights")
    from parambudget.train.saved import find

    saved = find(weights)
    if source is None and not fields:
        return saved
    wanted = load(source, fields).model
    found = differences(wanted, saved.model)
    if found:
        first = found[0]
        raise InputError(
            f"{weights} is of another model: {first.field} is {first.got!r} there and {first.wanted!r} here; "
            "leave the model out to take that of the weights"
        )
    return saved
