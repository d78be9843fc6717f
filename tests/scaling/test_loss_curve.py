"""Where the curve of a run ends: what a known curve comes to, and how sure one can be before."""

import numpy as np
import pytest

from parambudget.scaling.loss_curve import LossCurve, forecast_end, is_long_enough

STEPS = 400
LINEAR = 1 - np.arange(STEPS) / STEPS
CONSTANT_THEN_DOWN = np.minimum(1.0, LINEAR / 0.2)
"""As wsd does it."""


def losses_of(rates: np.ndarray, cost: float) -> np.ndarray:
    """A curve of the form that is fitted: what the rate itself costs is `cost` at its peak."""
    return 1.5 + 6 * np.cumsum(rates) ** -0.25 + cost * rates


def curve_of(rates, n, cost=0.3, noise=0.0, gap=0.1):
    """The first `n` updates of a run, evaluated every tenth of it, and the loss at its end."""
    losses = losses_of(rates, cost)
    after = np.arange(STEPS // 10, n + 1, STEPS // 10)
    evaluations = np.stack([after, losses[after - 1] + gap], axis=1) if len(after) else np.zeros((0, 2))
    seen = losses[:n] * np.exp(noise * np.random.default_rng(0).standard_normal(n))
    return LossCurve(seen, rates, evaluations), losses[-1] + gap


@pytest.mark.parametrize("rates", [LINEAR, CONSTANT_THEN_DOWN], ids=["linear", "wsd"])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_end_of_a_known_curve_lies_in_the_interval(rates, share):
    curve, end = curve_of(rates, round(share * STEPS), noise=0.02)
    found = forecast_end(curve)
    assert found.contains(end)
    assert found.low < found.expected < found.high


def test_a_run_ends_below_the_loss_at_a_constant_rate():
    """Also before its decay has begun: the prior knows of it."""
    curve, _ = curve_of(CONSTANT_THEN_DOWN, 300)
    flat = LossCurve(curve.losses, np.ones(STEPS), curve.evaluations)
    decayed, constant = forecast_end(curve), forecast_end(flat)
    assert decayed.expected < constant.expected - 0.1
    assert decayed.high - decayed.low > 2 * (constant.high - constant.low)


def test_the_interval_narrows_as_the_run_goes_on():
    widths = []
    for n in (100, 200, 300, 390):
        found = forecast_end(curve_of(LINEAR, n, noise=0.02)[0])
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.1 < widths[0]


def test_the_forecast_is_of_held_out_text():
    near, far = (forecast_end(curve_of(LINEAR, 300, gap=gap)[0]).expected for gap in (0.0, 0.3))
    assert far - near == pytest.approx(0.3, abs=0.03)


def test_updates_that_were_skipped_do_not_count():
    curve, _ = curve_of(LINEAR, 200)
    losses = curve.losses.copy()
    losses[[50, 120, 199]] = np.nan
    holey = forecast_end(LossCurve(losses, curve.rates, curve.evaluations))
    assert holey.expected == pytest.approx(forecast_end(curve).expected, rel=0.01)


@pytest.mark.parametrize("n", [11, 79])
def test_nothing_is_forecast_in_the_first_fifth_or_without_an_evaluation(n):
    curve, _ = curve_of(LINEAR, n)
    assert forecast_end(curve) is None
    late, _ = curve_of(LINEAR, 200)
    assert forecast_end(LossCurve(late.losses, late.rates, np.zeros((0, 2)))) is None


@pytest.mark.parametrize("warmup", [1, 5, 30])
def test_a_run_is_long_enough_if_there_is_a_forecast_before_its_last_update(warmup):
    for n in range(warmup, 50):
        rates = np.minimum(np.arange(1, n + 1) / warmup, 1 - np.arange(n) / (2 * n))
        losses = losses_of(rates, 0.3)[:-1]
        found = forecast_end(LossCurve(losses, rates, np.array([[n - 1.0, 2.0]])))
        assert is_long_enough(rates) == (found is not None)
