"""`parambudget verify`: is the count true? Checked against the built torch module, tensor by tensor."""

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
from parambudget.errors import CheckFailed
from parambudget.formats.source import load


@with_model_fields()
def verify(
    source: SourceArgument = None,
    style: StyleOption = None,
    as_json: JsonOption = False,
    *,
    fields: dict[str, object],
) -> None:
    """Build the model in torch without allocating weights and check every tensor against the count.

    Exits with 1 on a mismatch.
    """
    require_model("verify", source, fields)
    model = load(source, with_style(style, fields, complete=source)).model
    confirmation = check_built_model(model)
    if not as_json:
        typer.echo(confirmation)
        return
    from parambudget.cost.params import total

    print_json({"model": model.model_dump(), "total": total(model), "verified": True})


def check_built_model(model: ModelConfig) -> str:
    """The line that says the built model matches the count. Raises `CheckFailed` with every difference."""
    require_torch("verify")
    from parambudget.nn.verify import verify as build_and_compare

    built = build_and_compare(model)
    if built.differences:
        raise CheckFailed(str(built))
    return str(built)
