"""The optimizer, its parameters grouped by the role that each tensor has in the table."""

import re
from collections.abc import Iterable
from typing import Final

import torch
from torch import nn

from parambudget.arch.config import ModelConfig
from parambudget.arch.tensors import Role, tensors
from parambudget.train.config import TrainConfig

_DECAYED: Final[frozenset[Role]] = frozenset({"matmul"})
"""What is multiplied with is decayed; what is looked up (a tied head too), added or scaled by is not."""


def adamw(module: nn.Module, model: ModelConfig, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW, fused, with weight decay on the matrices alone."""
    roles = {row.name: row.role for row in tensors(model) if row.shared_with is None}
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        (decayed if roles[row_name(name)] in _DECAYED else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def row_name(name: str) -> str:
    """The row of the table that a module's tensor belongs to: the layer's number is `*` there."""
    return re.sub(r"\.\d+\.", ".*.", name)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip(parameters: Iterable[nn.Parameter], longest: float) -> torch.Tensor:
    """Scale the whole gradient down to norm `longest` if it is longer; returns the norm before."""
    learning = list(parameters)
    norm = nn.utils.get_total_norm([p.grad for p in learning if p.grad is not None])
    nn.utils.clip_grads_with_norm_(learning, longest, norm)
    return norm
