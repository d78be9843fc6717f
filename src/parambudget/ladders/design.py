"""Which small runs tell most of a large one: sizes of one family, at several tokens per parameter, for a
share of the large run's compute."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from math import exp, inf, log
from typing import Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.tensors import tensors
from parambudget.arch.validation import divisors
from parambudget.cost.flops import training_flops
from parambudget.cost.params import body
from parambudget.errors import InputError, NoSolution
from parambudget.ladders.bootstrap import MISFIT_SPREAD, SEED_SPREAD, Noise, draw_samples
from parambudget.ladders.constants import Array, Design, log_losses, prior_for
from parambudget.scaling.hyperparameters import law_update_tokens, update_tokens
from parambudget.scaling.loss import (
    DEFAULT_LAW,
    FREE_EPOCHS,
    INTERVAL,
    REPETITIONS,
    epochs,
    expected_loss,
    law_parameters,
    uniform_loss,
)
from parambudget.search.engine import Search
from parambudget.search.solve import solve
from parambudget.search.space import SearchSpace, choices_of, conventional_width
from parambudget.training.config import TrainConfig
from parambudget.training.run.defaults import MICRO_STEP_TOKENS, MOST_EVAL_TOKENS, with_train_defaults
from parambudget.units import format_count

DEFAULT_SHARE: Final = 0.1
"""Of the target's FLOPs."""
MOST_SHARE: Final = 10.0
DEFAULT_SIZES: Final = 5
DEFAULT_SEEDS: Final = 2
LARGEST_SPAN: Final = 10.0
"""The largest size over the smallest one: much smaller runs say little of a large one."""
SMALLEST_SPAN: Final = 2.0
"""Below it the exponents are not to be told from noise."""
MOST_EMBEDDING: Final = 2 / 3
"""Of a rung's parameters: above that it is no smaller transformer but a table with one beside it."""
FEWEST_UPDATES: Final = 100
"""Of a rung: fewer are hardly more than the rise of its rate and momentum."""
_TINY: Final = 1_000_000
_SHAPES_TRIED: Final = 200
"""For each width of heads."""
FEWEST_LAYERS: Final = 2
"""Of a rung whose target has as many: one layer of attention alone can't copy what followed a token before
(Olsson et al. 2022, arXiv 2209.11895), so its losses lie on another curve."""
FEWEST_HEADS: Final = 2
"""The same of query heads."""
ASPECT_GROWTH: Final = 1 / 6
"""Power of the body by which dim / n_layers grows within a family: between 10M and 13B parameters published
models go from 40 to 128 (`search.score.ASPECT`), and depth and width both have to grow smoothly."""
_HEAD_WIDTHS: Final = (128, 64, 32, 16)
FFN_SPREAD: Final = 1.1
"""The FFN ratio of a rung is that of the target within this factor."""
_WIDEST_FFN_SPREAD: Final = 1.5
"""The same where no model of that size is within it."""
_TOLERANCE: Final = Fraction(1, 4)
"""A rung may be so far off its size: what counts is that its shape is usual, and its N is known exactly."""


@dataclass(frozen=True)
class Target:
    """The run that is to be predicted."""

    model: ModelConfig
    tokens: int
    unique_tokens: int
    """Of the text."""

    @property
    def flops(self) -> int:
        """Of the whole run."""
        return training_flops(self.model, self.tokens)

    @property
    def n_parameters(self) -> float:
        """N, as laws count it."""
        return float(law_parameters(self.model))

    @property
    def overfitting_warning(self) -> str | None:
        """The line about a run that reads its text so often that no law of a ladder holds."""
        times = float(epochs(self.tokens, self.unique_tokens))
        if times <= FREE_EPOCHS:
            return None
        return (
            f"the target reads its text {times:.3g} times: models that are large for their text overfit "
            "then, which the law does not know, and their loss may end far above its interval "
            "(docs/ladder.md)"
        )


