"""Models for hours, FLOPs or memory: held against measuring every model one by one."""

import inspect
from dataclasses import FrozenInstanceError, replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from support.strategies import hybrids, models

import parambudget as pb
from parambudget.cli.solve import solve as command
from parambudget.cost.flops import flops_per_token
from parambudget.cost.memory.peak import peak_bytes
from parambudget.cost.speed.roofline import tokens_per_second
from parambudget.cost.speed.throughput import TIME_OVERHEAD
from parambudget.errors import InputError, NoSolution, ParambudgetError
from parambudget.planning.budget import Budget, Scenario
from parambudget.planning.compute_budget import LEAST_STATE_BYTES, better_size, size_range, solve_for_budget
from parambudget.planning.forecast import forecast, predict
from parambudget.planning.machine import USABLE_SHARE, machine_for
from parambudget.planning.run_plan import Goal, plan_run
from parambudget.planning.shape_price import ranked_loss
from parambudget.scaling.loss import DEFAULT_LAW, LOSS_LAWS, expected_loss, law_parameters
from parambudget.search.engine import Search
from parambudget.search.lattice import candidate_models
from parambudget.search.options import Rank
from parambudget.search.solutions import EQUAL_LOSS_SHARE
from parambudget.search.space import SearchSpace

H100 = machine_for("h100")
LATTICE = {"n_layers": "4:20:8", "dim": "512:1024:256", "head_dim": 64, "kv_groups": 1, "ffn_ratio": "2:4",
           "multiple": 512, "tied": True}  # fmt: skip


def every_model() -> list[pb.ModelConfig]:
    search = Search(SearchSpace.declare(10**8, LATTICE), 10**8)
    return [
        search.space.choices.replace(**points.sizes(i))
        for points in search.all_points(1_000)
        for i in range(len(points))
    ]


def ranked_after(model: pb.ModelConfig, tokens: float) -> float:
    return float(ranked_loss(model, DEFAULT_LAW, tokens, None))


def equal_to(best: float) -> float:
    return best + EQUAL_LOSS_SHARE * (best - DEFAULT_LAW.E)


def loss_after(model: pb.ModelConfig, tokens: float) -> float:
    return expected_loss(DEFAULT_LAW, law_parameters(model), tokens)


def test_flops_choose_the_model_with_the_lowest_expected_loss():
    ranked = {m: ranked_after(m, 1e18 / flops_per_token(m)) for m in every_model()}
    found = solve_for_budget(Scenario(Budget(flops=1e18)), None, LATTICE, top=3)
    certificate = found.certificate
    assert certificate.target is None
    assert certificate.best == pytest.approx(min(ranked.values()), rel=1e-12)
    assert certificate.lattice_points == certificate.feasible == len(ranked)
    assert ranked[found[0].model] <= equal_to(certificate.best)
    assert found[0].forecast is not None
    assert found[0].forecast.loss == pytest.approx(
        loss_after(found[0].model, 1e18 / flops_per_token(found[0].model))
    )


def test_hours_choose_by_what_each_model_sees_in_them():
    asked = Scenario(Budget(hours=0.5), H100, step={
        "batch_size": 8, "gradient_accumulation_steps": 8, "loss_chunks": 1, "gradient_checkpointing": False,
    })  # fmt: skip
    (work,) = asked.step_candidates(1024)
    seconds = 0.5 * 3600 * (1 - TIME_OVERHEAD)
    ranked = {m: ranked_after(m, seconds * tokens_per_second(m, work, H100.profile)) for m in every_model()}
    found = solve_for_budget(asked, None, LATTICE)
    assert found.certificate.best == pytest.approx(min(ranked.values()), rel=1e-12)
    assert ranked[found[0].model] <= equal_to(found.certificate.best)


def test_memory_chooses_the_largest_that_fits():
    given = {"batch_size": 4, "loss_chunks": 1, "gradient_checkpointing": False}
    asked = Scenario(Budget(memory=6 * 10**9), step=given)
    (work,) = asked.step_candidates(1024)
    peaks = {m: peak_bytes(m, work) for m in every_model()}
    fitting = [m for m, peak in peaks.items() if peak <= int(6e9 * USABLE_SHARE)]
    assert 0 < len(fitting) < len(peaks)
    found = solve_for_budget(asked, None, LATTICE)
    assert found.certificate.feasible == len(fitting)
    assert found.certificate.best == max(pb.count(m).total for m in fitting)
    assert all(s.model in fitting for s in found)
    assert all(s.forecast is not None and s.forecast.peak_bytes == peaks[s.model] for s in found)


