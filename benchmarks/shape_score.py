"""How do published models rank under the shape score? Its validation, and the choice of its constants.

    python benchmarks/shape_score.py              # dense models
    python benchmarks/shape_score.py --tune       # and the weights that coordinate descent chooses
    python benchmarks/shape_score.py --experts    # models with experts
    python benchmarks/shape_score.py --centres    # and the centres and spreads of their score

The percentile of a model is the share of the shapes within 0.5 % of its count that score strictly better
than its true shape.

Dense: for every published model of a distinct shape its vocabulary, tying and kind of FFN are fixed, the
target is its own count, and all shapes of the default lattice are scored. The families of the first hundred
models alternated, by name, between a half that weights may be tuned on and a half that they never see; all
that came later are held out.

With experts: for every distinct shape, of presets and `expert_models`, its choices are fixed (vocabulary,
tying, latents, shared experts, dense layers, ...), and the budgets are its own total and active counts. The
centres and spreads of `search.score` are of the families in `FITTED` alone, the rest are held out of that;
the weights were set by hand.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from fractions import Fraction

import numpy as np
from expert_models import ROWS

from parambudget.arch.config import ModelConfig
from parambudget.arch.presets.registry import PRESETS
from parambudget.cost.params import active, active_body, total
from parambudget.search.engine import Search
from parambudget.search.lattice import Candidates
from parambudget.search.score import SCORE_WEIGHTS, ScoreWeights, shape_score
from parambudget.search.space import SearchSpace, choices_of

SIZES = ("n_layers", "dim", "head_dim", "n_heads", "n_kv_heads", "intermediate_size")
GRID = (1.0, 2.0, 3.0)
TUNED_ON = frozenset((
    "aya", "cerebras", "codestral", "deepseek", "gemma", "gpt", "llama", "mistral", "olmo", "pythia",
    "smollm", "starcoder", "tinyllama",
))  # fmt: skip
BY_HAND = ("odd_heads", "head_dim", "kv_heads")
FITTED = frozenset((
    "dbrx", "dots", "glm", "granite", "hunyuan", "ling", "minimax", "moonlight", "phi", "skywork",
))  # fmt: skip
OF_EXPERTS = (
    "n_experts", "n_experts_per_token", "n_shared_experts", "expert_intermediate_size",
    "shared_intermediate_size",
)  # fmt: skip


@dataclass(frozen=True)
class PublishedShape:
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


def dense_shapes() -> Iterator[PublishedShape]:
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
        yield PublishedShape(name, m, row.published_count, space.choices, rivals, family(name) in TUNED_ON)


def family(name: str) -> str:
    """The leading letters of a model's name."""
    return re.match(r"[a-z]+", name)[0]


def tune_weights(found: list[PublishedShape]) -> ScoreWeights:
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


def rank_dense(*, tune: bool) -> None:
    """Print a line per dense model and the summary of both halves."""
    found = sorted(dense_shapes(), key=lambda case: case.name)
    weights = tune_weights(found) if tune else SCORE_WEIGHTS
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
        print_summary(half, [ranks[case.name] for case in found if case.tuned_on is here])


def print_summary(part: str, percentiles: list[float]) -> None:
    """How the models of a part rank."""
    p = np.array(percentiles)
    within = ", ".join(f"{(p <= limit).mean():.0%} in the best {limit} %" for limit in (1, 5, 10))
    print(f"{part}: {len(p)} models, mean percentile {p.mean():.2f}, median {np.median(p):.2f}; {within}")


def models_with_experts() -> Iterator[tuple[str, ModelConfig]]:
    """Every distinct shape by name."""
    presets = {name: row.model for name, row in PRESETS.items() if row.model.moe}
    seen = set()
    for name, m in sorted((presets | {name: row.model for name, row in ROWS.items()}).items()):
        if total(m) not in seen:
            yield name, m
        seen.add(total(m))


def candidate_of(m: ModelConfig) -> Candidates:
    """The model as a point of a lattice."""
    sizes = {name: np.array([getattr(m, name)]) for name in SIZES}
    moe = {name: getattr(m.moe, name) for name in OF_EXPERTS}
    sizes |= {name: np.array([value]) for name, value in moe.items() if value is not None}
    return Candidates(counted=np.array([total(m)]), active=np.array([active(m)]), **sizes)


