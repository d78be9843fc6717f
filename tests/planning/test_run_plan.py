"""The plan of a run: its parts agree with each other, and it says what it assumes."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from support.strategies import hybrids, models

import parambudget as pb
from parambudget.cost.flops import flops_per_token
from parambudget.cost.memory.peak import peak_bytes
from parambudget.cost.speed.throughput import TIME_OVERHEAD
from parambudget.errors import InputError
from parambudget.planning.inference import plan_inference
from parambudget.planning.machine import USABLE_SHARE, machine_for
from parambudget.planning.run_plan import Goal, RunPlan, plan_run
from parambudget.planning.step_search import fastest_step
from parambudget.scaling.loss import MUENNIGHOFF_2023

H100 = machine_for("h100")
MODEL = pb.model(dim=896, n_layers=24, n_heads=14, intermediate_size=3584)
GIVEN = {"batch_size": 16, "gradient_accumulation_steps": 8}


def planned(goal: Goal = Goal(), given: dict | None = None, **machine: object) -> RunPlan:  # noqa: B008
    return plan_run(MODEL, replace(H100, **machine), goal, given or {})


def test_hours_become_whole_updates_at_the_expected_speed():
    plan = planned(Goal(hours=1.5), GIVEN)
    rate = plan.speed.tokens_per_second.expected
    assert plan.updates * 131_072 == plan.tokens
    assert abs(plan.tokens - 1.5 * 3600 * (1 - TIME_OVERHEAD) * rate) <= 131_072
    assert plan.hours == (1.5, 1.5, 1.5)


def test_tokens_become_hours_and_dollars_at_the_price():
    plan = planned(Goal(tokens=10**10), GIVEN)
    assert plan.tokens == pytest.approx(10**10, rel=1e-4)
    low, expected, high = plan.hours
    rate = plan.speed.tokens_per_second
    assert expected == pytest.approx(plan.tokens / rate.expected / (1 - TIME_OVERHEAD) / 3600)
    assert low < expected < high
    assert plan.cost is not None
    assert plan.cost.low == pytest.approx(low * H100.price.low)
    assert plan.cost.high == pytest.approx(high * H100.price.high)


def test_without_a_length_it_is_20_tokens_per_parameter():
    plan = planned()
    assert plan.tokens_per_parameter == pytest.approx(20, rel=0.01)
    assert plan.why_tokens == "20 per parameter"
    assert plan.flops == plan.tokens * flops_per_token(MODEL)


def test_what_is_not_given_is_chosen_and_named():
    plan = planned()
    assert plan.step == fastest_step(MODEL, plan.speed.update_tokens // 1024, H100)
    assert {"batch_size", "gradient_checkpointing"} <= set(plan.chosen)
    assert planned(given=GIVEN).chosen == ("optimizer", "gradient_checkpointing", "loss_chunks")
    two = plan_run(MODEL, machine_for("h100", gpus=2), Goal(), GIVEN)
    assert two.chosen == ("optimizer", "gradient_checkpointing", "loss_chunks", "shard")


def test_a_plan_for_many_nodes_replicates_shards_between_them_where_that_is_the_fastest():
    machine = machine_for("h100", gpus=256)
    chosen, among_all, copied = (
        pb.plan("llama-3-8b", machine, hours=24, **sharding)
        for sharding in ({}, {"shard": True}, {"shard": False})
    )
    assert (chosen.step.n_shards, chosen.step.n_replicas) == (8, 32)
    assert {"shard", "shard_degree"} <= {*chosen.chosen}
    assert "shard_degree" not in among_all.chosen
    assert among_all.memory.peak_bytes < chosen.memory.peak_bytes < copied.memory.peak_bytes
    rates = [plan.speed.tokens_per_second.expected for plan in (chosen, among_all, copied)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 1.01 * rates[1]


def test_an_update_that_is_small_for_so_many_gpus_is_said():
    few, many = (pb.plan("llama-3-8b", machine_for("h100", gpus=gpus), hours=3) for gpus in (8, 1024))
    (said,) = [warning for warning in many.warnings if "do not shrink with the batch" in warning]
    seconds = many.speed.seconds
    share = (seconds["optimizer"] + seconds["communication"]) / sum(seconds.values())
    assert said.startswith(f"{share:.0%} of the time")
    assert f"tokens leave {many.step.batch_size} sequence" in said
    assert "to each of 1024 GPUs" in said
    assert not any("do not shrink with the batch" in warning for warning in few.warnings)


def test_the_largest_micro_batch_fits_and_one_more_does_not():
    plan = planned(given=GIVEN | {"gradient_checkpointing": False, "loss_chunks": 1})
    most = plan.largest_batch_size
    assert peak_bytes(MODEL, plan.step.replace(batch_size=most)) <= H100.usable_bytes
    assert peak_bytes(MODEL, plan.step.replace(batch_size=most + 1)) > H100.usable_bytes


def test_a_batch_that_does_not_fit_is_planned_and_what_would_fit_is_said():
    given = {
        "batch_size": 32,
        "gradient_accumulation_steps": 4,
        "gradient_checkpointing": False,
        "loss_chunks": 1,
    }
    plan = planned(given=given, memory_bytes=24 * 2**30)
    assert not plan.fits
    assert plan.step.batch_size == 32
    said = "\n".join(plan.suggestions)
    for remedy in ("`batch_size=", "chosen by the planner", "`machine="):
        assert remedy in said
    assert planned(given=given).suggestions == ()


def test_a_model_that_no_batch_of_fits_says_so():
    plan = planned(given={"batch_size": 1}, memory_bytes=2 * 2**30)
    assert not plan.fits
    assert plan.largest_batch_size == 0
    free = planned(memory_bytes=2 * 2**30)
    assert (free.fits, free.step.gradient_checkpointing, free.step.batch_size) == (False, True, 1)


@pytest.mark.parametrize(
    "given", [GIVEN | {"batch_size": 5000}, {"batch_size": 700}, {"batch_size": 64, "loss_chunks": 1}]
)
def test_a_smaller_micro_batch_that_is_advised_fits_and_is_the_largest(given):
    machine = replace(H100, memory_bytes=40 * 2**30)
    plan = planned(given=given | {"gradient_checkpointing": False}, memory_bytes=40 * 2**30)
    said = re.search(
        r"^`batch_size=(\d+), gradient_accumulation_steps=(\d+)`:", "\n".join(plan.suggestions), re.M
    )
    size, steps = map(int, said.groups())
    advised = plan.step.replace(batch_size=size, gradient_accumulation_steps=steps)
    assert peak_bytes(MODEL, advised) <= machine.usable_bytes
    assert peak_bytes(MODEL, advised.replace(batch_size=size + 1)) > machine.usable_bytes


def test_more_gpus_are_advised_with_a_way_that_fits_there():
    plan = plan_run(pb.model("llama-3-8b"), H100, Goal(), {})
    advised = next(
        found for line in plan.suggestions if (found := re.match(r"`gpus=(\d+), batch_size=", line))
    )
    assert plan_run(pb.model("llama-3-8b"), replace(H100, world_size=int(advised[1]))).fits


def test_more_nodes_and_the_smaller_optimizer_are_advised_where_they_fit():
    node = machine_for("4090", gpus=8)
    said = plan_run(pb.model("llama-3-8b"), node).suggestions
    assert said[0] == "`machine=rtx-5090` (31.8 GiB), unchanged"
    gpus = int(re.match(r"`gpus=(\d+), .*, in 2 nodes$", said[1])[1])
    assert gpus == 16
    assert plan_run(pb.model("llama-3-8b"), node.with_gpus(gpus)).fits

    peaks = [
        planned(given={"optimizer": name}, memory_bytes=2**30).memory.peak_bytes for name in ("muon", "adamw")
    ]
    plan = planned(given={"optimizer": "adamw"}, memory_bytes=round(sum(peaks) / 2 / USABLE_SHARE))
    assert not plan.fits
    assert any(line.startswith("`optimizer=muon`: ") for line in plan.suggestions)


def test_no_expected_loss_is_above_that_of_guessing():
    tiny = pb.model(dim=64, n_layers=2, n_heads=2, vocab_size=400, context_length=128)
    plan = plan_run(tiny, H100, Goal(hours=0.001))
    assert plan.loss_range == pytest.approx([math.log(400)] * 2)
    assert plan.as_dict()["loss"]["is_bound"]
    assert any("ln 400 = 5.991" in warning for warning in plan.warnings)
    assert max(plan.loss_after(np.array([1e-6, 1e-3]))) == pytest.approx(math.log(400))


def test_a_faster_run_ends_lower():
    plan = planned(Goal(hours=1.5), GIVEN)
    best, worst = plan.loss_range
    assert best < plan.loss.loss < worst
    assert plan.loss_after(1.5) == pytest.approx(plan.loss.loss, abs=1e-3)
    assert planned(Goal(tokens=10**10)).loss_range == (planned(Goal(tokens=10**10)).loss.loss,) * 2


def test_text_that_is_read_again_is_worth_less_and_warned_of():
    once, often = (planned(Goal(tokens=10**10, unique_tokens=n)) for n in (10**10, 10**9))
    assert often.loss.loss > once.loss.loss
    assert often.repetition in often.warnings
    assert once.repetition is None
    assert not any("epochs" in warning for warning in once.warnings)


@pytest.mark.parametrize(("updates", "says"), [(40, None), (41, "4.1 epochs: ")])
def test_a_plan_says_how_often_its_text_is_read_from_four_times_on(updates, says):
    plan = planned(Goal(tokens=131_072 * updates, unique_tokens=1_310_720), GIVEN)
    document = plan.as_dict()
    assert (document["unique_tokens"], document["epochs"]) == (1_310_720, updates / 10)
    assert any("epochs: the run reads" in line for line in document["warnings"]) == bool(says)
    assert (plan.repetition or "").startswith(says or "")
    assert bool(plan.repetition) == bool(says)


def test_a_planned_run_of_four_epochs_is_not_rounded_to_more():
    plan = planned(Goal(unique_tokens=10**7), GIVEN)
    assert plan.updates == 4 * 10**7 // 131_072
    assert plan.repetition is None


def test_the_text_and_the_law_are_the_users():
    plan = planned(Goal(tokens=10**10, bytes_per_token=4.5, law=MUENNIGHOFF_2023))
    assert plan.loss.bits_per_byte == pytest.approx(plan.loss.loss / 4.5 / 0.693147, rel=1e-5)
    assert plan.as_dict()["loss"]["law"] == "muennighoff-2023"


def test_a_vocabulary_that_is_slow_is_advised_on_with_its_price():
    assert any(
        "50,304 rows would avoid that, for 42,112 more parameters" in warning
        for warning in planned().warnings
    )
    padded = plan_run(MODEL.replace(vocab_size=50304), H100)
    assert not any("vocab_size" in warning for warning in padded.warnings)


@pytest.mark.parametrize(
    ("goal", "says"),
    [
        ({"hours": 1.0, "tokens": 10}, "`hours` and `tokens` both set the length of the run"),
        ({"hours": 0.0}, "hours=0` is not a training time"),
        ({"hours": float("inf")}, "hours=inf` is not a training time"),
        ({"unique_tokens": 0}, "unique_tokens is 0; it must be"),
        ({"bytes_per_token": -1.0}, "bytes_per_token is -1; it must be"),
    ],
)
def test_a_goal_that_cannot_be_is_one_line(goal, says):
    with pytest.raises(InputError, match=says):
        Goal(**goal)


def test_hours_without_room_for_one_update_are_one_line():
    with pytest.raises(InputError, match=r"`hours=1e-05` is too short for one update of 131.1K tokens"):
        planned(Goal(hours=1e-5), GIVEN)


def test_the_plan_is_plain_json_with_all_that_it_assumes():
    document = json.loads(json.dumps(planned(Goal(hours=1.5), GIVEN).as_dict()))
    assert document["total"] == 353_355_520
    assert document["machine"]["price_read_on"]
    assert document["flops_per_token"]["full"] == 2_384_110_848
    assert document["speed"]["tokens_per_second"]["low"] < document["speed"]["tokens_per_second"]["expected"]
    assert document["loss"]["meaning"]
    assert {row["figure"] for row in planned().rows()} >= {"tokens_per_second", "peak_bytes", "expected_loss"}


def test_a_processor_is_planned_for_once_it_is_measured(monkeypatch, tmp_path):
    from parambudget.cost.speed.profile import save_profile
    from parambudget.planning.machine import CPU

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    save_profile(
        replace(H100.profile, device=CPU, name="eager", dtype="float32", peak_flops=None, link_bytes=0.0)
    )
    plan = plan_run(pb.model(dim=128, n_layers=4), machine_for("cpu"), Goal(tokens=10**6))
    assert plan.speed.mfu is None
    assert plan.cost is None
    assert plan.machine.backend.device == "cpu"


MANY = MODEL.replace(n_experts=8, n_experts_per_token=2, expert_intermediate_size=1792)


def test_experts_are_planned_and_their_loss_is_that_of_the_active_parameters():
    plan = plan_run(MANY, H100, Goal(), GIVEN)
    active = plan.breakdown.active
    assert plan.tokens == pytest.approx(20 * active, rel=0.01)
    assert plan.why_tokens == "20 per active parameter"
    same = MODEL.replace(intermediate_size=3584)
    dense = plan_run(same, H100, Goal(tokens=plan.tokens), GIVEN)
    assert plan.loss.loss == pytest.approx(dense.loss.loss, rel=1e-3)
    assert plan.memory.peak_bytes > dense.memory.peak_bytes
    assert plan.speed.tokens_per_second.expected < dense.speed.tokens_per_second.expected
    warnings = "\n".join(plan.warnings)
    assert "the expected loss is that of a dense model with the active parameters" in warnings
    assert "experts are assumed to get equally many tokens" in warnings
    in_turn = "\n".join(plan_run(MANY, machine_for("a100"), Goal(), GIVEN).warnings)
    assert f"experts run one after another, {24 * 8 * 3} matrices in a micro-step, and are" in in_turn
    assert "experts" not in "\n".join(dense.warnings)


@pytest.mark.parametrize(
    ("slower", "told"),
    [
        ({"window": 256}, "a window of 256 needs a mask"),
        ({"position": "alibi"}, "ALiBi needs a mask"),
        ({"attention_softcap": 50.0}, "no fused kernel supports soft-capped scores"),
        ({"attention_sinks": True}, "no fused kernel supports attention sinks"),
    ],
)
def test_what_keeps_attention_off_the_fast_kernels_is_told(slower, told):
    plan = plan_run(MODEL.replace(**slower), H100, Goal(), GIVEN)
    assert any(warning.startswith(told) for warning in plan.warnings)
    assert plan.speed.tokens_per_second.expected < planned().speed.tokens_per_second.expected


def test_a_window_as_wide_as_the_context_is_no_window():
    wide, plain = (plan_run(MODEL.replace(window=window), H100, Goal(), GIVEN) for window in (1024, None))
    assert wide.warnings == plain.warnings
    assert wide.memory.peak_bytes == plain.memory.peak_bytes
    assert wide.speed.seconds == plain.speed.seconds


@pytest.mark.parametrize("name", ["gemma-3-1b", "gemma-2-2b"])
def test_published_models_with_windows_are_planned(name):
    plan = plan_run(pb.preset(name).replace(context_length=2048), machine_for("h200"), Goal(hours=10))
    assert plan.fits
    assert plan.tokens > 10**8


def test_a_notebook_plans_in_one_call():
    plan = pb.plan(MODEL, "h100", hours=1.5, **GIVEN)
    assert plan.tokens == planned(Goal(hours=1.5), GIVEN).tokens
    assert pb.plan(
        MODEL, pb.machine("h100", dollars_per_hour=2), tokens="10B"
    ).cost.expected == pytest.approx(2 * pb.plan(MODEL, "h100", tokens=10**10).hours.expected)


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ({"batchsize": 2}, "batchsize is not a setting of an update; did you mean 'batch_size'?"),
        ({"batch_size": 0}, "batch_size is 0; it must be greater than or equal to 1"),
        ({"batch_size": 2.5}, "batch_size is 2.5; it must be a valid integer"),
        ({"optimizer": "sgd"}, 'optimizer is \'sgd\'; it must be "muon" or "adamw"'),
        ({"ranks": 4}, "plan takes no 'ranks'; give `machine=pb.machine"),
        ({"world_size": 4}, "plan takes no 'world_size'; give `machine=pb.machine"),
        ({"sharded": True}, "sharded is not a setting of an update"),
        ({"shard": True}, "shard=True divides a model among processes, and world_size=1"),
        (
            {"gpus": 4, "gradient_accumulation_steps": 6},
            "gradient_accumulation_steps=6 cannot be divided evenly among 4 processes; use 8",
        ),
        ({"tokens": -1}, "tokens '-1' is out of range"),
    ],
)
def test_settings_that_are_none_are_one_line(way, says):
    machine = pb.machine("h100", gpus=way.get("gpus", 1))
    with pytest.raises(InputError, match=re.escape(says)):
        pb.plan("gpt2", machine, **{name: value for name, value in way.items() if name != "gpus"})


class TestWhereTheLawsEnd:
    """Of rates and batches: the law that took over is named, and one line says where the other one ends."""

    def test_a_large_model_on_a_long_text(self):
        model = pb.model("llama-3-8b", context_length=8192)
        plan = plan_run(model, machine_for("h100", gpus=64), Goal(tokens=15 * 10**12), {"optimizer": "adamw"})
        assert plan.learning_rate == pytest.approx(3e-4, rel=0.1)
        assert plan.why_learning_rate.startswith("as in published runs of 6.98B")
        assert "; never more than 4,194,304)" in plan.why_batch
        of_laws = [line for line in plan.warnings if line.startswith(("learning rate: ", "batch: "))]
        assert [line.split(" outside ")[0] for line in of_laws] == [
            "learning rate: 6.98B body parameters and 15T tokens are", "batch: 15T tokens are",
        ]  # fmt: skip
        assert set(of_laws) <= set(plan.as_dict()["warnings"])

    def test_a_short_run(self):
        plan = planned(Goal(hours=1.5), {"optimizer": "adamw"})
        told = [line for line in plan.warnings if line.startswith("learning rate: ")]
        assert len(told) == 1
        assert told[0].endswith("(59M to 1.074B body parameters, 4B to 100B tokens); its end is held")

    def test_within_the_laws_nothing_is_said(self):
        plan = planned(Goal(tokens=7 * 10**9), {"optimizer": "adamw"})
        assert not any(line.startswith(("learning rate: ", "batch: ")) for line in plan.warnings)

    def test_muons_rule_was_measured_on_one_small_model(self):
        told = [line for line in planned(Goal(tokens=7 * 10**9)).warnings if "rate" in line]
        assert told == [
            "learning rate: Muon's rule was measured at 1.05M body parameters alone, and this model has "
            "308.3M"
        ]

    def test_a_batch_that_is_given_needs_no_law(self):
        plan = planned(Goal(tokens=10**9), GIVEN)
        assert plan.why_batch == "given"
        assert not any(line.startswith("batch: ") for line in plan.warnings)

    def test_the_reason_for_the_batch_has_the_tokens_of_the_update(self):
        """A sequence on each of 1,024 GPUs is more than the laws' largest batch."""
        model = pb.model("llama-3-8b", context_length=8192)
        plan = plan_run(model, machine_for("h100", gpus=1024), Goal(tokens=15 * 10**12))
        assert plan.speed.update_tokens == 2**23
        assert plan.why_batch.endswith("; executed as 8,388,608: 1 micro-step of 1 × 8,192 on 1,024 devices")
        few = plan_run(model, machine_for("h100", gpus=64), Goal(tokens=15 * 10**12))
        assert "executed" not in few.why_batch


