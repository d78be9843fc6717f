"""A complete decoder-only transformer: every size and every choice, validated once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import sqrt
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Final, Self, Unpack

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from parambudget._files import write_json
from parambudget._json_types import SchemaOf
from parambudget.arch import dims
from parambudget.arch.blocks import BranchMultipliers, CountedParts, IndexerConfig, MLAConfig, MoEConfig
from parambudget.arch.dims import (
    ActivationName,
    AttentionGate,
    AttentionSpan,
    BlockLayout,
    Dims,
    FFNUse,
    GateActivation,
    LayerMixer,
    MixerKind,
    NormPlacement,
    NormType,
    PositionEncoding,
    QKNormScope,
    QueryScale,
    RotaryUse,
    WindowKind,
    is_pattern,
    mixers_of,
)
from parambudget.arch.fields import ModelFields
from parambudget.arch.mixers.config import (
    GatedDeltaNetConfig,
    LightningAttentionConfig,
    Mamba2Config,
    MambaConfig,
    RGLRUConfig,
    RWKVConfig,
    ShortConvolutionConfig,
)
from parambudget.arch.rope_scaling import RopeScaling
from parambudget.arch.synonyms import with_our_names
from parambudget.arch.validation import (
    LARGEST_SIZE,
    PATTERN,
    LayerCount,
    NonNegativeSize,
    PositiveFloat,
    PositiveSize,
    Share,
    divisors,
    format_validation_error,
    plain_numbers,
)
from parambudget.errors import ConfigError

MIXERS: Final[dict[MixerKind, type[BaseModel]]] = {
    "gated_delta_net": GatedDeltaNetConfig, "short_convolution": ShortConvolutionConfig,
    "lightning_attention": LightningAttentionConfig, "rg_lru": RGLRUConfig, "rwkv": RWKVConfig,
    "mamba": MambaConfig, "mamba2": Mamba2Config,
}  # fmt: skip
"""The blocks of mixers other than attention."""
BLOCKS: Final[dict[str, type[BaseModel]]] = {
    "moe": MoEConfig, "mla": MLAConfig, "indexer": IndexerConfig, "rope_scaling": RopeScaling,
    "multipliers": BranchMultipliers, "counted_parts": CountedParts,
    **{str(kind): block for kind, block in MIXERS.items()},
}  # fmt: skip
"""The field that holds each block, and the block's class."""


