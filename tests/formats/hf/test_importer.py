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
from parambudget.errors import ConfigError
from parambudget.formats.hf.families.remote_code import REMOTE_CODE_FAMILIES
from parambudget.formats.hf.importer import from_hf
from parambudget.formats.hf.schema import ABSENT

logging.set_verbosity_error()
OUR_OWN = {
    "full_attention_interval",  # expanded to layer_types
    "linear_attn_config.full_attn_layers", "linear_attn_config.head_dim", "linear_attn_config.kda_layers",
    "linear_attn_config.num_heads", "linear_attn_config.short_conv_kernel_size",  # read without being fields
    "attention_layers",  # GPT-Neo's class expands it from attention_types
    "attn_config.clip_qkv", "attn_config.softmax_scale",  # of a nested config class
    "layer_sharing", "share_embedding",  # of MobileLLM's remote code
    "global_head_dim", "rope_local_base_freq", "sliding_window_pattern",  # read without being fields
    "seq_length",  # BLOOM's class has no limit
    # ModernBERT's class reads these where they are given.
    "global_attn_every_n_layers", "global_rope_theta", "local_rope_theta",
    "router_bias",  # which LongCat's class reads where it is given
}  # fmt: skip
"""Keys for which the class has no field, or a field elsewhere."""
WITHOUT_A_FIELD = {
    # Expanded to a list.
    "axk1": {"first_k_dense_replace", "moe_layer_freq"}, "cohere2_moe": {"first_k_dense_replace"},
    "axk2": {"first_k_dense_replace", "moe_layer_freq"},
    "glm_moe_dsa": {"index_skip_topk_offset", "index_topk_freq"},
    "iquestcoder": {"use_sliding_window"},  # of remote code
    "kimi_linear": {"first_k_dense_replace"},
    "dbrx": {"ffn_config.ffn_act_fn"},  # null stands for silu
    "nemotron_h": {"num_hidden_layers"},  # the length of its list
}  # fmt: skip
NOT_IN_THE_CLASS = {
    "bloom": {"n_embed": "hidden_size"},
    "lfm2": {"tie_embedding": "tie_word_embeddings", "block_ff_dim": "intermediate_size"},
    "lfm2_moe": {"tie_embedding": "tie_word_embeddings"},
    "falcon": {"n_embed": "hidden_size"},
    "nemotron_h": {
        "mamba_conv_bias": "use_conv_bias",
        "mamba_d_conv": "conv_kernel",
        "mamba_dt_min": "time_step_min",
        "mamba_n_groups": "n_groups",
    },
    "deepseek_v32": {"num_experts": "n_routed_experts"},
    "glm_moe_dsa": {"num_experts": "n_routed_experts"},
    # Its base outside of an object is that of full attention.
    "olmo3": {"rope_theta": "rope_parameters.full_attention.rope_theta"},
}
"""Other spellings that the class reads in code of its own."""
LOCAL = ("sliding_attention", "chunked_attention", "local")
every_kind = pytest.mark.parametrize("kind", SCHEMAS)


def read(config) -> ParameterCount:
    return count(with_defaults(from_hf(config, "config.json").fields).model)


def our_counts(config):
    breakdown = read(config)
    return {name: n for name, n in breakdown.by_component.items() if n}, breakdown.active


@every_kind
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_configs_count_what_the_class_builds(kind, data):
    config = data.draw(configs(kind))
    assert our_counts(config) == class_counts(config)


@every_kind
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_layers_and_rotations_are_those_of_the_class(kind, data):
    """What no count shows: which layers have windows and positions, and the rotary bases."""
    config = data.draw(configs(kind))
    model, theirs = with_defaults(from_hf(config, "config.json").fields).model, class_config(config)
    kinds = getattr(theirs, "layer_types", None) or getattr(theirs, "attention_layers", None)
    if kinds and model.window:
        layers = range(model.n_layers)
        local = [model.is_local(layer) and model.has_attention(layer) for layer in layers]
        assert local == [kind in LOCAL for kind in kinds]
    if kind in ("smollm3", "llama4_text"):
        turns = theirs.no_rope_layers
        assert [model.rotates(layer) for layer in range(model.n_layers)] == [turn == 1 for turn in turns]
    if getattr(theirs, "layer_rope_theta", None):
        return  # a base for each layer, which wins
    if kind in SCHEMAS and "rope_theta" in SCHEMAS[kind].keys and model.position == "rotary":
        rotation = theirs.rope_parameters
        rotation = rotation.get("full_attention", rotation) | rotation
        varies = SCHEMAS[kind].rope_only_in_objects  # Gemma 4, whose class has no one width
        head_dim = (None if varies else getattr(theirs, "head_dim", None)) or model.head_dim
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


