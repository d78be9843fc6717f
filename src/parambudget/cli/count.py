"""`parambudget count`: how many parameters, component by component."""

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from parambudget._files import write_json
from parambudget._version import __version__
from parambudget.arch.config import ModelConfig
from parambudget.cli._options import JsonOption, SourceArgument, print_json, print_lines, with_model_fields
from parambudget.cost.params import count as count_parameters
from parambudget.errors import CheckFailed
from parambudget.formats.source import config_document, load
from parambudget.units import format_share, format_tolerance, parse_count, parse_tolerance


@with_model_fields()
def count(
    source: SourceArgument = None,
    formula: Annotated[
        bool, typer.Option("--formula", help="The closed form, factored per component.")
    ] = False,
    latex: Annotated[bool, typer.Option("--latex", help="The closed form as LaTeX.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hold the count against the built torch module.")
    ] = False,
    expect: Annotated[
        str | None, typer.Option(metavar="COUNT", help="Exit 1 unless the total is this, such as 349M.")
    ] = None,
    tolerance: Annotated[str, typer.Option(metavar="SHARE", help="How far off --expect may be.")] = "1%",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write the config here.")
    ] = None,
    as_json: JsonOption = False,
    *,
    fields: dict[str, Any],
) -> None:
    """Parameters of a model, exactly, component by component.

    The model is a config file, a preset, or flags: parambudget count --dim 896 --n-layers 24 --n-heads 14
    """
    completed = load(source, fields)
    counted = count_parameters(completed.model)
    agreed = _checked(counted.total, expect, tolerance) if expect is not None else None
    if verify:
        from parambudget.cli.verify import checked

        agreed = "\n".join(filter(None, (agreed, checked(completed.model))))
    if out:
        write_json(
            out,
            config_document(completed.model, {"counted": {"total": counted.total}, "version": __version__}),
        )
    verified = {"verified": True} if verify else {}
    if as_json:
        _print_json(
            counted.as_dict()
            | {"filled": list(completed.defaulted), "notes": list(completed.notes)}
            | verified,
            completed.model,
            formula or latex,
        )
    elif latex or formula:
        _print_formula(completed.model, as_latex=latex)
    elif expect is None:
        from parambudget.render.model import breakdown
        from parambudget.render.terminal import columns

        print_lines(breakdown(counted, completed, columns()))
    if not as_json:
        for line in filter(None, (agreed, out and f"wrote {out}")):
            typer.echo(line)


def _checked(true: int, expect: str, tolerance: str) -> str:
    """The line that says the count is as expected; `CheckFailed` with the same line where it is not."""
    expected, allowed = parse_count(expect, "--expect"), parse_tolerance(tolerance)
    difference = Fraction(true - expected, expected)
    off = f"{true - expected:+,} ({format_share(difference, 2)})"
    said = f"{true:,} parameters: {off} from the expected {expected:,}"
    if abs(difference) > allowed:
        raise CheckFailed(f"{said}, more than {format_tolerance(allowed)}")
    return f"{said}, within {format_tolerance(allowed)}"


def _print_formula(model: ModelConfig, *, as_latex: bool) -> None:
    from parambudget.cost.formula import formula
    from parambudget.render.model import formula_lines

    closed = formula(model)
    if as_latex:
        typer.echo(closed.latex())
    else:
        print_lines(formula_lines(closed))


def _print_json(document: dict[str, Any], model: ModelConfig, with_formula: bool) -> None:
    if with_formula:
        from parambudget.cost.formula import formula

        document |= {"formula": formula(model).as_dict()}
    print_json(document)