def nest_blocks(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with those of the blocks, given by their own names, moved into their blocks."""
    whole = plain_numbers(fields)
    for name, block in BLOCKS.items():
        own = {key: whole.pop(key) for key in block.model_fields if key in whole}
        given = whole.get(name)
        if isinstance(given, BaseModel | Mapping):
            whole[name] = plain_numbers(dict(given)) | own
        elif own and given is None:
            whole[name] = own
        if name == "rope_scaling" and "rope_type" in own:
            whole[name] = _of_another_type(dict(given or {}), own)
    return whole


def without_unnamed_mixers(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a model without the sizes of mixers that a `mixer_pattern` among the changes does not
    name: they have no use any more."""
    pattern: object = changes.get("mixer_pattern")
    if not is_pattern(pattern):
        return dict(fields)
    named = mixers_of([str(word) for word in pattern])
    dropped = {name for kind in MIXERS if kind not in named for name in (kind, *MIXERS[kind].model_fields)}
    return {name: value for name, value in fields.items() if name not in dropped}


def _of_another_type(given: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any] | None:
    """The block with its type given anew: what another type needed is dropped, and "none" drops the block."""
    if own["rope_type"] == "none":
        if len(own) > 1:
            name = next(name for name in own if name != "rope_type")
            raise ConfigError(f"{name} has no meaning with rope_type='none'; leave it out")
        return None
    return (dict(given) if own["rope_type"] == given.get("rope_type") else {}) | dict(own)


def flat_fields(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a model, each by its own name; those of the blocks it has come last."""
    whole = dict(fields)
    blocks = [block for name in BLOCKS if (block := whole.pop(name, None)) is not None]
    return whole | {name: value for block in blocks for name, value in block}


class ModelConfig(BaseModel):
    """Everything that is needed to count, build and train one model.

    Frozen, strict (no "768" for 768) and closed (an unknown field is an error). Every size is given here; use
    `parambudget.model` or `arch.defaults.with_defaults` to get conventional values for the rest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    # Sizes
    dim: PositiveSize = Field(description="Model width: the size of the residual stream.")
    n_layers: LayerCount = Field(description="Transformer blocks.")
    n_heads: PositiveSize = Field(description="Query heads.")
    n_kv_heads: PositiveSize = Field(
        description=(
            "Key/value heads: n_heads for multi-head attention, 1 for multi-query, a divisor in between for "
            "grouped-query."
        ),
    )
    head_dim: PositiveSize = Field(description="Width of one head; need not be dim / n_heads.")
    value_head_dim: PositiveSize | None = Field(
        default=None,
        description="Width of one head's values; unless set, that of its keys (MiMo-V2-Flash: 128).",
    )
    global_n_heads: PositiveSize | None = Field(
        default=None, description="Query heads in global layers; unless set, n_heads (Laguna)."
    )
    global_n_kv_heads: PositiveSize | None = Field(
        default=None, description="Key/value heads in global layers; unless set, n_kv_heads (Gemma 4 31B: 4)."
    )
    global_head_dim: PositiveSize | None = Field(
        default=None, description="Width of one head in global layers; unless set, head_dim (Gemma 4: 512)."
    )
    n_kv_shared_layers: NonNegativeSize = Field(
        default=0,
        description=(
            "Last layers without keys and values of their own: they use those of the last layer of their "
            "kind before them (Gemma 3n E4B: 15)."
        ),
    )
    intermediate_size: PositiveSize = Field(description="Inner width of the feed-forward network (FFN).")
    kv_shared_ffn_factor: PositiveSize = Field(
        default=1,
        description=(
            "How many times intermediate_size the FFN of layers without keys of their own is wide (Gemma 4 "
            "E2B: 2)."
        ),
    )
    vocab_size: PositiveSize = Field(default=50257, description="Rows of the token embedding, unpadded.")
    context_length: PositiveSize = Field(
        default=1024, description="Longest sequence, in tokens; adds parameters only with learned positions."
    )

    # Choices that change the tensors
    tied: bool = Field(default=True, description="Use one matrix for token embedding and output head.")
    position: PositionEncoding = Field(
        default="rotary",
        description=(
            "Position encoding: rotary, a learned table, fixed sines and cosines added to the embeddings, "
            "biases on the attention scores (ALiBi), or none. Only the learned table has parameters."
        ),
    )
    position_offset: NonNegativeSize = Field(
        default=0,
        description="Unused rows at the start of a table of learned or sinusoidal positions (OPT: 2).",
    )
    embedding_dim: PositiveSize | None = Field(
        default=None,
        description="Width of the token embedding where it is projected to dim and back (OPT-350M: 512).",
    )
    per_layer_embedding_dim: PositiveSize | None = Field(
        default=None,
        description=(
            "Width of the embedding of each token that every layer has for itself, gated and projected to "
            "dim there; unless set, none (Gemma 3n: 256)."
        ),
    )
    per_layer_vocab_size: PositiveSize | None = Field(
        default=None, description="Rows of these embeddings; unless set, vocab_size (Gemma 3n: 262144)."
    )
    embedding_norm: bool = Field(default=False, description="Normalize the token embeddings (BLOOM).")
    norm: NormType = Field(default="rmsnorm", description="Type of every norm.")
    norm_weight: bool = Field(
        default=True, description="Give norms a learned scale; without it they have no parameters (OLMo-1)."
    )
    norm_bias: bool = Field(default=False, description="Give norms a learned shift (layernorm only).")
    norm_placement: NormPlacement = Field(
        default="pre",
        description=(
            "Pre: x + f(norm(x)). Post: norm(x + f(x)), the original transformer. Reordered: x + "
            "norm(f(x)), OLMo 2. Sandwich: x + norm(f(norm(x))), Gemma 2. Stream: norm(x) + f(norm(x)), "
            "MiniMax-01."
        ),
    )
    mixer_pre_norm: bool = Field(
        default=False,
        description=(
            "Norms before the branches in layers with another mixer than attention, where the others have "
            "theirs behind (OLMo Hybrid)."
        ),
    )
    final_norm: bool = Field(default=True, description="Normalize before the output head.")
    block: BlockLayout = Field(
        default="sequential",
        description=(
            "Attention, then FFN; both in parallel (GPT-NeoX); or both in parallel after one shared norm "
            "(GPT-J, Falcon-7B)."
        ),
    )
    qk_norm: QKNormScope = Field(
        default="none",
        description=(
            "Norm on queries and keys: head has one scale that all heads share (Qwen3), per-head one for "
            "each (Cohere), full one over all heads together (OLMo 2), and l2 none, on rotated heads only "
            "(Llama 4)."
        ),
    )
    qk_norm_bias: bool | None = Field(
        default=None,
        description="Give the norms on queries and keys a shift; unless set, as norm_bias (StableLM: none).",
    )
    qk_norm_after_rotation: bool = Field(
        default=False, description="Normalize queries and keys behind their rotation (HunYuan)."
    )
    value_norm: bool = Field(
        default=False, description="Normalize the values of each head, without a scale (Gemma 4)."
    )
    sub_norms: bool = Field(
        default=False,
        description=(
            "Normalize what enters the last projections of attention and FFN, over its whole width (BitNet)."
        ),
    )
    differential_attention: bool = Field(
        default=False,
        description=(
            "Subtract the attention of one half of the heads from that of the other, times a learned factor; "
            "each head has the values of two, normalized without a scale (DiffLlama)."
        ),
    )
    global_keys_as_values: bool = Field(
        default=False,
        description=(
            "Use the projected keys of global layers as their values too, without a projection (Gemma 4 31B)."
        ),
    )
    attention_sinks: bool = Field(
        default=False,
        description="Give each head a learned score that absorbs attention and adds no value (gpt-oss).",
    )
    attention_gate: AttentionGate = Field(
        default="none",
        description=(
            "Multiply the output of attention by learned gates of its input: element has one for each "
            "element (Qwen3-Next), head one for each head (Laguna)."
        ),
    )
    attention_gate_biased: bool = Field(
        default=False, description="Bias on the projection of these gates (Qwen3-Next, as its queries)."
    )
    attention_gate_activation: GateActivation = Field(
        default="sigmoid", description="Function of these gates (Laguna: softplus)."
    )
    mixer_pattern: Annotated[tuple[LayerMixer, ...], PATTERN] = Field(
        default=("attention",),
        description=(
            "What mixes tokens in each layer, as a pattern repeated from the first layer on: three "
            "gated_delta_net, then attention (Qwen3-Next). attention+mamba2 is both side by side "
            "(Falcon-H1). Layers with none have an FFN alone."
        ),
    )
    ffn_pattern: Annotated[tuple[FFNUse, ...], PATTERN] = Field(
        default=("ffn",),
        description=(
            "Which layers have an FFN or experts, as a pattern repeated from the first layer on; layers with "
            "none have a mixer alone (Mamba)."
        ),
    )
    local_sinks: bool = Field(
        default=False, description="Give the heads of local layers, and only those, sinks (MiMo-V2-Flash)."
    )
    layer_scale: bool = Field(
        default=False,
        description="Multiply the stream behind each layer by a number that is not trained (Gemma 4).",
    )
    gated: bool = Field(
        default=True,
        description=(
            "Use a gated FFN of three matrices, down(act(gate(x)) * up(x)), instead of two, down(act(up(x)))."
        ),
    )
    channel_mix: bool = Field(
        default=False,
        description=(
            "Mix what enters an FFN with the token before it, and multiply what leaves it by a sigmoid gate "
            "of such a mix (RWKV)."
        ),
    )
    qkv_bias: bool = Field(default=False, description="Bias on the query, key and value projections.")
    attention_out_bias: bool = Field(default=False, description="Bias on the attention output projection.")
    ffn_bias: bool = Field(default=False, description="Bias on every FFN projection.")
    head_bias: bool = Field(default=False, description="Bias on the output head.")

    # Choices that change the function, not the tensors
    activation: ActivationName = Field(
        default="silu",
        description=(
            "FFN activation. Gated silu is SwiGLU and gated gelu GeGLU; quick_gelu is x * sigmoid(1.702 x), "
            "relu2 the square of ReLU. xielu learns two strengths in each FFN without gate (Apertus)."
        ),
    )
    ffn_clamp: PositiveFloat | None = Field(
        default=None,
        description="Clamp the gate to at most X and up to -X..X, then add 1 to up (gpt-oss: 7).",
    )
    window: PositiveSize | None = Field(
        default=None,
        description="Tokens that a query sees in local layers, itself included; unless set, all.",
    )
    window_pattern: Annotated[tuple[AttentionSpan, ...], PATTERN] = Field(
        default=("local",),
        description=(
            "Which layers are local (see window), as a pattern repeated from the first layer on: "
            "local,global is every other layer (Gemma 2)."
        ),
    )
    window_kind: WindowKind = Field(
        default="sliding",
        description=(
            "Which tokens: the last ones, or those since the last multiple of window (chunked, Llama 4)."
        ),
    )
    sinusoidal_theta: PositiveFloat = Field(
        default=10_000.0, description="Base of the frequencies of sinusoidal positions."
    )
    query_scale: QueryScale = Field(
        default="none",
        description=(
            "Factor on queries that grows with their position p, where some layers are rotary in the others "
            "only: with strength s and length l, 1 + s log(1 + floor(p / l)) (log, Ministral 3), the same "
            "of p + 1 (log_next, Llama 4), or (1 + p / l)^s (power, Beam)."
        ),
    )
    query_scale_strength: PositiveFloat = Field(default=0.1, description="How much query_scale grows.")
    query_scale_length: PositiveSize = Field(default=8192, description="Tokens over which query_scale grows.")
    rope_theta: PositiveFloat = Field(default=10_000.0, description="Base of the rotary frequencies.")
    rope_theta_local: PositiveFloat | None = Field(
        default=None,
        description="Base of the rotary frequencies in local layers; unless set, rope_theta (Gemma 3: 1e4).",
    )
    rotary_pattern: Annotated[tuple[RotaryUse, ...], PATTERN] = Field(
        default=("rotary",),
        description=(
            "Which layers have rotary positions, as a pattern repeated from the first layer on, such as "
            "rotary,rotary,rotary,none (SmolLM3)."
        ),
    )
    rotary_fraction: Share = Field(
        default=1.0,
        description="Share of head_dim (or of qk_rope_head_dim) that is rotated (GPT-NeoX: 0.25).",
    )
    rotary_fraction_local: Share | None = Field(
        default=None,
        description="Share that is rotated in local layers; unless set, rotary_fraction (Laguna: 1).",
    )
    rotary_interleaved: bool = Field(
        default=False,
        description=(
            "Rotate neighbouring elements as pairs (GPT-J, Cohere, GLM, DeepSeek) instead of elements half "
            "the width apart."
        ),
    )
    norm_eps: PositiveFloat = Field(default=1e-5, description="Added to the variance in every norm.")
    logit_multiplier: PositiveFloat = Field(
        default=1.0, description="Factor on the logits, before any soft cap (Cohere: 1/16)."
    )
    logit_softcap: PositiveFloat | None = Field(
        default=None, description="Soft cap on the logits: cap * tanh(logits / cap) (Gemma 2: 30)."
    )
    embedding_multiplier: PositiveFloat = Field(
        default=1.0, description="Factor on the token embeddings (Gemma: sqrt(dim))."
    )
    residual_multiplier: PositiveFloat = Field(
        default=1.0, description="Factor on every branch before it is added to the residual stream (Granite)."
    )
    stream_multiplier: PositiveFloat = Field(
        default=1.0,
        description="Factor on the residual stream where a branch is added to it (MiniMax-Text-01: 3.56).",
    )
    attention_multiplier: PositiveFloat | None = Field(
        default=None, description="Factor on the attention scores; unless set, 1 / sqrt(head_dim)."
    )
    value_multiplier: PositiveFloat = Field(
        default=1.0, description="Factor on the values of attention (MiMo-V2-Flash: 0.707)."
    )
    attention_softcap: PositiveFloat | None = Field(
        default=None, description="Soft cap on the attention scores: cap * tanh(scores / cap) (Gemma 2: 50)."
    )
    qkv_clip: PositiveFloat | None = Field(
        default=None, description="Clamp queries, keys and values to at most this, up or down (MPT, OLMo)."
    )
    init_std: PositiveFloat = Field(
        default=0.02,
        description=(
            "Standard deviation of the initial weights; output projections get init_std / sqrt(2 * n_layers)."
        ),
    )
    zero_init_out: bool = Field(
        default=False,
        description=(
            "Start the output projections of attention and FFN at zero, so that every block starts as the "
            "identity."
        ),
    )

    # Optional blocks
    moe: MoEConfig | None = Field(default=None, description="Mixture of experts instead of one FFN.")
    mla: MLAConfig | None = Field(default=None, description="Multi-head latent attention.")
    indexer: IndexerConfig | None = Field(
        default=None, description="Sparse attention: each query attends to the keys that an indexer chooses."
    )
    rope_scaling: RopeScaling | None = Field(
        default=None, description="Rotary angles rescaled for a longer context; they have no parameters."
    )
    multipliers: BranchMultipliers | None = Field(
        default=None, description="Factors on what enters and leaves the branches (Falcon-H1)."
    )
    counted_parts: CountedParts | None = Field(
        default=None, description="Parts of published models that are counted, and not built."
    )
    gated_delta_net: GatedDeltaNetConfig | None = Field(
        default=None, description="Linear attention by the gated delta rule, in the layers of mixer_pattern."
    )
    short_convolution: ShortConvolutionConfig | None = Field(
        default=None, description="Gated short convolutions, in the layers of mixer_pattern."
    )
    lightning_attention: LightningAttentionConfig | None = Field(
        default=None, description="Linear attention with constant decays, in the layers of mixer_pattern."
    )
    rg_lru: RGLRUConfig | None = Field(
        default=None, description="Gated linear recurrences, in the layers of mixer_pattern."
    )
    rwkv: RWKVConfig | None = Field(
        default=None, description="Weighted means that decay (RWKV-4), in the layers of mixer_pattern."
    )
    mamba: MambaConfig | None = Field(
        default=None, description="Selective state spaces (Mamba), in the layers of mixer_pattern."
    )
    mamba2: Mamba2Config | None = Field(
        default=None,
        description="State spaces with heads (Mamba-2), in the layers of mixer_pattern.",
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        error = next(_consistency_errors(self), None)
        if error is not None:
            raise ValueError(error)
        return self

    @property
    def out_init_std(self) -> float:
        """Standard deviation of the initial weights of output projections."""
        return 0.0 if self.zero_init_out else self.init_std / sqrt(2 * self.n_layers)

    @property
    def rotary_dim(self) -> int:
        """Elements of each head that are rotated; where layers differ, in those with a window."""
        return self.rotary_width(local=self.n_local_layers > 0)

    def rotary_width(self, *, local: bool) -> int:
        """Elements of each head that are rotated in layers with a window (`local`) or without."""
        head_dim = self.mla.qk_rope_head_dim if self.mla else dims.heads_of(self, local=local)[2]
        own = self.rotary_fraction_local if local else None
        return int(head_dim * (self.rotary_fraction if own is None else own))

    @property
    def rotary_scale(self) -> float:
        """What rotated queries and keys are multiplied by."""
        return 1.0 if self.rope_scaling is None else self.rope_scaling.attention_factor(self.context_length)

    @property
    def stretches(self) -> bool:
        """Whether sequences longer than context_length are defined: rotary angles adapt to the length."""
        return self.rope_scaling is not None and self.rope_scaling.rope_type == "dynamic"

    @property
    def longest_generation(self) -> int:
        """Tokens of the longest text to generate: context_length, or what dynamic angles stretch it to."""
        stretch = self.rope_scaling.rope_factor if self.stretches and self.rope_scaling else None
        return int(self.context_length * min(max(stretch or 1.0, 1.0), LARGEST_SIZE))

    @property
    def kv_group(self) -> int:
        """Query heads per key/value head."""
        return self.n_heads // self.n_kv_heads

    def heads(self, layer: int) -> tuple[int, int, int]:
        """The query and key/value heads of that layer, counted from 0: how many, and how wide."""
        return dims.heads_of(self, local=self.is_local(layer))

    @property
    def embedding_width(self) -> int:
        """Width of a row of the token embedding, and of what the output head multiplies."""
        return int(dims.embedding_width(self))

    @property
    def active_ffn_width(self) -> int:
        """Width of the FFN that one token passes through, in layers with experts that of its experts
        together."""
        return int(dims.active_ffn_width(self))

    @property
    def n_attention_layers(self) -> int:
        """Layers with attention."""
        return int(dims.n_attention_layers(self, self.n_layers))

    @property
    def n_mixer_layers(self) -> int:
        """Layers with a mixer other than attention."""
        return int(dims.n_mixer_layers(self, self.n_layers))

    @property
    def n_mixing_layers(self) -> int:
        """Layers with attention or another mixer."""
        return int(dims.n_mixing_layers(self, self.n_layers))

    @property
    def n_ffn_layers(self) -> int:
        """Layers with an FFN, experts included."""
        return int(dims.n_ffn_layers(self, self.n_layers))

    @property
    def n_local_layers(self) -> int:
        """Layers whose queries see a window."""
        return int(dims.n_local_layers(self, self.n_layers))

    @property
    def n_global_layers(self) -> int:
        """Layers whose queries see all tokens before them."""
        return self.n_attention_layers - self.n_local_layers

    @property
    def n_kv_shared_local_layers(self) -> int:
        """Layers with a window that use the keys and values of an earlier one."""
        return int(dims.n_kv_shared_local_layers(self, self.n_layers))

    @property
    def n_kv_shared_global_layers(self) -> int:
        """Layers without a window that use the keys and values of an earlier one."""
        return int(dims.n_kv_shared_global_layers(self, self.n_layers))

    def is_local(self, layer: int) -> bool:
        """Whether that layer, counted from 0, has the window."""
        return dims.is_local(self, layer)

    def shares_keys(self, layer: int) -> bool:
        """Whether that layer, counted from 0, uses the keys and values of an earlier one."""
        return dims.shares_keys(self, layer)

    def lends_keys(self, layer: int) -> bool:
        """Whether later layers use the keys and values of that layer, counted from 0."""
        return dims.lends_keys(self, layer)

    def scales_queries(self, layer: int) -> bool:
        """Whether the queries of that layer, counted from 0, are scaled by their positions."""
        return dims.scales_queries(self, layer)

    def rotates(self, layer: int) -> bool:
        """Whether that layer, counted from 0, has rotary positions."""
        return dims.is_rotary(self, layer)

    @property
    def n_moe_layers(self) -> int:
        """Layers with experts."""
        return int(dims.n_moe_layers(self, self.n_layers))

    @property
    def n_block_indexed_layers(self) -> int:
        """Layers with an indexer of blocks."""
        return int(dims.n_block_indexed_layers(self, self.n_layers))

    @property
    def n_indexed_layers(self) -> int:
        """Layers with an indexer of their own."""
        return int(dims.n_indexed_layers(self, self.n_layers))

    @property
    def n_dense_layers(self) -> int:
        """Layers with one FFN."""
        return self.n_ffn_layers - self.n_moe_layers

    def has_experts(self, layer: int) -> bool:
        """Whether that layer, counted from 0, has experts."""
        return dims.has_experts(self, layer)

    def has_attention(self, layer: int) -> bool:
        """Whether that layer, counted from 0, has attention."""
        return dims.has_attention(self, layer)

    def has_mixing(self, layer: int) -> bool:
        """Whether that layer, counted from 0, has attention or another mixer."""
        return dims.has_mixing(self, layer)

    @property
    def mixer(self) -> BaseModel | None:
        """The block of the mixer other than attention, if there is one."""
        return next((block for kind in MIXERS if (block := getattr(self, kind)) is not None), None)

    def mixer_kind(self, layer: int) -> MixerKind | None:
        """The mixer of that layer, counted from 0, if it has another than attention."""
        return dims.mixer_kind(self, layer)

    def has_ffn(self, layer: int) -> bool:
        """Whether that layer, counted from 0, has an FFN, experts included."""
        return dims.has_ffn(self, layer)

    def has_indexer(self, layer: int) -> bool:
        """Whether that layer, counted from 0, has an indexer of its own."""
        return dims.has_indexer(self, layer)

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """The fields as plain JSON values, patterns as lists, unless `mode` says otherwise."""
        return super().model_dump(**{"mode": "json"} | options)

    def replace(self, **changes: Unpack[ModelFields]) -> Self:
        """A validated copy; fields of the blocks go by their own names. (pydantic's `model_copy(update=...)`
        would not validate.) A `mixer_pattern` without the model's mixer drops the sizes of that."""
        named = with_our_names(changes, KEYWORDS)
        return type(self).read(nest_blocks(without_unnamed_mixers(self.model_dump(), named) | named))

    def save(self, path: str | PathLike[str]) -> None:
        """Write a config file, which every command and verb takes in place of a model."""
        write_json(Path(path), {"model": self.model_dump()})

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """A model from a complete set of fields; raises a `ConfigError` of one line, not pydantic's."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise ConfigError(format_validation_error(error, cls)) from None


def require_module(m: Dims) -> None:
    """Refuse a model with parts that are counted and not built."""
    if m.counted_parts is None:
        return
    fields = CountedParts.model_fields
    parts = [name for name, info in fields.items() if getattr(m.counted_parts, name) != info.default]
    raise ConfigError(
        f"a model with {', '.join(parts)} is counted and not built, so it cannot be trained or exported, "
        "nor its training planned; use `count`, or leave them out"
    )


ModelDocument = Annotated[dict[str, Any], SchemaOf(ModelConfig)]
"""A model as `model_dump` returns it."""
FIELDS: Final[dict[str, FieldInfo]] = {
    **{name: info for name, info in ModelConfig.model_fields.items() if name not in BLOCKS},
    **{name: info for block in BLOCKS.values() for name, info in block.model_fields.items()},
}
"""Every field by its own name, those of the blocks last."""
KEYWORDS: Final = frozenset({*FIELDS, *BLOCKS})
"""What a model can be given by keyword."""


def _consistency_errors(m: ModelConfig) -> Iterator[str]:
    """Contradictions in a model whose fields are each valid by themselves."""
    yield from _attention_errors(m)
    if m.indexer is not None:
        yield from _indexer_errors(m, m.indexer)
    yield from _norms_errors(m)
    yield from _embeddings_errors(m)
    yield from _patterns_errors(m)
    yield from _mixers_errors(m)
    if m.moe and not m.n_moe_layers:
        yield (
            f"no layer of n_layers={m.n_layers} has experts (n_first_dense={m.moe.n_first_dense}, "
            f"moe_pattern={','.join(m.moe.moe_pattern)}); change one of them or leave out the experts"
        )
    yield from _heads_of_kinds_errors(m)
    yield from _shared_keys_errors(m)
    if m.counted_parts is not None:
        yield from _counted_parts_errors(m, m.counted_parts)
    if m.position == "rotary":
        yield from _rotary_positions_errors(m)


def _attention_errors(m: ModelConfig) -> Iterator[str]:
    if m.n_heads % m.n_kv_heads:
        yield (
            f"n_kv_heads={m.n_kv_heads} does not divide n_heads={m.n_heads}; use one of {divisors(m.n_heads)}"
        )
    if m.mla is None:
        return
    wide = m.mla.qk_nope_head_dim + m.mla.qk_rope_head_dim
    if m.head_dim != wide:
        yield (
            f"head_dim={m.head_dim} is not qk_nope_head_dim + qk_rope_head_dim = {wide}; leave head_dim out"
        )
    if m.n_kv_heads != m.n_heads:
        yield (
            f"n_kv_heads={m.n_kv_heads} differs from n_heads={m.n_heads}, but in latent attention every head "
            "has its own keys; leave n_kv_heads out"
        )
    if m.qkv_clip is not None:
        yield f"qkv_clip={m.qkv_clip} is not defined in latent attention; leave it out"
    if m.qk_norm != "none":
        yield (
            f"qk_norm={m.qk_norm!r} is not defined in latent attention, which norms the latents; use 'none'"
        )
    for name, value in _OVER_HEADS.items():
        if getattr(m, name) != value:
            yield f"{name} is for attention over heads, not with kv_lora_rank; leave one of them out"


_OVER_HEADS: Final[dict[str, object]] = {
    "value_head_dim": None, "global_n_heads": None, "global_n_kv_heads": None, "global_head_dim": None,
    "n_kv_shared_layers": 0, "value_norm": False, "sub_norms": False, "global_keys_as_values": False,
    "local_sinks": False, "differential_attention": False, "query_scale": "none", "value_multiplier": 1.0,
}  # fmt: skip
"""Fields that say nothing of latent attention, and what they are without a say."""


def _indexer_errors(m: ModelConfig, indexer: IndexerConfig) -> Iterator[str]:
    if m.mla is None:
        yield "index_top_k chooses the keys of latent attention, and this model has none; set kv_lora_rank"
    elif m.position == "rotary" and indexer.index_head_dim < m.rotary_dim:
        yield (
            f"index_head_dim={indexer.index_head_dim} is less than the {m.rotary_dim} elements that are "
            "rotated in each head of the indexer too; raise it or lower qk_rope_head_dim"
        )
    if m.window is not None:
        yield f"window={m.window} is not defined beside an indexer, which chooses the keys; leave one out"
    if m.position == "alibi":
        yield "position='alibi' is not defined beside an indexer; use 'rotary' or 'none'"
    if set(m.mixer_pattern) != {"attention"}:
        yield "an indexer goes with attention in every layer; leave mixer_pattern or index_top_k out"


def _patterns_errors(m: ModelConfig) -> Iterator[str]:
    """A pattern, or a rotary base, for layers that do not exist."""
    if m.window is None and m.window_pattern != ("local",):
        yield f"window_pattern={','.join(m.window_pattern)} needs a window; set its tokens with window"
    if m.window is None and m.window_kind != "sliding":
        yield f"window_kind={m.window_kind!r} needs a window; set its tokens with window"
    if m.rope_theta_local is not None and not (m.position == "rotary" and m.n_local_layers):
        yield "rope_theta_local is for rotary positions in local layers, and there are none; leave it out"
    if m.rotary_fraction_local is not None and not (m.position == "rotary" and m.n_local_layers):
        yield "rotary_fraction_local is for rotary local layers, and there are none; leave it out"
    if m.position != "rotary" and m.rotary_pattern != ("rotary",):
        yield f"rotary_pattern={','.join(m.rotary_pattern)} needs position='rotary', not {m.position!r}"
    if "rotary" not in m.rotary_pattern:
        yield "rotary_pattern has no rotary layer; set position='none' instead"
    if m.rope_scaling is not None and m.position != "rotary":
        yield (
            f"rope_type={m.rope_scaling.rope_type!r} rescales rotary positions, and position is "
            f"{m.position!r}; use rope_type='none'"
        )


def _mixers_errors(m: ModelConfig) -> Iterator[str]:
    """Mixers and their block belong together, and every layer has something."""
    named = mixers_of(m.mixer_pattern) - {"attention"}
    for kind in MIXERS:
        block = getattr(m, kind)
        if kind in named and block is None:
            needed = [name for name, info in MIXERS[kind].model_fields.items() if info.is_required()]
            needed = needed or list(MIXERS[kind].model_fields)[:1]
            yield f"mixer_pattern names {kind}, whose sizes are missing; set {' and '.join(needed)}"
        if block is not None and kind not in named:
            yield f"{kind} is in no layer of mixer_pattern={','.join(m.mixer_pattern)}; name it there"
    if len(named) > 1:
        yield f"mixer_pattern names {' and '.join(sorted(named))}; use one kind of mixer beside attention"
    if set(m.mixer_pattern) == {"none"}:
        yield "mixer_pattern has only layers without a mixer; name one, such as attention"
    for layer in range(m.n_layers):
        if not m.has_mixing(layer) and not m.has_ffn(layer):
            yield (
                f"layer {layer} has neither a mixer nor an FFN (mixer_pattern={','.join(m.mixer_pattern)}, "
                f"ffn_pattern={','.join(m.ffn_pattern)}); change one of them"
            )
            return
    if m.n_attention_layers < m.n_layers or m.n_ffn_layers < m.n_layers:
        if m.block != "sequential":
            yield f"block={m.block!r} is for layers of attention and an FFN; use 'sequential' with others"
        if m.norm_placement == "post":
            yield "norm_placement='post' is for layers of attention and an FFN; use 'pre' with others"
        if m.counted_parts is not None and not dims.has_shared_blocks(m):
            yield "counted_parts are for layers of attention and an FFN; leave them or other layers out"
    if m.mixer_pre_norm and (
        m.norm_placement != "reordered"
        or not named
        or m.n_ffn_layers < m.n_layers
        or "none" in m.mixer_pattern
    ):
        yield (
            "mixer_pre_norm=true is for norm_placement='reordered' with another mixer in some layers and an "
            "FFN in all; leave it out"
        )
    if m.attention_gate == "none" and (m.attention_gate_biased or m.attention_gate_activation != "sigmoid"):
        name = "attention_gate_biased" if m.attention_gate_biased else "attention_gate_activation"
        yield f"{name} is for gates, and attention_gate is 'none'; leave it out"


def _embeddings_errors(m: ModelConfig) -> Iterator[str]:
    if m.position_offset and m.position not in ("learned", "sinusoidal"):
        yield (
            f"position_offset={m.position_offset} needs position='learned' or 'sinusoidal', not "
            f"{m.position!r}"
        )
    if m.position == "sinusoidal" and m.dim % 2:
        yield f"sinusoidal positions have a sine for each cosine, and dim={m.dim} is odd; make it even"
    if m.embedding_dim == m.dim:
        yield f"embedding_dim={m.embedding_dim} equals dim, so nothing is projected; leave it out"
    if m.activation == "xielu" and m.per_layer_embedding_dim is not None:
        yield "activation='xielu' is not defined with per_layer_embedding_dim; use another activation"
    if m.activation == "xielu" and (m.gated or m.moe):
        what = "gated=true" if m.gated else "experts"
        yield f"activation='xielu' is not defined with {what}; use another activation or gated=false alone"
    if m.channel_mix:
        others = {
            "gated=true": m.gated, "experts": m.moe, "sub_norms": m.sub_norms,
            "activation='xielu'": m.activation == "xielu",
        }  # fmt: skip
        for name in (name for name, is_set in others.items() if is_set):
            yield f"channel_mix is two matrices and a gate, not defined with {name}; change one of them"
    if m.ffn_clamp is not None and not m.gated:
        yield "ffn_clamp clamps the gate, and gated=false has none; leave it out"


def _norms_errors(m: ModelConfig) -> Iterator[str]:
    if m.qk_norm_bias and (m.norm == "rmsnorm" or not m.norm_weight or m.qk_norm == "none"):
        yield (
            "qk_norm_bias=true needs a qk_norm with norm='layernorm' and norm_weight=true; set one of them"
        )
    if m.qk_norm_after_rotation and m.qk_norm in ("none", "full"):
        yield (
            f"qk_norm_after_rotation=true norms heads, and qk_norm is {m.qk_norm!r}; use 'head' or 'per_head'"
        )
    if m.qk_norm == "l2" and m.position != "rotary":
        yield f"qk_norm='l2' is for rotated heads, and position is {m.position!r}; use another one"
    if m.norm_bias and (m.norm == "rmsnorm" or not m.norm_weight):
        yield "norm_bias=true needs norm='layernorm' with norm_weight=true; set one of them"
    if m.block != "sequential" and m.norm_placement in ("post", "stream"):
        yield f"block={m.block!r} with norm_placement={m.norm_placement!r} is not defined; use 'pre'"
    if m.block == "parallel_shared_norm" and m.norm_placement == "reordered":
        yield (
            "block='parallel_shared_norm' shares the norm before the branches, and "
            "norm_placement='reordered' has no norm there; use block='parallel' or norm_placement='pre'"
        )


def _rotary_positions_errors(m: ModelConfig) -> Iterator[str]:
    part = "qk_rope_head_dim" if m.mla else "head_dim"
    whole = f"{part}={m.mla.qk_rope_head_dim if m.mla else m.head_dim}"
    if m.rotary_dim < 2:
        yield (
            f"rotary positions need 2 or more of {whole} rotated, got {m.rotary_dim} "
            f"(rotary_fraction={m.rotary_fraction}); raise rotary_fraction or set position='none'"
        )
    elif m.rotary_dim % 2:
        yield (
            f"rotary positions rotate pairs, and {m.rotary_dim} of {whole} would be rotated; "
            f"use an even {part}, another rotary_fraction, or position='none'"
        )
    elif m.rope_scaling is not None:
        yield from m.rope_scaling.contradictions(m.rotary_dim // 2, m.rope_theta)


_PARTS_OF_ANY_ATTENTION: Final = (
    "latent_gate", "gated_norm_rank", "n_hyper_streams", "shortcut_experts", "n_zero_experts",
)  # fmt: skip
"""Counted parts that models with latent attention may have."""


def _counted_parts_errors(m: ModelConfig, parts: CountedParts) -> Iterator[str]:
    if parts == CountedParts():
        yield "counted_parts has none of its fields set; leave the block out"
    if (parts.shortcut_experts or parts.n_zero_experts) and m.moe is None:
        yield "shortcut_experts and n_zero_experts need experts; set n_experts"
    fields = CountedParts.model_fields.items()
    given = [name for name, info in fields if getattr(parts, name) != info.default]
    for name in given:
        if m.mla is not None and name not in _PARTS_OF_ANY_ATTENTION:
            yield f"{name} goes with attention over heads, not with kv_lora_rank; leave one of them out"
    if parts.latent_gate != "none" and m.mla is None:
        yield f"latent_gate={parts.latent_gate!r} is for latent attention; set kv_lora_rank or leave it out"
    elif parts.latent_gate == "latent" and m.mla is not None and m.mla.q_lora_rank is None:
        yield "latent_gate='latent' is a gate of the query latent; set q_lora_rank"
    of_blocks = (parts.n_block_index_heads, parts.block_index_head_dim, parts.block_index_keys)
    if None in of_blocks and any(of_blocks):
        yield "n_block_index_heads, block_index_head_dim and block_index_keys go together; set all or none"
    if parts.n_block_index_heads and (m.window is not None or m.n_kv_shared_layers):
        yield "an indexer of blocks goes with attention to all keys of the same layer; leave it or window out"
    if not parts.n_block_index_heads and parts.block_indexer_pattern != ("sparse",):
        yield "block_indexer_pattern needs an indexer of blocks; set n_block_index_heads"
    if parts.n_shared_blocks:
        yield from _shared_blocks_errors(m, parts.n_shared_blocks, given)
    if (parts.shared_adapter_rank or parts.shared_attention_adapters) and not parts.n_shared_blocks:
        yield f"{given[0]} is for the uses of shared blocks; set n_shared_blocks"
    if parts.shared_attention_adapters and not parts.shared_adapter_rank:
        yield "shared_attention_adapters needs their rank; set shared_adapter_rank"
    if parts.attention_experts and m.moe is None:
        yield "attention_experts needs experts; set n_experts"
    if parts.attention_gate_bias and m.attention_gate == "none":
        yield "attention_gate_bias needs gates; set attention_gate"


_PARTS_OF_SHARED_BLOCKS: Final = ("n_shared_blocks", "shared_adapter_rank", "shared_attention_adapters")


def _shared_blocks_errors(m: ModelConfig, n_blocks: int, given: Sequence[str]) -> Iterator[str]:
    """Shared blocks are attention and an FFN, in layers with a mixer besides, and their weights are alike."""
    uses = m.n_attention_layers
    if not uses or any(m.has_attention(layer) != m.has_ffn(layer) for layer in range(m.n_layers)):
        yield "n_shared_blocks needs layers that have attention and an FFN, and others with neither of them"
    elif n_blocks > uses:
        yield f"n_shared_blocks={n_blocks} is more than the {uses} layers with attention; give fewer"
    if any(m.mixer_kind(layer) is None for layer in range(m.n_layers)):
        yield "n_shared_blocks needs a mixer in every layer, such as mixer_pattern=mamba2,attention+mamba2"
    others = [name for name in given if name not in _PARTS_OF_SHARED_BLOCKS]
    blocks = [name for name in ("moe", "mla", "window") if getattr(m, name) is not None]
    others += [*blocks, *["n_kv_shared_layers"] * bool(m.n_kv_shared_layers)]
    others += ["mixer_pre_norm"] * m.mixer_pre_norm
    others += ["per_layer_embedding_dim"] * (m.per_layer_embedding_dim is not None)
    if others:
        yield f"n_shared_blocks is not defined with {others[0]}; leave one of them out"
    if m.norm_placement != "pre":
        yield "n_shared_blocks needs norm_placement='pre'; set it"


def _heads_of_kinds_errors(m: ModelConfig) -> Iterator[str]:
    """Heads of layers without a window, and values, that differ from the usual ones."""
    n_heads, n_kv_heads, _ = dims.heads_of(m, local=False)
    if n_heads % n_kv_heads:
        yield (
            f"global_n_kv_heads={n_kv_heads} does not divide the {n_heads} query heads of global layers; use "
            f"one of {divisors(n_heads)}"
        )
    own = [name for name in _GLOBAL_HEADS if getattr(m, name) is not None]
    own += ["local_sinks"] * m.local_sinks
    if own and not (dims.has_local_layers(m) and dims.has_global_layers(m)):
        yield f"{own[0]} needs layers with a window and without; set window and window_pattern"
    if m.global_keys_as_values and not dims.has_global_layers(m):
        yield "global_keys_as_values is for layers without a window, and there are none; leave it out"
    if m.differential_attention and m.n_kv_heads % 2:
        yield (
            f"n_kv_heads={m.n_kv_heads} is odd, and differential_attention halves the heads; use an even "
            "number"
        )
    if m.differential_attention and m.n_kv_shared_layers:
        yield "differential_attention is not defined with n_kv_shared_layers; leave one of them out"
    if m.local_sinks and m.attention_sinks:
        yield "local_sinks are sinks of local layers alone, and attention_sinks of all; set one of them"
    if m.global_keys_as_values and m.value_head_dim is not None:
        yield "value_head_dim needs projected values, and global_keys_as_values has none; set one of them"
    if m.value_norm and m.norm != "rmsnorm":
        yield "value_norm needs norm='rmsnorm'; set it, or leave value_norm out"


_GLOBAL_HEADS: Final = ("global_n_heads", "global_n_kv_heads", "global_head_dim")


def _shared_keys_errors(m: ModelConfig) -> Iterator[str]:
    if m.n_kv_shared_layers > m.n_layers:
        yield f"n_kv_shared_layers={m.n_kv_shared_layers} is more than n_layers={m.n_layers}; lower it"
    elif m.n_kv_shared_local_layers and m.n_kv_shared_local_layers >= m.n_local_layers:
        yield _nothing_to_share(m, "with a window")
    elif m.n_kv_shared_global_layers and m.n_kv_shared_global_layers >= m.n_global_layers:
        yield _nothing_to_share(m, "without a window")
    if m.kv_shared_ffn_factor > 1 and not m.n_kv_shared_layers:
        yield (
            f"kv_shared_ffn_factor={m.kv_shared_ffn_factor} is for layers that share keys and values, and "
            "n_kv_shared_layers is 0; set one of them"
        )
    if m.kv_shared_ffn_factor > 1 and m.moe is not None and not m.moe.experts_beside_ffn:
        yield "kv_shared_ffn_factor is for a dense FFN in every layer; set experts_beside_ffn or leave it out"
    if m.per_layer_vocab_size is not None and m.per_layer_embedding_dim is None:
        yield "per_layer_vocab_size needs per_layer_embedding_dim; set it"
    if m.moe is not None and m.moe.experts_beside_ffn and m.n_dense_layers:
        yield "experts_beside_ffn is for experts in every layer; leave n_first_dense and moe_pattern out"
    if m.moe is not None and m.moe.experts_beside_ffn and m.norm_placement != "sandwich":
        yield "experts_beside_ffn has norms around both branches; set norm_placement='sandwich'"
    if m.moe is not None and m.moe.experts_beside_ffn and m.block != "sequential":
        yield f"experts_beside_ffn with block={m.block!r} is not defined; use 'sequential'"
    if m.sub_norms and m.moe is not None:
        yield "sub_norms go with one dense FFN in every layer; leave them or the experts out"


def _nothing_to_share(m: ModelConfig, kind: str) -> str:
    return (
        f"n_kv_shared_layers={m.n_kv_shared_layers} of n_layers={m.n_layers} leave no earlier layer "
        f"{kind} whose keys and values could be shared; lower it"
    )
