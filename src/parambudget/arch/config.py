"""A decoder-only transformer, complete: every size and every choice, validated once."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from parambudget.arch.blocks import BLOCKS, nested
from parambudget.arch.mla import MLA
from parambudget.arch.moe import MoE, n_moe_layers
from parambudget.arch.pattern import n_local_layers, word_of
from parambudget.arch.refusal import one_line
from parambudget.arch.sizes import PATTERN, Count, Layers, PositiveFloat, Share, Size
from parambudget.arch.validation import disagreements
from parambudget.errors import ConfigError


class ModelConfig(BaseModel):
    """Everything that must be said to count, build and train one model.

    Frozen, strict (no "768" for 768) and closed (an unknown field is an error). All sizes are spelled out
    here; to have conventional ones filled in, go through `arch.defaults.complete` or `parambudget.model`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    # Sizes
    dim: Size = Field(description="Model width: the length of the residual stream.")
    n_layers: Layers = Field(description="Transformer blocks.")
    n_heads: Size = Field(description="Query heads.")
    n_kv_heads: Size = Field(
        description=(
            "Key/value heads: n_heads for multi-head, 1 for multi-query, a divisor in between for grouped."
        ),
    )
    head_dim: Size = Field(description="Width of one head; free of dim / n_heads.")
    intermediate_size: Size = Field(description="Width of the feed-forward network between its matrices.")
    vocab_size: Size = Field(50257, description="Token ids the embedding has a row for, unpadded.")
    context_length: Size = Field(
        1024, description="Longest sequence, in tokens; counts only with learned positions."
    )

    # Choices that change the tensors
    tied: bool = Field(True, description="The output head is the token embedding.")
    position: Literal["rotary", "learned", "alibi", "none"] = Field(
        "rotary",
        description=(
            "How positions enter: rotary, a learned table, biases on the scores (ALiBi), or not at all; only "
            "the table has parameters."
        ),
    )
    position_offset: Count = Field(
        0, description="Rows of the learned table before that of the first token, never looked up (OPT: 2)."
    )
    embedding_dim: Size | None = Field(
        None, description="Width of the embedding, where it is projected to dim and back (OPT-350M: 512)."
    )
    embedding_norm: bool = Field(False, description="A norm on the token embeddings (BLOOM).")
    norm: Literal["rmsnorm", "layernorm"] = Field("rmsnorm", description="Kind of every norm.")
    norm_weight: bool = Field(
        True, description="Norms have a learned scale; without it they have no parameters (OLMo-1)."
    )
    norm_bias: bool = Field(False, description="Norms have a learned shift; layernorm only.")
    norm_placement: Literal["pre", "post", "reordered", "sandwich"] = Field(
        "pre",
        description=(
            "Pre: x + f(norm(x)). Post: norm(x + f(x)), the original transformer. Reordered: x + "
            "norm(f(x)), OLMo 2. Sandwich: x + norm(f(norm(x))), Gemma 2."
        ),
    )
    final_norm: bool = Field(True, description="A norm before the output head.")
    block: Literal["sequential", "parallel", "parallel_shared_norm"] = Field(
        "sequential",
        description=(
            "Attention then FFN, or both from the same input (GPT-NeoX), or both behind one shared norm "
            "(GPT-J, Falcon-7B)."
        ),
    )
    qk_norm: Literal["none", "head", "per_head", "full"] = Field(
        "none",
        description=(
            "Norm on queries and keys: one head_dim scale for all heads (Qwen3), one per head (Cohere), "
            "or full width (OLMo 2)."
        ),
    )
    qk_norm_bias: bool | None = Field(
        None, description="Norms on queries and keys have a shift; as norm_bias when absent (StableLM: none)."
    )
    attention_sinks: bool = Field(
        False, description="A learned score per head that no value stands behind (gpt-oss)."
    )
    gated: bool = Field(
        True,
        description="FFN of three matrices, down(act(gate(x)) * up(x)); otherwise two, down(act(up(x))).",
    )
    qkv_bias: bool = Field(False, description="Bias on the query, key and value projections.")
    attention_out_bias: bool = Field(False, description="Bias on the attention output projection.")
    ffn_bias: bool = Field(False, description="Bias on every FFN projection.")
    head_bias: bool = Field(False, description="Bias on the output head.")

    # Choices that change the function, not the tensors
    activation: Literal["silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2"] = Field(
        "silu",
        description=(
            "FFN activation: gated silu is SwiGLU, gated gelu GeGLU, quick_gelu x * sigmoid(1.702 x), relu2 "
            "the square of ReLU."
        ),
    )
    ffn_clamp: PositiveFloat | None = Field(
        None, description="The gate is at most this, up within plus and minus it, then 1 more (gpt-oss: 7)."
    )
    window: Size | None = Field(
        None, description="Tokens that a query sees in local layers, its own the last; all when absent."
    )
    window_pattern: Annotated[tuple[Literal["local", "global"], ...], PATTERN] = Field(
        ("local",),
        description=(
            "Which layers have the window, from the first on and again and again, such as local,global for "
            "every other (Gemma 2)."
        ),
    )
    rope_theta: PositiveFloat = Field(10_000.0, description="Base of the rotary frequencies.")
    rope_theta_local: PositiveFloat | None = Field(
        None, description="The same of local layers; rope_theta when absent (Gemma 3: 10,000)."
    )
    rotary_pattern: Annotated[tuple[Literal["rotary", "none"], ...], PATTERN] = Field(
        ("rotary",),
        description=(
            "Which layers rotate, from the first on and again and again, such as rotary,rotary,rotary,none "
            "(SmolLM3)."
        ),
    )
    rotary_fraction: Share = Field(
        1.0, description="Share of head_dim, or of qk_rope_head_dim, that is rotated (GPT-NeoX: 0.25)."
    )
    rotary_interleaved: bool = Field(
        False,
        description=(
            "Neighbours turn together (GPT-J, Cohere, GLM, DeepSeek), not elements half the width apart."
        ),
    )
    norm_eps: PositiveFloat = Field(1e-5, description="Added to the variance in every norm.")
    logit_multiplier: PositiveFloat = Field(
        1.0, description="Logits are scaled by this, before any soft cap (Cohere: 1/16)."
    )
    logit_softcap: PositiveFloat | None = Field(
        None, description="Logits become cap * tanh(logits / cap) (Gemma 2: 30)."
    )
    embedding_multiplier: PositiveFloat = Field(
        1.0, description="Token embeddings are scaled by this (Gemma: sqrt(dim))."
    )
    residual_multiplier: PositiveFloat = Field(
        1.0, description="Every branch is scaled by this before it joins the residual stream (Granite)."
    )
    attention_multiplier: PositiveFloat | None = Field(
        None, description="Scale of the attention scores; 1 / sqrt(head_dim) when absent."
    )
    attention_softcap: PositiveFloat | None = Field(
        None, description="Attention scores become cap * tanh(scores / cap) (Gemma 2: 50)."
    )
    qkv_clip: PositiveFloat | None = Field(
        None, description="Queries, keys and values are cut off at plus and minus this (MPT, OLMo)."
    )
    init_std: PositiveFloat = Field(
        0.02,
        description=(
            "Standard deviation of the initial weights; output projections get init_std / sqrt(2 * n_layers)."
        ),
    )
    zero_init_out: bool = Field(
        False,
        description=(
            "Output projections of attention and FFN start at zero, so that every block starts as the "
            "identity."
        ),
    )

    # Blocks of choices; what is not there has none of them
    moe: MoE | None = Field(None, description="Mixture of experts in place of one FFN.")
    mla: MLA | None = Field(None, description="Multi-head latent attention.")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        told = next(disagreements(self), None)
        if told is not None:
            raise ValueError(told)
        return self

    @property
    def rotary_dim(self) -> int:
        """Elements of each head that are rotated."""
        return int((self.mla.qk_rope_head_dim if self.mla else self.head_dim) * self.rotary_fraction)

    @property
    def kv_group(self) -> int:
        """Query heads per key/value head."""
        return self.n_heads // self.n_kv_heads

    @property
    def n_local_layers(self) -> int:
        """Layers whose queries see a window."""
        return int(n_local_layers(self, self.n_layers))

    @property
    def n_global_layers(self) -> int:
        """Layers whose queries see all tokens before them."""
        return self.n_layers - self.n_local_layers

    def is_local(self, layer: int) -> bool:
        """Whether that layer, counted from 0, has the window."""
        return self.window is not None and word_of(self.window_pattern, layer) == "local"

    def rotates(self, layer: int) -> bool:
        """Whether that layer, counted from 0, has rotary positions."""
        return self.position == "rotary" and word_of(self.rotary_pattern, layer) == "rotary"

    @property
    def n_moe_layers(self) -> int:
        """Layers with experts."""
        return int(n_moe_layers(self.moe, self.n_layers))

    @property
    def n_dense_layers(self) -> int:
        """Layers with one FFN."""
        return self.n_layers - self.n_moe_layers

    def has_experts(self, layer: int) -> bool:
        """Whether that layer, counted from 0, has experts."""
        return self.moe is not None and self.moe.has_experts(layer)

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """The fields as plain JSON values, of patterns lists, unless told otherwise."""
        return super().model_dump(**{"mode": "json"} | options)

    def replace(self, **changes: Any) -> Self:
        """A validated copy, fields of the blocks by their own names. (pydantic's `model_copy(update=...)`
        would not check.)"""
        return type(self).read(nested(self.model_dump() | changes))

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """A model from a complete set of fields; raises `ConfigError` with one line instead of pydantic's
        report."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise ConfigError(one_line(error, cls)) from None


FIELDS: Final[dict[str, FieldInfo]] = {
    **{name: info for name, info in ModelConfig.model_fields.items() if name not in BLOCKS},
    **{name: info for block in BLOCKS.values() for name, info in block.model_fields.items()},
}
"""Every field by its own name, those of blocks behind the others."""
