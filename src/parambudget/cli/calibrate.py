"""`parambudget calibrate`: how fast is this machine?"""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from typing_extensions import TypedDict

from parambudget._json_types import SchemaOf
from parambudget.cli._options import JsonOption, print_json, print_lines, require_torch
from parambudget.cost.speed import profile
from parambudget.cost.speed.profile import DeviceProfile
from parambudget.errors import ConfigError
from parambudget.render.commands import runnable_command
from parambudget.render.runs import profile_screen


class CalibrationDocument(TypedDict):
    """What was measured of this machine."""

    file: str
    """Where it is kept."""
    stacks: list[Annotated[dict[str, Any], SchemaOf(DeviceProfile)]]
    """One entry per device and software; with --show all that are kept."""


class ClearedDocument(TypedDict):
    """What --clear did."""

    cleared: bool
    """Whether there was anything to delete."""


def calibrate(
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")] = "auto",
    show: Annotated[
        bool, typer.Option("--show", help="Show earlier measurements and measure nothing.")
    ] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Delete earlier measurements.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure in about a minute how fast this machine trains; predictions for it then use the result.

    Times matmuls, attention, copies and Muon alone, then updates of small models through the trainer; on a
    GPU these are compiled first, which takes minutes. The results are kept in your data folder.
    """
    if show and clear:
        raise ConfigError("--show and --clear together: use one of them")
    path = profile.calibration_file()
    if clear:
        removed = profile.clear_profiles()
        cleared: ClearedDocument = {"cleared": removed}
        print_json(cleared) if as_json else typer.echo(
            f"removed {path}" if removed else f"nothing to remove: {path} does not exist"
        )
        return
    stacks = profile.calibrated_profiles() if show else [_measure(device, quiet=as_json)]
    if as_json:
        document: CalibrationDocument = {"file": str(path), "stacks": [asdict(stack) for stack in stacks]}
        print_json(document)
        return
    for stack in stacks:
        print_lines([*profile_screen(stack), ""])
    typer.echo(
        f"kept in {path}" if stacks else f"nothing has been measured yet: run {runnable_command('calibrate')}"
    )


def _measure(device: str, *, quiet: bool) -> DeviceProfile:
    require_torch("calibrate")
    from parambudget.render.progress import calibration_progress, make_console
    from parambudget.training.calibrate import calibrate as measure
    from parambudget.training.device import select_device

    compute = select_device(device)
    with calibration_progress(make_console(quiet=quiet)) as on_stage:
        stack = measure(compute, on_stage=on_stage)
    profile.save_profile(stack)
    return stack
