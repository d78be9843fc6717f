"""Mixtures: exact shares, each window of a set once an epoch, the same batches whatever the processes."""

import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.training_data import small_config, small_model, write_text
from torch._dynamo.testing import CompileCounterWithBackend

import parambudget as pb
from parambudget.errors import InputError
from parambudget.text.dataset import data_for
from parambudget.text.held_out import validation_part
from parambudget.text.mixture import MixtureSource, parse_mixture, read_shares
from parambudget.text.prepare import PrepareRequest, prepare
from parambudget.training import loop
from parambudget.training.dataloader import TokenWindows
from parambudget.training.device import select_device
from parambudget.training.loop import ValidationSet, evaluate, evaluation_batch_size
from parambudget.training.loss import build_loss
from parambudget.training.run.mixture import MixedWindows, masking_notices, run_windows
from parambudget.training.train_state import init_module

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = select_device("cpu")


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """A folder with two sets of one tokenizer, and one of another."""
    folder = tmp_path_factory.mktemp("sets")
    for name, n_documents, seed in (("a", 40, 1), ("b", 12, 2), ("c", 12, 3)):
        write_text(folder / f"text-{name}", n_documents, seed)
    tokenizers = {"a": "bpe", "b": str(folder / "a" / "tokenizer.json"), "c": "bpe"}
    for name, tokenizer in tokenizers.items():
        entries = {"a": 300, "b": None, "c": 280}[name]
        request = PrepareRequest(str(folder / f"text-{name}"), tokenizer, entries, validation=0.2)
        prepare(request, folder / name, n_workers=1)
    return folder


def mixture(sets: Path, a: str = "0.7", b: str = "0.3") -> Path:
    return Path(f"{sets / 'a'}={a},{sets / 'b'}={b}")


class Numbered:
    """Windows that are their own numbers."""

    def __init__(self, number: int) -> None:
        self.number = number

    def batch(self, first: int, n: int):
        return np.array([[self.number, first + i] for i in range(n)])


weights = st.lists(st.integers(1, 12), min_size=2, max_size=5)


@given(weights, st.integers(0, 3))
def test_every_block_has_exactly_the_shares(parts, block):
    shares = [Fraction(part, sum(parts)) for part in parts]
    windows = MixedWindows([Numbered(i) for i in range(len(parts))], shares)
    n = windows.block_length
    found = Counter(windows.place(block * n + i)[0] for i in range(n))
    assert [found[i] for i in range(len(parts))] == [share * n for share in shares]


@given(weights, st.integers(1, 200))
def test_any_beginning_has_nearly_the_shares_and_each_set_is_read_in_order(parts, n):
    shares = [Fraction(part, sum(parts)) for part in parts]
    windows = MixedWindows([Numbered(i) for i in range(len(parts))], shares)
    places = windows.batch(0, n).tolist()
    for i, share in enumerate(shares):
        own = [nth for number, nth in places if number == i]
        assert own == list(range(len(own)))
        assert abs(len(own) - share * n) <= Fraction(1, 2) + share * Fraction(len(parts), 2)


def test_a_batch_depends_on_its_position_alone(sets):
    data = data_for(mixture(sets), 300)
    windows, again, other = (run_windows(data, 16, small_config(seed=seed)) for seed in (3, 3, 4))
    whole = windows.batch(0, 60)
    assert np.array_equal(np.concatenate([windows.batch(i, 4) for i in range(0, 60, 4)]), whole)
    assert np.array_equal(again.batch(17, 20), whole[17:37])
    assert not np.array_equal(other.batch(0, 60), whole)


def test_each_window_of_a_set_is_read_once_an_epoch(sets):
    data = data_for(mixture(sets, "1", "3"), 300)
    windows = run_windows(data, 16, small_config(seed=0))
    n_in_b = TokenWindows(data.parts[1].data.train, 16, 0).count
    n = next(n for n in range(1, 10**6) if sum(windows.place(i)[0] for i in range(n)) == n_in_b)
    assert {windows.place(i) for i in range(n) if windows.place(i)[0]} == {(1, i) for i in range(n_in_b)}
    read = [bytes(windows.batch(i, 1)) for i in range(n) if windows.place(i)[0]]
    assert len(set(read)) == n_in_b


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=0.7,b=0.3", [Fraction(7, 10), Fraction(3, 10)]),
        ("a=1,b=2", [Fraction(1, 3), Fraction(2, 3)]),
        ("x/a=b=1e0,c=1.0", [Fraction(1, 2), Fraction(1, 2)]),
        ("a=0.333,b=0.667", [Fraction(333, 1000), Fraction(667, 1000)]),
    ],
)
def test_weights_are_exact(text, expected):
    sources = parse_mixture(Path(text))
    assert sources is not None
    assert list(read_shares(sources)) == expected


