"""Mixture of experts: many feed-forward networks in a layer, of which a router picks a few for each token."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from parambudget.arch.pattern import layers_of, word_of
from parambudget.arch.sizes import PATTERN, Count, PositiveFloat, Size, divisors


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
