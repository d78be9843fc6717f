"""Shard a model among processes with torch's FSDP2.

Weights, gradients and the optimizer's state are sharded by rows. A layer is gathered while it is computed,
forward and backward, and then freed again. Its gradients are reduced to the processes that hold the rows in
every micro-step: accumulated first, they would take the memory of a whole model on each process. Where
groups of processes hold a copy each, these average the gradients of their rows in the last micro-step.

Imported only by runs that shard: importing DTensor and FSDP can take two seconds.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import implicit_replication

from parambudget.nn.transformer import Transformer
from parambudget.training.device import Compute
from parambudget.training.distributed import LossModule, ProcessGroup
from parambudget.training.optimization.muon import Muon, Stack, fill, nesterov, orthogonalize


def shard_module(
    module: Transformer, loss_fn: Callable[[Tensor], Tensor], seed: int, compute: Compute,
    group: ProcessGroup, n_shards: int | None = None,
) -> LossModule:  # fmt: skip
    """Shard a module that is on the meta device, and initialize it with the weights of an unsharded one.

    Every process draws each tensor whole, one after another, and keeps only its own rows. Without `n_shards`
    all processes hold one copy. Returns the loss through which the module is to be used.
    """
    mesh, loss = group.device_mesh(compute.device, n_shards), LossModule(module, loss_fn)
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


def sharing_group(tensor: DTensor) -> ProcessGroup:
    """The processes that hold one copy of a sharded tensor."""
    mesh = tensor.device_mesh
    dim = mesh.ndim - 1
    return ProcessGroup(mesh.get_local_rank(dim), mesh.size(dim), mesh.get_group(dim))


class ShardedMuon(Muon):
    """Muon for tensors sharded along their first dimension: matrices by rows, stacked experts as wholes.

    Its group is that of one copy: the groups of other copies compute the same.
    """

    def n_sharing(self, n_dimensions: int) -> int:
        """All processes share out matrices of which each has some rows; each has experts of its own."""
        return 1 if n_dimensions == 3 else self.group.world_size

    def start_orthogonalizing(self, stack: Stack, momentum: float) -> Callable[[], Tensor]:
        """Orthogonalize this process's share; the result gives its own rows of the whole stack."""
        smoothed = nesterov(stack.gradients, stack.momentum, momentum)
        if smoothed[0].ndim == 3:
            own_NAB = stack.new_empty(stack.n_matrices)
            fill(own_NAB, smoothed)
            update_NAB = orthogonalize(own_NAB)
        else:
            update_NAB = self._orthogonalize_rows(smoothed, stack)
        return lambda: update_NAB

    def _orthogonalize_rows(self, smoothed: list[Tensor], stack: Stack) -> Tensor:
        """Send each matrix whole to the process that orthogonalizes it, and its rows back."""
        n_rows, n_columns = stack.shape
        size, rank, torch_group = self.group.world_size, self.group.rank, self.group.torch_group
        # The first processes hold as many rows as an even share rounded up; the last ones hold the rest.
        share, n_own = -(-n_rows // size), -(-len(smoothed) // size)
        by_process = (size, n_own, share, n_columns)
        rows_NAB = torch.zeros(size * n_own, share, n_columns, dtype=stack.dtype, device=smoothed[0].device)
        fill(rows_NAB, smoothed)
        received_NAB = torch.empty_like(rows_NAB)
        dist.all_to_all_single(received_NAB, rows_NAB, group=torch_group)
        whole_NAB = received_NAB.view(by_process).transpose(0, 1).clone(memory_format=torch.contiguous_format)
        whole_NAB = whole_NAB.view(n_own, size * share, n_columns)
        if n_here := max(0, min(n_own, len(smoothed) - rank * n_own)):
            whole_NAB[:n_here, :n_rows] = orthogonalize(whole_NAB[:n_here, :n_rows].contiguous())
        received_NAB.view(by_process).copy_(whole_NAB.view(n_own, size, share, n_columns).transpose(0, 1))
        dist.all_to_all_single(rows_NAB, received_NAB, group=torch_group)
        return rows_NAB
