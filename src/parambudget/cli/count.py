"""`parambudget count`: how many parameters, component by component."""

from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from parambudget._files import write_json
from parambudget._install import CLASS_PACKAGES, require_packages
from parambudget._version import __version__
from parambudget.arch.config import ModelConfig
from parambudget.arch.style import with_style
from parambudget.cli._options import (
    JsonOption,
    SourceArgument,
    StyleOption,
    print_json,
    print_lines,
    require_model,
    with_model_fields,
)
from parambudget.cost.params import count as count_parameters
from parambudget.errors import CheckFailed, ConfigError
from parambudget.formats.source import config_document, load
from parambudget.units import format_share, format_tolerance, parse_count, parse_tolerance


@with_model_fields()
def count(
    source: SourceArgument = None,
    style: StyleOption = None,
    formula: Annotated[
        bool, typer.Option("--formula", help="Print the formula behind the count, component by component.")
    ] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print the formula as LaTeX.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the count against the model built in torch.")
    ] = False,
    of_class: Annotated[
        bool,
        typer.Option(
            "--class",
            help="Count any config.json from its class in the installed transformers.",
        ),
    ] = False,
    expect: Annotated[
        str | None,
        typer.Option(metavar="COUNT", help="Exit with 1 unless the total is close to COUNT, such as 349M."),
    ] = None,
    tolerance: Annotated[
        str, typer.Option(metavar="SHARE", help="How far the total may be from --expect.")
    ] = "1%",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write the config to FILE.")
    ] = None,
    as_json: JsonOption = False,
    *,
    fields: dict[str, object],
) -> None:
    """Count the parameters of a model exactly, component by component.

    The model is a config file, a preset, or flags.

    parambudget count --dim 896 --n-layers 24 --n-heads 14
    """
    if of_class:
        others: dict[str, object] = {
            "--style": style, "--formula": formula, "--latex": latex, "--verify": verify, "--out": out,
            **{f"--{name.replace('_', '-')}": True for name in fields},
        }  # fmt: skip
        _count_class(source, [flag for flag, value in others.items() if value], expect, tolerance, as_json)
        return
    require_model("count", source, fields)
    completed = load(source, with_style(style, fields, complete=source))
    counted = count_parameters(completed.model)
    confirmations = [_check_expectation(counted.total, expect, tolerance)] if expect is not None else []
    if verify:
        from parambudget.cli.verify import check_built_model

        confirmations.append(check_built_model(completed.model))
    if out:
        write_json(
            out,
            config_document(completed.model, {"counted": {"total": counted.total}, "version": __version__}),
        )
        confirmations.append(f"wrote {out}")
    if as_json:
        from parambudget.render.model import count_document

        document = count_document(counted, completed)
        if verify:
            document["verified"] = True
        if formula or latex:
            from parambudget.cost.formula import formula as closed_form

            document["formula"] = closed_form(completed.model).as_dict()
        print_json(document)
        return
    if latex or formula:
        _print_formula(completed.model, as_latex=latex)
    elif expect is None:
        from parambudget.render.model import count_screen
        from parambudget.render.terminal import terminal_width

        print_lines(count_screen(counted, completed, terminal_width()))
    for line in confirmations:
        typer.echo(line)


def _count_class(
    source: str | None, others: list[str], expect: str | None, tolerance: str, as_json: bool
) -> None:
    """Count a config.json from its class. There is no model of ours that other flags could be about."""
    if source is None:
        raise ConfigError("--class counts a config.json of Hugging Face; give its path or its folder")
    if others:
        raise ConfigError(
            f"--class counts what transformers builds of the config, so it takes no {others[0]}; leave it out"
        )
    require_packages("count --class", CLASS_PACKAGES, ["transformers"])
    from parambudget.formats.hf.from_class import count_class

    counted = count_class(source)
    confirmation = None if expect is None else _check_expectation(counted.total, expect, tolerance)
    if as_json:
        print_json(counted.as_dict())
    elif confirmation is not None:
        typer.echo(f"{confirmation}; counted from {counted.counted_from}")
    else:
        from parambudget.render.model import class_count_screen
        from parambudget.render.terminal import terminal_width

        print_lines(class_count_screen(counted, terminal_width()))


def _check_expectation(true: int, expect: str, tolerance: str) -> str:
    """The line that says the count is as expected. Raises `CheckFailed` with that line if it is not."""
    expected, allowed = parse_count(expect, "--expect"), parse_tolerance(tolerance)
    difference = Fraction(true - expected, expected)
    off = f"{true - expected:+,} ({format_share(difference, 2)})"
    line = f"{true:,} parameters: {off} from the expected {expected:,}"
    if abs(difference) > allowed:
        raise CheckFailed(f"{line}, more than {format_tolerance(allowed)}")
    return f"{line}, within {format_tolerance(allowed)}"


def _print_formula(model: ModelConfig, *, as_latex: bool) -> None:
    from parambudget.cost.formula import formula
    from parambudget.render.model import formula_lines

    closed = formula(model)
    if as_latex:
        typer.echo(closed.latex())
    else:
        print_lines(formula_lines(closed))
