"""The optional blocks of a model's config: a mixture of experts, multi-head latent attention, and parts that
are counted without being built."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from parambudget.arch.dims import (
    BlockIndexerUse,
    FFNKind,
    HeadTransform,
    IndexerUse,
    LatentGate,
    RouterScores,
    active_expert_width,
    can_route,
    shared_expert_width,
)
from parambudget.arch.validation import PATTERN, NonNegativeSize, PositiveFloat, PositiveSize, divisors


class MLAConfig(BaseModel):
    """The `mla` block of a model. The query and the key of a head have two parts side by side: one is
    projected up from the latent vectors, the other carries the position, and all heads share its key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kv_lora_rank: PositiveSize = Field(
        description="Width of the latent that keys and values are projected from; it is cached."
    )
    q_lora_rank: PositiveSize | None = Field(
        default=None,
        description="Width of the latent that queries are projected from; unless set, the input itself.",
    )
    qk_nope_head_dim: PositiveSize = Field(
        description="Width of the part of a query or key head without positions."
    )
    qk_rope_head_dim: PositiveSize = Field(
        description="Width of the part of a query or key head that is rotated."
    )
    v_head_dim: PositiveSize = Field(description="Width of a value head.")
    latent_norm_eps: PositiveFloat | None = Field(
        default=None,
        description=(
            "Added to the variance in the norms of the latents; unless set, norm_eps (GLM-4.7-Flash: 1e-6)."
        ),
    )


