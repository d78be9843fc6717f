"""The quickest way of computing an update that fits, and what is said where none does."""

from dataclasses import replace
from itertools import pairwise
from math import exp, log

import numpy as np
import pytest
from support.steps import step_of

import parambudget as pb
from parambudget.arch.sizes import with_sizes
from parambudget.cost.memory.peak import peak_bytes
from parambudget.cost.speed.roofline import tokens_per_second
from parambudget.cost.step import Sharding
from parambudget.errors import InputError
from parambudget.planning.machine import Machine, machine_for
from parambudget.planning.step_search import (
    MAX_MICRO_TOKENS,
    NOTHING_FITS,
    WORTH_MEMORY,
    _fastest_first,
    choose_fastest,
    fastest_step,
    machine_step_candidates,
    step_candidates,
)

H100 = machine_for("h100")
MODEL = pb.model(dim=896, n_layers=24, n_heads=14, intermediate_size=3584)


def with_memory(gib: float) -> Machine:
    return replace(H100, memory_bytes=int(gib * 2**30))


def test_every_way_keeps_the_number_of_sequences():
    found = step_candidates(1024, 512)
    assert all(work.batch_size * work.gradient_accumulation_steps == 512 for work in found)
    assert {work.batch_size for work in found} == {1, 2, 4, 8, 16, 32, 64}
    assert max(work.batch_size for work in found) * 1024 == MAX_MICRO_TOKENS
    assert len(set(found)) == len(found)


def test_several_gpus_share_the_sequences_evenly():
    found = step_candidates(1024, 512, world_size=8)
    assert all(work.gradient_accumulation_steps % 8 == 0 for work in found)
    assert {work.shard for work in found} == {False, True}


def test_on_several_nodes_shards_may_stay_within_each():
    found = step_candidates(1024, 512, world_size=16, gpus_per_node=4)
    assert {work.sharding for work in found} == {Sharding(False), Sharding(True), Sharding(True, 4)}
    assert [work.n_shards for work in found] == sorted((work.n_shards for work in found), reverse=True)
    given = step_candidates(1024, 512, {"shard": True}, world_size=16, gpus_per_node=4)
    assert {work.sharding for work in given} == {Sharding(True)}
    given = step_candidates(1024, 512, {"shard": True, "shard_degree": 2}, world_size=16, gpus_per_node=4)
    assert {work.sharding for work in given} == {Sharding(True, 2)}
    one_each = step_candidates(1024, 512, world_size=16, gpus_per_node=1)
    assert {work.sharding for work in one_each} == {Sharding(False), Sharding(True)}


@pytest.mark.parametrize("machine", [H100, machine_for("h100", gpus=16), machine_for("4090", gpus=2)])
def test_the_order_of_ways_is_that_of_their_speeds(machine):
    """Although those that recompute are timed only when the order has come to those that do not."""
    candidates = machine_step_candidates(1024, 64, machine)
    levels = [
        round(log(float(tokens_per_second(MODEL, step, machine.profile))) / WORTH_MEMORY)
        for step in candidates
    ]
    found = list(_fastest_first(MODEL, candidates, machine))
    expected = sorted(
        range(len(candidates)), key=lambda i: (-levels[i], float(peak_bytes(MODEL, candidates[i])))
    )
    assert sorted(found) == list(range(len(candidates)))
    assert [levels[i] for i in found] == [levels[i] for i in expected]
    assert [peak_bytes(MODEL, candidates[i]) for i in found] == [
        peak_bytes(MODEL, candidates[i]) for i in expected
    ]


def test_within_a_budget_of_activations_no_block_is_recomputed():
    found = step_candidates(1024, 128, {"activation_memory_budget": 0.5})
    assert found
    assert {(w.gradient_checkpointing, w.activation_memory_budget) for w in found} == {(False, 0.5)}


def test_what_is_given_is_in_every_way():
    given = {"batch_size": 16, "gradient_accumulation_steps": 8, "optimizer": "adamw", "loss_chunks": 1}
    found = step_candidates(1024, 128, given)
    assert {(w.batch_size, w.gradient_accumulation_steps, w.optimizer, w.loss_chunks) for w in found} == {
        (16, 8, "adamw", 1)
    }
    assert [w.gradient_checkpointing for w in found] == [True, False]


@pytest.mark.parametrize("gib", [8, 12, 24, 48, 80])
def test_the_way_taken_fits_and_none_that_fits_is_much_quicker(gib):
    machine = with_memory(gib)
    work = fastest_step(MODEL, 512, machine)
    fitting = [w for w in step_candidates(1024, 512) if peak_bytes(MODEL, w) <= machine.usable_bytes]
    assert work in fitting
    rates = {w: tokens_per_second(MODEL, w, machine.profile) for w in fitting}
    # As the reason of a run's settings says: hardly slower than the fastest, and less memory than that needs.
    fastest = max(fitting, key=rates.__getitem__)
    assert rates[work] >= rates[fastest] * exp(-WORTH_MEMORY)
    assert peak_bytes(MODEL, work) <= peak_bytes(MODEL, fastest)


def test_more_memory_never_makes_it_slower():
    rates = [
        tokens_per_second(MODEL, fastest_step(MODEL, 512, with_memory(gib)), H100.profile)
        for gib in (8, 12, 20, 40, 80)
    ]
    assert all(after >= before / (1 + WORTH_MEMORY) for before, after in pairwise(rates))


def test_a_lattice_takes_ways_that_fit_and_are_nearly_as_quick_as_each_models_own():
    dims = [512, 1024, 2048, 16384]
    models = [
        MODEL.replace(dim=d, n_heads=d // 64, n_kv_heads=d // 64, intermediate_size=4 * d) for d in dims
    ]
    candidates = step_candidates(1024, 64)
    array = np.array(dims)
    m = with_sizes(MODEL, dim=array, n_heads=array // 64, n_kv_heads=array // 64, intermediate_size=4 * array)
    many = choose_fastest(m, candidates, H100)
    for i, model in enumerate(models[:-1]):
        one = choose_fastest(model, candidates, H100)
        # The order of the ways is that of the model in the middle.
        assert many.tokens_per_second[i] > 0.8 * float(one.tokens_per_second)
        way = candidates[many.index[i]]
        assert many.tokens_per_second[i] == pytest.approx(tokens_per_second(model, way, H100.profile))
        assert many.peak_bytes[i] == peak_bytes(model, way) <= H100.usable_bytes
    assert many.index[-1] == NOTHING_FITS


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({}, "use a smaller model, a shorter context_length or more GPUs"),
        (
            {"batch_size": 64, "gradient_checkpointing": False},
            "leave out `batch_size`, `gradient_checkpointing`",
        ),
    ],
)
def test_where_nothing_fits_it_says_what_is_needed_and_what_to_do(given, advice):
    with pytest.raises(
        InputError,
        match="no batch size, checkpointing or sharding makes this model fit on h100-sxm: "
        f"it needs at least .* GiB.*{advice}",
    ):
        fastest_step(MODEL, 512, with_memory(2), given)


def test_a_work_of_any_kind_is_a_way():
    assert step_candidates(1024, 128, step_of(16, 8).step_fields) == [step_of(16, 8)]
