"""RWKV-4: a weighted mean of all values so far, of each channel by itself, and the FFN that goes with it.

Both mix what they read with the token before, channel by channel: the token shift.

B batch   T tokens   D dim   A channels of the mean   F width between the matrices of the FFN
S two sums: of weighted values, and of weights   N blocks of tokens   C tokens of a block
"""

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.arch.config import ModelConfig
from parambudget.arch.mixers.config import RWKVConfig
from parambudget.nn.linear import Linear
from parambudget.nn.mixers.mixer import Mixer, MixerState, in_blocks
from parambudget.nn.mlp import FFNActivation
from parambudget.nn.norms import cast_for_matmul

BLOCK: Final = 32
"""Tokens from one state that goes on to the next; all blocks are computed side by side."""


class RWKV(Mixer):
    """The time mix of RWKV-4. Source: Peng et al. 2023, arXiv 2305.13048."""

    def __init__(self, m: ModelConfig, rwkv: RWKVConfig, layer: int) -> None:
        super().__init__()
        channels = rwkv.rwkv_inner_size
        self.layer, self.n_layers = layer, m.n_layers
        self.receptance_mix, self.k_mix, self.v_mix = (nn.Parameter(torch.zeros(m.dim)) for _ in range(3))
        self.receptance, self.k, self.v = (Linear(m.dim, channels, bias=False) for _ in range(3))
        self.log_rate, self.bonus = (nn.Parameter(torch.zeros(channels)) for _ in range(2))
        self.out = Linear(channels, m.dim, bias=False)

    def advance(self, x_BTD: Tensor, state: MixerState | None) -> tuple[Tensor, MixerState]:
        """The output for the next tokens, and the state after them."""
        before_BTD = tokens_before(x_BTD, None if state is None else state[0])
        receptance, k, v = (
            project(mix_with(before_BTD, x_BTD, mix_D))
            for project, mix_D in (
                (self.receptance, self.receptance_mix), (self.k, self.k_mix), (self.v, self.v_mix)
            )
        )  # fmt: skip
        memory = None if state is None else state[1:]
        y_BTA, memory = weighted_means(k, v, self.log_rate, self.bonus, memory)
        gated_BTA = cast_for_matmul(torch.sigmoid(receptance) * y_BTA)
        return self.out(gated_BTA), (x_BTD[:, -1:], *memory)

    def reset_parameters(self, generator: torch.Generator) -> None:  # noqa: ARG002
        """As in the authors' code (BlinkDL/RWKV-LM, RWKV-v4/src/model.py): rates spread over the channels,
        slower ones in early layers, and mixes that have more of the token itself in late ones. Nothing is
        drawn."""
        depth, remaining = self.layer / max(self.n_layers - 1, 1), 1 - self.layer / self.n_layers
        channel = torch.arange(len(self.bonus), dtype=torch.float32, device=self.bonus.device)
        share = channel / max(len(channel) - 1, 1)
        self.log_rate.copy_(8 * share ** (0.7 + 1.3 * depth) - 5)
        self.bonus.copy_(0.5 * ((channel + 1) % 3 - 1) + math.log(0.3))
        self.k_mix.copy_(rising_mix(self.k_mix, remaining))
        self.v_mix.copy_(rising_mix(self.v_mix, remaining) + 0.3 * depth)
        self.receptance_mix.copy_(rising_mix(self.receptance_mix, 0.5 * remaining))


class ChannelMix(Mixer):
    """The FFN of RWKV-4: two matrices around an activation, and a gate of what they give.

    It mixes channels, and tokens only by its token shift, whose state it keeps.
    """

    def __init__(self, m: ModelConfig, width: int, layer: int) -> None:
        super().__init__()
        self.activation, self.remaining_depth = FFNActivation(m), 1 - layer / m.n_layers
        self.up_mix, self.receptance_mix = (nn.Parameter(torch.zeros(m.dim)) for _ in range(2))
        self.up, self.down = Linear(m.dim, width, bias=m.ffn_bias), Linear(width, m.dim, bias=m.ffn_bias)
        self.receptance = Linear(m.dim, m.dim, bias=m.ffn_bias)

    def advance(self, x_BTD: Tensor, state: MixerState | None) -> tuple[Tensor, MixerState]:
        """The output for the next tokens, and the last of them."""
        before_BTD = tokens_before(x_BTD, None if state is None else state[0])
        up_BTF = self.up(mix_with(before_BTD, x_BTD, self.up_mix))
        gate_BTD = torch.sigmoid(self.receptance(mix_with(before_BTD, x_BTD, self.receptance_mix)))
        return gate_BTD * self.down(self.activation(None, up_BTF)), (x_BTD[:, -1:],)

    def reset_parameters(self, generator: torch.Generator) -> None:  # noqa: ARG002
        """As in the authors' code; nothing is drawn."""
        for mix in (self.up_mix, self.receptance_mix):
            mix.copy_(rising_mix(mix, self.remaining_depth))


def tokens_before(x_BTD: Tensor, last_B1D: Tensor | None) -> Tensor:
    """For each token the one before it; before the first of a sequence there are zeros."""
    first_B1D = torch.zeros_like(x_BTD[:, :1]) if last_B1D is None else last_B1D.to(x_BTD.dtype)
    return torch.cat((first_B1D, x_BTD[:, :-1]), dim=1)


