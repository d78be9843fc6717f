"""The optimizer, with its parameters grouped by the role of each tensor in the table."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from parambudget.arch.config import ModelConfig
from parambudget.arch.table import Tensor as TableRow
from parambudget.arch.tensors import tensors
from parambudget.training.config import GroupName, TrainConfig
from parambudget.training.distributed import SINGLE_PROCESS, ProcessGroup, is_sharded
from parambudget.training.optimization import schedule
from parambudget.training.optimization.muon import Muon
from parambudget.training.profiling.kernels import CLIP

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True, eq=False)
class ParameterGroups:
    """Every parameter of a module that gradients reach, once, by its role in the table."""

    matrices: list[nn.Parameter] = field(default_factory=list)
    """Matrices between the embedding and the output head; those of all experts may be one tensor."""
    embeddings: list[nn.Parameter] = field(default_factory=list)
    """Of tokens and positions; a tied output head too."""
    head: list[nn.Parameter] = field(default_factory=list)
    """An output head that is not tied, and routers: their rows are classes."""
    scalars: list[nn.Parameter] = field(default_factory=list)
    """Norms, biases and sinks."""


def group_parameters(module: nn.Module, model: ModelConfig) -> ParameterGroups:
    """The module's parameters by role. Role and component decide; the shape is only asserted."""
    rows = {row.name: row for row in tensors(model) if row.shared_with is None}
    groups = ParameterGroups()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        group = _select_group(rows[row_name(name)], groups)
        assert group is not groups.matrices or parameter.ndim in (2, 3), f"{name} is not a matrix"
        group.append(parameter)
    return groups


def build_optimizer(
    module: nn.Module, model: ModelConfig, config: TrainConfig, group: ProcessGroup = SINGLE_PROCESS
) -> "CombinedOptimizer":
    """The optimizer that the settings name, with the settings of each group."""
    groups = group_parameters(module, model)
    others: list[tuple[GroupName, list[nn.Parameter]]] = [
        ("head", groups.head), ("embeddings", groups.embeddings), ("scalars", groups.scalars),
    ]  # fmt: skip
    if config.step.optimizer == "adamw":
        return CombinedOptimizer(_build_adamw([("matrices", groups.matrices), *others], config))
    return CombinedOptimizer(_build_muon(groups.matrices, config, group), _build_adamw(others, config))


class CombinedOptimizer(torch.optim.Optimizer):
    """Optimizers, each for parameters of its own, with one step, one state and one list of groups."""

    found_inf: Tensor | None = None
    """On the device: 1 if the next step is to change nothing, else 0."""

    def __init__(self, *parts: Muon | torch.optim.AdamW) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take a step of each.."""
        # Handed to the parts at each step: `load_state_dict` replaces the groups and the state of this
        # optimizer.
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state, part.param_groups = self.state, list(islice(groups, len(part.param_groups)))
            # Fused AdamW reads it too, although its class does not declare it.
            part.found_inf = self.found_inf  # type: ignore[union-attr]
            part.step()


def row_name(name: str) -> str:
    """The name of the table row of a module's tensor: layer numbers become `*`."""
    return re.sub(r"\.\d+\.", ".*.", name)


def set_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int) -> None:
    """Set the learning rate, weight decay and momentum of every group for update `step` (from 0)."""
    rate, momentum = schedule.learning_rate(step, config), schedule.momentum(step, config)
    decay_share = schedule.weight_decay_share(step, config)
    for group in optimizer.param_groups:
        settings = config.group_settings(group["name"])
        group["lr"] = rate * (settings.learning_rate / config.learning_rate)
        group["weight_decay"] = settings.weight_decay * decay_share
        if "momentum" in group:
            group["momentum"] = momentum


@record_function(CLIP)
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
    if row.role == "lookup":
        return groups.embeddings
    if row.role != "matmul":
        return groups.scalars
    return groups.matrices if row.is_hidden_matrix else groups.head


def _build_muon(matrices: list[nn.Parameter], config: TrainConfig, group: ProcessGroup) -> Muon:
    rate, decay, momentum = config.learning_rate, config.weight_decay, config.momentum
    named = [{"params": matrices, "name": "matrices"}]
    if any(map(is_sharded, matrices)):
        from parambudget.training.fsdp import (  # DTensor: not needed by other runs
            ShardedMuon,
            sharing_group,
        )

        group = sharing_group(cast("DTensor", matrices[0]))
        return ShardedMuon(named, lr=rate, weight_decay=decay, momentum=momentum, group=group)
    return Muon(named, lr=rate, weight_decay=decay, momentum=momentum, group=group)


def _build_adamw(
    members: list[tuple[GroupName, list[nn.Parameter]]], config: TrainConfig
) -> torch.optim.AdamW:
    parts = []
    for name, parameters in members:
        settings = config.group_settings(name)
        part = {
            "name": name, "params": parameters, "lr": settings.learning_rate,
            "weight_decay": settings.weight_decay, "betas": settings.betas,
        }  # fmt: skip
        parts += [part] if parameters else []
    return torch.optim.AdamW(parts, lr=config.learning_rate, fused=True)
