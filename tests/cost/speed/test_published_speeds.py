"""The throughput model against published runs: constants, stacks, nodes."""

from itertools import pairwise
from statistics import median

import numpy as np
import pytest
from support.benchmark_scripts import load_benchmark

import parambudget as pb
from parambudget.cost.hardware import ACCELERATORS
from parambudget.cost.params import total
from parambudget.cost.speed.profile import AMPERE, HOPPER, preset_profile
from parambudget.cost.speed.stacks import BEST, EAGER, STACKS, TYPICAL, parse_stack
from parambudget.errors import InputError

H100 = preset_profile(ACCELERATORS["h100-sxm"])


@pytest.fixture(scope="module")
def benchmark():
    """The script that fits the presets."""
    return load_benchmark("throughput")


class TestPublishedRuns:
    def test_the_points_are_of_the_models_that_were_published(self, benchmark):
        """llm-foundry prints the parameters of every row."""
        published = {("mpt-125m", 512): 124_131_840, ("mpt-7b", 2048): 6_658_859_008}
        published |= {("mpt-30b", 2048): 29_975_214_080, ("mpt-760m", 1024): 758_897_664}
        found = {(point.name, point.model.context_length): point.model for point in benchmark.published()}
        assert {key: total(found[key]) for key in published} == published

    def test_the_shipped_constants_are_the_fitted_ones(self, benchmark):
        fitted = benchmark.fit(
            [point for point in benchmark.published() if point.kind is BEST and not point.left_out]
        )
        assert fitted["matmul, ampere"] == pytest.approx(AMPERE.matmul, rel=0.01)
        assert fitted["matmul, hopper"] == pytest.approx(HOPPER.matmul, rel=0.01)
        assert fitted["attention, ampere"] == pytest.approx(AMPERE.attention, rel=0.01)
        assert fitted["attention, hopper"] == pytest.approx(HOPPER.attention, rel=0.01)
        for name in ("matmul_traffic", "element_bytes", "logit_bytes", "micro_seconds"):
            assert fitted[name] == pytest.approx(getattr(H100, name), rel=0.01), name

    def test_the_shares_of_the_other_stacks_are_the_medians_of_theirs(self, benchmark):
        points = [point for point in benchmark.published() if not point.left_out]
        for kind in (TYPICAL, EAGER):
            assert benchmark.reached(points, kind) == pytest.approx(kind.reached, abs=0.005)

    def test_nine_in_ten_lie_inside_with_shares_that_saw_nothing_of_their_software(self, benchmark):
        """The fastest stacks, which the constants are fitted to, are held out in the slow test."""
        points = [p for p in benchmark.published() if not p.left_out and p.kind is not BEST]
        errors = []
        for software in {point.software for point in points}:
            others = [point for point in points if point.software != software]
            for p in (point for point in points if point.software == software):
                share = benchmark.reached(others, p.kind)
                errors.append((p, share * p.predicted(p.machine(BEST).profile) / p.published))
        for some in (errors, [(p, e) for p, e in errors if p.source != "llm-foundry"]):
            inside = [p.kind.slowest <= 1 / e <= p.kind.fastest for p, e in some]
            assert np.mean(inside) > 0.88
            assert median(abs(e - 1) for _, e in some) < 0.12

    @pytest.mark.slow
    def test_nine_in_ten_lie_inside_with_constants_that_saw_nothing_of_their_software(self, benchmark):
        held_out = benchmark.hold_out([point for point in benchmark.published() if not point.left_out])
        inside = [p.kind.slowest <= 1 / (1 + e) <= p.kind.fastest for p, e in held_out]
        assert np.mean(inside) > 0.88
        assert median(abs(error) for _, error in held_out) < 0.12

    def test_those_left_out_say_why(self, benchmark):
        left_out = {point.source for point in benchmark.published() if point.left_out}
        assert left_out == {"tinyllama-pythia-1b", "card-llama2-13b", "card-llama3-8b", "llmc-blackwell"}

    def test_a_third_of_the_runs_of_one_software_predict_all_of_them_within_7_percent_nine_times_in_ten(
        self, benchmark
    ):
        points = [p for p in benchmark.published() if p.source == "llm-foundry" and p.gpu == "h100-sxm"]
        constants = benchmark.fit(points[::3])
        off = [p.predicted(benchmark.stack_of(constants, p)) / p.published - 1 for p in points]
        assert np.quantile(np.abs(off), 0.9) < 0.07