class IndexerConfig(BaseModel):
    """The `indexer` block of a model: which keys its latent attention attends to.

    An indexer scores all keys with narrow heads of its own, and every query attends to the best of them, the
    same for all heads: DeepSeek Sparse Attention. Source: DeepSeek-AI 2025 (V3.2), arXiv 2512.02556.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    n_index_heads: PositiveSize = Field(
        description="Heads of the indexer, which all score one key per token."
    )
    index_head_dim: PositiveSize = Field(description="Width of one head of the indexer; its key is cached.")
    index_top_k: PositiveSize = Field(
        description="Keys that a query attends to: those that the indexer scores highest (DeepSeek: 2048)."
    )
    indexer_pattern: Annotated[tuple[IndexerUse, ...], PATTERN] = Field(
        default=("own",),
        description=(
            "Which layers have an indexer, as a pattern repeated from the first layer on: own,shared is "
            "every second one, and each layer between attends to the keys that the last one chose."
        ),
    )
    index_rotary_interleaved: bool = Field(
        default=False,
        description=(
            "Rotate neighbouring elements of the indexer's heads as pairs (GLM-5) instead of elements half "
            "the width apart (DeepSeek-V3.2)."
        ),
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.indexer_pattern[0] != "own":
            raise ValueError(
                f"indexer_pattern={','.join(self.indexer_pattern)} lets the first layer share the keys of "
                "one before it; begin it with own"
            )
        return self


class MoEConfig(BaseModel):
    """The `moe` block of a model: the experts, their router, and which layers have them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    n_experts: PositiveSize = Field(description="Routed experts per layer.")
    n_experts_per_token: PositiveSize = Field(description="Routed experts per token.")
    expert_intermediate_size: PositiveSize = Field(description="Inner width of one expert.")
    n_shared_experts: NonNegativeSize = Field(
        default=0, description="Experts that every token uses in addition to the routed ones."
    )
    shared_intermediate_size: PositiveSize | None = Field(
        default=None,
        description="Inner width of one shared expert; unless set, that of a routed one (Qwen1.5-MoE: 5632).",
    )
    expert_latent_size: PositiveSize | None = Field(
        default=None,
        description=(
            "Width to which tokens are projected before their routed experts, and back behind them; unless "
            "set, experts take and give dim (Nemotron 3 Super: 1024)."
        ),
    )
    shared_expert_gate: bool = Field(
        default=False,
        description="Scale the output of the shared experts by a learned sigmoid gate (Qwen2-MoE).",
    )
    expert_bias: bool = Field(
        default=False,
        description="Bias on every projection of the routed experts; shared ones follow ffn_bias.",
    )
    router_bias: bool = Field(default=False, description="Bias on the router (gpt-oss).")
    router_scores: RouterScores = Field(
        default="softmax",
        description=(
            "Function from router logits to scores. softmax with norm_expert_weights is a softmax over the "
            "chosen experts; sparsemixer is one over those not yet chosen whose logits are close to the "
            "best (Phi-3.5-MoE)."
        ),
    )
    correction_bias: bool = Field(
        default=False,
        description=(
            "Choose experts by their scores plus a bias that balances them; it is a buffer, not a parameter "
            "(DeepSeek-V3)."
        ),
    )
    correction_counted: bool = Field(
        default=False,
        description="Count that bias, as a class does that has it among its parameters (Ernie 4.5).",
    )
    correction_on_logits: bool = Field(
        default=False,
        description="Add that bias to the router's logits, not to the scores made of them (Kolibri).",
    )
    norm_expert_weights: bool = Field(
        default=True, description="Normalize the weights of a token's experts to sum to 1."
    )
    routing_multiplier: PositiveFloat = Field(
        default=1.0, description="Factor on the weights of a token's experts (DeepSeek-V3: 2.5)."
    )
    n_expert_groups: PositiveSize = Field(
        default=1, description="Groups that the experts are divided into (DeepSeek-V3: 8)."
    )
    n_groups_per_token: PositiveSize = Field(
        default=1,
        description=(
            "Groups from which a token's experts are chosen: those with the best expert (softmax) or the "
            "best sum of two experts (sigmoid)."
        ),
    )
    weights_on_inputs: bool = Field(
        default=False,
        description="Multiply the inputs of a token's experts by their weights, not the outputs (Llama 4).",
    )
    experts_out_norm: bool = Field(
        default=False, description="Normalize the sum of a token's routed and shared experts (A.X K1)."
    )
    experts_beside_ffn: bool = Field(
        default=False,
        description=(
            "Give layers with experts the dense FFN as well, each with norms of its own, and learned scales "
            "to the router (Gemma 4 26B-A4B)."
        ),
    )
    fused_experts: bool = Field(
        default=False,
        description=(
            "Store a projection of all experts as one 3-D tensor instead of a matrix per expert: the same "
            "count."
        ),
    )
    n_first_dense: NonNegativeSize = Field(
        default=0, description="Dense layers before the first layer with experts (DeepSeek-V3: 3)."
    )
    moe_pattern: Annotated[tuple[FFNKind, ...], PATTERN] = Field(
        default=("experts",),
        description=(
            "Which layers have experts, as a pattern repeated from the first layer on: dense,experts is "
            "every second layer. The first n_first_dense layers have none."
        ),
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
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
        if not can_route(
            self.n_experts, self.n_experts_per_token, self.n_expert_groups, self.n_groups_per_token
        ):
            reachable = self.n_experts // self.n_expert_groups * self.n_groups_per_token
            raise ValueError(
                f"n_groups_per_token={self.n_groups_per_token} of n_expert_groups={self.n_expert_groups} "
                f"do not give each token n_experts_per_token={self.n_experts_per_token} experts: they have "
                f"{reachable} of n_experts={self.n_experts}; change one of them"
            )
        for name in ("correction_counted", "correction_on_logits"):
            if getattr(self, name) and not self.correction_bias:
                raise ValueError(f"{name} needs a correction_bias; set it, or leave {name} out")
        if self.router_scores == "sparsemixer":
            self._check_sparsemixer()
        if not self.n_shared_experts and (self.shared_expert_gate or self.shared_intermediate_size):
            what = "shared_expert_gate" if self.shared_expert_gate else "shared_intermediate_size"
            raise ValueError(f"{what} needs shared experts, but n_shared_experts is 0; set n_shared_experts")
        return self

    def _check_sparsemixer(self) -> None:
        unsupported = ("norm_expert_weights", "correction_bias")
        if name := next((name for name in unsupported if getattr(self, name)), None):
            raise ValueError(f"router_scores='sparsemixer' is not defined with {name}; set it to false")
        if self.n_groups_per_token < self.n_expert_groups:
            raise ValueError("router_scores='sparsemixer' is not defined with expert groups; leave them out")

    @property
    def shared_expert_width(self) -> int:
        """Width of the shared experts together; 0 without any."""
        return int(shared_expert_width(self))

    @property
    def active_width(self) -> int:
        """Width of the experts that one token passes through, routed and shared ones together."""
        return int(active_expert_width(self))


class BranchMultipliers(BaseModel):
    """The `multipliers` block of a model: constant factors on what enters and leaves its branches, as maximal
    update parametrization has them in place of learning rates of their own (Falcon-H1).

    Source: Yang et al. 2022 (Tensor Programs V), arXiv 2203.03466.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    attention_in_multiplier: PositiveFloat = Field(
        default=1.0, description="Factor on the input of attention."
    )
    attention_out_multiplier: PositiveFloat = Field(
        default=1.0, description="Factor on the output of attention."
    )
    mixer_in_multiplier: PositiveFloat = Field(
        default=1.0, description="Factor on the input of mixers other than attention."
    )
    mixer_out_multiplier: PositiveFloat = Field(default=1.0, description="Factor on their output.")
    ffn_gate_multiplier: PositiveFloat = Field(
        default=1.0, description="Factor on the gate of an FFN, before its activation."
    )
    ffn_out_multiplier: PositiveFloat = Field(default=1.0, description="Factor on the output of an FFN.")


class CountedParts(BaseModel):
    """The `counted_parts` block of a model: parts of published models that are counted, and not built.

    A model that has any of them has exact counts and FLOPs, and no module: it is not trained, nor searched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    n_altup_streams: PositiveSize | None = Field(
        default=None,
        description=(
            "Residual streams side by side, of which each layer computes one and predicts the others (AltUp, "
            "Gemma 3n: 4)."
        ),
    )
    laurel_rank: PositiveSize | None = Field(
        default=None,
        description="Rank of a learned linear branch beside attention (LAuReL, Gemma 3n: 64).",
    )
    attention_gate_bias: bool = Field(
        default=False, description="Give the gates of each head one bias (Beam)."
    )
    attention_experts: bool = Field(
        default=False,
        description=(
            "Route a token's query heads and their output projections by experts too, and give both mixtures "
            "a bias (JetMoE)."
        ),
    )
    last_attention_out_bias: bool = Field(
        default=False,
        description="Bias on the attention output projection of the last layer alone (GPT-NeoX-Japanese).",
    )
    head_transform: HeadTransform = Field(
        default="none",
        description=(
            "A projection of the stream before the output head, with an activation and a norm: without a "
            "bias (plain, ModernBERT) or with one (biased)."
        ),
    )
    no_first_norm: bool = Field(
        default=False, description="Leave out the norm before the first layer's attention (ModernBERT)."
    )
    dynamic_mask: bool = Field(
        default=False,
        description=(
            "Learned masks made of the values, and a learned scale of the stream before each branch is added "
            "(Doge)."
        ),
    )
    shortcut_experts: bool = Field(
        default=False,
        description=(
            "Give layers with experts the dense FFN as well; what their experts compute is added behind the "
            "next layer (LongCat-Flash)."
        ),
    )
    n_zero_experts: NonNegativeSize = Field(
        default=0,
        description=(
            "Experts that return their input; the class has gate and up matrices for them and does not use "
            "those (LongCat-Flash)."
        ),
    )
    latent_gate: LatentGate = Field(
        default="none",
        description=(
            "Multiply each element that latent attention puts out by a learned gate of its input (element, "
            "Hy4), or of the query latent with and without its norm, from which queries come then too "
            "(latent, A.X K2)."
        ),
    )
    gated_norm_rank: PositiveSize | None = Field(
        default=None,
        description=(
            "Rank of a learned gate behind the norms before attention and before experts (A.X K2: 16)."
        ),
    )
    n_hyper_streams: PositiveSize | None = Field(
        default=None,
        description=(
            "Residual streams side by side, of which each branch reads a learned mix and to all of which it "
            "is added (hyper-connections, Hy4: 4)."
        ),
    )
    n_block_index_heads: PositiveSize | None = Field(
        default=None,
        description=(
            "Heads of an indexer that chooses blocks of keys, each for a group of query heads (MiniMax-M3: "
            "4)."
        ),
    )
    block_index_head_dim: PositiveSize | None = Field(
        default=None, description="Width of one of these heads; its key is cached."
    )
    block_index_keys: PositiveSize | None = Field(
        default=None, description="Keys in the blocks that a query is left with (MiniMax-M3: 2048)."
    )
    block_indexer_pattern: Annotated[tuple[BlockIndexerUse, ...], PATTERN] = Field(
        default=("sparse",),
        description=(
            "Which layers have such an indexer, as a pattern repeated from the first layer on: full,sparse "
            "is every second one."
        ),
    )
    n_shared_blocks: PositiveSize | None = Field(
        default=None,
        description=(
            "Blocks of attention and an FFN that all layers with attention take turns to use, in front of "
            "their mixer; attention reads the stream and the embedding side by side (Zamba: 1)."
        ),
    )
    shared_adapter_rank: PositiveSize | None = Field(
        default=None,
        description=(
            "Rank of what each use of a shared block adds to the gate and up projections of its FFN (Zamba2: "
            "128)."
        ),
    )
    shared_attention_adapters: bool = Field(
        default=False,
        description="Each use adds as much to queries, keys and values of the block too (Zamba2).",
    )
