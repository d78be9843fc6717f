"""`parambudget export`: the same model for another tool, exactly, or why that tool cannot express it."""

from pathlib import Path
from typing import Annotated

import typer

from parambudget.arch.config import ModelConfig
from parambudget.arch.style import with_style
from parambudget.cli._options import (
    JsonOption,
    SourceArgument,
    StyleOption,
    print_json,
    require_model,
    require_torch,
    with_model_fields,
)
from parambudget.cost.params import total
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import text_of, write_into
from parambudget.formats.source import load_whole_function
from parambudget.formats.targets import ExportTarget, export_config


@with_model_fields()
def export(
    source: SourceArgument = None,
    style: StyleOption = None,
    to: Annotated[
        ExportTarget, typer.Option(help="Hugging Face transformers, litgpt, or Megatron-LM's arguments.")
    ] = "hf",
    model_type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="The model_type to write, such as qwen3 (hf only).",
            show_default="the simplest that fits",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Folder to write to.", show_default="print"),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Also write weights and tokenizer (hf only): those of a run's newest checkpoint, or of the "
            "checkpoint that you name (RUN/checkpoints/step-N). `runs show RUN` says which is best.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force/--no-force", help="Replace existing files.")] = False,
    as_json: JsonOption = False,
    *,
    fields: dict[str, object],
) -> None:
    """Export the model for another tool, which then loads exactly the planned parameters.

    A model that the tool cannot express is refused, with the reason.

    parambudget export gpt2 --to hf -o folder
    """
    if weights is None:
        require_model("export", source, fields)
    complete = source if source is not None or fields or weights is None else str(weights)
    fields = with_style(style, fields, complete=complete)
    if weights is not None:
        model = load_whole_function(source, fields).model if source is not None or fields else None
        folder = _weights_folder(to, out, force=force)
        _export_weights(weights, model, model_type, folder, as_json=as_json)
        return
    completed = load_whole_function(source, fields)
    export = export_config(completed.model, to, model_type)
    notes = [*completed.notes, *export.notes]
    written = write_into(out, export, force=force) if out else None
    counted = total(completed.model)
    if as_json:
        print_json(
            {"to": to, "name": export.name, "total": counted, "file": written and str(written)}
            | {"notes": notes, "document": export.document}
        )
        return
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    if written:
        typer.echo(f"wrote {written}: {export.name}, {counted:,} parameters")
    else:
        typer.echo(text_of(export), nl=False)


def _weights_folder(to: ExportTarget, out: Path | None, *, force: bool) -> Path:
    """The folder to write weights to. Refuses flags that say something else."""
    if to != "hf":
        raise ConfigError(f"--weights writes for transformers, and --to is {to}; use --to hf")
    if out is None:
        raise ConfigError("--weights writes several files; name their folder with --out DIR")
    if force:
        raise ConfigError("--force replaces single files, not a folder of weights; choose another --out")
    return out


def _export_weights(
    weights: Path, model: ModelConfig | None, model_type: str | None, out: Path, *, as_json: bool
) -> None:
    """Write the model of a checkpoint with its weights and tokenizer."""
    require_torch("export --weights")
    from parambudget.training.device import select_device
    from parambudget.training.export import export_weights, require_same_model
    from parambudget.training.generate import load_checkpoint

    notes: list[str] = []
    loaded = load_checkpoint(weights, select_device("cpu"), notes.append)
    if model is not None:
        require_same_model(model, loaded)
    done = export_weights(loaded, out, model_type)
    counted = total(loaded.module.model)
    notes += done.notes
    if as_json:
        print_json(
            {"to": "hf", "name": done.made.name, "total": counted, "file": str(out)}
            | {"notes": notes, "document": done.made.document, "weights": str(loaded.folder)}
            | {"files": done.files}
        )
        return
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"wrote {out}: {done.made.name}, {counted:,} parameters of {loaded.folder}")
