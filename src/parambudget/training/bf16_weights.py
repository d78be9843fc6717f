"""The weights of matmuls in bfloat16, cast once an update and not in every micro-step.

The parameters stay float32: the optimizer, checkpoints and the check of the module know nothing of this. Each
matmul multiplies with a bfloat16 leaf that stands for one parameter, or for several that multiply the same
input. The gradient of a leaf is added to the float32 gradients of its parameters as soon as it is there:
what autocast does, without its casts and with fewer and larger products.

Only where a process holds the model alone: DistributedDataParallel averages the gradients of the parameters
themselves, and FSDP gathers bfloat16 weights of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from parambudget.nn.attention import Attention
from parambudget.nn.linear import JoinedLinear, Linear
from parambudget.nn.mlp import (
    FeedForward,
    FusedExperts,
    GroupedLinear,
    SeparateExperts,
    StackedLinear,
    runs_at_once,
)
from parambudget.nn.transformer import Transformer


@dataclass(frozen=True, eq=False)
class BFloat16Weights:
    """The leaves of a module's matmuls, and the parameters that they are copies of."""

    parameters: tuple[nn.Parameter, ...]
    copies: tuple[Tensor, ...]
    """The rows of a leaf that stand for each parameter."""

    @classmethod
    def attach(cls, module: Transformer, *, head_multiple: int = 1) -> Self:
        """Let the module multiply with leaves from now on. They hold nothing before the first `refresh`.

        That of the output head has its rows padded with zeros to a multiple of `head_multiple`.
        """
        parameters: list[nn.Parameter] = []
        copies: list[Tensor] = []
        for matmul in matmuls(module):
            parts = matmul.parts if isinstance(matmul, JoinedLinear | GroupedLinear) else (matmul,)
            masters = tuple(cast(nn.Parameter, part.weight) for part in parts)
            n_rows = sum(map(len, masters))
            if matmul is module.lm_head:
                n_rows = -(-n_rows // head_multiple) * head_multiple
            shape, device = (n_rows, *masters[0].shape[1:]), masters[0].device
            leaf = torch.zeros(shape, dtype=torch.bfloat16, device=device, requires_grad=True)
            leaf.register_post_accumulate_grad_hook(GradientToMasters(masters))
            matmul.compute_weight = leaf
            parameters += masters
            copies += rows_of_each(leaf.detach(), masters)
        return cls(tuple(parameters), tuple(copies))

    @torch.no_grad()
    def refresh(self) -> None:
        """Cast the parameters as they are now."""
        torch._foreach_copy_(self.copies, self.parameters)

    @property
    def update_begins(self) -> bool:
        """Whether there is no gradient yet that was computed with the parameters as they are."""
        return self.parameters[0].grad is None


@dataclass(frozen=True, eq=False)
class RefreshedLoss:
    """The loss of a module with bfloat16 weights, which are never older than its parameters.

    They are cast again in the first micro-step of every update and in every evaluation: whenever parameters
    have no gradient. So whatever changes parameters has to free their gradients, as the trainer does after
    every update (torch counts changes too, but not those that a fused optimizer makes).
    """

    loss_fn: Callable[[Tensor], Tensor]
    weights: BFloat16Weights

    def __call__(self, tokens_BT: Tensor) -> Tensor:
        """The mean loss of token windows."""
        if self.weights.update_begins:
            self.weights.refresh()
        return self.loss_fn(tokens_BT)


@dataclass(frozen=True, eq=False)
class GradientToMasters:
    """Adds the gradient of a leaf to those of its parameters, and frees it.

    The float32 gradients of parameters that share a leaf are parts of one tensor, so that one kernel adds to
    all of them.
    """

    masters: tuple[nn.Parameter, ...]

    def __call__(self, leaf: Tensor) -> None:
        """To be called when the leaf has its gradient."""
        gradient, leaf.grad = leaf.grad, None
        assert gradient is not None
        gradient = gradient[: sum(map(len, self.masters))]
        if all(master.grad is None for master in self.masters):
            for master, part in zip(self.masters, rows_of_each(gradient.float(), self.masters), strict=True):
                master.grad = part
        elif (whole := self._joined_gradient()) is not None:
            whole.add_(gradient)
        else:
            for master, part in zip(self.masters, rows_of_each(gradient, self.masters), strict=True):
                master.grad = part.float() if master.grad is None else master.grad.add_(part)

    def _joined_gradient(self) -> Tensor | None:
        """The tensor whose parts the gradients are, if they still are."""
        bases = [None if master.grad is None else master.grad._base for master in self.masters]
        whole = bases[0]
        if whole is None or any(base is not whole for base in bases):
            return None
        return whole if len(whole) == sum(map(len, self.masters)) else None


def rows_of_each(joined: Tensor, parameters: tuple[nn.Parameter, ...]) -> list[Tensor]:
    """The rows of a joined tensor that belong to each parameter; what is left over is padding."""
    rows = joined[: sum(map(len, parameters))]
    return list(rows.split([len(parameter) for parameter in parameters]))


def matmuls(module: nn.Module) -> Iterator[Linear | JoinedLinear | GroupedLinear | StackedLinear]:
    """Every matmul of a module; those of routed experts on a GPU, where they run at once."""
    if isinstance(module, SeparateExperts | FusedExperts):
        if runs_at_once(next(module.parameters()).device.type, torch.bfloat16, n_rows=1, n_experts=1):
            yield from matmuls_of_experts(module)
        return
    joined = module.qk if isinstance(module, Attention) else None
    joined = module.gate_up if isinstance(module, FeedForward) else joined
    if joined is not None:
        yield joined
    for child in module.children():
        if isinstance(child, Linear):
            if joined is None or child not in joined.parts:
                yield child
        else:
            yield from matmuls(child)


def matmuls_of_experts(experts: SeparateExperts | FusedExperts) -> Iterator[GroupedLinear | StackedLinear]:
    """Each is one grouped matmul."""
    if isinstance(experts, SeparateExperts):
        yield experts.into
        yield experts.down
    else:
        yield from (part for part in (experts.gate, experts.up, experts.down) if part is not None)
