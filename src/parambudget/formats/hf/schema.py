"""What a family of Hugging Face models is, as data: how its config is read, what its weights are called.

Every family is one record in `families/`. Nothing here needs torch: `weights.py` implements the layouts.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, get_args

from parambudget.arch.dims import RopeType

Config = Mapping[str, Any]
"""A config.json in which the class's own defaults stand in for missing keys."""
Fields = dict[str, Any]
"""Fields of a `ModelConfig` by name; not necessarily all of them."""
Rule = Callable[[Config], Fields]
"""Fields that depend on several keys of the config."""

ABSENT: Final = object()
"""The default of a key that the class reads if present and has no value for otherwise; null is refused."""
UNREAD: Final = object()
"""In place of a default: this class, unlike related ones, does not read the key."""
ANY: Final = object()
"""In place of a value: any value is fine."""
TOP_K_KEYS: Final = ("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts", "ffn_config.moe_top_k")
"""The classes' keys for the number of experts per token."""
NESTED_OBJECTS: Final = ("attn_config", "ffn_config", "linear_attn_config")
"""Objects in a config.json whose keys are read as `attn_config.KEY`."""
ROPE_TYPES: Final = frozenset(get_args(RopeType)) - {"none"}
"""The rescalings of rotary frequencies that transformers has for every class."""


@dataclass(frozen=True, kw_only=True)
class ConfigSchema:
    """How the class of a `model_type` reads its config.json.

    A key that appears nowhere in the schema is one that the class does not read.
    """

    keys: Mapping[str, str]
    """Fields of ours whose value is a single key of the config: our field to that key."""
    defaults: Mapping[str, Any]
    """The class's default of every key that it reads and that matters here. Null is accepted where it is the
    default."""
    value_types: Mapping[str, tuple[type, ...]] = field(default_factory=dict)
    """Types of keys of which the class accepts several, or others than related classes."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Our fields that are the same for every model of the class."""
    rules: tuple[Rule, ...] = ()
    """Our fields that depend on several keys; later rules win."""
    unsupported_rules: tuple[Callable[[Config], list[str]], ...] = ()
    """What several keys together make the class compute, and `ModelConfig` cannot express."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other spellings of a key that the class accepts; they win over the key, as in the class."""
    nullable: frozenset[str] = frozenset()
    """Keys for which null is accepted although it is not the default."""
    uneven_heads: Literal["need_head_dim", "refuse", "round_down"] = "need_head_dim"
    """What the class does if n_heads does not divide dim: accept it with an explicit head_dim only, refuse it
    always, or round dim / n_heads down."""
    required_values: Mapping[str, Any] = field(default_factory=dict)
    """Keys that must have this value: any other would change the count in a way that is not modelled."""
    unsupported: Mapping[str, Any] = field(default_factory=dict)
    """Keys that change the function but not the count, and that `ModelConfig` cannot express unless they have
    this value."""
    descriptions: Mapping[str, str] = field(default_factory=dict)
    """How a note names an unsupported key where `key=value` would not explain it."""
    always_unsupported: tuple[str, ...] = ()
    """What the class computes regardless of its config and `ModelConfig` cannot express."""
    default_rope_parameters: Mapping[str, Any] = field(default_factory=dict)
    """The class's `rope_parameters` for a config without them."""
    rope_types: frozenset[str] = ROPE_TYPES
    """The rescalings of rotary frequencies with which the class runs."""
    rope_type_aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names of rescalings that the class accepts."""
    rope_recomputes_cache: bool = False
    """Whether generation computes the cache anew where LongRoPE's factors change."""
    object_rotary_share: float | None = None
    """The share of each head that is rotated where an object for a type of layers does not say it, in classes
    that have a share for each."""
    rescales_local_layers: bool = False
    """Whether `rope_scaling` changes the angles of local layers too, where they have their own."""
    rope_only_in_objects: bool = False
    """Whether the class reads rotary bases and rescalings nowhere but in `rope_parameters`."""
    reads_rope_scaling: bool = True
    """Whether the class reads rescalings in the older object `rope_scaling` too."""
    rope_mscales: bool = False
    """Whether LongRoPE's attention factor has keys of its own, one for short and one for long sequences."""
    rotates_fixed_width: bool = False
    """Whether the class cuts each head at the share that is rotated, so that frequencies must be as many."""
    experts_are_optional: bool = False
    """Whether models of the class may have no experts, although `intermediate_size` is their width."""
    rope_scales_queries: bool = False
    """Whether queries grow with their position beyond the original context, by `llama_4_scaling_beta`."""
    exported_layer_words: Mapping[str, str] = field(default_factory=dict)
    """What an export writes in `layer_types` in place of the usual words."""
    ignored_keys: Mapping[str, Any] = field(default_factory=dict)
    """Keys of published configs that the class does not read, each with the value that needs no note."""

    @property
    def has_latent_attention(self) -> bool:
        """Whether the class has multi-head latent attention."""
        return "kv_lora_rank" in self.defaults

    @property
    def has_only_moe_layers(self) -> bool:
        """Whether every layer of the class has experts; its `intermediate_size` is then their width."""
        has_experts = any(key in self.defaults for key in TOP_K_KEYS)
        return has_experts and "intermediate_size" not in self.keys and not self.experts_are_optional

    def accepted_types(self, key: str) -> tuple[type, ...]:
        """The types that a key's value may have, the usual one first."""
        default = self.defaults[key]
        if key in self.value_types:
            return self.value_types[key]
        return (_VALUE_TYPES[key] if default is None or default is ABSENT else type(default),)