@pytest.mark.parametrize("kind", sorted(SCHEMAS.keys() - REMOTE_CODE_FAMILIES.keys()))
def test_the_defaults_are_those_of_the_class(kind):
    """Including those that do not change the count: windows, bases, epsilons."""
    theirs = CONFIG_MAPPING[INSTANTIATED_AS.get(kind, kind)]
    # A part of a larger model may leave its ties to the whole.
    fields = {"tie_word_embeddings": False}
    fields |= {name: field.default for name, field in theirs.__dataclass_fields__.items()}
    fields |= {name: list(value) for name, value in fields.items() if isinstance(value, tuple)}
    rotation = getattr(theirs(), "rope_parameters", None) or {}
    per_type = "full_attention" in rotation
    local_share = (rotation.get("sliding_attention") or {}).get("partial_rotary_factor", 1.0)
    rotation = rotation.get("full_attention", rotation) or {}  # null in Beam: no positions
    theta = rotation.get("rope_theta")
    if not per_type and "rope_theta" in SCHEMAS[kind].default_rope_parameters:
        theta = theirs.default_theta  # of an object that has none
    fields |= {"rope_theta": theta, "rotary_emb_base": theta}
    share = rotation.get("partial_rotary_factor", 1.0)
    fields |= {
        "partial_rotary_factor": share,
        "rotary_pct": share,
        "local_partial_rotary_factor": local_share,
    }
    fields |= {key: _at(theirs().to_dict(), key) for key in SCHEMAS[kind].defaults if "." in key}
    own = OUR_OWN | WITHOUT_A_FIELD.get(kind, set())
    ours = {key: value for key, value in SCHEMAS[kind].defaults.items() if key not in own}
    # A key without a field is read where it is there, and may be null where ours is.
    expected = {
        key for key, value in ours.items() if value is not ABSENT and (value is not None or key in fields)
    }
    assert {key: ours[key] for key in expected} == {key: fields[key] for key in expected}


def _at(document, path):
    """The value at a path through objects; null where there is none."""
    for key in path.split("."):
        document = document.get(key) if isinstance(document, dict) else None
    return document


@pytest.mark.parametrize("kind", [kind for kind in SCHEMAS if kind not in INSTANTIATED_AS])
def test_other_spellings_are_those_of_the_class(kind):
    schema = SCHEMAS[kind]
    theirs = CONFIG_MAPPING[INSTANTIATED_AS.get(kind, kind)].attribute_map
    # Qwen 3 keeps num_experts under the other name; both lead to the same number.
    swapped = {
        key: alias for alias, key in theirs.items()
        if alias in schema.defaults.keys() - schema.required_values.keys() and key != "d_model"
    }  # fmt: skip
    known = {a: key for a, key in theirs.items() if key in schema.defaults and a not in schema.defaults}
    known |= swapped
    assert dict(schema.aliases) == known | NOT_IN_THE_CLASS.get(kind, {})


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
        filled_in = set(with_defaults(from_hf(config, "").fields).defaulted)
        # A class of state spaces alone has no key for a context: it has neither positions nor a limit.
        open_to_us = {"context_length"} if kind in ("falcon_mamba", "mamba", "mamba2") else set()
        assert filled_in - {"intermediate_size"} == open_to_us, kind


