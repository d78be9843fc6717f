"""Repetition, learning rate and batch: published figures and properties."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import parambudget as pb
from parambudget.arch.presets.registry import preset
from parambudget.arch.sizes import with_sizes
from parambudget.cost.flops import flops_per_token
from parambudget.errors import InputError
from parambudget.scaling.hyperparameters import (
    DEEPSEEK,
    STEP_LAW,
    batch_tokens,
    muon_rate,
    peak_learning_rate,
    step_law_rate,
    update_sizes,
    update_tokens,
    whole_updates,
)
from parambudget.scaling.loss import (
    REPETITIONS,
    effective_tokens,
    epochs,
    repetition_warning,
    worth_of_next_token,
)

amounts = st.floats(1, 1e15)


@pytest.mark.parametrize(
    ("times", "worth", "next_token"),
    [(1, 1, 1), (2, 1.97, 0.94), (4, 3.73, 0.82), (8, 6.62, 0.64), (16, 10.6, 0.38), (40, 15.2, 0.08)],
)
def test_what_repeated_text_is_worth(times, worth, next_token):
    assert epochs(times * 1e9, 1e9) == times
    assert effective_tokens(times * 1e9, 1e9) / 1e9 == pytest.approx(worth, abs=0.05 if worth > 10 else 6e-3)
    assert worth_of_next_token(times * 1e9, 1e9) == pytest.approx(next_token, abs=6e-3)


@given(amounts, amounts)
@example(59.20449723132234, 59.204497231322335)
def test_effective_tokens_are_at_most_the_tokens_trained_on_and_at_least_those_read_once(tokens, unique):
    worth = effective_tokens(tokens, unique)
    assert min(tokens, unique) <= worth <= tokens
    assert worth <= unique * (1 + REPETITIONS) * (1 + 1e-15)
    assert unique < tokens or worth == tokens


@given(amounts)
def test_text_read_without_end_is_worth_1_and_r_times_its_length(unique):
    assert effective_tokens(unique * 1e6, unique) == pytest.approx((1 + REPETITIONS) * unique, rel=1e-12)


@given(st.floats(1e6, 1e12), st.floats(0.1, 100))
def test_the_worth_of_the_next_token_is_the_slope_of_the_effective_tokens(unique, times):
    tokens, step = times * unique, 1e-4 * unique
    assume(abs(times - 1) > 1e-3)  # where the slope bends
    ahead, behind = (effective_tokens(tokens + sign * step, unique) for sign in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(worth_of_next_token(tokens, unique), abs=1e-4)


@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=5))
def test_an_array_of_runs_gives_what_each_gives(runs):
    tokens, unique = np.array(runs).T
    for one in (epochs, effective_tokens, worth_of_next_token):
        assert one(tokens, unique) == pytest.approx([one(*run) for run in runs], rel=1e-14, abs=1e-300)


@pytest.mark.parametrize(
    ("times", "rule"), [(4.1, "above 4, repeated text is worth less"), (16.1, "above 16, little is gained")]
)
def test_above_4_epochs_repeated_text_is_worth_less_and_above_16_little_is_gained(times, rule):
    assert repetition_warning(times * 1e6, 1e6).startswith(f"{times} epochs: ")
    assert rule in repetition_warning(times * 1e6, 1e6)


@given(st.floats(1e-3, 4))
def test_up_to_4_epochs_there_is_nothing_to_warn_of(times):
    assert repetition_warning(times * 1024, 1024) is None


@given(st.integers(1, 10**6), st.integers(1, 10**5), st.floats(0.01, 8))
def test_whole_updates_are_the_nearest_but_never_begin_a_fifth_epoch(data_tokens, update, times):
    tokens = round(times * data_tokens)
    found = whole_updates(tokens, update, data_tokens)
    assert found == 1 or tokens > 4 * data_tokens or found * update <= 4 * data_tokens
    assert found == 1 or abs(found * update - tokens) <= update
    assert whole_updates(tokens, update, None) == max(1, round(tokens / update))


@pytest.mark.parametrize(("name", "sequences"), [("deepseek-7b", 2304), ("deepseek-67b", 4608)])
def test_deepseeks_law_gives_the_batches_that_deepseek_used(name, sequences):
    model, tokens = preset(name), 2e12
    flops = tokens * flops_per_token(with_sizes(model, vocab_size=0))
    # They rounded to a number of sequences that their machines divide.
    assert batch_tokens(tokens, flops).deepseek.value == pytest.approx(sequences * 4096, rel=0.05)


@pytest.mark.parametrize(
    ("parameters", "tokens", "step_law", "step_batch", "deepseek_batch"),
    [
        (124e6, 2.5e9, 2.3e-3, 0.13e6, 0.28e6),
        (350e6, 7e9, 1.5e-3, 0.24e6, 0.54e6),
        (1e9, 20e9, 1.0e-3, 0.44e6, 1.08e6),
    ],
)
def test_both_laws_at_usual_sizes(parameters, tokens, step_law, step_batch, deepseek_batch):
    flops = 6 * parameters * tokens
    assert step_law_rate(parameters, tokens).value == pytest.approx(step_law, rel=0.03)  # two digits
    batch = batch_tokens(tokens, flops)
    assert (batch.step_law.value, batch.deepseek.value) == pytest.approx(
        (step_batch, deepseek_batch), rel=0.04
    )
    assert batch.middle == pytest.approx(math.sqrt(step_batch * deepseek_batch), rel=0.04)


def test_a_suggestion_says_where_its_law_was_fitted():
    assert STEP_LAW.fitted_on == "59M to 1.074B body parameters, 4B to 100B tokens"
    assert DEEPSEEK.fitted_on == "1e+17 to 2e+19 FLOPs"
    assert step_law_rate(350e6, 7e9).law is STEP_LAW
    assert batch_tokens(7e9, 1e18).deepseek.law is DEEPSEEK
    assert "arXiv" in STEP_LAW.source
    assert "arXiv" in DEEPSEEK.source


def test_within_its_range_a_suggestion_has_no_warning():
    assert step_law_rate(350e6, 7e9).warnings == ()
    both = batch_tokens(7e9, 1e19)
    assert both.step_law.warnings == both.deepseek.warnings == ()


def test_outside_its_range_a_suggestion_says_so():
    assert step_law_rate(7e9, 1e9).warnings == (
        "7B body parameters: outside the law's range (59M to 1.074B), extrapolated",
        "1B tokens: outside the law's range (4B to 100B), extrapolated",
    )
    warning = "1e+21 FLOPs: outside the law's range (1e+17 to 2e+19), extrapolated"
    assert batch_tokens(7e9, 1e21).deepseek.warnings == (warning,)


@pytest.mark.parametrize(
    "refused",
    [
        lambda: epochs(0, 1e9), lambda: effective_tokens(1e9, -1), lambda: worth_of_next_token(math.nan, 1),
        lambda: repetition_warning(1e9, 0), lambda: step_law_rate(0, 1e9), lambda: step_law_rate(1e9, -1.0),
        lambda: batch_tokens(0, 1e19), lambda: batch_tokens(1e9, 0), lambda: batch_tokens(1e9, math.inf),
    ],
)  # fmt: skip
def test_nonsense_is_refused(refused):
    with pytest.raises(InputError, match="must be a finite number above 0"):
        refused()


def test_muons_rate_transfers_over_width_length_and_batch():
    rate = muon_rate(1024, 1e9, 2**18, 2**18)
    assert muon_rate(4096, 1e9, 2**18, 2**18) == pytest.approx(rate / 2)
    assert muon_rate(1024, 1e9, 2**16, 2**18) == pytest.approx(rate / 2)
    assert muon_rate(1024, 32e9, 2**18, 2**18) == pytest.approx(rate * 32**-0.16)


def test_muons_rate_is_the_best_one_of_the_small_runs_and_below_nanochats_at_scale():
    """nanochat's model of 20 layers: 0.1 / sqrt(dim) with 524,288 tokens an update, for 11B tokens."""
    assert muon_rate(128, 2**20, 2**12, 2**12) == pytest.approx(0.02, rel=0.15)
    model = pb.model(
        dim=1280, n_layers=20, n_heads=10, vocab_size=65536, context_length=2048, tied=False, gated=False,
        activation="relu2",
    )  # fmt: skip
    adamw, muon = (peak_learning_rate(model, 11_000_000_000, name, 2**19)[0] for name in ("adamw", "muon"))
    assert adamw < muon < 0.1 / math.sqrt(1280)


@pytest.mark.parametrize("quantities", [(0, 1e9, 1, 1), (64, 0, 1, 1), (64, 1e9, 0, 1), (64, 1e9, 1, -1)])
def test_muons_rate_refuses_what_is_not_positive(quantities):
    with pytest.raises(InputError):
        muon_rate(*quantities)


@pytest.mark.parametrize("name", ["gpt2", "llama-3.2-1b", "mixtral-8x7b-v0.1"])
def test_the_updates_of_many_runs_are_those_of_each(name):
    model = pb.model(name)
    tokens = np.geomspace(1e5, 1e14, 40).astype(np.int64)
    each = [update_tokens(model, int(n))[0] for n in tokens]
    assert update_sizes(model, tokens).tolist() == each
    assert len(set(each)) > 8
