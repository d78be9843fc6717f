"""Laws of loss and of the division of compute: published figures, and what any such law must obey."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import models

from parambudget.arch.presets.registry import preset
from parambudget.cost.params import count
from parambudget.errors import InputError
from parambudget.scaling.compute_optimal import compute_optimal, optimal_size
from parambudget.scaling.loss import (
    BESIROGLU_2024,
    DEFAULT_LAW,
    HOFFMANN_2022,
    LOSS_LAWS,
    MUENNIGHOFF_2023,
    bits_per_byte,
    estimate_loss,
    expected_loss,
    law_parameters,
    loss_law,
)

EVERY_LAW = pytest.mark.parametrize("law", LOSS_LAWS.values(), ids=LOSS_LAWS)
sizes = st.floats(1e5, 1e13)
tokens_of = st.floats(1e5, 1e15)
laws = st.sampled_from(list(LOSS_LAWS.values()))
ROUNDING = 1 + 1e-14
"""Losses are sums of powers: their last bits are noise."""


@pytest.mark.parametrize(
    ("flops", "parameters", "tokens", "ratio", "loss"),
    [
        (1e18, 80.5e6, 2.07e9, 25.7, 3.490), (1e19, 262e6, 6.36e9, 24.2, 2.927),
        (1e20, 853e6, 19.5e9, 22.9, 2.553), (1e21, 2.78e9, 60.0e9, 21.6, 2.306),
        (1e22, 9.05e9, 184e9, 20.4, 2.141), (5.76e23, 72.2e9, 1.33e12, 18.4, 1.974),
    ],
)  # fmt: skip
def test_the_refitted_optimum_is_the_published_one(flops, parameters, tokens, ratio, loss):
    best = compute_optimal(BESIROGLU_2024, flops)
    # The figures have three digits, the losses four.
    assert (best.n_parameters, best.tokens, best.tokens_per_parameter) == pytest.approx(
        (parameters, tokens, ratio), rel=3e-3
    )
    assert best.loss == pytest.approx(loss, abs=6e-4)


@pytest.mark.parametrize(("flops", "ratio"), [(1e18, 18.6), (1e20, 27.8), (1e22, 41.5), (5.76e23, 59.1)])
def test_hoffmanns_own_fit_wants_more_tokens_per_parameter_the_larger_the_budget(flops, ratio):
    assert compute_optimal(HOFFMANN_2022, flops).tokens_per_parameter == pytest.approx(ratio, abs=0.06)


def test_hoffmanns_unrounded_constants_round_to_the_printed_ones():
    law = HOFFMANN_2022
    assert [round(x, 2) for x in (law.E, law.A, law.B, law.alpha, law.beta)] == [
        1.69,
        406.4,
        410.7,
        0.34,
        0.28,
    ]


def test_rounding_alone_moves_hoffmanns_optimum_by_more_than_half():
    rounded = replace(HOFFMANN_2022, E=1.69, alpha=0.34, beta=0.28)
    ratios = [compute_optimal(rounded, flops).tokens_per_parameter for flops in (1e18, 5.76e23)]
    assert ratios == pytest.approx([25.7, 92.6], abs=0.06)


def test_two_independent_fits_agree_on_the_size_up_to_1e21_flops():
    for flops in np.geomspace(1e18, 1e21, 10):
        there = 0.1715 * flops**0.5243 / 6  # DeepSeek-AI 2024, arXiv 2401.02954, see docs/laws.md
        assert compute_optimal(BESIROGLU_2024, flops).n_parameters == pytest.approx(there, rel=0.055)


@pytest.mark.parametrize(
    ("parameters", "tokens", "loss"),
    [(6.34e9, 242e9, 2.2256440889984477), (8.67e9, 178e9, 2.2269634075087867)],
)
def test_the_data_constrained_law_is_that_of_its_authors_code(parameters, tokens, loss):
    assert expected_loss(MUENNIGHOFF_2023, parameters, tokens, 25e9) == pytest.approx(loss, rel=1e-14)


def test_the_data_constrained_law_has_the_constants_of_its_paper():
    law = MUENNIGHOFF_2023
    assert [round(law.A), round(law.B), round(law.E, 2)] == [521, 1488, 1.87]
    assert law.parameters_for(1.0) == pytest.approx(0.051, abs=5e-4)


@given(laws, sizes, sizes, tokens_of, st.none() | tokens_of)
def test_a_larger_model_is_never_expected_to_be_worse(law, one, other, tokens, unique):
    small, large = sorted((one, other))
    assert expected_loss(law, large, tokens, unique) <= expected_loss(law, small, tokens, unique) * ROUNDING


@given(laws, sizes, tokens_of, tokens_of, st.none() | tokens_of)
def test_more_tokens_are_never_expected_to_be_worse(law, size, one, other, unique):
    few, many = sorted((one, other))
    assert expected_loss(law, size, many, unique) <= expected_loss(law, size, few, unique) * ROUNDING


@given(laws, sizes, tokens_of, tokens_of, tokens_of)
def test_more_text_to_read_from_is_never_expected_to_be_worse(law, size, tokens, one, other):
    little, much = sorted((one, other))
    assert expected_loss(law, size, tokens, much) <= expected_loss(law, size, tokens, little) * ROUNDING


@given(laws, sizes, tokens_of, tokens_of)
def test_repeated_text_is_never_better_than_fresh_text(law, size, tokens, unique):
    fresh = expected_loss(law, size, tokens)
    repeated = expected_loss(law, size, tokens, unique)
    assert repeated * ROUNDING >= fresh
    if unique >= tokens:
        assert repeated == fresh


@given(laws, sizes, tokens_of)
def test_text_without_end_leaves_what_the_law_calls_irreducible(law, size, tokens):
    assert expected_loss(law, size, tokens) > law.E
    assert expected_loss(law, 1e40, 1e40) == pytest.approx(law.E, rel=1e-9)


@given(laws, st.floats(1e15, 1e26), st.floats(3, 20), st.floats(0.1, 10).filter(lambda x: abs(x - 1) > 1e-3))
def test_on_the_line_of_equal_flops_the_optimum_is_the_minimum(law, flops, per_parameter, step):
    best = compute_optimal(law, flops, per_parameter)
    assert best.n_parameters * best.tokens * per_parameter == pytest.approx(flops, rel=1e-12)
    assert expected_loss(law, best.n_parameters * step, best.tokens / step) > best.loss


@given(laws, st.floats(1e15, 1e26))
def test_the_parameters_for_the_optimal_tokens_are_the_optimal_parameters(law, flops):
    best = compute_optimal(law, flops)
    assert law.parameters_for(best.tokens) == pytest.approx(best.n_parameters, rel=1e-12)


def test_the_best_size_on_the_grid_is_the_minimum_with_and_without_repeated_text():
    best = compute_optimal(BESIROGLU_2024, 6 * 1e8 * 4e9)
    found = optimal_size(BESIROGLU_2024, 1e8, 4e9)
    assert found.expected == pytest.approx(best.n_parameters, rel=0.013)  # half a step of the grid
    assert (found.low, found.high) == (found.expected, found.expected)
    repeated = optimal_size(BESIROGLU_2024, 1e8, 4e9, 1e9).expected
    beside = [
        float(expected_loss(BESIROGLU_2024, n, 1e8 * 4e9 / n, 1e9))
        for n in (repeated / 1.05, repeated * 1.05)
    ]
    assert expected_loss(BESIROGLU_2024, repeated, 1e8 * 4e9 / repeated, 1e9) < min(beside)


@given(laws, st.lists(st.tuples(sizes, tokens_of), min_size=1, max_size=5), st.none() | tokens_of)
def test_an_array_gives_what_its_elements_give(law, runs, unique):
    columns = np.array(runs).T
    losses = expected_loss(law, columns[0], columns[1], unique)
    # NumPy's vector power may differ in the last bit from the scalar one.
    assert losses == pytest.approx([expected_loss(law, *run, unique) for run in runs], rel=1e-14)


@EVERY_LAW
def test_whole_numbers_count_as_floats_do(law):
    as_int = expected_loss(law, 350 * 10**6, 7 * 10**9, 10**9)
    assert type(as_int) is float
    assert as_int == expected_loss(law, 350e6, 7e9, 1e9)
    assert expected_loss(law, np.array([350 * 10**6]), np.int64(7 * 10**9), 1e9) == pytest.approx([as_int])


@given(models())
def test_a_law_counts_one_table_of_tokens(m):
    assert law_parameters(m) == count(m).active - count(m).by_component["lm_head"]


def test_an_untied_head_is_not_counted_by_a_law_and_a_tied_one_costs_nothing():
    assert law_parameters(preset("llama-3-8b")) == 8_030_261_248 - 128_256 * 4_096
    assert law_parameters(preset("gpt2")) == 124_439_808


def test_a_loss_in_nats_per_token_in_bits_per_byte():
    assert bits_per_byte(math.log(2), 1) == pytest.approx(1, rel=1e-15)
    assert bits_per_byte(np.array([3.0, 4.5]), 4.5) == pytest.approx([0.961797, 1.442695], abs=1e-6)
    assert estimate_loss(DEFAULT_LAW, 350e6, 7e9, bytes_per_token=4.0).bits_per_byte == pytest.approx(
        expected_loss(DEFAULT_LAW, 350e6, 7e9) / 4 / math.log(2)
    )
    assert estimate_loss(DEFAULT_LAW, 350e6, 7e9).bits_per_byte is None


@EVERY_LAW
def test_no_loss_is_above_that_of_guessing_uniformly(law):
    estimate = estimate_loss(law, 157e3, 1e8, vocab_size=400)
    assert (estimate.loss, estimate.is_bound) == (pytest.approx(math.log(400)), True)
    assert "the law expects more than ln 400 = 5.991 nats" in estimate.warnings[-1]
    assert expected_loss(law, np.array([157e3, 1e9]), 1e10, vocab_size=400) == pytest.approx(
        [min(expected_loss(law, n, 1e10), math.log(400)) for n in (157e3, 1e9)]
    )
    usual = estimate_loss(law, 350e6, 7e9, vocab_size=50257)
    assert (usual.loss, usual.is_bound) == (expected_loss(law, 350e6, 7e9), False)


@EVERY_LAW
def test_a_usual_run_has_no_warning_and_says_what_its_loss_means(law):
    estimate = estimate_loss(law, 350e6, 7e9, 7e9)
    assert estimate.warnings == ()
    assert estimate.loss == expected_loss(law, 350e6, 7e9)
    assert estimate.meaning.endswith("depend on text and tokenizer; only differences are comparable")
    assert law.name in estimate.meaning
    assert law.fitted_on in estimate.meaning


@pytest.mark.parametrize(
    ("run", "warning"),
    [
        ((20e6, 1e9), "20M parameters: outside the law's range (50M to 16B), extrapolated "
         "(embeddings dominate)"),
        ((72e9, 200e9), "72B parameters: outside the law's range (50M to 16B), extrapolated"),
        ((1e8, 8e8), "800M tokens: outside the law's range (875M to 500B), extrapolated"),
        ((1e8, 51e9), "510 tokens per parameter: outside the law's range (1 to 500), extrapolated"),
        ((2e9, 1e9), "0.5 tokens per parameter: outside the law's range (1 to 500), extrapolated"),
        ((1e8, 8e9, 1.6e9), "5 epochs: the run reads 8B tokens from a text of 1.6B; above 4, repeated text "
         "is worth less: all of it teaches as much as 7.236B fresh tokens, and the next token is worth 77% "
         "of a fresh one (Muennighoff et al. 2023)"),
        ((1e8, 80e9, 4e9), "20 epochs: the run reads 80B tokens from a text of 4B; above 16, little is "
         "gained: all of it teaches as much as 47.65B fresh tokens, and the next token is worth 29% of a "
         "fresh one (Muennighoff et al. 2023)"),
        ((1e9, 8e9, 4e9), "4B unique tokens support 161M parameters: more gain less than besiroglu-2024 says"
         "; muennighoff-2023 models this"),
    ],
    ids=["small", "large", "few tokens", "long", "short", "5 epochs", "20 epochs", "too large"],
)  # fmt: skip
def test_outside_its_range_a_law_says_so(run, warning):
    assert warning in estimate_loss(BESIROGLU_2024, *run).warnings


def test_the_law_with_a_term_for_excess_parameters_does_not_point_at_itself():
    assert estimate_loss(MUENNIGHOFF_2023, 1e9, 8e9, 4e9).warnings == ()


def test_warnings_stand_by_an_optimum_as_well():
    assert compute_optimal(BESIROGLU_2024, 1e20).warnings == ()
    assert len(compute_optimal(BESIROGLU_2024, 5.76e23).warnings) == 2


@EVERY_LAW
def test_every_law_has_a_source_and_says_how_it_is_known(law):
    assert "arXiv" in law.source
    assert law.evidence
    assert loss_law(law.name) is law


def test_the_default_law_stands_first():
    assert next(iter(LOSS_LAWS.values())) is DEFAULT_LAW is BESIROGLU_2024


def test_an_unknown_law_lists_all_the_nearest_first():
    with pytest.raises(InputError) as error:
        loss_law("hofman")
    assert str(error.value).startswith("unknown loss law 'hofman'; use hoffmann-2022, ")
    assert all(name in str(error.value) for name in LOSS_LAWS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1e9, 0), "tokens is 0; it must be a finite number above 0"),
        ((-5, 1e9), "n_parameters is -5; it must be a finite number above 0"),
        ((1e9, math.nan), "tokens is nan; it must be a finite number above 0"),
        ((math.inf, 1e9), "n_parameters is inf; it must be a finite number above 0"),
        ((10**400, 1e9), "n_parameters is inf; it must be a finite number above 0"),
        ((True, 1e9), "n_parameters is True; it must be a number above 0"),
        (("350M", 1e9), "n_parameters is '350M'; it must be a number above 0"),
        ((1e9, None), "tokens is None; it must be a number above 0"),
        ((1e9, 1e9, 0), "unique_tokens is 0; it must be a finite number above 0"),
        ((np.array([1e9, -2]), 1e9), "n_parameters contains -2; every value must be a finite number above 0"),
        ((1e9, np.array([math.nan])), "tokens contains nan; every value must be a finite number above 0"),
        ((1e9, np.array(["a"])), "tokens is an array of <U1; it must contain numbers above 0"),
    ],
)
def test_nonsense_is_refused_in_one_line(arguments, message):
    with pytest.raises(InputError) as error:
        expected_loss(DEFAULT_LAW, *arguments)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "refused",
    [
        lambda: estimate_loss(DEFAULT_LAW, 1e9, 0.0),
        lambda: estimate_loss(DEFAULT_LAW, 1e9, 1e9, -1.0),
        lambda: estimate_loss(DEFAULT_LAW, 1e9, 1e9, bytes_per_token=0.0),
        lambda: bits_per_byte(-1.0, 4.0),
        lambda: bits_per_byte(3.0, 0.0),
        lambda: compute_optimal(DEFAULT_LAW, 0.0),
        lambda: compute_optimal(DEFAULT_LAW, 1e20, -6.0),
        lambda: compute_optimal(DEFAULT_LAW, math.nan),
        lambda: DEFAULT_LAW.parameters_for(0),
    ],
)
def test_every_public_function_refuses_nonsense(refused):
    with pytest.raises(InputError, match="must be a finite number above 0"):
        refused()
