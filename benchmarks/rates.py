"""Do people use the learning rates and batches that are suggested here? Published runs of AdamW.

    python benchmarks/rates.py           # the table of docs/laws.md, and the shares within a factor of 2
    python benchmarks/rates.py --fit     # the law of published runs again, and its share held out by source

The runs are in published_rates.json: each with its source, looked up there and not recalled. `model` is a
preset of that shape, or the fields of one. Where the length of the run was planned, the plan counts.

Step Law and DeepSeek's law have seen none of these runs. The law of published runs, which takes over from
Step Law, has: its constants are those under which the most suggestions lie within a factor of 2 (of several
as good, the middle ones). The share held out is that of each source under the constants that the same search
finds without it. The fit takes some two minutes.
"""

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.cost.params import body, total
from parambudget.scaling.hyperparameters import (
    STEP_LAW,
    USUAL_RATE,
    PowerLaw,
    adamw_rate,
    step_law_rate,
    update_tokens,
)
from parambudget.units import format_count

HERE = Path(__file__).parent
FACTOR: Final = 2
OF_GPT_3: Final = {
    "opt", "cerebras-gpt", "pythia", "bloom", "gpt-neo", "gpt-j", "gpt-neox", "llm.c", "nanogpt",
}  # fmt: skip
"""Sources that took GPT-3's rates over, for most of their sizes."""


@dataclass(frozen=True)
class PublishedRun:
    """What people did."""

    name: str
    source: str
    publication: str
    model: ModelConfig
    tokens: int
    batch_tokens: int | None
    """None where it was not found."""
    rate: float

    @property
    def rate_ratio(self) -> float:
        """The suggested rate over the published one."""
        return adamw_rate(body(self.model), self.tokens).rate / self.rate

    @property
    def suggested_batch(self) -> int:
        """Tokens per update."""
        return update_tokens(self.model, self.tokens).tokens

    @property
    def repeats_gpt_3(self) -> bool:
        """Whether this is GPT-3's rate again, for GPT-3's size."""
        return self.source in OF_GPT_3 and (_size(self), self.rate) in {
            (_size(run), run.rate) for run in published() if run.source == "gpt-3"
        }


def _size(run: PublishedRun) -> tuple[int, int]:
    return run.model.n_layers, run.model.dim


def main() -> None:
    """Print the table, or fit again."""
    parser = argparse.ArgumentParser(description="Published against suggested learning rates and batches.")
    parser.add_argument("--fit", action="store_true", help="fit the law of published runs again")
    runs = published()
    if parser.parse_args().fit:
        refit(runs)
        return
    print(*table(runs), sep="\n")
    print()
    report(runs)


def published() -> list[PublishedRun]:
    """Every run, in the order of the file."""
    document = json.loads((HERE / "published_rates.json").read_text(encoding="utf-8"))
    return [
        PublishedRun(
            run["name"], run["source"], document["sources"][run["source"]]["what"], model_of(run["model"]),
            run["tokens"], run["batch_tokens"], run["rate"],
        )
        for run in document["runs"]
    ]  # fmt: skip


def model_of(shape: str | dict[str, Any]) -> ModelConfig:
    """A preset by its name, or a model by its fields."""
    return pb.model(shape) if isinstance(shape, str) else pb.model(**shape)


def table(runs: Sequence[PublishedRun]) -> list[str]:
    """The table of docs/laws.md."""
    head = "| run | parameters | tokens | batch | suggested | rate | suggested | ratio | source |"
    return [head, "|---" * 9 + "|", *(row(run) for run in runs)]


