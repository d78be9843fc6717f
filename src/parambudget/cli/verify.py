"""`parambudget verify`: is the count true? Checked against the built torch module, tensor by tensor, or
against the class of a model that is not built here."""

from pathlib import Path
from typing import Literal

import typer
from typing_extensions import TypedDict

from parambudget._install import CLASS_PACKAGES, require_packages
from parambudget.arch.config import ModelConfig, ModelDocument
from parambudget.arch.presets.registry import preset_row
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
from parambudget.errors import CheckFailed
from parambudget.formats.source import load


class VerifiedDocument(TypedDict):
    """A model whose count agrees with the module built in torch, tensor by tensor. A mismatch is an error and
    prints no JSON."""

    model: ModelDocument
    total: int
    """Parameters."""
    verified: Literal[True]
    """Every tensor of the built model is one that was counted; of a model that is counted and not built, its
    total and active parameters are those of its class in transformers."""


@with_model_fields()
def verify(
    source: SourceArgument = None,
    style: StyleOption = None,
    as_json: JsonOption = False,
    *,
    fields: dict[str, object],
) -> None:
    """Build the model in torch without allocating weights and check every tensor against the count.

    A published model that is counted and not built is held against its class in transformers. Exits with 1 on
    a mismatch.
    """
    require_model("verify", source, fields)
    completed = load(source, with_style(style, fields, complete=source))
    for note in completed.notes:
        typer.echo(f"note: {note}", err=True)
    model = completed.model
    counted_only = model.counted_parts is not None and source is not None and not fields
    confirmation = check_class(str(source), model) if counted_only else check_built_model(model)
    if not as_json:
        typer.echo(confirmation)
        return
    from parambudget.cost.params import total

    document: VerifiedDocument = {"model": model.model_dump(), "total": total(model), "verified": True}
    print_json(document)


def check_built_model(model: ModelConfig) -> str:
    """The line that says the built model matches the count. Raises `CheckFailed` with every difference."""
    require_torch("verify")
    from parambudget.nn.verify import verify as build_and_compare

    built = build_and_compare(model)
    if built.differences:
        raise CheckFailed(str(built))
    return str(built)


def check_class(source: str, model: ModelConfig) -> str:
    """The line that says that a model which is counted and not built has the parameters of its class: of a
    preset, those that were published with it; of a config file, those of the installed transformers. Raises
    `CheckFailed` with both counts where they differ."""
    from parambudget.cost.params import active, total

    if Path(source).exists():
        require_packages("verify", CLASS_PACKAGES, ["transformers"])
        from parambudget.formats.hf.from_class import count_class

        of_class = count_class(source)
        expected, expected_active, name = of_class.total, of_class.active, of_class.counted_from
    else:
        row = preset_row(source)
        expected, expected_active, name = row.published_count, row.published_active, row.source
    counted, counted_active = total(model), active(model)
    differences = [
        f"{what}: the table has {ours:,}, the class has {theirs:,}"
        for what, ours, theirs in (
            ("total", counted, expected), ("active", counted_active, expected_active),
        )
        if theirs is not None and ours != theirs
    ]  # fmt: skip
    if differences:
        raise CheckFailed(f"the count differs from {name}: {'; '.join(differences)}")
    return f"counted and not built: {counted:,} parameters, as many as {name}"
