"""What is trained: the planned module, its optimizer and its loss, on one device."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from parambudget.arch.config import ModelConfig
from parambudget.build.module import Transformer
from parambudget.build.verify import verify_module
from parambudget.train.balance import NO_EXPERTS, Balance
from parambudget.train.config import TrainConfig
from parambudget.train.device import Compute
from parambudget.train.distributed import ALONE, Ranks
from parambudget.train.loss import mean_loss
from parambudget.train.optim import optimizer_for


@dataclass(frozen=True, eq=False)
class Learner:
    """What is trained, and what it takes."""

    module: Transformer
    optimizer: torch.optim.Optimizer
    loss_of: Callable[[Tensor], Tensor]
    compute: Compute
    ranks: Ranks = ALONE
    balance: Balance = NO_EXPERTS


def prepared(
    model: ModelConfig, config: TrainConfig, compute: Compute, ranks: Ranks = ALONE, *, shard: bool = False
) -> Learner:
    """The planned model with the weights that the seed draws, its optimizer and its loss.

    With `shard`, every process holds a part of it, and never more than that and a layer.
    """
    loss_of: Callable[[Tensor], Tensor]
    if shard:
        from parambudget.train.sharded import sharded  # FSDP2: two seconds that no other run needs

        module = planned(Transformer(model, device="meta", dtype=torch.float32), model)
        balance = Balance.of(module)
        loss_of = mean_loss(module, config, compute, balance, layer_by_layer=True)
        loss_of = sharded(module, loss_of, config.seed, compute, ranks)
    else:
        module = planned(initialised(model, config.seed, compute), model)
        balance = Balance.of(module)
        loss_of = ranks.averaging(module, mean_loss(module, config, compute, balance))
    balance.count_anew()
    return Learner(module, optimizer_for(module, model, config), loss_of, compute, ranks, balance)


def initialised(model: ModelConfig, seed: int, compute: Compute) -> Transformer:
    """The model with the weights that `seed` draws, in float32 on the device."""
    module = Transformer(model, device=compute.device, dtype=torch.float32)
    module.init_weights(torch.Generator(compute.device).manual_seed(seed))
    return module


def planned(module: Transformer, model: ModelConfig) -> Transformer:
    """The module, if it has exactly the tensors that were counted; otherwise `CheckFailed`."""
    verify_module(module, model).require_agreement()
    return module
