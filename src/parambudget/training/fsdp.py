"""Shard a model among processes with torch's FSDP2.

Weights, gradients and the optimizer's state are sharded by rows. A layer is gathered while it is computed,
forward and backward, and then freed again. Its gradients are reduced to the processes that hold the rows in
every micro-step: accumulated first, they would take the memory of a whole model on each process.

Imported only by runs that shard: importing DTensor and FSDP can take two seconds.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import implicit_replication

from parambudget.nn.transformer import Transformer
from parambudget.training.device import Compute
from parambudget.training.distributed import LossModule, ProcessGroup


def shard_module(
    module: Transformer, loss_fn: Callable[[Tensor], Tensor], seed: int, compute: Compute, group: ProcessGroup
) -> LossModule:
    """Shard a module that is on the meta device, and initialize it with the weights of an unsharded one.

    Every process draws each tensor whole, one after another, and keeps only its own rows. Returns the loss
    through which the module is to be used.
    """
    mesh, loss = group.device_mesh(compute.device), LossModule(module, loss_fn)
    for layer in module.layers:
        fully_shard(layer, mesh=mesh, mp_policy=mixed_precision_policy(compute, in_layer=True))
    fully_shard(loss, mesh=mesh, mp_policy=mixed_precision_policy(compute, in_layer=False))
    loss.register_forward_hook(_reshard_after_eval)
    loss.to_empty(device=compute.device)
    init_shards(module, seed, compute)
    return loss


def init_shards(module: Transformer, seed: int, compute: Compute) -> None:
    """Initialize a sharded module from `seed` with the weights of an unsharded one."""
    with implicit_replication():
        module.init_weights(torch.Generator(compute.device).manual_seed(seed))


def _reshard_after_eval(loss: LossModule, *_: object) -> None:
    """Free the parameters outside the layers, which FSDP keeps until a backward pass: evaluations have
    none."""
    if isinstance(loss, FSDPModule) and not torch.is_grad_enabled():
        loss.reshard()


def mixed_precision_policy(compute: Compute, *, in_layer: bool) -> MixedPrecisionPolicy:
    """Layers are gathered in bfloat16 where matmuls run in it; gradients are always reduced in float32.

    The embedding and everything else outside the layers is gathered in float32; the residual stream is
    bfloat16 from the embedding on.
    """
    layers = torch.bfloat16 if compute.bf16 and in_layer else None
    return MixedPrecisionPolicy(param_dtype=layers, reduce_dtype=torch.float32, cast_forward_inputs=False)


class ShardedMuon(torch.optim.Optimizer):
    """Muon for matrices sharded by rows: Nesterov momentum, updates of the size of AdamW's."""

    def __init__(
        self, matrices: Iterable[nn.Parameter], *, lr: float, weight_decay: float, momentum: float
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take the step that `torch.optim.Muon` takes with unsharded matrices."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrices in _same_shape_batches(group["params"]):
                shards = [self._apply_momentum(matrix, group) for matrix in matrices]
                updates = orthogonalize_shards(shards, matrices[0])
                for matrix, update_AB in zip(matrices, updates, strict=True):
                    own_AB = matrix.to_local()
                    own_AB.mul_(1 - group["lr"] * group["weight_decay"])
                    own_AB.add_(update_AB, alpha=-group["lr"] * update_scale(matrix.shape))
        return loss

    def _apply_momentum(self, matrix: DTensor, group: dict[str, Any]) -> Tensor:
        """This process's rows of the gradient with Nesterov momentum, in bfloat16."""
        state, gradient = self.state[matrix], matrix.grad
        assert isinstance(gradient, DTensor)  # FSDP shards gradients as it does the matrices
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        own_AB, mean_AB = gradient.to_local(), state["momentum_buffer"].to_local()
        mean_AB.lerp_(own_AB, 1 - group["momentum"])
        return own_AB.lerp(mean_AB, group["momentum"]).bfloat16()


def update_scale(shape: torch.Size) -> float:
    """The factor that makes the update of a matrix as large as AdamW's.

    Source: Liu et al. 2025 (Moonlight), arXiv 2502.16982, section 2.2.
    """
    return 0.2 * math.sqrt(max(shape))


def orthogonalize_shards(shards: list[Tensor], like: DTensor) -> list[Tensor]:
    """Orthogonalize matrices of one shape, of which each process holds its rows; returns these rows.

    There is at most one matrix per process, which orthogonalizes it for all. `like` says how rows are
    sharded.
    """
    group, n_rows = like.device_mesh.get_group(), like.shape[0]
    # The first processes hold as many rows as an even share rounded up; the last ones hold the rest.
    share = -(-n_rows // group.size())
    own_rows_NAB = shards[0].new_zeros(group.size(), share, like.shape[1])
    for padded_AB, shard_AB in zip(own_rows_NAB, shards, strict=False):
        padded_AB[: len(shard_AB)] = shard_AB
    own_matrix_NAB = torch.empty_like(own_rows_NAB)
    dist.all_to_all_single(own_matrix_NAB, own_rows_NAB, group=group)
    if group.rank() < len(shards):
        whole_AB = own_matrix_NAB.flatten(0, 1)[:n_rows]
        whole_AB.copy_(orthogonalize(whole_AB))
    dist.all_to_all_single(own_rows_NAB, own_matrix_NAB, group=group)
    return [padded_AB[: len(shard_AB)] for padded_AB, shard_AB in zip(own_rows_NAB, shards, strict=False)]


def orthogonalize(matrix_AB: Tensor) -> Tensor:
    """The matrix as torch's Muon orthogonalizes it: its update of zeros at rate 1, without decay and
    momentum.

    Transposed where it is tall, because the scale of torch's update is 1 for a wide matrix.
    """
    tall = matrix_AB.shape[0] > matrix_AB.shape[1]
    wide = matrix_AB.T if tall else matrix_AB
    zeros = nn.Parameter(torch.zeros_like(wide))
    zeros.grad = wide
    torch.optim.Muon(
        [zeros], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False, adjust_lr_fn="original"
    ).step()
    return -(zeros.data.T if tall else zeros.data)


def _same_shape_batches(matrices: list[DTensor]) -> Iterator[list[DTensor]]:
    """Matrices with a gradient, grouped by shape, in batches of at most one per process."""
    by_shape: dict[torch.Size, list[DTensor]] = defaultdict(list)
    for matrix in matrices:
        if matrix.grad is not None:
            by_shape[matrix.shape].append(matrix)
    for same_shape in by_shape.values():
        n = same_shape[0].device_mesh.size()
        yield from (same_shape[first : first + n] for first in range(0, len(same_shape), n))
