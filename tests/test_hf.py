"""Hugging Face configs are read exactly: held against the classes over random switches, or refused."""

import json
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from parambudget.arch.defaults import complete
from parambudget.arch.hf.read import FAMILIES, from_hf
from parambudget.arch.source import interpret
from parambudget.cost.count import count
from parambudget.errors import ConfigError

logging.set_verbosity_error()

flag = st.booleans()
SWITCHES = {
    "codegen": {"n_inner": st.sampled_from([None, 96]), "rotary_dim": st.sampled_from([2, 4])},
    "cohere": {"attention_bias": flag, "use_qk_norm": flag},
    "falcon": {
        "new_decoder_architecture": flag, "multi_query": flag, "parallel_attn": flag, "bias": flag,
        "alibi": flag,
        "num_ln_in_parallel_attn": st.sampled_from([None, 1, 2]), "ffn_hidden_size": st.just(96),
        "num_kv_heads": st.sampled_from([None, 2]),
    },
    "gemma": {"attention_bias": flag},
    "gemma2": {"attention_bias": flag, "final_logit_softcapping": st.sampled_from([None, 20.0])},
    "gemma3_text": {"attention_bias": flag},
    "glm": {"attention_bias": flag},
    "glm4": {"attention_bias": flag},
    "gpt2": {"n_inner": st.sampled_from([None, 96]), "scale_attn_weights": flag},
    "gpt_bigcode": {"n_inner": st.sampled_from([None, 96]), "multi_query": flag},
    "gpt_neo": {"intermediate_size": st.sampled_from([None, 96])},
    "gpt_neox": {"attention_bias": flag, "use_parallel_residual": flag, "rotary_pct": st.just(1.0)},
    "gptj": {"n_inner": st.sampled_from([None, 96]), "rotary_dim": st.sampled_from([2, 4])},
    "granite": {"attention_bias": flag, "mlp_bias": flag},
    "llama": {"attention_bias": flag, "mlp_bias": flag},
    "mistral": {"sliding_window": st.sampled_from([None, 16])},
    "olmo": {"attention_bias": flag},
    "olmo2": {"attention_bias": flag},
    "phi": {"qk_layernorm": flag},
    "phi3": {},
    "qwen2": {"use_sliding_window": flag},
    "qwen3": {"attention_bias": flag},
    "smollm3": {"attention_bias": flag, "mlp_bias": flag},
    "stablelm": {"use_qkv_bias": flag, "use_parallel_residual": flag},
    "starcoder2": {"use_bias": flag},
}  # fmt: skip
NO_CLASS = {"mobilellm"}


@st.composite
def configs(draw, kind):
    """A small config.json of the kind, with some of its keys left to the class's default."""
    family, heads = FAMILIES[kind], draw(st.sampled_from([2, 4]))
    ours = {
        "dim": heads * 8,
        "n_layers": draw(st.integers(1, 3)),
        "n_heads": heads,
        "vocab_size": 64,
        "context_length": 32,
    }
    config = {"model_type": kind} | {family.keys[name]: value for name, value in ours.items()}
    if "intermediate_size" in family.keys and kind not in (
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "gptj",
        "codegen",
    ):
        config[family.keys["intermediate_size"]] = draw(st.sampled_from([40, 64]))
    if "n_kv_heads" in family.keys:
        config["num_key_value_heads"] = draw(st.sampled_from([1, 2, heads]))
    if "head_dim" in family.keys:
        config["head_dim"] = draw(st.sampled_from([8, 16]))
    if draw(flag):
        config["tie_word_embeddings"] = draw(flag)
    for key, values in SWITCHES[kind].items():
        if draw(flag):
            config[key] = draw(values)
    return config


