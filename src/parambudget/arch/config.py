"""A decoder-only transformer, complete: every size and every choice, validated once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from parambudget.arch.validation import (
    PATTERN,
    Count,
    Layers,
    PositiveFloat,
    Share,
    Size,
    disagreements,
    divisors,
    one_line,
)
from parambudget.errors import ConfigError


class MLA(BaseModel):
    """The `mla` block of a model. Queries and keys of a head are two parts side by side: one grows from the
    latent vectors, the other carries the position, its key shared by all heads."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kv_lora_rank: Size = Field(
        description="Width of the latent that keys and values grow from; it is cached."
    )
    q_lora_rank: Size | None = Field(
        None, description="Width of the latent that queries grow from; without it they are projected at once."
    )
    qk_nope_head_dim: Size = Field(description="Width of a head's query and key that carries no position.")
    qk_rope_head_dim: Size = Field(description="Width of a head's query and key that is rotated.")
    v_head_dim: Size = Field(description="Width of a head's value.")


def word_of(pattern: Sequence[str], layer: int) -> str:
    """What the pattern says of a layer, counted from 0."""
    return pattern[layer % len(pattern)]


def n_local_layers(m: Any, n_layers: Any) -> Any:
    """How many of `n_layers` layers have the window of `m`."""
    return 0 * n_layers if m.window is None else layers_of(m.window_pattern, "local", n_layers)


