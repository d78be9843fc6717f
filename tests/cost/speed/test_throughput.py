"""Throughput: published runs, the physical limit, and what must make a run faster or slower."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.flops_oracle import hardware_flops_per_token
from support.steps import step_of
from support.strategies import models

import parambudget as pb
from parambudget.arch.dims import chooses_keys
from parambudget.arch.layers import attention_kinds
from parambudget.arch.sizes import with_sizes
from parambudget.cost.flops import (
    PASSES,
    PASSES_WITH_RECOMPUTE,
    flops_per_token,
)
from parambudget.cost.hardware import ACCELERATORS, fixed_price, parse_accelerator, price_of
from parambudget.cost.params import total
from parambudget.cost.speed.profile import preset_profile
from parambudget.cost.speed.roofline import (
    FLASH_BACKWARD,
    INDEXER_BYTES,
    attention_share,
    matrices,
    step_seconds,
    tokens_per_second,
)
from parambudget.cost.speed.throughput import throughput
from parambudget.errors import InputError

H100 = preset_profile(parse_accelerator("h100"))
OPTION_1 = pb.model(
    dim=896, n_layers=24, n_heads=14, intermediate_size=3584, vocab_size=50257, context_length=1024
)
works = st.builds(
    step_of, batch_size=st.integers(1, 64), gradient_accumulation_steps=st.integers(1, 8),
    optimizer=st.sampled_from(("muon", "adamw")), gradient_checkpointing=st.booleans(),
    loss_chunks=st.sampled_from((1, 8)),
)  # fmt: skip
stacks = st.sampled_from([preset_profile(row) for row in ACCELERATORS.values()])


class TestTheLimit:
    @given(models(), works, stacks)
    def test_nothing_is_expected_to_exceed_the_dense_peak(self, model, work, stack):
        found = throughput(model, work, stack)
        assert found.tokens_per_second.expected < found.limit_tokens_per_second
        assert found.tokens_per_second.high <= found.limit_tokens_per_second
        assert found.mfu["causal"] <= found.mfu["full"]
        assert found.mfu["causal"] < 1

    def test_one_h100_can_do_at_most_415_000_tokens_of_the_notes_model_in_the_full_convention(self):
        found = throughput(OPTION_1, step_of(16, 8), H100)
        rate = found.tokens_per_second.expected / found.mfu["full"]
        assert rate == pytest.approx(415_000, rel=1e-3)
        assert found.limit_tokens_per_second == H100.peak_flops / flops_per_token(OPTION_1, "causal")

    def test_where_no_peak_is_known_there_is_neither_limit_nor_mfu(self):
        found = throughput(OPTION_1, step_of(16), replace(H100, peak_flops=None))
        assert (found.limit_tokens_per_second, found.mfu) == (None, None)
        assert found.tokens_per_second.high == H100.fastest * found.tokens_per_second.expected


class TestTheParts:
    @given(models(), works)
    def test_matmuls_are_the_flops_of_the_trainer(self, model, work):
        """At a FLOP a second and with free memory they are counted."""
        counting = replace(H100, matmul_flops=1.0, matmul_traffic=0.0)
        found = step_seconds(model, work, counting)
        again = {"checkpointing": work.gradient_checkpointing, "recompute_logits": work.loss_chunks > 1}
        n_tokens = work.batch_size * work.gradient_accumulation_steps * model.context_length
        runs = PASSES_WITH_RECOMPUTE if work.gradient_checkpointing else PASSES
        matmuls = hardware_flops_per_token(model, **again)
        scored = (
            2
            * model.context_length
            * sum(
                row.score_width * (runs if row.trained else (runs - 2) * chooses_keys(model))
                for row in attention_kinds(model)
            )
        )
        assert found["matmuls"] == pytest.approx(n_tokens * (matmuls - scored))

    @given(models(), works)
    def test_attention_is_the_scores_that_its_kernel_computes(self, model, work):
        counting = replace(H100, matmul_flops=1.0, attention_flops=1.0, logit_bytes=0.0)
        found = step_seconds(model, work, counting)["attention"]
        runs = PASSES_WITH_RECOMPUTE if work.gradient_checkpointing else PASSES
        length, expected = model.context_length, 0.0
        for row in attention_kinds(model):
            if not row.trained:
                moved = INDEXER_BYTES * row.copies * row.n_heads / H100.bandwidth_bytes
                forward = (runs - 2) * chooses_keys(model)
                expected += forward * (2 * row.score_width + moved) * length**2
                continue
            if model.attention_softcap or model.attention_sinks:
                expected += runs * 2 * row.score_width * length**2
                continue
            masked = model.position == "alibi" or (model.indexer is not None and chooses_keys(model))
            causal = not masked and (row.window is None or row.window >= length)
            seen = length * (length + 1) / 2 if causal else 2 * length**2
            wide = 2 * row.copies * row.n_heads * max(row.qk_dim, row.v_dim)
            wide /= attention_share(max(row.qk_dim, row.v_dim), H100.attention_half_width)
            expected += (runs - PASSES + 1 + FLASH_BACKWARD) * 2 * wide * seen
        assert found == pytest.approx(work.batch_size * work.gradient_accumulation_steps * expected)

    @pytest.mark.parametrize(
        "slower",
        [{"window": 64}, {"position": "alibi"}, {"attention_softcap": 50.0}, {"attention_sinks": True}],
    )
    @pytest.mark.parametrize("stack", [H100, replace(H100, dtype="float32")], ids=["bfloat16", "float32"])
    def test_what_keeps_attention_off_the_causal_kernel_is_slower(self, slower, stack):
        plain, other = (
            step_seconds(model, step_of(1), stack)["attention"]
            for model in (OPTION_1, OPTION_1.replace(**slower))
        )
        assert other > 1.2 * plain

    def test_experts_are_multiplied_as_chosen_and_moved_as_they_are(self):
        dense = OPTION_1.replace(intermediate_size=1024)
        choices = {"n_experts": 64, "n_experts_per_token": 4, "expert_intermediate_size": 256}
        single, fused = (dense.replace(**choices, fused_experts=fused) for fused in (False, True))
        work = step_of(16, 8, optimizer="adamw")
        counting = replace(H100, matmul_flops=1.0, matmul_traffic=0.0)
        router = 24 * 64 * 896
        of = {
            name: step_seconds(m, work, counting)["matmuls"]
            for name, m in (("dense", dense), ("many", single))
        }
        assert of["many"] - of["dense"] == pytest.approx(6 * 16 * 8 * 1024 * router)
        moving = replace(H100, matmul_flops=math.inf)
        assert step_seconds(single, work, moving)["matmuls"] > step_seconds(dense, work, moving)["matmuls"]
        for stack in (H100, counting, moving):
            assert step_seconds(single, work, stack) == pytest.approx(step_seconds(fused, work, stack))
        assert step_seconds(single, work, H100)["optimizer"] == pytest.approx(
            40 * total(single) / H100.bandwidth_bytes
        )

    def test_many_small_experts_wait_for_their_kernels_unless_the_gpu_runs_all_at_once(self):
        choices = {"n_experts": 128, "n_experts_per_token": 8, "expert_intermediate_size": 64}
        a100 = preset_profile(ACCELERATORS["a100-80-sxm"])
        few, many, at_once = (
            step_seconds(OPTION_1.replace(**choices), step_of(n), profile)["kernel_launch"]
            for n, profile in ((1, a100), (256, a100), (1, H100))
        )
        assert few > 24 * 128 * 3 * 2.5 * 5e-6
        assert many < few / 4
        assert at_once == step_seconds(OPTION_1, step_of(1), H100)["kernel_launch"]

    def test_newton_schulz_is_five_times_three_products(self):
        model = pb.model(dim=64, n_layers=1, n_heads=1, intermediate_size=256, vocab_size=64)
        free = replace(
            H100, newton_schulz_flops=1.0, matmul_traffic=0.0, matrix_seconds=0.0, bandwidth_bytes=1e30
        )
        squares, wide = 4, 3
        expected = 5 * (squares * 6 * 64**3 + wide * (4 * 64**2 * 256 + 2 * 64**3))
        assert step_seconds(model, step_of(1), free)["optimizer"] == pytest.approx(expected)

    def test_muon_waits_for_the_launches_of_small_matrices(self):
        model = pb.model(dim=64, n_layers=2, n_heads=1, intermediate_size=256, vocab_size=64)
        found = step_seconds(model, step_of(1), H100)["optimizer"]
        assert 7 * H100.matrix_seconds < found < 7.1 * H100.matrix_seconds

    def test_devices_share_the_products_of_muon(self):
        free = replace(H100, bandwidth_bytes=1e30)
        alone, two = (step_seconds(OPTION_1, step_of(1, 2, world_size=n), free)["optimizer"] for n in (1, 2))
        assert two == pytest.approx(alone / 2)

    def test_adamw_moves_forty_bytes_a_parameter(self):
        found = step_seconds(OPTION_1, step_of(1, optimizer="adamw"), H100)["optimizer"]
        assert found == pytest.approx(40 * total(OPTION_1) / H100.bandwidth_bytes)

    def test_attention_is_slower_with_narrow_heads(self):
        narrow, wide = OPTION_1, OPTION_1.replace(n_heads=7, n_kv_heads=7, head_dim=128)
        seconds = [step_seconds(model, step_of(16), H100)["attention"] for model in (narrow, wide)]
        assert seconds[0] / seconds[1] == pytest.approx((64 + 54) / 64 * 128 / (128 + 54))
        flat = replace(H100, attention_half_width=0.0)
        assert step_seconds(narrow, step_of(16), flat)["attention"] == pytest.approx(seconds[1])

    def test_a_micro_step_takes_as_long_as_the_host_to_launch_its_kernels(self):
        tiny = pb.model(dim=64, n_layers=8, n_heads=1, vocab_size=256, context_length=64)
        found = step_seconds(tiny, step_of(1, 4, optimizer="adamw"), H100)
        once = found["optimizer"] + found["communication"]
        launching = 4 * (8 * 35 * 5e-6 + H100.micro_seconds)
        assert sum(found.values()) - once == pytest.approx(launching)
        assert step_seconds(OPTION_1, step_of(16, 8), H100)["kernel_launch"] == pytest.approx(
            8 * H100.micro_seconds
        )

    def test_gradients_of_all_ranks_are_averaged_behind_the_backward_pass(self):
        quick = step_seconds(OPTION_1, step_of(16, 4, optimizer="adamw", world_size=4), H100)
        bucket = 25 * 2**20
        one = 2 * 3 / 4 * bucket / H100.link_bytes + 2 * 2 * 2.2e-6
        assert quick["communication"] == pytest.approx(one)
        slow = replace(H100, link_bytes=1e9)
        found = step_seconds(OPTION_1, step_of(16, 4, optimizer="adamw", world_size=4), slow)
        micro = sum(found.values()) - found["optimizer"] - found["communication"]
        all_of_them = 2 * 4 * 3 / 4 * total(OPTION_1) / 1e9
        assert found["communication"] == pytest.approx(all_of_them - 2 / 3 * micro, rel=0.02)

    def test_muon_exchanges_its_updates_once_an_update(self):
        adamw, muon = (
            step_seconds(OPTION_1, step_of(16, 4, optimizer=name, world_size=4), H100)["communication"]
            for name in ("adamw", "muon")
        )
        hidden = sum(matrix.row.elements for matrix in matrices(OPTION_1) if matrix.row.is_hidden_matrix)
        assert muon - adamw == pytest.approx(2 * 3 / 4 * hidden / H100.link_bytes)

    def test_shards_are_exchanged_behind_the_arithmetic_as_far_as_that_lasts(self):
        large = step_of(16, 8, world_size=8, shard=True, optimizer="adamw")
        waiting = 3 * 25 * 8 * 2.2e-6  # of 24 layers and the rest, for eight processes
        assert step_seconds(OPTION_1, large, H100)["communication"] == pytest.approx(waiting)
        slow, tiny = replace(H100, link_bytes=1e9), large.replace(batch_size=1)
        found = step_seconds(OPTION_1, tiny, slow)
        micro = sum(found.values()) - found["optimizer"] - found["communication"]
        moved = (2 + 2 + 4) * 7 / 8 * total(OPTION_1) / 1e9
        assert found["communication"] == pytest.approx(moved - micro + waiting)

    def test_replicas_of_shards_average_them_once_an_update_over_the_ports_of_their_node(self):
        """Eight nodes of eight, in a ring through all ports of a node."""
        two_nodes = replace(H100, network_bytes=1e9)
        step = step_of(1, 128, world_size=64, shard=True, shard_degree=8, optimizer="adamw")
        found = step_seconds(OPTION_1, step, two_nodes)
        waiting = 3 * 25 * 8 * 2.2e-6  # within the node alone
        micro = (sum(found.values()) - found["optimizer"] - found["communication"]) / 2
        messages = 25 * 2 * 3 * 2.2e-6  # of a tree of eight
        averaged = 2 * 4 * 7 / 8 * total(OPTION_1) / 1e9 + messages - 2 / 3 * micro
        inside = 8 * 7 / 8 * total(OPTION_1) / H100.link_bytes
        exposed = 2 * (max(inside - micro, 0) + waiting)
        assert found["communication"] == pytest.approx(averaged + exposed)
        # A node's link limits what each GPU sends, not what all of them do.
        slow_link = replace(H100, network_bytes=8e12, link_bytes=1e9)
        within_node = step_seconds(OPTION_1, step, slow_link)["communication"]
        as_slow = step_seconds(OPTION_1, step, replace(slow_link, network_bytes=8e9))["communication"]
        assert within_node == pytest.approx(as_slow)

    def test_on_one_node_a_degree_of_all_processes_is_what_shards_are(self):
        step = step_of(4, 16, world_size=8, shard=True)
        assert step_seconds(OPTION_1, step.replace(shard_degree=8), H100) == step_seconds(
            OPTION_1, step, H100
        )

    def test_one_process_casts_its_weights_once_an_update_and_several_in_every_micro_step(self):
        moving = replace(H100, bandwidth_bytes=1.0)
        untied = OPTION_1.replace(tied=False)
        head, n = untied.vocab_size * untied.dim, total(untied)
        norms = (2 * untied.n_layers + 1) * untied.dim
        matmuls = n - norms - head  # the embedding is as large as the head
        alone, ddp, fsdp = (
            step_seconds(untied, step, moving)["weights"]
            for step in (
                step_of(1, 8), step_of(1, 16, world_size=2), step_of(1, 16, world_size=2, shard=True)
            )
        )  # fmt: skip
        assert alone == pytest.approx((12 + 7 * 10) * matmuls + 7 * 12 * (n - matmuls))
        assert ddp == fsdp == pytest.approx(8 * 12 * matmuls + 7 * 12 * n)

    def test_a_tied_head_has_the_gradient_of_the_embedding_beside_its_own(self):
        moving = replace(H100, bandwidth_bytes=1.0)
        rest = (2 * OPTION_1.n_layers + 1) * OPTION_1.dim
        embedding = OPTION_1.vocab_size * OPTION_1.dim
        found = step_seconds(OPTION_1, step_of(1, 2), moving)["weights"]
        assert found == pytest.approx(22 * (total(OPTION_1) - rest) + 12 * (embedding + rest))

    def test_experts_that_run_in_turn_are_cast_in_every_micro_step(self):
        model = OPTION_1.replace(n_experts=8, n_experts_per_token=2, expert_intermediate_size=512)
        at_once = replace(H100, bandwidth_bytes=1.0)
        in_turn = replace(at_once, device="a100-80-sxm")
        experts = 24 * 8 * 3 * 896 * 512
        more = (
            step_seconds(model, step_of(1, 3), in_turn)["weights"]
            - step_seconds(model, step_of(1, 3), at_once)["weights"]
        )
        assert more == pytest.approx((3 * 12 + 2 * 12 - 12 - 2 * 10) * experts, rel=1e-6)

    def test_float32_has_no_casts_and_operands_twice_as_long(self):
        slow = replace(H100, dtype="float32", matmul_flops=math.inf)
        fast = replace(H100, matmul_flops=math.inf)
        assert (
            step_seconds(OPTION_1, step_of(1), slow)["weights"]
            == 0
            < step_seconds(OPTION_1, step_of(1), fast)["weights"]
        )
        ratio = (
            step_seconds(OPTION_1, step_of(1), slow)["matmuls"]
            / step_seconds(OPTION_1, step_of(1), fast)["matmuls"]
        )
        assert ratio == pytest.approx(2)


class TestWhatMakesARunFaster:
    @given(models(), works, stacks)
    def test_more_tokens_in_a_micro_step_are_never_slower_each(self, model, work, stack):
        more = work.replace(batch_size=2 * work.batch_size)
        assert tokens_per_second(model, more, stack) >= tokens_per_second(model, work, stack)

    @given(models(), works, stacks)
    def test_recomputing_blocks_or_logits_is_slower(self, model, work, stack):
        stack = replace(stack, host_layer_seconds=0.0)  # it can hide a small model's logits
        for name, plain, again in (("gradient_checkpointing", False, True), ("loss_chunks", 1, 8)):
            slow, fast = work.replace(**{name: again}), work.replace(**{name: plain})
            assert tokens_per_second(model, slow, stack) < tokens_per_second(model, fast, stack)

    @given(models(), works, st.lists(st.floats(0.01, 1), min_size=2, max_size=2, unique=True))
    def test_a_smaller_budget_of_activations_is_never_faster(self, model, work, budgets):
        small, large = (
            tokens_per_second(
                model, work.replace(gradient_checkpointing=False, activation_memory_budget=budget), H100
            )
            for budget in sorted(budgets)
        )
        assert small <= large * (1 + 1e-9)

    @given(models(), works)
    def test_an_h200_is_at_least_as_fast_as_an_h100(self, model, work):
        """The same arithmetic, faster memory."""
        h200 = preset_profile(parse_accelerator("h200"))
        assert tokens_per_second(model, work, h200) >= tokens_per_second(model, work, H100)

    def test_a_generation_without_published_runs_says_so(self):
        fitted, scaled = H100, preset_profile(parse_accelerator("b200"))
        assert "scaled" in scaled.source
        assert "fitted" in fitted.source


@settings(max_examples=30)
@given(models(), works, st.lists(st.tuples(*[st.integers(1, 4)] * 3), min_size=1, max_size=5))
def test_arrays_of_sizes_give_what_each_gives_alone(model, work, factors):
    wide, deep, ffn = np.array(factors).T
    sizes = {
        "dim": model.dim * wide, "n_layers": model.n_layers * deep,
        "intermediate_size": model.intermediate_size * ffn,
    }  # fmt: skip
    assume(model.embedding_dim not in sizes["dim"].tolist())  # a projection to the same width is no model
    together = tokens_per_second(with_sizes(model, **sizes), work, H100)
    alone = [
        tokens_per_second(model.replace(**{name: int(size[i]) for name, size in sizes.items()}), work, H100)
        for i in range(len(factors))
    ]
    assert together == pytest.approx(alone)


class TestARun:
    def test_hours_are_tokens_over_rate_and_stalls(self):
        found = throughput(OPTION_1, step_of(16, 8), H100)
        hours = found.hours(10**9, time_overhead=0.1)
        assert hours.expected == pytest.approx(1e9 / found.tokens_per_second.expected / 3600 / 0.9)
        assert hours.low < hours.expected < hours.high
        assert found.hours(10**9).expected < hours.expected

    def test_cost_is_hours_times_price_times_ranks(self):
        found = throughput(OPTION_1, step_of(16, 8, world_size=8), H100)
        hours = found.hours(10**10)
        assert found.cost(10**10, fixed_price(2)) == pytest.approx([16 * each for each in hours])
        ranged = found.cost(10**10, price_of(parse_accelerator("h100")))
        assert ranged.low == 8 * 2.0 * hours.low
        assert ranged.high == 8 * 5.0 * hours.high

    def test_stalls_of_a_whole_run_are_refused(self):
        with pytest.raises(InputError, match="time_overhead=1 is not a share"):
            throughput(OPTION_1, step_of(1), H100).hours(1, time_overhead=1)

    def test_the_rows_are_the_parts_and_their_sum(self):
        found = throughput(OPTION_1, step_of(16, 8), H100)
        *rows, whole = found.rows()
        assert sum(row["milliseconds"] for row in rows) == pytest.approx(whole["milliseconds"])
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        assert [row["part"] for row in rows] == list(found.seconds)
        assert "matmuls" in repr(found)

    def test_the_document_says_stack_work_and_interval(self):
        found = throughput(OPTION_1, step_of(16, 8), H100)
        document = found.as_dict()
        assert document["profile"]["device"] == "h100-sxm"
        assert document["step"]["batch_size"] == 16
        assert document["tokens_per_second"]["expected"] == found.tokens_per_second.expected
        assert document["update_tokens"] == 16 * 8 * 1024

    def test_micro_steps_and_the_rest_make_up_an_update(self):
        found = throughput(OPTION_1, step_of(16, 8), H100)
        once = found.seconds["optimizer"] + found.seconds["communication"]
        assert 8 * found.micro_seconds + once == pytest.approx(found.update_seconds)


def test_micro_steps_that_cannot_be_shared_out_are_refused():
    with pytest.raises(InputError, match=r"gradient_accumulation_steps=6 .* among 4 processes; use 8"):
        throughput(OPTION_1, step_of(1, 6, world_size=4), H100)


def test_several_devices_with_an_unknown_link_are_refused():
    with pytest.raises(InputError, match="the speed of the link between several h100-sxm is unknown"):
        throughput(OPTION_1, step_of(1, 2, world_size=2), replace(H100, link_bytes=0.0))