def test_a_lattice_is_measured_as_each_of_its_models_is():
    limits = (
        (Budget(hours=1), H100, 0.02), (Budget(flops=1e18), None, 1e-9), (Budget(flops=1e18), H100, 0.002),
        (Budget(memory=8 * 10**9), None, 1e-9), (Budget(hours=1, memory=8 * 10**9), H100, 0.02),
    )  # fmt: skip
    search = Search(SearchSpace.declare(10**8, LATTICE), 10**8)
    points = next(search.all_points(1_000))
    for budget, machine, off in limits:
        asked = Scenario(budget, machine)
        (here, m), *none = candidate_models(search.space.choices, points)
        many = predict(m, asked)
        assert (here, none) == (slice(None), [])
        for i in range(0, len(points), 3):
            one = forecast(search.space.choices.replace(**points.sizes(i)), asked)
            assert (one.step is not None or machine is None) == many.possible[i]
            if one.tokens is not None:
                assert one.tokens == pytest.approx(float(many.tokens[i]), rel=off)
                assert one.ranked_loss == pytest.approx(float(many.ranked_loss[i]), rel=off / 5)


def test_hours_with_a_target_rank_the_models_of_that_size_and_say_which_size_is_better():
    found = pb.solve("350M", budget=pb.Budget(hours=1.5), machine="h100", top=3)
    assert found.rank == "loss"
    assert all(abs(s.error) <= 0.005 * 350e6 for s in found)
    losses = [s.forecast.loss for s in found if s.forecast and s.forecast.loss]
    assert len(losses) == 3
    assert found.better is not None
    assert found.better.counted < 300e6
    assert found.better.loss < min(losses)
    assert equal_to(found.better.loss) < found.better.baseline_loss


def test_a_size_that_is_right_for_its_budget_is_left_in_peace():
    best = pb.solve(budget=pb.Budget(flops=1e19))[0].model
    assert pb.solve(pb.count(best).total, budget=pb.Budget(flops=1e19), tied=best.tied).better is None


def test_more_time_is_for_larger_models():
    budgets = [pb.Budget(hours=hours) for hours in (0.5, 8, 200)]
    counts = [pb.solve(budget=budget, machine="h100", top=1)[0].counted for budget in budgets]
    assert counts == sorted(counts)
    assert counts[2] > 4 * counts[0]


@pytest.mark.parametrize(
    ("rank", "figure", "sign"), [("speed", "tokens_per_second", -1), ("memory", "peak_bytes", 1)]
)
def test_a_rank_by_what_is_predicted_puts_the_best_first(rank, figure, sign):
    found = pb.solve("350M", machine="h100", rank=rank, step={"batch_size": 16})
    usual = pb.solve("350M", machine="h100", step={"batch_size": 16})
    values = [sign * getattr(s.forecast, figure) for s in found]
    assert values[0] <= min(values) + 0.01 * abs(min(values)) * 1.001
    assert min(values) < min(sign * getattr(s.forecast, figure) for s in usual)


def test_a_gpu_beside_a_target_adds_what_is_predicted_and_changes_no_answer():
    plain, seen = pb.solve("350M"), pb.solve("350M", machine="h100")
    assert [s.model for s in plain] == [s.model for s in seen]
    assert all(s.forecast is not None and s.forecast.tokens_per_second for s in seen)
    assert all(s.forecast is None for s in plain)


def test_a_step_fixes_what_it_says_and_leaves_the_rest_to_be_chosen():
    whole = pb.StepConfig(batch_size=8, gradient_accumulation_steps=64, loss_chunks=4)
    found = pb.solve("350M", machine="h100", step=whole, top=1, n_layers=24)[0]
    planned = pb.plan(found, "h100", batch_size=8, gradient_accumulation_steps=64, loss_chunks=4,
                      gradient_checkpointing=False)  # fmt: skip
    assert found.forecast is not None
    assert found.forecast.peak_bytes == planned.memory.peak_bytes
    assert found.forecast.tokens_per_second == pytest.approx(planned.speed.tokens_per_second.expected)
    some = pb.solve("350M", machine="h100", step={"gradient_checkpointing": True}, top=1, n_layers=24)[0]
    assert some.forecast is not None
    assert some.forecast.gradient_checkpointing
    assert some.forecast.batch_size != 8


def test_a_step_of_more_devices_than_the_machine_has_is_refused():
    step = pb.StepConfig(batch_size=8, gradient_accumulation_steps=2, world_size=2)
    with pytest.raises(pb.ConfigError, match="step has world_size=2 and the machine 1; leave world_size out"):
        pb.solve("350M", machine="h100", step=step)
    with pytest.raises(pb.ConfigError, match="cannot be divided evenly among 4 processes; use 4"):
        pb.solve("350M", machine=pb.machine("h100", gpus=4), step={"gradient_accumulation_steps": 2})


