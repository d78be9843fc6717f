"""A model that remembers: fed token after token, every layer keeps the keys and values of the ones before.

Generating n tokens then costs n short forward passes instead of n long ones. The module itself knows nothing
of this, so that training stays as it is; its attention is replaced while a text is generated.

    B batch   T new tokens   S tokens so far   D dim   H query heads   G key/value heads   K head_dim
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.build.attention import Attention
from parambudget.build.module import Transformer
from parambudget.build.rotary import Rotation


@contextmanager
def remembering(module: Transformer, capacity: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """Give a function from the next tokens (B, T) to what `module.hidden` returns for them, (B, T, D).

    It has room for `capacity` tokens. Afterwards the module is as it was.
    """
    plain = [layer.attention for layer in module.layers]
    n_seen = 0

    def hidden(tokens_BT: Tensor) -> Tensor:
        nonlocal n_seen
        x_BTD = module.hidden(tokens_BT, start=n_seen)
        n_seen += tokens_BT.shape[1]
        return x_BTD

    try:
        for layer in module.layers:
            layer.attention = CachedAttention(layer.attention, capacity)
        yield hidden
    finally:
        for layer, attention in zip(module.layers, plain, strict=True):
            layer.attention = attention


class CachedAttention(nn.Module):
    """An attention that also sees the tokens of the calls before."""

    def __init__(self, attention: Attention, capacity: int) -> None:
        super().__init__()
        self.attention, self.capacity, self.n_seen = attention, capacity, 0
        self.kept: tuple[Tensor, Tensor] | None = None

    def forward(self, x_BTD: Tensor, rotation: Rotation) -> Tensor:
        """What every new token gathers from itself and all before it."""
        q_BHTK, k_BGTK, v_BGTK = self.attention.projected(x_BTD, rotation)
        k_BGSK, v_BGSK = self._remembered(k_BGTK, v_BGTK)
        n_new, n_all = q_BHTK.shape[2], k_BGSK.shape[2]
        mask_TS = None
        if n_new > 1:
            mask_TS = torch.ones(n_new, n_all, dtype=torch.bool, device=x_BTD.device).tril(n_all - n_new)
        y_BHTK = F.scaled_dot_product_attention(
            q_BHTK, k_BGSK, v_BGSK, mask_TS, scale=self.attention.scale, enable_gqa=self.attention.grouped
        )
        return self.attention.out(y_BHTK.transpose(1, 2).flatten(2))

    def _remembered(self, *new: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens so far, the new ones at the end."""
        if self.kept is None:
            n_sequences, n_heads, _, width = new[0].shape
            keys, values = (each.new_empty(n_sequences, n_heads, self.capacity, width) for each in new)
            self.kept = keys, values
        start, self.n_seen = self.n_seen, self.n_seen + new[0].shape[2]
        for held, each in zip(self.kept, new, strict=True):
            held[:, :, start : self.n_seen] = each
        keys, values = self.kept
        return keys[:, :, : self.n_seen], values[:, :, : self.n_seen]
