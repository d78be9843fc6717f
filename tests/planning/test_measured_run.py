"""Plans at the level of a measured run: its speed, its loss, and the loss that somebody wants."""

import math

import pytest

import parambudget as pb
from parambudget.cost.flops import flops_per_token
from parambudget.cost.speed.throughput import TIME_OVERHEAD, throughput
from parambudget.errors import InputError
from parambudget.planning.machine import machine_for
from parambudget.planning.measured_run import MeasuredRun
from parambudget.planning.target_loss import AGREED, FEWEST_UPDATES, disagreement
from parambudget.scaling.loss import LOSS_LAWS, SEED_NOISE, anchor_law, expected_loss, law_parameters

GPT2 = pb.model("gpt2")
H100 = machine_for("h100")
RUN = MeasuredRun(loss=3.5, tokens=400_000_000, model=GPT2, source="runs/a")
STEP = {"batch_size": 16, "gradient_accumulation_steps": 8}


# ---- speed


def test_the_speed_of_a_plan_is_the_measured_one_where_it_is_of_that_plan():
    plan = pb.plan("gpt2", "h100", hours=1, anchor=MeasuredRun(tokens_per_second=300_000.0), **STEP)
    low, expected, high = plan.speed.tokens_per_second
    assert expected == pytest.approx(300_000, rel=1e-9)
    assert (low, high) == pytest.approx((0.85 * 300_000, 1.15 * 300_000))
    assert plan.tokens == pytest.approx(3600 * (1 - TIME_OVERHEAD) * 300_000, rel=1e-3)
    assert "at the speed of a measured run: 300K tokens/s" in plan.machine.profile.source
    assert plan.speed.best_tokens_per_second is None


@pytest.mark.parametrize("hours", [0.01, 1, 100])
def test_it_is_also_that_of_an_update_which_follows_from_the_speed(hours):
    plan = pb.plan("gpt2", "h100", hours=hours, anchor="tokens-per-second=100000")
    assert plan.speed.tokens_per_second.expected == pytest.approx(100_000, rel=1e-9)


def test_other_models_are_faster_by_the_same_factor():
    """Every rate of the device is scaled, so each part of an update is."""
    model, step = pb.model(dim=512, n_layers=8, n_heads=8), pb.StepConfig(**STEP)
    predicted = throughput(GPT2, step, H100.profile).tokens_per_second.expected
    run = MeasuredRun(model=GPT2, tokens_per_second=1.25 * predicted, step=step)
    machine = run.machine_at_its_speed(H100)
    before, after = (throughput(model, step, each.profile) for each in (H100, machine))
    for part, seconds in before.seconds.items():
        assert after.seconds[part] == pytest.approx(seconds / 1.25, rel=1e-9)


def test_the_speed_on_another_gpu_is_not_taken_and_that_is_said():
    run = MeasuredRun(model=GPT2, tokens_per_second=9e4, device="NVIDIA A100-SXM4-80GB", source="runs/a")
    plan = pb.plan("gpt2", "h100", hours=1, anchor=run)
    assert plan.machine.profile == H100.profile
    said = (
        "the speed of runs/a is not taken: it ran on NVIDIA A100-SXM4-80GB, and this is a plan for h100-sxm"
    )
    assert plan.warnings.count(said) == 1
    assert said in pb.solve("124M", machine="h100", anchor=run, top=1)[0].forecast.warnings


