"""Choices that speed and memory are not modelled for: such a model is refused, not guessed."""

from typing import Final

from parambudget.arch.dims import Dims
from parambudget.errors import InputError

PLAIN: Final = {
    "window": None, "rotary_pattern": ("rotary",), "rope_theta_local": None, "attention_sinks": False,
    "attention_softcap": None, "qkv_clip": None, "ffn_clamp": None, "embedding_dim": None,
    "embedding_norm": False, "logit_multiplier": 1.0, "qk_norm_bias": None, "position_offset": 0,
    "moe": None, "mla": None,
}  # fmt: skip
"""Fields that are known with this value alone."""
_NAMES: Final = {"moe": "experts", "mla": "latent attention"}


def untold(m: Dims) -> str | None:
    """The first choice of the model that is not known, in words; None where all are."""
    if m.position == "alibi":
        return "position alibi"
    if m.activation == "quick_gelu":
        return "activation quick_gelu"
    return next((_NAMES.get(name, name) for name, plain in PLAIN.items() if getattr(m, name) != plain), None)


def require_told(m: Dims) -> None:
    """Raise `InputError` for a model whose speed and memory are not known."""
    what = untold(m)
    if what is not None:
        raise InputError(
            f"memory and speed of training are not modelled for models with {what} yet; count, verify and "
            "train them all the same"
        )
