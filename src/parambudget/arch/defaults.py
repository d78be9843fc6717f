"""What a person leaves out is filled in here, once, for flags, files and notebooks alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from parambudget.arch.config import ModelConfig, divisors
from parambudget.errors import ConfigError

DERIVED: Final = ("n_heads", "head_dim", "n_kv_heads", "intermediate_size", "norm_bias", "final_norm", "activation")
_SHOWN: Final = (*DERIVED[:4], "vocab_size", "context_length", "tied", *DERIVED[4:])


@dataclass(frozen=True)
class Completed:
    """A complete model and the names of the fields that were not given."""

    model: ModelConfig
    filled: tuple[str, ...]


def complete(given: Mapping[str, Any]) -> Completed:
    """The model that `given` describes, with conventional values for what it leaves out.

    head_dim = dim / n_heads; n_heads = dim / head_dim; with neither, heads of 128 from dim 2048 and of 64 below;
    n_kv_heads = n_heads; intermediate_size by `ffn_convention`; a LayerNorm has a bias, an RMSNorm has none; post-norm
    models have no final norm; a plain FFN uses gelu, a gated one silu.
    """
    fields = dict(given)
    # A wrong or unknown field must be reported as itself, not as the arithmetic it breaks below.
    if any(not isinstance(fields.get(name, 1), int) or fields.get(name, 1) is True or fields.get(name, 1) < 1
           for name in ("dim", "n_heads", "head_dim")) or "dim" not in fields:
        return Completed(ModelConfig.read(fields), ())
    _fill_heads(fields)
    fields.setdefault("n_kv_heads", fields["n_heads"])
    gated = fields.get("gated", True)
    fields.setdefault("intermediate_size", ffn_convention(fields["dim"], bool(gated)))
    fields.setdefault("norm_bias", fields.get("norm") == "layernorm" and fields.get("norm_weight", True) is True)
    fields.setdefault("final_norm", fields.get("norm_placement") != "post")
    fields.setdefault("activation", "silu" if gated else "gelu")
    filled = tuple(name for name in _SHOWN if name not in given)
    return Completed(ModelConfig.read(fields), filled)


def ffn_convention(dim: int, gated: bool) -> int:
    """The conventional FFN width: 4 * dim with two matrices; with three, 8/3 * dim rounded up to a multiple of 256.

    The gated width keeps the parameters of the plain one (Shazeer 2020, arXiv 2002.05202); the rounding is Llama's
    (11008 at dim 4096).
    """
    return -(-8 * dim // (3 * 256)) * 256 if gated else 4 * dim


def _fill_heads(fields: dict[str, Any]) -> None:
    dim = fields["dim"]
    if "n_heads" not in fields and "head_dim" not in fields:
        fields["head_dim"] = 128 if dim >= 2048 and dim % 128 == 0 else 64
        if dim % fields["head_dim"]:
            raise ConfigError(
                f"n_heads is missing and dim={dim} is not a multiple of 64; give n_heads, one of {divisors(dim)}"
            )
    if "n_heads" not in fields:
        if dim % fields["head_dim"]:
            raise ConfigError(
                f"head_dim={fields['head_dim']} does not divide dim={dim}; give n_heads as well, "
                f"or a head_dim of {divisors(dim)}"
            )
        fields["n_heads"] = dim // fields["head_dim"]
    if "head_dim" not in fields:
        if dim % fields["n_heads"]:
            raise ConfigError(
                f"n_heads={fields['n_heads']} does not divide dim={dim}; give head_dim as well, "
                f"or n_heads of {divisors(dim)}"
            )
        fields["head_dim"] = dim // fields["n_heads"]