def test_the_speed_on_the_same_gpu_is_taken():
    step = pb.StepConfig(**STEP)
    run = MeasuredRun(model=GPT2, tokens_per_second=9e4, step=step, device="NVIDIA H100 80GB HBM3")
    plan = pb.plan("gpt2", "h100", anchor=run, **STEP)
    assert plan.speed.tokens_per_second.expected == pytest.approx(9e4)
    several = MeasuredRun(
        model=GPT2, tokens_per_second=9e4, device="NVIDIA H100 80GB HBM3",
        step=pb.StepConfig(**STEP, world_size=8),
    )  # fmt: skip
    assert any("on 8 devices" in line for line in pb.plan("gpt2", "h100", anchor=several).warnings)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pb.plan("gpt2", "h100", anchor="tokens-per-second=1e8"),
            "100,000,000 tokens per second are more than the hardware limit of h100-sxm",
        ),
        (
            lambda: pb.plan("gpt2", pb.machine("h100", mfu=0.4), anchor="tokens-per-second=1e5"),
            "`mfu=0.4` says how fast a run is as well; give one of them",
        ),
        (
            lambda: pb.solve(budget=pb.Budget(hours=1), machine="h100", anchor="tokens-per-second=1e5"),
            "tokens per second without a model .* give model as well",
        ),
        (
            lambda: pb.solve(budget=pb.Budget(flops=1e19), anchor="tokens-per-second=1e5,model=gpt2"),
            "are of a machine; give `machine` too",
        ),
        (
            lambda: pb.solve("124M", machine="h100", anchor=RUN),
            "`anchor=runs/a` has no effect: a loss is expected only where",
        ),
        (
            lambda: pb.plan(pb.model(GPT2, vocab_size=300), "h100", anchor=RUN),
            "runs/a has a vocabulary of 50,257 and the model one of 300",
        ),
        (
            lambda: pb.plan("gpt2", "h100", anchor=RUN, compare=["llama-3.2-1b"]),
            "runs/a has a vocabulary of 50,257 and the model one of 128,256",
        ),
        (
            lambda: pb.solve(budget=pb.Budget(flops=1e19), anchor=RUN, vocab_size=1024),
            "runs/a has a vocabulary of 50,257 and the model one of 1,024",
        ),
        (lambda: pb.plan("gpt2", "h100", anchor=3), "`anchor` is 3; give the folder of a run"),
        (lambda: MeasuredRun(loss=3.0), "give loss, tokens and model together"),
        (lambda: MeasuredRun(tokens=10, tokens_per_second=1.0), "give loss, tokens and model together"),
        (lambda: MeasuredRun(model=GPT2), "so nothing was measured"),
        (lambda: MeasuredRun(loss=11.0, tokens=10, model=GPT2), "not below ln 50,257 = 10.82"),
        (lambda: MeasuredRun(loss=math.nan, tokens=10, model=GPT2), "loss is nan; .* finite number above 0"),
        (lambda: MeasuredRun(loss=3.0, tokens=10, model="gpt2"), "is 'gpt2'; give what pb.model returns"),
        (lambda: MeasuredRun(unique_tokens=9, tokens_per_second=1.0), "unique-tokens are of the text of"),
        (lambda: pb.plan("gpt2", "h100", target_loss=11.0), "`target_loss=11` is not below ln 50,257"),
        (lambda: pb.plan("gpt2", "h100", target_loss=-1.0), "target_loss is -1; it must be"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# ---- loss


def test_the_planned_loss_is_at_the_level_of_the_run():
    plan = pb.plan("gpt2", "h100", tokens=400_000_000, anchor=RUN, **STEP)
    assert plan.loss.loss == pytest.approx(3.5, rel=1e-4)  # 3,052 whole updates are a little less
    assert plan.as_dict()["loss"]["anchor"]["source"] == "runs/a"
    assert pb.plan("gpt2", "h100", tokens=400_000_000, **STEP).as_dict()["loss"]["anchor"] is None


def test_at_the_run_itself_only_seeds_differ():
    plan = pb.plan("gpt2", "h100", tokens=3052 * 131_072, anchor=RUN, **STEP)
    low, high = plan.loss_range
    assert low == pytest.approx(3.5 * (2 - (1 + SEED_NOISE) ** 2), rel=1e-4)
    assert high == pytest.approx(3.5 * (1 + SEED_NOISE) ** 2, rel=1e-4)


def test_far_from_the_run_the_interval_holds_what_the_laws_differ_by():
    plan = pb.plan("gpt2", "h100", hours=10, anchor=RUN)
    ends = [
        10 * 3600 * (1 - TIME_OVERHEAD) * rate
        for rate in (plan.speed.tokens_per_second.high, plan.speed.tokens_per_second.low)
    ]
    losses = [
        expected_loss(anchor_law(law, RUN.anchor), law_parameters(GPT2), tokens)
        for law in LOSS_LAWS.values() for tokens in ends
    ]  # fmt: skip
    noise = (1 + SEED_NOISE) ** 2 - 1
    assert plan.loss_range == pytest.approx((min(losses) * (1 - noise), max(losses) * (1 + noise)), rel=1e-6)
    own = [losses[0], losses[1]]
    assert plan.loss_range[1] - plan.loss_range[0] > 1.5 * (max(own) - min(own))


def test_solve_and_plan_agree_at_the_level_of_a_run():
    budget = pb.Budget(hours=2)
    best = pb.solve(budget=budget, machine="h100", anchor=RUN, top=1)[0]
    plan = pb.plan(best, "h100", hours=2, anchor=RUN)
    assert best.forecast.loss == plan.loss.loss
    assert best.forecast.loss_level == "runs/a"
    free = pb.solve(budget=budget, machine="h100", top=1)[0]
    assert best.model == free.model  # one factor changes no ranking
    assert free.forecast.loss_level is None


# ---- a target


def test_without_a_run_the_shortest_one_that_would_tell_is_named():
    plan = pb.plan("gpt2", "h100", hours=10, target_loss=3.0781)
    first = plan.target.first_run
    assert plan.target.reach is None
    whole = plan.updates * plan.speed.update_tokens
    assert disagreement(GPT2, first.share * whole, whole, None) <= AGREED
    assert disagreement(GPT2, first.share / 2 * whole, whole, None) > AGREED
    assert (first.updates, first.tokens) == (
        int(plan.updates * first.share), int(plan.updates * first.share) * plan.speed.update_tokens
    )  # fmt: skip
    assert first.hours == plan.speed.hours(first.tokens)
    assert first.cost.expected == pytest.approx(first.hours.expected * H100.price.middle)
    assert plan.as_dict()["target"]["first_run"]["updates"] == first.updates
    assert pb.plan("gpt2", "h100", hours=10).as_dict()["target"] is None


def test_no_run_of_fewer_than_100_updates_tells_anything():
    for tokens in (100 * 131_072, 250 * 131_072, 1000 * 131_072):
        plan = pb.plan("gpt2", "h100", tokens=tokens, target_loss=3.0, **STEP)
        assert plan.target.first_run.updates >= FEWEST_UPDATES
    shorter = pb.plan("gpt2", "h100", tokens=50 * 131_072, target_loss=3.0, **STEP)
    assert (shorter.target.first_run.share, shorter.target.first_run.updates) == (1, 50)


def test_with_a_run_the_tokens_that_reach_it_follow_from_the_law():
    plan = pb.plan("gpt2", "h100", hours=10, target_loss=3.0781, anchor=RUN)
    law, reach = plan.goal.law, plan.target.reach
    by_hand = (law.B / (3.0781 - law.E - law.A / law_parameters(GPT2) ** law.alpha)) ** (1 / law.beta)
    assert reach.tokens.expected == pytest.approx(by_hand, rel=1e-9)
    assert reach.tokens.low < reach.tokens.expected < reach.tokens.high
    rate = plan.speed.tokens_per_second
    assert reach.hours.expected == pytest.approx(by_hand / rate.expected / 3600 / (1 - TIME_OVERHEAD))
    assert reach.hours.low == pytest.approx(reach.tokens.low / rate.high / 3600 / (1 - TIME_OVERHEAD))
    assert reach.cost.expected == pytest.approx(reach.hours.expected * H100.price.middle)
    assert reach.within_plan
    assert not pb.plan("gpt2", "h100", hours=0.1, target_loss=3.0781, anchor=RUN).target.reach.within_plan
    assert plan.target.first_run is None


def test_what_a_model_never_reaches_has_its_limit_and_null_in_json():
    plan = pb.plan("gpt2", "h100", hours=10, target_loss=2.0, anchor=RUN)
    law, reach = plan.goal.law, plan.target.reach
    limit = law.E + law.A / law_parameters(GPT2) ** law.alpha
    assert reach.limit.expected == pytest.approx(limit, rel=1e-7)
    assert reach.limit.low > 2.0
    assert math.isinf(reach.tokens.low)
    assert not reach.within_plan
    values = plan.as_dict()["target"]["reach"]
    assert values["tokens"] == {"low": None, "expected": None, "high": None}
    assert values["hours"]["expected"] is None
    assert values["limit"]["expected"] == reach.limit.expected


def test_a_small_text_sets_the_limit():
    free, small = (
        pb.plan("gpt2", "h100", hours=10, target_loss=3.0, anchor=RUN, unique_tokens=n).target.reach
        for n in (None, 50_000_000)
    )
    assert small.limit.low > free.limit.high
    assert math.isinf(small.tokens.expected) != math.isinf(free.tokens.expected)


def test_the_hardware_limit_is_that_of_the_refusal():
    limit = H100.profile.peak_flops / flops_per_token(GPT2, "causal")
    assert pb.plan("gpt2", "h100", anchor=MeasuredRun(tokens_per_second=0.99 * limit))
    with pytest.raises(InputError, match="hardware limit"):
        pb.plan("gpt2", "h100", anchor=MeasuredRun(tokens_per_second=1.01 * limit))
