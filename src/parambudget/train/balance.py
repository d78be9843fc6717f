"""Experts kept busy: left alone, a router sends most tokens to a few and the others learn nothing.

A loss on the router, through its gradient alone, and for models with a correction of the choice
(`correction_bias`) a step of that correction after each update. Both look at where its tokens went.

E experts   L layers with experts
"""

from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor, nn

from parambudget.nn.mlp import MixtureOfExperts
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
