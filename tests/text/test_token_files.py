"""Tokens of llm.c, Megatron-LM and nanoGPT are read where they lie, and nothing that they are not."""

import numpy as np
import pytest
from support.text_files import documents
from support.token_files import write_llm_c, write_megatron
from support.training_data import small_config, small_model

from parambudget.errors import InputError
from parambudget.text.dataset import data_for
from parambudget.text.tokenizer import train_bpe
from parambudget.training import loop

IDS = np.random.default_rng(0).integers(0, 300, 4_000)
HELD_OUT = np.random.default_rng(1).integers(0, 300, 500)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_bpe(documents(), 300).save(str(path))
    return str(path)


@pytest.mark.parametrize(("magic", "version"), [(20240520, 1), (20240801, 7)], ids=["gpt2", "llama3"])
def test_llm_c_is_known_by_its_magic_and_its_files_by_their_names(tmp_path, magic, version):
    write_llm_c(tmp_path / "fineweb_train_000001.bin", IDS[:2_500], magic, version)
    write_llm_c(tmp_path / "fineweb_train_000002.bin", IDS[2_500:], magic, version)
    write_llm_c(tmp_path / "fineweb_val_000000.bin", HELD_OUT, magic, version)
    (tmp_path / "notes.txt").write_text("about them")
    data = data_for(tmp_path, 300)
    assert np.array_equal(data.train[:], IDS)
    assert np.array_equal(data.validation[:], HELD_OUT)
    assert [(each.reason, each.examples) for each in data.left_out] == [("plain text", ("notes.txt",))]


def test_without_a_file_for_it_the_end_is_held_out_and_that_is_said(tmp_path):
    data = data_for(write_llm_c(tmp_path / "tokens", IDS), 300)
    assert np.array_equal(np.concatenate([data.train[:], data.validation[:]]), IDS)
    assert len(data.validation) == 200  # 5 %
    assert data.notes == (f"no file of {tmp_path}/tokens is for validation: the end of tokens is held out",)


@pytest.mark.parametrize("named", ["books", "books.bin", "books.idx"])
def test_a_pair_of_megatrons_is_named_by_either_file_or_by_neither_ending(tmp_path, named):
    write_megatron(tmp_path / "books", np.split(IDS, [100, 1_000]))
    data = data_for(tmp_path / named, 300)
    assert np.array_equal(np.concatenate([data.train[:], data.validation[:]]), IDS)
    assert data.n_documents == 3


def test_megatrons_index_says_the_type_of_the_ids(tmp_path):
    write_megatron(tmp_path / "x_train", [IDS], code=4, dtype="<i4")
    write_megatron(tmp_path / "x_valid", [HELD_OUT], code=4, dtype="<i4")
    write_megatron(tmp_path / "x_test", [HELD_OUT], code=4, dtype="<i4")
    data = data_for(tmp_path, 300)
    assert (np.array_equal(data.train[:], IDS), np.array_equal(data.validation[:], HELD_OUT)) == (True, True)
    assert [(each.reason, each.examples) for each in data.left_out] == [("for testing", ("x_test.bin",))]


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32", "int64"])
def test_nanogpts_files_need_their_type(tmp_path, dtype):
    IDS.astype(dtype).tofile(tmp_path / "train.bin")
    HELD_OUT.astype(dtype).tofile(tmp_path / "val.bin")
    (tmp_path / "meta.pkl").write_bytes(b"\x80\x04\x00")
    data = data_for(tmp_path, 300, token_dtype=dtype)
    assert (np.array_equal(data.train[:], IDS), np.array_equal(data.validation[:], HELD_OUT)) == (True, True)
    assert data.entries == 300
    with pytest.raises(InputError, match="2 not text, or tokens of a type that is not given"):
        data_for(tmp_path, 300)
    with pytest.raises(InputError, match="give their type, such as `token_dtype=uint16`"):
        data_for(tmp_path / "train.bin", 300)


