"""A ladder in its folder: what its runs leave is fitted or refused, and what is missing is trained."""

import json
from dataclasses import replace

import pytest
import torch
from support.finished_ladder import (
    TARGET,
    document_of,
    law_loss,
    write_finished_ladder,
    write_finished_run,
)
from support.training_data import small_config, small_data, small_model, write_text

import parambudget as pb
from parambudget._documents import read_with_seal, write_with_seal
from parambudget._files import only_writer
from parambudget.errors import InputError
from parambudget.ladders.design import Rung
from parambudget.ladders.ladder import Ladder
from parambudget.ladders.ladder_file import (
    LADDER_FILE,
    LadderDocument,
    RungEntry,
    run_path,
    write_ladder,
)
from parambudget.ladders.run import LadderEvents, run_rungs
from parambudget.scaling.law_file import find_law, read_law
from parambudget.scaling.loss import estimate_loss, expected_loss, law_parameters


@pytest.fixture
def finished(tmp_path):
    """A ladder of ten finished runs, whose losses follow a law."""
    return write_finished_ladder(tmp_path / "ladder")


def without_runs(folder, keep):
    """The ladder, with only those runs finished."""
    for entry in Ladder(folder).document.rungs:
        if not keep(entry):
            summary = run_path(folder, entry.name) / "summary.json"
            summary.write_text(json.dumps(json.loads(summary.read_text()) | {"finished": False}))


def change_summary(folder, changes):
    """The ladder, with something else in the summary of every run."""
    for entry in Ladder(folder).document.rungs:
        path = run_path(folder, entry.name) / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes(entry)))


def test_the_fit_predicts_the_target_and_the_largest_runs(finished):
    fit = Ladder(finished).fit()
    truth = law_loss(fit.target.n_parameters, fit.target.tokens)
    assert fit.prediction.contains(truth)
    assert fit.prediction.expected == pytest.approx(truth, rel=0.01)
    assert [each.point.entry.name for each in fit.held_out] == ["64-4-5", "64-4-15"]
    assert all(abs(each.error) < 0.01 for each in fit.held_out)
    assert fit.optimum.low < fit.optimum.expected < fit.optimum.high
    assert len(fit.rows()) == 10
    assert fit.left_out == ()


def test_the_interval_of_the_target_is_that_of_a_plan_with_the_law(finished):
    plan = pb.plan(TARGET, "h100", tokens="20M", law=Ladder(finished).fit().law)
    document = replace(Ladder(finished).document, target_tokens=plan.tokens)  # in whole updates
    write_with_seal(finished / LADDER_FILE, document)
    fit = Ladder(finished).fit()
    assert plan.loss.loss == fit.prediction.expected
    assert plan.loss_range == (fit.prediction.low, fit.prediction.high)


def test_the_largest_runs_are_not_predicted_from_fewer_pairs_than_constants(finished):
    # Without them five pairs: enough for a law of fresh text, and one too few where R* is fitted as well.
    without_runs(finished, lambda entry: entry.name not in ("32-1-5", "32-2-5", "48-2-5"))
    assert len(Ladder(finished).fit().held_out) == 2
    document = replace(Ladder(finished).document, unique_tokens=100_000)
    write_with_seal(finished / LADDER_FILE, document)
    assert Ladder(finished).fit().held_out == ()


def test_the_law_is_read_back_as_it_was_written(finished, tmp_path):
    fit = Ladder(finished).fit()
    fit.save(tmp_path / "law.json")
    law = find_law(str(tmp_path / "law.json"))
    assert replace(law, name=fit.law.name) == fit.law
    assert expected_loss(law, 1e5, 1e6) == expected_loss(fit.law, 1e5, 1e6)


def test_a_damaged_law_and_a_name_that_is_none_are_refused(finished, tmp_path):
    path = tmp_path / "law.json"
    Ladder(finished).fit().save(path)
    path.write_text(path.read_text().replace('"version"', '"revision"'))
    with pytest.raises(InputError, match="damaged"):
        read_law(path)
    with pytest.raises(InputError, match=r"unknown loss law 'chinchila'.* or the law\.json of a ladder"):
        find_law("chinchila")