@pytest.mark.parametrize(
    "text", ["a", "a=0.7", "a,b", "a=0.7,b", "a=x,b=1", "=1,b=1", "a=1/0,b=1", "a=1e99999999,b=1"]
)
def test_anything_else_is_a_path(text):
    assert parse_mixture(Path(text)) is None


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=1,b=2").write_text("text")
    assert parse_mixture(Path("a=1,b=2")) is None


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (("0", "1"), "the weight of a is '0'; use a number above 0"),
        (("-1", "2"), "the weight of a is '-1'"),
        (("0.333333", "0.5"), "have too many digits to be kept exactly"),
    ],
)
def test_weights_that_cannot_be_kept_are_refused(weights, message):
    sources = [MixtureSource(Path(name), w) for name, w in zip("ab", weights, strict=True)]
    with pytest.raises(InputError, match=message):
        read_shares(sources)


def test_another_tokenizer_is_refused_in_one_line(sets):
    with pytest.raises(
        InputError, match=r"c has another tokenizer than .*a, and a mixture has one"
    ) as raised:
        data_for(Path(f"{sets / 'a'}=1,{sets / 'c'}=1"), 300)
    assert "\n" not in str(raised.value)


def test_text_is_mixed_only_with_a_named_tokenizer(sets):
    source = Path(f"{sets / 'a'}=1,{sets / 'text-b'}=1")
    with pytest.raises(InputError, match="text-b is no prepared folder, so its tokenizer is not known"):
        data_for(source, 300)
    with pytest.raises(InputError, match="no data at"):
        data_for(Path(f"{sets / 'a'}=1,{sets / 'nothing'}=1"), 300)
    mixed = data_for(source, 300, tokenizer=str(sets / "a" / "tokenizer.json"))
    assert [len(part.data.train) > 0 for part in mixed.parts] == [True, True]


def test_the_whole_is_that_of_its_parts(sets):
    one, other, both = (data_for(path, 300) for path in (sets / "a", sets / "b", mixture(sets)))
    assert len(both.train) == len(one.train) + len(other.train)
    assert np.array_equal(both.train[len(one.train) - 5 : len(one.train) + 5][5:], other.train[:5])
    assert both.n_documents == one.n_documents + other.n_documents
    assert both.n_unique_tokens == min(int(len(one.train) / 0.7), int(Fraction(10, 3) * len(other.train)))
    again = data_for(mixture(sets, "0.6", "0.4"), 300)
    assert (again.sha256 != both.sha256, again.tokens_sha256 != both.tokens_sha256) == (True, True)


def test_the_validation_loss_is_the_mean_by_share(sets):
    data = data_for(mixture(sets), 300)
    held_out = loop.validation_sets(data, 16, 512)
    losses = [loop.ValidationLoss(4.0, 2.0), loop.ValidationLoss(2.0, 0.5)]
    step = loop.add_validation(replace(loop.BEFORE_FIRST_STEP, step=1), held_out, losses)
    assert step.val_loss == pytest.approx(0.7 * 4 + 0.3 * 2)
    assert list(step.val_loss_by_set.values()) == [4.0, 2.0]
    # 2 and 4 nats are 2.885 and 5.771 bits, of 5.771 and 2.885 bytes.
    assert step.val_bits_per_byte == pytest.approx(
        (0.7 * 5.771 + 0.3 * 2.885) / (0.7 * 2.885 + 0.3 * 5.771), rel=1e-3
    )


def test_the_same_batches_on_any_number_of_processes(sets):
    """Two processes read, together, the micro-steps that one reads alone."""
    windows = run_windows(data_for(mixture(sets), 300), 16, small_config(seed=0))
    config = small_config(batch_size=2, gradient_accumulation_steps=4)
    alone = [windows.batch(8 + 2 * micro_step, 2) for micro_step in range(4)]
    shared = {rank: [windows.batch(8 + 2 * i, 2) for i in range(rank, 4, 2)] for rank in (0, 1)}
    assert config.step.sequences_per_update == 8
    assert np.array_equal(np.concatenate(alone[0::2] + alone[1::2]), np.concatenate(shared[0] + shared[1]))


