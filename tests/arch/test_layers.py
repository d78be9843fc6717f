"""Which layers are alike, and which of them have to be followed to find the one that holds the most."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import models
from support.tiny_model import SMALL

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import chooses_keys
from parambudget.arch.layers import layer_kind, layer_kind_counts, peak_layer_candidates
from parambudget.arch.sizes import with_sizes
from parambudget.nn.attention import attention_mask
from parambudget.nn.transformer import Transformer

deep = st.tuples(models(), st.integers(0, 14)).map(lambda drawn: deeper(*drawn))


def deeper(model: ModelConfig, n_more: int) -> ModelConfig:
    return model.replace(n_layers=model.n_layers + n_more)


@given(deep)
def test_every_layer_is_counted_as_of_its_kind(model):
    order = [layer_kind(model, layer) for layer in range(model.n_layers)]
    assert {kind: many for kind, many in layer_kind_counts(model).items() if many} == {
        kind: order.count(kind) for kind in order
    }
    assert sum(kind.experts for kind in order) == model.n_moe_layers
    assert [kind.rotates for kind in order] == [model.rotates(layer) for layer in range(model.n_layers)]


@given(models())
def test_a_layer_takes_a_mask_where_the_module_gives_it_one(model):
    like = Transformer(model).embed.weight
    for layer in range(model.n_layers):
        mask = attention_mask(model, model.context_length, 0, local=model.is_local(layer), like=like)
        own = chooses_keys(model)  # an indexer makes one
        assert layer_kind(model, layer).needs_mask == (own or mask is not None)


@given(deep)
def test_arrays_of_depths_are_counted_as_each_of_them(model):
    depths = np.array([0, 1, 2, model.n_layers, 17])
    counted = layer_kind_counts(with_sizes(model, n_layers=depths))
    for i, depth in enumerate(depths.tolist()):
        order = [layer_kind(model, layer) for layer in range(depth)]
        for kind, many in counted.items():
            assert many[i] == order.count(kind)


@given(deep, st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=8, max_size=8))
def test_no_layer_holds_more_than_those_that_are_followed(model, costs):
    """Whatever a layer of each kind keeps until its backward pass, and holds from then on."""
    of = dict(zip(layer_kind_counts(model), costs, strict=False))
    order = [layer_kind(model, layer) for layer in range(model.n_layers)]
    most: dict = {}
    for layer, kind in enumerate(order):
        held = sum(of[each][0] for each in order[:layer]) + sum(of[each][1] for each in order[layer + 1 :])
        most[kind] = max(most.get(kind, 0), held)
    followed: dict = {}
    for place in peak_layer_candidates(model):
        before = sum(many * of[kind][0] for kind, many in place.before.items())
        behind = sum(many * of[kind][1] for kind, many in place.after.items())
        followed[place.kind] = max(followed.get(place.kind, 0), before + behind)
    assert followed == most


def test_the_last_layer_comes_first_and_the_first_last():
    mixed = SMALL.replace(n_layers=9, window=4, window_pattern=("local", "local", "global"))
    assert [place.layer for place in peak_layer_candidates(mixed)] == [8, 7, 6, 2, 1, 0]
    assert [place.layer for place in peak_layer_candidates(SMALL.replace(n_layers=9))] == [8, 0]