def test_a_plan_with_a_fitted_law_has_an_interval_and_says_of_what(finished):
    law = Ladder(finished).fit().law
    plan = pb.plan(TARGET, "h100", tokens="20M", law=law)
    low, high = plan.loss_range
    assert low < plan.loss.loss < high
    assert high - low < 0.2
    assert "fitted to 10 runs on a text (vocabulary 300, context 64)" in plan.loss.meaning


def test_another_vocabulary_or_context_than_the_laws_is_refused(finished):
    law = Ladder(finished).fit().law
    with pytest.raises(
        InputError, match="a vocabulary of 300 and a context of 64, and the model has 500 and 64"
    ):
        pb.plan(TARGET.replace(vocab_size=500), "h100", tokens="20M", law=law)
    with pytest.raises(InputError, match="leave out `anchor`"):
        pb.plan(TARGET, "h100", tokens="20M", law=law, anchor="loss=3,tokens=1M,model=gpt2")


def test_solve_takes_vocabulary_and_context_of_the_law_and_says_how_sure_it_is(finished):
    law = Ladder(finished).fit().law
    found = pb.solve(budget=pb.Budget(flops=2e15), law=law)
    assert (found[0].model.vocab_size, found[0].model.context_length) == (300, 64)
    low, high = found.size_interval
    assert low < high
    assert found[0].forecast.loss_level == f"the ladder of {law.name}"


def test_a_run_far_beyond_the_ladder_is_warned_of(finished):
    law = Ladder(finished).fit().law
    largest = law.fit.largest_products
    near, far = (estimate_loss(law, 1e6, times * largest / 1e6).warnings for times in (29, 31))
    assert not [line for line in near if "interval is too narrow" in line]
    assert [line for line in far if "31 times the compute" in line]


def test_a_ladder_is_given_by_its_path_in_any_form(finished):
    assert Ladder(str(finished)) == Ladder(finished)
    assert Ladder(str(finished)).law_path == finished / "law.json"


def test_a_plan_and_its_warnings_use_what_the_law_found_a_repetition_to_be_worth(finished):
    law = replace(Ladder(finished).fit().law, repetitions=3.0)
    plan = pb.plan(TARGET, "h100", tokens="20M", unique_tokens="2M", law=law)
    assert plan.repetition in plan.warnings
    assert "the next token is worth 5% of a fresh one (R* = 3 of " in plan.repetition


def test_a_folder_without_a_ladder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no ladder \(ladder.json is missing\)"):
        Ladder(tmp_path).fit()


def test_fewer_pairs_than_constants_and_a_single_size_are_refused(finished):
    without_runs(finished, lambda entry: entry.name.startswith("32"))
    with pytest.raises(InputError, match=r"4 pairs of size and tokens in .* and a law has 5 constants"):
        Ladder(finished).fit()
    without_runs(finished, lambda _: False)
    with pytest.raises(InputError, match=r"0 pairs of size and tokens in .* \(rung 1 .*\); train more"):
        Ladder(finished).fit()


def test_runs_of_a_single_size_are_refused(tmp_path):
    model = pb.model(dim=32, n_layers=1, n_heads=2, vocab_size=300, context_length=64)
    n = float(law_parameters(model))
    entries = [RungEntry(f"r{i}", n, round(i * n), 0, 1.0, None) for i in range(5, 11)]
    for entry in entries:
        write_finished_run(tmp_path, entry, model, law_loss(n, entry.tokens))
    write_with_seal(tmp_path / LADDER_FILE, document_of(entries))
    with pytest.raises(InputError, match="of one size, which tells nothing of another"):
        Ladder(tmp_path).fit()


def test_a_run_of_another_text_or_context_is_refused(finished):
    entry = Ladder(finished).document.rungs[0]
    path = run_path(finished, entry.name) / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"provenance": {"tokens_sha256": "cd" * 32}}))
    with pytest.raises(InputError, match="tokens with the hash cdcdcdcdcdcd, and the ladder abababababab"):
        Ladder(finished).fit()
    path.write_text(json.dumps(config | {"model": config["model"] | {"context_length": 32}}))
    with pytest.raises(InputError, match="a context of 32, and the ladder 64"):
        Ladder(finished).fit()


