"""A key/value cache around a trained model, for generation token by token.

Generating n tokens then costs n short forward passes instead of n long ones. The module itself knows nothing
of the cache, so that training stays as it is: its attention is replaced while text is generated.

    B batch   T new tokens   S tokens so far   D dim   H query heads   K head_dim
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from parambudget.arch.rope_scaling import RopeScaling
from parambudget.nn.attention import Attention, AttentionMask, CachedKV, LatentAttention
from parambudget.nn.rope_scaling import is_long
from parambudget.nn.rotary import Rotation
from parambudget.nn.transformer import Transformer


@contextmanager
def kv_cache(module: Transformer, capacity: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield a function from the next tokens (B, T) to what `module.hidden_states` returns for them, (B, T,
    D).

    The cache has room for `capacity` tokens. Afterwards the module is as it was. Cached keys keep the rotary
    angles that they were cached with, unless the model has its cache computed anew: `rope_recompute_cache`.
    """
    m, seen_BT = module.model, torch.empty(0)
    uncached = [cast(Attention | LatentAttention, layer.attention) for layer in module.layers]

    def hidden_states(tokens_BT: Tensor) -> Tensor:
        nonlocal seen_BT
        start, n_new = seen_BT.shape[-1], tokens_BT.shape[1]
        seen_BT = torch.cat((seen_BT, tokens_BT), dim=1) if start else tokens_BT
        if not passes_original_context(m.rope_scaling, start, start + n_new):
            return module.hidden_states(tokens_BT, start=start)
        for layer in module.layers:
            cast(CachedAttention, layer.attention).n_cached = 0
        return module.hidden_states(seen_BT)[:, -n_new:]

    try:
        for i, (layer, attention) in enumerate(zip(module.layers, uncached, strict=True)):
            window = m.window if m.is_local(i) else None
            layer.attention = CachedAttention(attention, capacity, window)
        yield hidden_states
    finally:
        for layer, attention in zip(module.layers, uncached, strict=True):
            layer.attention = attention


def passes_original_context(scaling: RopeScaling | None, before: int, after: int) -> bool:
    """Whether a cache of `before` tokens is to be computed anew when there are `after`."""
    if scaling is None or not scaling.rope_recompute_cache:
        return False
    return before > 0 and is_long(scaling, after) and not is_long(scaling, before)


class CachedAttention(nn.Module):
    """An attention that also sees the tokens of earlier calls; with a window, those within it."""

    def __init__(
        self, attention: Attention | LatentAttention, capacity: int, window: int | None = None
    ) -> None:
        super().__init__()
        self.attention, self.window, self.n_cached = attention, window, 0
        self.capacity = capacity if window is None else min(capacity, window)
        self.cache: CachedKV | None = None

    def forward(self, x_BTD: Tensor, rotation: Rotation, mask: AttentionMask = None) -> Tensor:
        """The attention output of every new token, (B, T, D)."""
        q_BHTK, new = self.attention.project_qkv(x_BTD, rotation)
        return self.attention.attend_to(q_BHTK, self._update(new), mask)

    def _update(self, new: CachedKV) -> CachedKV:
        """Cache the new tokens; returns the entries of all tokens that they see, their own at the end."""
        if self.cache is None:
            first, second = (x.new_empty(*x.shape[:2], self.capacity, x.shape[-1]) for x in new)
            self.cache = first, second
        if self.window is not None:
            return self._update_window(self.cache, new, self.window)
        start, self.n_cached = self.n_cached, self.n_cached + new[0].shape[2]
        for cached, x in zip(self.cache, new, strict=True):
            cached[:, :, start : self.n_cached] = x
        first, second = self.cache
        return first[:, :, : self.n_cached], second[:, :, : self.n_cached]

    def _update_window(self, cache: CachedKV, new: CachedKV, window: int) -> CachedKV:
        """The same with a window: entries that the first of the new tokens does not see are dropped."""
        first_visible = max(self.n_cached - (window - 1), 0)
        first, second = (
            torch.cat((cached[:, :, first_visible : self.n_cached], x), dim=2)
            for cached, x in zip(cache, new, strict=True)
        )
        self.n_cached = min(first.shape[2], self.capacity)
        for cached, x in zip(cache, (first, second), strict=True):
            cached[:, :, : self.n_cached] = x[:, :, -self.n_cached :]
        return first, second
