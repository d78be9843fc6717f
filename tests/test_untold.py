"""What memory and speed are not modelled for is refused in one line, and trained all the same."""

import pytest
from hypothesis import given
from small import SMALL
from strategies import models
from training_data import small_config

from parambudget.arch.config import ModelConfig
from parambudget.cost.forward import forward
from parambudget.cost.hardware import named
from parambudget.cost.stacks import preset
from parambudget.cost.tape import ON_CPU
from parambudget.cost.untold import PLAIN, untold
from parambudget.cost.update import Work, parts
from parambudget.errors import InputError
from parambudget.train import expect
from parambudget.train.device import choose

OTHERS = {
    "window": {"window": 4}, "rotary_pattern": {"rotary_pattern": ("none", "rotary")},
    "rope_theta_local": {"window": 4, "rope_theta_local": 50.0}, "attention_sinks": {"attention_sinks": True},
    "attention_softcap": {"attention_softcap": 50.0}, "qkv_clip": {"qkv_clip": 8.0},
    "ffn_clamp": {"ffn_clamp": 7.0}, "embedding_dim": {"embedding_dim": 16},
    "embedding_norm": {"embedding_norm": True}, "logit_multiplier": {"logit_multiplier": 0.5},
    "qk_norm_bias": {"qk_norm": "head", "qk_norm_bias": False},
    "position_offset": {"position": "learned", "position_offset": 2},
    "moe": {"n_experts": 4, "n_experts_per_token": 2, "expert_intermediate_size": 48},
    "mla": {"kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
            "n_kv_heads": 4},
    "position": {"position": "alibi"}, "activation": {"activation": "quick_gelu"},
}  # fmt: skip


def test_every_field_that_is_known_with_one_value_alone_is_tried_here():
    assert set(OTHERS) == {*PLAIN, "position", "activation"}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_neither_memory_nor_speed_is_guessed(changes: dict[str, object]):
    model = SMALL.replace(**changes)
    message = f"memory and speed of training are not modelled for models with {untold(model)} yet; count, "
    with pytest.raises(InputError, match=message):
        forward(model, ON_CPU, head_rows=model.vocab_size)
    with pytest.raises(InputError, match=message):
        parts(model, Work(1), preset(named("h100")))


@pytest.mark.parametrize("name", ["moe", "window"])
def test_the_trainer_expects_nothing_of_such_a_model_and_refuses_nothing(name: str):
    model, config, cpu = SMALL.replace(**OTHERS[name]), small_config(batch_size=2**20), choose("cpu")
    assert expect.expected(model, config, cpu) is None
    assert not expect.surely_fits(model, config, cpu)
    expect.require_room(model, config, cpu)


@given(models(told=True))
def test_everything_else_is_known(model: ModelConfig):
    assert untold(model) is None
