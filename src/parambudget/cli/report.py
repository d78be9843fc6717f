"""`parambudget report`: the whole plan from a current model to a budget, as a Markdown document."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from parambudget._install import install_advice
from parambudget.cli._help import MORE_PANEL
from parambudget.cli._machine import MachineFigures, with_machine_figures
from parambudget.cli._settings import STEP_FLAGS, with_settings
from parambudget.cli.verify import check_built_model
from parambudget.formats.source import load


@with_machine_figures(energy=True)
@with_settings(STEP_FLAGS, dict.fromkeys(STEP_FLAGS))
def report(
    source: Annotated[str, typer.Argument(metavar="MODEL", help="The current model: config file or preset.")],
    target: Annotated[str, typer.Option(metavar="COUNT", help="Parameters, such as 350M.")],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="FILE.md", help="Markdown file to write; pictures go next to it."
        ),
    ],
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="h100, a100, 4090, ... or cpu.", show_default="this machine's"
        ),
    ] = None,
    gpus: Annotated[int, typer.Option(metavar="N", help="Number of GPUs.")] = 1,
    gpus_per_node: Annotated[
        int | None,
        typer.Option(metavar="N", help="GPUs of a node; more than these are several nodes.",
                     show_default="8", rich_help_panel=MORE_PANEL),
    ] = None,
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
    *,
    figures: MachineFigures,
    settings: dict[str, object],
) -> None:  # fmt: skip
    """Write a report on resizing a model: counts, predictions, pictures, verification, commands.

    parambudget report current.json --target 350M --gpu h100 -o plan.md
    """
    from parambudget.cost.step import read_step_fields
    from parambudget.planning.machine import machine_for
    from parambudget.render.report import build_report, write_report

    completed = load(source, {})
    for note in completed.notes:
        typer.echo(f"note: {note}", err=True)
    machine = machine_for(
        gpu, gpus=gpus, gpus_per_node=gpus_per_node, dollars_per_hour=price, **figures
    )  # fmt: skip
    report = build_report(
        Path(source).name, completed.model, target, machine, hours=hours, unique_tokens=unique_tokens,
        step=read_step_fields(settings, world_size=gpus),
        verify=check_built_model if find_spec("torch") else None,
    )  # fmt: skip
    for path in write_report(report, out):
        typer.echo(f"wrote {path}")
    if not find_spec("matplotlib"):
        advice = install_advice(["matplotlib"], ["train"])
        typer.echo(f"pictures skipped: matplotlib is not installed; {advice}")
