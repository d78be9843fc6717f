"""The rule by which `report` chooses: what does not fit is left out, what is clearly better wins, and what
cannot be told apart is decided as in `solve`."""

from dataclasses import replace

import pytest

import parambudget as pb
from parambudget.planning.recommendation import (
    Option,
    choose_option,
    is_clearly_lower,
    loss_difference,
    ranked_difference,
    recommend,
    seed_nats,
)

MODEL = pb.model(dim=512, n_layers=8, n_heads=8)
TARGET = pb.count(MODEL).total


@pytest.fixture(scope="module")
def plan():
    return pb.plan(MODEL, "h100", hours=1, batch_size=16, gradient_accumulation_steps=8)


def with_tokens(plan, factor):
    """The same run with more or fewer tokens, and the loss that belongs to them."""
    tokens = int(plan.tokens * factor)
    return replace(plan, tokens=tokens, loss=pb.plan(plan.model, plan.machine, tokens=tokens).loss)


def at_speed(plan, factor):
    rate = plan.speed.tokens_per_second
    faster = pb.Interval(*(factor * each for each in rate))
    return replace(plan, speed=replace(plan.speed, tokens_per_second=faster))


def without_room(plan):
    return replace(plan, machine=plan.machine.with_memory(10**9))


def option(label, plan, score=1.0, error=0):
    return Option(label, plan, score, error)


def chosen_of(*options):
    return choose_option(options, seed_nats(options[0].plan)).label


def test_what_does_not_fit_is_never_chosen(plan):
    best = option("a", without_room(with_tokens(plan, 100)), score=0)
    second = option("b", plan, score=9)
    answer = recommend(plan, [best, second])
    assert (answer.decision, answer.option) == ("option", "b")
    assert "Left out, because they do not fit: a." in answer.option_reasons


def test_where_no_option_fits_the_current_model_stays(plan):
    answer = recommend(plan, [option("a", without_room(with_tokens(plan, 100)))])
    assert (answer.decision, answer.option, answer.option_reasons) == ("current", None, ())
    assert "None of the options fits on h100-sxm: " in answer.reasons[0]


def test_what_cannot_be_told_apart_is_decided_by_the_score_and_then_by_the_speed(plan):
    even = with_tokens(plan, 1.001)  # a thousandth of the tokens is less than `solve` tells apart
    assert not is_clearly_lower(even, plan, seed_nats(plan))
    assert chosen_of(option("a", even, 2.0), option("b", plan, 1.0)) == "b"
    assert chosen_of(option("a", plan, 2.0), option("b", even, 1.0)) == "b"
    assert chosen_of(option("a", plan), option("b", at_speed(plan, 1.1))) == "b"
    assert chosen_of(option("a", plan, error=5), option("b", plan, error=-3)) == "b"


def test_between_seeds_and_the_band_of_solve_the_order_of_solve_decides(plan):
    lower = with_tokens(plan, 1.04)
    assert 0 < plan.loss.loss - lower.loss.loss < seed_nats(plan)
    reasons = recommend(plan, [option("a", plan, 0.0), option("b", lower, 9.0)])
    assert reasons.option == "b"
    assert any("what decides is what `solve` ranks by" in each for each in reasons.option_reasons)


@pytest.fixture(scope="module")
def gpt2_at_50m():
    return pb.report("gpt2", "50M", machine="h100", hours=2)


def test_what_only_a_law_that_sees_no_shape_finds_better_is_not_chosen(gpt2_at_50m):
    report = gpt2_at_50m
    plans = report.options
    flat, usual = plans["shallower"], plans["balanced"]
    assert (flat.model.n_layers, usual.model.n_layers) == (2, 8)
    noise = report.recommendation.seed_nats
    assert loss_difference(flat, usual).high < -noise  # twice the tokens, and nothing against two layers
    assert is_clearly_lower(usual, flat, noise)
    assert report.recommendation.option == "balanced"
    assert ranked_difference(flat, usual).expected == pytest.approx(flat.ranked_loss - usual.ranked_loss)
    assert (
        "Clearly worse with the shapes priced, by every law and by more than seeds move a loss by: shallower."
        in report.recommendation.option_reasons
    )


def test_a_current_model_that_stays_and_is_too_large_is_said_to_be(gpt2_at_50m):
    answer, target = gpt2_at_50m.recommendation, 50_000_000
    over = gpt2_at_50m.current.breakdown.total - target
    assert answer.decision == "current"
    assert answer.reasons[1] == (
        "The current model does not meet the size that is wanted: it is 74,439,808 parameters (148.88 %) "
        "above the target."
    )
    assert over == 74_439_808
    assert answer.reasons[2].endswith(" It is not chosen: it is larger than the size that is wanted.")


def test_what_decides_between_equal_scores_is_said(plan):
    def last_reason(a, b, score=1.0):
        return recommend(plan, [a, option("b", b, score)]).option_reasons[2]

    a = option("a", plan)
    assert last_reason(a, at_speed(plan, 1.1)).endswith(
        "Of these b and a have the most usual shape, with the same score; the speed decides."
    )
    assert last_reason(a, plan).endswith("; as they are equally fast, the distance from the target decides.")
    assert last_reason(a, at_speed(plan, 1.1), 1.5).endswith("most usual shape, with a score of 1.00.")


