"""The optimizer, its parameters grouped by the role that each tensor has in the table.

Muon: Jordan 2024, kellerjordan.github.io/posts/muon; its updates scaled to the size of AdamW's, so that the
same learning rate and weight decay hold, as in Liu et al. 2025 (Moonlight), arXiv 2502.16982.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import torch
from torch import nn

from parambudget.arch.config import ModelConfig
from parambudget.arch.tensors import Tensor, tensors
from parambudget.training.config import TrainConfig
from parambudget.training.distributed import is_piece


@dataclass(frozen=True, eq=False)
class Groups:
    """Every parameter of a module once, by what the table says of it."""

    hidden: list[nn.Parameter] = field(default_factory=list)
    """Matrices between the lookups and the head."""
    ends: list[nn.Parameter] = field(default_factory=list)
    """The output head, unless it is the embedding, routers, and the matrices of all experts in one tensor:
    what is multiplied with and no single hidden matrix."""
    undecayed: list[nn.Parameter] = field(default_factory=list)
    """What is looked up (a tied head too), added or scaled by."""


def groups(module: nn.Module, model: ModelConfig) -> Groups:
    """The module's parameters by role. Role and component decide; of the shape it is only made sure."""
    rows = {row.name: row for row in tensors(model) if row.shared_with is None}
    found = Groups()
    for name, parameter in module.named_parameters():
        kind = _kind(rows[row_name(name)], found)
        assert kind is not found.hidden or parameter.ndim == 2, f"{name} is no matrix"
        kind.append(parameter)
    return found


def optimizer_for(module: nn.Module, model: ModelConfig, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that the settings name. Weight decay is for what is multiplied with."""
    found = groups(module, model)
    if config.optimizer == "adamw":
        return _adamw(found.hidden + found.ends, found.undecayed, config)
    return Combined(_muon(found.hidden, config), _adamw(found.ends, found.undecayed, config))


class Combined(torch.optim.Optimizer):
    """Optimizers side by side, each over parameters of its own: one step, one table of state and groups."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of each."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Handed over at each step: `load_state_dict` replaces the groups and the state of this one.
        mine = iter(self.param_groups)
        for part in self.parts:
            part.state, part.param_groups = self.state, list(islice(mine, len(part.param_groups)))
            part.step()
        return loss


def row_name(name: str) -> str:
    """The row of the table that a module's tensor belongs to: the layer's number is `*` there."""
    return re.sub(r"\.\d+\.", ".*.", name)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip(parameters: Iterable[nn.Parameter], longest: float | None) -> torch.Tensor:
    """Scale the whole gradient down to norm `longest` if it is longer; returns the norm before."""
    learning = list(parameters)
    norm = nn.utils.get_total_norm([p.grad for p in learning if p.grad is not None])
    if is_piece(norm):
        norm = cast(Any, norm).full_tensor()
    if longest is not None:
        nn.utils.clip_grads_with_norm_(learning, longest, norm)
    return norm


def _kind(row: Tensor, found: Groups) -> list[nn.Parameter]:
    if row.role != "matmul":
        return found.undecayed
    return found.hidden if row.hidden else found.ends


def _muon(matrices: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    rate, decay, momentum = config.learning_rate, config.weight_decay, config.momentum
    if any(map(is_piece, matrices)):
        from parambudget.train.muon import ShardedMuon  # imports DTensor, which no other run needs

        return ShardedMuon(matrices, lr=rate, weight_decay=decay, momentum=momentum)
    return torch.optim.Muon(
        matrices, lr=rate, weight_decay=decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"
    )


def _adamw(
    decayed: list[nn.Parameter], undecayed: list[nn.Parameter], config: TrainConfig
) -> torch.optim.AdamW:
    decays = [(decayed, config.weight_decay), (undecayed, 0.0)]
    parts = [{"params": members, "weight_decay": decay} for members, decay in decays if members]
    return torch.optim.AdamW(parts, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)