_VALUE_TYPES: Final[Mapping[str, type]] = {
    "full_attn_idxs": list, "linear_attn_config.full_attn_layers": list,
    "linear_attn_config.head_dim": int, "linear_attn_config.kda_layers": list,
    "linear_attn_config.num_heads": int, "linear_attn_config.short_conv_kernel_size": int,
    "linear_key_head_dim": int, "linear_num_key_heads": int, "linear_num_value_heads": int,
    "linear_value_head_dim": int, "lru_width": int,
    "attention_hidden_size": int, "attention_layers": list, "attention_multiplier": float,
    "attention_types": list,
    "attn_layer_indices": list, "hybrid_override_pattern": str, "layers_block_type": list,
    "mlp_multipliers": list, "moe_latent_size": int, "position_embedding_type": str, "ssm_multipliers": list,
    "attn_config.clip_qkv": float, "attn_config.softmax_scale": float, "attn_logit_softcapping": float,
    "clip_qkv": float, "ffn_config.ffn_act_fn": dict, "ffn_config.moe_normalize_expert_weights": float,
    "ffn_hidden_size": int, "final_logit_softcapping": float, "head_dim": int, "indexer_types": list,
    "initializer_range": float,
    "intermediate_size": int, "layer_rope_theta": list, "layer_types": list, "mlp_layer_types": list,
    "mlp_only_layers": list, "moe_intermediate_size": int, "moe_layers": list, "n_group": int, "n_inner": int,
    "n_routed_experts": int, "n_shared_experts": int, "no_rope_layers": list,
    "num_attention_heads_per_layer": list, "num_experts": int, "num_experts_per_tok": int,
    "num_global_key_value_heads": int, "num_key_value_heads": int, "num_kv_heads": int,
    "num_ln_in_parallel_attn": int, "output_vocab_size": int, "per_layer_config": dict,
    "prefix_dense_intermediate_size": int, "q_lora_rank": int, "rms_norm_eps": float, "rotary_dim": int,
    "sliding_window": int, "sliding_window_size": int, "sparse_attention_config": dict,
    "top_k_experts": int, "topk_group": int,
    "topk_method": str, "use_bidirectional_attention": bool, "v_head_dim": int, "word_embed_proj_dim": int,
}  # fmt: skip
"""The types of keys whose default does not reveal them."""

