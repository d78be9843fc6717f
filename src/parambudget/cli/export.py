"""`parambudget export`: the same model for another tool, exactly, or why that tool cannot express it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

import typer
from typing_extensions import TypedDict

from parambudget._files import require_new_folder
from parambudget._install import require_packages
from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import ResolvedModel
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
from parambudget.formats.equivalence import Export, refuse_overwrite, text_of
from parambudget.formats.source import load_whole_function
from parambudget.formats.targets import WITH_WEIGHTS, ExportTarget, GGUFDtype
from parambudget.training.exports.configs import export_for, write_config
from parambudget.training.exports.model_card import CARD

if TYPE_CHECKING:
    from parambudget.training.exports.hub import HubUpload


class ExportDocument(TypedDict):
    """A model as another tool's config."""

    to: ExportTarget
    """The tool."""
    name: str
    """What the tool calls this kind of model, such as the class of transformers."""
    total: int
    """Parameters."""
    file: str | None
    """What was written, a folder with weights; null where nothing was."""
    notes: list[str]
    """What there is to know about the exported model."""
    document: dict[str, Any]
    """The config, in the form of that tool."""
    weights: NotRequired[str]
    """The checkpoint whose weights were written; absent without."""
    files: NotRequired[list[str]]
    """The files that were written; absent without weights."""
    url: NotRequired[str]
    """Of the repository that it was uploaded to; absent without --push."""


@with_model_fields()
def export(
    source: SourceArgument = None,
    style: StyleOption = None,
    to: Annotated[
        ExportTarget,
        typer.Option(
            help="Hugging Face transformers, llama.cpp's GGUF, litgpt, Megatron-LM's arguments, torchtitan."
        ),
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
            help="Also write weights and tokenizer (hf, gguf): those of a run's newest checkpoint, of the "
            "checkpoint that you name (RUN/checkpoints/step-N), or of a Hugging Face folder. `runs show RUN` "
            "says which checkpoint is best.",
        ),
    ] = None,
    dtype: Annotated[
        GGUFDtype | None,
        typer.Option(help="How matrices are stored (gguf only).", show_default="f32"),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="REPO",
            help="Also upload the folder to the Hugging Face hub, in one commit. A new repository is "
            "private; an existing one is changed only with --force.",
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
    if dtype is not None and to != "gguf":
        raise ConfigError(f"--dtype is how a GGUF file stores matrices, and --to is {to}; use --to gguf")
    # What can be refused here is refused before the hub is asked.
    if weights is not None:
        model = load_whole_function(source, fields).model if source is not None or fields else None
        folder = _weights_folder(to, out, force=force and push is None)
        request = None if push is None else _require_push(push, out, replace=force)
        report = _export_weights(weights, model, to, model_type, dtype or "f32", folder)
    else:
        completed = load_whole_function(source, fields)
        made = export_for(completed.model, to, model_type, source)
        if out is not None:
            refuse_overwrite(out / made.file, force=force)
        request = None if push is None else _require_push(push, out, replace=force)
        report = _write_export(completed, made, to, out, force=force)
    if request is not None and out is not None:
        notes = [*report.notes, *request.upload(out, report.files)]
        report = replace(report, notes=notes, url=request.url)
    _print_report(report, to, as_json=as_json)


@dataclass(frozen=True)
class _ExportReport:
    """What an export wrote, or has to print."""

    made: Export
    total: int
    notes: list[str]
    written: Path | None
    of: Path | None = None
    """The checkpoint that its weights are from."""
    files: list[str] = field(default_factory=list)
    """What is now in the folder because of it."""
    url: str | None = None
    """Where it was uploaded to."""


def _print_report(report: _ExportReport, to: ExportTarget, *, as_json: bool) -> None:
    made = report.made
    if as_json:
        document: ExportDocument = {
            "to": to, "name": made.name, "total": report.total,
            "file": None if report.written is None else str(report.written), "notes": report.notes,
            "document": made.document,
        }  # fmt: skip
        if report.of is not None:
            document |= {"weights": str(report.of), "files": report.files}
        if report.url is not None:
            document["url"] = report.url
        print_json(document)
        return
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    if report.written is None:
        typer.echo(text_of(made), nl=False)
        return
    of = f" of {report.of}" if report.of else ""
    typer.echo(f"wrote {report.written}: {made.name}, {report.total:,} parameters{of}")
    if report.url:
        typer.echo(f"uploaded to {report.url}")


def _write_export(
    completed: ResolvedModel, made: Export, to: ExportTarget, out: Path | None, *, force: bool
) -> _ExportReport:
    """Write the tool's config with a model card, or leave it to be printed."""
    notes, counted = [*completed.notes, *made.notes], total(completed.model)
    if out is None:
        return _ExportReport(made, counted, notes, written=None)
    written, kept = write_config(out, made, completed.model, to, force=force)
    files = [written.name] if kept else [written.name, CARD]
    return _ExportReport(made, counted, [*notes, *kept], written, files=files)


def _weights_folder(to: ExportTarget, out: Path | None, *, force: bool) -> Path:
    """The folder to write weights to. Refuses flags that say something else."""
    if to not in WITH_WEIGHTS:
        raise ConfigError(f"--weights writes for transformers or llama.cpp, and --to is {to}; use --to hf")
    if out is None:
        raise ConfigError("--weights writes several files; name their folder with --out DIR")
    if force:
        raise ConfigError("--force replaces single files, not a folder of weights; choose another --out")
    require_new_folder(out)
    return out


def _export_weights(
    weights: Path, model: ModelConfig | None, to: ExportTarget, model_type: str | None, dtype: GGUFDtype,
    out: Path,
) -> _ExportReport:  # fmt: skip
    """Write the model of a checkpoint with its weights and tokenizer."""
    require_torch("export --weights")
    if to == "gguf":
        require_packages("export --to gguf", ["gguf"], ["gguf"])
    from parambudget.training.device import select_device
    from parambudget.training.exports.weights import export_weights, require_same_model
    from parambudget.training.generate import load_checkpoint

    notes: list[str] = []
    loaded = load_checkpoint(weights, select_device("cpu"), notes.append)
    if model is not None:
        require_same_model(model, loaded)
    done = export_weights(loaded, out, to, model_type, dtype)
    counted = total(loaded.module.model)
    return _ExportReport(done.made, counted, [*notes, *done.notes], out, loaded.folder, done.files)


def _require_push(repo: str, out: Path | None, *, replace: bool) -> "HubUpload":
    """The upload that was asked for, if the hub takes it: checked before anything is written."""
    if out is None:
        raise ConfigError("--push uploads a folder; name it with --out DIR")
    require_packages("export --push", ["huggingface_hub"], ["hub"])
    from parambudget.training.exports.hub import prepare_upload

    return prepare_upload(repo, replace=replace)
