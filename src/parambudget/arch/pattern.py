"""Patterns over the layers: words that run again and again from the first layer on, such as local, global."""

from collections.abc import Sequence
from typing import Any


def word_of(pattern: Sequence[str], layer: int) -> str:
    """What the pattern says of a layer, counted from 0."""
    return pattern[layer % len(pattern)]


def n_local_layers(m: Any, n_layers: Any) -> Any:
    """How many of `n_layers` layers have the window of `m`."""
    return 0 * n_layers if m.window is None else layers_of(m.window_pattern, "local", n_layers)


def layers_of(pattern: Sequence[str], word: str, n_layers: Any) -> Any:
    """How many of the first `n_layers` layers are of the word. An array's elements are counted one by one."""
    if word not in pattern:
        return 0 * n_layers
    if set(pattern) == {word}:
        return n_layers
    period = len(pattern)
    return sum((n_layers + (period - 1 - i)) // period for i in range(period) if pattern[i] == word)
