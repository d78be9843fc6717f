"""The training loss as one function of the token windows, so that it can be compiled whole.

B batch   T tokens   N tokens of all windows   D dim   V vocabulary
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from parambudget.cost.step import HEAD_MULTIPLE
from parambudget.nn.document_mask import documents_of
from parambudget.nn.mixers.implementations import mixer_implementations
from parambudget.nn.mlp import MixtureOfExperts
from parambudget.nn.transformer import Transformer
from parambudget.training.activation_budget import within_budget
from parambudget.training.config import TrainConfig
from parambudget.training.device import Compute
from parambudget.training.distributed import SINGLE_PROCESS, ProcessGroup

ROUTER_BIAS_STEP: Final = 1e-3
"""How much the bias of an expert goes up or down after an update.

Source: DeepSeek-AI 2024 (V3), arXiv 2412.19437, section 4.2; the method is that of Wang et al. 2024, arXiv
2408.15664.
"""


@dataclass(frozen=True, eq=False)
class ExpertLoadBalancer:
    """The expert layers of a model in training; none in a dense one."""

    layers: tuple[MixtureOfExperts, ...]

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """The expert layers of a module; their tokens are counted once `reset_load` has been called."""
        return cls(tuple(layer for layer in module.modules() if isinstance(layer, MixtureOfExperts)))

    def reset_load(self) -> None:
        """Reset the counts of tokens; not in place, since an autograd graph may still hold the old
        tensors."""
        for layer in self.layers:
            layer.load = torch.zeros(layer.moe.n_experts, device=layer.router.weight.device)

    def take_load_balancing_loss(self) -> Tensor:
        """The layers' mean loss of the last forward pass: 1 when all experts get equally many tokens.

        Taken and not only read: what a layer keeps, a compiled pass would return, and compute the gradient
        of.
        """
        losses = [layer.load_balancing_loss for layer in self.layers]
        for layer in self.layers:
            layer.load_balancing_loss = None
        return torch.stack([loss for loss in losses if loss is not None]).mean()

    def busiest_expert(self, group: ProcessGroup = SINGLE_PROCESS) -> tuple[Tensor, ...]:
        """Tokens of the busiest expert since the last reset, relative to an even share, in the worst layer.

        Sums the counts of all processes. Empty without experts.
        """
        if not self.layers:
            return ()
        loads = torch.stack([layer.load for layer in self.layers if layer.load is not None])
        load_LE = group.all_reduce_mean(loads)
        for layer, load_E in zip(self.layers, load_LE, strict=True):
            layer.load = load_E
        return ((load_LE.amax(-1) / load_LE.mean(-1)).max(),)

    @torch.no_grad()
    def update_router_bias(self, found_inf: Tensor) -> None:
        """Make experts that got less than an even share more likely to be chosen, and the others less. If
        `found_inf` is 1 and not 0, nothing changes."""
        loads = [layer.load for layer in self.layers if layer.load is not None]
        corrections = [layer.correction for layer in self.layers if layer.correction is not None]
        if corrections:
            load_LE = torch.stack(loads)
            step_LE = (
                ROUTER_BIAS_STEP * torch.sign(load_LE.mean(-1, keepdim=True) - load_LE) * (1 - found_inf)
            )
            torch._foreach_add_(corrections, step_LE.unbind())


NO_EXPERTS: Final = ExpertLoadBalancer(())


def build_loss(
    module: Transformer, config: TrainConfig, compute: Compute, balancer: ExpertLoadBalancer = NO_EXPERTS, *,
    layer_by_layer: bool = False, end_of_text: int | None = None,
) -> Callable[[Tensor], Tensor]:  # fmt: skip
    """The function from token windows (B, T + 1) to the mean loss of their next tokens, in float32 nats.

    The z-loss and the load-balancing loss act through the gradient alone: the value stays the cross-entropy,
    so that it can be compared. `end_of_text` is the token before a document: it is needed where documents
    are masked. The function is compiled whole, or `layer_by_layer` where FSDP works between
    layers.
    """
    n_chunks, gradient_checkpointing = config.step.loss_chunks, config.step.gradient_checkpointing
    if config.step.mask_documents and end_of_text is None:
        raise ValueError("documents can be masked only where the token between them is known")
    summed_loss = _summed_loss(module, config.step.z_loss, compute)
    mixer_implementations(module, compute.device)  # imports their packages now, and not in a traced call

    def loss_fn(tokens_BT: Tensor) -> Tensor:
        loss = cross_entropy(tokens_BT)
        if not (balancer.layers and torch.is_grad_enabled()):
            return loss
        balance = balancer.take_load_balancing_loss()
        if not config.balance_loss:
            return loss
        penalty = config.balance_loss * balance
        return loss + (penalty - penalty.detach())

    def cross_entropy(tokens_BT: Tensor) -> Tensor:
        training = torch.is_grad_enabled()
        recompute = gradient_checkpointing and training
        inputs_BT, documents_BT = tokens_BT[:, :-1], None
        if config.step.mask_documents and end_of_text is not None:
            documents_BT = documents_of(inputs_BT, end_of_text)
        x_BTD = module.hidden_states(inputs_BT, gradient_checkpointing=recompute, documents_BT=documents_BT)
        x_ND, targets_N = x_BTD.flatten(0, 1), tokens_BT[:, 1:].flatten()
        if n_chunks == 1:
            return summed_loss(x_ND, targets_N) / len(targets_N)
        chunks = zip(x_ND.chunk(n_chunks), targets_N.chunk(n_chunks), strict=True)
        if not training:
            return torch.stack([summed_loss(*chunk) for chunk in chunks]).sum() / len(targets_N)
        checkpointed = partial(checkpoint, summed_loss, use_reentrant=False, preserve_rng_state=False)
        return torch.stack([checkpointed(*chunk) for chunk in chunks]).sum() / len(targets_N)

    if compute.compiled and layer_by_layer:
        for layer in module.layers:
            layer.compile(dynamic=False)
        summed_loss = torch.compile(summed_loss, dynamic=False)
        return loss_fn
    # All batches have one shape; for another one the function is compiled again, and not made general.
    if not compute.compiled:
        return loss_fn
    return within_budget(torch.compile(loss_fn, dynamic=False), config.step.activation_memory_budget)


def _summed_loss(
    module: Transformer, z_loss_weight: float, compute: Compute
) -> Callable[[Tensor, Tensor], Tensor]:
    """The function from the last hidden states and the next tokens to the sum of their losses."""
    multiple = head_multiple(compute)

    def summed_loss(x_ND: Tensor, targets_N: Tensor) -> Tensor:
        logits_NV = module.logits(x_ND, multiple=multiple).float()
        loss = F.cross_entropy(logits_NV, targets_N, reduction="sum")
        if not (z_loss_weight and torch.is_grad_enabled()):
            return loss
        penalty = z_loss_weight * z_loss(logits_NV) * len(targets_N)
        return loss + (penalty - penalty.detach())

    return summed_loss


def head_multiple(compute: Compute) -> int:
    """What the rows of the output head are padded to a multiple of."""
    return HEAD_MULTIPLE if compute.device.type == "cuda" else 1


def z_loss(logits_NV: Tensor) -> Tensor:
    """Mean square of log Z, where Z is the denominator of the softmax: keeps the logits from drifting.

    Source: Chowdhery et al. 2022 (PaLM), section 5, with the weight 1e-4.
    """
    return logits_NV.logsumexp(-1).square().mean()
