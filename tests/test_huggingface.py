import json
import math

import pytest
import torch
import transformers
from families import FAMILIES as DENSE
from families import Family
from families_before_llama import FAMILIES_BEFORE_LLAMA
from families_by_position import FAMILIES_BY_POSITION
from families_of_experts import FAMILIES_OF_EXPERTS
from families_of_kin import COUNTED_ALONE, FAMILIES_OF_KIN
from hypothesis import given, settings
from hypothesis import strategies as st
from published import PUBLISHED as OTHERS
from their_weights import assert_all_are_of_the_table, copied
from transformers import PreTrainedModel

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import complete
from parambudget.arch.hf.read import from_hf
from parambudget.arch.presets import PRESETS, preset

FAMILIES = DENSE | FAMILIES_OF_EXPERTS | FAMILIES_BY_POSITION | FAMILIES_BEFORE_LLAMA | FAMILIES_OF_KIN
CONFIGS = {family.model_class.__name__: family.config for family in FAMILIES.values()} | COUNTED_ALONE
PUBLISHED = [(family, name) for family, row in FAMILIES.items() for name in row.published]
families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
published = pytest.mark.parametrize(("family", "name"), PUBLISHED, ids=[name for _, name in PUBLISHED])
# No deadline: the first forward pass of a process takes seconds.
few = settings(max_examples=10, deadline=None)


def published_model(name: str) -> ModelConfig:
    model = OTHERS[name].model if name in OTHERS else preset(name)
    return model.replace(**fused(model))


def fused(model: ModelConfig) -> dict[str, bool]:
    """As the classes keep experts; their config does not say it."""
    return {"fused_experts": True} if model.moe else {}


def layer_by_layer(model: ModelConfig) -> dict[str, object]:
    """What the model computes: its fields with patterns written out, less what it does not need."""
    layers = range(model.n_layers)
    fields = model.replace(init_std=0.02, **fused(model)).model_dump()
    fields["window_pattern"] = [model.is_local(layer) for layer in layers]
    fields["rotary_pattern"] = [model.rotates(layer) for layer in layers]
    if model.moe:
        fields["moe"] |= {
            "moe_pattern": [model.has_experts(layer) for layer in layers],
            "n_first_dense": None,
        }
    unused = {
        "intermediate_size": not model.n_dense_layers,
        "window": not model.n_local_layers,
        "rope_theta_local": not model.n_local_layers,
        "context_length": model.position == "alibi",
    }
    return {name: value for name, value in fields.items() if not unused.get(name)}


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
    first = 1 + like.moe.n_first_dense if like.moe else 1
    period = max(len(like.window_pattern), len(like.rotary_pattern))
    sizes = dict(
        dim=dim,
        n_layers=draw(st.integers(first, max(first + 2, period))),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        intermediate_size=family.ffn_ratio * dim if family.ffn_ratio else draw(st.integers(1, 64)),
        vocab_size=draw(st.integers(2, 60)),
        context_length=draw(st.integers(2, 16)),
        tied=draw(st.booleans()),
        norm_eps=draw(st.sampled_from((1e-5, 1e-2))) if family.free_eps else like.norm_eps,
        embedding_multiplier=math.sqrt(dim) if root_of_dim else like.embedding_multiplier,
    )
    if like.window:
        sizes["window"] = draw(st.integers(1, 12))
    if like.embedding_dim:
        sizes["embedding_dim"] = dim + draw(st.integers(1, 8))
    sizes |= shrunk_experts(draw, like) if like.moe else {}
    sizes |= shrunk_latents(draw, n_heads) if like.mla else {}
    return like.replace(**sizes)


def shrunk_latents(draw: st.DrawFn, n_heads: int) -> dict[str, int | None]:
    """Sizes of latent attention, and what follows from them; even ones, or their complex numbers do not line
    up."""
    still, turned = 2 * draw(st.integers(1, 6)), 2 * draw(st.integers(1, 4))
    return {
        "kv_lora_rank": 2 * draw(st.integers(1, 12)),
        "q_lora_rank": draw(st.none() | st.integers(1, 24)),
        "qk_nope_head_dim": still,
        "qk_rope_head_dim": turned,
        "v_head_dim": draw(st.integers(1, 12)),
        "head_dim": still + turned,
        "n_kv_heads": n_heads,
    }


def shrunk_experts(draw: st.DrawFn, like: ModelConfig) -> dict[str, int]:
    """Sizes of the experts; groups of 2 or 3 where the family has groups."""
    n_groups = draw(st.integers(1, 3)) if like.moe.n_expert_groups > 1 else 1
    of_group = draw(st.integers(2, 4))
    chosen_groups = draw(st.integers(1, n_groups))
    return {
        "n_experts": n_groups * of_group,
        "n_experts_per_token": draw(st.integers(1, chosen_groups * of_group)),
        "expert_intermediate_size": draw(st.integers(1, 40)),
        "n_expert_groups": n_groups,
        "n_groups_per_token": chosen_groups,
    }


@pytest.mark.parametrize("row", PRESETS.values(), ids=PRESETS)
def test_a_preset_states_the_count_of_its_class(row):
    class_name = row.source.split("counted: ")[1]
    with torch.device("meta"):
        theirs = getattr(transformers, class_name)(CONFIGS[class_name](row.model))
    assert sum(p.numel() for p in theirs.parameters()) == row.published_count


@published
def test_the_table_of_a_published_model_holds_the_tensors_of_its_class(family, name):
    model = published_model(name)
    assert_all_are_of_the_table(on_meta(FAMILIES[family], model), model)


@families
@few
@given(data=st.data())
def test_the_table_of_a_small_model_holds_the_tensors_of_its_class(family, data):
    model = shrunk(data.draw, family)
    assert_all_are_of_the_table(on_meta(family, model), model)


@families
@few
@given(data=st.data())
def test_the_config_of_the_class_is_read_as_the_model_that_computes_the_same(family, data):
    """So what is imported computes what the class does: the next test holds logits against the class's."""
    model = shrunk(data.draw, family)
    document = json.loads(family.config(model).to_json_string(use_diff=False))
    read = complete(from_hf(document, "config.json").fields).model
    assert layer_by_layer(read) == layer_by_layer(model)


@families
@few
@given(data=st.data())
def test_with_the_same_weights_our_module_computes_the_same_logits(family, data):
    model = shrunk(data.draw, family)
    generator = torch.Generator().manual_seed(0)
    theirs = family.model_class(family.config(model)).eval()
    for tensor in theirs.state_dict().values():
        tensor.normal_(0, 0.2, generator=generator)
    ours = copied(theirs, model)
    tokens = torch.randint(model.vocab_size, (2, model.context_length), generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)
