"""`parambudget ladder`: small runs that tell what a large one will reach."""

import shlex
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from parambudget import api
from parambudget._install import TRAINING, install_advice, require_packages
from parambudget.cli._help import MORE_PANEL, Command, Group
from parambudget.cli._options import (
    DeviceOption,
    JsonOption,
    StyleOption,
    arguments_as_flags,
    parse_path,
    print_json,
    print_lines,
    print_notice,
    spinner,
    with_model_fields,
)
from parambudget.errors import InputError
from parambudget.render.commands import runnable_command
from parambudget.units import shorten

if TYPE_CHECKING:
    from parambudget.ladders.ladder_file import RungEntry
    from parambudget.ladders.ladder_fit import LadderFit
    from parambudget.ladders.run import RungOutcome
    from parambudget.render.progress import StatusLine
    from parambudget.search.fields import SearchFields
    from parambudget.training.metrics import StepMetrics
    from parambudget.training.run.request import TrainEvents

ladder = typer.Typer(
    name="ladder", help="Predict a large run from small ones.", cls=Group, rich_markup_mode=None
)
FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder of the ladder.", parser=parse_path)
]


@ladder.command(cls=Command)
@with_model_fields(as_axes=True)
def plan(
    hours: Annotated[
        float | None, typer.Option(metavar="H", help="Training time of the large run, in hours.")
    ] = None,
    dollars: Annotated[
        float | None, typer.Option(metavar="USD", help="Cost of renting the GPU for it.")
    ] = None,
    flops: Annotated[str | None, typer.Option(metavar="N", help="FLOPs of it, such as 1e20.")] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="The large model: a file or preset.",
            show_default="the best one for the budget",
        ),
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(metavar="N", help="With --target: tokens that it is trained on.")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="h100, a100, 4090, ... or cpu.", show_default="this machine's"),
    ] = None,
    gpus: Annotated[
        int, typer.Option(metavar="N", help="Number of GPUs.", rich_help_panel=MORE_PANEL)
    ] = 1,
    price: Annotated[
        float | None,
        typer.Option(
            metavar="USD", help="Dollars per GPU and hour.", show_default="a dated range",
            rich_help_panel=MORE_PANEL,
        ),
    ] = None,
    data: Annotated[
        Path,
        typer.Option(
            parser=parse_path, metavar="PATH", help="Text or tokens that all runs are trained on.",
            show_default="builtin (Python's standard library)",
        ),
    ] = Path("builtin"),
    out: Annotated[
        Path, typer.Option("-o", "--out", parser=parse_path, metavar="DIR", help="New folder of the ladder.")
    ] = Path("ladder"),
    share: Annotated[
        str, typer.Option(metavar="SHARE", help="Of the large run's FLOPs, for all small ones together.")
    ] = "10%",
    sizes: Annotated[int, typer.Option(metavar="N", help="How many sizes.")] = 5,
    seeds: Annotated[
        int, typer.Option(metavar="N", help="Seeds of each run; the largest size has one.")
    ] = 2,
    ratios: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Tokens per parameter of the small runs, such as 5,15.",
            show_default="half and one and a half times the large run's", rich_help_panel=MORE_PANEL,
        ),
    ] = None,
    style: StyleOption = None,
    as_json: JsonOption = False,
    *,
    fields: dict[str, Any],
) -> None:  # fmt: skip
    """Choose small runs that tell what a large one will reach, with their cost and what each tells.

    parambudget ladder plan --hours 1.5 --gpu h100 --data my.txt --vocab-size 4096 -o ladder

    parambudget ladder plan --target config.json --tokens 5M -o ladder
    """
    from parambudget.planning.budget import Budget

    budget = None
    if any(limit is not None for limit in (hours, dollars, flops)):
        budget = Budget(hours=hours, dollars=dollars, flops=flops)
    named = gpu is not None or gpus != 1 or price is not None
    machine = api.machine(gpu, gpus=gpus, dollars_per_hour=price) if named else None
    with spinner("choosing runs and simulating what they tell"):
        made = api.plan_ladder(
            budget, machine, data=data, out=out, target=target,
            tokens=tokens, share=share, sizes=sizes, seeds=seeds,
            ratios=None if ratios is None else _numbers(ratios, "ratios"), style=style,
            **cast("SearchFields", fields),
        )  # fmt: skip
    assert made.plan is not None
    if as_json:
        print_json({**made.plan.as_dict(), "folder": str(out)})
        return
    from parambudget.render.ladder import ladder_plan_screen
    from parambudget.render.terminal import terminal_width

    print_lines(ladder_plan_screen(made.plan, terminal_width()))
    typer.echo(f"wrote {out}; next: {runnable_command('ladder run', shlex.quote(str(out)))}")


