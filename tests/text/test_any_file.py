"""Whatever stands in the files of a tokenizer and of the token cache, the outcome is success or one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.damage import damaged_bytes
from support.outcomes import check_line, check_outcome, within_limits
from support.text_files import documents, write_jsonl
from support.training_data import small_data

from parambudget.errors import InputError
from parambudget.text.corpus import read_corpus
from parambudget.text.token_cache import token_data
from parambudget.text.tokenizer import LARGEST_ID, read_tokenizer, train_bpe


@pytest.fixture
def folder(tmp_path) -> Path:
    """A text, and a folder with every file of its tokenizer."""
    write_jsonl(tmp_path / "a.jsonl", documents(10))
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenizer = train_bpe(documents(), 300)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return folder


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json"],
)
def test_any_content_of_a_tokenizers_file_is_read_or_refused_in_one_line(folder, name, examples):
    if name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer.json").unlink()
    before, out = (folder / name).read_bytes(), folder.parent / "out"

    @examples(40)
    @given(data=st.data())
    def outcome(data: st.DataObject) -> None:
        (folder / name).write_bytes(data.draw(damaged_bytes(before)))
        shutil.rmtree(out, ignore_errors=True)
        source = folder.parent / "a.jsonl"
        check_outcome("data", "prepare", source, "--tokenizer", folder, "-o", out, "--workers", 1)

    outcome()


def with_id(document: dict, i: int) -> None:
    document["model"]["vocab"]["!"] = i


DAMAGE = {
    f"gives '!' the id 2,147,483,648; ids go up to {LARGEST_ID:,}": lambda it: with_id(it, 2**31),
    f"gives '!' the id 4,294,967,295; ids go up to {LARGEST_ID:,}": lambda it: with_id(it, 2**32 - 1),
    "gives one id to several tokens": lambda it: with_id(it, 7),
    # The library panics, and would print three lines of its own.
    "is not a tokenizer that can be read": lambda it: it["model"].update(continuing_subword_prefix="a" * 999),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_tokenizer_that_would_end_the_process_is_refused(folder, message, capfd):
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    DAMAGE[message](document)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=message):
        read_tokenizer(str(path))
    assert capfd.readouterr() == ("", "")


def test_whatever_the_facts_of_the_cache_are_the_tokens_are_the_same(tmp_path, examples):
    whole = small_data(tmp_path)
    (facts,) = tmp_path.glob("cache/tokens/*/facts.json")
    before, corpus = facts.read_bytes(), read_corpus(tmp_path / "text")

    @examples(20)
    @given(data=st.data())
    def outcome(data: st.DataObject) -> None:
        facts.write_bytes(data.draw(damaged_bytes(before)))
        with within_limits():
            try:
                assert np.array_equal(token_data(corpus, 300, cache=tmp_path / "cache").train, whole.train)
            except InputError as error:
                check_line(str(error))

    outcome()
