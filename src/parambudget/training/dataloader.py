"""The tokens of each update as a pure function of (seed, step), so that a run resumes without a loader's
state.

Sampling is without replacement: the text is cut into windows of context_length tokens, and each epoch visits
every window once, in an order of its own, after shifting where the text is cut.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from parambudget.errors import InputError
from parambudget.text.token_cache import TokenData, Tokens
from parambudget.units import count_phrase

_ROUNDS: Final = 6
TokenArray = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """The windows of a token array: context_length inputs and, shifted by one, as many targets."""

    tokens: Tokens
    context_length: int
    seed: int

    @property
    def count(self) -> int:
        """Windows in an epoch: one fewer than fit, if at least two do, so that the cuts can shift between
        epochs."""
        return max(1, (len(self.tokens) - 1) // self.context_length - 1)

    def batch(self, first: int, n: int) -> TokenArray:
        """Windows `first` to `first + n - 1` of the whole run, as int64 of shape (n, context_length + 1)."""
        return np.stack([self._window(position) for position in range(first, first + n)])

    def _window(self, position: int) -> TokenArray:
        epoch, nth = divmod(position, self.count)
        room = min(self.context_length - 1, len(self.tokens) - 1 - self.count * self.context_length)
        offset = _hash(self.seed, epoch, _ROUNDS) % (room + 1)
        start = offset + self.context_length * permuted_index(nth, self.count, key=_hash(self.seed, epoch, 0))
        return self.tokens[start : start + self.context_length + 1].astype(np.int64)


def require_windows(data: TokenData, context_length: int) -> None:
    """Refuse a text, or a set of a mixture, whose training or validation part is shorter than one window."""
    for each in data.parts:
        require_windows(each.data, context_length)
    for part, tokens in (("training", data.train), ("validation", data.validation)):
        if len(tokens) <= context_length:
            raise InputError(
                f"the {part} part of {data.name} has {count_phrase(len(tokens), 'token')}, fewer than "
                f"one window of {context_length + 1} (context_length + 1); use more text or a shorter "
                "context_length"
            )


def permuted_index(i: int, n: int, *, key: int) -> int:
    """The image of `i` under a pseudo-random permutation of range(n), chosen by `key`. Needs no memory.

    A Feistel network permutes the range up to a power of four; following its cycle until the value is below n
    gives a permutation of range(n). Source: Black and Rogaway 2002, "Ciphers with arbitrary finite
    domains".
    """
    half = max(1, (max(1, n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = i >> half, i & mask
        for round_number in range(_ROUNDS):
            left, right = right, left ^ (_hash(key, right, round_number) & mask)
        i = left << half | right
        if i < n:
            return i


def _hash(*values: int) -> int:
    """64 well-mixed bits of some integers: splitmix64 (Steele et al. 2014), chained."""
    state = 0
    for value in values:
        state = (state ^ value) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state
