"""llama.cpp itself, through llama-cpp-python where that is installed: the same logits and the same tokens."""

import pytest
import torch
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
from tokenizers import Regex, pre_tokenizers

from parambudget.formats.gguf import vocabulary
from parambudget.formats.gguf.architectures import ARCHITECTURES
from parambudget.text.tokenizer import as_text_tokenizer

llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python, which is built from source")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

EXACT, APPROXIMATE = 5e-5, 5e-3
"""On logits of standard deviation 1: float32 in another order; its gelu, a table of 16-bit numbers."""
F32 = 0
"""llama.cpp's number for the type of its cache."""


@pytest.fixture
def load():
    """A file in llama.cpp, closed at the end of the test: it does not stand being closed later."""
    opened = []

    def open_file(path, n_tokens=64):
        opened.append(
            llama_cpp.Llama(
                str(path), n_ctx=n_tokens, logits_all=True, type_k=F32, type_v=F32, n_threads=1, verbose=False
            )
        )
        return opened[-1]

    yield open_file
    for one in opened:
        one.close()


def logits_of(llama, tokens: torch.Tensor) -> torch.Tensor:
    llama.eval(tokens[0].tolist())
    return torch.tensor(llama.scores[: tokens.shape[1]])


@pytest.mark.parametrize(("architecture", "fields"), CASES.values(), ids=CASES)
def test_the_logits_are_the_same(architecture, fields, tmp_path, load):
    module = random_module(case_model(fields))
    made, notes = write_case(tmp_path / "model.gguf", module)
    assert (made.name, notes) == (architecture, ())
    tokens = case_tokens(module.model)
    with torch.no_grad():
        ours = module(tokens)[0]
    tolerance = APPROXIMATE if "gelu" in module.model.activation else EXACT
    torch.testing.assert_close(logits_of(load(tmp_path / "model.gguf"), tokens), ours, rtol=0, atol=tolerance)


def test_every_architecture_is_among_the_cases():
    assert {architecture for architecture, _ in CASES.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize(("dtype", "tolerance"), [("f16", 0.02), ("bf16", 0.4), ("q8_0", 1.0)])
def test_fewer_bits_give_nearly_the_same_logits(dtype, tolerance, tmp_path, load):
    module = random_module(case_model({}))
    write_case(tmp_path / "model.gguf", module, dtype)
    tokens = case_tokens(module.model)
    with torch.no_grad():
        ours = module(tokens)[0]
    difference = (logits_of(load(tmp_path / "model.gguf"), tokens) - ours).abs().max().item()
    assert 0 < difference < tolerance


AS_GPT_2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
SPLIT = {
    "gpt-2": (AS_GPT_2, False),
    "starcoder": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), AS_GPT_2]), False),
} | {
    name: (pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(steps[0]), "isolated"), BYTES]), ignore_merges)
    for (steps, ignore_merges), name in vocabulary._PRE_TOKENIZERS.items()
    if steps[-1] == "bytes"
}


@pytest.mark.parametrize("name", vocabulary._PRE_TOKENIZERS.values())
def test_text_gets_the_same_tokens(name, tmp_path, load):
    pre_tokenizer, ignore_merges = SPLIT[name]
    tokenizer = as_text_tokenizer(byte_level_bpe(pre_tokenizer, ignore_merges=ignore_merges), name)
    write_case(tmp_path / "model.gguf", random_module(case_model({})), tokenizer=tokenizer)
    llama = load(tmp_path / "model.gguf")
    assert llama.metadata["tokenizer.ggml.pre"] == name
    for text in (*TEXTS, *TEXTS[1:3] * 2):
        tokens = llama.tokenize(text.encode(), add_bos=False, special=False)
        assert tokens == tokenizer.tokenizer.encode(text).ids, text
        assert llama.detokenize(tokens).decode() == text


def test_the_end_of_text_token_is_known(tmp_path, load):
    tokenizer = own_tokenizer()
    write_case(tmp_path / "model.gguf", random_module(case_model({})), tokenizer=tokenizer)
    llama = load(tmp_path / "model.gguf")
    assert llama.token_eos() == tokenizer.end
    assert llama.tokenize(b"", add_bos=True) == []
    assert llama.tokenize(b"a<|endoftext|>", add_bos=False, special=True)[-1] == tokenizer.end