@dataclass(frozen=True)
class LadderRequest:
    """What a ladder is designed from, beside its target."""

    share: float = DEFAULT_SHARE
    """Of the target's FLOPs."""
    n_sizes: int = DEFAULT_SIZES
    n_seeds: int = DEFAULT_SEEDS
    """Of each run; the largest size has one, because seeds tell of noise, which small runs do for less."""
    ratios: tuple[float, ...] | None = None
    """Tokens per parameter; None for half and one and a half times that of the target."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= MOST_SHARE:
            raise InputError(f"`share={self.share:g}` is not a share of the target's compute; use 0.1 or 10%")
        if not 3 <= self.n_sizes <= 12:
            raise InputError(f"`sizes={self.n_sizes}` is too few or too many to fit a law to; use 3 to 12")
        if not 1 <= self.n_seeds <= 10:
            raise InputError(f"`seeds={self.n_seeds}` is not a number of seeds; use 1 to 10")
        if self.ratios is not None and not _tell_size_from_text(self.ratios):
            given = ",".join(f"{ratio:g}" for ratio in self.ratios)
            raise InputError(
                f"`ratios={given}` are no tokens per parameter that tell size from text; use two to four, "
                "the largest at least 1.5 times the smallest, such as 5,15"
            )


def _tell_size_from_text(ratios: Sequence[float]) -> bool:
    return 2 <= len(ratios) <= 4 and min(ratios) > 0 and max(ratios) >= 1.5 * min(ratios)


@dataclass(frozen=True)
class Rung:
    """One small run."""

    model: ModelConfig
    config: TrainConfig

    @property
    def name(self) -> str:
        """Of its config file and its folder: size, tokens and seed."""
        size, tokens = format_count(round(self.n_parameters)), format_count(self.tokens)
        return f"{size}-{tokens}-seed{self.config.seed}".replace(",", "")

    @property
    def tokens(self) -> int:
        """Trained on, in whole updates."""
        return self.config.steps * self.config.step.tokens_per_update(self.model.context_length)

    @property
    def n_parameters(self) -> float:
        """N, as laws count it."""
        return float(law_parameters(self.model))

    @property
    def flops(self) -> int:
        """Of the run."""
        return training_flops(self.model, self.tokens)


def default_ratios(target: Target) -> tuple[float, float]:
    """Tokens per parameter of the rungs: around that of the target, a factor of 3 apart."""
    ratio = target.tokens / target.n_parameters
    return (ratio / 2, ratio * 3 / 2)


def choose_rungs(target: Target, request: LadderRequest, *, on_cpu: bool) -> tuple[Rung, ...]:
    """The rungs, cheapest first and one seed of all before the second of any.

    Sizes are a constant factor apart, at most 10 over all. Raises `NoSolution` where the share buys no such
    ladder.
    """
    if target.model.moe is not None:
        raise InputError("a ladder is of dense models, and this target has experts; use a dense one")
    ratios = request.ratios or default_ratios(target)
    budget, smallest = request.share * target.flops, _smallest_size(target, min(ratios))
    if target.n_parameters < SMALLEST_SPAN * smallest:
        raise NoSolution(_too_small_target(target, smallest))
    per_parameter = 6.0
    for _ in range(8):
        paid = _largest_size(budget, per_parameter, smallest, request, ratios)
        if paid is None or paid < SMALLEST_SPAN * smallest:
            break
        largest = min(paid, target.n_parameters)
        sizes = np.geomspace(max(smallest, largest / LARGEST_SPAN), largest, request.n_sizes)
        rungs = _rungs(target, sizes.tolist(), ratios, request.n_seeds, on_cpu=on_cpu)
        spent = sum(rung.flops for rung in rungs)
        if spent <= budget:
            return rungs
        per_parameter *= 1.02 * spent / budget
    raise NoSolution(_too_small(target, request.share, smallest))


def _too_small(target: Target, share: float, smallest: float) -> str:
    return (
        f"{share:.0%} of the budget is too little for a ladder: {_usable_sizes(target, smallest)}; give a "
        "larger `share`, fewer `seeds`, other `ratios` or a smaller `vocab_size`"
    )


def _too_small_target(target: Target, smallest: float) -> str:
    return (
        f"a target of {format_count(round(target.n_parameters))} parameters is too small for a ladder: "
        f"{_usable_sizes(target, smallest)}; train the target itself, or use larger `ratios` or a smaller "
        "`vocab_size`"
    )


def _usable_sizes(target: Target, smallest: float) -> str:
    return (
        f"the smallest model that tells something here has {format_count(round(smallest))} parameters "
        f"(smaller ones are mostly embedding at a vocabulary of {target.model.vocab_size:,}, or make fewer "
        f"than {FEWEST_UPDATES} updates), and the largest must have {SMALLEST_SPAN:g} times as many"
    )


def embedding_share(model: ModelConfig) -> float:
    """Of N, what lies in the table of tokens."""
    embedding = sum(row.elements for row in tensors(model) if row.component == "token_embedding")
    return float(embedding / law_parameters(model))


def _smallest_size(target: Target, ratio: float) -> float:
    """The least N of a rung: most of it is no embedding, and its run is more than a warm-up."""
    low, high = log(1e4), log(target.n_parameters)
    for _ in range(12):
        middle = (low + high) / 2
        if _is_usable(target, exp(middle), ratio):
            high = middle
        else:
            low = middle
    if not _is_usable(target, exp(high), ratio):
        raise NoSolution(
            f"even a model of {format_count(round(target.n_parameters))} parameters, the target's size, is "
            f"mostly embedding at a vocabulary of {target.model.vocab_size:,}, or makes fewer than "
            f"{FEWEST_UPDATES} updates with {ratio:.3g} tokens per parameter; use a smaller `vocab_size` or "
            "larger `ratios`"
        )
    return exp(high)


def _is_usable(target: Target, size: float, ratio: float) -> bool:
    try:
        model = _model_of_size(target.model, size)
    except NoSolution:
        return False
    if embedding_share(model) > MOST_EMBEDDING:
        return False
    config = _config(model, round(ratio * law_parameters(model)), target, seed=0, on_cpu=True)
    return config.steps >= FEWEST_UPDATES


def _largest_size(
    budget: float, per_parameter: float, smallest: float, request: LadderRequest, ratios: Sequence[float]
) -> float | None:
    """The N of the largest rung that the FLOPs pay for, if each takes k N D; None where that is less than the
    smallest."""
    seeds = np.array([request.n_seeds] * (request.n_sizes - 1) + [1])

    def cost(largest: float) -> float:
        sizes = np.geomspace(max(smallest, largest / LARGEST_SPAN), largest, request.n_sizes)
        return float(per_parameter * sum(ratios) * np.sum(seeds * sizes**2))

    if cost(smallest) > budget:
        return None
    low, high = log(smallest), log(1e13)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(exp(middle)) <= budget else (low, middle)
    return exp(low)


def _rungs(
    target: Target, sizes: Sequence[float], ratios: Sequence[float], n_seeds: int, *, on_cpu: bool
) -> tuple[Rung, ...]:
    models = list(dict.fromkeys(_model_of_size(target.model, size) for size in sizes))
    # A rung that alone read its text again would add a constant, R*, that the target does not need.
    most = target.unique_tokens if target.tokens <= target.unique_tokens else inf
    pairs = dict.fromkeys(
        (model, min(round(ratio * law_parameters(model)), most)) for model in models for ratio in ratios
    )
    rungs = [
        Rung(model, _config(model, int(tokens), target, seed=seed, on_cpu=on_cpu))
        for model, tokens in pairs
        for seed in range(1 if model is models[-1] else n_seeds)
    ]
    return tuple(sorted(rungs, key=lambda rung: (rung.config.seed, rung.flops)))


def _model_of_size(like: ModelConfig, size: float) -> ModelConfig:
    """A model of about that N, of the family of another one: its choices, query heads per key/value head and
    FFN ratio, and about its proportions. Heads are as wide, or narrower where the model is."""
    try:
        shapes = _shapes(like, size, {like.kv_group}, FFN_SPREAD)
    except NoSolution:
        shapes = _shapes(like, size, {1, like.kv_group}, _WIDEST_FFN_SPREAD)
    return min(shapes, key=lambda model: _distance(model, size, like))


def _shapes(like: ModelConfig, size: float, groups: set[int], spread: float) -> list[ModelConfig]:
    """Models of about that N, for each width of heads. Raises `NoSolution` where there is none."""
    # The solver counts the head that N leaves out; how much of N a shape really has is looked at below.
    head = 0 if like.tied else like.vocab_size * conventional_width(round(size))
    ratio = like.intermediate_size / like.dim
    multiple = 16 if size < _TINY else 64
    fields = choices_of(like)
    widths: list[dict[str, object]] = [{}]
    if like.n_attention_layers:
        fields["kv_groups"] = sorted(groups)
        narrower = (width for width in _HEAD_WIDTHS if width < like.head_dim)
        widths = [{"head_dim": width} for width in (like.head_dim, *narrower)]
    if like.n_ffn_layers:
        fields["ffn_ratio"] = (Fraction(ratio / spread), Fraction(ratio * spread))
    if size < _TINY:
        fields["multiple"] = multiple
    found: list[ModelConfig] = []
    for width in widths:
        with suppress(NoSolution):
            shapes = _usual_shapes(round(size + head), fields | width, has_ffn=like.n_ffn_layers > 0)
            found += [model for model in shapes if _is_deep_enough(model, like)]
    if not found:
        raise NoSolution(
            f"no model of about {format_count(round(size))} parameters is of the target's family; use "
            "another `target`, `share` or `vocab_size`"
        )
    if not like.n_ffn_layers:
        return found
    return [m.replace(intermediate_size=round(ratio * m.dim / multiple) * multiple) for m in found]


def _usual_shapes(size: int, fields: dict[str, object], *, has_ffn: bool) -> list[ModelConfig]:
    """Models of about that size: the most usual ones of different depth and width, whose FFN fills up what is
    missing; without an FFN all depths and widths."""
    if has_ffn:
        return [shape.model for shape in solve(size, fields, tolerance=_TOLERANCE, top=_SHAPES_TRIED)]
    space = SearchSpace.declare(size, fields)
    points = Search(space, size).candidates_within(_TOLERANCE)
    return [space.choices.replace(**points.sizes(i)) for i in range(len(points))]


def _is_deep_enough(model: ModelConfig, like: ModelConfig) -> bool:
    fewest_layers, fewest_heads = min(FEWEST_LAYERS, like.n_layers), min(FEWEST_HEADS, like.n_heads)
    return model.n_layers >= fewest_layers and model.n_heads >= fewest_heads


def _distance(model: ModelConfig, size: float, like: ModelConfig) -> float:
    """How far a model is from a size and from the proportions of another one, for its size; in ln. Even steps
    between sizes matter most, then the proportions; the width of heads hardly does."""
    wide = [log(m.dim / m.n_layers) - ASPECT_GROWTH * log(body(m)) for m in (model, like)]
    ffn = [log(m.intermediate_size / m.dim) if m.n_ffn_layers else 0.0 for m in (model, like)]
    heads = 0.2 * (model.kv_group != like.kv_group)
    if like.n_attention_layers:
        heads += 0.2 * abs(log(model.head_dim / like.head_dim))
    off = 3 * abs(log(float(law_parameters(model)) / size))
    return off + 1.5 * abs(wide[0] - wide[1]) + abs(ffn[0] - ffn[1]) + heads


def _config(model: ModelConfig, tokens: int, target: Target, *, seed: int, on_cpu: bool) -> TrainConfig:
    """The settings of a rung: those that the trainer would choose for it, evaluated once, at the end, on as
    much of the held-out text as any rung is.

    Its batch alone is not the trainer's, a power of two and at least 4,096 tokens, but as far from that of
    the laws as the target's: batches now above and now below the laws move losses by more than seeds do.
    """
    kind = "cpu" if on_cpu else "accelerator"
    wished = _batch_share(target) * law_update_tokens(model, tokens) / model.context_length
    sequences = _round_to_few_bits(wished)
    micro = [n for n in divisors(sequences) if n * model.context_length <= MICRO_STEP_TOKENS[kind]]
    batch_size = max(micro, default=1)
    given = {
        "seed": seed, "eval_tokens": MOST_EVAL_TOKENS, "batch_size": batch_size,
        "gradient_accumulation_steps": sequences // batch_size,
    }  # fmt: skip
    chosen = with_train_defaults(given, model, target.unique_tokens, on_cpu=on_cpu, tokens=tokens).config
    return chosen.replace(eval_every=chosen.steps, keep=1)


def _batch_share(target: Target) -> float:
    """The target's tokens per update relative to those of the laws."""
    model, tokens = target.model, target.tokens
    return update_tokens(model, tokens).tokens / law_update_tokens(model, tokens)