def test_a_diverged_run_is_named_and_left_out(finished):
    entry = Ladder(finished).document.rungs[2]
    path = run_path(finished, entry.name) / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"val_loss": None}))
    fit = Ladder(finished).fit()
    assert fit.left_out == (f"rung 3 ({entry.name}) has no finite validation loss: it has diverged",)
    assert len(fit.points) == 9


def test_a_run_that_read_other_tokens_than_its_rung_is_refused(finished):
    change_summary(finished, lambda entry: {"tokens": entry.tokens + 1})
    with pytest.raises(InputError, match=r"has read 191,841 tokens, and its rung has 191,840; remove it"):
        Ladder(finished).fit()


def test_a_fit_that_is_of_noise_or_at_its_floor_is_warned_of(finished):
    def warned(word):
        return [line for line in Ladder(finished).fit().warnings if word in line]

    assert not warned("fitted to noise")
    assert not warned("gain nothing")
    change_summary(finished, lambda entry: {"val_loss": 3 + law_loss(entry.n_parameters, entry.tokens) / 1e3})
    assert warned("gain nothing")
    document = Ladder(finished).document
    again = [replace(entry, name=f"{entry.name}-1", seed=1) for entry in document.rungs]
    for i, entry in enumerate(again):
        write_finished_run(finished, entry, TARGET, 3 + 0.1 * (-1) ** i)
    write_with_seal(finished / LADDER_FILE, replace(document, rungs=(*document.rungs, *again)))
    assert warned("fitted to noise")
    assert warned("hardly decide")


# ---- training


@pytest.fixture
def untrained(tmp_path, one_thread):  # noqa: ARG001
    """A ladder of three tiny runs on a small text."""
    data = small_data(tmp_path)
    rungs = {
        f"r{seed}": Rung(small_model(), small_config(seed=seed, steps=4, eval_every=4, save_every=4))
        for seed in range(3)
    }
    entries = [RungEntry(name, rung.n_parameters, rung.tokens, seed, 1.0, None)
               for seed, (name, rung) in enumerate(rungs.items())]  # fmt: skip
    document = document_of(
        entries, data=str(write_text(tmp_path / "text")), tokens_sha256=data.tokens_sha256,
        corpus_sha256=data.sha256, context_length=16,
    )  # fmt: skip
    write_ladder(tmp_path / "ladder", document, rungs)
    return tmp_path / "ladder"


def test_a_failed_run_is_named_and_the_others_go_on_and_the_same_line_finishes_it(untrained):
    config = untrained / "configs" / "r1.json"
    before = config.read_text()
    config.write_text(before.replace('"steps": 4', '"steps": 0'))
    outcomes = run_rungs(untrained, device="cpu")
    assert [outcome.state for outcome in outcomes] == ["finished", "failed", "finished"]
    assert "steps" in outcomes[1].problem
    config.write_text(before)
    again = run_rungs(untrained, device="cpu")
    assert [outcome.state for outcome in again] == ["finished"] * 3
    assert again[0].result == outcomes[0].result  # not trained a second time


def test_a_run_that_another_process_trains_is_left_to_it(untrained):
    (untrained / "runs").mkdir()
    notices = []
    events = LadderEvents(on_notice=notices.append)
    with only_writer(untrained / "runs" / ".r0.lock", "busy"):
        (outcome,) = run_rungs(untrained, [1], device="cpu", events=events)
        assert notices == []  # with one thread each, processes are in nobody's way
        torch.set_num_threads(2)
        run_rungs(untrained, [1], device="cpu", events=events)
        torch.set_num_threads(1)
    assert outcome.state == "busy"
    (notice,) = notices
    assert "this one has 2 threads" in notice
    assert "OMP_NUM_THREADS=1" in notice
    with pytest.raises(InputError, match="`only=4` is not a rung of this ladder; its rungs are 1 to 3"):
        run_rungs(untrained, [4], device="cpu")


def test_a_ladder_is_read_back_as_it_was_written(untrained):
    document = read_with_seal(untrained / LADDER_FILE, LadderDocument)
    assert document == Ladder(untrained).document
    assert document.target_run.model == TARGET
