"""What is read, how it becomes tokens and in which order they come."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.training_data import small_config, small_model, write_text
from tokenizers import Tokenizer

from parambudget.errors import ConfigError, InputError
from parambudget.text.corpus import Document, read_corpus
from parambudget.text.token_cache import token_data
from parambudget.training.config import TrainConfig
from parambudget.training.dataloader import TokenWindows, permuted_index
from parambudget.training.optimization.schedule import learning_rate
from parambudget.training.run.defaults import (
    head_rate_ratio,
    law_warnings,
    tied_embedding_rate_ratio,
    with_train_defaults,
)


def texts(documents: tuple[Document, ...]) -> list[str]:
    return ["".join(document.read_chunks()) for document in documents]


# The corpus


def test_the_built_in_corpus_is_the_standard_library_without_packages_and_tests():
    found = read_corpus()
    names = {document.path.name for document in (*found.train, *found.validation)}
    assert {"argparse.py", "dataclasses.py", "typing.py"} <= names
    assert not any(
        part in document.path.parts for document in found.train for part in ("site-packages", "test")
    )
    assert sum(document.n_bytes for document in found.train) > 5_000_000


def test_the_same_text_has_the_same_hash_wherever_it_lies(tmp_path):
    assert (
        read_corpus(write_text(tmp_path / "here")).sha256
        == read_corpus(write_text(tmp_path / "there")).sha256
    )
    assert (
        read_corpus(write_text(tmp_path / "here")).sha256
        != read_corpus(write_text(tmp_path / "else", seed=1)).sha256
    )


def test_no_document_is_in_both_parts_and_none_is_lost(tmp_path):
    found = read_corpus(write_text(tmp_path))
    everything = {path.read_text() for path in tmp_path.iterdir()}
    train, validation = texts(found.train), texts(found.validation)
    assert set(train) | set(validation) == everything
    assert not set(train) & set(validation)
    assert 0 < sum(map(len, validation)) <= 0.05 * sum(map(len, everything))


def test_a_single_file_is_held_out_from_a_line_near_its_end(tmp_path):
    path = tmp_path / "all.txt"
    path.write_text("".join(f"line {i} änderung\n" for i in range(1_000)), encoding="utf-8")
    found = read_corpus(path)
    (train,), (validation,) = texts(found.train), texts(found.validation)
    assert train + validation == path.read_text(encoding="utf-8")
    assert train.endswith("\n")
    assert len(validation) == pytest.approx(0.05 * len(train + validation), rel=0.05)


def test_a_file_without_lines_is_cut_between_characters(tmp_path):
    path = tmp_path / "all.txt"
    path.write_text("ä" * 1_001, encoding="utf-8")
    (train,), (validation,) = texts(read_corpus(path).train), texts(read_corpus(path).validation)
    assert train + validation == "ä" * 1_001


def test_what_is_empty_binary_hidden_or_a_copy_is_left_out(tmp_path):
    write_text(tmp_path, n_documents=30)
    (tmp_path / "copy.txt").write_bytes((tmp_path / "000.txt").read_bytes())
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff\x00")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_text("hidden")
    found = read_corpus(tmp_path)
    assert len(found.train) + len(found.validation) == 30
    assert {each.reason: each.examples for each in found.left_out} == {
        "hidden": (".git/config",),
        "empty": ("empty.txt",),
        "not text": ("image.png",),
        "the same as another": ("copy.txt",),
    }


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00"], ids=["missing", "empty", "binary"])
def test_data_that_is_no_text_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "data").write_bytes(content)
    with pytest.raises(InputError, match=r"give a (text )?file or (a )?folder"):
        read_corpus(tmp_path / "data")


def test_an_empty_folder_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"no text in .*: 0 files"):
        read_corpus(tmp_path)


def test_a_long_file_is_read_in_chunks_that_add_up_to_it(tmp_path):
    path = tmp_path / "all.txt"
    path.write_text("".join(f"line {i} änderung\n" for i in range(40)) + "ä" * 500, encoding="utf-8")
    chunks = list(Document(path, 0, path.stat().st_size, "").read_chunks(chunk_bytes=50))
    assert "".join(chunks) == path.read_text(encoding="utf-8")
    assert max(len(chunk.encode()) for chunk in chunks) <= 100


# Tokens


def test_the_tokens_decode_to_the_text_they_were_made_from(tmp_path):
    found = read_corpus(write_text(tmp_path / "text"))
    data = token_data(found, 300, cache=tmp_path)
    tokenizer = Tokenizer.from_str(data.tokenizer_json)
    for ids, documents in ((data.train, found.train), (data.validation, found.validation)):
        decoded = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        assert decoded == "".join(f"{text}<|endoftext|>" for text in texts(documents))
        assert data.bytes_of_token[ids].sum() == sum(document.n_bytes for document in documents)


def test_the_tokenizer_never_has_more_entries_than_the_vocabulary(tmp_path):
    found = read_corpus(write_text(tmp_path / "text"))
    assert token_data(found, 257, cache=tmp_path).entries == 257
    few = token_data(found, 50_257, cache=tmp_path)
    assert 257 < few.entries < 50_257
    assert few.train.max() < few.entries


def test_a_vocabulary_below_the_bytes_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"vocab_size=256 is too small .* use at least 257"):
        token_data(read_corpus(write_text(tmp_path / "text")), 256, cache=tmp_path)


def test_a_text_that_quotes_the_end_marker_does_not_end_there(tmp_path):
    (tmp_path / "text").mkdir()
    for i in range(30):
        (tmp_path / "text" / f"{i}.txt").write_text(f"say <|endoftext|> {i} times\n" * 5)
    data = token_data(read_corpus(tmp_path / "text"), 300, cache=tmp_path)
    end = Tokenizer.from_str(data.tokenizer_json).token_to_id("<|endoftext|>")
    assert (data.train == end).sum() + (data.validation == end).sum() == 30


def test_tokens_are_read_from_the_cache_the_second_time(tmp_path):
    found = read_corpus(write_text(tmp_path / "text"))
    first = token_data(found, 300, cache=tmp_path)
    (folder,) = (tmp_path / "tokens").iterdir()
    written = (folder / "train.bin").stat().st_mtime_ns
    second = token_data(found, 300, cache=tmp_path)
    assert (folder / "train.bin").stat().st_mtime_ns == written
    assert np.array_equal(first.train, second.train)


@pytest.mark.parametrize("name", ["train.bin", "validation.bin", "tokenizer.json", "facts.json"])
def test_a_damaged_cache_is_made_again(tmp_path, name):
    found = read_corpus(write_text(tmp_path / "text"))
    first = np.array(token_data(found, 300, cache=tmp_path).train)
    (folder,) = (tmp_path / "tokens").iterdir()
    (folder / name).write_bytes((folder / name).read_bytes()[:-3])
    assert np.array_equal(token_data(found, 300, cache=tmp_path).train, first)


def test_an_unwritable_cache_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write tokens to .* XDG_CACHE_HOME"):
        token_data(read_corpus(write_text(tmp_path / "text")), 300, cache=tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "text"]


# Batches


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(0, 2**64 - 1))
def test_shuffling_is_a_permutation(n, key):
    assert sorted(permuted_index(i, n, key=key) for i in range(n)) == list(range(n))


def test_shuffling_leaves_little_in_its_place():
    assert sum(permuted_index(i, 1_000, key=7) == i for i in range(1_000)) < 10


@settings(max_examples=40)
@given(st.integers(9, 200), st.integers(1, 8), st.integers(0, 9))
def test_an_epoch_visits_every_window_once_and_no_token_twice(n_tokens, context_length, seed):
    text = TokenWindows(np.arange(n_tokens), context_length, seed)
    for epoch in range(3):
        inputs = text.batch(epoch * text.count, text.count)[:, :-1].ravel()
        assert len(set(inputs)) == text.count * context_length


def test_epochs_come_in_another_order_and_cut_at_another_place():
    text = TokenWindows(np.arange(1_000), 8, seed=0)
    first, second = text.batch(0, text.count), text.batch(text.count, text.count)
    assert not np.array_equal(first, second)
    assert {int(window[0]) % 8 for window in first} != {int(window[0]) % 8 for window in second}


def test_targets_are_the_inputs_one_later():
    window = TokenWindows(np.arange(100), 8, seed=3).batch(5, 1)[0]
    assert window.tolist() == list(range(window[0], window[0] + 9))


# The learning rate


def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_end():
    config = small_config(steps=100, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.1)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


@given(st.integers(1, 50), st.integers(0, 50))
def test_every_update_learns(steps, warmup_steps):
    config = small_config(steps=steps, warmup_steps=min(steps, warmup_steps), final_learning_rate=0.0)
    assert all(0 < learning_rate(step, config) <= config.learning_rate for step in range(steps))


# Settings


def test_defaults_complete_any_subset_of_settings_with_a_reason():
    model = small_model()
    whole = with_train_defaults({}, model, 100_000, on_cpu=True)
    fields = whole.config.model_dump()
    assert with_train_defaults(fields, model, 100_000, on_cpu=True).config == whole.config
    for name in whole.reasons:
        given_one = with_train_defaults({name: fields[name]}, model, 100_000, on_cpu=True)
        assert name not in given_one.reasons
        assert all(given_one.reasons.values())


def test_a_default_run_of_a_small_text_is_four_epochs():
    config = with_train_defaults({}, small_model(), 100_000, on_cpu=True).config
    assert config.steps * config.step.sequences_per_update * 16 == pytest.approx(400_000, rel=0.01)
    tiny = with_train_defaults({}, small_model(), 5_000, on_cpu=True).config
    assert tiny.steps * tiny.step.sequences_per_update * 16 == 16_384, "the nearest would be five updates"


def test_a_default_run_of_a_large_text_is_twenty_tokens_per_parameter():
    model = small_model(
        dim=1024, n_heads=16, n_layers=24, intermediate_size=4096, vocab_size=50257, context_length=1024
    )
    config = with_train_defaults({}, model, 10**12, on_cpu=False).config
    assert config.steps * config.step.sequences_per_update * 1024 == pytest.approx(20 * 454_166_528, rel=0.01)


GPT_350M = {
    "dim": 1024, "n_heads": 16, "n_layers": 24, "intermediate_size": 2816, "vocab_size": 50257,
    "context_length": 1024,
}  # fmt: skip


RUN_350M = {"batch_size": 16, "gradient_accumulation_steps": 16, "steps": 7_000_000_000 // 2**18}


def test_the_learning_rate_of_adamw_is_step_laws():
    """1.5e-3 for 350M body parameters and 7B tokens (arXiv 2503.04715), and this body has 302M."""
    found = with_train_defaults(
        RUN_350M | {"optimizer": "adamw"}, small_model(**GPT_350M), 10**12, on_cpu=False
    )
    assert found.config.learning_rate == pytest.approx(1.5e-3 * (350 / 308.3) ** 0.713, rel=0.03)
    assert found.config.warmup_steps == 2_000
    assert (found.config.momentum_warmup_steps, found.config.embedding_learning_rate) == (0, None)
    assert found.config.beta1 == 0.9


def test_the_learning_rate_of_muon_lies_between_published_recipes():
    """nanochat's own root of the batch gives 1.65e-3 at 131k tokens an update, CS336's best has 5e-3."""
    model = small_model(**GPT_350M)
    config = with_train_defaults(RUN_350M, model, 10**12, on_cpu=False).config
    assert 1.65e-3 < config.learning_rate < 5e-3
    assert (config.warmup_steps, config.momentum_warmup_steps) == (500, 300)
    assert config.beta1 == 0.8
    assert (config.embedding_learning_rate, config.head_learning_rate) == (
        pytest.approx(1.5 * config.learning_rate, rel=0.01), None
    )  # fmt: skip
    untied = with_train_defaults(RUN_350M, model.replace(tied=False), 10**12, on_cpu=False).config
    assert untied.embedding_learning_rate == pytest.approx(20 * untied.learning_rate, rel=0.01)
    assert untied.head_learning_rate == pytest.approx(0.5 * untied.learning_rate, rel=0.01)


@pytest.mark.parametrize(
    ("dim", "tied_embedding", "head"),
    [(64, 4, 1), (128, 4, 1), (256, 2, 0.7071), (384, 1.5, 0.5774), (4096, 1.5, 0.5)],
)
def test_what_is_tied_to_the_head_and_the_head_have_cooler_rates_in_wider_models(dim, tied_embedding, head):
    assert tied_embedding_rate_ratio(dim) == pytest.approx(tied_embedding)
    assert head_rate_ratio(dim) == pytest.approx(head, rel=1e-3)


def test_the_embeddings_rate_follows_a_rate_that_was_given():
    untied = small_model(**GPT_350M).replace(tied=False)
    config = with_train_defaults(RUN_350M | {"learning_rate": 0.01}, untied, 10**12, on_cpu=False).config
    assert config.embedding_learning_rate == pytest.approx(0.2)


def test_a_smaller_batch_has_a_cooler_rate():
    """As many tokens in updates of a quarter."""

    def rate(n_micro_steps):
        steps = 7_000_000_000 // (2**14 * n_micro_steps)
        given = RUN_350M | {"gradient_accumulation_steps": n_micro_steps, "steps": steps}
        return with_train_defaults(given, small_model(**GPT_350M), 10**12, on_cpu=False).config.learning_rate

    assert rate(4) == pytest.approx(rate(16) / 2, rel=0.01)


def test_the_batch_lies_between_the_two_laws():
    """For 350M and 7B tokens Step Law has 0.24M and DeepSeek 0.54M: 2^18 or 2^19."""
    found = with_train_defaults(
        {"steps": 7_000_000_000 // 2**18}, small_model(**GPT_350M), 10**12, on_cpu=False
    )
    assert found.config.step.sequences_per_update * 1024 in (2**18, 2**19)


def test_a_law_that_ends_before_the_run_is_told_unless_its_setting_was_given():
    model, adamw = small_model(**GPT_350M), {"optimizer": "adamw"}
    batch = {"batch_size": 16, "gradient_accumulation_steps": 16}

    def told(n_tokens, given):
        config = with_train_defaults(given, model, 10**12, on_cpu=False, tokens=n_tokens).config
        return [line.split(" outside ")[0] for line in law_warnings(config, model, given)]

    short = 2**30  # a whole number of updates
    assert told(7 * 10**9, adamw) == []
    assert told(short, adamw) == ["learning rate: 1.074B tokens are", "batch: 1.074B tokens are"]
    assert told(short, adamw | batch) == ["learning rate: 1.074B tokens are"]
    assert told(short, adamw | {"learning_rate": 1e-3, "batch_size": 16}) == ["batch: 1.074B tokens are"]
    assert told(short, adamw | batch | {"learning_rate": 1e-3}) == []
    muon = told(7 * 10**9, {})
    assert muon == [
        "learning rate: Muon's rule was measured at 1.05M body parameters alone, and this model has 308.3M"
    ]


def test_the_reason_for_the_batch_has_the_tokens_of_the_update():
    model = small_model(**GPT_350M | {"context_length": 1000})
    found = with_train_defaults({}, model, 10**12, on_cpu=False, tokens=7 * 10**9)
    update = found.config.step.tokens_per_update(1000)
    assert update != 2**18
    assert f"; executed as {update:,}: " in found.reasons["gradient_accumulation_steps"]


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be greater than or equal to 1"),
        ({"steps": "ten"}, "steps is 'ten'; it must be a valid integer"),
        ({"step": 10}, "unknown field 'step'; did you mean 'steps'?"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must be"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; it must be greater than 0"),
        ({"steps": 5, "warmup_steps": 6}, "warmup_steps=6 is more than steps=5; use at most 5"),
        (
            {"learning_rate": 1e-3, "final_learning_rate": 1.0},
            "final_learning_rate=1 is above learning_rate=0.001",
        ),
        ({"batch_size": True}, "batch_size is True"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(given_settings, message):
    with pytest.raises(ConfigError) as caught:
        with_train_defaults(given_settings, small_model(), 100_000, on_cpu=True)
    assert message in str(caught.value)


def test_settings_are_json_and_come_back_the_same():
    config = small_config()
    assert TrainConfig.read(json.loads(config.model_dump_json())) == config
