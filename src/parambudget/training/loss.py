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
from torch.utils.checkpoint import checkpoint as recomputed

from parambudget.nn.mlp import MixtureOfExperts
from parambudget.nn.transformer import Transformer
from parambudget.training.config import TrainConfig
from parambudget.training.device import Compute
from parambudget.training.distributed import ALONE, Ranks

CORRECTION_STEP: Final = 1e-3
"""By which the correction of an expert goes up or down after an update.

Source: DeepSeek-AI 2024 (V3), arXiv 2412.19437, section 4.2; the method is that of Wang et al. 2024, arXiv
2408.15664.
"""


@dataclass(frozen=True, eq=False)
class Balance:
    """The layers with experts of a model that is trained; none of a dense one."""

    layers: tuple[MixtureOfExperts, ...]

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """The layers of a module; their tokens are counted from `count_anew` on."""
        return cls(tuple(layer for layer in module.modules() if isinstance(layer, MixtureOfExperts)))

    def count_anew(self) -> None:
        """Forget where tokens went; no tensor is changed in place, since a graph may still hold it."""
        for layer in self.layers:
            layer.load = torch.zeros(layer.moe.n_experts, device=layer.router.weight.device)

    def unevenness(self) -> Tensor:
        """Mean over the layers of what the last forward pass gave: 1 where every expert got as much."""
        return torch.stack([layer.unevenness for layer in self.layers if layer.unevenness is not None]).mean()

    def busiest(self, ranks: Ranks = ALONE) -> tuple[Tensor, ...]:
        """Tokens of the busiest expert since the last count over an even share, in the worst layer.

        Adds up what the processes have counted. Nothing where there are no experts.
        """
        if not self.layers:
            return ()
        load_LE = ranks.mean(torch.stack([layer.load for layer in self.layers if layer.load is not None]))
        for layer, load_E in zip(self.layers, load_LE, strict=True):
            layer.load = load_E
        return ((load_LE.amax(-1) / load_LE.mean(-1)).max(),)

    @torch.no_grad()
    def correct(self) -> None:
        """Make experts that got less than an even share likelier to be chosen, and the others less likely."""
        for layer in self.layers:
            if layer.correction is not None and layer.load is not None:
                layer.correction += CORRECTION_STEP * torch.sign(layer.load.mean() - layer.load)


NO_EXPERTS: Final = Balance(())


HEAD_MULTIPLE: Final = 64
"""Rows of the output head are padded to this on a GPU, in the forward pass alone."""


def mean_loss(
    module: Transformer, config: TrainConfig, compute: Compute, balance: Balance = NO_EXPERTS, *,
    layer_by_layer: bool = False,
) -> Callable[[Tensor], Tensor]:  # fmt: skip
    """The function from token windows (B, T + 1) to the mean loss of their next tokens, in float32 nats.

    The z-loss and the balance of experts act through the gradient alone: the value stays the cross-entropy,
    to be compared with others.
    It is compiled whole, or `layer_by_layer` where something is to be done between the layers.
    """
    multiple = HEAD_MULTIPLE if compute.device.type == "cuda" else 1

    def summed(x_ND: Tensor, targets_N: Tensor) -> Tensor:
        logits_NV = module.logits(x_ND, multiple=multiple).float()
        loss = F.cross_entropy(logits_NV, targets_N, reduction="sum")
        if not (config.z_loss and torch.is_grad_enabled()):
            return loss
        penalty = config.z_loss * z_loss(logits_NV) * len(targets_N)
        return loss + (penalty - penalty.detach())

    def loss_of(tokens_BT: Tensor) -> Tensor:
        loss = cross_entropy(tokens_BT)
        if not (balance.layers and config.balance_loss and torch.is_grad_enabled()):
            return loss
        penalty = config.balance_loss * balance.unevenness()
        return loss + (penalty - penalty.detach())

    def cross_entropy(tokens_BT: Tensor) -> Tensor:
        learning = torch.is_grad_enabled()
        x_BTD = module.hidden(tokens_BT[:, :-1], checkpoint=config.gradient_checkpointing and learning)
        x_ND, targets_N = x_BTD.flatten(0, 1), tokens_BT[:, 1:].flatten()
        if config.loss_chunks == 1:
            return summed(x_ND, targets_N) / len(targets_N)
        parts = zip(x_ND.chunk(config.loss_chunks), targets_N.chunk(config.loss_chunks), strict=True)
        if not learning:
            return torch.stack([summed(*part) for part in parts]).sum() / len(targets_N)
        again = partial(recomputed, summed, use_reentrant=False, preserve_rng_state=False)
        return torch.stack([again(*part) for part in parts]).sum() / len(targets_N)

    if compute.compiled and layer_by_layer:
        for layer in module.layers:
            layer.compile(dynamic=False)
        summed = torch.compile(summed, dynamic=False)
        return loss_of
    # Batches all have one shape: another one would be compiled anew, not made general.
    return torch.compile(loss_of, dynamic=False) if compute.compiled else loss_of


def z_loss(logits_NV: Tensor) -> Tensor:
    """Mean square of log Z, Z the softmax's denominator: it keeps the logits from drifting.

    Source: Chowdhery et al. 2022 (PaLM), section 5, with the weight 1e-4.
    """
    return logits_NV.logsumexp(-1).square().mean()