PartNames = str | tuple[str, ...]
"""Our name, or names, for what the class stores under one name.

Names are those of modules, which have a `weight` and possibly a `bias`, or of single tensors. A `*` runs over
experts or heads; where only our name has one, the class stores all of them in one tensor.
"""


@dataclass(frozen=True)
class Either:
    """Our names for what the class calls alike in layers of two kinds, of which a layer has one."""

    first: PartNames
    second: PartNames


TensorNames = PartNames | Either
"""Our names for what the class stores under one name."""

Layout = Literal[
    "concat", "single_row", "concat_transposed", "transposed", "per_group_qkv", "codegen_qkv",
    "stacked_experts", "stacked_experts_transposed", "interleaved_experts", "swapped_halves", "per_head",
    "per_key_head", "convolution", "one_per_head", "one_per_channel",
]  # fmt: skip
"""How a class stores tensors of ours as one.

concat                one below the other; a single tensor as it is
single_row            (1, n): the corrections of Ernie 4.5
concat_transposed     one below the other, each as (in, out): the down projections of DBRX
transposed            one beside the other, (in, out): the Conv1D of GPT-2; block by block: RG-LRU
per_group_qkv         group by group: the queries that share a key, the key, the value
per_head              head by head: its query, the gate of its output
per_key_head          the same by the key heads of a gated delta net
one_per_head          (1, 1, heads, 1): the rates of Kimi Linear
one_per_channel       (1, 1, channels): the token shifts of RWKV
convolution           (channels, 1, kernel width), as torch's convolutions
codegen_qkv           four blocks, each with the queries, values and keys of a quarter of the heads
stacked_experts       (experts, out, in), the gate above the up projection
stacked_experts_transposed
                      (experts, in, out), the gate left of the up projection: Aria
swapped_halves        the halves of each head swapped: nanochat, which rotates the other way round
interleaved_experts   (experts, in, out), columns of gate and up projection alternating: gpt-oss
"""


@dataclass(frozen=True, kw_only=True)
class WeightNames:
    """What the files of a class call its tensors: their names to ours."""

    top: Mapping[str, TensorNames]
    """Tensors outside the layers."""
    layers: str
    """The prefix of the layers, such as "model.layers"."""
    block: Mapping[str, TensorNames]
    """Tensors of a layer, without the prefix."""
    base: str
    """The prefix that files of the model without an output head leave out, such as "model."."""
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    """By their name without prefix; "concat" where nothing is given."""
    mixer_block: Mapping[str, TensorNames] | None = None
    """Replaces `block` in layers that have another mixer in place of attention."""
    parallel_block: Mapping[str, TensorNames] | None = None
    """Replaces `block` in models whose attention and FFN run in parallel, each behind its own norm."""
    norm_offset: int = 0
    """Added to a stored norm weight to get ours: 1 where the class multiplies by 1 + weight."""
    separate_head_norms: bool = False
    """Whether norms on queries and keys are one tensor per head."""
    separate_convolutions: bool = False
    """Whether the convolutions of a delta net's queries, keys and values are one tensor each."""
    alternatives: tuple["WeightNames", ...] = ()
    """Other names that files of the class may have; they are read, not written."""

    def layout(self, name: str) -> Layout:
        """How the class stores ours under its name, given without prefix."""
        return self.layouts.get(name, "concat")

    def variants(self) -> Iterator["WeightNames"]:
        """All names that files of the class may have; the first are the ones that are written."""
        for names in (self, *self.alternatives):
            yield names
            yield replace(
                names,
                top={name.removeprefix(names.base): ours for name, ours in names.top.items()},
                layers=names.layers.removeprefix(names.base),
            )


