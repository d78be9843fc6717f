"""A model of which every process holds a part: torch's FSDP2.

Weights, gradients and the optimizer's state are shared out by rows. A layer is made whole while it is
computed with, forward and backward, and then forgotten. Its gradients go to the processes that hold the rows
in every micro-step: added up first, they would take the memory of a whole model on each.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.experimental import implicit_replication

from parambudget.nn.transformer import Transformer
from parambudget.training.device import Compute
from parambudget.training.distributed import Loss, Ranks


def sharded(
    module: Transformer, loss_of: Callable[[Tensor], Tensor], seed: int, compute: Compute, ranks: Ranks
) -> Loss:
    """Share out a module that lies on the meta device, and draw its weights as if it were whole.

    Each tensor is drawn whole on every process, one after another, and only the process's own rows are kept.
    Returns the loss through which the module is to be used.
    """
    mesh, loss = ranks.mesh(compute.device), Loss(module, loss_of)
    for layer in module.layers:
        fully_shard(layer, mesh=mesh, mp_policy=precision(compute, in_layer=True))
    fully_shard(loss, mesh=mesh, mp_policy=precision(compute, in_layer=False))
    loss.register_forward_hook(_shared_out_again)
    loss.to_empty(device=compute.device)
    with implicit_replication():
        module.init_weights(torch.Generator(compute.device).manual_seed(seed))
    return loss


def _shared_out_again(loss: Loss, *_: Any) -> None:
    """What is outside of the layers stays whole until the backward pass, and an evaluation has none."""
    if isinstance(loss, FSDPModule) and not torch.is_grad_enabled():
        loss.reshard()


def precision(compute: Compute, *, in_layer: bool) -> MixedPrecisionPolicy:
    """Where matrices are multiplied in bfloat16, layers travel in it; sums of gradients are float32.

    Not the embedding and what else is outside of the layers: the residual stream stays float32.
    """
    layers = torch.bfloat16 if compute.bf16 and in_layer else None
    return MixedPrecisionPolicy(param_dtype=layers, reduce_dtype=torch.float32, cast_forward_inputs=False)