@pytest.mark.parametrize(
    ("config", "note"),
    [
        ({"model_type": "falcon", "alibi": True}, "built without position biases divided by sqrt(head_dim)"),
        ({"model_type": "bloom", "apply_residual_connection_post_layernorm": True}, "post_layernorm=True"),
        ({"model_type": "phimoe", "router_jitter_noise": 0.1}, "built without router_jitter_noise=0.1"),
        ({"model_type": "llama", "hidden_act": "mish"}, "hidden_act='mish'"),
        ({"model_type": "llama", "is_causal": False}, "attention to later tokens (is_causal)"),
        (
            {"model_type": "olmoe", "sliding_window": 8},
            "a window that only some kernels of the class observe",
        ),
        ({"model_type": "aria_text", "hidden_act": "relu"}, "the activation of its shared experts"),
        (
            {"model_type": "cohere2_moe", "num_shared_experts": 1, "num_hidden_layers": 2},
            "the mean of routed and shared experts",
        ),
        (
            {"model_type": "qwen2_moe", "num_hidden_layers": 1, "layer_types": ["sliding_attention"]},
            "windows of 0 tokens (use_sliding_window=False)",
        ),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_a_function_that_cannot_be_expressed_is_noted_and_counted(config, note):
    (first, *_) = from_hf(config, "").notes
    assert first.startswith("counted exactly, but built without ")
    assert note in first
    assert our_counts(config) == class_counts(config)


def test_norms_of_latents_have_an_epsilon_of_their_own():
    """The classes never pass theirs on."""
    other = from_hf({"model_type": "deepseek_v3", "rms_norm_eps": 1e-5}, "")
    assert other.fields["latent_norm_eps"] == 1e-6
    assert not other.unsupported
    assert "latent_norm_eps" not in from_hf({"model_type": "deepseek_v3"}, "").fields


def test_a_share_of_each_head_wins_over_its_rotated_width():
    """Even one of 1, as the class of MiniMax-M2 has it."""
    config = {"model_type": "minimax_m2", "head_dim": 128, "rotary_dim": 64}
    assert from_hf(config, "").fields["rotary_fraction"] == 0.5
    assert from_hf(config | {"partial_rotary_factor": 1.0}, "").fields["rotary_fraction"] == 1


@pytest.mark.parametrize("kind", ["cohere2_moe", "gemma4_text"])
@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")
def test_a_rotary_object_that_the_class_does_not_read_is_noted(kind):
    config = {"model_type": kind, "rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": 7.0}}
    imported = from_hf(config, "")
    assert imported.fields == from_hf({"model_type": kind}, "").fields
    assert imported.notes[0] == f"{kind} reads rope_parameters, and not rope_scaling"
    assert "rope_scaling" not in str(from_hf({"model_type": kind}, "").notes)
    if kind == "cohere2_moe":  # Gemma 4's class takes it, and fails
        assert class_config(config).rope_parameters == class_config({"model_type": kind}).rope_parameters


def test_the_layers_of_a_config_may_have_one_number_of_experts_only():
    config = {"model_type": "hunyuan_v1_moe", "num_hidden_layers": 2, "head_dim": 16, "num_experts": 4}
    assert from_hf(config | {"moe_topk": [2, 2]}, "").fields["n_experts_per_token"] == 2
    with pytest.raises(ConfigError, match="moe_topk differs from layer to layer, which is not modelled"):
        from_hf(config | {"moe_topk": [2, 1]}, "")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "dbrx", "hidden_size": 64},
            "hidden_size=64 differs from d_model=2048, which is the width of the class's experts",
        ),
        ({"model_type": "dots1"}, "n_routed_experts is missing, and the class has no default"),
        ({"model_type": "hunyuan_v1_moe"}, "head_dim is missing, and the class has no default"),
        ({"model_type": "ernie4_5_moe", "moe_layer_end_index": -2}, "moe_layer_end_index is -2; it must be"),
        ({"model_type": "ernie4_5_moe", "moe_layer_interval": 0}, "moe_layer_interval is 0; give the number"),
        ({"model_type": "axk1", "moe_layer_freq": 0}, "moe_layer_freq is 0; give the number of layers"),
        ({"model_type": "cohere2_moe", "expert_selection_fn": "best"}, "expert_selection_fn is 'best'; only"),
        ({"model_type": "dbrx", "ffn_config": {"moe_normalize_expert_weights": 2.0}}, "only 1 and null are"),
        ({"model_type": "dbrx", "ffn_config": {"ffn_act_fn": {"name": "relu"}}}, "ffn_act_fn is 'relu'"),
        ({"model_type": "exaone_moe", "sliding_window_pattern": "LLLG"}, "is 'LLLG', .* give layer_types"),
        ({"model_type": "glm4_moe_lite", "mlp_layer_types": ["dense"]}, "mlp_layer_types has 1 entry"),
        (
            {"model_type": "granitemoe_swa", "num_hidden_layers": 3, "layer_rope_theta": [1.0, 2.0, 3.0]},
            "layer_rope_theta has several bases for layers of one type",
        ),
        (
            {"model_type": "laguna", "num_hidden_layers": 2, "num_attention_heads_per_layer": [48, 8]},
            "num_attention_heads_per_layer has several numbers for layers of one type",
        ),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_a_class_with_experts_cannot_be_is_refused(config, message):
    with pytest.raises(ConfigError, match=message) as refused:
        from_hf(config, "config.json")
    assert "\n" not in str(refused.value)


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


