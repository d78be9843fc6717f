"""How often the interval of a ladder holds what it is an interval of.

Losses are drawn from known laws with noise, at the runs of a ladder; the law is fitted to them as
`ladder fit` does; and the 90 % interval of a larger run's loss is compared with what the known law says of
it. Printed: in what share of the draws the interval holds the true expected loss, and the loss of one more
run with noise of its own; and the intervals' median width.

    python benchmarks/ladder_coverage.py [DRAWS]
"""

import sys
import time
from dataclasses import dataclass, replace

import numpy as np

from parambudget.ladders.bootstrap import Samples
from parambudget.ladders.constants import Array, Constants, Design, log_losses
from parambudget.ladders.fit import FittedLaw, fit_constants, group_losses
from parambudget.scaling.loss import DEFAULT_LAW, LossLaw, expected_loss


@dataclass(frozen=True)
class Case:
    """A law to find again, and the noise around it."""

    name: str
    law: Constants | None
    """None for another one in every draw."""
    seeds: float
    """Standard deviation of ln loss between seeds."""
    misfit: float = 0.0
    """The same of the runs around the law."""
    n_seeds: int = 2


TINY = Constants(E=1.6, A=55.0, B=80.0, alpha=0.35, beta=0.37, repetitions=15.387756)
CASES = (
    Case("drawn laws", None, 0.004, misfit=0.003),
    Case("as expected", TINY, 0.003),
    Case("with a misfit", TINY, 0.003, misfit=0.004),
    Case("noisy seeds", TINY, 0.008),
    Case("little noise", TINY, 0.0005),
    Case("three seeds", TINY, 0.004, n_seeds=3),
    Case("other exponents", Constants(1.2, 22.0, 900.0, 0.25, 0.55, 15.387756), 0.003),
    Case("flat", Constants(0.8, 20.0, 25.0, 0.22, 0.24, 15.387756), 0.003),
)
SIZES = np.geomspace(46e3, 430e3, 5)
RATIOS = (5.0, 15.0)
TARGET = (1.1e6, 4.5e6)


def law_of(constants: Constants) -> LossLaw:
    """The law with these constants."""
    return replace(DEFAULT_LAW, **vars(constants))


def runs(n_seeds: int) -> tuple[Array, Array]:
    """N and D of every run; the largest size has one seed."""
    pairs = [
        (size, ratio * size)
        for size in SIZES
        for ratio in RATIOS
        for _ in range(1 if size == SIZES[-1] else n_seeds)
    ]
    n, d = np.array(pairs).T
    return n, d


def draw_law(random: np.random.Generator) -> Constants:
    """A law such as the fit supposes: exponents around those of published laws, and three terms of about
    equal size in the middle of the runs."""
    alpha, beta = 0.35 * np.exp(0.3 * random.standard_normal(2))
    terms = np.exp(0.5 * random.standard_normal(3))
    n, d = (np.exp(np.mean(np.log(values))) for values in runs(1))
    return Constants(terms[0], terms[1] * n**alpha, terms[2] * d**beta, alpha, beta, 15.387756)


def draw_losses(case: Case, law: Constants, random: np.random.Generator) -> tuple[Array, Array, Array]:
    """N, D and the loss of every run of a ladder."""
    n, d = runs(case.n_seeds)
    expected = expected_loss(law_of(law), n, d)
    _, pair = np.unique(np.stack([n, d]), axis=1, return_inverse=True)
    misfit = case.misfit * random.standard_normal(pair.max() + 1)[pair]
    return n, d, expected * np.exp(misfit + case.seeds * random.standard_normal(len(n)))


def target_losses(found: FittedLaw, samples: Samples, target: tuple[float, float]) -> Array:
    """What every sample says of a run."""
    at = Design(*(np.array([value]) for value in (*target, target[1], 1.0)))
    expected, _ = log_losses(samples.constants, at, found.middle)
    return np.exp(expected[:, 0])


@dataclass(frozen=True)
class Coverage:
    """Shares of draws."""

    expected: float
    """In which the interval holds the true expected loss."""
    measured: float
    """In which the interval of one run holds the loss of one."""
    width: float
    """Median of the interval of the expected loss, as a share of it."""
    bias: float
    """Median error of the prediction."""


def coverage(case: Case, draws: int, seed: int = 0) -> Coverage:
    """How often both intervals hold what they should."""
    random = np.random.default_rng(seed)
    held = []
    for _ in range(draws):
        law = case.law or draw_law(random)
        truth = expected_loss(law_of(law), *TARGET)
        n, d, losses = draw_losses(case, law, random)
        found = fit_constants(group_losses(n, d, d, losses))
        samples = found.samples()
        expected = target_losses(found, samples, TARGET)
        one_run = expected * np.exp(samples.scatter)
        noise = random.standard_normal(2) @ (case.seeds, case.misfit)
        low, high = np.percentile(expected, (5, 95))
        low_run, high_run = np.percentile(one_run, (5, 95))
        held.append(
            (
                low <= truth <= high,
                low_run <= truth * np.exp(noise) <= high_run,
                (high - low) / truth,
                expected_loss(law_of(found.constants), *TARGET) / truth - 1,
            )
        )
    shares = np.array(held, dtype=float)
    return Coverage(shares[:, 0].mean(), shares[:, 1].mean(), *np.median(shares[:, 2:], axis=0))


def main() -> None:
    """Print a row for every case."""
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print(f"{draws} draws of each, target {TARGET[0]:,.0f} parameters and {TARGET[1]:,.0f} tokens")
    print(f"{'case':18}{'expected loss':>15}{'one run':>10}{'width':>9}{'bias':>9}")
    for case in CASES:
        start = time.perf_counter()
        found = coverage(case, draws)
        print(
            f"{case.name:18}{found.expected:15.1%}{found.measured:10.1%}{found.width:9.2%}{found.bias:+9.2%}"
            f"   {time.perf_counter() - start:.0f} s", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
