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
from parambudget.nn.attention import (
    Attention,
    AttentionMask,
    CachedKV,
    LatentAttention,
)
from parambudget.nn.indexer import Indexer
from parambudget.nn.mixers.mixer import Mixer, MixerState
from parambudget.nn.rope_scaling import is_long
from parambudget.nn.rotary import Rotation
from parambudget.nn.transformer import Block, Transformer


@contextmanager
def kv_cache(module: Transformer, capacity: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield a function from the next tokens (B, T) to what `module.hidden_states` returns for them, (B, T,
    D).

    The cache has room for `capacity` tokens. Afterwards the module is as it was. Cached keys keep the rotary
    angles that they were cached with, unless the model has its cache computed anew: `rope_recompute_cache`.
    """
    m, seen_BT = module.model, torch.empty(0)
    layers = [cast(Block, layer) for layer in module.layers]
    uncached = [(layer.attention, layer.mixer, layer.ffn) for layer in layers]
    indexed = [layer for layer in layers if layer.has_indexer]
    indexers = [layer.indexer for layer in indexed]

    def hidden_states(tokens_BT: Tensor) -> Tensor:
        nonlocal seen_BT
        start, n_new = seen_BT.shape[-1], tokens_BT.shape[1]
        seen_BT = torch.cat((seen_BT, tokens_BT), dim=1) if start else tokens_BT
        if not passes_original_context(m.rope_scaling, start, start + n_new):
            return module.hidden_states(tokens_BT, start=start)
        for layer in layers:
            for cached in (layer.attention, layer.mixer, layer.ffn, getattr(layer, "indexer", None)):
                if isinstance(cached, CachedAttention | CachedMixer | CachedIndexer):
                    cached.forget()
        return module.hidden_states(seen_BT)[:, -n_new:]

    try:
        for i, (layer, (attention, mixer, ffn)) in enumerate(zip(layers, uncached, strict=True)):
            window = m.window if m.is_local(i) else None
            # One that shares keys sees what an earlier layer has cached.
            if isinstance(attention, Attention | LatentAttention):
                layer.attention = CachedAttention(attention, capacity, window)
            if mixer is not None:
                layer.mixer = CachedMixer(cast(Mixer, mixer))
            if isinstance(ffn, Mixer):  # it mixes each token with the one before it
                layer.ffn = CachedMixer(ffn)
        for layer, indexer in zip(indexed, indexers, strict=True):
            layer.indexer = CachedIndexer(cast(Indexer, indexer), capacity)
        yield hidden_states
    finally:
        for layer, indexer in zip(indexed, indexers, strict=True):
            layer.indexer = indexer
        for layer, (attention, mixer, ffn) in zip(layers, uncached, strict=True):
            layer.attention, layer.mixer, layer.ffn = attention, mixer, ffn


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

    def forward(
        self, x_BTD: Tensor, rotation: Rotation, mask: AttentionMask = None, latent: Tensor | None = None
    ) -> Tensor:
        """The attention output of every new token, (B, T, D)."""
        if latent is not None:
            assert isinstance(self.attention, LatentAttention)
            q_BHTK, new = self.attention.project_qkv(x_BTD, rotation, latent)
            return self.attention.attend_to(q_BHTK, self._update(new), mask, self.attention.gates(x_BTD))
        return self.forward_with_kv(x_BTD, rotation, mask)[0]

    def forward_with_kv(
        self, x_BTD: Tensor, rotation: Rotation, mask: AttentionMask
    ) -> tuple[Tensor, CachedKV]:
        """The same, and the entries of all tokens that they see."""
        q_BHTK, new = self.attention.project_qkv(x_BTD, rotation)
        kv, gates = self._update(new), self.attention.gates(x_BTD)
        return self.attention.attend_to(q_BHTK, kv, mask, gates), kv

    def forget(self) -> None:
        """Start anew, before the first token."""
        self.n_cached = 0

    def query_latent(self, x_BTD: Tensor) -> Tensor:
        """What queries of latent attention are projected from."""
        return cast(LatentAttention, self.attention).query_latent(x_BTD)

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


class CachedMixer(nn.Module):
    """A mixer, or an FFN with a token shift, that continues from the state after earlier calls."""

    def __init__(self, mixer: Mixer) -> None:
        super().__init__()
        self.mixer = mixer
        self.state: MixerState | None = None

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The output for every new token, (B, T, D)."""
        y_BTD, state = self.mixer.advance(x_BTD, self.state)
        # Copies: a view of the last token would keep all of them in memory.
        self.state = tuple(part.clone() for part in state)
        return y_BTD

    def forget(self) -> None:
        """Start anew, before the first token."""
        self.state = None


class CachedIndexer(nn.Module):
    """An indexer that also scores the keys of earlier calls."""

    def __init__(self, indexer: Indexer, capacity: int) -> None:
        super().__init__()
        self.indexer, self.capacity, self.n_cached = indexer, capacity, 0
        self.cache: Tensor | None = None

    def forget(self) -> None:
        """Start anew, before the first token."""
        self.n_cached = 0

    def forward(
        self, x_BTD: Tensor, latent_BTL: Tensor, rotation: Rotation, mask: Tensor | None = None
    ) -> Tensor | None:
        """What is added to the attention scores of the new tokens, (B, 1, T, S); see `Indexer`."""
        new_BTK = self.indexer.keys(x_BTD, rotation)
        if self.cache is None:
            self.cache = new_BTK.new_empty(len(new_BTK), self.capacity, new_BTK.shape[-1])
        start, self.n_cached = self.n_cached, self.n_cached + new_BTK.shape[1]
        self.cache[:, start : self.n_cached] = new_BTK
        return self.indexer.choose(x_BTD, latent_BTL, rotation, mask, self.cache[:, : self.n_cached])
