"""Multiple choice and bits per byte: as computed one by one, and as the run itself reports."""

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training_data import WORDS, small_config, small_model
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

import parambudget as pb
from parambudget.errors import InputError
from parambudget.text.held_out import validation_part
from parambudget.training import loop
from parambudget.training.device import select_device
from parambudget.training.evaluation.questions import read_questions
from parambudget.training.evaluation.results import read_evaluations
from parambudget.training.evaluation.scores import score_choices, score_text
from parambudget.training.generate import LoadedModel, load_checkpoint
from parambudget.training.loss import build_loss

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = select_device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory, data) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    config = small_config(steps=30, batch_size=8, learning_rate=1e-2, eval_every=30, save_every=15)
    loop.train(loop.TrainJob(small_model(), config, data, folder), device="cpu")
    return folder


@pytest.fixture(scope="module")
def loaded(run) -> LoadedModel:
    return load_checkpoint(run, CPU)


def write_questions(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def question(i: int) -> dict[str, object]:
    """Endings of one to four words, of which the right one is `i % 3`."""
    endings = [" ".join(WORDS[(i * 7 + k * 5 + j) % len(WORDS)] for j in range(1 + k)) for k in range(3)]
    context = " ".join(WORDS[(i + j) % len(WORDS)] for j in range(1 + i % 4))
    return {"context": context, "endings": endings, "label": i % 3}


def naive_log_likelihood(loaded: LoadedModel, context: str, ending: str) -> float:
    """One sequence, no padding, a whole softmax."""
    tokenizer = loaded.tokenizer.tokenizer
    n_context, ids = len(tokenizer.encode(context).ids), tokenizer.encode(f"{context} {ending}").ids
    ids, n_ending = ids[-17:], len(ids) - n_context
    with torch.no_grad():
        log_probabilities = loaded.module(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
    return sum(log_probabilities[-n_ending + j, ids[len(ids) - n_ending + j]].item() for j in range(n_ending))


def test_choices_are_scored_as_one_by_one(loaded, tmp_path):
    records = [question(i) for i in range(20)]
    score = score_choices(loaded, read_questions(write_questions(tmp_path / "q.jsonl", *records)))
    right = right_norm = 0
    for record in records:
        totals = [naive_log_likelihood(loaded, record["context"], ending) for ending in record["endings"]]
        norms = [total / len(e) for total, e in zip(totals, record["endings"], strict=True)]
        right += totals.index(max(totals)) == record["label"]
        right_norm += norms.index(max(norms)) == record["label"]
    assert (score.acc, score.acc_norm) == (right / 20, right_norm / 20)
    assert right != right_norm, "the questions tell the two apart"
    assert score.acc_stderr == pytest.approx(math.sqrt(score.acc * (1 - score.acc) / 19))
    assert score.chance == pytest.approx(1 / 3)


def test_padding_and_the_neighbours_in_a_batch_change_no_score(loaded, tmp_path, monkeypatch):
    from parambudget.training.evaluation import scores

    found = []
    original = scores.log_likelihoods
    monkeypatch.setattr(scores, "log_likelihoods", lambda *args: found.append(original(*args)) or found[-1])
    records = [question(i) for i in range(7)]
    score_choices(loaded, read_questions(write_questions(tmp_path / "q.jsonl", *records)))
    one_by_one = [naive_log_likelihood(loaded, r["context"], e) for r in records for e in r["endings"]]
    # float32 sums of about ten terms.
    assert found[0] == pytest.approx(one_by_one, abs=1e-4)


def test_a_long_context_loses_its_beginning_and_that_is_counted(loaded, tmp_path):
    short, long = question(1), question(2) | {"context": " ".join(WORDS * 4)}
    path = write_questions(tmp_path / "q.jsonl", short, long)
    assert score_choices(loaded, read_questions(path)).n_truncated == 1


@pytest.mark.parametrize(
    ("context", "endings", "continuations"),
    [
        ("a b", ["c", " d"], (" c", " d")),
        ("a b ", ["c", "d"], ("c", "d")),
        ("a\n", ["c", ", d"], ("c", ", d")),
        ("", ["c", "d"], ("c", "d")),
    ],
)
def test_one_space_stands_between_context_and_ending(tmp_path, context, endings, continuations):
    path = write_questions(tmp_path / "q.jsonl", {"ctx": context, "endings": endings, "label": "1"})
    (found,) = read_questions(path).questions
    assert (found.continuations, found.label) == (continuations, 1)


@pytest.mark.parametrize(
    "context", ["", "   ", "learns ", "lear"], ids=["empty", "blank", "space at the end", "within a word"]
)
def test_any_context_has_scores(loaded, tmp_path, context):
    record = {"context": context, "endings": ["every token", "ns every"], "label": 0}
    score = score_choices(loaded, read_questions(write_questions(tmp_path / "q.jsonl", record)))
    assert (score.n_questions, score.acc_stderr) == (1, None)


def test_without_a_context_an_ending_follows_the_token_with_which_the_tokenizer_begins_a_text(
    loaded, tmp_path, monkeypatch
):
    from parambudget.training.evaluation import scores

    begins = Tokenizer.from_str(loaded.tokenizer.tokenizer.to_str())
    first = begins.id_to_token(loaded.tokenizer.end)
    begins.post_processor = TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, loaded.tokenizer.end)]
    )
    other = replace(
        loaded, tokenizer=replace(loaded.tokenizer, tokenizer=begins), add_special_tokens=True
    )  # fmt: skip
    found = []
    original = scores.log_likelihoods
    monkeypatch.setattr(scores, "log_likelihoods", lambda *args: found.append(original(*args)) or found[-1])
    record = {"context": "", "endings": ["every token", "learns every"], "label": 0}
    for each in (loaded, other):
        score_choices(each, read_questions(write_questions(tmp_path / "q.jsonl", record)))
    assert found[0] == found[1]


