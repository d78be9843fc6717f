"""Rotary positions: element i of a head is rotated with element i + rotary_dim / 2, as in GPT-NeoX and Llama,
or with its neighbour, as in GPT-J.

B batch   T tokens   H heads   K head_dim
"""

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from parambudget.arch.config import ModelConfig
from parambudget.nn.rope_scaling import is_long, plain_frequencies, rescaled_frequencies


class RotaryAngles(NamedTuple):
    """Cosine and sine of every angle, (T, 1, rotary_dim / 2) each, and whether the pairs are neighbours."""

    cos: Tensor
    sin: Tensor
    interleaved: bool


Rotation = RotaryAngles | None
"""None in layers without rotary positions."""


class Rotary(nn.Module):
    """Cosines and sines of the rotary angles, in float32 whatever the dtype of the weights; multiplied by
    what the model scales rotated queries and keys with."""

    cos: Tensor
    sin: Tensor

    def __init__(self, m: ModelConfig, theta: float | None = None) -> None:
        """The angles of global layers, or of local ones, which have plain angles with a base of their own."""
        super().__init__()
        self.n_pairs, self.theta = m.rotary_dim // 2, m.rope_theta if theta is None else theta
        self.scaling, self.scale = (m.rope_scaling, m.rotary_scale) if theta is None else (None, 1.0)
        self.context_length = m.context_length
        self.interleaved = m.rotary_interleaved
        self._compute_tables(None)

    def forward(self, n_tokens: int, start: int = 0) -> Rotation:
        """The tables for `n_tokens` positions from `start` on.

        Where angles depend on the length of the sequence, it is taken to end with these tokens.
        """
        end = start + n_tokens
        if end <= self.context_length and self._is_long(end) == self._is_long(self.context_length):
            return RotaryAngles(self.cos[start:end], self.sin[start:end], self.interleaved)
        return RotaryAngles(*self._tables(start, end, self.cos.device), self.interleaved)

    def _is_long(self, n_tokens: int) -> bool:
        """Whether a sequence of that length has the angles of long sequences."""
        return self.scaling is not None and is_long(self.scaling, n_tokens)

    def _compute_tables(self, device: torch.device | None) -> None:
        cos, sin = self._tables(0, self.context_length, device)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def _tables(self, start: int, end: int, device: torch.device | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines from position `start` to before `end`, of a sequence of `end` tokens."""
        if self.scaling is None:
            frequencies = plain_frequencies(self.theta, self.n_pairs, device)
        else:
            stretch = end / self.context_length
            frequencies = rescaled_frequencies(
                self.scaling, self.theta, self.n_pairs, device, n_tokens=end, stretch=stretch
            )
        positions = torch.arange(start, end, dtype=torch.float32, device=device)
        angles = torch.outer(positions, frequencies).unsqueeze(1)
        cos, sin = angles.cos(), angles.sin()
        return (cos, sin) if self.scale == 1 else (cos * self.scale, sin * self.scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        # `to_empty` would leave them blank, and `.to(bfloat16)` round them.
        self._compute_tables(self.cos.device)
        return self


def apply_rotary(x_BTHK: Tensor, rotation: Rotation) -> Tensor:
    """The heads with their first rotary_dim elements rotated, in float32.

    Interleaved pairs come out half the rotated width apart; queries and keys alike, so no score changes.
    """
    if rotation is None:
        return x_BTHK
    cos, sin, interleaved = rotation
    n_pairs = cos.shape[-1]
    if interleaved:
        rotated, rest = x_BTHK.split((2 * n_pairs, x_BTHK.shape[-1] - 2 * n_pairs), dim=-1)
        first, second = rotated.unflatten(-1, (-1, 2)).unbind(-1)
    else:
        first, second, rest = x_BTHK.split((n_pairs, n_pairs, x_BTHK.shape[-1] - 2 * n_pairs), dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)
