"""The tokens of each update as a pure function of (seed, step), so that a run resumes without a loader's
state.

Sampling is without replacement: the text is cut into windows of context_length tokens, and each epoch visits
every window once, in an order of its own, after shifting where the text is cut. Where documents are masked,
windows begin at documents instead, and what is left over of the last one in a window is left out.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, Protocol

import numpy as np

from parambudget.errors import InputError
from parambudget.text.token_cache import TokenData, Tokens
from parambudget.training.config import TrainConfig
from parambudget.units import count_phrase

_ROUNDS: Final = 6
_SCANNED_AT_ONCE: Final = 2**24
_FOLLOWED_AT_ONCE: Final = 2**20
TokenArray = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Positions = np.ndarray[tuple[int], np.dtype[np.int64]]


class Windows(Protocol):
    """The windows of a run, one after another without end."""

    def batch(self, first: int, n: int) -> TokenArray:
        """Windows `first` to `first + n - 1` of the whole run, as int64 of shape (n, context_length + 1)."""
        ...


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


@dataclass(frozen=True, eq=False)
class DocumentWindows:
    """Windows that begin at a document, where one begins soon enough.

    A window begins at the first document behind the window before it; what is left over of the document
    before, which that window has cut off, is left out. A document so long that none begins within
    `context_length` tokens goes on in the next window. No token is in two windows of an epoch, and in every
    epoch the windows are the same ones in another order.
    """

    tokens: Tokens
    context_length: int
    starts: Positions

    @classmethod
    def of(cls, tokens: Tokens, context_length: int, opened: Positions) -> "DocumentWindows":
        """The windows of a text in which documents begin at 0 and where they are `opened`."""
        documents = opened if len(opened) and opened[0] == 0 else np.concatenate(([0], opened))
        # Windows from one document on lie end to end until another document begins in place of the next: the
        # first that begins behind the first window, however many windows later that is.
        following = np.searchsorted(documents, documents + context_length)
        begun = _follow(following)
        ends = np.append(documents[begun[1:]], len(tokens) - 1)
        n_windows = (ends - documents[begun]) // context_length
        nth = np.arange(n_windows.sum()) - np.repeat(n_windows.cumsum() - n_windows, n_windows)
        starts = np.repeat(documents[begun], n_windows) + context_length * nth
        return cls(tokens, context_length, starts.astype(np.int64))

    def with_order_of(self, seed: int) -> "ShuffledDocumentWindows":
        """The windows in the order of a run."""
        return ShuffledDocumentWindows(self, seed)

    @cached_property
    def left_out_share(self) -> float:
        """Of the text's tokens."""
        return 1 - len(self.starts) * self.context_length / (len(self.tokens) - 1)

    @property
    def notice(self) -> str:
        """What the person who trains should know."""
        return (
            f"windows begin at documents: {self.left_out_share:.1%} of the training tokens are left out, the "
            "ends of documents that do not fit"
        )


@dataclass(frozen=True, eq=False)
class ShuffledDocumentWindows:
    """The windows in an order of its own in every epoch."""

    windows: DocumentWindows
    seed: int

    def batch(self, first: int, n: int) -> TokenArray:
        """Windows `first` to `first + n - 1` of the whole run, as int64 of shape (n, context_length + 1)."""
        return np.stack([self._window(position) for position in range(first, first + n)])

    def _window(self, position: int) -> TokenArray:
        starts = self.windows.starts
        epoch, nth = divmod(position, len(starts))
        start = int(starts[permuted_index(nth, len(starts), key=_hash(self.seed, epoch, 0))])
        return self.windows.tokens[start : start + self.windows.context_length + 1].astype(np.int64)


def _follow(following: Positions) -> Positions:
    """0, `following` of it, and so on until that is no index any more. Each has to be above the last."""
    parts, i = [], 0
    for first in range(0, len(following), _FOLLOWED_AT_ONCE):
        # A list is read several times faster than an array, entry by entry.
        part, visited = following[first : first + _FOLLOWED_AT_ONCE].tolist(), []
        while i < first + len(part):
            visited.append(i)
            i = part[i - first]
        parts.append(np.array(visited, dtype=np.int64))
    return np.concatenate(parts)


def positions_of(token: int, tokens: Tokens) -> Positions:
    """Where the token stands. Reads the whole text, a part at a time."""
    firsts = range(0, len(tokens), _SCANNED_AT_ONCE)
    parts = [first + np.flatnonzero(tokens[first : first + _SCANNED_AT_ONCE] == token) for first in firsts]
    return np.concatenate(parts).astype(np.int64)


def training_windows(data: TokenData, context_length: int, config: TrainConfig) -> Windows:
    """The windows that a run with these settings is trained on."""
    if config.step.mask_documents:
        return document_windows(data, context_length).with_order_of(config.seed)
    return TokenWindows(data.train, context_length, config.seed)


@lru_cache(maxsize=8)
def document_windows(data: TokenData, context_length: int) -> DocumentWindows:
    """The windows that begin at documents; refuses a text whose documents are not known. Found once: trials
    before a run need them too."""
    end_of_text = data.end_of_text_id
    if end_of_text is None:
        raise InputError(
            f"mask_documents=True needs the token between documents, and that of {data.name} is not known; "
            "name the tokenizer with `tokenizer`, or leave mask_documents out"
        )
    opened = positions_of(end_of_text, data.train)
    if not len(opened):
        raise InputError(
            f"mask_documents=True has nothing to mask: token {end_of_text}, which ends documents, is not in "
            f"the training part of {data.name}; leave it out"
        )
    return DocumentWindows.of(data.train, context_length, opened)


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
