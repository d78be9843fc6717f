"""What one Hugging Face config class says, as data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Config = Mapping[str, Any]
"""A config.json with the class's own defaults in place of what it leaves out."""


@dataclass(frozen=True)
class Family:
    """How the class of a `model_type` reads its config.

    A key that stands in none of these is one that the class does not read, or that changes nothing here.
    """

    keys: Mapping[str, str]
    """Our field to the class's key; the value is taken as it is."""
    defaults: Mapping[str, Any]
    """The class's default for every key it reads that matters here."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Our fields that the class decides and no key changes."""
    derive: Callable[[Config], dict[str, Any]] | None = None
    """Our fields that several keys decide together."""
    only: Mapping[str, Any] = field(default_factory=dict)
    """Keys that may have just this value: any other would change the count in a way that is not modelled."""
    unsaid: Mapping[str, Any] = field(default_factory=dict)
    """Keys that change the function, not the count, in a way `ModelConfig` cannot say, unless they have this
    value."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other spellings of a key that the class accepts."""


SIZES: Final = {
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "vocab_size": "vocab_size", "intermediate_size": "intermediate_size",
    "context_length": "max_position_embeddings", "tied": "tie_word_embeddings", "activation": "hidden_act",
    "init_std": "initializer_range",
}  # fmt: skip
"""Keys of most classes since GPT-NeoX."""
ROPE: Final = {"rope_theta": 10_000.0, "rope_scaling": None, "rope_parameters": None}
LAYERNORM: Final = {"norm": "layernorm", "norm_bias": True}
