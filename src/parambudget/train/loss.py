"""The training loss as one function of the token windows, so that it can be compiled whole.

B batch   T tokens   V vocabulary
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from parambudget.build.module import Transformer
from parambudget.train.config import TrainConfig
from parambudget.train.device import Compute


def mean_loss(module: Transformer, config: TrainConfig, compute: Compute) -> Callable[[Tensor], Tensor]:
    """The function from token windows (B, T + 1) to the mean loss of their next tokens, in float32 nats.

    The z-loss acts through the gradient alone: the value stays the cross-entropy, to be compared with others.
    """

    def loss_of(tokens_BT: Tensor) -> Tensor:
        recompute = config.gradient_checkpointing and torch.is_grad_enabled()
        logits_BTV = module.logits(module.hidden(tokens_BT[:, :-1], checkpoint=recompute)).float()
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())
        if not (config.z_loss and torch.is_grad_enabled()):
            return loss
        penalty = config.z_loss * z_loss(logits_BTV)
        return loss + (penalty - penalty.detach())

    return torch.compile(loss_of) if compute.compiled else loss_of


def z_loss(logits_BTV: Tensor) -> Tensor:
    """Mean square of log Z, Z the softmax's denominator: it keeps the logits from drifting.

    Source: Chowdhery et al. 2022 (PaLM), section 5, with the weight 1e-4.
    """
    return logits_BTV.logsumexp(-1).square().mean()
