"""Sources of every form become the same shards, whatever interrupts it, and what is damaged is named."""

import json
import os
import random
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.text_files import COMMAND, documents, write_files, write_jsonl, write_parquet, write_separated
from support.training_data import small_config, small_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from parambudget.text.dataset import data_for
from parambudget.text.forms import SourceFile
from parambudget.text.prepare import PrepareRequest, prepare
from parambudget.text.records import TextLayout
from parambudget.text.shards import Manifest, Shards
from parambudget.text.sources import find_source, read_chunks, slice_file
from parambudget.text.tokenizer import LONGEST_WORD, train_bpe
from parambudget.training import loop
from parambudget.training.dataloader import TokenWindows


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    """The file of a small tokenizer."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_bpe(documents(), 300).save(str(path))
    return str(path)


def request(source: Path, tokenizer: str, **changes: object) -> PrepareRequest:
    return PrepareRequest(str(source), tokenizer, **{"validation": 0.1} | changes)


def decoded(out: Path) -> tuple[list[str], list[str]]:
    """The documents that a prepared folder holds, on each side."""
    data, manifest = data_for(out, 100_000), Manifest.read(out)
    tokenizer = Tokenizer.from_str(data.tokenizer_json)
    sides = []
    for ids in (data.train[:], data.validation):
        text = tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=False)
        assert text.endswith(manifest.end_of_text)
        sides.append(text.removesuffix(manifest.end_of_text).split(manifest.end_of_text))
    return sides[0], sides[1]


# Forms of sources


@pytest.mark.parametrize("form", ["files", "jsonl", "parquet", "separated"])
def test_the_same_documents_come_back_from_every_form_split_the_same_way(form, tmp_path, tokenizer):
    texts = documents()
    write = {
        "files": write_files, "jsonl": write_jsonl, "parquet": write_parquet, "separated": write_separated,
    }[form]  # fmt: skip
    source = write(tmp_path / {"files": "texts", "separated": "texts.txt"}.get(form, f"texts.{form}"), texts)
    layout = TextLayout(separator="<|endoftext|>" if form == "separated" else None)
    manifest = prepare(request(source, tokenizer, layout=layout), tmp_path / "out")
    train, validation = decoded(tmp_path / "out")
    assert Counter(train + validation) == Counter(texts)
    held_out = prepare(request(write_jsonl(tmp_path / "other.jsonl", texts), tokenizer), tmp_path / "other")
    assert Counter(validation) == Counter(decoded(tmp_path / "other")[1])
    assert manifest.validation.n_documents == held_out.validation.n_documents == len(validation) > 0
    assert manifest.train_bytes == sum(len(text.encode()) for text in train)
    assert manifest.n_documents == len(texts)


@pytest.mark.parametrize("character", ["x", " "])
def test_a_text_without_blanks_is_trained_on_in_pieces_and_comes_back(character):
    text = "short words " * 40 + character * 100_000 + "."
    bpe = train_bpe([text], 300)
    assert 100 < max(map(len, bpe.get_vocab())) <= LONGEST_WORD
    assert bpe.decode(bpe.encode(text).ids) == text


def test_a_data_set_that_the_library_datasets_reads_is_streamed(tmp_path, tokenizer):
    (tmp_path / "set").mkdir()
    for i in range(2):
        write_jsonl(tmp_path / f"set/{i}.jsonl", documents(20, seed=i))
    arguments = ["data", "prepare", "hf:./set", "--tokenizer", tokenizer, "-o", "out", "--validation", "0.1"]
    ran = subprocess.run(
        [*COMMAND, *arguments, "--workers", "1"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env=os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    train, validation = decoded(tmp_path / "out")
    assert Counter(train + validation) == Counter(text for i in range(2) for text in documents(20, seed=i))


def test_a_folder_may_hold_every_form_and_what_is_no_text(tmp_path, tokenizer):
    folder = write_files(tmp_path / "texts", documents(20, seed=0))
    write_jsonl(folder / "b.jsonl", documents(20, seed=1))
    write_parquet(folder / "c.parquet", documents(20, seed=2))
    (folder / "d.png").write_bytes(b"\x89PNG\x00\xff")
    (folder / "e.txt").write_text("")
    prepare(request(folder, tokenizer), tmp_path / "out")
    train, validation = decoded(tmp_path / "out")
    assert Counter(train + validation) == Counter(text for i in range(3) for text in documents(20, seed=i))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3_000), st.sampled_from(["jsonl", "separated", "text"]))
def test_wherever_a_file_is_cut_its_documents_are_whole(tmp_path_factory, step, form):
    folder, texts = tmp_path_factory.mktemp("cut"), documents(12, n_words=20)
    layout = TextLayout(separator="<|endoftext|>" if form == "separated" else None)
    if form == "text":
        path, texts = folder / "a.txt", ["\n".join(texts)]
        path.write_text(texts[0], encoding="utf-8")
    else:
        path = (write_jsonl if form == "jsonl" else write_separated)(folder / "a", texts)
    found = list(slice_file(SourceFile(path, "jsonl" if form == "jsonl" else "text"), step, layout))
    assert [part.start for part in found[1:]] == [part.end for part in found[:-1]]
    read = [chunk for part in found for chunk in read_chunks(part, layout)]
    assert sum(chunk.ends for chunk in read) == len(texts)
    assert "".join(chunk.text for chunk in read) == "".join(texts)


def test_a_long_text_goes_in_chunks_to_one_side(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("".join(f"line {i}\n" for i in range(400_000)))
    slices = find_source(str(path), TextLayout()).slices
    read = [chunk for part in slices for chunk in read_chunks(part, TextLayout())]
    assert max(len(chunk.text) for chunk in read) <= 2_000_000
    assert len({chunk.key for chunk in read}) == 1
    assert [chunk.ends for chunk in read] == [False] * (len(read) - 1) + [True]


# Tokens


def test_a_bpe_is_trained_on_the_source_when_asked(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", documents())
    manifest = prepare(PrepareRequest(str(source), "bpe", 290), tmp_path / "out")
    assert manifest.entries == 290
    assert manifest.exact_bytes
    assert manifest.dtype == "uint16"


def test_vocab_and_merges_are_a_tokenizer_as_gpt2_has_it(tmp_path, tokenizer):
    bpe = json.loads(Path(tokenizer).read_text())["model"]
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt/vocab.json").write_text(json.dumps(bpe["vocab"]))
    (tmp_path / "gpt/merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(m) for m in bpe["merges"])
    )
    source = write_jsonl(tmp_path / "a.jsonl", documents())
    prepare(request(source, tokenizer), tmp_path / "json")
    prepare(request(source, str(tmp_path / "gpt")), tmp_path / "pair")
    assert (tmp_path / "json/train-00000.bin").read_bytes() == (
        tmp_path / "pair/train-00000.bin"
    ).read_bytes()


def test_a_text_that_quotes_the_marker_does_not_end_there(tmp_path, tokenizer):
    texts = [f"say <|endoftext|> {i} times" for i in range(40)]
    manifest = prepare(request(write_jsonl(tmp_path / "a.jsonl", texts), tokenizer), tmp_path / "out")
    assert manifest.n_documents == 40
    ids = data_for(tmp_path / "out", 300).train[:]
    end = Tokenizer.from_file(tokenizer).token_to_id("<|endoftext|>")
    assert int((ids == end).sum()) == manifest.n_documents - manifest.validation.n_documents


def test_half_a_character_in_json_becomes_a_question_mark(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text('{"text": "one \\ud83d two \\ud83d\\ude00"}\n' * 3)
    prepare(request(tmp_path / "a.jsonl", tokenizer), tmp_path / "out")
    train, validation = decoded(tmp_path / "out")
    assert {*train, *validation} == {"one ? two \U0001f600"}


def test_a_large_vocabulary_takes_four_bytes_a_token(tmp_path):
    vocab = {f"w{i}": i for i in range(70_000)} | {"</s>": 70_000}
    words = Tokenizer(models.WordLevel(vocab, unk_token="</s>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "words.json"))
    texts = [f"w{i} w{69_999 - i}" for i in range(40)]
    manifest = prepare(
        request(write_jsonl(tmp_path / "a.jsonl", texts), str(tmp_path / "words.json")), tmp_path / "out"
    )
    assert (manifest.dtype, manifest.entries, manifest.end_of_text) == ("uint32", 70_001, "</s>")
    assert int(data_for(tmp_path / "out", 70_001).train[:].max()) == 70_000


def test_bits_per_byte_use_the_mean_where_ids_do_not_tell_their_bytes(tmp_path, tokenizer):
    """Entries of letters give back the text, but have other lengths in bytes."""
    letters = Tokenizer(models.BPE())
    letters.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    letters.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], show_progress=False)
    letters.train_from_iterator(documents(), trainer)
    letters.save(str(tmp_path / "letters.json"))
    source = write_jsonl(tmp_path / "a.jsonl", documents())
    prepare(request(source, tokenizer), tmp_path / "exact")
    assert prepare(request(source, str(tmp_path / "letters.json")), tmp_path / "mean").reversible
    exact, mean = data_for(tmp_path / "exact", 300), data_for(tmp_path / "mean", 300)
    assert exact.validation_bytes == mean.validation_bytes == exact.bytes_of_token[exact.validation].sum()
    assert mean.bytes_of_token[mean.validation].sum() == pytest.approx(mean.validation_bytes)


# The split


def test_the_same_text_never_stands_on_both_sides(tmp_path, tokenizer):
    texts = documents(30) * 3
    random.Random(0).shuffle(texts)
    prepare(request(write_jsonl(tmp_path / "a.jsonl", texts), tokenizer, validation=0.3), tmp_path / "out")
    train, validation = decoded(tmp_path / "out")
    assert not set(train) & set(validation)
    assert Counter(train + validation) == Counter(texts)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_source_of_few_documents_has_its_end_held_out(tmp_path, tokenizer, n):
    texts = documents(n, n_words=400)
    source = write_jsonl(tmp_path / "a.jsonl", texts)
    manifest = prepare(request(source, tokenizer, validation=0.0), tmp_path / "out")
    data = data_for(tmp_path / "out", 300)
    ids = np.concatenate([data.train[:], data.validation])
    assert Tokenizer.from_file(tokenizer).decode(ids.tolist()) == "".join(texts)
    assert 0 < manifest.validation.n_tokens <= len(ids) / 2
    assert manifest.train_bytes + manifest.validation.n_bytes == sum(len(text.encode()) for text in texts)
    assert data.bytes_of_token[data.validation].sum() == manifest.validation.n_bytes


# Training


def test_a_run_on_prepared_data_reports_bits_per_byte(tmp_path, tokenizer):
    prepare(request(write_jsonl(tmp_path / "a.jsonl", documents()), tokenizer), tmp_path / "out")
    data = data_for(tmp_path / "out", 300)
    result = loop.train(loop.TrainJob(small_model(), small_config(), data, tmp_path / "run"), device="cpu")
    assert 0 < result.val_bits_per_byte < result.val_loss / np.log(2)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 60), st.integers(0, 60))
def test_several_shards_are_one_array(lengths, start, stop):
    ids = np.arange(sum(lengths))
    shards = Shards(np.split(ids, np.cumsum(lengths)[:-1]))
    assert len(shards) == len(ids)
    assert np.array_equal(shards[start:stop], ids[start:stop])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6).filter(lambda n: sum(n) > 17), st.integers(0, 50))
def test_a_batch_does_not_depend_on_how_the_tokens_are_sharded(lengths, position):
    ids = np.arange(sum(lengths))
    shards = Shards(np.split(ids, np.cumsum(lengths)[:-1]))
    assert np.array_equal(
        TokenWindows(shards, 8, 3).batch(position, 4), TokenWindows(ids, 8, 3).batch(position, 4)
    )
