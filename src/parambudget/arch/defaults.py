"""Conventional values for what a person leaves out, filled in once for flags, files and notebooks alike."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from parambudget.arch.config import BLOCKS, ModelConfig, flat_fields, nest_blocks
from parambudget.arch.dims import has_dense_layers, is_pattern, mixers_of
from parambudget.arch.validation import LARGEST_SIZE, divisors
from parambudget.errors import ConfigError

DERIVED: Final = (
    "n_heads",
    "head_dim",
    "n_kv_heads",
    "intermediate_size",
    "norm_bias",
    "final_norm",
    "activation",
)
DERIVED_IN_BLOCKS: Final = (
    "expert_intermediate_size", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"
)  # fmt: skip
_REPORTED: Final = (
    "n_layers", *DERIVED[:4], *DERIVED_IN_BLOCKS, "vocab_size", "context_length", "tied", *DERIVED[4:],
)  # fmt: skip


@dataclass(frozen=True)
class ResolvedModel:
    """A complete model and the names of the fields that were not given."""

    model: ModelConfig
    defaulted: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What a person should know about how the source was read."""
    unsupported: tuple[str, ...] = ()
    """What the source's model computes and this one cannot express; the count is the same."""


def unsupported_note(unsupported: Sequence[str], *, is_built: bool) -> str:
    """What a person should know about a model of which the source computes more than `ModelConfig` can
    express; `is_built` says whether there is a module of the rest."""
    parts = ", ".join(unsupported)
    if is_built:
        return f"counted exactly, but built without {parts}, so its logits differ"
    return f"counted exactly, and not built, because of its {parts}"


def with_defaults(given: Mapping[str, Any]) -> ResolvedModel:
    """The model that `given` describes, with conventional values for what it leaves out. Fields of the blocks
    may stand beside the others, as flags do.

    n_layers by `usual_depth`; head_dim = dim / n_heads; n_heads = dim / head_dim; with neither, heads of 128
    from dim 2048 and of 64 below, and one head where no layer has attention; n_kv_heads = n_heads;
    intermediate_size by `ffn_convention`; a LayerNorm has a bias, an RMSNorm has none; post-norm models have
    no final norm; a plain FFN uses gelu, a gated one silu. An expert is as wide as intermediate_size, or as
    the convention without it; a dense layer beside experts is as wide as the active experts together. In
    latent attention keys without position are as wide as values (128 from dim 2048, 64 below), the rotated
    part is half of that, and head_dim is their sum, as in DeepSeek-V2.
    """
    fields = nest_blocks(given)
    if _can_derive_heads(fields):
        fields.setdefault("n_layers", usual_depth(fields["dim"]))
        if isinstance(fields.get("mla"), dict):
            _set_latent_heads(fields, fields["mla"])
        else:
            _set_heads(fields)
        if "n_heads" in fields:
            fields.setdefault("n_kv_heads", fields["n_heads"])
        gated = fields.get("gated", True)
        _set_widths(fields, ffn_convention(fields["dim"], bool(gated)))
        fields.setdefault(
            "norm_bias", fields.get("norm") == "layernorm" and fields.get("norm_weight", True) is True
        )
        fields.setdefault("final_norm", fields.get("norm_placement") != "post")
        fields.setdefault("activation", "silu" if gated else "gelu")
    model = ModelConfig.read(fields)
    named = set(given) | {name for block in BLOCKS for name in _names_in(given.get(block))}
    used = flat_fields(model).keys() - (set() if has_dense_layers(model) else {"intermediate_size"})
    used -= set() if model.n_ffn_layers else {"activation"}
    used -= set() if model.n_attention_layers else {"n_heads", "n_kv_heads", "head_dim"}
    return ResolvedModel(model, tuple(name for name in _REPORTED if name in used and name not in named))


