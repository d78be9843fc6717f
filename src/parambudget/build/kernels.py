"""Which kernels compute attention: on a GPU the fused ones, and never the one that writes every score down.

torch falls back to that math path in silence; it takes several times as long, and memory for T * T scores.
"""

from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, activate_flash_attention_impl, sdpa_kernel

NO_KERNEL: Final = ("No available kernel", "No viable backend for scaled_dot_product_attention")
"""What torch says, on CUDA and elsewhere, where none of the allowed kernels can compute."""
_HALF: Final = (torch.bfloat16, torch.float16)
_HOPPER: Final = (9, 0)


def fused_attention(query: Tensor) -> AbstractContextManager[None]:
    """Around a call of scaled_dot_product_attention: the kernels it may choose from, the best first."""
    kernels = kernels_for(query.device.type, query.dtype)
    return sdpa_kernel(kernels, set_priority=True) if kernels else nullcontext()


def kernels_for(device_type: str, dtype: torch.dtype) -> list[SDPBackend]:
    """The allowed kernels, the preferred first; empty where torch chooses alone.

    On the CPU it has one fused kernel; in float32 a GPU has none for grouped heads.
    """
    if device_type != "cuda" or dtype not in _HALF:
        return []
    fused = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
    return [*(reversed(fused) if _flash_3_is_active() else fused), SDPBackend.EFFICIENT_ATTENTION]


def prefer_flash_3(device: torch.device) -> bool:
    """Let torch call FlashAttention 3 on a Hopper GPU where its package, flash_attn_interface, is there."""
    if _flash_3_is_active():
        return True
    if find_spec("flash_attn_interface") is None or torch.cuda.get_device_capability(device) != _HOPPER:
        return False
    activate_flash_attention_impl("FA3")
    return True


def _flash_3_is_active() -> bool:
    return torch.nn.attention.current_flash_attention_impl() == "FA3"
