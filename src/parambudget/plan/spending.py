"""What may be spent, from what people write: hours or dollars on a GPU, FLOPs, the memory of one GPU."""

from math import isfinite

from parambudget.errors import InputError
from parambudget.planning.forecast import Spending
from parambudget.planning.machine import Machine, machine_for
from parambudget.planning.run_plan import MOST_HOURS
from parambudget.units import parse_bytes, shortened


def spending(
    *, hours: float | None = None, dollars: float | None = None, flops: str | float | None = None,
    memory: str | int | None = None, gpu: str | None = None, batch_size: int | None = None,
) -> Spending:  # fmt: skip
    """A budget; raises `InputError` where parts of it contradict each other or say nothing possible."""
    lengths = {"hours": hours, "dollars": dollars, "flops": flops}
    if len(said := [name for name, value in lengths.items() if value is not None]) > 1:
        raise InputError(f"{' and '.join(said)} each say how long the run is; give one of them")
    for name, value in {"hours": hours, "dollars": dollars, "batch_size": batch_size}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f"{name} is {shortened(repr(value))}; it must be a number")
    needs_machine = hours is not None or dollars is not None or gpu is not None
    machine = machine_for(gpu) if needs_machine else None
    if dollars is not None and machine is not None:
        hours = _hours_for(dollars, machine)
    if hours is not None and not 0 < hours <= MOST_HOURS:
        raise InputError(
            f"hours={hours:g} is no time to train for; use a number above 0, at most {MOST_HOURS:,.0f}"
        )
    given = {} if batch_size is None else {"batch_size": batch_size}
    return Spending(
        machine, hours, None if flops is None else _flops(flops),
        memory if memory is None or isinstance(memory, int) else parse_bytes(memory), given,
    )  # fmt: skip


def _hours_for(dollars: float, machine: Machine) -> float:
    if not (isfinite(dollars) and dollars > 0):
        raise InputError(f"dollars={dollars:g} is no budget; use a number above 0")
    if machine.price is None or machine.price.middle == 0:
        raise InputError(f"no price is known for {machine.name}; give hours instead of dollars")
    return dollars / machine.price.middle


def _flops(written: str | float) -> float:
    try:
        number = float(written)
    except ValueError:
        number = 0.0
    if not 1e12 <= number <= 1e30:
        raise InputError(
            f"flops {shortened(str(written))!r} is no budget; use a number such as 1e19, from 1e12 to 1e30"
        )
    return number
