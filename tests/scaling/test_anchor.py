"""A law through a measured run: one factor, the same shape, the laws' spread elsewhere."""

import math
from dataclasses import replace

import pytest

from parambudget.errors import InputError
from parambudget.scaling.anchor import Anchor
from parambudget.scaling.compute_optimal import compute_optimal
from parambudget.scaling.loss import (
    BESIROGLU_2024,
    HOFFMANN_2022,
    LOSS_LAWS,
    MUENNIGHOFF_2023,
    LossLaw,
    anchor_law,
    effective_tokens,
    estimate_loss,
    expected_loss,
    laws_beside,
    require_comparable,
)
from parambudget.scaling.numbers import FittedRange

SIMPLE = LossLaw(
    name="simple", E=1.0, A=10.0, B=100.0, alpha=0.5, beta=0.5, excess_parameters=None, fitted_on="nothing",
    parameters=FittedRange(1, 1e12), tokens=FittedRange(1, 1e12), source="made up", evidence="none",
)  # fmt: skip
RUN = Anchor(loss=6.0, tokens=10_000.0, n_parameters=100.0, vocab_size=50_257, source="runs/a")


def test_all_terms_get_the_factor_that_leads_through_the_run():
    law = anchor_law(SIMPLE, RUN)  # 1 + 10 / 10 + 100 / 100 = 3 becomes 6
    assert (law.E, law.A, law.B) == (2.0, 20.0, 200.0)
    assert (law.alpha, law.beta, law.anchor) == (0.5, 0.5, RUN)
    assert expected_loss(law, 100.0, 10_000.0) == 6.0
    assert expected_loss(law, 400.0, 40_000.0) == 2 * expected_loss(SIMPLE, 400.0, 40_000.0) == 4.0


def test_a_run_that_read_its_text_repeatedly_is_met_with_its_effective_tokens():
    repeated = replace(RUN, unique_tokens=1_000.0)
    law = anchor_law(SIMPLE, repeated)
    unanchored = 1 + 1 + 100 / math.sqrt(effective_tokens(10_000.0, 1_000.0))
    assert math.isclose(law.E, 6 / unanchored, rel_tol=1e-12)
    assert expected_loss(law, 100.0, 10_000.0, 1_000.0) == pytest.approx(6.0, rel=1e-12)


@pytest.mark.parametrize("law", LOSS_LAWS.values(), ids=LOSS_LAWS)
def test_every_law_of_the_table_goes_through_the_run_and_divides_compute_as_before(law):
    run = Anchor(3.5, 4e8, 1.24e8, 50_257, "runs/a", 1e8)
    level = anchor_law(law, run)
    assert expected_loss(level, 1.24e8, 4e8, 1e8) == pytest.approx(3.5, rel=1e-12)
    assert level.balance == pytest.approx(law.balance, rel=1e-12)
    before, after = (compute_optimal(each, 1e20) for each in (law, level))
    assert after.n_parameters == pytest.approx(before.n_parameters, rel=1e-9)


def test_an_anchored_loss_stays_above_zero_for_text_that_is_easy_to_predict():
    law = anchor_law(BESIROGLU_2024, Anchor(0.2, 1e8, 1e8, 256, "runs/bytes"))
    assert 0 < law.E < expected_loss(law, 1e12, 1e15) < 0.2


def test_beside_an_anchored_law_stand_the_others_through_the_same_run():
    assert laws_beside(HOFFMANN_2022) == (HOFFMANN_2022,)
    laws = laws_beside(anchor_law(HOFFMANN_2022, RUN))
    assert [law.name for law in laws] == ["hoffmann-2022", "besiroglu-2024", "muennighoff-2023"]
    assert {law.anchor for law in laws} == {RUN}
    assert [law.name for law in laws_beside(anchor_law(SIMPLE, RUN))] == ["simple", *LOSS_LAWS]


def test_the_meaning_names_the_run_and_whose_text_it_is():
    estimate = estimate_loss(anchor_law(SIMPLE, RUN), 100.0, 10_000.0)
    assert estimate.meaning == (
        "simple at the level of runs/a (6 nats per token after 10K tokens): absolute losses are those of its "
        "text and tokenizer"
    )
    assert "only differences are comparable" in estimate_loss(SIMPLE, 100.0, 10_000.0).meaning


def test_an_anchor_outside_the_range_of_the_law_is_said_once():
    tiny = Anchor(4.0, 1e6, 1e6, 50_257, "runs/tiny")
    law = anchor_law(MUENNIGHOFF_2023, tiny)
    found = estimate_loss(law, 1e8, 1e9).warnings
    assert found == (
        "runs/tiny: 1M parameters: outside the law's range (50M to 9B), extrapolated",
        "runs/tiny: 1M tokens: outside the law's range (100M to 900B), extrapolated",
    )
    assert sum("parameters: outside" in line for line in estimate_loss(law, 1e6, 1e9).warnings) == 1


def test_losses_of_another_tokenizer_are_refused_in_one_line():
    law = anchor_law(SIMPLE, RUN)
    require_comparable(law, 50_257, 1024)
    require_comparable(SIMPLE, 300, 1024)
    with pytest.raises(InputError, match=r"a vocabulary of 50,257 and the model one of 300: .* tokenizer; "):
        require_comparable(law, 300, 1024)
