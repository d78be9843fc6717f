"""The windows of a mixture as a pure function of their position in the run, whatever the number of processes.

In every block of windows each set has exactly its share, spread as evenly as whole windows allow: no draw
decides which set comes next, so no share drifts. Within a set the windows are those of a run on it alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm

import numpy as np
import numpy.typing as npt

from parambudget.text.token_cache import TokenData
from parambudget.training.config import TrainConfig
from parambudget.training.dataloader import TokenArray, Windows, document_windows, training_windows


@dataclass(frozen=True, eq=False)
class MixedWindows:
    """The windows of several sets, each with its share."""

    sets: Sequence[Windows]
    shares: Sequence[Fraction]
    """They add up to 1."""

    @property
    def block_length(self) -> int:
        """The fewest windows of which every set can have exactly its share."""
        return lcm(*(share.denominator for share in self.shares))

    def batch(self, first: int, n: int) -> TokenArray:
        """Windows `first` to `first + n - 1` of the whole run, as int64 of shape (n, context_length + 1)."""
        places = [self.place(position) for position in range(first, first + n)]
        return np.concatenate([self.sets[number].batch(nth, 1) for number, nth in places])

    def place(self, position: int) -> tuple[int, int]:
        """The set that the window at a position of the run comes from, and which of its windows it is."""
        numbers, ranks, counts = self._block
        block, offset = divmod(position, len(numbers))
        number = int(numbers[offset])
        return number, block * counts[number] + int(ranks[offset])

    @cached_property
    def _block(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[int]]:
        """The set of each window in a block, how many of that set stand before it, and how many each set has.

        Of c windows of a set, the j-th stands where (j + 1/2) / c of the block is over: the sets are spread
        evenly, and any stretch has the share of each but for a window or two.
        """
        counts = [int(share * self.block_length) for share in self.shares]
        numbers = np.concatenate([np.full(count, i, np.int64) for i, count in enumerate(counts)])
        ranks = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
        due = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        order = np.lexsort((numbers, due))
        return numbers[order], ranks[order], counts


def run_windows(data: TokenData, context_length: int, config: TrainConfig) -> Windows:
    """The windows that a run with these settings is trained on."""
    if not data.parts:
        return training_windows(data, context_length, config)
    sets = [
        # Another order in each set, also where two are of the same length.
        training_windows(part.data, context_length, config.replace(seed=(config.seed + number) % 2**32))
        for number, part in enumerate(data.parts)
    ]
    return MixedWindows(sets, [part.share for part in data.parts])


def masking_notices(data: TokenData, context_length: int) -> list[str]:
    """What to say where documents are masked: of each set of a mixture by itself, as its windows are its own.

    Raises `InputError` for a set whose documents are not known.
    """
    if not data.parts:
        return [document_windows(data, context_length).notice]
    return [f"{part.name}: {document_windows(part.data, context_length).notice}" for part in data.parts]
