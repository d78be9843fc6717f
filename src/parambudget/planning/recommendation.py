"""Which of several models to train in the same hours: the rule that `report` decides by.

1. What does not fit in the memory is left out.
2. So is what another option is clearly better than: that one ends lower by every law, and by more than seeds
   alone move the loss of the current model by. Compared are the losses of models of the usual shape that are
   as good (`planning.shape_price`): a law counts parameters and sees no shape.
3. Of the options that are left, the best is the one that `solve` would put first: by the same loss;
   where that is equal within 0.3 % of what compute can still reduce by the shape score, and then by tokens
   per second.
4. Another size is recommended in its place if it is not larger than the target and clearly better than it and
   than the current model; else the current model stays if it is clearly better, even if it is larger than the
   target. A larger size that is better is named, and not recommended: the target is what is wanted at most.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isinf
from typing import Final, Literal

from typing_extensions import TypedDict

from parambudget.arch.description import shape_in_words
from parambudget.arch.dims import Dims, Size
from parambudget.cost.speed.throughput import Interval, IntervalDocument
from parambudget.planning.compute_budget import OBJECTIVES
from parambudget.planning.run_plan import RunPlan
from parambudget.planning.shape_price import as_good_parameters
from parambudget.scaling.loss import (
    LOSS_LAWS,
    SEED_NOISE,
    expected_loss,
    law_parameters,
    laws_beside,
    range_over_laws,
)
from parambudget.search.solutions import EQUAL_LOSS_SHARE
from parambudget.units import format_bytes, format_count, format_seconds, format_share

ANOTHER_SIZE: Final = "another size"
Decision = Literal["option", "current", "another size"]


@dataclass(frozen=True)
class Option:
    """A model that could be trained in place of the current one."""

    label: str
    plan: RunPlan
    score: float
    """The shape score: how unusual its shape is for its size."""
    error: int
    """Parameters beyond the target."""


class RecommendationDocument(TypedDict):
    """What to train, and why."""

    decision: Decision
    """An option, the current model, or the other size."""
    option: str | None
    """The label of the best option, whatever the decision is; null where none fits."""
    option_reasons: list[str]
    """Why that option: sentences, the most important first."""
    reasons: list[str]
    """Why something else, where it is, and what else there is to know."""
    seed_nats: float
    """What a loss may differ by for the seed alone, in nats per token."""
    differences: dict[str, IntervalDocument]
    """Expected loss of each option, and of the other size, less that of the current model, by label; in nats
    per token, over the laws."""


@dataclass(frozen=True)
class Recommendation:
    """What to train, and why."""

    decision: Decision
    option: str | None
    """The label of the best option, whatever the decision is; None where none fits."""
    option_reasons: tuple[str, ...]
    """Why that option: sentences, the most important first."""
    reasons: tuple[str, ...]
    """Why something else, where it is, and what else there is to know."""
    seed_nats: float
    """What a loss may differ by for the seed alone: a smaller difference between two models shows in no run
    of each."""
    differences: Mapping[str, Interval]
    """Expected loss of each option, and of the other size, less that of the current model, by label; over the
    laws."""

    def as_dict(self) -> RecommendationDocument:
        """Plain JSON values."""
        return {
            "decision": self.decision, "option": self.option,
            "option_reasons": list(self.option_reasons), "reasons": list(self.reasons),
            "seed_nats": self.seed_nats,
            "differences": {label: each.as_dict() for label, each in self.differences.items()},
        }  # fmt: skip


def recommend(current: RunPlan, options: Sequence[Option], other: RunPlan | None = None) -> Recommendation:
    """What to train of the current model, the options, and the `other` size that suits the hours best.

    All are planned for the same hours, machine, text and law, and one of them fits.
    """
    noise = seed_nats(current)
    differences = {each.label: loss_difference(each.plan, current) for each in options}
    if other is not None:
        differences[ANOTHER_SIZE] = loss_difference(other, current)
    fitting = [each for each in options if each.plan.fits]
    if not fitting:
        least = format_bytes(min(each.plan.memory.peak_bytes for each in options))
        why = (
            f"None of the options fits on {current.machine.name}: in the micro-steps compared here they need "
            f"{least} or more."
        )
        reasons = [why, *_above_target(current, options[0])]
        return Recommendation("current", None, (), tuple(reasons), noise, differences)
    best = choose_option(fitting, noise)
    decision: Decision = "option"
    reasons = []
    against = None if other is None else _against_other_size(other, best, current, noise)
    if other is not None and against is None:
        decision = ANOTHER_SIZE
    elif current.fits and is_clearly_lower(current, best.plan, noise):
        decision = "current"
        reasons += [_why_current(current, best, noise), *_above_target(current, best)]
    if other is not None:
        reasons.append(_other_size_in_words(other, best, against, noise))
    return Recommendation(
        decision, best.label, tuple(_why_option(best, options, current, noise)), tuple(reasons), noise,
        differences,
    )  # fmt: skip


def _against_other_size(other: RunPlan, best: Option, current: RunPlan, noise: float) -> str | None:
    """Why another size is not recommended; None where it is."""
    if not is_clearly_lower(other, best.plan, noise):
        return "no clear difference"
    if other.breakdown.total > _target(best):
        return "it is larger than the size that is wanted"
    if not other.fits:
        return "it does not fit"
    if current.fits and not is_clearly_lower(other, current, noise):
        return "it is not clearly better than the current model"
    return None


def _target(option: Option) -> int:
    """Parameters that are wanted."""
    return option.plan.breakdown.total - option.error


def choose_option(fitting: Sequence[Option], noise: float) -> Option:
    """The best of some options that fit, where seeds move a loss by `noise`."""
    return min(
        _equal_by_solve(without_clearly_worse(fitting, noise)),
        key=lambda each: (
            _shown_score(each), -each.plan.speed.tokens_per_second.expected, abs(each.error)
        ),
    )  # fmt: skip


def _shown_score(option: Option) -> float:
    """The score without the rounding of its arithmetic."""
    return round(option.score, 6)


def without_clearly_worse(options: Sequence[Option], noise: float) -> list[Option]:
    """The options that none of the others is clearly better than."""
    return [
        each
        for each in options
        if not any(is_clearly_lower(other.plan, each.plan, noise) for other in options)
    ]


def _equal_by_solve(options: Sequence[Option]) -> list[Option]:
    """Those whose loss+shape is the lowest, or equal to it as far as `solve` is concerned."""
    lowest = min(each.plan.ranked_loss for each in options)
    most = OBJECTIVES["loss"].band(lowest, options[0].plan.goal.law)
    return [each for each in options if each.plan.ranked_loss <= most]


def seed_nats(plan: RunPlan) -> float:
    """What the loss of a plan may differ by for the seed alone."""
    return SEED_NOISE * plan.loss.loss


def loss_difference(plan: RunPlan, other: RunPlan) -> Interval:
    """Expected loss of one plan less that of another; the ends are the lowest and the highest by any law, or
    of a fitted one those that nine of ten of its samples lie between."""
    return _difference_over_laws(plan, other, law_parameters)


def ranked_difference(plan: RunPlan, other: RunPlan) -> Interval:
    """The same of models of the usual shape that are as good: what decides."""
    return _difference_over_laws(plan, other, lambda m: as_good_parameters(m, plan.goal.law))


def _difference_over_laws(plan: RunPlan, other: RunPlan, parameters: Callable[[Dims], Size]) -> Interval:
    law = plan.goal.law
    laws = laws_beside(law)
    if not law.is_measured:
        laws = (law, *(each for each in LOSS_LAWS.values() if each != law))

    differences = []
    for each in laws:
        ours, theirs = (
            float(
                expected_loss(
                    each, parameters(of.model), of.tokens, of.goal.unique_tokens,
                    vocab_size=of.model.vocab_size,
                )
            )
            for of in (plan, other)
        )  # fmt: skip
        differences.append(ours - theirs)
    low, high = range_over_laws(law, differences, differences)
    return Interval(low, differences[0], high)


def is_clearly_lower(plan: RunPlan, other: RunPlan, noise: float) -> bool:
    """Whether a plan ends lower than another by every law, with both shapes priced, and by more than the
    `noise` of seeds."""
    return ranked_difference(plan, other).high < -noise


def _why_option(best: Option, options: Sequence[Option], current: RunPlan, noise: float) -> list[str]:
    plan, now = best.plan, current.memory.peak_bytes
    memory = plan.memory.peak_bytes
    fits = f"It fits: {format_bytes(memory)} of {format_bytes(plan.machine.memory_bytes)}"
    rate, ours = (each.speed.tokens_per_second.expected for each in (plan, current))
    speed = f"It is expected to train at {rate:,.0f} tokens/s, {_more(rate / ours)} than the current model"
    others = [each for each in options if each.plan.fits and each is not best]
    if others:
        fastest = max(others, key=lambda each: each.plan.speed.tokens_per_second.expected)
        fast = fastest.plan.speed.tokens_per_second.expected
        speed += f"; {fastest.label} at {fast:,.0f}" if fast > rate else "; no option is faster"
    return [
        f"{fits}, {_more(memory / now)} than the current model."
        if current.fits
        else f"{fits}. The current model needs {format_bytes(now)} and does not fit.",
        _against_current(plan, current, noise),
        *_against_options(best, options, noise),
        *_target_in_words(plan),
        f"{speed}.",
        f"It is {_off(best)}.",
    ]


def _against_current(plan: RunPlan, current: RunPlan, noise: float) -> str:
    hours = format_seconds(3600 * plan.hours.expected)
    ranked = ranked_difference(plan, current)
    expected = f"After {hours} it is expected to reach {plan.loss.loss:.3f} nats per token"
    if plan.loss.is_bound:
        return f"{expected}, the bound of its vocabulary: of such a run the law tells no more."
    against = _difference_in_words(plan, current, "the current model")
    if is_clearly_lower(plan, current, noise) or is_clearly_lower(current, plan, noise):
        return f"{expected}, {against}: more than seeds move a loss by ({noise:.3f})."
    seeds = f"{expected}, {against}. Seeds alone move a loss by up to {noise:.3f}"
    if abs(ranked.expected) <= noise:
        return f"{seeds}, so a run of each would not tell the two apart."
    return f"{seeds}, and not by every law is the difference more than that."


def _against_options(best: Option, options: Sequence[Option], noise: float) -> Iterator[str]:
    """What decided between the options."""
    fitting = [each for each in options if each.plan.fits]
    kept = without_clearly_worse(fitting, noise)
    if unfit := [each.label for each in options if not each.plan.fits]:
        yield f"Left out, because they do not fit: {', '.join(unfit)}."
    if worse := [each.label for each in fitting if each not in kept]:
        yield (
            "Clearly worse with the shapes priced, by every law and by more than seeds move a loss by: "
            f"{', '.join(worse)}."
        )
    if len(kept) < 2:
        return
    losses = [each.plan.ranked_loss for each in kept]
    apart = max(losses) - min(losses)
    names = "the options" if len(kept) == len(options) else _join_words([each.label for each in kept])
    how = "less than seeds alone move a loss by" if apart <= noise else "and not every law confirms the order"
    tied = f"With the shapes priced, {names} are expected to end within {apart:.3f} nats of each other, {how}"
    yield f"{tied}. {_tie_break(best, kept)}"


def _target_in_words(plan: RunPlan) -> Iterator[str]:
    """When it reaches the target loss, where a measured run tells."""
    if plan.target is None or (reach := plan.target.reach) is None:
        return
    target = f"{plan.target.loss:g} nats per token"
    if isinf(reach.hours.expected):
        yield f"It is not expected to reach {target}, however long it trains."
    else:
        where = "within" if reach.within_plan else "beyond"
        after = format_seconds(3600 * reach.hours.expected)
        yield f"It is expected to reach {target} after {after}, {where} the planned time."


def _tie_break(best: Option, kept: Sequence[Option]) -> str:
    """What decided among options of which none is clearly better."""
    equal = [each for each in _equal_by_solve(kept) if each is not best]
    ranked = "what `solve` ranks by, the expected loss of a model of the usual shape that is as good"
    if equal:
        rivals = _join_words([f"{each.label} (score {each.score:.2f})" for each in equal])
        return (
            f"Nor does {ranked}, tell it from {rivals}: they are within {EQUAL_LOSS_SHARE:.1%} of what "
            f"compute can still reduce. {_most_usual(best, equal)}"
        )
    runner = min((each for each in kept if each is not best), key=lambda each: each.plan.ranked_loss)
    return (
        f"So what decides is {ranked}: {best.plan.ranked_loss:.3f}, and {runner.plan.ranked_loss:.3f} for "
        f"the next one, {runner.label}."
    )


def _most_usual(best: Option, equal: Sequence[Option]) -> str:
    """What decided among options that `solve` ranks alike."""
    tied = [each for each in equal if _shown_score(each) == _shown_score(best)]
    if not tied:
        return f"Of these it has the most usual shape, with a score of {best.score:.2f}."
    rate = best.plan.speed.tokens_per_second.expected
    as_fast = [each for each in tied if each.plan.speed.tokens_per_second.expected == rate]
    decides = "as they are equally fast, the distance from the target" if as_fast else "the speed"
    names = _join_words([best.label, *(each.label for each in tied)])
    return f"Of these {names} have the most usual shape, with the same score; {decides} decides."


def _why_current(current: RunPlan, best: Option, noise: float) -> str:
    hours = format_seconds(3600 * current.hours.expected)
    return (
        f"After {hours} the current model is expected to reach {current.loss.loss:.3f} nats per token, and "
        f"{best.label}, the best option, to end {_difference_in_words(best.plan, current, 'it')}: more than "
        f"seeds move a loss by ({noise:.3f})."
    )


def _above_target(current: RunPlan, option: Option) -> Iterator[str]:
    """That a current model which stays is too large, where it is."""
    target, total = _target(option), current.breakdown.total
    if total > target:
        yield (
            f"The current model does not meet the size that is wanted: it is {total - target:,} parameters "
            f"({format_share(total / target - 1, 2).lstrip('+')}) above the target."
        )


def _other_size_in_words(other: RunPlan, best: Option, against: str | None, noise: float) -> str:
    total = other.breakdown.total
    size = f"{format_count(total)} parameters ({shape_in_words(other.model)})"
    ends = f"expected to end {_difference_in_words(other, best.plan, best.label)}"
    if not is_clearly_lower(other, best.plan, noise):
        return f"The best size for this time would be {size}, but it is {ends}: {against}."
    sized = "larger" if total > _target(best) else "smaller"
    but = f" It is not chosen: {against}." if against else ""
    return (
        f"A {sized} model suits this time better: {size} is {ends}, more than seeds move a loss by "
        f"({noise:.3f}).{but}"
    )


def _join_words(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _off(option: Option) -> str:
    target = _target(option)
    if not option.error:
        return "exactly at the target"
    side = "above" if option.error > 0 else "below"
    share = format_share(abs(option.error) / target, 2).lstrip("+")
    return f"{abs(option.error):,} parameters ({share}) {side} the target"


def _difference_in_words(plan: RunPlan, other: RunPlan, name: str) -> str:
    """How far a plan ends from another of this name, by the laws and by what decides."""
    by_laws, ranked = loss_difference(plan, other), ranked_difference(plan, other)
    words = f"{_nats(by_laws.expected)} {name} ({_span(by_laws)} over the laws)"
    if _span(by_laws) == _span(ranked):
        return words
    return f"{words}, and what decides, with the shapes priced, {_nats(ranked.expected)} ({_span(ranked)})"


def _nats(difference: float) -> str:
    return f"{abs(difference):.3f} {'below' if difference < 0 else 'above'}"


def _span(difference: Interval) -> str:
    return f"{difference.low:+.3f} to {difference.high:+.3f}"


def _more(ratio: float) -> str:
    """`29.9 % more`, from a ratio of 1.299."""
    share = format_share(abs(ratio - 1), 1).lstrip("+")
    return f"{share} {'more' if ratio >= 1 else 'less'}"
