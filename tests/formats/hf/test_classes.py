import json

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from support.hf_configs import CONSTANT
from support.hf_families import COUNTED_ALONE, Family
from support.hf_state_spaces import COUNTED_STATE_SPACES
from support.published_counts import PUBLISHED as OTHERS
from support.tiny_hf_models import FAMILIES, shrunk
from transformers import PreTrainedModel

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import with_defaults
from parambudget.arch.presets.registry import PRESETS
from parambudget.arch.tensors import tensors
from parambudget.formats.hf.importer import from_hf
from parambudget.formats.hf.weights import match_tensors
from parambudget.nn.transformer import Transformer
from parambudget.nn.verify import tensor_indices

OF_FAMILIES = {family.model_class.__name__: family.config for family in FAMILIES.values()}
CONFIGS = OF_FAMILIES | COUNTED_ALONE | COUNTED_STATE_SPACES
PUBLISHED = [(family, name) for family, row in FAMILIES.items() for name in row.published]
families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
published = pytest.mark.parametrize(("family", "name"), PUBLISHED, ids=[name for _, name in PUBLISHED])
# No deadline: the first forward pass of a process takes seconds.
few = settings(max_examples=5, deadline=None)


def published_model(name: str) -> ModelConfig:
    model = OTHERS[name].model if name in OTHERS else PRESETS[name].model
    return model.replace(**with_fused_experts(model))


def with_fused_experts(model: ModelConfig) -> dict[str, bool]:
    """As the classes store experts, which no config mentions."""
    return {"fused_experts": True} if model.moe else {}


def layer_by_layer(model: ModelConfig) -> dict[str, object]:
    """What the model computes: its fields with patterns written out, without those that have no effect."""
    layers = range(model.n_layers)
    fields = model.replace(init_std=0.02, **with_fused_experts(model)).model_dump()
    fields["window_pattern"] = [model.is_local(layer) for layer in layers]
    fields["rotary_pattern"] = [model.rotates(layer) for layer in layers]
    fields["mixer_pattern"] = [model.mixer_pattern[at % len(model.mixer_pattern)] for at in layers]
    fields["ffn_pattern"] = [model.has_ffn(layer) for layer in layers]
    if model.indexer:
        fields["indexer"]["indexer_pattern"] = [model.has_indexer(layer) for layer in layers]
    if model.moe:
        fields["moe"] |= {
            "moe_pattern": [model.has_experts(layer) for layer in layers],
            "n_first_dense": None,
            "shared_intermediate_size": model.moe.shared_expert_width,
        }
    unused = {
        "intermediate_size": not model.n_dense_layers,
        "window": not model.n_local_layers,
        "rope_theta_local": not model.n_local_layers,
        "context_length": model.position == "alibi" or not model.n_attention_layers,
    }
    if not model.n_attention_layers:
        unused |= dict.fromkeys(("n_heads", "n_kv_heads", "head_dim"), True)
    return {name: value for name, value in fields.items() if not unused.get(name)}


def on_meta(family: Family, model: ModelConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return family.model_class(family.config(model))


def shapes_of_the_table(model: ModelConfig, theirs: PreTrainedModel) -> dict[str, torch.Size]:
    """The shapes of the table under the names of the class."""
    table = {
        row.name.replace("*", "{}").format(*place): torch.empty(row.shape, device="meta")
        for row in tensors(model)
        if row.shared_with is None
        for place in tensor_indices(row, model)
    }
    names = dict(theirs.named_parameters())
    rows, parts, _ = match_tensors(theirs.config.model_type, table, model, names)
    return {row.name: row.shape(parts, model) for row in rows}


def shapes_of(theirs: PreTrainedModel) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in theirs.named_parameters()}


@pytest.mark.parametrize("row", PRESETS.values(), ids=PRESETS)
def test_a_preset_states_the_count_of_its_class(row):
    class_name = row.source.split("counted: ")[1]
    with torch.device("meta"):
        theirs = getattr(transformers, class_name)(CONFIGS[class_name](row.model))
    assert sum(p.numel() for p in theirs.parameters()) == row.published_count


@published
def test_the_table_of_a_published_model_holds_the_tensors_of_its_class(family, name):
    model = published_model(name)
    theirs = on_meta(FAMILIES[family], model)
    assert shapes_of_the_table(model, theirs) == shapes_of(theirs)


@families
@few
@given(data=st.data())
def test_the_table_of_a_small_model_holds_the_tensors_of_its_class(family, data):
    model = shrunk(data.draw, family)
    theirs = on_meta(family, model)
    assert shapes_of_the_table(model, theirs) == shapes_of(theirs)


@families
@few
@given(data=st.data())
def test_the_config_of_the_class_is_read_as_the_model_that_computes_the_same(family, data):
    """So an imported model computes what the class does: the next test compares logits with the class's."""
    model = shrunk(data.draw, family)
    document = json.loads(family.config(model).to_json_string(use_diff=False))
    read = with_defaults(from_hf(document, "config.json").fields).model
    assert layer_by_layer(read) == layer_by_layer(model)


@families
@few
@given(data=st.data())
def test_with_the_same_weights_our_module_computes_the_same_logits(family, data):
    model = shrunk(data.draw, family)
    generator = torch.Generator().manual_seed(0)
    theirs = family.model_class(family.config(model)).eval()
    for name, tensor in theirs.state_dict().items():
        if not CONSTANT.search(name):
            tensor.normal_(0, 0.2, generator=generator)
    ours = Transformer(model)
    held = theirs.state_dict()
    rows, parts, _ = match_tensors(theirs.config.model_type, ours.state_dict(), model, held)
    for row in rows:
        row.copy_to_parts(held[row.name], parts, model)
    tokens = torch.randint(model.vocab_size, (2, min(16, model.context_length)), generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)
