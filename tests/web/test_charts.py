"""What the page's charts are given to draw."""

import math

import pytest

import parambudget as pb
from parambudget.training.metrics import read_run
from parambudget.web import charts


@pytest.fixture(scope="module")
def plans():
    return {name: pb.plan(name, "h100-sxm", hours=8) for name in ("gpt2", "gpt2-medium")}


def test_a_long_curve_keeps_its_ends_and_leaves_out_what_is_not_finite():
    points = [(float(n), 1.0) for n in range(5000)]
    thinned = charts.thin_out([*points, (5000.0, math.nan)])
    assert (len(thinned), thinned[0], thinned[-1]) == (600, points[0], points[-1])
    assert charts.thin_out([(1.0, math.inf), (2.0, 3.0)]) == [(2.0, 3.0)]


def test_expected_losses_reach_from_an_eighth_of_the_longest_run_to_four_times_it(plans):
    hours = charts.plan_hours(list(plans.values()), 6)
    assert hours == pytest.approx([2.0**n for n in range(6)])


def test_losses_over_hours_are_those_of_the_plans_and_the_band_is_of_the_first(plans):
    low, width, *lines = charts.loss_over_hours(plans)["series"]
    for line, (name, plan) in zip(lines, plans.items(), strict=True):
        assert line["name"] == name
        assert line["data"] == [[hours, float(plan.loss_after(hours))] for hours, _ in line["data"]]
    first, middle = plans["gpt2"], len(low["data"]) // 2
    rates = first.speed.tokens_per_second
    (hours, bottom), (_, between) = low["data"][middle], width["data"][middle]
    assert bottom == float(first.loss_after(hours, rates.high))
    assert bottom + between == pytest.approx(float(first.loss_after(hours, rates.low)))
    assert between > 0


def test_the_landscape_has_every_model_in_its_place_and_the_chosen_one_larger():
    found = pb.solve("125M", top=3)
    *_, models = charts.landscape(found, chosen=1)["series"]
    assert models["name"] == charts.MODELS
    assert [point["value"] for point in models["data"]] == [[s.model.n_layers, s.model.dim] for s in found]
    sizes = [point["symbolSize"] for point in models["data"]]
    assert sizes[1] > sizes[0] == sizes[2]


def test_a_run_is_drawn_beside_what_was_planned_for_it(tmp_path, tiny_run):
    tiny_run(tmp_path / "run", 20, finished=True)
    run = read_run(tmp_path / "run")
    measured, planned = charts.run_speeds([run])["series"]
    assert measured["data"] == [[step, 9000.0] for step in range(1, 21)]
    assert planned["data"] == [[1, 9500.0], [20, 9500.0]]
    training, validation = charts.run_losses([run])["series"]
    assert training["data"][0] == [4096, 6.0]
    assert validation["data"] == [[4096 * step, 2.1 + 4 / step] for step in (5, 10, 15, 20)]
