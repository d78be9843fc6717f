"""The shape score: how far a shape is from what practitioners build at that size. Lower is better; 0 is the
most usual shape.

A prior over published models, not a prediction of loss: at a fixed count the loss depends only weakly on
shape (Kaplan et al. 2020, arXiv 2001.08361, section 3.1). It ranks, it never cuts. How its weights were
chosen and how published models rank under it is in docs/solving.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size, has_attention_layers, has_ffn_layers, whole_layer_share
from parambudget.cost.params import active_body, body
from parambudget.search.lattice import Bools, Candidates, Floats, Ints, Strings, count_errors, evaluate_points

FloatLike = float | Floats

ASPECT: Final = {
    10e6: 40, 100e6: 46, 300e6: 48, 1e9: 80, 2.5e9: 87,
    6.5e9: 124, 13e9: 128, 25e9: 110, 70e9: 105, 400e9: 130,
}  # fmt: skip
"""Body parameters to dim / n_layers: geometric means over published models around each size. From 7B to 70B
it was depth that grew (Llama: 32 x 4096, 40 x 5120, 80 x 8192), so the curve is not monotone."""


EXPERT_ASPECT: Final = {500e6: 45, 2.2e9: 75, 12e9: 90}
"""Active body parameters to dim / n_layers: geometric means of the tuning half around each size."""
SPREAD: Final = 0.35
"""Standard deviation of ln(dim / n_layers) around that."""
EXPERT_FFN_RATIO: Final = (np.log(4.0), 0.36)
"""Median and standard deviation of ln(active FFN width / dim): Qwen3 3, OLMoE and gpt-oss 4, Mixtral 7."""
EXPERT_HEAD_FILLING: Final = (np.log(1.27), 0.42)
"""The same of ln(n_heads * head_dim / dim): most fill dim, Qwen3 twice and GLM-4.5 2.4 to 3 times."""
LATENT_HEADS: Final = (np.log(1.5), 0.48)
"""Mean and standard deviation of ln(n_heads * v_head_dim / dim) in latent attention: DeepSeek-V3 2.3,
Moonlight 1."""


@dataclass(frozen=True)
class ScoreWeights:
    """The price of each departure, in units of one squared standard deviation of the aspect prior."""

    ffn: float = 1.0
    """Per squared standard deviation of ln(intermediate_size / dim)."""
    ffn_unaligned: float = 3.0
    """intermediate_size not a multiple of 128 (256 from 1B)."""
    odd_heads: float = 4.0
    """An odd n_heads."""
    unaligned_heads: float = 3.0
    """n_heads not a multiple of 4 (from 350M) or of 8 (from 3B)."""
    head_dim: float = 4.0
    """head_dim other than 128 from 1B, other than 64 and 128 below."""
    width_unaligned: float = 1.0
    """dim not a multiple of 128 (from 100M), 256 (1B) or 512 (7B)."""
    odd_depth: float = 3.0
    """An odd n_layers; half of it for an even one that 4 does not divide."""
    group: float = 1.0
    """A group of query heads other than 1, 2, 4 or 8, or a rare one: any below 350M, 2 from 3B."""
    multi_head: float = 2.0
    """Multi-head attention from 3B."""
    kv_heads: float = 1.0
    """Each of: a number of grouped kv heads that is not a power of two; fewer than 8 of them from 3B."""


SCORE_WEIGHTS: Final = ScoreWeights()


@dataclass(frozen=True)
class ExpertWeights:
    """The price of each departure, in the units of `ScoreWeights`."""

    unaligned: float = 3.0
    """expert_intermediate_size not a multiple of 128, of 64 below 1B active."""
    number: float = 2.0
    """n_experts not a power of two; half of it for a multiple of 32."""
    per_token: float = 2.0
    """Fine-grained, from 32 experts on: other than 8 per token; half of it for 6, three quarters for 4.
    Coarse, below 32: other than 2; half of it for 4. Half as much again for anything else."""
    coarse: float = 1.0
    """Fewer than 32 experts: since DeepSeekMoE (Dai et al. 2024, arXiv 2401.06066) most have more,
    narrower ones."""
    wide: float = 1.0
    """One of 32 or more experts wider than dim."""


EXPERT_SCORE_WEIGHTS: Final = ExpertWeights()


def shape_score(
    choices: ModelConfig, points: Candidates, size: int, weights: ScoreWeights = SCORE_WEIGHTS
) -> dict[str, Floats]:
    """The penalty of each point, term by term (none for heads, an FFN or experts where no layer has any);
    `size`, the target or with experts the active count, decides what is usual."""
    w, dim, layers = weights, points.dim, points.n_layers
    width_unit = 512 if size >= 7e9 else 256 if size >= 1e9 else 128 if size >= 100e6 else 64
    attends = has_attention_layers(choices)
    terms = {"aspect": aspect_deviation(choices, points) ** 2}
    if has_ffn_layers(choices):
        terms["ffn"] = _ffn(choices, points, size, w)
    if attends:
        terms["heads"] = _heads(choices, points, size, w)
    terms["width"] = w.width_unaligned * (dim % width_unit > 0).astype(float)
    terms["depth"] = w.odd_depth * np.where(layers % 2 > 0, 1.0, np.where(layers % 4 > 0, 0.5, 0.0))
    if attends:
        terms["kv"] = np.zeros(len(points)) if choices.mla else _kv(points, size, w)
    return terms | ({"experts": experts_term(points, size)} if choices.moe else {})


def _ffn(choices: ModelConfig, points: Candidates, size: int, w: ScoreWeights) -> Floats:
    # Medians of intermediate_size / dim among published models: 3.46 gated; 4 plain, hardly anything else.
    usual, spread = (1.24, 0.27) if choices.gated else (np.log(4), 0.10)
    unaligned = points.intermediate_size % (256 if size >= 1e9 else 128) > 0
    if choices.moe:  # the width of an expert is a term of its own
        (usual, spread), unaligned = EXPERT_FFN_RATIO, unaligned & False
    ffn: Floats = (
        w.ffn_unaligned * unaligned + w.ffn * ((np.log(points.ffn_width / points.dim) - usual) / spread) ** 2
    )
    return ffn


def _heads(choices: ModelConfig, points: Candidates, size: int, w: ScoreWeights) -> Floats:
    heads, head_dim = points.n_heads, points.head_dim
    head_unit = 8 if size >= 3e9 else 4 if size >= 350e6 else 1
    of_number = w.odd_heads * (heads % 2) + w.unaligned_heads * (heads % head_unit > 0)
    if choices.mla:
        usual, spread = LATENT_HEADS
        of_values: Floats = ((np.log(heads * choices.mla.v_head_dim / points.dim) - usual) / spread) ** 2
        return np.asarray(of_number + of_values)
    # Heads need not fill dim; among published models they mostly do.
    usual, spread = EXPERT_HEAD_FILLING if choices.moe else (0.0, 0.35)
    filling: Floats = ((np.log(heads * head_dim / points.dim) - usual) / spread) ** 2
    usual_head = head_dim == 128 if size >= 1e9 else (head_dim == 128) | (head_dim == 64)
    heads_term: Floats = of_number + filling + w.head_dim * ~usual_head
    return heads_term


def _kv(points: Candidates, size: int, w: ScoreWeights) -> Floats:
    kv_heads, group = points.n_kv_heads, points.n_heads // points.n_kv_heads
    unusual_group = (group != 1) & (group != 2) & (group != 4) & (group != 8)
    rare_group = group == 2 if size >= 3e9 else (group > 1) & (size < 350e6)
    unusual_kv = (group > 1) * ((kv_heads & (kv_heads - 1) > 0) * 1.0 + ((kv_heads < 8) & (size >= 3e9)))
    multi_head = (group == 1) & (size >= 3e9)
    kv: Floats = w.group * (unusual_group + rare_group) + w.multi_head * multi_head + w.kv_heads * unusual_kv
    return kv


def experts_term(points: Candidates, size: int, weights: ExpertWeights = EXPERT_SCORE_WEIGHTS) -> Floats:
    """The penalty of each point's number, share and width of experts; `size` is the active count."""
    w, n, per_token = weights, points.n_experts, points.n_experts_per_token
    width = points.expert_intermediate_size
    assert n is not None and per_token is not None and width is not None  # noqa: PT018
    fine, unit = n >= 32, 128 if size >= 1e9 else 64
    of_fine = np.select([per_token == 8, per_token == 6, per_token == 4], [0.0, 0.5, 0.75], 1.5)
    of_coarse = np.select([per_token == 2, per_token == 4, per_token == 1], [0.0, 0.5, 2.0], 1.5)
    uneven = np.where((n & (n - 1)) == 0, 0.0, np.where(n % 32 == 0, 0.5, 1.0))
    penalty: Floats = (
        w.unaligned * (width % unit > 0)
        + w.number * uneven
        + w.per_token * np.where(fine, of_fine, of_coarse)
        + w.coarse * ~fine
        + w.wide * (fine & (width > points.dim))
    )
    return penalty


