"""A law fitted to losses that are drawn from a known one, with noise and without."""

from dataclasses import replace

import numpy as np
import pytest
from support.benchmark_scripts import load_benchmark

from parambudget.ladders.bootstrap import Noise
from parambudget.ladders.constants import Constants, Design, log_losses
from parambudget.ladders.fit import fit_constants, group_losses
from parambudget.scaling.loss import DEFAULT_LAW, MUENNIGHOFF_2023, expected_loss

TRUTH = Constants(E=1.6, A=55.0, B=80.0, alpha=0.35, beta=0.37, repetitions=15.387756)
SIZES = np.repeat(np.geomspace(4e4, 4e5, 5), 2)
TOKENS = SIZES * np.tile([5.0, 15.0], 5)


def losses_of(law, sizes, tokens, unique):
    return expected_loss(replace(DEFAULT_LAW, **vars(law)), sizes, tokens, unique)


def test_the_law_behind_losses_without_noise_comes_back():
    # Four powers of ten in size and many ratios: then nothing is left to the prior.
    sizes = np.repeat(np.geomspace(1e5, 1e9, 9), 4)
    tokens = sizes * np.tile([2.0, 8.0, 30.0, 120.0], 9)
    data = group_losses(sizes, tokens, tokens, losses_of(TRUTH, sizes, tokens, tokens))
    found = fit_constants(data).constants
    assert (found.E, found.alpha, found.beta) == pytest.approx((TRUTH.E, TRUTH.alpha, TRUTH.beta), rel=0.01)
    assert pytest.approx((TRUTH.A, TRUTH.B), rel=0.05) == (found.A, found.B)


def test_one_run_that_is_far_off_hardly_moves_the_prediction():
    losses = losses_of(TRUTH, SIZES, TOKENS, TOKENS)
    spoiled = losses * np.where(np.arange(10) == 4, 1.05, 1.0)
    clean, moved = (
        losses_of(fit_constants(group_losses(SIZES, TOKENS, TOKENS, each)).constants, 1.1e6, 4.5e6, 4.5e6)
        for each in (losses, spoiled)
    )
    assert moved == pytest.approx(clean, rel=0.01)  # five times less than the run is off


def test_seeds_tell_the_noise_and_share_a_pair():
    sizes, tokens = np.repeat(SIZES, 2), np.repeat(TOKENS, 2)
    losses = losses_of(TRUTH, sizes, tokens, tokens) * np.exp(np.tile([0.01, -0.01], 10))
    data = group_losses(sizes, tokens, tokens, losses)
    assert data.design.seeds.tolist() == [2.0] * 10
    assert data.seed_squares == pytest.approx(20 * 0.01**2)
    noise = fit_constants(data).noise
    assert noise.seed_freedom == 10
    assert noise.seed_variance**0.5 == pytest.approx(0.0135, abs=1e-4)  # sqrt((20e-4 + 0.004^2) / 11)


def test_repeated_text_tells_what_a_repetition_is_worth():
    truth = Constants(1.6, 55.0, 80.0, 0.35, 0.37, repetitions=4.0)
    sizes = np.repeat(np.geomspace(4e4, 4e5, 4), 4)
    tokens = np.tile([4e5, 2e6, 8e6, 3.2e7], 4)
    unique = np.full(16, 1e6)
    found = fit_constants(group_losses(sizes, tokens, unique, losses_of(truth, sizes, tokens, unique)))
    assert found.constants.repetitions == pytest.approx(4, rel=0.1)  # 15.4 before any run


def test_losses_are_those_of_the_published_form():
    law = MUENNIGHOFF_2023
    fitted = np.log([law.A, law.B, law.E, law.alpha, law.beta, law.repetitions])
    design = Design(np.array([1e6, 1e8]), np.array([1e9, 4e9]), np.array([2e9, 1e9]), np.ones(2))
    found, _ = log_losses(fitted, design, (0.0, 0.0))
    plain = [
        law.E + law.A / 1e6**law.alpha + law.B / 1e9**law.beta,
        # The same R*, and without the law's own decay of parameters that the text does not support.
        expected_loss(replace(law, excess_parameters=None), 1e8, 4e9, 1e9),
    ]
    assert np.exp(found).tolist() == pytest.approx(plain, rel=1e-12)


def test_the_slopes_are_those_of_the_losses():
    design = Design(SIZES, TOKENS, np.full(10, 1e6), np.ones(10))
    at = np.array([-0.1, 0.2, 0.4, np.log(0.3), np.log(0.4), np.log(9.0)])
    _, slopes = log_losses(at, design, design.middle)
    for i in range(6):
        step = np.eye(6)[i] * 1e-6
        up, down = (log_losses(at + sign * step, design, design.middle)[0] for sign in (1, -1))
        assert slopes[:, i] == pytest.approx((up - down) / 2e-6, abs=1e-8)


def test_noise_is_never_less_than_what_seeds_explain():
    quiet = Noise(0.0, seed_freedom=8.0, residual_squares=0.0, residual_freedom=6.0, mean_seeds=2.0)
    loud = replace(quiet, residual_squares=6 * 0.02**2)
    assert 0 < quiet.misfit_variance < loud.misfit_variance
    assert loud.misfit_variance**0.5 == pytest.approx(0.0185, abs=5e-4)  # of 7 degrees, 6 saw 0.02


def test_the_interval_holds_the_truth_in_most_draws():
    """A short form of the benchmark in docs/ladder.md."""
    script = load_benchmark("ladder_coverage")
    found = script.coverage(script.CASES[0], draws=12)
    assert found.expected >= 9 / 12
    assert found.measured >= 9 / 12
    assert found.width < 0.04
