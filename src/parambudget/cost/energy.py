"""Electricity of a run and the emissions of generating it: an estimate, with what it assumes beside it."""

from dataclasses import dataclass
from math import nan
from typing import Final

from typing_extensions import TypedDict

from parambudget.cost.hardware import GIVEN, Accelerator
from parambudget.cost.speed.throughput import Interval, IntervalDocument
from parambudget.errors import InputError
from parambudget.units import short_repr

LOAD_SHARE: Final = 0.85
"""Of the board power, drawn while training. Assumed: Morrison et al. 2025 (arXiv 2503.05804) saw 15 to 85 %
of their hardware's maximum during runs, and the low end is taken to be waiting, as for checkpoints."""
PUE: Final = 1.1
"""Power that a data center draws over what its computers do. Assumed, as by Touvron et al. 2023 (LLaMA); many
have more."""
WORLD_GRID_INTENSITY: Final = 473.0
"""Grams of CO2 equivalent per kWh, of the whole life cycle of the power plants."""
WORLD_GRID_SOURCE: Final = "world average of 2024, Ember's Global Electricity Review 2025"
_HIGHEST_GRID_INTENSITY: Final = 5_000


class EnergyDocument(TypedDict):
    """Electricity and emissions of all accelerators of a run, an estimate; processors, disks and network are
    left out."""

    kilowatt_hours: IntervalDocument
    """Electricity."""
    kilograms_co2e: IntervalDocument
    """CO2 equivalent."""
    board_watts: float
    """Of one accelerator at full load."""
    board_watts_source: str
    """Where the power was read."""
    load_share: float
    """Share of the board power that is drawn while training; assumed."""
    pue: float
    """Power that the data center draws over what its computers do; assumed."""
    grid_intensity: float
    """Grams of CO2 equivalent per kWh."""
    grid_source: str
    """Where the intensity of the grid was read."""


@dataclass(frozen=True)
class Energy:
    """Of all accelerators of a run, with their share of cooling; processors, disks and network left out."""

    kilowatt_hours: Interval
    kilograms_co2e: Interval
    """CO2 equivalent."""
    board_watts: float
    """Of one accelerator at full load."""
    board_watts_source: str
    grid_intensity: float
    """Grams of CO2 equivalent per kWh."""
    grid_source: str

    def as_dict(self) -> EnergyDocument:
        """Plain JSON values."""
        return {
            "kilowatt_hours": self.kilowatt_hours.as_dict(),
            "kilograms_co2e": self.kilograms_co2e.as_dict(),
            "board_watts": self.board_watts, "board_watts_source": self.board_watts_source,
            "load_share": LOAD_SHARE, "pue": PUE,
            "grid_intensity": self.grid_intensity, "grid_source": self.grid_source,
        }  # fmt: skip


def training_energy(
    hours: Interval, accelerator: Accelerator | None, world_size: int, grid_intensity: float | None = None
) -> Energy | None:
    """The energy of so many accelerators for so many hours of wall time; None where their power is not known.

    `grid_intensity` is in grams of CO2 equivalent per kWh; the world's average where it is not given.
    """
    if accelerator is None or accelerator.board_watts is None:
        return None
    grid, source = WORLD_GRID_INTENSITY, WORLD_GRID_SOURCE
    if grid_intensity is not None:
        grid, source = grid_intensity, GIVEN
    kilowatts = world_size * accelerator.board_watts / 1000 * LOAD_SHARE * PUE
    energy = Interval(*(kilowatts * each for each in hours))
    return Energy(
        energy, Interval(*(each * grid / 1000 for each in energy)), accelerator.board_watts,
        accelerator.board_watts_source or GIVEN, grid, source,
    )  # fmt: skip


def check_grid_intensity(grid_intensity: object) -> float:
    """The intensity; raises `InputError` for a value that no grid has."""
    number = grid_intensity if isinstance(grid_intensity, int | float) else nan
    if isinstance(grid_intensity, bool) or not 0 <= number <= _HIGHEST_GRID_INTENSITY:
        raise InputError(
            f"`grid_intensity` is {short_repr(grid_intensity)}; use grams of CO2 equivalent per kWh, from 0 "
            f"to {_HIGHEST_GRID_INTENSITY:,}"
        )
    return float(number)