def mix_with(before_BTD: Tensor, x_BTD: Tensor, mix_D: Tensor) -> Tensor:
    """Interpolates each channel between the previous token (0) and this one (1)."""
    return torch.lerp(before_BTD, x_BTD, mix_D.to(x_BTD.dtype))


def rising_mix(like: Tensor, power: float) -> Tensor:
    """An initial mix: nothing of the token itself in the first channel, most in the last."""
    channel = torch.arange(len(like), dtype=torch.float32, device=like.device)
    return (channel / len(like)) ** power


def weighted_means(
    k_BTA: Tensor, v_BTA: Tensor, log_rate_A: Tensor, bonus_A: Tensor, memory: MixerState | None
) -> tuple[Tensor, MixerState]:
    """The mean of the values up to every token, (B, T, A), and the memory after all of them; in float32.

    A value weighs exp(key), and exp(-rate) less for each token after the next one; that of the token itself
    weighs exp(key + bonus). The memory is the sum of weighted values, that of weights, and the largest
    exponent, which both are divided by: no weight overflows, and none is lost that counts.
    """
    with torch.autocast(k_BTA.device.type, enabled=False):
        k_BTA, v_BTA, bonus_A = k_BTA.float(), v_BTA.float(), bonus_A.float()
        rate_A = log_rate_A.float().exp()
        if memory is None:
            nothing_BA = torch.zeros_like(k_BTA[:, 0])
            memory = nothing_BA, nothing_BA, nothing_BA - torch.inf
        sums_SBA, largest_BA = torch.stack(memory[:2]), memory[2]
        # What both sums are divided by cancels in the mean, and with it its gradient.
        largest_BTA = _running_maximum(k_BTA.detach(), rate_A.detach(), largest_BA)
        before_BTA = torch.cat((largest_BA.unsqueeze(1), largest_BTA[:, :-1]), dim=1)
        weight_BTA = (k_BTA - largest_BTA).exp()
        written_SBTA = torch.stack((weight_BTA * v_BTA, weight_BTA))
        decay_BTA = before_BTA - rate_A - largest_BTA
        after_SBTA = _decaying_sums(written_SBTA, decay_BTA, sums_SBA)
        own_BTA = k_BTA + bonus_A
        scale_BTA = torch.maximum(before_BTA, own_BTA.detach())
        kept_BTA, own_BTA = (before_BTA - scale_BTA).exp(), (own_BTA - scale_BTA).exp()
        values_BTA, weights_BTA = torch.cat((sums_SBA.unsqueeze(2), after_SBTA[:, :, :-1]), dim=2).unbind()
        y_BTA = (kept_BTA * values_BTA + own_BTA * v_BTA) / (kept_BTA * weights_BTA + own_BTA)
    return y_BTA, (*after_SBTA[:, :, -1].unbind(), largest_BTA[:, -1])


def _running_maximum(k_BTA: Tensor, rate_A: Tensor, before_BA: Tensor) -> Tensor:
    """The largest exponent of a weight after every token. Each pass looks back twice as far as the one
    before."""
    n_tokens, back = k_BTA.shape[1], 1
    steps_T1 = torch.arange(1, n_tokens + 1, device=k_BTA.device).unsqueeze(1)
    largest_BTA = torch.maximum(k_BTA, before_BA.unsqueeze(1) - steps_T1 * rate_A)
    while back < n_tokens:
        earlier_BTA = F.pad(largest_BTA[:, :-back], (0, 0, back, 0), value=-torch.inf)
        largest_BTA = torch.maximum(largest_BTA, earlier_BTA - back * rate_A)
        back *= 2
    return largest_BTA


def _decaying_sums(written_SBTA: Tensor, decay_BTA: Tensor, sums_SBA: Tensor) -> Tensor:
    """The sums after every token, (S, B, T, A): each token multiplies them by exp(decay), at most 1, and adds
    what it writes.

    First every block by itself, as if nothing had been before it, one token of all blocks after another; then
    the sums from block to block; then what they add to those within a block.
    """
    n_tokens = written_SBTA.shape[2]
    block = min(BLOCK, n_tokens)
    written_SBNCA, decay_BNCA = in_blocks(written_SBTA, block), in_blocks(decay_BTA, block)
    first_SBNA, *others = written_SBNCA.unbind(3)
    within = [first_SBNA]
    for written_SBNA, factor_BNA in zip(others, decay_BNCA.exp().unbind(2)[1:], strict=True):
        within.append(torch.addcmul(written_SBNA, factor_BNA, within[-1]))
    since_start_BNCA = decay_BNCA.cumsum(2).exp()
    before = [sums_SBA]
    ends = zip(within[-1].unbind(2), since_start_BNCA[:, :, -1].unbind(1), strict=True)
    for end_SBA, factor_BA in ends:
        before.append(torch.addcmul(end_SBA, factor_BA, before[-1]))
    before_SBN1A = torch.stack(before[:-1], dim=2).unsqueeze(3)
    after_SBNCA = torch.addcmul(torch.stack(within, dim=3), since_start_BNCA, before_SBN1A)
    return after_SBNCA.flatten(2, 3)[:, :, :n_tokens]
