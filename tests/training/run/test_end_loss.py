"""What a run should end at: by its curve and by a law, in its folder, after a resume and from Python."""

import json
import shutil
from dataclasses import replace

import pytest
from support.finished_ladder import write_finished_ladder
from support.training_data import small_model, write_text

import parambudget as pb
from parambudget._files import sha256_of_text
from parambudget.errors import InputError
from parambudget.ladders.ladder import Ladder
from parambudget.scaling.law_file import write_law
from parambudget.scaling.loss import MUENNIGHOFF_2023, law_parameters, repetition_warning
from parambudget.scaling.loss_interval import predict_loss
from parambudget.training.run.end_loss import LAW_COPY, text_difference

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 40
SETTINGS = {
    "batch_size": 4, "gradient_accumulation_steps": 1, "steps": STEPS, "eval_every": 4, "save_every": 4,
    "eval_tokens": 256, "optimizer": "adamw", "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield write_text(folder / "text")


@pytest.fixture(scope="module")
def law(tmp_path_factory):
    """A law of ten runs; here of models with a context of 16, like that which is trained."""
    fitted = Ladder(write_finished_ladder(tmp_path_factory.mktemp("ladder") / "ladder")).fit().law
    return replace(fitted, fit=replace(fitted.fit, context_length=16))


@pytest.fixture(scope="module")
def whole(text, law, tmp_path_factory):
    """A run with a law, its notices, and what it said on its way."""
    out, notices, on_the_way = tmp_path_factory.mktemp("whole") / "run", [], []
    started = []

    def see(step):
        on_the_way.append((step.step, started[0].forecast.newest.ends_at))

    events = pb.TrainEvents(on_start=started.append, on_step=see, on_notice=notices.append)
    result = pb.train(small_model(), out, data=text, forecast=law, events=events, **SETTINGS)
    return result, notices, dict(on_the_way)


def test_the_plan_is_what_the_law_says_of_the_run(whole, law):
    result, _, _ = whole
    model = small_model()
    unique = pb.run(result.folder).forecast
    assert unique == result.forecast
    n_train = json.loads((result.folder / "config.json").read_text())["provenance"]["train_tokens"]
    expected = predict_loss(law, float(law_parameters(model)), result.tokens, n_train)
    assert result.forecast.planned == expected
    assert result.forecast.law == law.name


def test_the_end_is_forecast_from_a_fifth_on_and_no_more_after_it(whole):
    result, _, on_the_way = whole
    assert on_the_way[STEPS // 5 - 1] is None
    assert all(on_the_way[step] is not None for step in range(15, STEPS))
    assert on_the_way[STEPS] is None
    assert result.forecast.ends_at is None
    assert result.forecast.halfway == on_the_way[STEPS // 2]


def test_another_text_and_tokenizer_than_the_laws_is_warned_of_once(whole):
    _, notices, _ = whole
    (line,) = [notice for notice in notices if "another text and tokenizer" in notice]
    assert "was fitted to runs with another text and tokenizer (a text)" in line


def test_a_law_of_the_same_text_is_not_warned_of(law, data):
    same = replace(law.fit, corpus_sha256=data.sha256, tokenizer_sha256=sha256_of_text(data.tokenizer_json))
    assert text_difference(replace(law, fit=same), data) is None
    other = replace(same, tokenizer_sha256="cd" * 32)
    assert "another tokenizer (a text)" in text_difference(replace(law, fit=other), data)
    assert text_difference(MUENNIGHOFF_2023, data) is None


def test_a_run_that_is_resumed_forecasts_as_one_that_was_not_stopped(whole, text, law, tmp_path):
    result, _, _ = whole
    path, out = tmp_path / "law.json", tmp_path / "run"
    write_law(path, law)
    stop_at = iter(range(STEPS))

    class Stopped(Exception):
        pass

    def stop(_):
        if next(stop_at) == 25:
            raise Stopped

    with pytest.raises(Stopped):
        pb.train(
            small_model(), out, data=text, forecast=path, events=pb.TrainEvents(on_step=stop), **SETTINGS
        )
    path.unlink()  # the folder of the run is enough
    again = pb.train(small_model(), out, resume=True, device="cpu")
    assert again.forecast == replace(result.forecast, law=str(path))
    assert again.finished


def test_a_resumed_run_whose_law_is_gone_says_so_and_goes_on(whole, text, tmp_path):
    out, notices = tmp_path / "run", []
    shutil.copytree(whole[0].folder, out)
    (out / LAW_COPY).unlink()
    events = pb.TrainEvents(on_notice=notices.append)
    result = pb.train(small_model(), out, data=text, resume=True, steps=44, device="cpu", events=events)
    assert result.forecast.planned is None
    assert any("no plan to compare with" in notice for notice in notices)


def test_a_run_without_a_forecast_has_none(text, tmp_path):
    result = pb.train(small_model(), tmp_path / "run", data=text, **SETTINGS | {"steps": 2, "eval_every": 2})
    assert result.forecast is None


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 14, "warmup_steps": 1, "eval_every": 14},
        {"steps": 13, "warmup_steps": 1, "eval_every": 2},
        {"steps": 20, "warmup_steps": 9},
    ],
    ids=["evaluated at its end alone", "too few updates", "too few after the warm-up"],
)
def test_a_run_whose_curve_is_not_enough_says_so(text, tmp_path, changes):
    notices = []
    short = SETTINGS | changes
    events = pb.TrainEvents(on_notice=notices.append)
    result = pb.train(small_model(), tmp_path / "run", data=text, forecast=True, events=events, **short)
    assert result.forecast.halfway is None
    (notice,) = [notice for notice in notices if "not forecast from the curve" in notice]
    assert f"`steps={changes['steps']}, warmup_steps={changes['warmup_steps']}, eval_every=" in notice


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("hoffmann-2022", "`forecast=hoffmann-2022` is a published law"),
        ("hofmann", "unknown loss law 'hofmann'"),
        ("nowhere/law.json", "nowhere/law.json"),
    ],
)
def test_what_is_no_law_of_a_ladder_is_refused_before_the_run_begins(text, tmp_path, given, problem):
    with pytest.raises(InputError, match=problem):
        pb.train(small_model(), tmp_path / "run", data=text, forecast=given, **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_law_of_another_vocabulary_is_refused_before_the_run_begins(text, law, tmp_path):
    with pytest.raises(InputError, match=r"a vocabulary of 300 .* or another `forecast`"):
        pb.train(small_model(vocab_size=310), tmp_path / "run", data=text, forecast=law, **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_repeated_text_is_worth_what_the_law_found(law):
    own = replace(law, repetitions=3.0)
    said = repetition_warning(1e9, 1e8, own)
    assert "(R* = 3 of " in said
    assert "is worth 5% of a fresh one" in said  # exp(-9 / 3)
    assert "(Muennighoff et al. 2023)" in repetition_warning(1e9, 1e8, law)  # its R* was not fitted
