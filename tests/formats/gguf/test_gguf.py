"""Files for llama.cpp: read back by transformers' own reader, or refused in one line that says why.

What llama.cpp itself makes of them is in test_llama_cpp.py.
"""

import logging

import pytest
import torch
from gguf import GGUFReader, dequantize
from hypothesis import given, settings
from support.gguf_models import (
    CASES,
    TEXTS,
    byte_level_bpe,
    case_model,
    case_tokens,
    own_tokenizer,
    random_module,
    write_case,
)
from support.strategies import hybrids
from support.strategies import models as architectures
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from parambudget.arch.presets.registry import PRESETS
from parambudget.errors import ConfigError
from parambudget.formats.gguf.exporter import to_gguf
from parambudget.formats.gguf.vocabulary import gguf_vocabulary
from parambudget.text.tokenizer import TextTokenizer, as_text_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


READ_BY_TRANSFORMERS = {
    "llama": {},
    "llama, turned": {},
    "qwen3": {"head_dim": 128},  # it does not read the width of a head
    "gpt2": {"n_kv_heads": 4, "intermediate_size": 256, "context_length": 1024},
}
"""Cases, and the fields without which transformers takes the file for another model than llama.cpp does."""


@pytest.mark.parametrize(("case", "changes"), READ_BY_TRANSFORMERS.items(), ids=READ_BY_TRANSFORMERS)
def test_transformers_reads_the_same_logits_and_tokens_from_it(case, changes, tmp_path):
    architecture, fields = CASES[case]
    module, tokenizer = random_module(case_model(fields | changes)), own_tokenizer()
    assert write_case(tmp_path / "model.gguf", module, tokenizer=tokenizer)[0].name == architecture
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf")
    tokens = case_tokens(module.model)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(tokens).logits, module(tokens), rtol=0, atol=1e-4)
    if case == "gpt2":  # for others it adds spaces, as SentencePiece does
        their_tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
        assert [their_tokenizer(text)["input_ids"] for text in TEXTS] == [
            tokenizer.tokenizer.encode(text).ids for text in TEXTS
        ]


def read_tensors(path) -> dict[str, tuple[str, torch.Tensor]]:
    """The type and the values of each tensor of a file."""
    return {
        one.name: (one.tensor_type.name, torch.from_numpy(dequantize(one.data, one.tensor_type).copy()))
        for one in GGUFReader(path).tensors
    }


@pytest.mark.parametrize(
    ("dtype", "share"), [("f32", 0), ("f16", 2**-11), ("bf16", 2**-8), ("q8_0", 1 / 127)]
)
def test_matrices_are_stored_as_asked_for_and_vectors_and_routers_in_full(dtype, share, tmp_path):
    module = random_module(case_model(CASES["mixtral"][1]))
    write_case(tmp_path / "model.gguf", module, dtype)
    tensors = read_tensors(tmp_path / "model.gguf")
    for name, (kind, values) in tensors.items():
        in_full = values.dim() == 1 or "ffn_gate_inp" in name
        assert kind == ("F32" if in_full else dtype.upper()), name
    up = torch.stack([expert.up.weight for expert in module.layers[0].ffn.experts])
    assert (tensors["blk.0.ffn_up_exps.weight"][1] - up).abs().max() <= share * up.abs().max()


def test_rows_that_blocks_do_not_divide_are_stored_as_f16_and_that_is_said(tmp_path):
    module = random_module(case_model({"intermediate_size": 40}))
    _, notes = write_case(tmp_path / "model.gguf", module, "q8_0")
    (note,) = notes
    assert note.startswith("4 tensors stored as f16: the blocks of q8_0 hold 32 numbers")
    assert read_tensors(tmp_path / "model.gguf")["blk.0.ffn_down.weight"][0] == "F16"


def test_a_value_beyond_the_range_of_f16_is_refused(tmp_path):
    module = random_module(case_model({}))
    with torch.no_grad():
        module.layers[1].ffn.up.weight[0, 0] = 1e5
    with pytest.raises(ConfigError, match=r"blk.1.ffn_up.weight has values beyond the range of f16; use"):
        write_case(tmp_path / "model.gguf", module, "f16")


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_not_finite_are_refused(dtype, value, tmp_path):
    module = random_module(case_model({}))
    with torch.no_grad():
        module.layers[1].ffn.up.weight[0, 0] = value
    with pytest.raises(ConfigError, match=r"blk.1.ffn_up.weight has values that are not finite"):
        write_case(tmp_path / "model.gguf", module, dtype)