def test_without_a_tokenizer_there_are_no_bits_per_byte(tmp_path, tokenizer):
    source = write_llm_c(tmp_path / "tokens.bin", IDS)
    results = [
        loop.train(loop.TrainJob(small_model(), small_config(), data, tmp_path / name), device="cpu")
        for name, data in (
            ("without", data_for(source, 300)), ("with", data_for(source, 300, tokenizer=tokenizer)),
        )
    ]  # fmt: skip
    assert [result.val_loss is not None for result in results] == [True, True]
    assert [result.val_bits_per_byte is not None for result in results] == [False, True]


def test_ids_of_a_tokenizer_have_the_bytes_of_their_text(tmp_path, tokenizer):
    bpe = train_bpe(documents(), 300)
    ids = np.array(bpe.encode(" ".join(documents())).ids)
    data = data_for(write_llm_c(tmp_path / "tokens.bin", ids), 300, tokenizer=tokenizer)
    text = bpe.decode(data.validation[1:-1].tolist())
    assert data.bytes_of_token[data.validation[1:-1]].sum() == pytest.approx(len(text.encode()), abs=6)


@pytest.mark.parametrize(
    ("write", "options", "message"),
    [
        (lambda path: write_llm_c(path, IDS + 1), {}, "need a vocabulary of 301, more than vocab_size=300"),
        (lambda path: path.write_bytes(write_llm_c(path, IDS).read_bytes()[:-2]), {}, "is it complete"),
        (lambda path: write_llm_c(path, IDS, version=9), {}, "version 9 of llm.c's tokens, and only 1 is"),
        (lambda path: write_llm_c(path, IDS, magic=20240522), {}, "is llm.c's multiple-choice questions"),
        (lambda path: path.write_bytes(b"\0" * 101), {"token_dtype": "uint16"}, "no whole number of uint16"),
        (lambda path: IDS.astype("u4").tofile(path), {"token_dtype": "uint16"}, "use `token_dtype=uint32`"),
        (lambda path: (-IDS).astype("i4").tofile(path), {"token_dtype": "int32"}, "has negative ids"),
        (lambda path: IDS.astype("u2").tofile(path), {"token_dtype": "uint32"}, "token_dtype=uint32` right?"),
        (lambda path: write_llm_c(path, IDS), {"token_dtype": "float"}, "use one of uint8, uint16, uint32"),
    ],
)  # fmt: skip
def test_tokens_that_cannot_be_are_one_line(tmp_path, write, options, message):
    path = tmp_path / "tokens.bin"
    write(path)
    with pytest.raises(InputError) as caught:
        data_for(path, 300, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pair_that_does_not_fit_together_is_one_line(tmp_path):
    prefix = write_megatron(tmp_path / "books", [IDS])
    index, ids = tmp_path / "books.idx", tmp_path / "books.bin"
    whole = index.read_bytes()
    for damaged, message in ((whole[:-1], "where its header gives"), (whole[:20], "is cut short")):
        index.write_bytes(damaged)
        with pytest.raises(InputError, match=message):
            data_for(prefix, 300)
    index.write_bytes(whole[:17] + b"\x07" + whole[18:])
    with pytest.raises(InputError, match="ids of type 7, which is not known"):
        data_for(prefix, 300)
    index.write_bytes(whole)
    ids.write_bytes(ids.read_bytes()[:-2])
    with pytest.raises(InputError, match="is it complete"):
        data_for(prefix, 300)
    ids.unlink()
    with pytest.raises(InputError, match=r"its books\.bin is missing"):
        data_for(prefix, 300)


def test_ids_beyond_the_tokenizer_are_those_of_another(tmp_path, tokenizer):
    source = write_llm_c(tmp_path / "tokens.bin", IDS + 100)
    with pytest.raises(InputError, match="only 300 entries: another one has made them"):
        data_for(source, 400, tokenizer=tokenizer)


def test_a_folder_with_nothing_to_train_on_is_one_line(tmp_path):
    write_llm_c(tmp_path / "x_val.bin", IDS)
    with pytest.raises(InputError, match=r"for validation or tests \(x_val.bin\)"):
        data_for(tmp_path, 300)


def test_a_type_that_is_not_needed_is_told(tmp_path):
    data = data_for(write_llm_c(tmp_path / "x.bin", IDS), 300, token_dtype="uint16")
    assert any(note.startswith("`token_dtype` had no effect") for note in data.notes)
