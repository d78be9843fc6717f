"""What one Hugging Face config class says, as data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Config = Mapping[str, Any]
"""A config.json with the class's own defaults in place of what it leaves out."""
Rule = Callable[[Config], dict[str, Any]]
"""What several keys decide together: from the config to some of our fields."""

ABSENT: Final = object()
"""The default of a key that the class reads where it is there, but has no value for: null is refused too."""
UNREAD: Final = object()
"""In place of a default: the class, unlike its kin, does not read the key."""
ANY: Final = object()
"""In place of a value: whichever."""


@dataclass(frozen=True)
class Family:
    """How the class of a `model_type` reads its config.

    A key that stands in none of these is one that the class does not read.
    """

    keys: Mapping[str, str]
    """Our field to the class's key; the value is taken as it is."""
    defaults: Mapping[str, Any]
    """The class's default for every key it reads that matters here. Null is taken where it is the default."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Our fields that the class decides and no key changes."""
    derive: tuple[Rule, ...] = ()
    """Our fields that several keys decide together; later rules win."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other spellings of a key that the class accepts; they win over the key, as in the class."""
    nullable: frozenset[str] = frozenset()
    """Keys for which null means something though it is not the default."""
    heads: Literal["divide", "fill", "fit"] = "fill"
    """Without head_dim heads must fill the width: the class refuses others even with it (divide), or has
    defaults of its own that do not fill it, and rounds down (fit)."""
    only: Mapping[str, Any] = field(default_factory=dict)
    """Keys that may have just this value: any other would change the count in a way that is not modelled."""
    unsaid: Mapping[str, Any] = field(default_factory=dict)
    """Keys that change the function, not the count, in a way `ModelConfig` cannot say, unless they have this
    value."""
    wording: Mapping[str, str] = field(default_factory=dict)
    """What is unsaid of a key, where the key and its value do not tell."""
    always_unsaid: tuple[str, ...] = ()
    """What the class computes whatever the keys say, and `ModelConfig` cannot say."""
    usual_rotation: Mapping[str, Any] = field(default_factory=dict)
    """The rotary object of the class, where the config has none."""
    inert: Mapping[str, Any] = field(default_factory=dict)
    """Keys that such files have and the class does not read, and the value that needs no note, or any."""


SIZES: Final = {
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "vocab_size": "vocab_size", "intermediate_size": "intermediate_size",
    "context_length": "max_position_embeddings", "tied": "tie_word_embeddings", "activation": "hidden_act",
    "init_std": "initializer_range",
}  # fmt: skip
"""Keys of most classes since GPT-NeoX."""
LLAMA: Final = SIZES | {
    "n_kv_heads": "num_key_value_heads", "norm_eps": "rms_norm_eps", "head_dim": "head_dim",
    "rope_theta": "rope_theta",
}  # fmt: skip
"""The same of classes since Llama."""
LAYERNORM: Final = {"norm": "layernorm", "norm_bias": True}


def llama_defaults(**others: Any) -> dict[str, Any]:
    """Defaults of a class in the line of Llama, where they are not Llama's own."""
    known = {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": None,
        "head_dim": ABSENT, "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 2048,
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "initializer_range": 0.02, "tie_word_embeddings": False,
        "rope_theta": 10_000.0,
    } | others  # fmt: skip
    return {key: value for key, value in known.items() if value is not UNREAD}


def without(keys: Mapping[str, str], *fields: str) -> dict[str, str]:
    """The keys less those of some fields."""
    return {field: key for field, key in keys.items() if field not in fields}


KINDS: Final[Mapping[str, type]] = {
    "attention_layers": list, "attention_types": list, "attn_config.clip_qkv": float,
    "attn_config.softmax_scale": float, "attn_logit_softcapping": float, "clip_qkv": float,
    "ffn_hidden_size": int, "final_logit_softcapping": float, "head_dim": int, "intermediate_size": int,
    "layer_types": list, "mlp_only_layers": list, "n_group": int, "n_inner": int, "no_rope_layers": list,
    "num_experts_per_tok": int, "num_key_value_heads": int, "num_kv_heads": int,
    "num_ln_in_parallel_attn": int, "sliding_window": int, "topk_group": int, "topk_method": str,
    "use_bidirectional_attention": bool, "word_embed_proj_dim": int,
}  # fmt: skip
"""What a key holds, of those whose default does not tell."""


def kind_of(key: str, default: Any) -> type:
    """The type of a key's value."""
    return KINDS[key] if default is None or default is ABSENT else type(default)
