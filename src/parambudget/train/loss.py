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
    """The function from token windows (B, T + 1) to the mean loss of their next tokens, in float32 nats."""

    def loss_of(tokens_BT: Tensor) -> Tensor:
        recompute = config.gradient_checkpointing and torch.is_grad_enabled()
        logits_BTV = module.logits(module.hidden(tokens_BT[:, :-1], checkpoint=recompute))
        return F.cross_entropy(logits_BTV.float().flatten(0, 1), tokens_BT[:, 1:].flatten())

    return torch.compile(loss_of) if compute.compiled else loss_of
