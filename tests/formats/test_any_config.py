"""Whatever a config file holds, the outcome is success or one line."""

import json
from pathlib import Path

import pytest
import torch  # noqa: F401 - its import is not what is timed
from hypothesis import given
from hypothesis import strategies as st
from support.damage import damaged_bytes
from support.outcomes import check_outcome
from support.training_data import small_config, small_model

from parambudget.arch.presets.registry import preset
from parambudget.formats.hf.exporter import to_hf

OURS = {"provenance": {"target": 350_000_000, "version": "0.2.0"}, "train": small_config().model_dump()}
FILES = {
    "ours": {"model": small_model().model_dump(), **OURS},
    "experts": {"model": preset("deepseek-v3").model_dump(), **OURS},
    "rescaled": {"model": preset("llama-3.1-8b").model_dump(), **OURS},
    "Hugging Face": to_hf(small_model()).document,
    "Meta": {
        "dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "norm_eps": 1e-5,
        "multiple_of": 1024, "ffn_dim_multiplier": 1.3, "rope_theta": 500000.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_any_content_of_a_config_is_read_or_refused_in_one_line(kind, tmp_path, examples):
    path = tmp_path / ("params.json" if kind == "Meta" else "config.json")
    content = json.dumps(FILES[kind]).encode()
    plan = ["plan", path, "--gpu", "h100"]
    export = ["export", path, "--to", "hf", "-o", tmp_path / "hf.json"]
    train = ["train", path, "--data", "nowhere", "--device", "cpu", "--out", tmp_path / "run"]

    @examples(25)
    @given(data=st.data())
    def outcome(data: st.DataObject) -> None:
        Path(path).write_bytes(data.draw(damaged_bytes(content)))
        check_outcome(*data.draw(st.sampled_from([["count", path], plan, train, export])))

    outcome()
