"""The optional blocks of a model's config: a mixture of experts, and multi-head latent attention."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from parambudget.arch.dims import (
    FFNKind,
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
            "chosen experts."
        ),
    )
    correction_bias: bool = Field(
        default=False,
        description=(
            "Choose experts by their scores plus a bias that balances them; it is a buffer, not a parameter "
            "(DeepSeek-V3)."
        ),
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
        if not self.n_shared_experts and (self.shared_expert_gate or self.shared_intermediate_size):
            what = "shared_expert_gate" if self.shared_expert_gate else "shared_intermediate_size"
            raise ValueError(f"{what} needs shared experts, but n_shared_experts is 0; set n_shared_experts")
        return self

    @property
    def shared_expert_width(self) -> int:
        """Width of the shared experts together; 0 without any."""
        return int(shared_expert_width(self))

    @property
    def active_width(self) -> int:
        """Width of the experts that one token passes through, routed and shared ones together."""
        return int(active_expert_width(self))