def _round_to_few_bits(sequences: float) -> int:
    """The nearest whole number that is 4 to 7 times a power of two, so that micro-steps can be large."""
    unit = 1 << max(0, int(sequences).bit_length() - 3)
    return max(1, round(sequences / unit)) * unit


@dataclass(frozen=True, eq=False)
class Certainty:
    """How well a ladder is expected to tell the loss of its target: by simulation, before any run."""

    loss: float
    """Nats per token that are assumed of the target."""
    width: float
    """Of the 90 % interval of its expected loss, in nats."""
    without: dict[tuple[float, int], float]
    """The same without all runs of one N and D, by these."""
    neighbours: float
    """Nats that models of a quarter and of four times the target's size are worse by for its compute: what
    the error should be smaller than."""


NEIGHBOUR: Final = 4.0


def simulate(target: Target, rungs: Sequence[Rung], seed: int = 0) -> Certainty:
    """What the fit of these rungs would leave open, if the world is about as published laws and runs are.

    The exponents are those of the default law; of the target's loss, which it gives too (at most half of
    that of guessing), half is irreducible and a quarter is left by each term; runs scatter by
    `bootstrap.SEED_SPREAD` and `MISFIT_SPREAD`. Only shares of the loss follow from this, and its level
    cancels.
    """
    design = design_of(rungs, target.unique_tokens)
    at = np.array([target.n_parameters]), np.array([float(target.tokens)])
    guess = float(expected_loss(DEFAULT_LAW, at[0][0], at[1][0]))
    loss = min(guess, uniform_loss(target.model.vocab_size) / 2)

    def width(of: Design) -> float:
        middle = of.middle
        alpha, beta = DEFAULT_LAW.alpha, DEFAULT_LAW.beta
        at_target = log(loss / 4)
        fitted = np.array([
            at_target + alpha * (log(target.n_parameters) - middle[0]),
            at_target + beta * (log(target.tokens) - middle[1]),
            log(loss / 2), log(alpha), log(beta), log(REPETITIONS),
        ])[: of.n_constants]  # fmt: skip
        prior = prior_for(of, loss)
        samples = draw_samples(fitted, of, middle, prior, _assumed_noise(of), seed=seed)
        there = Design(*at, np.minimum(at[1], target.unique_tokens), np.ones(1))
        losses = np.exp(_log_losses_at(samples.constants, there, middle))
        low, high = np.percentile(losses, INTERVAL)
        return float(high - low)

    pairs = list(zip(design.n_parameters.tolist(), design.tokens.tolist(), strict=True))
    without = {
        (n, int(d)): width(design.select(np.array([pair != (n, d) for pair in pairs]))) for n, d in pairs
    }
    return Certainty(loss, width(design), without, _neighbours(loss))