def test_questions_may_be_compressed(tmp_path):
    path = write_questions(tmp_path / "q.jsonl", *map(question, range(3)))
    packed = tmp_path / "q.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_questions(packed).questions == read_questions(path).questions
    assert read_questions(packed).sha256 == read_questions(path).sha256


GOOD = {"context": "a", "endings": ["b", "c"], "label": 0}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"endings": ["b", "c"], "label": 0}, "line 2: no field 'context' or 'ctx'"),
        (GOOD | {"context": 5}, "line 2: the context is not a string"),
        (GOOD | {"endings": ["b"]}, "line 2: 'endings' is not a list of two or more"),
        (GOOD | {"endings": ["b", ""]}, "line 2: the ending '' is not"),
        (GOOD | {"label": 2}, "line 2: 'label' is 2, not 0 to 1"),
        (GOOD | {"label": ""}, "line 2: 'label' is '', not 0 to 1"),
        (GOOD | {"label": True}, "line 2: 'label' is True, not 0 to 1"),
        (GOOD | {"context": "\ud800"}, "line 2: half a surrogate pair"),
        ([1], "line 2: not a JSON object"),
    ],
)
def test_a_line_in_another_form_is_named(tmp_path, record, message):
    path = write_questions(tmp_path / "q.jsonl", GOOD, record, GOOD)
    with pytest.raises(InputError, match=message) as raised:
        read_questions(path)
    assert "\n" not in str(raised.value)


def test_another_form_is_named(tmp_path):
    (tmp_path / "q.txt").write_text("plain text")
    with pytest.raises(InputError, match="is plain text; give JSON lines such as"):
        read_questions(tmp_path / "q.txt")
    with pytest.raises(InputError, match="no questions at"):
        read_questions(tmp_path / "missing")


def test_an_ending_longer_than_the_context_is_refused(loaded, tmp_path):
    record = {"context": "the", "endings": ["x", " ".join(WORDS * 3)], "label": 0}
    path = write_questions(tmp_path / "q.jsonl", record)
    with pytest.raises(InputError, match=r"line 1: ending 2 has \d+ tokens, more than context_length=16"):
        score_choices(loaded, read_questions(path))


def test_the_text_of_the_run_has_the_loss_that_the_run_reports(loaded, data):
    """The same windows, which are those of the whole text where it is a multiple of eight windows."""
    n = (len(data.validation) - 1) // 16 // 8 * 8 * 16 + 1
    data = replace(data, validation=data.validation[:n])
    windows = loop.validation_windows(data, 16, 10**9)
    own = loop.evaluate(build_loss(loaded.module, small_config(), CPU), windows, data, 8, CPU)
    found = score_text(loaded, validation_part(data, "text"))
    assert found.n_tokens == n
    # The first token, after an end of text alone, is the only one that the run does not predict.
    first = found.loss * n - own.loss * (n - 1)
    with torch.no_grad():
        alone = loaded.module(torch.tensor([[loaded.tokenizer.end]]))[0, 0].log_softmax(-1)
    assert first == pytest.approx(-alone[int(data.validation[0])].item(), abs=2e-3)
    assert found.bits_per_byte == pytest.approx(own.bits_per_byte, rel=0.01)


