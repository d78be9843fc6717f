"""A convolution over the last few tokens, gated by its input before and after.

B batch   T tokens   D dim
"""

import torch
from torch import Tensor

from parambudget.arch.config import ModelConfig
from parambudget.arch.mixers.config import ShortConvolutionConfig
from parambudget.nn.linear import Linear
from parambudget.nn.mixers.mixer import CausalConvolution, Mixer, MixerState
from parambudget.nn.norms import cast_for_matmul


class ShortConvolution(Mixer):
    """The mixer of LFM2: its state is the tokens that the convolution sees."""

    def __init__(self, m: ModelConfig, conv: ShortConvolutionConfig) -> None:
        super().__init__()
        bias = conv.short_conv_bias
        self.input_gate, self.output_gate = (Linear(m.dim, m.dim, bias=bias) for _ in range(2))
        self.value = Linear(m.dim, m.dim, bias=bias)
        self.conv = CausalConvolution(m.dim, conv.short_conv_width, bias=bias)
        self.out = Linear(m.dim, m.dim, bias=bias)

    def advance(self, x_BTD: Tensor, state: MixerState | None) -> tuple[Tensor, MixerState]:
        """The output for the next tokens, and the tokens that the ones after them see."""
        earlier = None if state is None else state[0]
        convolved_BTD, earlier = self.conv(self.input_gate(x_BTD) * self.value(x_BTD), earlier)
        return self.out(cast_for_matmul(self.output_gate(x_BTD) * convolved_BTD)), (earlier,)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """It has nothing but matrices and a convolution."""
