"""Fit a law to the finished runs of a ladder, and say what it predicts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from parambudget.errors import InputError
from parambudget.ladders.bootstrap import Samples
from parambudget.ladders.constants import Constants
from parambudget.ladders.design import Target
from parambudget.ladders.fit import FittedLaw, LossData, fit_constants, group_losses
from parambudget.ladders.ladder_file import LadderDocument, read_ladder
from parambudget.ladders.ladder_fit import HeldOut, LadderFit
from parambudget.ladders.points import Point, read_points
from parambudget.scaling.compute_optimal import optimal_size
from parambudget.scaling.law_file import fitted_law
from parambudget.scaling.law_fit import LawFit, LawSample
from parambudget.scaling.loss import LossLaw
from parambudget.scaling.loss_interval import predict_loss
from parambudget.scaling.numbers import FittedRange
from parambudget.units import format_count, plural

FEWEST_SIZES: Final = 2
UNDECIDED: Final = 0.8
"""Of the prior's spread: a constant whose own is wider was not decided by the runs."""


def fit_ladder(folder: Path) -> LadderFit:
    """Fit a law to the finished runs of a ladder.

    Raises `InputError` where they are too few, of one size, or not of the ladder's text.
    """
    document = read_ladder(folder)
    found = read_points(folder, document)
    points = found.points
    _require_enough(points, found.left_out, document.unique_tokens, folder)
    fitted, samples, law = _fit(points, document, str(folder))
    target = document.target_run
    return LadderFit(
        law=law, target=target, points=points, held_out=_held_out(points, document, law.name),
        prediction=predict_loss(law, target.n_parameters, target.tokens, target.unique_tokens),
        optimum=optimal_size(law, target.n_parameters, target.tokens, target.unique_tokens),
        left_out=found.left_out, warnings=tuple(_warnings(fitted, samples, points, target, law)),
    )  # fmt: skip


def _require_enough(
    points: tuple[Point, ...], left_out: tuple[str, ...], unique_tokens: int, folder: Path
) -> None:
    sizes, pairs, needed = _extent(points, unique_tokens)
    missing = f" ({left_out[0]}{', ...' if len(left_out) > 1 else ''})" if left_out else ""
    if pairs < needed:
        raise InputError(
            f"{pairs} {plural(pairs, 'pair')} of size and tokens in {folder} with a loss, and a "
            f"law has {needed} constants{missing}; train more of its runs with `ladder run`"
        )
    if sizes < FEWEST_SIZES:
        raise InputError(
            f"all runs in {folder} with a loss are of one size, which tells nothing of another{missing}; "
            "train more of its runs with `ladder run`"
        )


def _extent(points: tuple[Point, ...], unique_tokens: int) -> tuple[int, int, int]:
    """How many sizes and how many pairs of size and tokens some runs have, and how many pairs a law needs."""
    design = _group(points, unique_tokens).design
    return len(np.unique(design.n_parameters)), len(design.n_parameters), design.n_constants


def _fit(
    points: tuple[Point, ...], document: LadderDocument, name: str
) -> tuple[FittedLaw, Samples, LossLaw]:
    fitted = fit_constants(_group(points, document.unique_tokens))
    samples = fitted.samples()
    own = fitted.constants
    fit = LawFit(
        corpus=document.corpus, corpus_sha256=document.corpus_sha256,
        tokenizer_sha256=document.tokenizer_sha256, vocab_size=document.vocab_size,
        context_length=document.context_length, n_runs=len(points),
        n_sizes=len({point.entry.n_parameters for point in points}),
        largest_products=max(point.entry.n_parameters * point.entry.tokens for point in points),
        run_spread=float(np.sqrt(fitted.noise.seed_variance + fitted.noise.misfit_variance)),
        samples=tuple(_law_samples(samples, fitted.middle)),
    )  # fmt: skip
    sizes = [point.entry.n_parameters for point in points]
    tokens = [float(point.entry.tokens) for point in points]
    law = fitted_law(
        name, own.E, own.A, own.B, own.alpha, own.beta, own.repetitions,
        FittedRange(min(sizes), max(sizes)), FittedRange(min(tokens), max(tokens)), fit,
    )  # fmt: skip
    return fitted, samples, law


def _group(points: tuple[Point, ...], unique_tokens: int) -> LossData:
    runs = [(point.entry.n_parameters, point.entry.tokens, unique_tokens, point.loss) for point in points]
    return group_losses(*np.array(runs, dtype=np.float64).reshape(-1, 4).T)


def _law_samples(samples: Samples, middle: tuple[float, float]) -> Iterator[LawSample]:
    for fitted, scatter in zip(samples.constants, samples.scatter.tolist(), strict=True):
        yield LawSample(**vars(Constants.from_logarithms(fitted, middle)), scatter=scatter)


def _held_out(points: tuple[Point, ...], document: LadderDocument, name: str) -> tuple[HeldOut, ...]:
    """The runs of the largest size, predicted from the smaller ones, where those are enough."""
    largest, unique = max(point.entry.n_parameters for point in points), document.unique_tokens
    smaller = tuple(point for point in points if point.entry.n_parameters < largest)
    sizes, pairs, needed = _extent(smaller, unique)
    if sizes < FEWEST_SIZES or pairs < needed:
        return ()
    _, _, law = _fit(smaller, document, name)
    return tuple(
        HeldOut(point, predict_loss(law, point.entry.n_parameters, point.entry.tokens, unique))
        for point in points
        if point.entry.n_parameters == largest
    )


def _warnings(
    fitted: FittedLaw, samples: Samples, points: tuple[Point, ...], target: Target, law: LossLaw
) -> Iterator[str]:
    assert law.fit is not None
    if far := law.fit.far_warning(target.n_parameters, target.tokens):
        yield f"the target is far: {far}"
    if repeated := target.overfitting_warning:
        yield repeated
    names = ("the size term", "the text term", "E", "alpha", "beta", "R*")
    spread = np.std(samples.constants, axis=0) / fitted.prior.spread
    undecided = [name for name, share in zip(names, spread, strict=False) if share > UNDECIDED]
    if undecided:
        yield (
            f"the runs hardly decide {', '.join(undecided)}: the interval is nearly that of published laws "
            "before any run; more sizes, or tokens further apart, would"
        )
    seeds = float(np.sqrt(fitted.noise.seed_variance))
    between = float(np.ptp(fitted.data.mean))
    if fitted.noise.seed_freedom and seeds > between / 4:
        yield (
            f"seeds differ by {seeds:.1%} of the loss and all rungs together by {between:.1%}: the law is "
            "fitted to noise; train larger rungs, or more seeds"
        )
    lowest = min(points, key=lambda point: point.loss)
    if lowest.loss * 0.95 < law.E:
        yield (
            f"E is {law.E:.3g} nats, nearly the lowest loss of a run, {lowest.loss:.3g}: by this law more "
            f"than {format_count(round(lowest.entry.n_parameters))} parameters gain nothing"
        )
