"""`parambudget report`: how to resize a model, decided and written down as a Markdown document."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from parambudget._install import install_advice
from parambudget.cli._help import MORE_PANEL
from parambudget.cli._machine import MachineFigures, with_machine_figures
from parambudget.cli._options import (
    AnchorOption,
    JsonOption,
    MemoryOption,
    TargetLossOption,
    law_option,
    offer_finished_run,
    print_json,
    print_lines,
    spinner,
    with_flags_in_suggestions,
)
from parambudget.cli._settings import STEP_FLAGS, STEP_PANELS, step_settings, with_settings
from parambudget.cli.verify import check_built_model
from parambudget.errors import ConfigError
from parambudget.formats.source import load
from parambudget.units import parse_count


@with_machine_figures(energy=True)
@with_settings(STEP_FLAGS, STEP_PANELS)
def report(
    source: Annotated[str, typer.Argument(metavar="MODEL", help="The current model: config file or preset.")],
    target: Annotated[str, typer.Option(metavar="COUNT", help="Parameters, such as 350M.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE.md", help="Markdown file to write; pictures go next to it.",
            show_default="none, with --json",
        ),
    ] = None,
    as_json: JsonOption = False,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="h100, a100, 4090, ... or cpu.", show_default="this machine's"
        ),
    ] = None,
    gpus: Annotated[int, typer.Option(metavar="N", help="Number of GPUs.")] = 1,
    hours: Annotated[
        float | None,
        typer.Option(
            metavar="H", help="Training time in hours.", show_default="enough for 20 tokens per parameter"
        ),
    ] = None,
    unique_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Tokens in the text; more training repeats them.", show_default="unlimited"
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(metavar="USD", help="Dollars per GPU and hour.", show_default="a dated range"),
    ] = None,
    target_loss: TargetLossOption = None,
    anchor: AnchorOption = None,
    law: Annotated[str | None, law_option(MORE_PANEL)] = None,
    memory: MemoryOption = None,
    *,
    figures: MachineFigures,
    settings: dict[str, object],
) -> None:  # fmt: skip
    """Decide how to resize a model, and write a report: predictions, pictures, verification, commands.

    parambudget report current.json --target 350M --gpu h100 -o plan.md

    parambudget report current.json --target 350M --gpu h100 --target-loss 3.0781 --json
    """
    from parambudget.planning.budget import parse_memory
    from parambudget.planning.machine import machine_for
    from parambudget.planning.run_plan import Goal
    from parambudget.render.report import build_report, check_report_path, write_report
    from parambudget.render.report_document import decision_in_words
    from parambudget.scaling.law_file import find_law

    if out is None and not as_json:
        raise ConfigError("a report is written to a file; give one with -o FILE.md, or print it with --json")
    if out is not None:
        check_report_path(out)
    step = step_settings(source, settings)
    completed = load(source, {})
    for note in completed.notes:
        typer.echo(f"note: {note}", err=True)
    machine = machine_for(gpu, gpus=gpus, dollars_per_hour=price, **figures)
    goal = Goal(
        hours, unique_tokens=None if unique_tokens is None else parse_count(unique_tokens, "unique_tokens"),
        law=find_law(law), target_loss=target_loss,
    )  # fmt: skip
    with spinner("searching, planning and verifying"):
        report = build_report(
            Path(source).name, completed.model, target,
            machine if memory is None else machine.with_memory(parse_memory(memory)), goal,
            step=step, anchor=anchor, verify=check_built_model if find_spec("torch") else None,
        )  # fmt: skip
    options = {label: with_flags_in_suggestions(plan) for label, plan in report.options.items()}
    report = replace(report, current=with_flags_in_suggestions(report.current), options=options)
    written: list[Path] = []
    if out is not None:
        with spinner("writing"):
            report, written = write_report(report, out)
    if as_json:
        print_json(report.as_dict())
    else:
        print_lines([*decision_in_words(report), *(f"wrote {path}" for path in written)])
        if anchor is None:
            offer_finished_run(completed.model.vocab_size)
    if written and not find_spec("matplotlib"):
        advice = install_advice(["matplotlib"], ["train"])
        typer.echo(f"pictures skipped: matplotlib is not installed; {advice}", err=as_json)
