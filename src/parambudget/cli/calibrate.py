"""`parambudget calibrate`: how fast is this machine?"""

from dataclasses import asdict
from typing import Annotated

import typer

from parambudget.cli._options import JsonOption, print_json, print_lines, require_torch
from parambudget.cost.speed import profile
from parambudget.cost.speed.profile import Stack
from parambudget.errors import ConfigError
from parambudget.render.runs import stack_lines


def calibrate(
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")] = "auto",
    show: Annotated[bool, typer.Option("--show", help="Only what was measured before.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Forget what was measured before.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure in about a minute how fast this machine trains; predictions for it then rest on that.

    Matmuls, attention, copies and Muon alone, then updates of small models through the trainer; on a GPU
    these are compiled first, which takes minutes. The constants are kept in your data folder.
    """
    if show and clear:
        raise ConfigError("--show and --clear together: use one of them")
    path = profile.calibration_file()
    if clear:
        gone = profile.clear()
        print_json({"cleared": gone}) if as_json else typer.echo(
            f"removed {path}" if gone else f"nothing to forget: there is no {path}"
        )
        return
    stacks = profile.calibrated() if show else [_measured(device, quiet=as_json)]
    if as_json:
        print_json({"file": str(path), "stacks": [asdict(stack) for stack in stacks]})
        return
    for stack in stacks:
        print_lines([*stack_lines(stack), ""])
    typer.echo(f"kept in {path}" if stacks else "nothing was measured yet: run parambudget calibrate")


def _measured(device: str, *, quiet: bool) -> Stack:
    require_torch("calibrate")
    from parambudget.render.console import console
    from parambudget.render.runs import calibrating
    from parambudget.training.calibrate import calibrate as measure
    from parambudget.training.device import select_device

    compute, to = select_device(device), console()
    to.quiet = quiet
    with calibrating(to) as on_stage:
        stack = measure(compute, on_stage=on_stage)
    profile.keep(stack)
    return stack
