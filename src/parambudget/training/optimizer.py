"""The optimizer, with its parameters grouped by the role of each tensor in the table."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from parambudget.arch.config import ModelConfig
from parambudget.arch.tensors import Tensor as TableRow
from parambudget.arch.tensors import tensors
from parambudget.training.config import TrainConfig
from parambudget.training.distributed import SINGLE_PROCESS, ProcessGroup, is_sharded
from parambudget.training.muon import Muon

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True, eq=False)
class ParameterGroups:
    """Every parameter of a module once, by its role in the table."""

    hidden: list[nn.Parameter] = field(default_factory=list)
    """Matrices between the embedding and the output head; those of all experts may be one tensor."""
    ends: list[nn.Parameter] = field(default_factory=list)
    """Other tensors of matmuls: an output head that is not tied, and routers."""
    undecayed: list[nn.Parameter] = field(default_factory=list)
    """Embeddings (a tied head too), biases and norms."""


def group_parameters(module: nn.Module, model: ModelConfig) -> ParameterGroups:
    """The module's parameters by role. Role and component decide; the shape is only asserted."""
    rows = {row.name: row for row in tensors(model) if row.shared_with is None}
    groups = ParameterGroups()
    for name, parameter in module.named_parameters():
        group = _select_group(rows[row_name(name)], groups)
        assert group is not groups.hidden or parameter.ndim in (2, 3), f"{name} is not a matrix"
        group.append(parameter)
    return groups


def build_optimizer(
    module: nn.Module, model: ModelConfig, config: TrainConfig, group: ProcessGroup = SINGLE_PROCESS
) -> "CombinedOptimizer":
    """The optimizer that the settings name. Weight decay applies to the tensors of matmuls alone."""
    groups = group_parameters(module, model)
    if config.step.optimizer == "adamw":
        return CombinedOptimizer(_build_adamw(groups.hidden + groups.ends, groups.undecayed, config))
    adamw = _build_adamw(groups.ends, groups.undecayed, config)
    return CombinedOptimizer(_build_muon(groups.hidden, config, group), adamw)


class CombinedOptimizer(torch.optim.Optimizer):
    """Optimizers, each for parameters of its own, with one step, one state and one list of groups."""

    found_inf: Tensor | None = None
    """On the device: 1 if the next step is to change nothing, else 0."""

    def __init__(self, *parts: Muon | torch.optim.AdamW) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step of each."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Handed to the parts at each step: `load_state_dict` replaces the groups and the state of this
        # optimizer.
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state, part.param_groups = self.state, list(islice(groups, len(part.param_groups)))
            # Fused AdamW reads it too, although its class does not declare it.
            part.found_inf = self.found_inf  # type: ignore[union-attr]
            part.step()
        return loss


def row_name(name: str) -> str:
    """The name of the table row of a module's tensor: layer numbers become `*`."""
    return re.sub(r"\.\d+\.", ".*.", name)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale the whole gradient down to `max_norm` if it is longer; returns the norm before."""
    parameters = list(parameters)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if is_sharded(norm):
        norm = cast("DTensor", norm).full_tensor()
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def _select_group(row: TableRow, groups: ParameterGroups) -> list[nn.Parameter]:
    if row.role != "matmul":
        return groups.undecayed
    return groups.hidden if row.is_hidden_matrix else groups.ends


def _build_muon(matrices: list[nn.Parameter], config: TrainConfig, group: ProcessGroup) -> Muon:
    rate, decay, momentum = config.learning_rate, config.weight_decay, config.momentum
    if any(map(is_sharded, matrices)):
        from parambudget.training.fsdp import (
            ShardedMuon,  # DTensor: not needed by other runs
        )

        return ShardedMuon(matrices, lr=rate, weight_decay=decay, momentum=momentum, group=group)
    return Muon(matrices, lr=rate, weight_decay=decay, momentum=momentum, group=group)


def _build_adamw(
    decayed: list[nn.Parameter], undecayed: list[nn.Parameter], config: TrainConfig
) -> torch.optim.AdamW:
    decays = [(decayed, config.weight_decay), (undecayed, 0.0)]
    parts = [{"params": members, "weight_decay": decay} for members, decay in decays if members]
    return torch.optim.AdamW(parts, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)
