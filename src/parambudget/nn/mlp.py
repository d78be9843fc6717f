"""The feed-forward network of a layer: every token by itself.

B batch   T tokens   D dim   F width between the matrices
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.arch.blocks import MoEConfig
from parambudget.arch.config import ModelConfig

ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


class FeedForward(nn.Module):
    """Two matrices around an activation, or three with a gate."""

    def __init__(self, m: ModelConfig, width: int, *, bias: bool) -> None:
        super().__init__()
        self.inner = Inner(m)
        self.gate = nn.Linear(m.dim, width, bias=bias) if m.gated else None
        self.up = nn.Linear(m.dim, width, bias=bias)
        self.down = nn.Linear(width, m.dim, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Every token by itself."""
        if self.gate is None:
            return self.down(self.inner(None, self.up(x_BTD)))
        return self.down(self.inner(self.gate(x_BTD), self.up(x_BTD)))


class Inner:
    """What happens between the matrices."""

    def __init__(self, m: ModelConfig) -> None:
        self.activation, self.clamp = ACTIVATIONS[m.activation], m.ffn_clamp

    def __call__(self, gate: Tensor | None, up: Tensor) -> Tensor:
        """The activation, of the gate where there is one."""
        if gate is None:
            return self.activation(up)
        if self.clamp is not None:
            gate, up = gate.clamp(max=self.clamp), up.clamp(-self.clamp, self.clamp) + 1
        return self.activation(gate) * up