def aspect_deviation(choices: ModelConfig, points: Candidates) -> Floats:
    """How many standard deviations wider (+) or deeper (-) each point is than is usual at its size: that of
    the body, with experts of its active part."""
    if choices.moe is None:
        bodies = evaluate_points(choices, points, body)
        usual, deviation = usual_aspect(bodies), aspect_spread(bodies)
    else:
        bodies = evaluate_points(choices, points, active_body)
        usual, deviation = usual_expert_aspect(bodies), np.asarray(SPREAD)
    ratio: Floats = np.log(aspect(choices, points.dim, points.n_layers) / usual) / deviation
    return ratio


def aspect(choices: Dims, dim: Size, n_layers: Size) -> Size:
    """dim / n_layers, where layers have a mixer and an FFN each. Two layers with one of them count as one, as
    Gu and Dao 2023 (arXiv 2312.00752, section 3.4) count those of Mamba: its published models then have the
    aspects of transformers (64, 43, 64, 85 and 80 from 130M to 2.8B)."""
    return dim / (n_layers * whole_layer_share(choices.mixer_pattern, choices.ffn_pattern))


def usual_aspect(body_count: FloatLike) -> Floats:
    """The usual dim / n_layers of dense models, by their body parameters."""
    return _interpolate(body_count, ASPECT)