def percentile_with_experts(m: ModelConfig) -> tuple[int, float]:
    """How many shapes meet both counts, and which share of them scores better, in percent."""
    n, second = total(m), active(m)
    fixed = {
        name: value
        for name, value in choices_of(m).items()
        if name not in ("n_experts", "n_experts_per_token")
    }
    space = SearchSpace.declare(n, fixed, active=second)
    rivals = Search(space, n, active=second).candidates_within(Fraction(1, 200))
    mine, others = (
        np.sum(list(shape_score(space.choices, points, space.size).values()), axis=0)
        for points in (candidate_of(m), rivals)
    )
    return len(rivals), 100 * float((others < mine - 1e-9).mean())


def print_centres() -> None:
    """What `search.score` and `search.space` say, from the models they say it of."""
    every = list(models_with_experts())
    fitted = [m for name, m in every if family(name) in FITTED]
    for low, high in ((0, 1e9), (1e9, 5e9), (5e9, 1e12)):
        there = [(m, active_body(m)) for m in fitted if low <= active_body(m) < high]
        aspects = [np.log(m.dim / m.n_layers) for m, _ in there]
        size = np.exp(np.mean([np.log(count) for _, count in there]))
        print(f"aspect at {size:.3g}: {np.exp(np.mean(aspects)):.1f}, sd {np.std(aspects):.2f}")
    met = [np.log(m.active_ffn_width / m.dim) for m in fitted]
    print(f"met width / dim: median {np.exp(np.median(met)):.2f}, sd {np.std(met):.2f}")
    heads = [np.log(m.n_heads * m.head_dim / m.dim) for m in fitted if m.mla is None]
    print(f"heads / dim: mean {np.exp(np.mean(heads)):.2f}, sd {np.std(heads):.2f}")
    latent = [np.log(m.n_heads * m.mla.v_head_dim / m.dim) for _, m in every if m.mla]
    print(f"latent heads / dim, all: mean {np.exp(np.mean(latent)):.2f}, sd {np.std(latent):.2f}")
    share = np.array([np.log(m.moe.n_experts / m.moe.n_experts_per_token) for _, m in every])
    sparse = np.array([np.log(total(m) / active(m)) for _, m in every])
    print(f"total / active, all: (experts / per token) ** {(share * sparse).sum() / (share**2).sum():.2f}")


def rank_with_experts() -> None:
    """Print a line per model with experts and the summary of both parts."""
    ranks: dict[str, list[float]] = {"fitted": [], "held out": []}
    print(
        f"{'model':21} {'part':8} {'layers':>6} {'dim':>5} {'heads':>8} {'experts':>9} {'width':>6} "
        f"{'total':>8} {'active':>7} {'rivals':>7} {'percentile':>10}"
    )
    for name, m in models_with_experts():
        rivals, rank = percentile_with_experts(m)
        part = "fitted" if family(name) in FITTED else "held out"
        ranks[part].append(rank)
        shared = f"+{m.moe.n_shared_experts}" if m.moe.n_shared_experts else ""
        heads = f"{m.n_heads}/{m.n_kv_heads}"
        experts = f"{m.moe.n_experts}/{m.moe.n_experts_per_token}{shared}"
        print(
            f"{name:21} {part:8} {m.n_layers:6} {m.dim:5} {heads:>8} {experts:>9} "
            f"{m.moe.expert_intermediate_size:6} {total(m) / 1e9:7.2f}B {active(m) / 1e9:6.2f}B {rivals:7,} "
            f"{rank:10.2f}"
        )
    for part, percentiles in ranks.items():
        print_summary(part, percentiles)


def main() -> None:
    """Print the table that is asked for."""
    parser = argparse.ArgumentParser(description="How published models rank under the shape score.")
    parser.add_argument("--tune", action="store_true", help="tune the weights of dense models first")
    parser.add_argument("--experts", action="store_true", help="models with experts")
    parser.add_argument("--centres", action="store_true", help="centres and spreads of models with experts")
    asked = parser.parse_args()
    if asked.centres:
        print_centres()
    elif asked.experts:
        rank_with_experts()
    else:
        rank_dense(tune=asked.tune)


if __name__ == "__main__":
    main()
