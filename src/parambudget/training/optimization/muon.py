"""Muon for matrices that are orthogonalized in stacks of one shape.

Jordan 2024, kellerjordan.github.io/posts/muon, with the coefficients and the Nesterov momentum of
`torch.optim.Muon`; the updates scaled to the size of AdamW's, so that its learning rates hold (Liu et al.
2025, Moonlight, arXiv 2502.16982, section 2.2). A tensor of several matrices, such as one of all experts of a
layer, is orthogonalized as that many.

N matrices   A rows   B columns   S the shorter of the two
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from parambudget.cost.memory.state import matrices_per_stack
from parambudget.training.distributed import SINGLE_PROCESS, ProcessGroup, is_sharded

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)
"""Factors of x, x^3 and x^5 in the polynomial that brings singular values near 1. Source: Jordan 2024."""
NEWTON_SCHULZ_STEPS: Final = 5
SMALLEST_NORM: Final = 1e-7
"""A matrix is divided by its norm, or by this: one of zeros stays as it is."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Matrices that are updated together, in pieces: one matrix, (A, B), or several of one tensor, (n, A, B);
    of a sharded tensor what this process holds of it."""

    shape: torch.Size
    """(A, B) of a whole matrix."""
    weights: list[Tensor]
    gradients: list[Tensor]
    momentum: list[Tensor]
    """Running means of the gradients."""

    @property
    def n_matrices(self) -> int:
        """N."""
        return sum(map(_n_matrices, self.weights))

    @property
    def dtype(self) -> torch.dtype:
        """In which the matrices are orthogonalized: bfloat16 on CUDA, elsewhere float32 like everything else:
        few CPUs compute in bfloat16 at any speed."""
        return torch.bfloat16 if self.weights[0].device.type == "cuda" else torch.float32

    def new_empty(self, n: int) -> Tensor:
        """Room for `n` of the matrices, to orthogonalize them."""
        return self.weights[0].new_empty(n, *self.shape, dtype=self.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; each process of the group does its share of every stack."""

    found_inf: Tensor | None = None
    """On the device: 1 if the next step is to change nothing, else 0. The name is torch's."""

    def __init__(
        self, matrices: ParamsT, *, lr: float, weight_decay: float, momentum: float,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:  # fmt: skip
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.group = group

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every tensor that has a gradient.."""
        for settings in self.param_groups:
            rate, decay, momentum = settings["lr"], settings["weight_decay"], settings["momentum"]
            started: list[tuple[Stack, Callable[[], Tensor]]] = []
            for stack in self._stacks(settings["params"]):
                # From the mean towards the gradient, by the kernel that can be told to do nothing.
                _descend(stack.momentum, stack.gradients, momentum - 1, -1.0, self.found_inf)
                started.append((stack, self.start_orthogonalizing(stack, momentum)))
                # While the processes exchange one, they orthogonalize the next.
                if len(started) > (self.group.world_size > 1):
                    self._apply(*started.pop(0), rate, decay)
            for each in started:
                self._apply(*each, rate, decay)

    def start_orthogonalizing(self, stack: Stack, momentum: float) -> Callable[[], Tensor]:
        """Orthogonalize this process's share; the result gives the whole stack, (N, A, B)."""
        n, size = stack.n_matrices, self.group.world_size
        share = -(-n // size)
        first, end = (min((self.group.rank + i) * share, n) for i in (0, 1))
        gradients, means = (_between(pieces, first, end) for pieces in (stack.gradients, stack.momentum))
        own_NAB = stack.new_empty(share)
        fill(own_NAB, nesterov(gradients, means, momentum))
        if size == 1:
            update_NAB = orthogonalize(own_NAB)
            return lambda: update_NAB
        if first < end:
            own_NAB[: end - first] = orthogonalize(own_NAB[: end - first])
        all_NAB = stack.new_empty(size * share)
        work = dist.all_gather_into_tensor(all_NAB, own_NAB, group=self.group.torch_group, async_op=True)

        def wait_for_all() -> Tensor:
            assert work is not None  # this process is one of the group
            work.wait()
            return all_NAB

        return wait_for_all

    def n_sharing(self, _n_dimensions: int) -> int:
        """How many processes share out the matrices of tensors with so many dimensions."""
        return self.group.world_size

    def _apply(self, stack: Stack, update: Callable[[], Tensor], rate: float, decay: float) -> None:
        scale = update_scale(stack.shape)
        update_NAB = update().float()
        _descend(
            stack.weights,
            _pieces_like(stack.weights, update_NAB),
            rate * scale,
            decay / scale,
            self.found_inf,
        )

    def _stacks(self, parameters: list[nn.Parameter]) -> Iterator[Stack]:
        """The parameters in stacks of one shape, as large as `matrices_per_stack` allows."""
        by_shape: dict[tuple[torch.Size, int], list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            if parameter.grad is not None:
                by_shape[parameter.shape[-2:], parameter.ndim].append(parameter)
        for (shape, n_dimensions), alike in by_shape.items():
            weights, gradients, means = map(list, zip(*map(self._tensors, alike), strict=True))
            n = sum(map(_n_matrices, weights))
            rows, columns = shape
            size = matrices_per_stack(rows, columns, n, self.n_sharing(n_dimensions))
            for first in range(0, n, max(1, size)):
                parts = (_between(pieces, first, first + size) for pieces in (weights, gradients, means))
                yield Stack(shape, *parts)

    def _tensors(self, parameter: nn.Parameter) -> tuple[Tensor, Tensor, Tensor]:
        """Weight, gradient and running mean, as far as this process has them."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            # In a run of an earlier version, AdamW has trained the experts: its running mean is the same one.
            mean = state.get("exp_avg")
            state.clear()
            state["momentum_buffer"] = torch.zeros_like(parameter) if mean is None else mean
        return own_part(parameter.data), own_part(gradient).contiguous(), own_part(state["momentum_buffer"])


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of it."""
    return cast("DTensor", tensor).to_local() if is_sharded(tensor) else tensor


def update_scale(shape: torch.Size) -> float:
    """The factor that makes the update of a matrix as large as AdamW's.

    Source: Liu et al. 2025 (Moonlight), arXiv 2502.16982, section 2.2.
    """
    return 0.2 * math.sqrt(max(shape))


def nesterov(gradients: list[Tensor], means: list[Tensor], momentum: float) -> list[Tensor]:
    """The gradients mixed with their running means."""
    return list(torch._foreach_lerp(gradients, means, momentum)) if gradients else []


def fill(stack_NAB: Tensor, pieces: list[Tensor]) -> None:
    """Copy pieces into a stack, one after another."""
    if pieces:
        torch._foreach_copy_(_pieces_like(pieces, stack_NAB), pieces)


def orthogonalize(matrices_NAB: Tensor) -> Tensor:
    """The matrices with all singular values near 1, by iterations of Newton and Schulz. Overwrites its
    argument."""
    a, b, c = NEWTON_SCHULZ
    tall, short_side = matrices_NAB.shape[-2] > matrices_NAB.shape[-1], min(matrices_NAB.shape[-2:])
    x_NAB, next_NAB = matrices_NAB, torch.empty_like(matrices_NAB)
    gram_NSS, factor_NSS = (x_NAB.new_empty(len(x_NAB), short_side, short_side) for _ in range(2))
    x_NAB.div_(torch.linalg.vector_norm(x_NAB, dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_NORM))
    for _ in range(NEWTON_SCHULZ_STEPS):
        torch.bmm(*((x_NAB.mT, x_NAB) if tall else (x_NAB, x_NAB.mT)), out=gram_NSS)
        torch.baddbmm(gram_NSS, gram_NSS, gram_NSS, beta=b, alpha=c, out=factor_NSS)
        factors = (x_NAB, factor_NSS) if tall else (factor_NSS, x_NAB)
        torch.baddbmm(x_NAB, *factors, beta=a, out=next_NAB)
        x_NAB, next_NAB = next_NAB, x_NAB
    return x_NAB


def _descend(
    tensors: list[Tensor], gradients: list[Tensor], rate: float, decay: float, found_inf: Tensor | None
) -> None:
    """tensor -= rate * (gradient + decay * tensor), unless `found_inf`: then not even NaN leaves a trace.

    By the kernel of torch.optim.SGD(fused=True): few launches, and one pass over the memory.
    """
    torch._fused_sgd_(
        tensors, gradients, [], weight_decay=decay, momentum=0.0, lr=rate, dampening=0.0, nesterov=False,
        maximize=False, is_first_step=False, found_inf=found_inf,
    )  # fmt: skip


def _n_matrices(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim == 3 else 1


def _between(pieces: list[Tensor], first: int, end: int) -> list[Tensor]:
    """The pieces, or parts of them, that contain the matrices from `first` to before `end`."""
    found, before = [], 0
    for piece in pieces:
        n = _n_matrices(piece)
        own_first, own_end = max(first - before, 0), min(end - before, n)
        if own_first < own_end:
            found.append(piece if own_end - own_first == n else piece[own_first:own_end])
        before += n
    return found


def _pieces_like(pieces: list[Tensor], stack_NAB: Tensor) -> list[Tensor]:
    """Views of the stack in the shapes of the pieces, one after another; a piece may be the first rows of a
    matrix."""
    views, first = [], 0
    for piece in pieces:
        n = _n_matrices(piece)
        views.append(stack_NAB[first : first + n] if piece.ndim == 3 else stack_NAB[first, : len(piece)])
        first += n
    return views