@pytest.mark.parametrize("budget", [None, pb.Budget(memory="80GB"), pb.Budget(flops=1e19)])
def test_by_size_the_most_parameters_come_first_with_and_without_a_memory(budget: pb.Budget | None):
    shown = pb.solve("350M", rank="size", budget=budget, n_layers=24)
    sizes = [s.total for s in shown]
    assert sizes == sorted(sizes, reverse=True)
    every = pb.solve("350M", rank="closest", top=1000, n_layers=24)
    assert sizes[0] >= max(s.total for s in every if s.total <= 351_750_000)
    assert (shown[0].forecast is None) == (budget is None)
    assert shown.rank == "size"


def test_the_ways_out_of_a_current_model_show_what_is_predicted_of_them():
    current = pb.model(dim=1024, n_layers=24, n_heads=16, intermediate_size=4096)
    found = pb.resize(current, "350M", machine="h100", step={"batch_size": 16})
    assert [s.forecast.batch_size for s in found if s.forecast] == [16] * len(found)


def test_a_memory_that_holds_nothing_of_the_size_names_what_is_lacking():
    with pytest.raises(
        NoSolution,
        match=r"none of the [\d,]+ shapes is possible: none fits in 1\.9 GiB, of which 94%.*`context_length`",
    ):
        pb.solve("350M", budget=pb.Budget(memory="2GB"), step={"batch_size": 64})


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"hours": 1.0, "flops": "1e19"}, "`hours` and `flops` each set the length of the run"),
        ({"hours": 1.0, "dollars": 1.0}, "`hours` and `dollars` each set the length of the run"),
        ({"hours": 0.0}, "hours=0` is not a training time"),
        ({"hours": float("nan")}, "hours=nan` is not a training time"),
        ({"hours": "a"}, "`hours` is 'a'; it must be a number"),
        ({"hours": True}, "`hours` is True; it must be a number"),
        ({"dollars": -5.0}, "dollars=-5` is not a budget; use a number above 0"),
        ({"flops": "much"}, "`flops` 'much' is not a budget; use a number such as 1e19"),
        ({"flops": "1e99"}, "from 1e12 to 1e30"),
        ({"memory": "24"}, "memory '24' is not a size; use such as 24GB"),
        ({"memory": "0GB"}, "memory '0GB' is not a size"),
        ({"memory": 24e9}, "`memory` 24000000000.0 is not a size; use a number of bytes"),
        ({"memory": 0}, "`memory` 0 is not a size"),
    ],
)
def test_a_budget_that_cannot_be_is_one_line(parts: dict[str, Any], says: str):
    with pytest.raises(InputError, match=says):
        pb.Budget(**parts)


def test_a_budget_holds_parsed_values_and_is_frozen():
    budget = pb.Budget(flops="1e19", memory="24GB")
    assert (budget.flops, budget.memory_bytes) == (1e19, 24 * 10**9)
    assert budget == pb.Budget(flops=1e19, memory=24 * 10**9)
    with pytest.raises(FrozenInstanceError):
        budget.hours = 1.0


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "there is nothing to solve for; give a target, or a budget"),
        ({"machine": "h1000"}, "no GPU is known as"),
        ({"budget": pb.Budget(flops="1e12")}, r"enough for about .* parameters, fewer than 1,000,000"),
        (
            {"target": "350M", "machine": "h100", "step": {"batch_size": 10**5}},
            "with `batch_size=100000` none fits in 79.6 GiB",
        ),
        (
            {"machine": "h100", "rank": "speed"},
            "`rank=speed` without a target would only find the smallest model",
        ),
        (
            {"machine": "h100", "rank": "loss"},
            r"`rank=loss` needs `hours` or `dollars` with a `machine`, or `flops`",
        ),
        ({"target": "350M", "rank": "loss"}, "`rank=loss` needs `hours` or `dollars` with a `machine`"),
        (
            {"target": "350M", "rank": "speed", "budget": pb.Budget(flops=1e19)},
            r"`rank=speed` needs `machine`",
        ),
        ({"budget": pb.Budget(flops=1e19), "rank": "shape"}, "`rank=shape` needs `target`"),
        (
            {"budget": pb.Budget(flops=1e19), "active": "1B"},
            "`active` is a second target in addition to the first",
        ),
        ({"budget": pb.Budget(flops=1e19), "rank": "size"}, "needs `target`, `machine` or `memory`"),
        ({"target": "350M", "step": {"batch_size": 0}}, "batch_size is 0; it must be"),
    ],
)
def test_a_search_that_makes_no_sense_is_one_line(asked: dict[str, Any], says: str):
    with pytest.raises(ParambudgetError, match=says):
        pb.solve(**asked)


def test_a_batch_size_without_a_memory_to_fit_in_says_what_it_needs():
    for budget in (None, pb.Budget(flops=1e19)):
        with pytest.raises(
            InputError, match=r"^`batch_size` decides what fits in memory; give `machine` or `memory` too"
        ):
            pb.solve("350M", budget=budget, step={"batch_size": 8})


