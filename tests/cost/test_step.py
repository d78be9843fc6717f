"""How an update is executed: one type, and its arithmetic in one place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.steps import step_of
from support.training_data import small_config

from parambudget.cost.step import (
    ON_CPU,
    SETTINGS,
    STEP_FIELDS,
    Sharding,
    StepConfig,
    accumulation_steps,
    micro_batch_size,
    read_step_fields,
)
from parambudget.errors import ConfigError
from parambudget.training.config import TRAIN_FIELDS, TrainConfig


def test_what_a_person_can_decide_are_fields_of_a_step():
    assert set(STEP_FIELDS) <= StepConfig.model_fields.keys()
    assert set(step_of(4).step_fields) == set(STEP_FIELDS)


def test_where_an_update_is_executed_is_not_a_setting_of_a_run():
    executed = {"shard", "shard_degree", "world_size", "backend", "overhead"}
    assert StepConfig.model_fields.keys() - SETTINGS.keys() == executed
    assert step_of(4, 8, world_size=2, shard=True).model_dump() == step_of(4, 8).model_dump()


def test_shards_and_replicas_make_up_all_processes():
    whole, shared, within = (
        step_of(4, 8, world_size=8, **sharding)
        for sharding in ({}, {"shard": True}, {"shard": True, "shard_degree": 2})
    )
    assert [(step.n_shards, step.n_replicas) for step in (whole, shared, within)] == [(1, 8), (8, 1), (2, 4)]
    assert [step.n_sharing_muon for step in (whole, shared, within)] == [8, 8, 2]
    assert step_of(4, 8, world_size=8, shard=True, shard_degree=8).n_replicas == 1


def test_who_gives_a_shard_degree_wants_shards():
    assert read_step_fields({"shard_degree": 4}, world_size=8) == {"shard": True, "shard_degree": 4}
    assert Sharding.given_by(None, 4) == Sharding(True, 4)
    assert Sharding.given_by(False, 4) == Sharding(False, 4)
    assert Sharding.given_by(None, None) is None


@pytest.mark.parametrize(
    ("given", "world_size", "message"),
    [
        (
            {"shard_degree": 3},
            8,
            "shard_degree=3 does not divide 8 processes into equal groups of at least 2; use 2 or 4 or 8",
        ),
        ({"shard_degree": 1}, 8, "shard_degree=1 does not divide"),
        ({"shard": True}, 1, "shard=True divides a model among processes, and world_size=1"),
        (
            {"shard_degree": 4},
            1,
            "`shard_degree=4` divides a model among processes, and there is one; use several `gpus`",
        ),
        (
            {"shard_degree": 2, "shard": False},
            8,
            "`shard_degree=2` needs `shard=True`; leave one of them out",
        ),
    ],
)
def test_a_shard_degree_that_cannot_be_is_a_line(given, world_size, message):
    with pytest.raises(ConfigError) as error:
        read_step_fields(given, world_size=world_size)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_training_config_holds_a_step_and_its_json_is_flat():
    config = small_config(batch_size=3, gradient_accumulation_steps=5, loss_chunks=2)
    assert config.step == step_of(3, 5, loss_chunks=2, optimizer=config.step.optimizer)
    document = json.loads(config.model_dump_json())
    assert document.keys() == TRAIN_FIELDS.keys() >= SETTINGS.keys()
    assert TrainConfig.read(document) == config
    assert config.replace(batch_size=4).step == config.step.replace(batch_size=4)


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        (
            {"gradient_checkpointing": True},
            "gradient_checkpointing=True recomputes whole blocks, and activat",
        ),
        (
            {"shard": True, "world_size": 2, "gradient_accumulation_steps": 2},
            "activation_memory_budget=0.5 can",
        ),
        (
            {"backend": ON_CPU},
            "activation_memory_budget=0.5 is for steps that are compiled, which they are on",
        ),
        ({"activation_memory_budget": 0.0}, "activation_memory_budget is 0.0; it must be greater than 0"),
        (
            {"activation_memory_budget": 1.5},
            "activation_memory_budget is 1.5; it must be less than or equal to 1",
        ),
    ],
)
def test_a_budget_of_activations_that_nothing_would_keep_is_refused(beside, message):
    fields = {"batch_size": 4, "gradient_accumulation_steps": 1, "activation_memory_budget": 0.5} | beside
    with pytest.raises(ConfigError) as error:
        StepConfig.read(fields)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_config_of_a_version_without_a_budget_keeps_all_activations():
    before = small_config().model_dump()
    del before["activation_memory_budget"]
    assert TrainConfig.read(before) == small_config()


def test_a_changed_training_config_is_still_executed_where_it_was():
    executed = {"shard": True, "world_size": 2, "backend": ON_CPU}
    config = small_config(gradient_accumulation_steps=4).replace(**executed)
    changed = config.replace(steps=9, batch_size=2)
    assert (changed.steps, changed.step) == (9, config.step.replace(batch_size=2))
    assert (
        changed.step.model_dump()
        == small_config(batch_size=2, gradient_accumulation_steps=4).step.model_dump()
    )
    assert small_config().replace(step=changed.step).step == changed.step
    with pytest.raises(ConfigError, match="unknown field 'batchsize'; did you mean 'batch_size'"):
        config.replace(batchsize=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"step": step_of(4)}, "step and batch_size, gradient_accumulation_steps, optimizer, "),
        ({"step": 5}, "unknown field 'step'; did you mean 'steps'?"),
        ({"shard": True}, "unknown field 'shard'"),
        ({"batchsize": 2}, "unknown field 'batchsize'; did you mean 'batch_size'?"),
        ({"loss_chunks": 0}, "loss_chunks is 0; it must be greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_of_a_run_is_one_line(wrong, message):
    with pytest.raises(ConfigError) as error:
        TrainConfig.read(small_config().model_dump() | wrong)
    assert str(error.value).startswith(message)


def test_a_missing_batch_size_is_named():
    fields = small_config().model_dump()
    del fields["batch_size"]
    with pytest.raises(ConfigError, match=r"batch_size is missing \(sequences per micro-step and device\)"):
        TrainConfig.read(fields)


@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 8))
def test_the_micro_steps_of_all_devices_make_up_an_update(batch_size, per_device, world_size):
    step = step_of(batch_size, per_device * world_size, world_size=world_size)
    assert step.micro_steps_per_device == per_device
    assert step.accumulates == (per_device > 1)
    assert step.tokens_per_update(16) == 16 * batch_size * per_device * world_size
    assert step.with_batch_size(batch_size) == step


@given(st.integers(1, 10**6), st.integers(1, 64), st.integers(1, 8))
def test_accumulation_comes_as_near_to_a_number_of_sequences_as_it_can(sequences, batch_size, world_size):
    steps = accumulation_steps(sequences, batch_size, world_size)
    assert steps % world_size == 0
    assert steps == world_size or abs(steps * batch_size - sequences) <= batch_size * world_size / 2


@given(st.integers(1, 10**6), st.integers(1, 64), st.none() | st.integers(0, 64))
def test_a_micro_batch_is_never_empty_and_never_more_than_allowed(sequences, micro_steps, at_most):
    size = micro_batch_size(sequences, micro_steps, at_most=at_most)
    assert 1 <= size <= max(1, sequences // micro_steps)
    assert at_most is None or size <= max(1, at_most)


def test_fields_that_are_none_are_not_given():
    assert read_step_fields({"batch_size": None, "loss_chunks": 2}) == {"loss_chunks": 2}


@pytest.mark.parametrize("unknown", ["ranks", "world_size", "sharded", "backend", "overhead"])
def test_what_is_not_to_be_decided_is_refused_by_name(unknown):
    with pytest.raises(ConfigError, match=f"{unknown} is not a setting of an update; "):
        read_step_fields({unknown: 4})


def test_micro_steps_that_cannot_be_divided_evenly_are_refused():
    with pytest.raises(ConfigError, match="gradient_accumulation_steps=3 cannot be divided evenly among 2"):
        small_config(gradient_accumulation_steps=3).step.replace(world_size=2)