def component_of(name: str) -> str:
    """Our component of a parameter of a Hugging Face model, by its name."""
    rules = [
        (r"lm_head|embed_out", "lm_head"),
        (r"norm|\bln_|layernorm", "norm"),
        (r"wpe|position", "position_embedding"),
        (r"mlp|feed_forward", "ffn"),
        (r"attn|attention", "attention"),
        (r"wte|embed", "token_embedding"),
    ]
    return next(component for pattern, component in rules if re.search(pattern, name))


def built(config):
    """Total and components of the class's own model, a shared parameter once."""
    settings_of_kind = {key: value for key, value in config.items() if key != "model_type"} | {
        "pad_token_id": None
    }
    if config["model_type"] == "gpt_neo":
        settings_of_kind["attention_types"] = [[["global"], config["num_layers"]]]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(config["model_type"], **settings_of_kind)
        )
    components = {}
    for name, parameter in model.named_parameters():
        component = component_of(name)
        components[component] = components.get(component, 0) + parameter.numel()
    return components


def read(config):
    return count(complete(from_hf(config, "config.json").fields).model)


def test_every_family_is_held_against_its_class():
    assert set(SWITCHES) | NO_CLASS == set(FAMILIES)


@pytest.mark.parametrize("kind", SWITCHES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_configs_count_what_the_class_builds(kind, data):
    config = data.draw(configs(kind))
    assert {name: n for name, n in read(config).components.items() if n} == built(config)


@pytest.mark.parametrize("kind", SWITCHES)
def test_a_config_without_keys_has_the_class_defaults(kind):
    """Only depth and vocabulary are given, so that the class stays quick to build."""
    keys = FAMILIES[kind].keys
    config = {"model_type": kind, keys["n_layers"]: 2, keys["vocab_size"]: 512}
    assert {name: n for name, n in read(config).components.items() if n} == built(config)


def test_mobilellm_ties_through_its_own_key():
    config = {"model_type": "mobilellm", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    assert read(config | {"share_embedding": True}).components["lm_head"] == 0
    assert read(config).components["lm_head"] == 32000 * 64


def test_rotary_settings_are_read_in_both_spellings():
    old = {"model_type": "llama", "rope_theta": 5e5}
    new = {"model_type": "llama", "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    assert from_hf(old, "").fields == from_hf(new, "").fields


def test_a_key_that_the_class_does_not_read_is_noted_and_inert():
    plain = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}
    imported = from_hf(plain | {"num_experts": 8}, "")
    assert imported.fields == from_hf(plain, "").fields
    assert imported.notes == ("not read by llama: num_experts",)


def test_a_function_that_cannot_be_said_is_noted():
    assert "attn_logit_softcapping=50.0" in from_hf({"model_type": "gemma2"}, "").notes[0]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "llava", "text_config": {}}, "multimodal"),
        ({"model_type": "mixtral"}, "'mixtral' is not read by this version; near it are mistral"),
        ({"model_type": 7}, "model_type 7"),
        (
            {"model_type": "gpt2", "add_cross_attention": True},
            "add_cross_attention=True changes the parameters",
        ),
        ({"model_type": "llama", "hidden_size": "4096"}, "hidden_size is '4096'; it must be a whole number"),
        ({"model_type": "llama", "attention_bias": 1}, "attention_bias is 1; it must be true or false"),
        ({"model_type": "llama", "hidden_act": "swiglu"}, "activation 'swiglu' is not known"),
        ({"model_type": "llama", "num_attention_heads": 7}, "7 heads do not divide the width of 4096"),
        ({"model_type": "llama", "num_hidden_layers": -1}, "n_layers is -1"),
        ({"model_type": "gpt2", "n_head": 0}, "n_heads is 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_known_is_refused_in_one_line(config, says):
    with pytest.raises(ConfigError, match=re.escape(says)) as error:
        complete(interpret(config, "config.json").fields)
    assert "\n" not in str(error.value)


def test_a_hugging_face_file_stands_wherever_a_model_does(tmp_path):
    import parambudget as pb

    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "gpt2"}))
    assert pb.count(path).total == 124_439_808