def usual_depth(dim: int) -> int:
    """Layers of a model this wide, an even number: 0.548 * dim**0.519, at most the 10,000 that are allowed.

    Source: least squares in logarithms over the first 65 shapes of dense presets, with a standard deviation
    of 41 % around it; those added since move it by less than 3 %. It is what people build, not what is best.
    """
    pairs = round(0.548 * math.pow(dim, 0.519) / 2)
    return min(2 * max(1, pairs), 10_000)


def ffn_convention(dim: int, gated: bool) -> int:
    """The conventional FFN width: 4 * dim with two matrices; with three, 8/3 * dim rounded up to a multiple
    of 256.

    The gated width keeps the parameters of the plain one (Shazeer 2020, arXiv 2002.05202); the rounding is
    Llama's (11008 at dim 4096).
    """
    return -(-8 * dim // (3 * 256)) * 256 if gated else 4 * dim


def _can_derive_heads(fields: Mapping[str, Any]) -> bool:
    """A missing or malformed size is left to the config, whose error names it."""
    sizes = [fields.get("dim"), fields.get("n_heads", 1), fields.get("head_dim", 1)]
    return all(type(size) is int and 0 < size <= LARGEST_SIZE for size in sizes)


def _set_widths(fields: dict[str, Any], usual: int) -> None:
    """The width of the FFN, and of experts if there are any."""
    moe = fields.get("moe")
    if isinstance(moe, dict):
        width = moe.setdefault("expert_intermediate_size", fields.get("intermediate_size", usual))
        active = (moe.get("n_experts_per_token"), moe.get("n_shared_experts", 0), width)
        if all(type(size) is int for size in active):
            usual = min(max((active[0] + active[1]) * width, 1), LARGEST_SIZE)
    fields.setdefault("intermediate_size", usual)


def _names_in(block: Any) -> Iterable[str]:
    """The names of the fields that a block gives, in whichever form."""
    return block if isinstance(block, Mapping) else (name for name, _ in block or ())


def _set_latent_heads(fields: dict[str, Any], mla: dict[str, Any]) -> None:
    dim = fields["dim"]
    nope = mla.setdefault("qk_nope_head_dim", mla.get("v_head_dim", 128 if dim >= 2048 else 64))
    mla.setdefault("v_head_dim", nope)
    if type(nope) is not int or nope < 1:
        return  # the config's own error names it
    rope = mla.setdefault("qk_rope_head_dim", max(nope // 2, 1))
    if type(rope) is int:
        fields.setdefault("head_dim", nope + rope)
    if "n_heads" not in fields:
        if dim % nope:
            raise ConfigError(
                f"n_heads is missing, and qk_nope_head_dim={nope} does not divide dim={dim}; give n_heads, "
                f"such as one of {divisors(dim)}"
            )
        fields["n_heads"] = dim // nope


def names_attention(fields: Mapping[str, Any]) -> bool:
    """Whether the `mixer_pattern` of some fields has attention in it, as it has where none is given."""
    pattern: object = fields.get("mixer_pattern")
    return not is_pattern(pattern) or "attention" in mixers_of([str(word) for word in pattern])


def _set_heads(fields: dict[str, Any]) -> None:
    dim = fields["dim"]
    if not names_attention(fields) and "head_dim" not in fields:
        fields.setdefault("n_heads", 1)
    if "n_heads" not in fields:
        given = "head_dim" in fields
        head_dim = fields.setdefault("head_dim", 128 if dim >= 2048 and dim % 128 == 0 else 64)
        if dim % head_dim:
            what = f"head_dim={head_dim}" if given else "n_heads is missing, and the usual head_dim=64"
            raise ConfigError(
                f"{what} does not divide dim={dim}; give n_heads, such as one of {divisors(dim)}"
            )
        fields["n_heads"] = dim // head_dim
    elif "head_dim" not in fields:
        if dim % fields["n_heads"]:
            raise ConfigError(
                f"n_heads={fields['n_heads']} does not divide dim={dim}; "
                f"give head_dim as well, or use n_heads from {divisors(dim)}"
            )
        fields["head_dim"] = dim // fields["n_heads"]
