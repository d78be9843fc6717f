"""Hugging Face configs are read exactly: held against the classes over random switches."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.hf_configs import FAMILIES, INSTANTIATED_AS, NEEDED, built, class_config, configs
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

import parambudget as pb
from parambudget.arch.defaults import complete
from parambudget.cost.params import ParameterCount, count
from parambudget.formats.hf.importer import from_hf
from parambudget.formats.hf.schema import ABSENT

logging.set_verbosity_error()
OUR_OWN = {
    "attention_layers",  # GPT-Neo's class expands it from attention_types
    "attn_config.clip_qkv", "attn_config.softmax_scale",  # of a class of its own
    "layer_sharing", "share_embedding",  # of MobileLLM's remote code
    "rope_local_base_freq", "sliding_window_pattern",  # read from beside the fields
    "seq_length",  # BLOOM's class has no limit
}  # fmt: skip
"""Keys for which the class has no field, or one in another place."""
LOCAL = ("sliding_attention", "local")
every_kind = pytest.mark.parametrize("kind", FAMILIES)


def read(config) -> ParameterCount:
    return count(complete(from_hf(config, "config.json").fields).model)


def counted(config):
    breakdown = read(config)
    return {name: n for name, n in breakdown.components.items() if n}, breakdown.active


@every_kind
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_configs_count_what_the_class_builds(kind, data):
    config = data.draw(configs(kind))
    assert counted(config) == built(config)


@every_kind
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_layers_and_rotations_are_those_of_the_class(kind, data):
    """What no count shows: which layers have windows and positions, and the bases of the rotations."""
    config = data.draw(configs(kind))
    model, theirs = complete(from_hf(config, "config.json").fields).model, class_config(config)
    kinds = getattr(theirs, "layer_types", None) or getattr(theirs, "attention_layers", None)
    if kinds and model.window:
        layers = range(model.n_layers)
        assert [model.is_local(layer) for layer in layers] == [kind in LOCAL for kind in kinds]
    if kind == "smollm3":
        turns = theirs.no_rope_layers
        assert [model.rotates(layer) for layer in range(model.n_layers)] == [turn == 1 for turn in turns]
    if kind in FAMILIES and "rope_theta" in FAMILIES[kind].keys and model.position == "rotary":
        rotation = theirs.rope_parameters
        assert model.rope_theta == rotation.get("full_attention", rotation)["rope_theta"]
        if model.rope_theta_local is not None:
            assert model.rope_theta_local == rotation["sliding_attention"]["rope_theta"]


@every_kind
def test_a_config_without_keys_has_the_class_defaults(kind):
    """Only depth is given, so that the class is quick to build, and what it cannot do without itself."""
    config = {"model_type": kind, FAMILIES[kind].keys["n_layers"]: 2} | NEEDED.get(kind, {})
    assert counted(config) == built(config)


@every_kind
def test_the_defaults_are_those_of_the_class(kind):
    """Those that change no count too: windows, bases, epsilons."""
    theirs = CONFIG_MAPPING[INSTANTIATED_AS.get(kind, kind)]
    fields = {name: field.default for name, field in theirs.__dataclass_fields__.items()}
    rotation = getattr(theirs(), "rope_parameters", None) or {}
    rotation = rotation.get("full_attention", rotation)
    fields |= {"rope_theta": rotation.get("rope_theta"), "rotary_emb_base": rotation.get("rope_theta")}
    share = rotation.get("partial_rotary_factor", 1.0)
    fields |= {"partial_rotary_factor": share, "rotary_pct": share}
    ours = {key: value for key, value in FAMILIES[kind].defaults.items() if key not in OUR_OWN}
    # A key without a field is read where it is there, and may be null where ours is.
    said = {
        key for key, value in ours.items() if value is not ABSENT and (value is not None or key in fields)
    }
    assert {key: ours[key] for key in said} == {key: fields[key] for key in said}


def test_a_key_that_the_class_does_not_read_is_noted_and_inert():
    plain = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}
    imported = from_hf(plain | {"num_experts": 8, "qk_norm": True, "torch_dtype": "bfloat16"}, "")
    assert imported.fields == from_hf(plain, "").fields
    assert imported.notes[0] == "not read by llama: num_experts, qk_norm"
    assert imported.notes[1:] == from_hf(plain, "").notes


def test_sizes_that_the_config_leaves_to_the_class_are_named_with_its_values():
    config = {"model_type": "gemma", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256}
    (told,) = from_hf(config, "").notes
    assert told == (
        "left to the class: num_attention_heads=16, num_key_value_heads=16, intermediate_size=24576, "
        "tie_word_embeddings=true"
    )


def test_nothing_is_filled_in_where_the_class_decides():
    for kind in FAMILIES:
        config = {"model_type": kind, FAMILIES[kind].keys["n_layers"]: 2} | NEEDED.get(kind, {})
        assert set(complete(from_hf(config, "").fields).filled) <= {"intermediate_size"}, kind


@pytest.mark.parametrize(
    ("config", "note"),
    [
        ({"model_type": "falcon", "alibi": True}, "built without position biases divided by sqrt(head_dim)"),
        ({"model_type": "bloom", "apply_residual_connection_post_layernorm": True}, "post_layernorm=True"),
        ({"model_type": "phimoe"}, "built without the sparse mixer's weights of experts"),
        ({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}}, "frequencies (linear)"),
        ({"model_type": "gpt_oss"}, "rescaled rotary frequencies (yarn)"),
        ({"model_type": "llama", "hidden_act": "mish"}, "hidden_act='mish'"),
        ({"model_type": "deepseek_v3", "rms_norm_eps": 1e-5}, "norms of latents at 1e-06"),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_a_function_that_cannot_be_said_is_noted_and_counted(config, note):
    (said, *_) = from_hf(config, "").notes
    assert said.startswith("counted exactly, but built without ")
    assert note in said
    assert counted(config) == built(config)


def test_layers_that_the_class_does_not_build_are_noted():
    imported = from_hf({"model_type": "deepseek_v3", "num_nextn_predict_layers": 1}, "")
    assert imported.notes[0] == "layers for predicting further tokens are no part of the class: not counted"


def test_a_config_of_another_head_is_counted_with_the_usual_one_and_says_so():
    config = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}
    told, *_ = from_hf(config, "").notes
    assert told == "counted with a head over the vocabulary, not as LlamaForSequenceClassification"


def test_rotary_settings_are_read_in_both_spellings():
    old = {"model_type": "llama", "rope_theta": 5e5}
    new = {"model_type": "llama", "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    assert from_hf(old, "").fields == from_hf(new, "").fields


def test_mobilellm_ties_through_its_own_key():
    config = {"model_type": "mobilellm", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    assert read(config | {"share_embedding": True}).components["lm_head"] == 0
    assert read(config).components["lm_head"] == 32000 * 64


def test_a_hugging_face_file_stands_wherever_a_model_does(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "gpt2"}))
    assert pb.count(path).total == 124_439_808