def _log_losses_at(constants: Array, there: Design, middle: tuple[float, float]) -> Array:
    return log_losses(constants, there, middle)[0][:, 0]


def _assumed_noise(design: Design) -> Noise:
    freedom = max(1.0, len(design.seeds) - 4.0)
    of_seeds = float(np.sum(design.seeds - 1))
    variance = MISFIT_SPREAD**2 + SEED_SPREAD**2 / design.mean_seeds
    return Noise(of_seeds * SEED_SPREAD**2, of_seeds, freedom * variance, freedom, design.mean_seeds)


def _neighbours(loss: float) -> float:
    """By the assumed law, for models on either side of its own best size."""
    alpha, beta = DEFAULT_LAW.alpha, DEFAULT_LAW.beta
    worse = [loss / 4 * (factor**-alpha + factor**beta) - loss / 2 for factor in (NEIGHBOUR, 1 / NEIGHBOUR)]
    return float(max(min(worse), 0.0))


def design_of(rungs: Sequence[Rung], unique_tokens: int) -> Design:
    """The pairs of N and D of some rungs."""
    pairs: dict[tuple[float, int], int] = {}
    for rung in rungs:
        pairs[rung.n_parameters, rung.tokens] = pairs.get((rung.n_parameters, rung.tokens), 0) + 1
    n, d = np.array(list(pairs), dtype=np.float64).T
    return Design(
        n, d, np.full(len(n), float(unique_tokens)), np.array(list(pairs.values()), dtype=np.float64)
    )