def row(run: PublishedRun) -> str:
    """A line of the table."""
    batch = "?" if run.batch_tokens is None else format_count(run.batch_tokens)
    suggestion = adamw_rate(body(run.model), run.tokens).rate
    cells = (
        run.name, format_count(total(run.model)), format_count(run.tokens), batch,
        format_count(run.suggested_batch), f"{run.rate:.2g}", f"{suggestion:.2g}", f"{run.rate_ratio:.2f}",
        run.publication,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def share_within(ratios: Iterable[float]) -> float:
    """The share of ratios that are at most a factor of 2 away from 1, to within rounding."""
    near = [abs(math.log(ratio)) <= math.log(FACTOR) + 1e-4 for ratio in ratios]
    return sum(near) / len(near)


def report(runs: Sequence[PublishedRun]) -> None:
    """Print the shares within a factor of 2."""
    print(f"{'share within a factor of 2':40} {'runs':>5} {'rate':>6} {'batch':>6}")
    for name, (n_runs, rate, batch) in shares(runs).items():
        print(f"{name:40} {n_runs:5} {rate:6.0%} {'' if batch is None else f'{batch:6.0%}'}")


def shares(runs: Sequence[PublishedRun]) -> dict[str, tuple[int, float, float | None]]:
    """Of all runs and of groups: how many there are, and the shares of rates and of batches within a factor
    of 2."""
    groups = {
        "all": runs,
        "without repetitions of GPT-3's rates": [run for run in runs if not run.repeats_gpt_3],
        "below 1B body parameters": [run for run in runs if body(run.model) < 1e9],
        "1B to 10B": [run for run in runs if 1e9 <= body(run.model) < 1e10],
        "from 10B": [run for run in runs if body(run.model) >= 1e10],
        "inside Step Law's range": [run for run in runs if not STEP_LAW.outside(quantities(run))],
    }
    found: dict[str, tuple[int, float, float | None]] = {}
    for name, group in groups.items():
        batches = [run.suggested_batch / run.batch_tokens for run in group if run.batch_tokens]
        rates = share_within(run.rate_ratio for run in group)
        found[name] = len(group), rates, share_within(batches)
    alone = [step_law_rate(*both(run)).value / run.rate for run in runs]
    found["Step Law alone, extrapolated"] = len(runs), share_within(alone), None
    deepseek = [deepseek_rate(run) / run.rate for run in runs]
    found["DeepSeek's law alone, extrapolated"] = len(runs), share_within(deepseek), None
    return found


def quantities(run: PublishedRun) -> dict[str, float]:
    """What Step Law goes by."""
    return dict(zip(STEP_LAW.ranges, both(run), strict=True))


def both(run: PublishedRun) -> tuple[int, int]:
    """Parameters outside embeddings and head, and tokens."""
    return body(run.model), run.tokens


def deepseek_rate(run: PublishedRun) -> float:
    """By the law that the suggestions do not use."""
    return 0.3118 * (6 * body(run.model) * run.tokens) ** -0.1250


EXPONENTS: Final = {"size": np.arange(-0.26, -0.09, 0.01), "tokens": np.arange(0.0, 0.21, 0.05)}
MIDDLE: Final = (7e9, 2e12)
"""Parameters and tokens where the level is varied, between the rates below."""
LEVELS: Final = np.geomspace(1.5e-4, 3.5e-4, 43)


def refit(runs: Sequence[PublishedRun]) -> None:
    """Search again, with every run and without each source in turn."""
    laws = [
        (PowerLaw(1.0, size, tokens), level)
        for size, tokens, level in product(*EXPONENTS.values(), LEVELS)
    ]  # fmt: skip
    laws = [PowerLaw(level / law(*MIDDLE), law.size, law.tokens) for law, level in laws]
    near = np.array([[is_near(law, run) for run in runs] for law in laws])
    best = laws[middle_of_best(laws, near)]
    for name, law in {"fitted": best, "shipped": USUAL_RATE}.items():
        formula = f"{law.factor:.2g} N^{law.size:.2f} D^{law.tokens:.2f}"
        print(f"{name}: {formula}, within a factor of 2: {near_share(law, runs):.1%}")
    sources = np.array([run.source for run in runs])
    held_out = 0
    for source in dict.fromkeys(sources):
        law = middle_of_best(laws, near[:, sources != source])
        held_out += near[law, sources == source].sum()
    print(
        f"held out by source: {held_out / len(runs):.1%} of {len(runs)} runs of {len(set(sources))} sources"
    )


def is_near(law: PowerLaw, run: PublishedRun) -> bool:
    """Whether the suggestion is within a factor of 2 of the published rate, with this law of usual rates."""
    return share_within([adamw_rate(*both(run), law).rate / run.rate]) == 1


def near_share(law: PowerLaw, runs: Sequence[PublishedRun]) -> float:
    """The share of suggestions within a factor of 2, with this law of usual rates."""
    return sum(is_near(law, run) for run in runs) / len(runs)


def middle_of_best(laws: Sequence[PowerLaw], near: np.ndarray) -> int:
    """The index of the law that has most runs near it; of several, the one nearest to their mean."""
    counts = near.sum(axis=1)
    best = np.flatnonzero(counts == counts.max())
    places = np.array(
        [(laws[i].size / 0.01, laws[i].tokens / 0.05, 20 * np.log(laws[i](*MIDDLE))) for i in best]
    )
    return int(best[np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1))])


if __name__ == "__main__":
    main()
