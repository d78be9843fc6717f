"""What computes the scans and convolutions of a model's mixers: a package, or plain torch."""

import torch
from torch import nn

from parambudget.nn.mixers import kernels
from parambudget.nn.mixers.kernels import PLAIN, Choice, KernelName
from parambudget.nn.mixers.mixer import CausalConvolution, Mixer
from parambudget.nn.mixers.rg_lru import RGLRU
from parambudget.nn.mixers.rwkv import RWKV, ChannelMix
from parambudget.nn.mixers.short_convolution import ShortConvolution


def mixer_implementations(module: nn.Module, device: torch.device) -> dict[str, Choice]:
    """How the scan and the convolution of the mixers are computed there; empty without mixers.

    Imports the packages, so that no compiler traces that.
    """
    found: dict[str, Choice] = {}
    for part in module.modules():
        if isinstance(part, CausalConvolution):
            found["convolution"] = _choice(part.kernel, device, "no package takes its width or channels")
        elif isinstance(part, RGLRU | RWKV):
            found["scan"] = _choice(None, device, "no package has it")
        elif isinstance(part, Mixer) and not isinstance(part, ChannelMix | ShortConvolution):
            found["scan"] = _choice(part.kernel, device, "no package takes its widths")
    return found


def in_words(implementations: dict[str, Choice], *, reasons: bool = True) -> str:
    """`scan: flash-linear-attention 0.6.0, convolution: plain torch (causal-conv1d is not installed)`, or
    the same without reasons: what a bit-exact repetition depends on."""
    parts = sorted(implementations.items(), reverse=True)
    return ", ".join(f"{part}: {how if reasons else how.version or PLAIN}" for part, how in parts)


def implementation_notice(implementations: dict[str, Choice]) -> str:
    """What to say of them before a run."""
    notice = f"mixers: {in_words(implementations)}"
    if all(how.version is None for how in implementations.values()):
        return notice
    return (
        f"{notice}. These calls follow the packages' definitions and have run on no GPU yet: compare the "
        f"first losses with those of {kernels.SWITCH}=1, which is plain torch"
    )


def _choice(kernel: KernelName | None, device: torch.device, otherwise: str) -> Choice:
    if device.type not in kernels.DEVICES:
        return Choice(None)
    return Choice(None, otherwise) if kernel is None else kernels.choice(kernel)