def test_the_printed_threshold_is_the_one_compared_with(plan):
    current = with_tokens(plan, 0.02)  # ends higher, so seeds move its loss by more than that of an option
    noise = recommend(current, [option("a", plan)]).seed_nats
    assert noise == seed_nats(current) > 1.2 * seed_nats(plan)
    worse = next(
        each
        for each in (with_tokens(plan, 1 - n / 100) for n in range(1, 50))
        if ranked_difference(plan, each).high < -1.05 * seed_nats(each)
    )
    assert is_clearly_lower(plan, worse, seed_nats(worse))
    assert not is_clearly_lower(plan, worse, noise)
    reasons = recommend(current, [option("a", plan), option("b", worse)]).option_reasons
    assert not any(each.startswith("Clearly worse") for each in reasons)


def test_more_tokens_never_cost_an_option_its_place(plan):
    factors = (0.3, 0.9, 0.97, 1.0, 1.02, 1.1, 2.0)
    plans = [with_tokens(plan, factor) for factor in factors]
    for other, rival in enumerate(plans):
        chosen = [chosen_of(option("a", each), option("b", rival)) == "a" for each in plans]
        assert chosen == sorted(chosen), factors[other]  # no, ..., no, yes, ..., yes
        assert (chosen[0], chosen[-1]) == (other == 0, True)


def test_the_current_model_stays_only_where_it_is_clearly_better(plan):
    worse, even = (option("a", with_tokens(plan, factor)) for factor in (0.3, 0.97))
    stays = recommend(plan, [worse])
    assert (stays.decision, stays.option) == ("current", "a")
    assert f"expected to reach {plan.loss.loss:.3f} nats per token" in stays.reasons[0]
    assert recommend(plan, [even]).decision == "option"
    assert recommend(without_room(plan), [worse]).decision == "option"


def test_another_size_is_recommended_where_it_is_smaller_and_clearly_better(plan):
    small, large = (
        pb.plan(pb.model(dim=dim, n_layers=8, n_heads=8), "h100", hours=1, batch_size=16,
                gradient_accumulation_steps=8)
        for dim in (256, 1024)
    )  # fmt: skip
    short = with_tokens(plan, 0.05)
    here = [option("a", short, error=short.breakdown.total - TARGET)]
    assert all(is_clearly_lower(other, short, seed_nats(short)) for other in (small, large))
    moves, remark = recommend(short, here, small), recommend(short, here, large)
    assert (moves.decision, moves.option) == ("another size", "a")
    assert moves.reasons[0].startswith("A smaller model suits this time better: ")
    assert remark.decision == "option"
    assert "not chosen" not in moves.reasons[0]
    assert remark.reasons[0].startswith("A larger model suits this time better: ")
    assert remark.reasons[0].endswith(" It is not chosen: it is larger than the size that is wanted.")
    assert recommend(with_tokens(plan, 9), here, small).decision == "current"  # better than the small one too
    assert recommend(short, here, without_room(small)).decision == "option"


def test_a_difference_has_the_range_of_all_laws_and_its_middle_is_that_of_the_plans(plan):
    more = with_tokens(plan, 2)
    low, expected, high = loss_difference(more, plan)
    assert expected == pytest.approx(more.loss.loss - plan.loss.loss, abs=1e-12)
    by_law = [
        pb.plan(MODEL, "h100", tokens=more.tokens, law=law).loss.loss
        - pb.plan(MODEL, "h100", tokens=plan.tokens, law=law).loss.loss
        for law in pb.LOSS_LAWS
    ]
    assert (low, high) == pytest.approx((min(by_law), max(by_law)), abs=1e-4)  # whole updates
    anchored = pb.plan(MODEL, "h100", hours=1, anchor="loss=3.0,tokens=400M,model=gpt2")
    assert loss_difference(anchored, anchored) == (0, 0, 0)


def test_the_sentences_have_the_figures(plan):
    faster = at_speed(with_tokens(plan, 1.02), 1.02)
    said = recommend(plan, [option("a", faster, error=-1_000_000)]).option_reasons
    rate, difference = faster.speed.tokens_per_second.expected, loss_difference(faster, plan)
    assert said[0].startswith("It fits: ")
    assert said[0].endswith(" of 79.6 GiB, 0 % more than the current model.")
    assert (
        f"expected to reach {faster.loss.loss:.3f} nats per token, {-difference.expected:.3f} below"
        in said[1]
    )
    assert f"Seeds alone move a loss by up to {0.006 * plan.loss.loss:.3f}" in said[1]
    assert f"It is expected to train at {rate:,.0f} tokens/s, 2.0 % more than the current model." in said
    assert said[-1].startswith("It is 1,000,000 parameters (")
    assert said[-1].endswith(" %) below the target.")