def _numbers(text: str, name: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"`{name}` is {shorten(text)!r}; give numbers, such as 5,15") from None


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"`only` is {shorten(text)!r}; give numbers of runs, such as 3,5") from None


@ladder.command(cls=Command)
def run(
    folder: FolderArgument,
    only: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Numbers of the runs to train, such as 3,5.", show_default="all"),
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train the small runs that are not finished. Exits with 1 if one of them failed.

    Run the same line again after an interruption, and in as many processes as there are devices: each takes
    what no other is training.

    parambudget ladder run ladder

    parambudget ladder run ladder --only 3,5
    """
    from parambudget.ladders.ladder import Ladder
    from parambudget.training.run.signals import StopSignal, handle_stop_signals

    require_packages("ladder run", TRAINING, ["train"])
    small = Ladder(folder)
    n_rungs = len(small.document.rungs)
    numbers = None if only is None else _whole_numbers(only)
    from parambudget.ladders.run import LadderEvents
    from parambudget.render.ladder import outcome_line
    from parambudget.render.progress import StatusLine, make_console

    console = make_console(quiet=as_json)
    again = runnable_command("ladder run", shlex.join(sys.argv[3:]))
    outcomes: list[RungOutcome] = []
    try:
        with closing(StatusLine(console)) as status, handle_stop_signals() as stop:

            def follow(number: int, entry: "RungEntry") -> "TrainEvents":
                return _show_progress(status, f"rung {number} of {n_rungs}, {entry.name}")

            def show(number: int, outcome: "RungOutcome") -> None:
                status.close()
                console.print(
                    outcome_line(number, n_rungs, outcome), soft_wrap=True, markup=False, highlight=False
                )

            outcomes = small.run(
                numbers, device=device, events=LadderEvents(follow, show, print_notice), stop=stop
            )
    except (KeyboardInterrupt, StopSignal) as interruption:
        print_notice(f"stopped before the first update of a run; continue with: {again}")
        if isinstance(interruption, KeyboardInterrupt):
            raise typer.Exit(130) from None
        return
    if as_json:
        print_json([each.as_dict() for each in outcomes])
    states = [each.state for each in outcomes]
    if "stopped" in states:
        print_notice(f"stopped; continue with: {again}")
    elif "failed" in states:
        print_notice(f"{states.count('failed')} of {len(states)} failed; the others are there to fit")
        raise typer.Exit(1)
    elif not as_json:
        command = runnable_command("ladder fit", shlex.quote(str(folder)))
        if "busy" in states:
            console.print(
                f"{states.count('busy')} left to other processes; when they are done: {command}",
                soft_wrap=True,
            )
        else:
            console.print(f"next: {command}", soft_wrap=True, markup=False, highlight=False)


def _show_progress(status: "StatusLine", name: str) -> "TrainEvents":
    """What a rung does, in the status line: on a terminal its updates, elsewhere that it is being trained."""
    from parambudget.training.run.request import TrainEvents

    def show_step(step: "StepMetrics") -> None:
        loss = "not finite" if step.loss is None else f"{step.loss:.3f}"
        status.show(f"{name}: update {step.step:,}, loss {loss}")

    if status.is_live:
        return TrainEvents(on_step=show_step)
    status.show(f"training {name}")
    return TrainEvents()


@ladder.command(cls=Command)
def fit(
    folder: FolderArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            parser=parse_path,
            metavar="FILE",
            help="Write the law to FILE.",
            show_default="DIR/law.json",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a law to the small runs, and predict the large one with an interval.

    Other commands take the law with --law.

    parambudget ladder fit ladder

    parambudget solve --hours 1.5 --gpu h100 --law ladder/law.json
    """
    from parambudget.ladders.ladder import Ladder

    small = Ladder(folder)
    with spinner("fitting"):
        found = small.fit()
    path = small.law_path if out is None else out
    found.save(path)
    figure = _draw_fit(found, folder / "fit.png")
    if as_json:
        print_json({**found.as_dict(), "law": str(path), "figure": None if figure is None else str(figure)})
        return
    from parambudget.render.ladder import ladder_fit_screen
    from parambudget.render.terminal import terminal_width

    print_lines(map(arguments_as_flags, ladder_fit_screen(found, path, terminal_width())))
    if figure is not None:
        typer.echo(f"pictures: {figure}")


def _draw_fit(found: "LadderFit", figure: Path) -> Path | None:
    """Draw the fit into the folder. Nobody asked for it: where that fails, say so and go on."""
    if find_spec("matplotlib") is None:
        print_notice(f"no pictures: matplotlib is not installed; {install_advice(['matplotlib'], ['train'])}")
        return None
    from parambudget.render.figures import ladder_figure, save_png

    try:
        save_png(ladder_figure(found), figure)
    except InputError as error:
        print_notice(f"no pictures: {error}")
        return None
    return figure