class MixtureOfExperts(nn.Module):
    """Routed experts, and shared ones that every token meets. No token is dropped."""

    correction: Tensor | None
    load: Tensor | None = None
    """Tokens sent to each expert while learning, (E,); counted only where somebody has set it to zeros."""
    unevenness: Tensor | None = None
    """Of the last forward pass that was counted: see `unevenness`."""

    def __init__(self, m: ModelConfig, moe: MoEConfig) -> None:
        super().__init__()
        self.moe = moe
        self.router = nn.Linear(m.dim, moe.n_experts, bias=moe.router_bias)
        # As in the Hugging Face classes a buffer: no gradient reaches it.
        self.register_buffer("correction", torch.zeros(moe.n_experts) if moe.correction_bias else None)
        self.experts = FusedExperts(m, moe) if moe.fused_experts else SingleExperts(m, moe)
        width = moe.shared_expert_width
        self.shared = FeedForward(m, width, bias=m.ffn_bias) if width else None
        self.shared_gate = nn.Linear(m.dim, 1, bias=False) if moe.shared_expert_gate else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Every token by itself, each through its experts."""
        shared_BTD = self.shared(x_BTD) if self.shared is not None else None
        if shared_BTD is not None and self.shared_gate is not None:
            shared_BTD = torch.sigmoid(self.shared_gate(x_BTD)) * shared_BTD
        scores_NE = scores(self.logits(x_BTD.flatten(0, 1)), self.moe)
        weights_NK, chosen_NK = chosen_experts(scores_NE, self.correction, self.moe)
        if self.load is not None and torch.is_grad_enabled():
            sent_E = F.one_hot(chosen_NK, self.moe.n_experts).sum((0, 1)).to(self.load.dtype)
            self.load = self.load + sent_E
            self.unevenness = unevenness(scores_NE, sent_E)
        routed_BTD = self._routed(x_BTD.flatten(0, 1), weights_NK, chosen_NK).view_as(x_BTD)
        return routed_BTD if shared_BTD is None else routed_BTD + shared_BTD

    def logits(self, x_ND: Tensor) -> Tensor:
        """The router's logits, in float32 or better: the choice hangs on small differences."""
        exact = torch.promote_types(x_ND.dtype, torch.float32)
        weight, bias = self.router.weight, self.router.bias
        with torch.autocast(x_ND.device.type, enabled=False):
            return F.linear(x_ND.to(exact), weight.to(exact), None if bias is None else bias.to(exact))

    # How many tokens an expert gets is known only when it runs: compiled, each number would be a new program.
    @torch.compiler.disable
    def _routed(self, x_ND: Tensor, weights_NK: Tensor, chosen_NK: Tensor) -> Tensor:
        """The weighted sum of what each token's experts make of it."""
        n_experts, n_chosen = self.moe.n_experts, chosen_NK.shape[1]
        order = chosen_NK.flatten().argsort(stable=True)
        many = torch.bincount(chosen_NK.flatten(), minlength=n_experts).tolist()
        # An expert without tokens runs on none, so that its weights get a gradient of 0 and not none at all.
        parts = x_ND[order // n_chosen].split(many)
        fed = torch.cat(self.experts(parts))
        fed_NKD = fed[order.argsort()].unflatten(0, (-1, n_chosen))
        return (fed_NKD * weights_NK.unsqueeze(-1).to(fed.dtype)).sum(1)


class SingleExperts(nn.ModuleList):
    """A feed-forward network for every expert."""

    def __init__(self, m: ModelConfig, moe: MoEConfig) -> None:
        width, bias = moe.expert_intermediate_size, moe.expert_bias
        super().__init__(FeedForward(m, width, bias=bias) for _ in range(moe.n_experts))

    def forward(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """What each expert makes of its tokens, (n, D) each."""
        return [expert(part_ND) for expert, part_ND in zip(self, parts, strict=True)]


class FusedExperts(nn.Module):
    """The same matrices, those of all experts in one tensor."""

    def __init__(self, m: ModelConfig, moe: MoEConfig) -> None:
        super().__init__()
        width, bias = moe.expert_intermediate_size, moe.expert_bias
        self.inner = Inner(m)
        self.gate = StackedLinear(moe.n_experts, m.dim, width, bias=bias) if m.gated else None
        self.up = StackedLinear(moe.n_experts, m.dim, width, bias=bias)
        self.down = StackedLinear(moe.n_experts, width, m.dim, bias=bias)

    def forward(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """What each expert makes of its tokens, (n, D) each."""
        gates = [None] * len(parts) if self.gate is None else self.gate(parts)
        return self.down([self.inner(*each) for each in zip(gates, self.up(parts), strict=True)])


class StackedLinear(nn.Module):
    """One linear map for every expert."""

    def __init__(self, n_experts: int, into: int, out: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_experts, out, into))
        self.bias = nn.Parameter(torch.zeros(n_experts, out)) if bias else None
        nn.init.normal_(self.weight, 0.0, into**-0.5)

    def forward(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The map of each expert on its part."""
        # Taken apart at once: the gradient of one picked alone has the size of all.
        biases = [None] * len(parts) if self.bias is None else self.bias.unbind()
        return [F.linear(*each) for each in zip(parts, self.weight.unbind(), biases, strict=True)]


def chosen_experts(scores_NE: Tensor, correction_E: Tensor | None, moe: MoEConfig) -> tuple[Tensor, Tensor]:
    """Every token's experts and the weights of what they answer, (N, K) each.

    Sources: Jiang et al. 2024 (Mixtral), arXiv 2401.04088, section 2.1; DeepSeek-AI 2024 (V2 and V3), arXiv
    2405.04434, section 2.2, and 2412.19437, section 2.1.2, for groups and the correction.
    """
    merit_NE = scores_NE.detach() if correction_E is None else scores_NE.detach() + correction_E
    if moe.n_groups_per_token < moe.n_expert_groups:
        merit_NE = _within_the_best_groups(merit_NE, moe)
    chosen_NK = merit_NE.topk(moe.n_experts_per_token, sorted=False).indices
    weights_NK = scores_NE.gather(-1, chosen_NK)
    if moe.norm_expert_weights:
        weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20)
    return weights_NK * moe.routing_multiplier, chosen_NK


def scores(logits_NE: Tensor, moe: MoEConfig) -> Tensor:
    """How well each expert suits each token, between 0 and 1."""
    return logits_NE.sigmoid() if moe.router_scores == "sigmoid" else logits_NE.softmax(-1)


def unevenness(scores_NE: Tensor, sent_E: Tensor) -> Tensor:
    """Experts times the sum over them of their share of the tokens times their mean share of the scores.

    1 where all get as much, up to the number of experts where one gets all. Only the scores have a gradient.

    Source: Fedus et al. 2021 (Switch Transformer), arXiv 2101.03961, section 2.2; for sigmoid scores
    DeepSeek-AI 2024 (V3), arXiv 2412.19437, section 2.1.2.
    """
    share_NE = scores_NE / scores_NE.sum(-1, keepdim=True)
    return len(sent_E) * (sent_E / sent_E.sum() * share_NE.mean(0)).sum()


def _within_the_best_groups(merit_NE: Tensor, moe: MoEConfig) -> Tensor:
    """The merits, minus infinity outside of each token's best groups."""
    grouped = merit_NE.unflatten(-1, (moe.n_expert_groups, -1))
    counted = 2 if moe.router_scores == "sigmoid" else 1
    of_group = grouped.topk(min(counted, grouped.shape[-1])).values.sum(-1)
    best = of_group.topk(moe.n_groups_per_token, sorted=False).indices
    out = torch.ones_like(of_group, dtype=torch.bool).scatter(-1, best, False)
    return grouped.masked_fill(out.unsqueeze(-1), -torch.inf).flatten(-2)
