"""What no table here has is counted from its class, exactly, and never taken for a count of the table."""

import json
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import parambudget as pb
from parambudget import _install
from parambudget.cli.main import main
from parambudget.formats.hf.class_count import CLASS_COMPONENTS
from parambudget.formats.hf.families.registry import FAMILIES
from parambudget.formats.hf.importer import from_hf

pytestmark = pytest.mark.filterwarnings("ignore")  # the classes' own warnings are not under test

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 64}
DORY = SIZES | {"model_type": "dory", "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 48,
                "n_input_layers": 1, "n_output_layers": 1}  # fmt: skip
JETMOE = {"model_type": "jetmoe", "hidden_size": 32, "num_hidden_layers": 2, "num_key_value_heads": 2,
          "intermediate_size": 48, "num_local_experts": 4, "num_experts_per_tok": 2, "kv_channels": 8,
          "vocab_size": 64}  # fmt: skip


@pytest.fixture
def written(tmp_path):
    def write(config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path / "config.json"

    return write


@pytest.mark.parametrize(
    "config",
    [
        SIZES | {"model_type": "llama", "tie_word_embeddings": True},
        SIZES | {"model_type": "mixtral", "num_key_value_heads": 1, "intermediate_size": 48},
        SIZES | {"model_type": "qwen2_moe", "num_key_value_heads": 2, "num_experts": 8},
        SIZES | {"model_type": "gpt_oss", "num_key_value_heads": 2, "num_local_experts": 4},
        SIZES | {"model_type": "deepseek_v3", "num_key_value_heads": 2, "first_k_dense_replace": 1},
    ],
    ids=lambda config: config["model_type"],
)  # fmt: skip
def test_of_types_that_are_read_class_and_table_agree(written, config):
    path = written(config)
    ours, theirs = pb.count(path), pb.count_class(path)
    assert (theirs.total, theirs.active) == (ours.total, ours.active)
    parts = ours.by_component
    assert theirs.by_component["mixer"] == parts["attention"]
    assert theirs.by_component["norm"] == parts["norm"]
    assert theirs.by_component["ffn"] + theirs.by_component["experts"] == parts["ffn"]
    assert theirs.by_component["router"] == parts["router"]
    assert theirs.by_component["lm_head"] == parts["lm_head"]
    assert theirs.by_component["other"] == 0


@pytest.mark.parametrize("config", [DORY, JETMOE], ids=["dory", "jetmoe"])
def test_a_type_of_any_kind_is_counted_as_built(written, config):
    counted = pb.count_class(written(config))
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(CONFIG_MAPPING[config["model_type"]].from_dict(config))
    assert counted.total == sum(parameter.numel() for parameter in theirs.parameters())
    assert counted.total == sum(counted.by_component.values())
    assert tuple(counted.by_component) == CLASS_COMPONENTS
    assert counted.model_class == type(theirs).__name__


def test_active_leaves_out_the_experts_that_a_token_skips(written):
    """Of JetMoE those of the FFN and of attention, in modules with other names than usual."""
    counted = pb.count_class(written(JETMOE))
    assert counted.active == counted.total - counted.by_component["experts"] // 2
    assert counted.notes == ("active: 2 of 4 experts in 4 blocks, by JetMoeTopKGating",)


def test_active_is_unknown_where_the_class_does_not_say_it(written):
    config = {"model_type": "switch_transformers", "d_model": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2,
              "num_layers": 2, "num_decoder_layers": 2, "vocab_size": 64}  # fmt: skip
    counted = pb.count_class(written(config))
    assert counted.active is None
    assert counted.notes[0].startswith("active is not known: ")


def test_the_class_that_the_config_names_is_counted(written):
    config = SIZES | {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}
    counted = pb.count_class(written(config))
    assert counted.model_class == "LlamaForSequenceClassification"
    assert counted.by_component["lm_head"] == 0
    assert counted.notes == ("the class has no output head",)


def test_of_an_image_text_model_all_is_counted(written):
    text = SIZES | {"model_type": "llama", "num_key_value_heads": 2, "intermediate_size": 48}
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "intermediate_size": 32}  # fmt: skip
    path = written({"model_type": "llava", "text_config": text, "vision_config": vision})
    counted = pb.count_class(path)
    assert counted.model_class == "LlavaForConditionalGeneration"
    assert counted.total - counted.by_component["other"] == pb.count(path).total
    assert counted.by_component["other"] > 0


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "qwen", "auto_map": {"AutoModel": "x.Y"}}, "has no class for model_type 'qwen': its"),
        ({"model_type": 7}, "has no class for model_type 7; install a version"),
        (SIZES, "has no model_type, which says what its class is; give a config.json with one"),
        (SIZES | {"model_type": "llama", "num_attention_heads": 5}, "LlamaForCausalLM of transformers "),
        (SIZES | {"model_type": "llama", "vocab_size": "x"}, "cannot be built from it"),
        (DORY | {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; it must be at most 10,000"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_one_line(written, config, says):
    with pytest.raises(pb.ConfigError) as error:
        pb.count_class(written(config))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_code_beside_the_config_is_not_run(written, tmp_path):
    (tmp_path / "modeling_x.py").write_text("raise SystemExit('it ran')")
    config = SIZES | {"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}
    assert pb.count_class(written(config)).model_class == "LlamaForCausalLM"
    notes = from_hf(config, "").notes
    assert "code of its author (auto_map) is never run; read as any llama" in notes


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["parambudget", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, *capsys.readouterr()


def test_the_screen_names_the_class_and_the_version(monkeypatch, capsys, written):
    code, out, _ = run(monkeypatch, capsys, "count", written(DORY), "--class")
    counted = pb.count_class(written(DORY))
    assert code == 0
    assert out.splitlines()[0] == (
        f"dory, counted from the class DoryForCausalLM of transformers {counted.version}"
    )
    assert f"total   {counted.total:,}" in out
    assert "attention, mixers" in out


def test_json_says_what_was_counted_and_holds_no_model(monkeypatch, capsys, written):
    code, out, _ = run(monkeypatch, capsys, "count", written(DORY), "--class", "--json")
    document = json.loads(out)
    assert code == 0
    assert document == pb.count_class(written(DORY)).as_dict()
    assert document["counted_from"].startswith("the class DoryForCausalLM of transformers ")
    assert "model" not in document


def test_expect_checks_the_count_of_the_class(monkeypatch, capsys, written):
    total = pb.count_class(written(DORY)).total
    code, out, _ = run(monkeypatch, capsys, "count", written(DORY), "--class", "--expect", total)
    assert code == 0
    assert "counted from the class DoryForCausalLM" in out
    code, _, err = run(monkeypatch, capsys, "count", written(DORY), "--class", "--expect", 2 * total)
    assert code == 1
    assert "from the expected" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--class"], "--class counts a config.json of Hugging Face; give its path or its folder"),
        (["FILE", "--class", "--dim", "8"], "so it takes no --dim; leave it out"),
        (["FILE", "--class", "--formula"], "so it takes no --formula; leave it out"),
        (["FILE"], "model_type 'dory' is not supported; `parambudget count --class` counts it"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do(monkeypatch, capsys, written, arguments, says):
    file = str(written(DORY))
    words = [file if word == "FILE" else word for word in arguments]
    code, out, err = run(monkeypatch, capsys, "count", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err.replace("python -m parambudget", "parambudget")


def test_without_transformers_it_says_what_to_install(monkeypatch, written):
    monkeypatch.setattr(_install, "find_spec", lambda name: None if name == "transformers" else object())
    with pytest.raises(
        pb.MissingExtra, match="count_class needs transformers, not installed here; install with:"
    ):
        pb.count_class(written(DORY))


def test_the_types_in_these_tests_are_not_read():
    """Otherwise the messages above are about nothing."""
    assert "dory" not in FAMILIES