@pytest.mark.parametrize("law", ["hoffmann-2022", LOSS_LAWS["hoffmann-2022"]])
def test_the_loss_of_a_budget_is_by_the_law_that_is_given(law: str | pb.LossLaw):
    asked = {"budget": pb.Budget(flops=1e18), "top": 1, **LATTICE}
    best = pb.solve(law=law, **asked)[0]
    assert best.forecast is not None
    tokens = 1e18 / flops_per_token(best.model)
    expected = expected_loss(LOSS_LAWS["hoffmann-2022"], law_parameters(best.model), tokens)
    assert best.forecast.loss == pytest.approx(expected)


def test_text_that_is_used_up_raises_the_expected_loss():
    asked = {"budget": pb.Budget(flops=1e18), "top": 1, **LATTICE}
    fresh, repeated = (pb.solve(unique_tokens=n, **asked).certificate.best for n in (None, "20M"))
    assert fresh < repeated


@pytest.mark.parametrize("rank", get_args(Rank))
def test_every_rank_is_open_to_library_and_command_line(rank: str):
    budget = pb.Budget(hours=1.5)
    assert pb.solve("350M", budget=budget, machine="h100", rank=rank, top=1, n_layers=24).rank == rank
    solve_option = next(p for p in inspect.signature(command).parameters.values() if p.name == "rank")
    assert rank in get_args(get_args(get_args(solve_option.annotation)[0])[0])


def test_a_memory_beside_a_target_leaves_only_what_fits_in_the_usual_order():
    usual = pb.solve("350M", budget=pb.Budget(memory="80GB"), step={"batch_size": 16})
    assert [s.model for s in usual] == [s.model for s in pb.solve("350M")]
    scarce = pb.solve("350M", budget=pb.Budget(memory="12GB"), step={"batch_size": 16})
    assert all(
        s.forecast.peak_bytes <= 12e9 * USABLE_SHARE for s in scarce if s.forecast and s.forecast.peak_bytes
    )


def test_dollars_are_hours_at_the_price_of_today():
    price = H100.price
    assert price is not None
    assert Scenario(Budget(dollars=10.0), H100).hours == pytest.approx(10 / price.middle)


def test_the_sizes_searched_follow_from_the_budget():
    low, high = size_range(Scenario(Budget(flops=1e20)))
    assert low < 853e6 < high  # the law's own choice, docs/laws.md
    assert size_range(Scenario(Budget(memory=12 * 10**9)))[1] == 10**9
    both = Scenario(Budget(hours=1000), replace(H100, memory_bytes=2 * 10**9))
    assert size_range(both)[1] == 2 * 10**9 // LEAST_STATE_BYTES


def test_a_plan_is_told_of_a_better_size_for_its_hours():
    model = pb.solve("1.5B", tied=True)[0].model
    goal = Goal(hours=1.0)
    better = better_size(H100, goal, [plan_run(model, H100, goal)], {})
    assert better is not None
    assert better.counted < 10**9
    assert better.model.tied


def test_what_is_said_of_a_better_size_does_not_hang_on_how_many_are_shown():
    budget = pb.Budget(hours=1.5)
    one, many = (pb.solve("350M", budget=budget, machine="h100", top=top).better for top in (1, 12))
    assert one == many


def test_models_of_no_target_miss_none():
    found = pb.solve(budget=pb.Budget(flops=1e18))
    assert all(each.error is None for each in found)
    assert "error" not in found.rows()[0]
    assert "(+" not in repr(found[0])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"law": "hoffmann-2022"}, "`law=hoffmann-2022` has no effect: a loss is expected only"),
        ({"unique_tokens": "1B"}, "`unique_tokens=1000000000` has no effect"),
        ({"unique_tokens": "1B", "machine": "h100"}, "`unique_tokens=1000000000` has no effect"),
        ({"law": "hoffmann-2022", "budget": pb.Budget(memory="24GB")}, "`law=hoffmann-2022` has no effect"),
    ],
)  # fmt: skip
def test_what_a_search_without_a_length_cannot_use_is_refused(asked, says):
    with pytest.raises(InputError, match=f"^{says}"):
        pb.solve("100M", **asked)


@settings(max_examples=20, deadline=None)
@given(models(rare=True) | hybrids())
def test_hours_find_a_model_like_any_other(model):
    like = model.replace(context_length=64, rotary_fraction=1.0)
    axes = {"n_layers": range(4, 9), "dim": [256, 512], "vocab_size": 1000}
    found = pb.solve(like=like, budget=pb.Budget(hours=0.5), machine="rtx-4090", top=1, **axes)
    plan = pb.plan(found[0].model, "rtx-4090", hours=0.5)
    assert found[0].forecast.loss == pytest.approx(plan.as_dict()["loss"]["expected"])