@dataclass(frozen=True, kw_only=True)
class Family:
    """All that is known about one `model_type`."""

    model_class: str | None
    """Its class in transformers, to which models are exported. None for remote code: it is imported only."""
    config: ConfigSchema
    weights: WeightNames | None = None
    """None for a class whose function is not built, so that weights of it are neither read nor written."""
    dropout_keys: tuple[str, ...] = ()
    """Keys of dropout that an export sets to 0, because the class's own default is 0.1."""
    token_keys: tuple[str, ...] = ("bos_token_id", "eos_token_id", "pad_token_id")
    """Keys of tokens that an export sets to null, as the class accepts it."""
    unused_keys: tuple[str, ...] = ()
    """Keys that no import reads and an export writes: the class fails without them, or rounds less with
    them."""


COMMON_KEYS: Final = {
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "vocab_size": "vocab_size", "intermediate_size": "intermediate_size",
    "context_length": "max_position_embeddings", "tied": "tie_word_embeddings", "activation": "hidden_act",
    "init_std": "initializer_range",
}  # fmt: skip
"""Keys of most classes since GPT-NeoX."""
LLAMA_KEYS: Final = COMMON_KEYS | {
    "n_kv_heads": "num_key_value_heads", "norm_eps": "rms_norm_eps", "head_dim": "head_dim",
    "rope_theta": "rope_theta",
}  # fmt: skip
"""Keys of most classes since Llama."""
LAYERNORM: Final = {"norm": "layernorm", "norm_bias": True}


def llama_defaults(**others: Any) -> dict[str, Any]:
    """Llama's defaults, with those of another class in its tradition that differ."""
    known = {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": None,
        "head_dim": ABSENT, "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 2048,
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "initializer_range": 0.02, "tie_word_embeddings": False,
        "rope_theta": 10_000.0,
    } | others  # fmt: skip
    return {key: value for key, value in known.items() if value is not UNREAD}


def without_fields(keys: Mapping[str, str], *fields: str) -> dict[str, str]:
    """The keys without those of some fields."""
    return {field: key for field, key in keys.items() if field not in fields}


ATTENTION: Final[Mapping[str, TensorNames]] = {
    "self_attn.q_proj": "attention.q", "self_attn.k_proj": "attention.k", "self_attn.v_proj": "attention.v",
    "self_attn.o_proj": "attention.out",
}  # fmt: skip
QK_NORMS: Final[Mapping[str, TensorNames]] = {
    "self_attn.q_norm": "attention.q_norm", "self_attn.k_norm": "attention.k_norm",
}  # fmt: skip
GATED_MLP: Final[Mapping[str, TensorNames]] = {
    "mlp.gate_proj": "ffn.gate", "mlp.up_proj": "ffn.up", "mlp.down_proj": "ffn.down",
}  # fmt: skip
FUSED_GATED_MLP: Final[Mapping[str, TensorNames]] = {
    "mlp.gate_up_proj": ("ffn.gate", "ffn.up"), "mlp.down_proj": "ffn.down",
}  # fmt: skip
PLAIN_MLP: Final[Mapping[str, TensorNames]] = {"mlp.up_proj": "ffn.up", "mlp.down_proj": "ffn.down"}
PRE_NORMS: Final[Mapping[str, TensorNames]] = {
    "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
POST_NORMS: Final[Mapping[str, TensorNames]] = {
    "post_attention_layernorm": "attention_out_norm", "post_feedforward_layernorm": "ffn_out_norm",
}  # fmt: skip
LLAMA_WEIGHTS: Final = WeightNames(
    top={"model.embed_tokens": "embed", "model.norm": "norm", "lm_head": "lm_head"},
    layers="model.layers",
    block={**ATTENTION, **GATED_MLP, **PRE_NORMS},
    base="model.",
)


def llama_weights(
    *blocks: Mapping[str, TensorNames], layouts: Mapping[str, Layout] | None = None, norm_offset: int = 0
) -> WeightNames:
    """Llama's names outside the layers, with other names within a layer."""
    block = {theirs: ours for part in blocks for theirs, ours in part.items()}
    return replace(LLAMA_WEIGHTS, block=block, layouts=layouts or {}, norm_offset=norm_offset)
