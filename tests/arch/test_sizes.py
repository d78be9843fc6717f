"""Other sizes in place of a model's own: what is derived from them follows."""

from typing import Any

import numpy as np
from hypothesis import given
from support.strategies import models

from parambudget.arch.config import ModelConfig
from parambudget.arch.sizes import sizes_of, take_models, with_sizes

DERIVED = ("embedding_width", "active_ffn_width", "n_local_layers", "n_moe_layers", "n_dense_layers")
DERIVED_OF_EXPERTS = ("shared_expert_width", "active_width")


def derived(m: Any) -> dict[str, Any]:
    of_experts = {name: getattr(m.moe, name) for name in DERIVED_OF_EXPERTS} if m.moe else {}
    return {name: getattr(m, name) for name in DERIVED} | of_experts


@given(models())
def test_a_model_with_its_own_sizes_derives_what_the_config_does(model: ModelConfig):
    assert derived(with_sizes(model)) == derived(model)


@given(models())
def test_derived_sizes_of_arrays_are_those_of_each_element(model: ModelConfig):
    sizes = {name: size * np.array([1, 2]) for name, size in sizes_of(model).items() if "layers" not in name}
    both = with_sizes(model, **sizes)
    for i in range(2):
        one = with_sizes(model, **{name: int(values[i]) for name, values in sizes.items()})
        assert derived(take_models(both, i)) == derived(one)


def test_a_model_taken_from_arrays_may_be_given_another_size():
    model = ModelConfig(
        dim=8, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=4, intermediate_size=16, activation="silu"
    )
    both = with_sizes(model, dim=np.array([8, 16]), n_layers=np.array([2, 2]))
    one = take_models(both, 1, n_layers=7)
    assert (one.dim, one.n_layers, one.embedding_width) == (16, 7, 16)
