"""`parambudget export`: the same model in another tool's words, exactly, or why it cannot be said there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from parambudget.arch.config import ModelConfig
from parambudget.arch.export.files import text_of, write_into
from parambudget.arch.export.meaning import differences
from parambudget.arch.export.target import Export
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
        Literal["hf", "litgpt", "megatron"],
        typer.Option(help="Hugging Face transformers, litgpt, or Megatron-LM."),
    ] = "hf",
    model_type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="With hf: the class, by its model_type such as qwen3.",
            show_default="the plainest that fits",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="With hf: a run, one of its checkpoints or a safetensors file, to be written with its "
            "tokenizer as what transformers loads.",
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
    """Write the model for another tool, where it is built with exactly these parameters; or say what lacks.

    parambudget export gpt2 --to hf -o folder
    """
    if to != "hf" and (model_type or weights):
        raise InputError(
            f"{'--model-type' if model_type else '--weights'} is for --to hf; leave it out with {to}"
        )
    if weights is None:
        completed = load(source, fields)
        made = _exported(completed.model, to, model_type)
        _tell(*completed.notes, *made.notes)
        if out is None:
            typer.echo(text_of(to, made), nl=False)
        else:
            written = write_into(out, to, made, force=force)
            typer.echo(f"wrote {written}: {made.name}, {total(completed.model):,} parameters")
        return
    if out is None:
        raise InputError("--weights writes a folder; say which with --out DIR")
    require_torch("export --weights")
    from parambudget.train.export import write_pretrained

    saved = _saved(weights, source, fields)
    made = _exported(saved.model, to, model_type)
    write_pretrained(saved, made, out, force=force)
    what = "weights and tokenizer" if saved.tokenizer else "weights, without a tokenizer"
    typer.echo(f"wrote {out}: {made.name}, {total(saved.model):,} parameters, {what}")


def _exported(model: ModelConfig, to: str, model_type: str | None) -> Export:
    if to == "hf":
        from parambudget.arch.hf.write import to_hf

        return to_hf(model, model_type)
    if to == "litgpt":
        from parambudget.arch.export.litgpt import to_litgpt

        return to_litgpt(model)
    from parambudget.arch.export.megatron import to_megatron

    return to_megatron(model)


def _saved(weights: Path, source: str | None, fields: dict[str, Any]) -> "Saved":
    """The weights; refused where a model is given as well and they are of another one."""
    from parambudget.train.saved import find

    saved = find(weights)
    if source is None and not fields:
        return saved
    found = differences(load(source, fields).model, saved.model)
    if found:
        first = found[0]
        raise InputError(
            f"{weights} is of another model: {first.field} is {first.got!r} there and {first.wanted!r} here; "
            "leave the model out to take that of the weights"
        )
    return saved


def _tell(*notes: str) -> None:
    for note in notes:
        typer.echo(f"parambudget: {note}", err=True)
