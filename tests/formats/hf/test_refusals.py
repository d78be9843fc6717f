"""A wrong config.json is refused in one line: never a traceback, never a wrong count."""

import json
import re
import sys

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.hf_configs import SCHEMAS, class_counts, configs
from transformers.utils import logging

from parambudget.arch.defaults import with_defaults
from parambudget.cli.main import main
from parambudget.cost.params import count
from parambudget.errors import ConfigError
from parambudget.formats.source import interpret

logging.set_verbosity_error()
BROKEN = (
    None, True, False, -1, 0, 1, 7, 2**40, 10**30, 0.5, -0.5, 1e30, "", "8", "none", [], [1], ["x"], {},
    {"x": 1},
)  # fmt: skip
LLAMA = {"model_type": "llama"}
MIXTRAL = {"model_type": "mixtral"}
ZAMBA2 = {"model_type": "zamba2", "num_hidden_layers": 2, "layers_block_type": ["hybrid", "hybrid"]}


def our_counts(config):
    breakdown = count(with_defaults(interpret(config, "config.json").fields).model)
    return {name: n for name, n in breakdown.by_component.items() if n}, breakdown.active


def as_the_class_takes_it(kind, key, value):
    """Integers as floats where a float is wanted: older classes accepted them, today's strict ones do not."""
    if type(value) is int and key in SCHEMAS[kind].defaults and float in SCHEMAS[kind].accepted_types(key):
        return float(value)
    return value