def test_where_documents_are_masked_each_set_is_judged_alone(sets, tmp_path):
    whole = data_for(mixture(sets), 512)
    for part, notice in zip(whole.parts, masking_notices(whole, 16), strict=True):
        assert notice == f"{part.name}: {masking_notices(part.data, 16)[0]}"
    first, second = whole.parts
    endless = replace(second, data=replace(second.data, train=np.full(100, 5)))
    job = loop.TrainJob(
        small_model(vocab_size=512), small_config(mask_documents=True),
        replace(whole, parts=(first, endless)), tmp_path / "run",
    )  # fmt: skip
    with pytest.raises(InputError, match="has nothing to mask"):
        loop.train(job, device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_mixture_is_trained_resumed_and_shown(sets, tmp_path, run, monkeypatch):
    monkeypatch.chdir(sets)
    (tmp_path / "config.json").write_text(json.dumps({"model": small_model().model_dump()}))
    arguments = [
        "train", tmp_path / "config.json", "--data", "a=0.7,b=0.3", "--batch-size", 8, "--device", "cpu",
        "--gradient-accumulation-steps", 2, "--save-every", 4, "--eval-every", 4, "--optimizer", "adamw",
    ]  # fmt: skip
    code, out, err = run(*arguments, "--steps", 8, "--warmup-steps", 1, "--out", tmp_path / "whole")
    assert code == 0, err
    assert "epochs" in out
    assert (
        run(
            *arguments,
            "--steps",
            4,
            "--warmup-steps",
            1,
            "--schedule",
            "wsd",
            "--decay-share",
            0.001,
            "--out",
            tmp_path / "parts",
        )[0]
        == 0
    )
    code, _, err = run("train", "--steps", 8, "--resume", "--out", tmp_path / "parts", "--device", "cpu")
    assert code == 0, err
    whole, parts = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    )
    assert whole[0]["loss"] == parts[0]["loss"]
    assert len(parts) == 8
    assert list(parts[7]["val_loss_by_set"]) == ["a", "b"]
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert [each["share"] for each in config["provenance"]["mixture"]] == ["7/10", "3/10"]
    code, out, _ = run("runs", "show", tmp_path / "whole")
    assert code == 0
    assert "a 70.0 % (" in out
    assert "by set" in out
    other = ["train", "--data", "a=0.6,b=0.4", "--steps", 8, "--resume", "--out", tmp_path / "parts"]
    code, _, err = run(*other, "--device", "cpu")
    assert (code, "has another text" in err) == (2, True)


@pytest.mark.parametrize(
    ("counts", "at_most", "size"),
    [
        ([24], 16, 12),  # a single text: the largest divisor
        ([128, 128], 64, 64),
        ([128, 40], 64, 16),  # 40 windows are computed as 80
        ([128, 3], 64, 8),  # 3 windows are computed as 24, in 3 batches
        ([128, 7], 64, 4),
        ([1, 1], 64, 1),
    ],
)
def test_the_sets_of_a_mixture_are_evaluated_in_batches_of_one_size(counts, at_most, size):
    windows = [np.zeros((n, 17), np.int64) for n in counts]
    sets = [ValidationSet(str(n), 1.0, each, None) for n, each in zip(counts, windows, strict=True)]
    assert evaluation_batch_size(sets, at_most) == size


def test_a_compiled_run_compiles_one_evaluation_for_all_sets(sets):
    model, data = small_model(), data_for(mixture(sets), 300).parts[0].data
    torch.compiler.reset()
    counter = CompileCounterWithBackend("eager")
    module = init_module(model, 0, CPU)
    loss_fn = build_loss(module, small_config(), CPU)
    compiled = torch.compile(loss_fn, backend=counter, dynamic=False)
    windows = [data.train[: 17 * n].reshape(n, 17).astype(np.int64) for n in (3, 16, 40)]
    held_out = [ValidationSet(str(len(each)), 1 / 3, each, data) for each in windows]
    size = evaluation_batch_size(held_out, 8)
    found = [evaluate(compiled, each.windows, data, size, CPU).loss for each in held_out]
    assert counter.frame_count == 1
    with torch.no_grad():
        expected = [loss_fn(torch.from_numpy(each.windows)).item() for each in held_out]
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_dict_is_a_mixture_in_python(sets, tmp_path):
    result = pb.train(
        small_model(), tmp_path / "run", data={str(sets / "a"): 0.7, str(sets / "b"): 0.3}, steps=2,
        batch_size=2, gradient_accumulation_steps=1, device="cpu", optimizer="adamw",
    )  # fmt: skip
    assert result.finished
    assert [each.name for each in pb_mixture(tmp_path / "run")] == [str(sets / "a"), str(sets / "b")]
    with pytest.raises(pb.ConfigError, match="a mixture of fewer than two sets"):
        pb.train(small_model(), tmp_path / "other", data={"a": 1.0}, device="cpu")


def pb_mixture(folder: Path):
    from parambudget.training.metrics import read_run

    return read_run(folder).mixture


def test_a_set_that_is_named_twice_is_refused():
    with pytest.raises(InputError, match="a is named twice in the mixture; give it one weight"):
        read_shares([MixtureSource(Path("a"), "1"), MixtureSource(Path("a"), "2")])


def test_what_is_held_out_of_a_mixture_is_said_to_be_whole(sets):
    """`eval` reads all of it, while the run's own validation loss weighs each set by its share."""
    data = data_for(mixture(sets), 300)
    held_out = validation_part(data, data.name)
    assert held_out.name == f"{sets / 'a'} + {sets / 'b'} (whole, not in their shares), held out"
    assert len(held_out.tokens) == sum(len(part.data.validation) for part in data.parts)


@pytest.mark.parametrize("written", ["a=0.7,b", "a=x,b=0.3"])
def test_what_is_nearly_a_mixture_is_told_the_form(tmp_path, monkeypatch, written):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=f"^no data at {written}; .*, or a mixture, PATH=WEIGHT,PATH=WEIGHT$"
    ):
        data_for(Path(written), 300)
