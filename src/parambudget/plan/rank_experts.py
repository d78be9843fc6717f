"""What of the shape score is about experts and latent attention: the usual among published models that have
them (benchmarks/expert_models.py), fitted to the tuning half of docs/solving.md."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from parambudget.plan.arrays import Floats
from parambudget.plan.points import Points

ASPECT: Final = {500e6: 45, 2.2e9: 75, 12e9: 90}
"""Active body parameters to dim / n_layers: geometric means of the tuning half around each size."""
SPREAD: Final = 0.35
"""Standard deviation of ln(dim / n_layers) around that."""
MET_WIDTH: Final = (np.log(4.0), 0.36)
"""Median and standard deviation of ln(width a token meets / dim): Qwen3 3, OLMoE and gpt-oss 4, Mixtral 7.
"""
FILLING: Final = (np.log(1.27), 0.42)
"""The same of ln(n_heads * head_dim / dim): most fill dim, Qwen3 twice and GLM-4.5 2.4 to 3 times."""
LATENT_HEADS: Final = (np.log(1.5), 0.48)
"""Mean and standard deviation of ln(n_heads * v_head_dim / dim) in latent attention: DeepSeek-V3 2.3,
Moonlight 1."""


@dataclass(frozen=True)
class ExpertWeights:
    """The price of each departure, in the units of `rank.Weights`."""

    unaligned: float = 3.0
    """expert_intermediate_size not a multiple of 128, of 64 below 1B active."""
    number: float = 2.0
    """n_experts no power of two; half of it for a multiple of 32."""
    chosen: float = 2.0
    """Fine-grained, from 32 experts on: other than 8 for a token; half of it for 6, three quarters for 4.
    Coarse, below 32: other than 2; half of it for 4. Half as much again for what neither knows."""
    coarse: float = 1.0
    """Fewer than 32 experts: since DeepSeekMoE (Dai et al. 2024, arXiv 2401.06066) most have more,
    narrower ones."""
    wide: float = 1.0
    """One of 32 or more experts wider than dim."""


WEIGHTS: Final = ExpertWeights()


def experts_term(points: Points, size: int, weights: ExpertWeights = WEIGHTS) -> Floats:
    """The penalty of each point's number, share and width of experts; `size` is what is active."""
    w, n, chosen, width = (
        weights,
        points.n_experts,
        points.n_experts_per_token,
        points.expert_intermediate_size,
    )
    assert n is not None and chosen is not None and width is not None  # noqa: PT018
    fine, unit = n >= 32, 128 if size >= 1e9 else 64
    of_fine = np.select([chosen == 8, chosen == 6, chosen == 4], [0.0, 0.5, 0.75], 1.5)
    of_coarse = np.select([chosen == 2, chosen == 4, chosen == 1], [0.0, 0.5, 2.0], 1.5)
    uneven = np.where((n & (n - 1)) == 0, 0.0, np.where(n % 32 == 0, 0.5, 1.0))
    found: Floats = (
        w.unaligned * (width % unit > 0)
        + w.number * uneven
        + w.chosen * np.where(fine, of_fine, of_coarse)
        + w.coarse * ~fine
        + w.wide * (fine & (width > points.dim))
    )
    return found


def aspect(active_body: Any) -> Any:
    """The conventional dim / n_layers: log-linear between the knots of `ASPECT`, level beyond them."""
    return np.exp(np.interp(np.log(active_body), np.log(list(ASPECT)), np.log(list(ASPECT.values()))))