GEMMA4 = {"model_type": "gemma4_text", "num_hidden_layers": 6, "num_key_value_heads": 4}


def test_heads_that_a_saved_gemma_4_gives_layer_by_layer_are_read():
    """transformers saves the heads of global layers as `per_layer_config`, without `global_head_dim`."""
    theirs = json.loads(class_config(GEMMA4 | {"global_head_dim": 64}).to_json_string(use_diff=False))
    assert theirs["per_layer_config"] == {"5": {"head_dim": 64}}
    assert "global_head_dim" not in theirs
    assert our_counts(theirs) == class_counts(GEMMA4 | {"global_head_dim": 64})


@pytest.mark.parametrize(
    "own", [{"0": {"head_dim": 64}}, {"5": {"intermediate_size": 64}}, {"5": {"head_dim": 0}}, {"5": 64}]
)
def test_layers_with_other_sizes_of_their_own_are_refused(own):
    with pytest.raises(ConfigError, match="only head_dim and num_key_value_heads of all layers with full"):
        read(GEMMA4 | {"per_layer_config": own})


def test_ffn_widths_of_gemma_3n_may_be_a_list_of_one_width():
    config = {"model_type": "gemma3n_text", "num_hidden_layers": 2, "num_kv_shared_layers": 0}
    assert our_counts(config | {"intermediate_size": [24, 24]}) == our_counts(
        config | {"intermediate_size": 24}
    )
    with pytest.raises(ConfigError, match="intermediate_size lists different widths, which is not modelled"):
        read(config | {"intermediate_size": [24, 40]})
    with pytest.raises(ConfigError, match="intermediate_size is 'wide'; it must be a whole number or a list"):
        read(config | {"intermediate_size": "wide"})


def test_a_published_llama_4_says_how_strong_its_temperature_is():
    """The class of today accepts true or false alone."""
    llama4 = {"model_type": "llama4_text", "num_hidden_layers": 4}
    fields = from_hf(llama4 | {"attn_temperature_tuning": 4}, "").fields
    assert fields == from_hf(llama4, "").fields
    assert fields["query_scale"] == "log_next"
    assert "query_scale" not in from_hf(llama4 | {"attn_temperature_tuning": False}, "").fields


def test_a_note_says_that_a_class_is_counted_and_not_built():
    (note, _) = from_hf({"model_type": "jetmoe"}, "").notes
    assert note == "counted exactly, and not built, because of its experts in attention"


@pytest.mark.parametrize("infinity", ["Infinity", '{"__float__": "Infinity"}'])
def test_steps_without_a_limit_are_read_as_they_are_written(tmp_path, infinity):
    """JSON has no infinity: older versions of transformers write the bare word, newer ones an object."""
    path = tmp_path / "config.json"
    path.write_text(
        f'{{"model_type": "mamba2", "num_hidden_layers": 2, "time_step_limit": [0.01, {infinity}]}}'
    )
    mamba = pb.count(str(path)).model.mamba2
    assert (mamba.mamba2_dt_min, mamba.mamba2_dt_max) == (0.01, None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba2", "time_step_limit": [0.0, "x"]}, r"time_step_limit is .*two numbers"),
        ({"model_type": "mamba2", "time_step_limit": [0.5, 0.1]}, "the shortest and the longest step"),
        ({"model_type": "mamba2", "num_heads": 3}, "3 heads of 64 in the mixer do not fill its"),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "MX"}, "has 'X'; only M E"),
        ({"model_type": "nemotron_h", "layers_block_type": ["rnn"]}, "has 'rnn'; only mamba and"),
        ({"model_type": "nemotron_h", "layers_block_type": []}, "has no layers; give one or more"),
        ({"model_type": "jamba", "attn_layer_offset": 8}, "offset=8 is not less than attn_layer_period=8"),
        ({"model_type": "mamba", "time_step_rank": "large"}, "'large'; it must be a whole number or 'auto'"),
        ({"model_type": "bamba", "mamba_d_head": "wide"}, "'wide'; it must be a whole number or 'auto'"),
        ({"model_type": "bamba", "attn_layer_indices": ["a"]}, "must list layer numbers"),
        ({"model_type": "falcon_h1", "mlp_multipliers": [1.0]}, "it must be a list of 2 numbers"),
        ({"model_type": "granitemoehybrid", "layer_types": ["rnn"] * 32}, "layer_types has 'rnn'"),
    ],
)  # fmt: skip
def test_state_spaces_that_a_class_cannot_build_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        from_hf(config, "config.json")
