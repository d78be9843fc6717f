"""A model written for transformers is the model that transformers builds, or it is not written."""

import json
from typing import Literal, get_args, get_origin

import pytest
import torch
import transformers
from hf_configs import configs
from hypothesis import given, settings
from hypothesis import strategies as st
from of_each_class import OF_EACH_CLASS
from strategies import models
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from parambudget.arch.blocks import flat
from parambudget.arch.config import FIELDS
from parambudget.arch.defaults import complete
from parambudget.arch.export.meaning import differences
from parambudget.arch.export.target import Export
from parambudget.arch.hf.read import FAMILIES, from_hf
from parambudget.arch.hf.write import CLASSES, NO_DROPOUT, to_hf
from parambudget.arch.presets import PRESETS, preset
from parambudget.build.names.entries import NAMES
from parambudget.cost.count import total
from parambudget.errors import ConfigError

OF_REMOTE_CODE = {"kimi_k2", "mobilellm"}
LLAMA = preset("llama-3-8b")
# No deadline: the first class of a process takes seconds.
few = settings(max_examples=4, deadline=None)


def as_built(written: Export) -> int:
    """Parameters of what transformers builds, a shared one once."""
    words = dict(written.document)
    config = AutoConfig.for_model(words.pop("model_type"), **words)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert type(model).__name__ == written.document["architectures"][0]
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_type_that_is_read_can_be_written_but_for_those_of_remote_code():
    assert set(CLASSES) == set(FAMILIES) - OF_REMOTE_CODE
    assert set(NAMES) == set(FAMILIES)


def test_the_classes_are_those_of_transformers():
    assert {kind: MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind] for kind in CLASSES} == CLASSES


def test_no_class_keeps_a_dropout_that_was_not_asked_for():
    for kind, name in CLASSES.items():
        defaults = AutoConfig.for_model(kind).to_dict()
        told = NO_DROPOUT.get(kind, ())
        left = [key for key, value in defaults.items() if "drop" in key and value and key not in told]
        assert not [key for key in left if not key.startswith(("classifier", "summary"))], name


@pytest.mark.parametrize("name", PRESETS)
def test_a_published_model_is_written_as_a_class_that_says_the_same(name):
    model = PRESETS[name].model
    written = to_hf(model)
    read = from_hf(written.document, "config.json")
    assert differences(model, complete(read.fields).model) == []
    assert not [note for note in read.notes if note.startswith("not read")]


ONE_OF_EACH = {to_hf(row.model).name: name for name, row in PRESETS.items()}


@pytest.mark.parametrize(("kind", "name"), ONE_OF_EACH.items(), ids=ONE_OF_EACH)
def test_transformers_builds_a_published_model_with_the_published_count(kind, name):
    written = to_hf(PRESETS[name].model)
    assert written.name == kind
    assert as_built(written) == PRESETS[name].published_count


@pytest.mark.parametrize("kind", CLASSES)
@few
@given(data=st.data())
def test_what_is_read_is_written_again_and_built_with_the_same_count(kind, data):
    document = data.draw(configs(kind))
    read = from_hf(document, "config.json")
    model = complete(read.fields).model
    written = to_hf(model)
    assert written.unsaid == () or read.unsaid
    assert as_built(written) == total(model)


@settings(max_examples=150, deadline=None)
@given(model=models())
def test_any_model_is_refused_in_one_line_or_built_with_its_count(model):
    try:
        written = to_hf(model)
    except ConfigError as error:
        said = str(error)
        assert said.startswith("no class of transformers is this model: the nearest, ")
        assert "\n" not in said
        assert " to export it" in said
    else:
        assert as_built(written) == total(model)


NOTHING_READS = {
    ("mixtral", "ffn_bias"), ("gpt2", "rope_theta"), ("gpt2", "rotary_fraction"),
    ("gpt2", "rotary_interleaved"),
}  # fmt: skip
"""Fields of layers or positions that a model has none of."""
STARTS = ("init_std", "zero_init_out", "fused_experts")
NUMBERS = {
    "window": 5, "embedding_dim": 48, "position_offset": 2, "ffn_clamp": 7.0, "qkv_clip": 8.0,
    "logit_softcap": 30.0, "attention_softcap": 50.0, "residual_multiplier": 0.5, "logit_multiplier": 0.25,
    "embedding_multiplier": 3.0, "attention_multiplier": 0.5, "rope_theta": 5e5, "rotary_fraction": 0.5,
    "norm_eps": 1e-3, "shared_intermediate_size": 8, "routing_multiplier": 2.0, "head_dim": 20,
}  # fmt: skip