def test_every_token_of_a_text_is_predicted_once(loaded, tmp_path, run):
    text = " ".join(WORDS * 9)
    (tmp_path / "text.txt").write_text(text)
    found = pb.evaluate(run, text=tmp_path / "text.txt", device="cpu").text
    ids = [loaded.tokenizer.end, *loaded.tokenizer.tokenizer.encode(text).ids, loaded.tokenizer.end]
    starts, nats = [0, *range(1, len(ids) - 1, 16)], 0.0
    for start, stop in zip(starts, [2, *[start + 17 for start in starts[1:]]], strict=True):
        window = torch.tensor([ids[start:stop]])
        with torch.no_grad():
            losses = -loaded.module(window[:, :-1])[0].double().log_softmax(-1)
        nats += losses.gather(1, window[0, 1:, None]).sum().item()
    assert found.n_tokens == len(ids) - 1
    assert found.n_bytes == len(text)
    assert found.loss * found.n_tokens == pytest.approx(nats, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / len(text), rel=1e-5)


def test_a_text_is_read_in_every_form(run, tmp_path):
    texts = [" ".join(WORDS * n) for n in (3, 5)]
    write_questions(tmp_path / "text.jsonl", *({"text": text} for text in texts))
    (tmp_path / "text.json.gz").write_bytes(gzip.compress(json.dumps(texts).encode()))
    (tmp_path / "folder").mkdir()
    for i, text in enumerate(texts):
        (tmp_path / "folder" / f"{i}.txt").write_text(text)
    found = [
        pb.evaluate(run, text=tmp_path / name, device="cpu").text
        for name in ("text.jsonl", "text.json.gz", "folder")
    ]
    assert {(each.loss, each.n_documents, each.bits_per_byte) for each in found} == {
        (found[0].loss, 2, found[0].bits_per_byte)
    }


def test_prepared_tokens_are_those_held_out_and_of_the_same_tokenizer(run, tmp_path, data):
    from parambudget.text.prepare import PrepareRequest, prepare

    (tmp_path / "text.txt").write_text("\n--\n".join(" ".join(WORDS * (1 + n % 5)) for n in range(60)))
    (tmp_path / "tokenizer.json").write_text(data.tokenizer_json)
    from parambudget.text.records import TextLayout

    for name, tokenizer, entries in (("same", "tokenizer.json", None), ("other", "bpe", 280)):
        source = str(tmp_path / tokenizer) if entries is None else tokenizer
        request = PrepareRequest(
            str(tmp_path / "text.txt"), source, entries, TextLayout(separator="\n--\n"), validation=0.2
        )
        prepare(request, tmp_path / name, n_workers=1)
    found = pb.evaluate(run, text=tmp_path / "same", device="cpu").text
    tokens = np.fromfile(tmp_path / "same" / "validation.bin", np.uint16)
    assert found.n_tokens == len(tokens)
    with pytest.raises(InputError, match="of another tokenizer than the model's"):
        pb.evaluate(run, text=tmp_path / "other", device="cpu")


def test_the_result_is_kept_with_the_run_and_replaced_by_a_repetition(run, tmp_path):
    path = write_questions(tmp_path / "q.jsonl", *map(question, range(4)))
    before = len(read_evaluations(run))
    first = pb.evaluate(run, choices=path, device="cpu")
    again = pb.evaluate(run / "checkpoints" / "step-30", choices=path, device="cpu")
    other = pb.evaluate(run / "checkpoints" / "step-15", choices=path, device="cpu")
    assert first.choices == again.choices
    kept = read_evaluations(run)[before:]
    assert [each.checkpoint for each in kept] == ["step-30", "step-15"]
    assert [each.choices for each in kept] == [again.choices, other.choices]
    assert [row["figure"] for row in first.rows()] == ["acc", "acc_norm"]


def test_damaged_results_are_named_and_left(tmp_path):
    (tmp_path / "eval.json").write_text('[{"checkpoint": 1}]')
    with pytest.raises(InputError, match=r"eval.json, evaluation 1, is damaged"):
        read_evaluations(tmp_path)


def test_a_type_of_ids_without_a_text_is_refused(run, tmp_path):
    path = write_questions(tmp_path / "q.jsonl", question(0))
    with pytest.raises(InputError, match="`token_dtype` is the type of the ids in `text`"):
        pb.evaluate(run, choices=path, token_dtype="uint16", device="cpu")
