"""A model that remembers: fed token after token, every layer keeps what attention needs of the ones before.

Generating n tokens then costs n short forward passes instead of n long ones. The module itself knows nothing
of this, so that training stays as it is; its attention is replaced while a text is generated.

    B batch   T new tokens   S tokens so far   D dim   H query heads   K head_dim
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from parambudget.nn.attention import Attention, Kept, LatentAttention
from parambudget.nn.rotary import Rotation
from parambudget.nn.transformer import Transformer


@contextmanager
def remembering(module: Transformer, capacity: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """Give a function from the next tokens (B, T) to what `module.hidden` returns for them, (B, T, D).

    It has room for `capacity` tokens. Afterwards the module is as it was.
    """
    m, n_seen = module.model, 0
    plain = [cast(Attention | LatentAttention, layer.attention) for layer in module.layers]

    def hidden(tokens_BT: Tensor) -> Tensor:
        nonlocal n_seen
        x_BTD = module.hidden(tokens_BT, start=n_seen)
        n_seen += tokens_BT.shape[1]
        return x_BTD

    try:
        for i, (layer, attention) in enumerate(zip(module.layers, plain, strict=True)):
            window = m.window if m.is_local(i) else None
            layer.attention = CachedAttention(attention, capacity, window)
        yield hidden
    finally:
        for layer, attention in zip(module.layers, plain, strict=True):
            layer.attention = attention


class CachedAttention(nn.Module):
    """An attention that also sees the tokens of the calls before, with a window those within it alone."""

    def __init__(
        self, attention: Attention | LatentAttention, capacity: int, window: int | None = None
    ) -> None:
        super().__init__()
        self.attention, self.window, self.n_held = attention, window, 0
        self.capacity = capacity if window is None else min(capacity, window)
        self.held: Kept | None = None

    def forward(self, x_BTD: Tensor, rotation: Rotation, mask: Tensor | None = None) -> Tensor:
        """What every new token gathers from itself and all before it."""
        q_BHTK, kept = self.attention.projected(x_BTD, rotation)
        return self.attention.gathered(q_BHTK, self._remembered(kept), mask)

    def _remembered(self, new: Kept) -> Kept:
        """What is kept of all tokens that the new ones see, these at the end."""
        if self.held is None:
            first, second = (each.new_empty(*each.shape[:2], self.capacity, each.shape[-1]) for each in new)
            self.held = first, second
        if self.window is not None:
            return self._near(self.held, new, self.window)
        start, self.n_held = self.n_held, self.n_held + new[0].shape[2]
        for held, each in zip(self.held, new, strict=True):
            held[:, :, start : self.n_held] = each
        first, second = self.held
        return first[:, :, : self.n_held], second[:, :, : self.n_held]

    def _near(self, held: Kept, new: Kept, window: int) -> Kept:
        """The same with a window: what the first of the new tokens does not see is forgotten."""
        first_seen = max(self.n_held - (window - 1), 0)
        first, second = (
            torch.cat((old[:, :, first_seen : self.n_held], each), dim=2)
            for old, each in zip(held, new, strict=True)
        )
        self.n_held = min(first.shape[2], self.capacity)
        for old, each in zip(held, (first, second), strict=True):
            old[:, :, : self.n_held] = each[:, :, -self.n_held :]
        return first, second
