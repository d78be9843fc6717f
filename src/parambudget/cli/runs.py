"""`parambudget runs`: what became of training runs."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parambudget.cli._options import JsonOption, print_json, tell
from parambudget.errors import ConfigError, InputError, MissingExtra

if TYPE_CHECKING:
    from parambudget.training.metrics import Run

runs = typer.Typer(name="runs", help="What became of training runs.", no_args_is_help=True)


@runs.callback()
def _group() -> None:
    """What became of training runs."""


@runs.command(no_args_is_help=True)
def show(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders that train --out named.")],
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where the loss curves go.", show_default="of one run, DIR/loss.png"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """A run's figures and its loss curve, while it goes or after it; several runs side by side.

    parambudget runs show runs/mine

    parambudget runs show runs/a runs/b --figure both.png
    """
    from parambudget.training.metrics import read_run

    if figure is not None and figure.suffix != ".png":
        raise ConfigError(f"--figure {figure} is not a PNG; use a name that ends in .png")
    if figure is not None and find_spec("matplotlib") is None:
        raise MissingExtra(
            "--figure needs matplotlib, which is not installed; run it as: uv run --extra train parambudget "
            "runs show ... (or: pip install 'parambudget[train]')"
        )
    found: list[Run] = []
    unread: list[InputError] = []
    for folder in folders:
        try:
            found.append(read_run(folder))
        except InputError as error:
            if len(folders) == 1:
                raise
            unread.append(error)
    if not found:
        raise unread[0]
    for why in unread:
        tell(str(why))
    drawn = figure or (folders[0] / "loss.png" if len(found) == 1 and not as_json else None)
    drawable = find_spec("matplotlib") is not None
    from parambudget.render.console import console
    from parambudget.render.runs import runs_table

    if figure is not None:
        _draw(found, figure)  # what was asked for: without it there is nothing to show
    if as_json:
        print_json(found[0].as_dict() if len(folders) == 1 else [run.as_dict() for run in found])
        return
    console().print(runs_table(found))
    if drawn is None:
        return
    if not drawable:
        typer.echo("loss curve: not drawn, for want of matplotlib (pip install 'parambudget[train]')")
        return
    try:
        if figure is None:
            _draw(found, drawn)
        typer.echo(f"loss curve: {drawn}")
    except InputError as error:
        tell(f"no loss curve: {error}; --figure FILE puts it elsewhere")


def _draw(found: "list[Run]", figure: Path) -> None:
    from parambudget.render.figures import loss_curve

    loss_curve(found, figure)
