"""Constants measured on the user's own devices: in a file of the user's data folder, preferred to presets."""

import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import platformdirs

from parambudget._files import read_json, write_json
from parambudget.cost.hardware import Accelerator, find
from parambudget.cost.speed.profile import Stack, preset
from parambudget.errors import InputError

_LAYOUT: Final = 1
_TEXTS: Final = frozenset({"device", "name", "dtype", "source", "measured_on"})
_OPTIONAL: Final = frozenset({"peak_flops", "measured_on"})


def stack_for(device: Accelerator | str) -> Stack:
    """The constants to predict with: the newest that were measured on that device, else its preset.

    `device` is a row of accelerators, or what torch calls one; the processor is "cpu", and has no preset.
    """
    names = device.device_names if isinstance(device, Accelerator) else (device,)
    asked = {name.lower() for name in names}
    measured = [stack for stack in calibrated() if stack.device.lower() in asked]
    if measured:
        return measured[-1]
    row = device if isinstance(device, Accelerator) else find(device)
    if row is None:
        raise InputError(
            f"nothing is known of the speed of {device!r}; measure it: parambudget calibrate, or name a GPU"
        )
    return preset(row)


def calibrated() -> list[Stack]:
    """Every stack that was measured, the newest last."""
    path = calibration_file()
    if not path.exists():
        return []
    try:
        document = read_json(path)
        if document["layout"] != _LAYOUT:
            raise ValueError(f"layout {document['layout']!r}")
        return [_stack(row) for row in document["stacks"]]
    except (InputError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not hold measured constants ({error}); run parambudget calibrate --clear, "
            "or parambudget calibrate to measure again"
        ) from None


def keep(stack: Stack) -> Path:
    """Add measured constants to the file, in place of older ones of that device and software; returns it."""
    path = calibration_file()
    try:
        before = calibrated()
    except InputError:
        before = []  # what cannot be read is measured anew
    others = [other for other in before if (other.device, other.name) != (stack.device, stack.name)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot keep constants in {path.parent}: {error.strerror}; "
            "set XDG_DATA_HOME to a folder that is writable"
        ) from None
    write_json(path, {"layout": _LAYOUT, "stacks": [asdict(each) for each in (*others, stack)]})
    return path


def clear() -> bool:
    """Forget everything that was measured; whether there was anything."""
    path = calibration_file()
    there = path.exists()
    path.unlink(missing_ok=True)
    return there


def calibration_file() -> Path:
    """Where the constants are kept; XDG_DATA_HOME moves it."""
    return platformdirs.user_data_path("parambudget") / "calibration.json"


def _stack(row: dict[str, Any]) -> Stack:
    if row.keys() != {field.name for field in fields(Stack)}:
        raise ValueError("other fields than expected")
    for name, value in row.items():
        if value is None and name in _OPTIONAL:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not (isinstance(value, str) if name in _TEXTS else number and value >= 0):
            raise ValueError(f"{name} is {value!r}")
    return Stack(**row)
