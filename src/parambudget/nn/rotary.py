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


class ScaledQueries(NamedTuple):
    """The angles of a layer whose queries are scaled by their positions, and the factors, (T, 1)."""

    angles: RotaryAngles | None
    factors: Tensor


Rotation = RotaryAngles | ScaledQueries | None
"""How positions enter queries and keys; None in layers without rotary positions."""


class Rotary(nn.Module):
    """Cosines and sines of the rotary angles, in float32 whatever the dtype of the weights; multiplied by
    what the model scales rotated queries and keys with."""

    cos: Tensor
    sin: Tensor

    def __init__(self, m: ModelConfig, *, local: bool = False) -> None:
        """The angles of global layers, or of local ones; plain ones if those have a base of their own."""
        super().__init__()
        own = m.rope_theta_local if local else None
        self.n_pairs, self.theta = m.rotary_width(local=local) // 2, m.rope_theta if own is None else own
        self.scaling, self.scale = (m.rope_scaling, m.rotary_scale) if own is None else (None, 1.0)
        self.context_length = m.context_length
        self.interleaved = m.rotary_interleaved
        self._compute_tables(None)

    def forward(self, n_tokens: int, start: int = 0) -> RotaryAngles:
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
    angles = rotation.angles if isinstance(rotation, ScaledQueries) else rotation
    if angles is None:
        return x_BTHK
    cos, sin, interleaved = angles
    n_pairs = cos.shape[-1]
    if interleaved:
        rotated, rest = x_BTHK.split((2 * n_pairs, x_BTHK.shape[-1] - 2 * n_pairs), dim=-1)
        first, second = rotated.unflatten(-1, (-1, 2)).unbind(-1)
    else:
        first, second, rest = x_BTHK.split((n_pairs, n_pairs, x_BTHK.shape[-1] - 2 * n_pairs), dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def scale_queries(q_BHTK: Tensor, rotation: Rotation) -> Tensor:
    """The queries times the factors of their positions, in layers that have such factors."""
    return (q_BHTK * rotation.factors).to(q_BHTK.dtype) if isinstance(rotation, ScaledQueries) else q_BHTK


def query_factors(m: ModelConfig, n_tokens: int, start: int, device: torch.device) -> Tensor:
    """What `query_scale` makes of the positions from `start` on, (T, 1), in float32."""
    positions = torch.arange(start, start + n_tokens, dtype=torch.float32, device=device).unsqueeze(1)
    strength, length = m.query_scale_strength, m.query_scale_length
    if m.query_scale == "power":
        return (1 + positions / length) ** strength
    steps = torch.floor((positions + (m.query_scale == "log_next")) / length)
    return 1 + strength * torch.log1p(steps)


class SinusoidalPositions(nn.Module):
    """Fixed vectors of the positions: the sines of all angles, then their cosines, in float32.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5, where sines and cosines alternate.
    """

    table: Tensor

    def __init__(self, m: ModelConfig) -> None:
        super().__init__()
        self.n_positions, self.n_pairs = m.context_length + m.position_offset, m.dim // 2
        self.theta = m.sinusoidal_theta
        self._compute_table(None)

    @property
    def weight(self) -> Tensor:
        """The vectors, (positions, D)."""
        return self.table

    def _compute_table(self, device: torch.device | None) -> None:
        positions = torch.arange(self.n_positions, dtype=torch.float32, device=device)
        angles = torch.outer(positions, plain_frequencies(self.theta, self.n_pairs, device))
        self.register_buffer("table", torch.cat((angles.sin(), angles.cos()), dim=-1), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._compute_table(self.table.device)  # as in `Rotary`
        return self