@pytest.mark.parametrize("kind", SCHEMAS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")  # the class's own warnings are not under test
def test_a_broken_key_is_counted_as_the_class_does_or_refused_in_one_line(kind, data):
    config = data.draw(configs(kind))
    # Llama's class has bounds for the initialisation, which no count depends on.
    keys = {*SCHEMAS[kind].defaults, "rope_scaling", "rope_parameters"} - {"initializer_range"}
    key, value = data.draw(st.sampled_from(sorted(keys))), data.draw(st.sampled_from(BROKEN))
    # The strict class refuses this null, although it has a line of code for what it means.
    assume(not (key == "num_key_value_heads" and value is None and key in SCHEMAS[kind].nullable))
    if key.startswith("attn_config."):
        where, name = config.setdefault("attn_config", {}), key.removeprefix("attn_config.")
    else:
        where, name = config, key
    where[name] = value
    try:
        ours = our_counts(config)
    except ConfigError as error:
        message = str(error)
    else:
        message = ""
        where[name] = as_the_class_takes_it(kind, key, value)
        assert ours == class_counts(config)
    assert "\n" not in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "an encoder-decoder config ('t5')"),
        (LLAMA | {"is_encoder_decoder": True}, "an encoder-decoder config ('llama')"),
        ({"model_type": "x", "text_config": {}}, "whose text_config has no model_type; add that"),
        ({"model_type": "x", "text_config": {"model_type": "bert"}}, "model_type 'bert' is not supported"),
        ({"model_type": "x", "vision_config": {}}, "a multimodal config ('x') without text_config; give the"),
        ({"model_type": "git", "vision_config": {}}, "without text_config; `pb.count_class()` counts it"),
        ({"model_type": "glm", "partial_rotary_factor": float("inf")}, "partial_rotary_factor is inf; it"),
        ({"model_type": "glm", "partial_rotary_factor": 1e308}, "rotary_fraction is 1e+308"),
        (LLAMA | {"rope_theta": 10**400}, "it must be a finite number"),
        ({"model_type": "mixtrall"}, "model_type 'mixtrall' is not supported; did you mean mixtral"),
        ({"model_type": "bert"}, "model_type 'bert' is not supported; `pb.count_class()` counts it from its"),
        ({"model_type": "zzz"}, "model_type 'zzz' is not supported; docs/families.md lists the"),
        ({"model_type": "zz", "auto_map": {"A": "b.C"}}, "code of its author (auto_map), which is never"),
        ({"model_type": 7}, "model_type 7 is not supported"),
        ({"model_type": ["llama"]}, "model_type ['llama'] is not supported"),
        ({"model_type": None}, "model_type None is not supported"),
        (LLAMA | {"per_layer_config": {"0": {"intermediate_size": 8}}}, "per_layer_config gives layers"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention=True changes the param"),
        (LLAMA | {"hidden_size": "4096"}, "hidden_size is '4096'; it must be a whole number"),
        (LLAMA | {"hidden_size": 4096.0}, "hidden_size is 4096.0; it must be a whole number"),
        (LLAMA | {"hidden_size": True}, "hidden_size is True; it must be a whole number"),
        (LLAMA | {"hidden_size": None}, "hidden_size is null, which the class does not accept; it must be"),
        (LLAMA | {"hidden_size": 0}, "hidden_size is 0; it must be 1 or more"),
        (LLAMA | {"vocab_size": -1}, "vocab_size is -1; it must be 0 to 2,147,483,648"),
        (LLAMA | {"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6'; it must be a number"),
        (LLAMA | {"attention_bias": 1}, "attention_bias is 1; it must be true or false"),
        (LLAMA | {"attention_bias": "true"}, "attention_bias is 'true'; it must be true or false"),
        (LLAMA | {"hidden_act": "swiglu"}, "activation 'swiglu' is not supported; use one of gelu"),
        (LLAMA | {"num_attention_heads": 7}, "num_attention_heads=7 does not divide hidden_size=4096; ch"),
        (LLAMA | {"num_attention_heads": 7, "head_dim": 64}, "num_attention_heads=7 does not divide"),
        ({"model_type": "qwen2", "num_attention_heads": 7}, "num_attention_heads=7 does not divide"),
        (LLAMA | {"num_key_value_heads": 5}, "n_kv_heads=5 does not divide n_heads=32"),
        (LLAMA | {"num_key_value_heads": 0}, "n_kv_heads is 0"),
        (LLAMA | {"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        (LLAMA | {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; it must be 1 to 10,000"),
        (LLAMA | {"rope_scaling": "yarn"}, "rope_scaling is 'yarn'; it must be an object or null"),
        ({"model_type": "mpt", "attn_config": "torch"}, "attn_config is 'torch'; it must be an object"),
        ({"model_type": "qwen2", "head_dim": None}, "head_dim is null, which the class does not accept; l"),
        ({"model_type": "gpt2", "n_head": 0}, "n_head is 0; it must be 1 or more"),
        (MIXTRAL | {"num_local_experts": -8}, "num_local_experts is -8; it must be 0 to"),
        (MIXTRAL | {"num_local_experts": 0}, "n_experts is 0"),
        (MIXTRAL | {"num_experts_per_tok": 9}, "n_experts_per_token=9 is more than n_experts=8"),
        ({"model_type": "qwen3_moe", "num_experts": -1}, "num_experts is -1"),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": ["1"]}, "mlp_only_layers must list layer numbers"),
        ({"model_type": "deepseek_v2"}, "num_experts_per_tok is missing, and the class has no default"),
        ({"model_type": "deepseek_v3", "n_group": 7}, "n_expert_groups=7 does not divide n_experts=256"),
        ({"model_type": "deepseek_v3", "first_k_dense_replace": -1}, "first_k_dense_replace is -1"),
        ({"model_type": "gemma2", "layer_types": ["full_attention"]}, "layer_types has 1 entry, and"),
        (
            {"model_type": "qwen3", "num_hidden_layers": 1, "layer_types": ["linear_attention"]},
            "layer_types has 'linear_attention'; only sliding_attention and full_attention are supported",
        ),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0; it must be"),
        ({"model_type": "granite", "logits_scaling": 0.0}, "logits_scaling is 0.0; it must be"),
        ({"model_type": "olmoe", "head_dim": 64}, "head_dim=64, but the class has norms for heads of 128"),
        (ZAMBA2 | {"tie_word_embeddings": False}, "the class untie its shared blocks too"),
        (ZAMBA2 | {"attention_hidden_size": 7}, "attention_hidden_size=7 is not twice hidden_size"),
        (ZAMBA2 | {"hybrid_layer_ids": [1]}, "hybrid_layer_ids are not the layers that layers_block_type"),
        (ZAMBA2 | {"layers_block_type": ["moe"] * 2}, "layers_block_type has 'moe'; only mamba and"),
        (ZAMBA2 | {"mamba_headdim": 7}, "8 heads of 7 in the mixer do not fill its width of 5120"),
        ({"model_type": "zamba", "num_hidden_layers": 2}, "layers_block_type has 3 entries"),
        ({"model_type": "zamba", "n_mamba_heads": 3}, "n_mamba_heads=3 does not divide the mixer's width"),
        ({"model_type": "gpt_neo", "num_layers": 3}, "attention_types has 24 entries, and the model has 3"),
    ],
    ids=lambda value: re.sub(r"\W+", "-", value) if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_not_supported_is_refused_in_one_line(config, says):
    with pytest.raises(ConfigError) as error:
        with_defaults(interpret(config, "config.json").fields)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"model_type": "llama", "hidden_size": 40', "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"[1, 2]", "contains a list; a config file must be an object"),
        (b"null", "contains null; a config file must be an object"),
        ('{"model_type": "llama"}'.encode("utf-16"), "is not UTF-8 text"),
        (b'{"model_type": "llama", "hidden_size": 8, "hidden_size": 9}', "'hidden_size' appears twice"),
        (b'{"model_type": "llama", "rms_norm_eps": NaN}', "rms_norm_eps is nan; it must be a finite number"),
        (
            b'{"model_type": "llama", "rms_norm_eps": Infinity}',
            "rms_norm_eps is inf; it must be a finite number",
        ),
        (b'{"model_type": "lfm2", "full_attn_idxs": [0, Infinity]}', "it must have finite numbers alone"),
        (
            b'{"model_type": "mamba2", "time_step_limit": [Infinity, Infinity]}',
            "the shortest and the longest step",
        ),
        (b'{"model_type": "xlstm", "limit": [0.0, Infinity]}', "model_type 'xlstm' is not supported"),
        (b'{"architectures": ["MambaForCausalLM"], "limit": [0.0, Infinity]}', "without model_type, which"),
        (b'{"dim": 64, "norm_eps": 1e999}', "1e999 is too large for a number"),
        (b'{"model_type": "llama", "vocab_size": 1' + b"0" * 5000 + b"}", "is not usable JSON"),
        (
            b'{"model_type": "llama", "padding": "' + b"x" * 50_000_000 + b'"}',
            "larger than 5,000,000",
        ),
        (json.dumps(MIXTRAL | {"num_local_experts": -8}).encode(), "num_local_experts is -8"),
    ],
    ids=[
        "truncated",
        "empty",
        "list",
        "null",
        "utf-16",
        "twice",
        "nan",
        "infinity",
        "infinity in a list",
        "infinity as the shortest step",
        "infinity of a type that is not read",
        "infinity without a type",
        "1e999",
        "huge number",
        "50 MB",
        "negative",
    ],
)
def test_a_broken_file_ends_in_one_line_and_exit_2(tmp_path, monkeypatch, capsys, content, says):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["parambudget", "count", str(path)])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert len(err) < 1000