def test_a_value_whose_scale_is_beyond_f16_is_refused_for_q8_0(tmp_path):
    module = random_module(case_model({}))
    with torch.no_grad():
        module.layers[1].ffn.up.weight[0, 0] = -127 * 65504.0
    write_case(tmp_path / "model.gguf", module, "q8_0")
    assert read_tensors(tmp_path / "model.gguf")["blk.1.ffn_up.weight"][1][0, 0] == -127 * 65504.0
    with torch.no_grad():
        module.layers[1].ffn.up.weight[0, 0] = -127 * 65600.0
    with pytest.raises(ConfigError, match=r"blk.1.ffn_up.weight has values beyond the range of q8_0; use"):
        write_case(tmp_path / "other.gguf", module, "q8_0")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 8}, "the closest, llama, has window=nothing where the model has 8; leave window out to"),
        ({"activation": "relu2"}, "the closest, llama, has activation='silu' where the model has 'relu2'"),
        ({"attention_sinks": True}, "set attention_sinks to False to export it"),
        ({"rope_type": "dynamic", "rope_factor": 2.0}, "rope_type='none' where the model has 'dynamic'"),
        (CASES["mixtral"][1] | {"routing_multiplier": 2.0}, "routing_multiplier=1.0 where the model has 2.0"),
        (CASES["deepseek2"][1] | {"n_layers": 26}, "q_lora_rank=nothing where the model has 24"),
        (CASES["gemma2"][1] | {"n_layers": 46}, "attention_multiplier=0.25 where"),
        (CASES["mixtral"][1] | {"router_scores": "sparsemixer", "norm_expert_weights": False},
         "router_scores is 'sparsemixer', and llama.cpp has softmax and sigmoid; set one"),
        ({"n_kv_heads": 4, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
          "v_head_dim": 8},
         "latent attention without experts"),
    ],
    ids=str,
)  # fmt: skip
def test_a_model_that_llama_cpp_does_not_have_is_refused_with_what_it_lacks(fields, message):
    with pytest.raises(ConfigError) as refused:
        to_gguf(case_model(fields))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_exact_gelu_is_exported_with_a_note():
    assert to_gguf(case_model(CASES["gpt2"][1] | {"activation": "gelu"})).notes == (
        "llama.cpp computes gelu by its tanh approximation, so logits differ slightly",
    )
    assert to_gguf(case_model(CASES["gpt2"][1])).notes == ()


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("llama-3.2-1b", "llama"), ("qwen3-0.6b", "qwen3"), ("gpt2", "gpt2"), ("pythia-70m", "gptneox"),
        ("gemma-3-270m", "gemma3"), ("mixtral-8x7b-v0.1", "llama (experts)"), ("qwen3-30b-a3b", "qwen3moe"),
        ("olmo-2-1b", "olmo2"), ("phi-2", "phi2"), ("glm-4-9b", "phi3"),
    ],
)  # fmt: skip
def test_a_published_model_is_written_as_its_own_architecture(name, architecture):
    assert to_gguf(PRESETS[name].model).name == architecture


def spoilt(tokenizer: Tokenizer, **parts: object) -> Tokenizer:
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


UNKNOWN = {
    "another way to split": (
        spoilt(byte_level_bpe(), pre_tokenizer=pre_tokenizers.Sequence([
            pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)])),
        "splits text in none of the ways that have a name in llama.cpp",
    ),
    "a space before the text": (
        spoilt(byte_level_bpe(), pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "splits text in none of the ways",
    ),
    "a way to split that goes with other merges": (
        byte_level_bpe(ignore_merges=True), "splits text in none of the ways"
    ),
    "lower case": (spoilt(byte_level_bpe(), normalizer=normalizers.Lowercase()), r"before it is split \(Low"),
    "no bytes": (spoilt(byte_level_bpe(), decoder=decoders.Metaspace()), "not a byte-level BPE"),
    "words": (
        spoilt(Tokenizer(models.WordLevel({"a": 0, "<|endoftext|>": 1}, unk_token="a")), decoder=None),
        r"not a byte-level BPE \(WordLevel",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tokenizer", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused(tokenizer, message):
    with pytest.raises(ConfigError, match=message):
        gguf_vocabulary(as_text_tokenizer(tokenizer, "own"), 320)


def test_a_tokenizer_that_composes_characters_is_exported_with_a_note():
    tokenizer = spoilt(byte_level_bpe(), normalizer=normalizers.NFC())
    (note,) = gguf_vocabulary(as_text_tokenizer(tokenizer, "own"), 320).notes
    assert "(NFC) first, and llama.cpp does not" in note


def test_rows_without_a_token_are_marked_and_ids_without_a_row_are_refused():
    vocabulary = gguf_vocabulary(own_tokenizer(), 320)
    assert (vocabulary.tokens[310], vocabulary.token_types[310]) == ("[PAD310]", 5)
    assert vocabulary.token_types[vocabulary.end_id] == 3
    with pytest.raises(ConfigError, match="and the model has 100 rows; use the tokenizer that"):
        gguf_vocabulary(own_tokenizer(), 100)


def test_a_token_in_front_of_every_prompt_is_written():
    vocabulary = gguf_vocabulary(with_template("<|endoftext|> $A"), 320, add_special_tokens=True)
    assert (vocabulary.begin_id, vocabulary.adds_begin) == (own_tokenizer().end, True)
    assert not gguf_vocabulary(own_tokenizer(), 320, add_special_tokens=True).adds_begin


@pytest.mark.parametrize(
    "template", ["$A <|endoftext|>", "<|endoftext|> $A <|endoftext|>", "<|endoftext|> <|endoftext|> $A"]
)
def test_a_tokenizer_that_adds_anything_else_is_refused(template):
    with pytest.raises(
        ConfigError, match="a GGUF file is written with one token in front at most"
    ) as refused:
        gguf_vocabulary(with_template(template), 320, add_special_tokens=True)
    assert "\n" not in str(refused.value)


def with_template(template: str) -> TextTokenizer:
    """A tokenizer that adds its end-of-text token to a prompt as the template says."""
    tokenizer = Tokenizer.from_str(own_tokenizer().json)
    special = [("<|endoftext|>", own_tokenizer().end)]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return as_text_tokenizer(tokenizer, "own")


@settings(max_examples=100, deadline=None)
@given(model=architectures(rare=True) | hybrids())
def test_any_model_is_written_or_refused_in_one_line(model):
    try:
        made = to_gguf(model)
    except ConfigError as error:
        refusal = str(error)
        made = None
    if made is None:
        assert ("\n" in refusal, "; " in refusal) == (False, True)
    else:
        assert made.document["general.architecture"] in made.name
