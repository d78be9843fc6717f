"""Electricity and emissions: arithmetic by hand, what is given instead of the average, what is not known."""

import math

import pytest

import parambudget as pb
from parambudget.cost.energy import check_grid_intensity, training_energy
from parambudget.cost.hardware import ACCELERATORS
from parambudget.cost.own_gpus import describe_gpu
from parambudget.cost.speed.throughput import Interval
from parambudget.errors import InputError

H100 = ACCELERATORS["h100-sxm"]


def test_energy_is_power_times_load_times_overhead_times_hours():
    """700 W x 85 % x 1.1 = 654.5 W each; eight for 100 hours."""
    energy = training_energy(Interval(50, 100, 200), H100, 8)
    assert energy.kilowatt_hours == pytest.approx((261.8, 523.6, 1047.2))
    assert energy.kilograms_co2e == pytest.approx((123.8314, 247.6628, 495.3256))  # at 473 g/kWh
    assert energy.grid_source == "world average of 2024, Ember's Global Electricity Review 2025"


def test_a_given_intensity_takes_the_place_of_the_average_and_says_so():
    energy = training_energy(Interval(1, 1, 1), H100, 1, 30)
    assert energy.kilograms_co2e.expected == pytest.approx(0.019635)
    assert (energy.grid_intensity, energy.grid_source) == (30, "given")
    assert training_energy(Interval(1, 1, 1), H100, 1, 0).kilograms_co2e.expected == 0


def test_without_a_boards_power_there_is_no_energy():
    own = describe_gpu("mine", "24GB", 82, "1TB/s")
    assert training_energy(Interval(1, 1, 1), None, 1) is None
    assert training_energy(Interval(1, 1, 1), own, 1) is None


def test_a_plan_has_the_energy_of_all_its_gpus_and_hours():
    plan = pb.plan("gpt2", pb.machine("h100", gpus=4, grid_intensity=100), hours=2)
    assert plan.energy.kilowatt_hours.expected == pytest.approx(4 * 2 * 0.6545)
    assert plan.as_dict()["energy"] == {
        "kilowatt_hours": plan.energy.kilowatt_hours._asdict(),
        "kilograms_co2e": plan.energy.kilograms_co2e._asdict(),
        "board_watts": 700, "board_watts_source": H100.board_watts_source, "load_share": 0.85, "pue": 1.1,
        "grid_intensity": 100, "grid_source": "given",
    }  # fmt: skip
    figures = {row["figure"]: row["expected"] for row in plan.rows()}
    assert figures["kilograms_co2e"] == pytest.approx(0.5236)
    assert pb.plan("gpt2", pb.machine(gpu_memory="24GB", gpu_tflops=82, gpu_bandwidth="1TB/s")).energy is None


@pytest.mark.parametrize("intensity", [-1, math.inf, math.nan, 5_001, True, "30"])
def test_an_intensity_that_no_grid_has_is_refused(intensity):
    with pytest.raises(InputError, match="use grams of CO2 equivalent per kWh, from 0 to 5,000"):
        check_grid_intensity(intensity)


def test_an_intensity_that_changes_nothing_is_refused():
    with pytest.raises(
        InputError, match=r"`grid_intensity=30` has no effect: .* power of own GPU is not known"
    ):
        pb.machine(gpu_memory="24GB", gpu_tflops=82, gpu_bandwidth="1TB/s", grid_intensity=30)
