"""Experts that are all used: how even the tokens are spread, and what evens them out.

The load-balancing loss of Switch Transformers, which every layer with experts adds through the gradient alone
(`build.experts`); and for routers with a correction DeepSeek-V3's way beside it or in its place: after every
update, the correction of an expert that got too many tokens falls, and that of the others rises.

L layers with experts   E experts
"""

from typing import Final

import torch
from torch import Tensor

from parambudget.build.experts import MixtureOfExperts
from parambudget.build.module import Transformer
from parambudget.train.config import TrainConfig
from parambudget.train.distributed import Ranks

CORRECTION_STEP: Final = 1e-3
"""By which a correction moves: DeepSeek-AI 2024 (DeepSeek-V3), arXiv 2412.19437, section 4.2."""


def weigh(module: Transformer, config: TrainConfig, ranks: Ranks) -> None:
    """Give every layer the weight of its loss, in a micro-step of those that an update of one process has."""
    for each in _of(module):
        each.balance_weight = config.balance_loss / len(ranks.own_steps(config))


def loads(module: Transformer, ranks: Ranks) -> Tensor | None:
    """Tokens that each expert got since the last time, of all processes, up to a factor, (L, E); None without
    experts."""
    found = [each.load_E for each in _of(module) if each.load_E is not None]
    for each in _of(module):
        each.load_E = None
    return ranks.mean(torch.stack(found).float()) if found else None


def busiest(loads_LE: Tensor) -> Tensor:
    """Tokens of the busiest expert in those of the average one, mean over the layers: 1 where all is even."""
    return (loads_LE.amax(-1) / loads_LE.mean(-1)).mean()


@torch.no_grad()
def correct(module: Transformer, loads_LE: Tensor) -> None:
    """Move the corrections, where there are any, against the loads."""
    for each, load_E in zip(_of(module), loads_LE, strict=True):
        if each.correction is not None:
            each.correction += CORRECTION_STEP * torch.sign(load_E.mean() - load_E)


def _of(module: Transformer) -> list[MixtureOfExperts]:
    return [layer.ffn for layer in module.layers if isinstance(layer.ffn, MixtureOfExperts)]
