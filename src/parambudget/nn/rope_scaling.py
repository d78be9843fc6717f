"""Frequencies of the rotary angles, in radians per token, and what rescales them for long contexts.

Each function returns float32 of shape (pairs,), the fastest pair first: what transformers computes in its
`ROPE_INIT_FUNCTIONS`. tests/formats/hf/test_rope_scaling.py compares the two.
"""

from collections.abc import Callable
from math import ceil, floor, log, pi
from sys import float_info
from typing import Final

import torch
from torch import Tensor

from parambudget.arch.dims import RopeType
from parambudget.arch.rope_scaling import RopeScaling

Device = torch.device | None


def plain_frequencies(theta: float, n_pairs: int, device: Device) -> Tensor:
    """theta ** (-i / n_pairs). Source: Su et al. 2021, arXiv 2104.09864."""
    powers = torch.arange(n_pairs, dtype=torch.float32, device=device) / n_pairs
    return theta**-powers


def is_long(scaling: RopeScaling, n_tokens: int) -> bool:
    """Whether a sequence of that length has LongRoPE's long factors."""
    original = scaling.rope_original_context
    return scaling.rope_type == "longrope" and original is not None and n_tokens > original


def rescaled_frequencies(
    scaling: RopeScaling, theta: float, n_pairs: int, device: Device, *, n_tokens: int, stretch: float
) -> Tensor:
    """The frequencies of a sequence of `n_tokens`, which is `stretch` times the model's context."""
    if scaling.rope_type == "dynamic":
        return _dynamic(scaling, theta, n_pairs, device, stretch)
    if scaling.rope_type == "proportional":
        return _proportional(scaling, theta, n_pairs, device)
    plain = plain_frequencies(theta, n_pairs, device)
    if scaling.rope_type == "longrope":
        factors = scaling.rope_long_factors if is_long(scaling, n_tokens) else scaling.rope_short_factors
        return plain / torch.tensor(factors, dtype=torch.float32, device=device)
    return _RESCALED[scaling.rope_type](scaling, theta, plain)


def _dynamic(scaling: RopeScaling, theta: float, n_pairs: int, device: Device, stretch: float) -> Tensor:
    """A base that grows with the sequence beyond the model's context. Source: dynamic NTK, Reddit user
    emozilla 2023."""
    growth = torch.tensor(_factor(scaling) * max(stretch - 1, 0) + 1, dtype=torch.float64, device="cpu")
    base = theta * growth ** (n_pairs / (n_pairs - 1))  # torch's power does not overflow with an error
    return plain_frequencies(base.item(), n_pairs, device)


def _proportional(scaling: RopeScaling, theta: float, n_pairs: int, device: Device) -> Tensor:
    """The fast pairs as they are, and no rotation of the others. Source: Gemma 4."""
    n_rotated = int(2 * n_pairs * scaling.rope_proportion) // 2
    frequencies = plain_frequencies(theta, n_pairs, device) / _factor(scaling)
    return frequencies.where(torch.arange(n_pairs, device=device) < n_rotated, 0)


def _linear(scaling: RopeScaling, _: float, plain: Tensor) -> Tensor:
    """All divided. Source: position interpolation, Chen et al. 2023, arXiv 2306.15595."""
    return plain / _factor(scaling)


def _llama3(scaling: RopeScaling, _: float, plain: Tensor) -> Tensor:
    """Divided where a pair turns slowly in the original context, with a transition in between. Source: Llama
    3.1, Grattafiori et al. 2024, arXiv 2407.21783, and the code published with it."""
    low, high = scaling.rope_low_freq_factor, scaling.rope_high_freq_factor
    turns = plain * (_original_context(scaling) / (2 * pi))
    kept = ((turns - low) / (high - low)).clamp(0, 1) if low < high else (turns >= low).float()
    return plain * (kept + (1 - kept) / _factor(scaling))


def _yarn(scaling: RopeScaling, theta: float, plain: Tensor) -> Tensor:
    """The same with a transition that is linear in the number of the pair. Source: YaRN, Peng et al. 2023,
    arXiv 2309.00071, section 3.2."""
    n_pairs, context = len(plain), _original_context(scaling)

    def pair_that_turns(times: float) -> float:
        return n_pairs * log(max(context / (times * 2 * pi), float_info.min)) / log(theta)

    first, last = pair_that_turns(scaling.rope_beta_fast), pair_that_turns(scaling.rope_beta_slow)
    if scaling.rope_truncate:
        first, last = floor(first), ceil(last)
    first, last = max(first, 0), min(last, 2 * n_pairs - 1)
    width = 0.001 if first == last else last - first
    divided = ((torch.arange(n_pairs, dtype=torch.float32, device=plain.device) - first) / width).clamp(0, 1)
    return plain * (1 - divided) + plain / _factor(scaling) * divided


_RESCALED: Final[dict[RopeType, Callable[[RopeScaling, float, Tensor], Tensor]]] = {
    "linear": _linear, "llama3": _llama3, "yarn": _yarn,
}  # fmt: skip


def _factor(scaling: RopeScaling) -> float:
    return 1.0 if scaling.rope_factor is None else scaling.rope_factor


def _original_context(scaling: RopeScaling) -> int:
    assert scaling.rope_original_context is not None, "validated"
    return scaling.rope_original_context
