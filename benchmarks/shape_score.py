"""How published models rank under the shape score: the score's validation, and with --tune the choice of its
weights.

For every published dense model of a distinct shape: its vocabulary, tying and kind of FFN are fixed, the
target is its own count, and all shapes of the default lattice within 0.5 % are scored. Its percentile is the
share of them that score strictly better than its true shape. The families of the first hundred models
alternated, by name, between a half that weights may be tuned on and a half that they never see; all that came
later are held out.

python benchmarks/shape_score.py [--tune]
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from fractions import Fraction

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets.registry import PRESETS
from parambudget.search.engine import Search
from parambudget.search.lattice import Candidates
from parambudget.search.score import SCORE_WEIGHTS, ScoreWeights, shape_score
from parambudget.search.space import SearchSpace

SIZES = ("n_layers", "dim", "head_dim", "n_heads", "n_kv_heads", "intermediate_size")
GRID = (1.0, 2.0, 3.0)
TUNED_ON = frozenset((
    "aya", "cerebras", "codestral", "deepseek", "gemma", "gpt", "llama", "mistral", "olmo", "pythia",
    "smollm", "starcoder", "tinyllama",
))  # fmt: skip
BY_HAND = ("odd_heads", "head_dim", "kv_heads")


@dataclass(frozen=True)
class Case:
    """A published model among the shapes of its count."""

    name: str
    model: ModelConfig
    target: int
    choices: ModelConfig
    rivals: Candidates
    tuned_on: bool

    def percentile(self, weights: ScoreWeights) -> float:
        """Share of the shapes within tolerance that score strictly better, in percent."""
        true = Candidates(
            *(np.array([getattr(self.model, name)]) for name in SIZES), counted=np.array([self.target])
        )
        mine, others = (
            np.sum(list(shape_score(self.choices, points, self.target, weights).values()), axis=0)
            for points in (true, self.rivals)
        )
        return 100 * float((others < mine - 1e-9).mean())


def cases() -> Iterator[Case]:
    """Every distinct published shape, with its rivals; of equal ones that which may be tuned on."""
    seen = set()
    for name, row in sorted(PRESETS.items(), key=lambda item: family(item[0]) not in TUNED_ON):
        m = row.model
        shape = (*(getattr(m, size) for size in SIZES), m.vocab_size)
        if m.moe or shape in seen:
            continue
        seen.add(shape)
        fixed = {"vocab_size": m.vocab_size, "tied": m.tied, "gated": m.gated}
        space = SearchSpace.declare(row.published_count, fixed)
        rivals = Search(space, row.published_count).candidates_within(Fraction(1, 200))
        yield Case(name, m, row.published_count, space.choices, rivals, family(name) in TUNED_ON)


def family(name: str) -> str:
    """The leading letters of a model's name."""
    return re.match(r"[a-z]+", name)[0]


def tuned(found: list[Case]) -> ScoreWeights:
    """Coordinate descent over a small grid on the tuning half, from the weights as they are."""
    half = [case for case in found if case.tuned_on]

    def cost(weights: ScoreWeights) -> float:
        return float(np.mean([case.percentile(weights) for case in half]))

    weights, best = SCORE_WEIGHTS, cost(SCORE_WEIGHTS)
    for name in (field.name for field in fields(ScoreWeights) if field.name not in BY_HAND):
        for value in GRID:
            tried = replace(weights, **{name: value})
            if (now := cost(tried)) < best - 0.01:
                weights, best = tried, now
        print(f"{name:18} {getattr(weights, name):g}   mean percentile {best:.2f}", flush=True)
    return weights


def main() -> None:
    """Print a line per model and the summary of both halves."""
    found = sorted(cases(), key=lambda case: case.name)
    weights = tuned(found) if "--tune" in sys.argv[1:] else SCORE_WEIGHTS
    head = f"{'model':20} {'half':8} {'layers':>6} {'dim':>6} {'heads':>8} {'ffn':>6} {'rivals':>8}"
    print(f"{head} {'percentile':>10}")
    ranks = {}
    for case in found:
        m = case.model
        ranks[case.name] = case.percentile(weights)
        half = "tuning" if case.tuned_on else "held out"
        heads = f"{m.n_heads}/{m.n_kv_heads}"
        print(
            f"{case.name:20} {half:8} {m.n_layers:6} {m.dim:6} {heads:>8} {m.intermediate_size:6} "
            f"{len(case.rivals):8,} {ranks[case.name]:10.2f}"
        )
    for half, here in (("tuning", True), ("held out", False)):
        p = np.array([ranks[case.name] for case in found if case.tuned_on is here])
        within = ", ".join(f"{(p <= limit).mean():.0%} in the best {limit} %" for limit in (1, 5, 10))
        print(f"{half}: {len(p)} models, mean percentile {p.mean():.2f}, median {np.median(p):.2f}; {within}")


if __name__ == "__main__":
    main()
