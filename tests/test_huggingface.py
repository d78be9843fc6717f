import math

import pytest
import torch
from families import FAMILIES, Family
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets import preset
from parambudget.arch.tensors import tensors
from parambudget.build.module import Transformer
from parambudget.cost.count import count

PUBLISHED = [(family, name) for family, row in FAMILIES.items() for name in row.published]
families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
published = pytest.mark.parametrize(("family", "name"), PUBLISHED, ids=[name for _, name in PUBLISHED])
# No deadline: the first forward pass of a process takes seconds.
few = settings(max_examples=10, deadline=None)


def on_meta(family: Family, model: ModelConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return family.model_class(family.config(model))


def shrunk(draw: st.DrawFn, family: Family) -> ModelConfig:
    """The family's choices with random small sizes."""
    like = family.example
    head_dim = 8 * draw(st.integers(1, 3))
    n_kv_heads = draw(st.integers(1, 3))
    n_heads = n_kv_heads * (draw(st.integers(1, 3)) if family.grouped else 1)
    dim = n_heads * (draw(st.integers(2, 24)) if family.grouped else head_dim)
    root_of_dim = like.embedding_multiplier == math.sqrt(like.dim)  # Gemma's multiplier is no constant
    return like.replace(
        dim=dim,
        n_layers=draw(st.integers(1, 3)),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        intermediate_size=family.ffn_ratio * dim if family.ffn_ratio else draw(st.integers(1, 64)),
        vocab_size=draw(st.integers(2, 60)),
        context_length=draw(st.integers(2, 16)),
        tied=draw(st.booleans()),
        norm_eps=draw(st.sampled_from((1e-5, 1e-2))) if like.norm_weight else 1e-5,
        embedding_multiplier=math.sqrt(dim) if root_of_dim else like.embedding_multiplier,
    )


def shapes_of(theirs: PreTrainedModel, family: Family, model: ModelConfig) -> dict[str, torch.Size]:
    weights = family.weights(dict(theirs.named_parameters()), model)
    return {name: weight.shape for name, weight in weights.items()}


def shapes_of_the_table(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {
        row.name.replace("*", str(layer)): row.shape
        for row in tensors(model)
        if row.shared_with is None
        for layer in range(row.copies)
    }


@published
def test_the_count_of_a_published_model_is_that_of_its_class(family, name):
    theirs = on_meta(FAMILIES[family], preset(name))
    assert count(preset(name)).total == sum(p.numel() for p in theirs.parameters())


@published
def test_the_table_of_a_published_model_holds_the_tensors_of_its_class(family, name):
    model = preset(name)
    theirs = on_meta(FAMILIES[family], model)
    assert shapes_of_the_table(model) == shapes_of(theirs, FAMILIES[family], model)


@families
@few
@given(data=st.data())
def test_the_table_of_a_small_model_holds_the_tensors_of_its_class(family, data):
    model = shrunk(data.draw, family)
    theirs = on_meta(family, model)
    assert shapes_of_the_table(model) == shapes_of(theirs, family, model)


@families
@few
@given(data=st.data())
def test_with_the_same_weights_our_module_computes_the_same_logits(family, data):
    model = shrunk(data.draw, family)
    generator = torch.Generator().manual_seed(0)
    theirs = family.model_class(family.config(model)).eval()
    for parameter in theirs.parameters():
        parameter.data.normal_(0, 0.2, generator=generator)
    ours = Transformer(model)
    ours.load_state_dict(family.weights(theirs.state_dict(), model))
    tokens = torch.randint(model.vocab_size, (2, model.context_length), generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)
