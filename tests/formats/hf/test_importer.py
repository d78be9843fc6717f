"""Hugging Face configs are read exactly: compared with the classes over random switches."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.hf_configs import INSTANTIATED_AS, REQUIRED_KEYS, SCHEMAS, class_config, class_counts, configs
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

import parambudget as pb
from parambudget.arch.defaults import with_defaults
from parambudget.cost.params import ParameterCount, count
from parambudget.formats.hf.importer import from_hf
from parambudget.formats.hf.schema import ABSENT

logging.set_verbosity_error()
OUR_OWN = {
    "attention_layers",  # GPT-Neo's class expands it from attention_types
    "attn_config.clip_qkv", "attn_config.softmax_scale",  # of a nested config class
    "layer_sharing", "share_embedding",  # of MobileLLM's remote code
    "rope_local_base_freq", "sliding_window_pattern",  # read without being fields
    "seq_length",  # BLOOM's class has no limit
}  # fmt: skip
"""Keys for which the class has no field, or a field elsewhere."""
LOCAL = ("sliding_attention", "local")
every_kind = pytest.mark.parametrize("kind", SCHEMAS)


def read(config) -> ParameterCount:
    return count(with_defaults(from_hf(config, "config.json").fields).model)


def our_counts(config):
    breakdown = read(config)
    return {name: n for name, n in breakdown.by_component.items() if n}, breakdown.active


@every_kind
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_configs_count_what_the_class_builds(kind, data):
    config = data.draw(configs(kind))
    assert our_counts(config) == class_counts(config)


@every_kind
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_layers_and_rotations_are_those_of_the_class(kind, data):
    """What no count shows: which layers have windows and positions, and the rotary bases."""
    config = data.draw(configs(kind))
    model, theirs = with_defaults(from_hf(config, "config.json").fields).model, class_config(config)
    kinds = getattr(theirs, "layer_types", None) or getattr(theirs, "attention_layers", None)
    if kinds and model.window:
        layers = range(model.n_layers)
        assert [model.is_local(layer) for layer in layers] == [kind in LOCAL for kind in kinds]
    if kind == "smollm3":
        turns = theirs.no_rope_layers
        assert [model.rotates(layer) for layer in range(model.n_layers)] == [turn == 1 for turn in turns]
    if kind in SCHEMAS and "rope_theta" in SCHEMAS[kind].keys and model.position == "rotary":
        rotation = theirs.rope_parameters
        rotation = rotation.get("full_attention", rotation) | rotation
        head_dim = getattr(theirs, "head_dim", None) or model.head_dim
        width = int(head_dim * rotation.get("partial_rotary_factor", 1.0))
        # Half an odd width is rounded up, while the frequencies are spread over the odd one.
        is_odd = width % 2 and width < model.head_dim
        assert model.rope_theta == rotation["rope_theta"] ** ((width + 1) / width if is_odd else 1)
        if model.rope_theta_local is not None:
            assert model.rope_theta_local == rotation["sliding_attention"]["rope_theta"]


@every_kind
def test_a_config_without_keys_has_the_class_defaults(kind):
    """Only the depth is given, so that the class is quick to build, and what the class itself requires."""
    config = {"model_type": kind, SCHEMAS[kind].keys["n_layers"]: 2} | REQUIRED_KEYS.get(kind, {})
    assert our_counts(config) == class_counts(config)


@every_kind
def test_the_defaults_are_those_of_the_class(kind):
    """Including those that do not change the count: windows, bases, epsilons."""
    theirs = CONFIG_MAPPING[INSTANTIATED_AS.get(kind, kind)]
    fields = {name: field.default for name, field in theirs.__dataclass_fields__.items()}
    rotation = getattr(theirs(), "rope_parameters", None) or {}
    rotation = rotation.get("full_attention", rotation)
    fields |= {"rope_theta": rotation.get("rope_theta"), "rotary_emb_base": rotation.get("rope_theta")}
    share = rotation.get("partial_rotary_factor", 1.0)
    fields |= {"partial_rotary_factor": share, "rotary_pct": share}
    ours = {key: value for key, value in SCHEMAS[kind].defaults.items() if key not in OUR_OWN}
    # A key without a field is read where it is there, and may be null where ours is.
    expected = {
        key for key, value in ours.items() if value is not ABSENT and (value is not None or key in fields)
    }
    assert {key: ours[key] for key in expected} == {key: fields[key] for key in expected}


def test_a_key_that_the_class_does_not_read_is_noted_and_inert():
    plain = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}
    imported = from_hf(plain | {"num_experts": 8, "qk_norm": True, "torch_dtype": "bfloat16"}, "")
    assert imported.fields == from_hf(plain, "").fields
    assert imported.notes[0] == "keys that llama does not read: num_experts, qk_norm"
    assert imported.notes[1:] == from_hf(plain, "").notes


def test_sizes_missing_from_the_config_are_named_with_the_class_defaults():
    config = {"model_type": "gemma", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256}
    (note,) = from_hf(config, "").notes
    assert note == (
        "missing keys have the defaults of the class: num_attention_heads=16, num_key_value_heads=16, "
        "intermediate_size=24576, tie_word_embeddings=true"
    )


def test_nothing_is_filled_in_where_the_class_decides():
    for kind in SCHEMAS:
        config = {"model_type": kind, SCHEMAS[kind].keys["n_layers"]: 2} | REQUIRED_KEYS.get(kind, {})
        assert set(with_defaults(from_hf(config, "").fields).defaulted) <= {"intermediate_size"}, kind


@pytest.mark.parametrize(
    ("config", "note"),
    [
        ({"model_type": "falcon", "alibi": True}, "built without position biases divided by sqrt(head_dim)"),
        ({"model_type": "bloom", "apply_residual_connection_post_layernorm": True}, "post_layernorm=True"),
        ({"model_type": "phimoe"}, "built without the sparse mixer's expert weights"),
        ({"model_type": "llama", "hidden_act": "mish"}, "hidden_act='mish'"),
        ({"model_type": "llama", "is_causal": False}, "attention to later tokens (is_causal)"),
        (
            {"model_type": "olmoe", "sliding_window": 8},
            "a window that only some kernels of the class observe",
        ),
        ({"model_type": "deepseek_v3", "rms_norm_eps": 1e-5}, "latent norms with epsilon 1e-06"),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_a_function_that_cannot_be_expressed_is_noted_and_counted(config, note):
    (first, *_) = from_hf(config, "").notes
    assert first.startswith("counted exactly, but built without ")
    assert note in first
    assert our_counts(config) == class_counts(config)


def test_of_a_multimodal_config_the_language_model_is_read():
    text_config = {"model_type": "gemma3_text", "num_hidden_layers": 6, "hidden_size": 64}
    config = {"model_type": "gemma3", "text_config": text_config, "vision_config": {"hidden_size": 1152}}
    imported = from_hf(config, "")
    assert imported.notes[0] == "of this 'gemma3' only the text_config is read, a gemma3_text"
    assert imported.fields == from_hf(text_config, "").fields
    # The output head belongs to the whole.
    assert not from_hf(config | {"tie_word_embeddings": False}, "").fields["tied"]


def test_layers_that_the_class_does_not_build_are_noted():
    imported = from_hf({"model_type": "deepseek_v3", "num_nextn_predict_layers": 1}, "")
    note = "layers for multi-token prediction are not part of the class and are not counted"
    assert imported.notes[0] == note


def test_a_config_with_another_head_is_counted_with_the_usual_one_and_says_so():
    config = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}
    note, *_ = from_hf(config, "").notes
    assert note == "counted with a language-modelling head, not as LlamaForSequenceClassification"


def test_rotary_settings_are_read_in_both_spellings():
    old = {"model_type": "llama", "rope_theta": 5e5}
    new = {"model_type": "llama", "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    assert from_hf(old, "").fields == from_hf(new, "").fields


def test_mobilellm_ties_through_its_own_key():
    config = {"model_type": "mobilellm", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    assert read(config | {"share_embedding": True}).by_component["lm_head"] == 0
    assert read(config).by_component["lm_head"] == 32000 * 64


def test_a_hugging_face_file_stands_wherever_a_model_does(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "gpt2"}))
    assert pb.count(path).total == 124_439_808
