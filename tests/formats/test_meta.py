"""Meta's params.json is the model that its published count says."""

import json
from pathlib import Path
from typing import Any

import pytest

import parambudget as pb
from parambudget.errors import ConfigError
from parambudget.formats.source import load, require_whole_function

LLAMA_3_8B = {
    "dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 1024,
    "ffn_dim_multiplier": 1.3, "norm_eps": 1e-05, "rope_theta": 500000.0,
}  # fmt: skip
LLAMA_2_7B = {
    "dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-05, "vocab_size": -1
}  # fmt: skip
LLAMA_2_70B = LLAMA_2_7B | {
    "dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8,
    "n_layers": 80,
}  # fmt: skip
MISTRAL_7B = {
    "dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
    "norm_eps": 1e-05, "vocab_size": 32000, "sliding_window": 4096,
}  # fmt: skip


def write(folder: Path, document: Any, name: str = "params.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("document", "changes", "preset"),
    [
        (LLAMA_3_8B, {}, "llama-3-8b"),
        (LLAMA_2_7B, {"vocab_size": 32000}, "llama-2-7b"),
        (LLAMA_2_70B, {"vocab_size": 32000}, "llama-2-70b"),
        (MISTRAL_7B, {}, "mistral-7b-v0.1"),
    ],
)
def test_a_params_json_counts_as_its_published_model(tmp_path, document, changes, preset):
    assert pb.count(write(tmp_path, document, "model.json"), **changes).total == pb.count(preset).total


def test_llama_3_8b_is_read_from_its_folder(tmp_path):
    write(tmp_path, LLAMA_3_8B)
    model = load(tmp_path, {}).model
    assert pb.count(model).total == 8_030_261_248
    assert (model.intermediate_size, model.rope_theta, model.tied) == (14336, 500_000.0, False)


def test_a_file_with_the_fields_that_both_have_is_metas_by_its_name(tmp_path):
    document = {"dim": 64, "n_layers": 2, "n_heads": 2, "vocab_size": 300, "max_batch_size": 32}
    assert not load(write(tmp_path, document), {}).model.tied


def test_a_config_json_comes_before_a_params_json(tmp_path):
    write(tmp_path, LLAMA_3_8B)
    write(tmp_path, {"model_type": "gpt2"}, "config.json")
    assert pb.count(tmp_path).total == 124_439_808


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vocab_size": -1}, "vocab_size is -1, which stands for that of the tokenizer; give `vocab_size`"),
        ({"vocab_size": None}, "vocab_size is missing, which"),
        ({"n_layers": None}, "n_layers is missing; is the file complete?"),
        ({"n_layers": 10**9}, "n_layers is 1000000000; it must be a whole number from 1 to 10,000"),
        ({"dim": "4096"}, "dim is '4096'; it must be a whole number"),
        ({"multiple_of": 0}, "multiple_of is 0; it must be a whole number from 1"),
        ({"ffn_dim_multiplier": 1e308}, "ffn_dim_multiplier is 1e+308; it must be a number above 0, at most"),
        ({"moe": {"num_experts": 8}}, "is a params.json with 'moe', which may change the model"),
    ],
)
def test_what_is_missing_wrong_or_not_read_is_refused_in_one_line(tmp_path, change, says):
    with pytest.raises(ConfigError) as refused:
        load(write(tmp_path, LLAMA_3_8B | change), {})
    assert says in str(refused.value)
    assert len(str(refused.value)) < 500


def test_rescaled_positions_are_named_and_not_dropped(tmp_path):
    resolved = load(write(tmp_path, LLAMA_3_8B | {"use_scaled_rope": True}), {})
    assert resolved.notes[0].startswith("counted exactly, but built without rescaled rotary frequencies")
    with pytest.raises(ConfigError, match=r"cannot express rescaled rotary frequencies of a factor that"):
        require_whole_function(resolved.unsupported, "params.json")
