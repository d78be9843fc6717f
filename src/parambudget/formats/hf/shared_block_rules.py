"""Rules of Zamba and Zamba2: state spaces in every layer, and in some a block of attention and an FFN, shared
with other layers, in front of them."""

from collections.abc import Sequence
from typing import Final

from parambudget.errors import ConfigError
from parambudget.formats.hf.layer_rules import require_one_per_layer, shortest_pattern
from parambudget.formats.hf.rules import read_positive
from parambudget.formats.hf.schema import Config, Fields
from parambudget.formats.hf.state_space_rules import dt_rank, require_inner_width

_KINDS: Final = {"mamba": False, "linear_attention": False, "hybrid": True}
"""What configs call layers, and whether they have a shared block."""
_ZAMBA2_BLOCKS: Final = frozenset({6, 12, 18, 24, 30, 36, 42, 47, 51})
"""The layers of the class's own list that have one, of 54."""
NOT_BUILT: Final = "blocks of attention and an FFN that several layers share"
"""What the module here has not."""


def zamba(c: Config) -> Fields:
    """Zamba: Mamba, and one block that every sixth layer uses. Its class unties it together with the head."""
    uses = _zamba_uses(c)
    n_blocks = 1 if c["tie_word_embeddings"] else len(uses)
    width = c["mamba_expand"] * c["hidden_size"]
    if width % read_positive(c, "n_mamba_heads"):
        raise ConfigError(
            f"n_mamba_heads={c['n_mamba_heads']} does not divide the mixer's width of {width}; change one of "
            "them"
        )
    return (
        _shared_blocks(c, "mamba", uses, n_blocks) | dt_rank(c, "mamba_dt_rank") | {"mamba_inner_size": width}
    )


def _zamba_uses(c: Config) -> list[bool]:
    n_layers, period = c["num_hidden_layers"], read_positive(c, "attn_layer_period")
    places = (at % period == c["attn_layer_offset"] for at in range(n_layers - 3))
    return _uses(c, [False, False, True, *places])


def zamba2(c: Config) -> Fields:
    """Zamba2: Mamba-2, a few blocks in turns, and adapters for each use of their FFN, or of attention too."""
    uses = _zamba2_uses(c)
    n_blocks = read_positive(c, "num_mem_blocks")
    if sum(uses) > n_blocks and not c["tie_word_embeddings"]:
        raise ConfigError(
            "tie_word_embeddings=false makes the class untie its shared blocks too, each with adapters that "
            "it never uses; only true is supported"
        )
    listed = c["hybrid_layer_ids"]
    if listed is not None and listed != [at for at, has in enumerate(uses) if has]:
        raise ConfigError(
            "hybrid_layer_ids are not the layers that layers_block_type calls hybrid; leave them out"
        )
    width, n_heads = c["mamba_expand"] * c["hidden_size"], read_positive(c, "n_mamba_heads")
    head_dim = width // n_heads if c["mamba_headdim"] is None else c["mamba_headdim"]
    require_inner_width(width, n_heads, head_dim)
    adapters = {
        "shared_adapter_rank": read_positive(c, "adapter_rank"),
        "shared_attention_adapters": c["use_shared_attention_adapter"],
    }
    return (
        _shared_blocks(c, "mamba2", uses, n_blocks)
        | (adapters if any(uses) else {})
        | {
            "mamba2_head_dim": head_dim,
            "intermediate_size": c["intermediate_size"] or 4 * c["hidden_size"],
            **({} if c["use_mem_rope"] else {"position": "none"}),
            **({"context_length": 16384} if c["use_long_context"] else {}),
        }
    )


def _zamba2_uses(c: Config) -> list[bool]:
    return _uses(c, [at in _ZAMBA2_BLOCKS for at in range(54)])


def _uses(c: Config, default: Sequence[bool]) -> list[bool]:
    """Which layers have a shared block."""
    kinds = c["layers_block_type"]
    if kinds is None:
        require_one_per_layer("layers_block_type", default, c["num_hidden_layers"])
        return list(default)
    require_one_per_layer("layers_block_type", kinds, c["num_hidden_layers"])
    unknown = [kind for kind in kinds if not isinstance(kind, str) or kind not in _KINDS]
    if unknown:
        raise ConfigError(f"layers_block_type has {unknown[0]!r}; only {' and '.join(_KINDS)} are supported")
    return [_KINDS[kind] for kind in kinds]


def _shared_blocks(c: Config, mixer: str, uses: Sequence[bool], n_blocks: int) -> Fields:
    """The layers, and the heads of the blocks, which attend to the stream and the embedding side by side."""
    width = 2 * c["hidden_size"]
    if c["attention_hidden_size"] not in (None, width):
        raise ConfigError(
            f"attention_hidden_size={c['attention_hidden_size']} is not twice hidden_size, which the class "
            "cannot run; leave it out"
        )
    head_dim = c["attention_head_dim"] or width // c["num_attention_heads"]
    mixers = [f"attention+{mixer}" if used else mixer for used in uses]
    return {
        "mixer_pattern": shortest_pattern(mixers),
        "ffn_pattern": shortest_pattern(["ffn" if used else "none" for used in uses]),
        "head_dim": head_dim,
        **({"n_shared_blocks": min(n_blocks, sum(uses))} if any(uses) else {}),
    }
