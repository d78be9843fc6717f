"""The mixer of a layer, by its kind."""

from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import MixerKind
from parambudget.nn.mixers.gated_delta_net import GatedDeltaNet
from parambudget.nn.mixers.lightning_attention import LightningAttention
from parambudget.nn.mixers.mamba import Mamba
from parambudget.nn.mixers.mamba2 import Mamba2
from parambudget.nn.mixers.mixer import Mixer
from parambudget.nn.mixers.rg_lru import RGLRU
from parambudget.nn.mixers.rwkv import RWKV
from parambudget.nn.mixers.short_convolution import ShortConvolution


def build_mixer(m: ModelConfig, kind: MixerKind, layer: int) -> Mixer:
    """The mixer of that layer, counted from 0, which is of that kind, with the sizes of the model."""
    # The model was validated: it has the block of the kind.
    match kind:
        case "gated_delta_net":
            assert m.gated_delta_net is not None
            return GatedDeltaNet(m, m.gated_delta_net)
        case "short_convolution":
            assert m.short_convolution is not None
            return ShortConvolution(m, m.short_convolution)
        case "lightning_attention":
            assert m.lightning_attention is not None
            return LightningAttention(m, m.lightning_attention, layer)
        case "rg_lru":
            assert m.rg_lru is not None
            return RGLRU(m, m.rg_lru)
        case "rwkv":
            assert m.rwkv is not None
            return RWKV(m, m.rwkv, layer)
        case "mamba":
            assert m.mamba is not None
            return Mamba(m, m.mamba)
        case "mamba2":
            assert m.mamba2 is not None
            return Mamba2(m, m.mamba2)
