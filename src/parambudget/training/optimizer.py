"""The optimizer, its parameters grouped by the role that each tensor has in the table.

Muon: Jordan 2024, kellerjordan.github.io/posts/muon; its updates scaled to the size of AdamW's, so that the
same learning rate and weight decay hold, as in Liu et al. 2025 (Moonlight), arXiv 2502.16982.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from parambudget.arch.config import ModelConfig
from parambudget.arch.tensors import Tensor as TableRow
from parambudget.arch.tensors import tensors
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


def _kind(row: TableRow, found: Groups) -> list[nn.Parameter]:
    if row.role != "matmul":
        return found.undecayed
    return found.hidden if row.is_hidden_matrix else found.ends


def _muon(matrices: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    rate, decay, momentum = config.learning_rate, config.weight_decay, config.momentum
    if any(map(is_piece, matrices)):
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