def test_where_nothing_fits_the_plan_says_what_the_trainer_does_not_have():
    plan = pb.plan("kimi-k2", pb.machine("h100", gpus=8))
    assert (plan.fits, plan.suggestions) == (False, ())
    assert plan.warnings[0].startswith(
        "nothing that the trainer can do fits: sharded over 64 GPUs, weights, "
    )
    assert plan.warnings[0].endswith(
        "models of this size are split by tensor, pipeline or expert parallelism, which it does not have"
    )
    fitting = pb.plan("llama-3.2-1b", "h100")
    assert not any("nothing that the trainer can do" in line for line in fitting.warnings)
    with_ways_out = pb.plan("llama-3-8b", "h100", batch_size=1, shard=False)
    assert with_ways_out.suggestions
    assert not any("nothing that the trainer can do" in line for line in with_ways_out.warnings)


@settings(max_examples=40, deadline=None)
@given(models(rare=True) | hybrids())
def test_any_model_has_a_plan(model):
    plan = plan_run(model, H100, Goal(hours=1), {})
    assert plan.tokens > 0
    assert plan.flops == plan.tokens * flops_per_token(model)
    assert plan.memory.peak_bytes > 0
    generation = plan_inference(model, H100)
    assert 0 < generation.needed_bytes < H100.usable_bytes
    assert generation.largest_batch_size >= 1
