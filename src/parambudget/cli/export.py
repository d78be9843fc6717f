"""`parambudget export`: the same model in another tool's words, exactly, or why it cannot be said there."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from parambudget.arch.config import ModelConfig
from parambudget.arch.export.files import text_of, write_into
from parambudget.arch.export.target import Export
from parambudget.arch.source import load
from parambudget.cli.fields import with_model_fields
from parambudget.cli.options import JsonOption, SourceArgument
from parambudget.cli.output import print_json
from parambudget.cost.count import total
from parambudget.errors import ConfigError

Tool = Literal["hf", "litgpt", "megatron"]


@with_model_fields()
def export(
    source: SourceArgument = None,
    to: Annotated[
        Tool, typer.Option(help="Hugging Face transformers, litgpt, or Megatron-LM's arguments.")
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
    as_json: JsonOption = False,
    *,
    fields: dict[str, Any],
) -> None:
    """Write the model for another tool: one that loads as exactly the planned parameters, or the reason why
    not.

    parambudget export gpt2 --to hf -o folder
    """
    completed = load(source, fields)
    made = _exported(completed.model, to, model_type)
    notes = [*completed.notes, *made.notes]
    written = write_into(out, made, force=force) if out else None
    counted = total(completed.model)
    if as_json:
        print_json(
            {"to": to, "name": made.name, "total": counted, "file": written and str(written)}
            | {"notes": notes, "document": made.document}
        )
        return
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    if written:
        typer.echo(f"wrote {written}: {made.name}, {counted:,} parameters")
    else:
        typer.echo(text_of(made), nl=False)


def _exported(model: ModelConfig, to: Tool, model_type: str | None) -> Export:
    if to == "hf":
        from parambudget.arch.hf.write import to_hf

        return to_hf(model, model_type)
    if model_type is not None:
        raise ConfigError(f"--model-type chooses a class of transformers, and --to is {to}; leave it out")
    if to == "litgpt":
        from parambudget.arch.export.litgpt import to_litgpt

        return to_litgpt(model)
    from parambudget.arch.export.megatron import to_megatron

    return to_megatron(model)