class TestStacks:
    @pytest.mark.parametrize("stack", STACKS.values(), ids=lambda stack: stack.name)
    def test_an_interval_has_its_expected_value_inside_and_ends_at_most_a_factor_of_two_apart(self, stack):
        assert stack.slowest < 1 < stack.fastest <= 2 * stack.slowest

    def test_software_is_known_by_its_own_name(self):
        assert parse_stack("TorchTitan") is TYPICAL
        assert parse_stack("llm.c") is BEST
        assert parse_stack("eager") is EAGER

    def test_an_unknown_one_is_one_line_with_what_is_near(self):
        with pytest.raises(InputError, match=r"no stack is known as 'torchtitian'.*torchtitan"):
            parse_stack("torchtitian")
        with pytest.raises(InputError, match=r"no stack is known as 'zzz'; use parambudget, best, typical"):
            parse_stack("zzz")

    def test_a_slower_stack_takes_longer_by_its_share(self):
        rates = {
            name: pb.plan("gpt2", pb.machine("h100", stack=name), batch_size=64, loss_chunks=1)
            .speed.tokens_per_second.expected
            for name in STACKS
        }  # fmt: skip
        assert rates["eager"] < rates["typical"] < rates["parambudget"] < rates["best"]
        assert rates["typical"] / rates["best"] == pytest.approx(TYPICAL.reached, rel=0.02)

    def test_the_best_is_what_the_fastest_stacks_would_reach(self):
        asked = {"batch_size": 64, "gradient_accumulation_steps": 1}
        own, best = (
            pb.plan("gpt2", pb.machine("h100", stack=name), **asked).speed for name in ("typical", "best")
        )
        assert own.best_tokens_per_second == pytest.approx(best.tokens_per_second.expected)
        assert own.best_tokens_per_second > own.tokens_per_second.expected

    def test_a_given_utilization_is_the_one_that_is_planned(self):
        plan = pb.plan("gpt2", pb.machine("h100", gpus=8, mfu=0.35), tokens="1B")
        assert plan.speed.mfu["full"] == pytest.approx(0.35)
        assert plan.speed.best_tokens_per_second is None
        assert sum(plan.speed.seconds.values()) == pytest.approx(plan.speed.update_seconds)

    @pytest.mark.parametrize(
        ("asked", "says"),
        [
            ({"mfu": 35}, "`mfu` is 35; it is a share of the dense peak: use a number such as 0.35"),
            ({"mfu": 0.0}, "`mfu` is 0.0"),
            ({"mfu": 0.3, "stack": "best"}, "`stack` and `mfu` each say how fast"),
            ({"network": "400Gb/s"}, "`network=400Gb/s` has no effect: 1 GPUs are one node"),
            ({"gpus": 16, "network": "400"}, "network '400' is not a rate; use such as 1008GB/s"),
        ],
    )
    def test_what_cannot_be_is_one_line(self, asked, says):
        with pytest.raises(InputError, match=says):
            pb.machine("h100", **asked)


class TestNodes:
    @pytest.mark.parametrize(("gpus", "published"), [(16, 46_000), (128, 44_100), (512, 39_837)])
    def test_mpt_1b_slows_down_with_nodes_as_published(self, gpus, published):
        """Whose update over many nodes a constant is fitted to: the level is that of other software."""
        model = pb.model(
            dim=2048, n_layers=24, n_heads=16, vocab_size=50368, context_length=2048, gated=False,
            position="learned", norm="layernorm", qkv_bias=True, attention_out_bias=True, ffn_bias=True,
        )  # fmt: skip
        machine = pb.machine("h100", gpus=gpus, stack="typical")
        plan = pb.plan(
            model, machine, batch_size=12, gradient_accumulation_steps=gpus, shard=True, optimizer="adamw",
            gradient_checkpointing=False, loss_chunks=1,
        )  # fmt: skip
        assert plan.speed.tokens_per_second.expected / gpus == pytest.approx(published, rel=0.04)

    @pytest.mark.parametrize("name", ["gpt2", "llama-3.2-1b", "llama-3-8b"])
    @pytest.mark.parametrize("gpu", ["h100", "a100", "4090", "b200"])
    @pytest.mark.parametrize("optimizer", ["muon", "adamw"])
    @pytest.mark.parametrize("shard", [True, False])
    def test_tokens_per_second_and_gpu_never_rise_with_more_nodes(self, name, gpu, optimizer, shard):
        def rate(gpus: int) -> float:
            plan = pb.plan(
                name, pb.machine(gpu, gpus=gpus), batch_size=2, gradient_accumulation_steps=gpus,
                shard=shard, optimizer=optimizer, gradient_checkpointing=False, loss_chunks=1,
            )  # fmt: skip
            return plan.speed.tokens_per_second.expected / gpus

        rates = [rate(gpus) for gpus in (8, 16, 64, 512, 1024)]
        assert all(later <= before * (1 + 1e-9) for before, later in pairwise(rates))

    def test_a_slower_network_is_slower(self):
        asked = {"batch_size": 1, "gradient_accumulation_steps": 16, "shard": True}
        fast, slow = (
            pb.plan("gpt2", pb.machine("h100", gpus=16, network=network), **asked).speed
            for network in ("50GB/s", "1Gb/s")
        )
        assert slow.tokens_per_second.expected < 0.5 * fast.tokens_per_second.expected