def aspect_spread(body_count: FloatLike) -> Floats:
    """Standard deviation of ln(dim / n_layers) around the usual among published models: wider below 1B."""
    return np.where(body_count < 1e9, 0.5, 0.35)


def usual_expert_aspect(active_body_count: FloatLike) -> Floats:
    """The usual dim / n_layers of models with experts, by their active body parameters."""
    return _interpolate(active_body_count, EXPERT_ASPECT)


def _interpolate(count: FloatLike, knots: Mapping[float, float]) -> Floats:
    """Log-linear between the knots, level beyond them."""
    aspect: Floats = np.exp(np.interp(np.log(count), np.log(list(knots)), np.log(list(knots.values()))))
    return aspect


LABELS: Final = ("deep", "balanced", "wide")

# A third of a normal distribution lies on each side of this many standard deviations.
_THIRD: Final = 0.43

_OF_EXPERTS: Final = (
    "n_experts", "n_experts_per_token", "n_shared_experts", "expert_intermediate_size"
)  # fmt: skip

FFN_CLASSES: Final = tuple(Fraction(n, 6) for n in (13, 19, 23, 27, 33, 42))
"""Bounds between the classes of intermediate_size / dim, whose middles are near 2, 8/3, 3.5, 4, 5, 6 and 8.
"""


def rank_candidates(
    points: Candidates, score: Floats, target: int, active: int | None = None, *, closest: bool
) -> Ints:
    """Indices from best to worst. By score then error, or by error then score; ties by fewer layers, smaller
    dim, smaller head_dim, more kv heads, smaller FFN and fewer experts, so that the answer never depends on
    how the lattice was written."""
    # Rounded, so that the last bit of a logarithm does not order what is equal.
    rounded = np.round(score, 6)
    error = count_errors(points.counts(), [target] if active is None else [target, active])
    first = (error, rounded) if closest else (rounded, error)
    ties = (
        points.n_layers,
        points.dim,
        points.head_dim,
        points.n_heads,
        -points.n_kv_heads,
        points.intermediate_size,
        *(getattr(points, name) for name in _OF_EXPERTS if getattr(points, name) is not None),
    )
    ranking: Ints = np.lexsort((*reversed(ties), *reversed(first)))
    return ranking


def pick_diverse(
    points: Candidates, ranked: Ints, n: int, labels: Strings | None = None, *, apart: float | None = None
) -> Ints:
    """n of the ranking that differ from each other, in the order of the ranking, its first always among them.

    Any two differ in at least two of layers, dim, kv heads and FFN class, and not only in kv heads and FFN
    class; where the lattice leaves fewer of these free, in all that are. With `labels`, the best of each
    label is among them if n allows. The number of experts is one more trait, as good as layers or dim. Counts
    are a factor of `apart` from each other, as long as there are such.
    """
    traits, free = _traits(points)[:, ranked], free_traits(points)
    of_shape = len(traits) - 2
    differ_in, shape_is_free = max(1, min(2, int(free.sum()))), bool(free[:of_shape].any())
    open_ = np.ones(len(ranked), dtype=bool)
    wanted = (
        [] if labels is None else [labels[ranked] == name for name in dict.fromkeys(labels[ranked].tolist())]
    )
    sizes = np.log(points.counted[ranked])
    far = np.full(len(ranked), apart is not None)
    picked: list[int] = []
    while len(picked) < n and open_.any():
        within = next((here for here in wanted if not here[picked].any() and (here & open_).any()), True)
        pick = int(np.argmax(open_ & far if (open_ & far).any() else open_ & within))
        picked.append(pick)
        far &= np.abs(sizes - sizes[pick]) >= np.log(apart or 1)
        different = traits != traits[:, pick : pick + 1]
        open_ &= different.sum(axis=0) >= differ_in
        if shape_is_free:
            open_ &= different[:of_shape].any(axis=0)
        open_[pick] = False
    return ranked[np.sort(np.array(picked, dtype=np.int64))]


def free_traits(points: Candidates) -> Bools:
    """Which of layers, dim, experts, kv heads and FFN class are not the same for all points."""
    traits = _traits(points)
    free: Bools = (traits != traits[:, :1]).any(axis=1)
    return free


def _traits(points: Candidates) -> Ints:
    experts = [] if points.n_experts is None else [points.n_experts]
    return np.stack([points.n_layers, points.dim, *experts, points.n_kv_heads, ffn_class(points)])


def ffn_class(points: Candidates) -> Ints:
    """Class of each point's FFN ratio, 0 for the narrowest."""
    ratio = points.ffn_width / points.dim
    classes: Ints = np.digitize(ratio, [float(bound) for bound in FFN_CLASSES])
    return classes


def shape_labels(aspect_deviation: Floats) -> Strings:
    """deep, balanced or wide: the thirds of dim / n_layers around what is usual at that size."""
    names: Strings = np.array(LABELS)[np.digitize(aspect_deviation, (-_THIRD, _THIRD))]
    return names
