"""A complete decoder-only transformer: every size and every choice, validated once."""

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Final, Self, Unpack

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from parambudget._files import write_json
from parambudget.arch import dims
from parambudget.arch.blocks import MLAConfig, MoEConfig
from parambudget.arch.dims import (
    ActivationName,
    AttentionSpan,
    BlockLayout,
    NormPlacement,
    NormType,
    PositionEncoding,
    QKNormScope,
    RotaryUse,
)
from parambudget.arch.fields import ModelFields
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
)
from parambudget.errors import ConfigError

BLOCKS: Final[dict[str, type[BaseModel]]] = {
    "moe": MoEConfig, "mla": MLAConfig, "rope_scaling": RopeScaling,
}  # fmt: skip
"""The field that holds each block, and the block's class."""


def nest_blocks(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with those of the blocks, given by their own names, moved into their blocks."""
    whole = dict(fields)
    for name, block in BLOCKS.items():
        own = {key: whole.pop(key) for key in block.model_fields if key in whole}
        given = whole.get(name)
        if isinstance(given, BaseModel | Mapping):
            whole[name] = dict(given) | own
        elif own and given is None:
            whole[name] = own
        if name == "rope_scaling" and "rope_type" in own:
            whole[name] = _of_another_type(dict(given or {}), own)
    return whole


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
    intermediate_size: PositiveSize = Field(description="Inner width of the feed-forward network (FFN).")
    vocab_size: PositiveSize = Field(default=50257, description="Rows of the token embedding, unpadded.")
    context_length: PositiveSize = Field(
        default=1024, description="Longest sequence, in tokens; adds parameters only with learned positions."
    )

    # Choices that change the tensors
    tied: bool = Field(default=True, description="Use one matrix for token embedding and output head.")
    position: PositionEncoding = Field(
        default="rotary",
        description=(
            "Position encoding: rotary, a learned table, biases on the attention scores (ALiBi), or none. "
            "Only the table has parameters."
        ),
    )
    position_offset: NonNegativeSize = Field(
        default=0, description="Unused rows at the start of the learned table (OPT: 2)."
    )
    embedding_dim: PositiveSize | None = Field(
        default=None,
        description="Width of the token embedding where it is projected to dim and back (OPT-350M: 512).",
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
            "norm(f(x)), OLMo 2. Sandwich: x + norm(f(norm(x))), Gemma 2."
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
            "each (Cohere), full one over all heads together (OLMo 2)."
        ),
    )
    qk_norm_bias: bool | None = Field(
        default=None,
        description="Give the norms on queries and keys a shift; unless set, as norm_bias (StableLM: none).",
    )
    attention_sinks: bool = Field(
        default=False,
        description="Give each head a learned score that absorbs attention and adds no value (gpt-oss).",
    )
    gated: bool = Field(
        default=True,
        description=(
            "Use a gated FFN of three matrices, down(act(gate(x)) * up(x)), instead of two, down(act(up(x)))."
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
            "relu2 the square of ReLU."
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
    attention_multiplier: PositiveFloat | None = Field(
        default=None, description="Factor on the attention scores; unless set, 1 / sqrt(head_dim)."
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
    rope_scaling: RopeScaling | None = Field(
        default=None, description="Rotary angles rescaled for a longer context; they have no parameters."
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        error = next(_consistency_errors(self), None)
        if error is not None:
            raise ValueError(error)
        return self

    @property
    def rotary_dim(self) -> int:
        """Elements of each head that are rotated."""
        return int((self.mla.qk_rope_head_dim if self.mla else self.head_dim) * self.rotary_fraction)

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
    def n_local_layers(self) -> int:
        """Layers whose queries see a window."""
        return int(dims.n_local_layers(self, self.n_layers))

    @property
    def n_global_layers(self) -> int:
        """Layers whose queries see all tokens before them."""
        return self.n_layers - self.n_local_layers

    def is_local(self, layer: int) -> bool:
        """Whether that layer, counted from 0, has the window."""
        return dims.is_local(self, layer)

    def rotates(self, layer: int) -> bool:
        """Whether that layer, counted from 0, has rotary positions."""
        return dims.is_rotary(self, layer)

    @property
    def n_moe_layers(self) -> int:
        """Layers with experts."""
        return int(dims.n_moe_layers(self.moe, self.n_layers))

    @property
    def n_dense_layers(self) -> int:
        """Layers with one FFN."""
        return self.n_layers - self.n_moe_layers

    def has_experts(self, layer: int) -> bool:
        """Whether that layer, counted from 0, has experts."""
        return dims.has_experts(self.moe, layer)

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """The fields as plain JSON values, patterns as lists, unless `mode` says otherwise."""
        return super().model_dump(**{"mode": "json"} | options)

    def replace(self, **changes: Unpack[ModelFields]) -> Self:
        """A validated copy; fields of the blocks go by their own names. (pydantic's `model_copy(update=...)`
        would not validate.)"""
        return type(self).read(nest_blocks(self.model_dump() | with_our_names(changes, KEYWORDS)))

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
    yield from _norms_errors(m)
    yield from _embeddings_errors(m)
    yield from _patterns_errors(m)
    if m.moe and not m.n_moe_layers:
        yield (
            f"no layer of n_layers={m.n_layers} has experts (n_first_dense={m.moe.n_first_dense}, "
            f"moe_pattern={','.join(m.moe.moe_pattern)}); change one of them or leave out the experts"
        )
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


def _patterns_errors(m: ModelConfig) -> Iterator[str]:
    """A pattern, or a rotary base, for layers that do not exist."""
    if m.window is None and m.window_pattern != ("local",):
        yield f"window_pattern={','.join(m.window_pattern)} needs a window; set its tokens with window"
    if m.rope_theta_local is not None and not (m.position == "rotary" and m.n_local_layers):
        yield "rope_theta_local is for rotary positions in local layers, and there are none; leave it out"
    if m.position != "rotary" and m.rotary_pattern != ("rotary",):
        yield f"rotary_pattern={','.join(m.rotary_pattern)} needs position='rotary', not {m.position!r}"
    if "rotary" not in m.rotary_pattern:
        yield "rotary_pattern has no rotary layer; set position='none' instead"
    if m.rope_scaling is not None and m.position != "rotary":
        yield (
            f"rope_type={m.rope_scaling.rope_type!r} rescales rotary positions, and position is "
            f"{m.position!r}; use rope_type='none'"
        )


def _embeddings_errors(m: ModelConfig) -> Iterator[str]:
    if m.position_offset and m.position != "learned":
        yield f"position_offset={m.position_offset} needs position='learned', not {m.position!r}"
    if m.embedding_dim == m.dim:
        yield f"embedding_dim={m.embedding_dim} equals dim, so nothing is projected; leave it out"
    if m.ffn_clamp is not None and not m.gated:
        yield "ffn_clamp clamps the gate, and gated=false has none; leave it out"


def _norms_errors(m: ModelConfig) -> Iterator[str]:
    if m.qk_norm_bias and (m.norm == "rmsnorm" or not m.norm_weight or m.qk_norm == "none"):
        yield (
            "qk_norm_bias=true needs a qk_norm with norm='layernorm' and norm_weight=true; set one of them"
        )
    if m.norm_bias and (m.norm == "rmsnorm" or not m.norm_weight):
        yield "norm_bias=true needs norm='layernorm' with norm_weight=true; set one of them"
    if m.block != "sequential" and m.norm_placement == "post":
        yield f"block={m.block!r} with norm_placement='post' is not defined; use 'pre'"
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
