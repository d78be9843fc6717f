"""`parambudget verify`: is the count true? The built module, tensor by tensor."""

from typing import Any

import typer

from parambudget.arch.config import ModelConfig
from parambudget.cli._options import JsonOption, SourceArgument, print_json, require_torch, with_model_fields
from parambudget.errors import CheckFailed
from parambudget.formats.source import load


@with_model_fields()
def verify(source: SourceArgument = None, as_json: JsonOption = False, *, fields: dict[str, Any]) -> None:
    """Build the model in torch, in no memory, and hold each tensor against the count; exit 1 if not."""
    model = load(source, fields).model
    said = checked(model)
    if not as_json:
        typer.echo(said)
        return
    from parambudget.cost.params import total

    print_json({"model": model.model_dump(), "total": total(model), "verified": True})


def checked(model: ModelConfig) -> str:
    """The line that says built and counted agree; `CheckFailed` with every difference where they do not."""
    require_torch("verify")
    from parambudget.nn.verify import verify as build_and_compare

    found = build_and_compare(model)
    if found.differences:
        raise CheckFailed(
            "the built model does not match the count: " + "; ".join(map(str, found.differences))
        )
    return f"verified: {found.n_tensors:,} tensors, {found.total:,} parameters, built as counted"
