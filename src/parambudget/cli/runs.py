"""`parambudget runs`: what a training run did, during it or after."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from parambudget._install import install_advice, require_packages
from parambudget.cli._help import Command, Group
from parambudget.cli._options import JsonOption, print_json, print_lines, print_notice
from parambudget.errors import ConfigError, InputError
from parambudget.training.evaluation.results import EvaluationDocument, read_evaluations
from parambudget.training.metrics import Run, RunDocument, read_run

runs = typer.Typer(name="runs", help="Inspect training runs.", cls=Group, rich_markup_mode=None)


class ShownRunDocument(RunDocument):
    """A training run, finished or not, and what it was evaluated on."""

    eval: list[EvaluationDocument]
    """What `eval` measured of it, in the order of measuring."""


@runs.callback()
def _group() -> None:
    """Inspect training runs."""


@runs.command(cls=Command)
def show(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Run folders, as given to train --out.")
    ],
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the loss curves to FILE.png.",
            show_default="for one run, DIR/loss.png",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the results and the loss curve of a run, finished or not, or compare several runs.

    parambudget runs show runs/mine

    parambudget runs show runs/a runs/b --figure both.png
    """
    if figure is not None and figure.suffix != ".png":
        raise ConfigError(f"--figure {figure} is not a PNG; use a name that ends in .png")
    if figure is not None:
        require_packages("--figure", ["matplotlib"], ["train"])
    readable: list[Run] = []
    failures: list[InputError] = []
    for folder in folders:
        try:
            readable.append(read_run(folder))
        except InputError as error:
            failures.append(error)
    if not readable:
        raise failures[0]
    for failure in failures:
        print_notice(str(failure))
    if figure is not None:
        _draw_loss(readable, figure)  # it was asked for: if it fails, nothing else is printed
    if as_json:
        documents = [_document(run) for run in readable]
        print_json(documents[0] if len(folders) == 1 else documents)
    else:
        _show_runs(readable, figure, beside=len(folders) == 1)
    if failures:
        raise typer.Exit(InputError.exit_code)


def _document(run: Run) -> ShownRunDocument:
    return {**run.as_dict(), "eval": [each.as_dict() for each in read_evaluations(run.folder)]}


def _show_runs(readable: list[Run], figure: Path | None, *, beside: bool) -> None:
    from parambudget.render.runs import evaluations_screen, runs_screen

    print_lines(runs_screen(readable))
    for run in readable:
        if lines := evaluations_screen(run):
            print_lines(lines)
    if figure is not None:
        typer.echo(f"loss curve: {figure}")
    elif beside:
        _draw_loss_beside(readable[0])
    if beside:
        _show_profile(readable[0])


def _show_profile(run: Run) -> None:
    """Where the time of its updates went, if some were profiled."""
    from parambudget.render.runs import update_profile_screen
    from parambudget.training.profiling.update_profile import PROFILE, UpdateProfile

    if not (run.folder / PROFILE).exists():
        return
    try:
        print_lines(update_profile_screen(UpdateProfile.read(run.folder), run.folder))
    except InputError as error:
        print_notice(f"no profile is shown: {error}")


def _draw_loss(runs: list[Run], figure: Path) -> None:
    from parambudget.render.figures import loss_curve, save_png

    save_png(loss_curve(runs), figure)


def _draw_loss_beside(run: Run) -> None:
    """Draw the curve into the run's folder. Nobody asked for it: where that fails, say so and go on."""
    if find_spec("matplotlib") is None:
        advice = install_advice(["matplotlib"], ["train"])
        typer.echo(f"loss curve skipped: matplotlib is not installed; {advice}")
        return
    figure = run.folder / "loss.png"
    try:
        _draw_loss([run], figure)
        typer.echo(f"loss curve: {figure}")
    except InputError as error:
        print_notice(f"no loss curve: {error}; --figure FILE writes it elsewhere")
