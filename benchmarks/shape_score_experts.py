"""How published models with experts rank under the shape score.

For every distinct shape, of presets and `expert_models`: its choices are fixed (vocabulary, tying, latents,
shared experts, dense layers, ...), budgets are its own total and active counts, and all
shapes of the default lattice within 0.5 % of both are scored. Its percentile is the share of them that score
strictly better than its true shape. The centres and spreads of `search.score` are of the families in
`FITTED` alone, the rest are held out of that; the weights were set by hand.

python benchmarks/shape_score_experts.py [--centres]
"""

import re
import sys
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from expert_models import ROWS

from parambudget.arch.config import ModelConfig, met_width
from parambudget.arch.presets.registry import PRESETS
from parambudget.cost.params import active, active_body, total
from parambudget.search.engine import Search
from parambudget.search.lattice import Candidates
from parambudget.search.score import shape_score
from parambudget.search.space import SearchSpace, choices_of

FITTED = frozenset((
    "dbrx", "dots", "glm", "granite", "hunyuan", "ling", "minimax", "moonlight", "phi", "skywork",
))  # fmt: skip
SIZES = ("n_layers", "dim", "head_dim", "n_heads", "n_kv_heads", "intermediate_size")
OF_EXPERTS = (
    "n_experts", "n_experts_per_token", "n_shared_experts", "expert_intermediate_size",
    "shared_intermediate_size",
)  # fmt: skip


def models() -> Iterator[tuple[str, ModelConfig]]:
    """Every distinct shape by name."""
    presets = {name: row.model for name, row in PRESETS.items() if row.model.moe}
    seen = set()
    for name, m in sorted((presets | {name: row.model for name, row in ROWS.items()}).items()):
        if total(m) not in seen:
            yield name, m
        seen.add(total(m))


def family(name: str) -> str:
    """The leading letters of a model's name."""
    return re.match(r"[a-z]+", name)[0]


def as_point(m: ModelConfig) -> Candidates:
    """The model as a point of a lattice."""
    sizes = {name: np.array([getattr(m, name)]) for name in SIZES}
    moe = {name: getattr(m.moe, name) for name in OF_EXPERTS}
    sizes |= {name: np.array([value]) for name, value in moe.items() if value is not None}
    return Candidates(counted=np.array([total(m)]), active=np.array([active(m)]), **sizes)


def percentile(m: ModelConfig) -> tuple[int, float]:
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
        for points in (as_point(m), rivals)
    )
    return len(rivals), 100 * float((others < mine - 1e-9).mean())


def centres() -> None:
    """What `search.score` and `search.space` say, from the models they say it of."""
    every = list(models())
    fitted = [m for name, m in every if family(name) in FITTED]
    for low, high in ((0, 1e9), (1e9, 5e9), (5e9, 1e12)):
        there = [(m, active_body(m)) for m in fitted if low <= active_body(m) < high]
        aspects = [np.log(m.dim / m.n_layers) for m, _ in there]
        size = np.exp(np.mean([np.log(count) for _, count in there]))
        print(f"aspect at {size:.3g}: {np.exp(np.mean(aspects)):.1f}, sd {np.std(aspects):.2f}")
    met = [np.log(met_width(m.moe) / m.dim) for m in fitted]
    print(f"met width / dim: median {np.exp(np.median(met)):.2f}, sd {np.std(met):.2f}")
    heads = [np.log(m.n_heads * m.head_dim / m.dim) for m in fitted if m.mla is None]
    print(f"heads / dim: mean {np.exp(np.mean(heads)):.2f}, sd {np.std(heads):.2f}")
    latent = [np.log(m.n_heads * m.mla.v_head_dim / m.dim) for _, m in every if m.mla]
    print(f"latent heads / dim, all: mean {np.exp(np.mean(latent)):.2f}, sd {np.std(latent):.2f}")
    share = np.array([np.log(m.moe.n_experts / m.moe.n_experts_per_token) for _, m in every])
    sparse = np.array([np.log(total(m) / active(m)) for _, m in every])
    print(f"total / active, all: (experts / per token) ** {(share * sparse).sum() / (share**2).sum():.2f}")


def main() -> None:
    """Print a line per model and the summary of both parts."""
    if "--centres" in sys.argv[1:]:
        centres()
        return
    ranks: dict[str, list[float]] = {"fitted": [], "held out": []}
    print(
        f"{'model':21} {'part':8} {'layers':>6} {'dim':>5} {'heads':>8} {'experts':>9} {'width':>6} "
        f"{'total':>8} {'active':>7} {'rivals':>7} {'percentile':>10}"
    )
    for name, m in models():
        rivals, rank = percentile(m)
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
    for part, found in ranks.items():
        p = np.array(found)
        within = ", ".join(f"{(p <= limit).mean():.0%} in the best {limit} %" for limit in (1, 5, 10))
        print(f"{part}: {len(p)} models, mean percentile {p.mean():.2f}, median {np.median(p):.2f}; {within}")


if __name__ == "__main__":
    main()