def other_values() -> list[tuple[str, object]]:
    """Every field that is a choice, with each of its values, and some with a number."""
    choices = {
        name: (True, False) if info.annotation is bool else get_args(info.annotation)
        for name, info in FIELDS.items()
        if info.annotation is bool or get_origin(info.annotation) is Literal
    }
    return [(name, value) for name, values in choices.items() for value in values] + [*NUMBERS.items()]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "olmo", "mixtral", "deepseek_v3"])
def test_a_model_with_one_choice_of_another_is_refused_or_says_so_and_is_built_with_its_count(kind):
    accepted = 0
    for name, value in other_values():
        try:
            changed = OF_EACH_CLASS[kind].replace(**{name: value})
            written = to_hf(changed)
        except ConfigError:
            continue
        accepted += 1
        assert as_built(written) == total(changed), (name, value)
        if name not in STARTS and (kind, name) not in NOTHING_READS:
            read = flat(complete(from_hf(written.document, "config.json").fields).model)
            assert read[name] == pytest.approx(flat(changed)[name]), (name, value)
    assert accepted > 10


def test_the_folder_loads_by_its_path(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_hf(preset("qwen3-0.6b")).document))
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, transformers.Qwen3Config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PRESETS["qwen3-0.6b"].published_count


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "llama"),
        ({"n_heads": 24}, "mistral"),
        ({"qkv_bias": True}, "qwen2"),
        ({"qk_norm": "head"}, "qwen3"),
        ({"norm_placement": "reordered", "qk_norm": "full"}, "olmo2"),
        ({"window": 1024}, "mistral"),
        ({"rotary_interleaved": True, "rotary_fraction": 0.5}, "glm"),
        ({"position": "none"}, "smollm3"),
        ({"n_experts": 8, "n_experts_per_token": 2, "expert_intermediate_size": 512}, "mixtral"),
    ],
)
def test_the_plainest_class_that_is_the_model_is_chosen(changes, kind):
    assert to_hf(LLAMA.replace(**changes)).name == kind


@pytest.mark.parametrize("changes", [{"init_std": 0.3}, {"zero_init_out": True}])
def test_how_weights_start_is_no_reason_to_refuse(changes):
    assert to_hf(LLAMA.replace(**changes)).name == "llama"


def test_the_reason_is_what_the_nearest_class_lacks():
    with pytest.raises(ConfigError) as refused:
        to_hf(LLAMA.replace(qk_norm="per_head"))
    assert str(refused.value) == (
        "no class of transformers is this model: the nearest, llama, has qk_norm='none' where the model has "
        "'per_head'; set qk_norm to 'none' to export it"
    )


def test_what_the_reason_advises_can_be_exported():
    assert to_hf(LLAMA.replace(qk_norm="none")).name == "llama"


def test_a_class_can_be_asked_for_and_is_refused_where_it_is_not_the_model():
    assert to_hf(LLAMA, "mistral").document["sliding_window"] is None
    with pytest.raises(ConfigError, match="qwen3 is not this model: it has qk_norm='head' where the model"):
        to_hf(LLAMA, "qwen3")
    with pytest.raises(ConfigError, match="'bert' is no class to export to; use one of llama, "):
        to_hf(LLAMA, "bert")
    with pytest.raises(ConfigError, match="mixtral is a class with experts"):
        to_hf(LLAMA, "mixtral")


def test_a_class_that_computes_something_else_with_the_same_parameters_is_told():
    written = to_hf(preset("gpt2").replace(position="alibi"))
    assert written.name == "falcon"
    assert written.notes == (
        "FalconForCausalLM has the same count, but computes position biases divided by sqrt(head_dim): a "
        "model with other logits",
    )
