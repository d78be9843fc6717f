"""The table of published models: its counts, against the publications and against the published classes."""

import pytest

from parambudget.arch.presets import PRESETS, TABLE, Preset, find, preset
from parambudget.cost.count import count
from parambudget.errors import ConfigError

# The published config.json of one model per way of building a decoder, as transformers reads it.
HUGGING_FACE = {
    "gpt2": ("GPT2LMHeadModel", dict(n_layer=12, n_embd=768, n_head=12, n_positions=1024, vocab_size=50257)),
    "gpt-j-6b": (
        "GPTJForCausalLM",
        dict(n_layer=28, n_embd=4096, n_head=16, vocab_size=50400, tie_word_embeddings=False),
    ),
    "pythia-410m": (
        "GPTNeoXForCausalLM",
        dict(num_hidden_layers=24, hidden_size=1024, num_attention_heads=16, intermediate_size=4096,
             vocab_size=50304, tie_word_embeddings=False),
    ),
    "starcoder2-3b": (
        "Starcoder2ForCausalLM",
        dict(num_hidden_layers=30, hidden_size=3072, num_attention_heads=24, num_key_value_heads=2,
             intermediate_size=12288, vocab_size=49152),
    ),
    "falcon-7b": (
        "FalconForCausalLM",
        dict(num_hidden_layers=32, hidden_size=4544, num_attention_heads=71, vocab_size=65024, bias=False,
             multi_query=True, parallel_attn=True),
    ),
    "falcon-40b": (
        "FalconForCausalLM",
        dict(num_hidden_layers=60, hidden_size=8192, num_attention_heads=128, num_kv_heads=8,
             vocab_size=65024, bias=False, parallel_attn=True, new_decoder_architecture=True),
    ),
    "phi-2": (
        "PhiForCausalLM",
        dict(num_hidden_layers=32, hidden_size=2560, num_attention_heads=32, intermediate_size=10240,
             vocab_size=51200, tie_word_embeddings=False),
    ),
    "llama-3-8b": (
        "LlamaForCausalLM",
        dict(num_hidden_layers=32, hidden_size=4096, num_attention_heads=32, num_key_value_heads=8,
             intermediate_size=14336, vocab_size=128256, tie_word_embeddings=False),
    ),
    "qwen2.5-0.5b": (
        "Qwen2ForCausalLM",
        dict(num_hidden_layers=24, hidden_size=896, num_attention_heads=14, num_key_value_heads=2,
             intermediate_size=4864, vocab_size=151936, tie_word_embeddings=True),
    ),
    "qwen3-0.6b": (
        "Qwen3ForCausalLM",
        dict(num_hidden_layers=28, hidden_size=1024, num_attention_heads=16, num_key_value_heads=8,
             head_dim=128, intermediate_size=3072, vocab_size=151936, tie_word_embeddings=True),
    ),
    "gemma-3-1b": (
        "Gemma3ForCausalLM",
        dict(num_hidden_layers=26, hidden_size=1152, num_attention_heads=4, num_key_value_heads=1,
             head_dim=256, intermediate_size=6912, vocab_size=262144),
    ),
    "olmo-1b": (
        "OlmoForCausalLM",
        dict(num_hidden_layers=16, hidden_size=2048, num_attention_heads=16, intermediate_size=8192,
             vocab_size=50304, tie_word_embeddings=True),
    ),
    "olmo-2-7b": (
        "Olmo2ForCausalLM",
        dict(num_hidden_layers=32, hidden_size=4096, num_attention_heads=32, intermediate_size=11008,
             vocab_size=100352, tie_word_embeddings=False),
    ),
    "command-r": (
        "CohereForCausalLM",
        dict(num_hidden_layers=40, hidden_size=8192, num_attention_heads=64, num_key_value_heads=64,
             intermediate_size=22528, vocab_size=256000),
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", PRESETS.values(), ids=lambda row: row.name)
def test_the_count_equals_the_published_count(row: Preset):
    assert count(row.model).total == row.published_count, row.source


@pytest.mark.parametrize("row", PRESETS.values(), ids=lambda row: row.name)
def test_every_preset_names_where_it_was_published(row: Preset):
    assert row.source.startswith("huggingface.co/")
    assert "counted: " in row.source


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_the_published_count_is_that_of_the_hugging_face_class(name: str):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    class_name, fields = HUGGING_FACE[name]
    cls = getattr(transformers, class_name)
    with torch.device("meta"):
        published = cls(cls.config_class(**fields))
    assert sum(p.numel() for p in published.parameters()) == PRESETS[name].published_count
    assert published.config.num_attention_heads == PRESETS[name].model.n_heads
    assert find(name).source.endswith(class_name)


def test_names_are_unique_sorted_and_lower_case():
    assert list(PRESETS) == sorted({row.name for row in PRESETS.values()})
    assert all(name == row.name == name.lower() for name, row in PRESETS.items())


def test_no_row_was_lost_to_another_of_the_same_name():
    assert len(PRESETS) == len(TABLE)


def test_a_preset_is_its_model():
    assert preset("gpt2").dim == 768
    assert preset("llama-3-8b") == find("llama-3-8b").model


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "qwen3_0.6b", "QWEN3-0.6B"])
def test_case_underscores_and_the_owner_do_not_matter(name: str):
    assert find(name) is PRESETS["qwen3-0.6b"]


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(
        ConfigError, match="unknown preset 'lama-3-8b'; the nearest are llama-3-8b, "
    ) as caught:
        preset("lama-3-8b")
    assert "\n" not in str(caught.value)


def test_a_name_like_no_other_still_lists_some():
    with pytest.raises(ConfigError, match=r"the nearest are \S+, \S+, \S+, \S+, \S+$"):
        preset("???")
