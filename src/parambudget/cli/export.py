"""`parambudget export`: the same model in another tool's words, exactly, or why it cannot be said there."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from parambudget.arch.config import ModelConfig
from parambudget.cli._options import JsonOption, SourceArgument, print_json, require_torch, with_model_fields
from parambudget.cost.params import total
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Export, text_of, write_into
from parambudget.formats.source import load

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
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT", help="Write its weights and tokenizer too: a run or a checkpoint (hf only)."
        ),
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
    if weights is not None:
        model = load(source, fields).model if source is not None or fields else None
        _require_a_folder(to, out, force=force)
        assert out is not None, "it was asked for"
        _export_weights(weights, model, model_type, out, as_json=as_json)
        return
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


def _require_a_folder(to: Tool, out: Path | None, *, force: bool) -> None:
    if to != "hf":
        raise ConfigError(f"--weights writes for transformers, and --to is {to}; use --to hf")
    if out is None:
        raise ConfigError("--weights writes several files; name their folder with --out DIR")
    if force:
        raise ConfigError("--force replaces single files, not a folder of weights; choose another --out")


def _export_weights(
    weights: Path, model: ModelConfig | None, model_type: str | None, out: Path, *, as_json: bool
) -> None:
    """The model of a checkpoint with its weights and its tokenizer."""
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


def _exported(model: ModelConfig, to: Tool, model_type: str | None) -> Export:
    if to == "hf":
        from parambudget.formats.hf.exporter import to_hf

        return to_hf(model, model_type)
    if model_type is not None:
        raise ConfigError(f"--model-type chooses a class of transformers, and --to is {to}; leave it out")
    if to == "litgpt":
        from parambudget.formats.litgpt import to_litgpt

        return to_litgpt(model)
    from parambudget.formats.megatron import to_megatron

    return to_megatron(model)