def layers_of(pattern: Sequence[str], word: str, n_layers: Any) -> Any:
    """How many of the first `n_layers` layers are of the word. An array's elements are counted one by one."""
    if word not in pattern:
        return 0 * n_layers
    if set(pattern) == {word}:
        return n_layers
    period = len(pattern)
    return sum((n_layers + (period - 1 - i)) // period for i in range(period) if pattern[i] == word)


class MoE(BaseModel):
    """The `moe` block of a model: the experts, their router, and which layers have them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    n_experts: Size = Field(description="Experts of a layer that the router picks from.")
    n_experts_per_token: Size = Field(description="Experts that each token is sent to.")
    expert_intermediate_size: Size = Field(description="Width of one expert between its matrices.")
    n_shared_experts: Count = Field(0, description="Experts that every token meets, beside the routed ones.")
    shared_intermediate_size: Size | None = Field(
        None, description="Width of one shared expert; that of a routed one when absent (Qwen1.5-MoE: 5632)."
    )
    shared_expert_gate: bool = Field(
        False, description="The shared experts' output is scaled by a learned sigmoid gate (Qwen2-MoE)."
    )
    expert_bias: bool = Field(
        False, description="Bias on every projection of the routed experts; of shared ones ffn_bias says it."
    )
    router_bias: bool = Field(False, description="Bias on the router (gpt-oss).")
    router_scores: Literal["softmax", "sigmoid"] = Field(
        "softmax",
        description=(
            "Logits to scores. Softmax over all experts with norm_expert_weights is softmax over the chosen."
        ),
    )
    correction_bias: bool = Field(
        False,
        description=(
            "A bias added to the scores for the choice alone, a buffer and no parameter (DeepSeek-V3)."
        ),
    )
    norm_expert_weights: bool = Field(
        True, description="The weights of a token's experts are divided by their sum."
    )
    routing_multiplier: PositiveFloat = Field(
        1.0, description="The weights of a token's experts are scaled by this (DeepSeek-V3: 2.5)."
    )
    n_expert_groups: Size = Field(1, description="Groups that the experts are divided into (DeepSeek-V3: 8).")
    n_groups_per_token: Size = Field(
        1,
        description=(
            "Groups that a token's experts may come from: the best by their best expert (softmax) or by the "
            "sum of their two best (sigmoid)."
        ),
    )
    fused_experts: bool = Field(
        False,
        description=(
            "One tensor of three axes for each projection of all experts, not a matrix per expert; the count "
            "is the same, and Muon leaves it to AdamW."
        ),
    )
    n_first_dense: Count = Field(0, description="Layers before the first with experts (DeepSeek-V3: 3).")
    moe_pattern: Annotated[tuple[Literal["dense", "experts"], ...], PATTERN] = Field(
        ("experts",),
        description=(
            "Which layers have experts, from the first on and again and again, such as dense,experts for "
            "every second; those of n_first_dense have none."
        ),
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.n_experts_per_token > self.n_experts:
            raise ValueError(
                f"n_experts_per_token={self.n_experts_per_token} is more than n_experts={self.n_experts}; "
                "give at most as many"
            )
        if self.n_experts % self.n_expert_groups:
            raise ValueError(
                f"n_expert_groups={self.n_expert_groups} does not divide n_experts={self.n_experts}; "
                f"use one of {divisors(self.n_experts)}"
            )
        chosen = (self.n_experts, self.n_experts_per_token)
        if not routable(*chosen, self.n_expert_groups, self.n_groups_per_token):
            reachable = self.n_experts // self.n_expert_groups * self.n_groups_per_token
            raise ValueError(
                f"n_groups_per_token={self.n_groups_per_token} of n_expert_groups={self.n_expert_groups} "
                f"hold {reachable} of n_experts={self.n_experts}, and a token needs "
                f"{self.n_experts_per_token} from at most all groups; change one of them"
            )
        if not self.n_shared_experts and (self.shared_expert_gate or self.shared_intermediate_size):
            what = "shared_expert_gate" if self.shared_expert_gate else "shared_intermediate_size"
            raise ValueError(f"{what} needs shared experts, and n_shared_experts is 0; give a number of them")
        return self

    def has_experts(self, layer: int) -> bool:
        """Whether that layer, counted from 0, has experts in place of one FFN."""
        return layer >= self.n_first_dense and word_of(self.moe_pattern, layer) == "experts"


def routable(n_experts: Any, n_experts_per_token: Any, n_groups: int, n_groups_per_token: int) -> Any:
    """Whether a token's experts fit in the groups that they may come from, and the groups are equal."""
    reachable = n_experts // n_groups * n_groups_per_token
    return (n_groups_per_token <= n_groups) & (n_experts % n_groups == 0) & (n_experts_per_token <= reachable)


def met_width(moe: Any) -> Any:
    """Width of the experts that a token meets, its own and the shared ones, side by side."""
    own = moe.shared_intermediate_size
    shared = moe.n_shared_experts * (moe.expert_intermediate_size if own is None else own)
    return moe.n_experts_per_token * moe.expert_intermediate_size + shared


def n_moe_layers(moe: Any, n_layers: Any) -> Any:
    """How many of `n_layers` layers have experts; without a `moe` block none."""
    if moe is None:
        return 0 * n_layers
    if not some_dense(moe):
        return n_layers
    # No min: what stands for n_layers may be an array.
    fewer = n_layers < moe.n_first_dense
    first = moe.n_first_dense * (1 - fewer) + n_layers * fewer
    return layers_of(moe.moe_pattern, "experts", n_layers) - layers_of(moe.moe_pattern, "experts", first)


def some_dense(moe: Any) -> bool:
    """Whether the choices leave layers without experts, at any depth."""
    return moe is None or moe.n_first_dense > 0 or "dense" in moe.moe_pattern


BLOCKS: Final[dict[str, type[BaseModel]]] = {"moe": MoE, "mla": MLA}
"""The field of each block and its class."""


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with those of blocks, given by their own names, put into their blocks."""
    whole = dict(fields)
    for name, block in BLOCKS.items():
        own = {key: whole.pop(key) for key in block.model_fields if key in whole}
        held = whole.get(name)
        if isinstance(held, BaseModel | Mapping):
            whole[name] = dict(held) | own
        elif own and held is None:
            whole[name] = own
    return whole


def flat(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a model, each by its own name, those of blocks that are there behind the others."""
    whole = dict(fields)
    blocks = [block for name in BLOCKS if (block := whole.pop(name, None)) is not None]
    return whole | {name: value for block in blocks for name, value in block}


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
