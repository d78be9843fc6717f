"""Muon where every process holds some rows of each matrix: it is made whole before it is orthogonalised.

torch's own step works on such matrices too, but sends each of them around in every one of the products of its
iteration. Here as many matrices as there are processes travel at once, one to each, and back: twice in all.

A rows   B columns   N processes
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class ShardedMuon(torch.optim.Optimizer):
    """Muon over matrices that are shared out by rows: Nesterov's momentum, updates of the size of AdamW's."""

    def __init__(
        self, matrices: Iterable[nn.Parameter], *, lr: float, weight_decay: float, momentum: float
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The step that `torch.optim.Muon` takes with whole matrices."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrices in _in_step(group["params"]):
                updates = orthogonalised([self._smoothed(matrix, group) for matrix in matrices], matrices[0])
                for matrix, update_AB in zip(matrices, updates, strict=True):
                    own_AB = matrix.to_local()
                    own_AB.mul_(1 - group["lr"] * group["weight_decay"])
                    own_AB.add_(update_AB, alpha=-group["lr"] * scale(matrix.shape))
        return loss

    def _smoothed(self, matrix: DTensor, group: dict[str, Any]) -> Tensor:
        """This process's rows of the gradient, with momentum as Nesterov has it, in bfloat16."""
        state, gradient = self.state[matrix], matrix.grad
        assert isinstance(gradient, DTensor)  # FSDP shares gradients out as it does the matrices
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        own_AB, mean_AB = gradient.to_local(), state["momentum_buffer"].to_local()
        mean_AB.lerp_(own_AB, 1 - group["momentum"])
        return own_AB.lerp(mean_AB, group["momentum"]).bfloat16()


def scale(shape: torch.Size) -> float:
    """What makes the update of a matrix as large as AdamW's.

    Source: Liu et al. 2025 (Moonlight), arXiv 2502.16982, section 2.2.
    """
    return 0.2 * math.sqrt(max(shape))


def orthogonalised(pieces: list[Tensor], like: DTensor) -> list[Tensor]:
    """This process's rows of matrices of one shape, and its rows of the same matrices orthogonalised.

    At most one for each process, which orthogonalises it for all. `like` says how the rows are shared out.
    """
    group, n_rows = like.device_mesh.get_group(), like.shape[0]
    # The first processes hold as many rows as an even share rounded up; the last ones what is left.
    share = -(-n_rows // group.size())
    mine_NAB = pieces[0].new_zeros(group.size(), share, like.shape[1])
    for room_AB, piece_AB in zip(mine_NAB, pieces, strict=False):
        room_AB[: len(piece_AB)] = piece_AB
    theirs_NAB = torch.empty_like(mine_NAB)
    dist.all_to_all_single(theirs_NAB, mine_NAB, group=group)
    if group.rank() < len(pieces):
        whole_AB = theirs_NAB.flatten(0, 1)[:n_rows]
        whole_AB.copy_(orthogonal(whole_AB))
    dist.all_to_all_single(mine_NAB, theirs_NAB, group=group)
    return [room_AB[: len(piece_AB)] for room_AB, piece_AB in zip(mine_NAB, pieces, strict=False)]


def orthogonal(matrix_AB: Tensor) -> Tensor:
    """The matrix as torch's Muon orthogonalises it: its update of zeros at rate 1, without all that is added.

    Lying on its longer side, for there its scale is 1.
    """
    tall = matrix_AB.shape[0] > matrix_AB.shape[1]
    wide = matrix_AB.T if tall else matrix_AB
    zeros = nn.Parameter(torch.zeros_like(wide))
    zeros.grad = wide
    torch.optim.Muon(
        [zeros], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False, adjust_lr_fn="original"
    ).step()
    return -(zeros.data.T if tall else zeros.data)


def _in_step(matrices: list[DTensor]) -> Iterator[list[DTensor]]:
    """Those that learn, by shape, in groups of as many as there are processes."""
    by_shape: dict[torch.Size, list[DTensor]] = defaultdict(list)
    for matrix in matrices:
        if matrix.grad is not None:
            by_shape[matrix.shape].append(matrix)
    for alike in by_shape.values():
        n = alike[0].device_mesh.size()
        yield from (alike[first : first + n] for first in range(0, len(alike), n))
