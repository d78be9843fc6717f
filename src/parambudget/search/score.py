"""The shape score: how far a shape is from what practitioners build at that size. Lower is better; 0 is the
centre.

A prior over published models, not a prediction of loss: at a fixed count the loss depends only weakly on
shape (Kaplan et al. 2020, arXiv 2001.08361, section 3.1). It ranks, it never cuts. How its weights were
chosen and how published models rank under it is in docs/solving.md.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from parambudget.arch.config import ModelConfig
from parambudget.cost.params import active_body, body
from parambudget.plan import rank_experts
from parambudget.plan.arrays import Floats
from parambudget.plan.points import Points, reading

ASPECT: Final = {
    10e6: 40, 100e6: 46, 300e6: 48, 1e9: 80, 2.5e9: 87,
    6.5e9: 124, 13e9: 128, 25e9: 110, 70e9: 105, 400e9: 130,
}  # fmt: skip
"""Body parameters to dim / n_layers: geometric means over published models around each size. From 7B to 70B
it was depth that grew (Llama: 32 x 4096, 40 x 5120, 80 x 8192), so the curve is not monotone."""


TERMS: Final = ("aspect", "ffn", "heads", "width", "depth", "kv")


@dataclass(frozen=True)
class Weights:
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
    """A group of query heads other than 1, 2, 4 or 8; half of it for a rare one: any below 350M, 2 from 3B.
    """
    multi_head: float = 2.0
    """Multi-head attention from 3B."""
    kv_heads: float = 1.0
    """Each of: grouped kv heads that are no power of two; fewer than 8 of them from 3B."""


WEIGHTS: Final = Weights()


def centre(body_count: Any) -> Any:
    """The conventional dim / n_layers at a body count: log-linear between the knots of `ASPECT`, level beyond
    them."""
    return np.exp(np.interp(np.log(body_count), np.log(list(ASPECT)), np.log(list(ASPECT.values()))))


def spread(body_count: Any) -> Any:
    """Standard deviation of ln(dim / n_layers) around the centre among published models: wider below 1B."""
    return np.where(body_count < 1e9, 0.5, 0.35)


def aspect_deviation(choices: ModelConfig, points: Points) -> Floats:
    """How many standard deviations wider (+) or deeper (-) each point is than is conventional at its size: of
    the body, with experts at what is active of it."""
    if choices.moe is None:
        bodies = reading(choices, points, body)
        usual, deviation = centre(bodies), spread(bodies)
    else:
        bodies = reading(choices, points, active_body)
        usual, deviation = rank_experts.aspect(bodies), rank_experts.SPREAD
    ratio: Floats = np.log(points.dim / points.n_layers / usual) / deviation
    return ratio


def shape_score(
    choices: ModelConfig, points: Points, size: int, weights: Weights = WEIGHTS
) -> dict[str, Floats]:
    """The penalty of each point, term by term (`TERMS`, and "experts" where there are any); `size` is the
    budget, of a model with experts the active one, which sets what is conventional."""
    w, dim, layers = weights, points.dim, points.n_layers
    width_unit = 512 if size >= 7e9 else 256 if size >= 1e9 else 128 if size >= 100e6 else 64
    terms = {
        "aspect": aspect_deviation(choices, points) ** 2,
        "ffn": _ffn(choices, points, size, w),
        "heads": _heads(choices, points, size, w),
        "width": w.width_unaligned * (dim % width_unit > 0).astype(float),
        "depth": w.odd_depth * np.where(layers % 2 > 0, 1.0, np.where(layers % 4 > 0, 0.5, 0.0)),
        "kv": np.zeros(len(points)) if choices.mla else _kv(points, size, w),
    }
    return terms | ({"experts": rank_experts.experts_term(points, size)} if choices.moe else {})


def _ffn(choices: ModelConfig, points: Points, size: int, w: Weights) -> Floats:
    # Medians of intermediate_size / dim among published models: 3.46 gated; 4 plain, hardly anything else.
    centre, spread = (1.24, 0.27) if choices.gated else (np.log(4), 0.10)
    unaligned = points.intermediate_size % (256 if size >= 1e9 else 128) > 0
    if choices.moe:  # the width of an expert is a term of its own
        (centre, spread), unaligned = rank_experts.MET_WIDTH, unaligned & False
    ffn: Floats = (
        w.ffn_unaligned * unaligned + w.ffn * ((np.log(points.ffn_width / points.dim) - centre) / spread) ** 2
    )
    return ffn


def _heads(choices: ModelConfig, points: Points, size: int, w: Weights) -> Floats:
    heads, head_dim = points.n_heads, points.head_dim
    head_unit = 8 if size >= 3e9 else 4 if size >= 350e6 else 1
    of_number = w.odd_heads * (heads % 2) + w.unaligned_heads * (heads % head_unit > 0)
    if choices.mla:
        usual, spread = rank_experts.LATENT_HEADS
        of_values: Floats = ((np.log(heads * choices.mla.v_head_dim / points.dim) - usual) / spread) ** 2
        return np.asarray(of_number + of_values)
    # Heads need not fill dim; among published models they mostly do.
    usual, spread = rank_experts.FILLING if choices.moe else (0.0, 0.35)
    filling: Floats = ((np.log(heads * head_dim / points.dim) - usual) / spread) ** 2
    usual_head = head_dim == 128 if size >= 1e9 else (head_dim == 128) | (head_dim == 64)
    heads_term: Floats = of_number + filling + w.head_dim * ~usual_head
    return heads_term


def _kv(points: Points, size: int, w: Weights) -> Floats:
    kv_heads, group = points.n_kv_heads, points.n_heads // points.n_kv_heads
    unusual_group = (group != 1) & (group != 2) & (group != 4) & (group != 8)
    rare_group = group == 2 if size >= 3e9 else (group > 1) & (size < 350e6)
    unusual_kv = (group > 1) * ((kv_heads & (kv_heads - 1) > 0) * 1.0 + ((kv_heads < 8) & (size >= 3e9)))
    multi_head = (group == 1) & (size >= 3e9)
    kv: Floats = w.group * (unusual_group + rare_group) + w.multi_head * multi_head + w.kv_heads * unusual_kv
    return kv
