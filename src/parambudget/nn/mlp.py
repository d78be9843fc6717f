"""The feed-forward network of a layer, dense or a mixture of experts: each token on its own.

B batch   T tokens   D dim   F width between the matrices
N tokens of all sequences   E experts   K experts per token
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.arch.blocks import MoEConfig
from parambudget.arch.config import ModelConfig
from parambudget.nn.linear import JoinedLinear, Linear

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
        self.activation = FFNActivation(m)
        self.gate = Linear(m.dim, width, bias=bias) if m.gated else None
        self.up = Linear(m.dim, width, bias=bias)
        self.down = Linear(width, m.dim, bias=bias)
        self.gate_up = JoinedLinear(self.gate, self.up) if self.gate is not None else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Each token on its own, (B, T, D)."""
        if self.gate_up is None:
            return self.down(self.activation(None, self.up(x_BTD)))
        gate_BTF, up_BTF = self.gate_up(x_BTD)
        return self.down(self.activation(gate_BTF, up_BTF))


class FFNActivation:
    """What happens between the matrices: the activation, the gate and the clamp."""

    def __init__(self, m: ModelConfig) -> None:
        self.activation, self.clamp = ACTIVATIONS[m.activation], m.ffn_clamp

    def __call__(self, gate: Tensor | None, up: Tensor) -> Tensor:
        """The activation of `up`; with a gate `up` times the activation of the gate."""
        if gate is None:
            return self.activation(up)
        if self.clamp is not None:
            gate, up = gate.clamp(max=self.clamp), up.clamp(-self.clamp, self.clamp) + 1
        return self.activation(gate) * up


class MixtureOfExperts(nn.Module):
    """Routed experts, and shared ones that every token passes through. No token is dropped."""

    correction: Tensor | None
    """The bias on the router's scores that decides which experts are chosen and not how much they count."""
    load: Tensor | None = None
    """Tokens sent to each expert while training, (E,); counted once a caller has set it to zeros."""
    load_balancing_loss: Tensor | None = None
    """Of the last forward pass whose tokens were counted."""

    def __init__(self, m: ModelConfig, moe: MoEConfig) -> None:
        super().__init__()
        self.moe = moe
        self.router = nn.Linear(m.dim, moe.n_experts, bias=moe.router_bias)
        # A buffer, as in the Hugging Face classes: no gradient reaches it.
        self.register_buffer("correction", torch.zeros(moe.n_experts) if moe.correction_bias else None)
        self.experts = FusedExperts(m, moe) if moe.fused_experts else SeparateExperts(m, moe)
        width = moe.shared_expert_width
        self.shared = FeedForward(m, width, bias=m.ffn_bias) if width else None
        self.shared_gate = nn.Linear(m.dim, 1, bias=False) if moe.shared_expert_gate else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Each token through its own experts, (B, T, D)."""
        shared_BTD = self.shared(x_BTD) if self.shared is not None else None
        if shared_BTD is not None and self.shared_gate is not None:
            shared_BTD = torch.sigmoid(self.shared_gate(x_BTD)) * shared_BTD
        scores_NE = router_scores(self.logits(x_BTD.flatten(0, 1)), self.moe)
        weights_NK, experts_NK = select_experts(scores_NE, self.correction, self.moe)
        if self.load is not None and torch.is_grad_enabled():
            load_E = F.one_hot(experts_NK, self.moe.n_experts).sum((0, 1)).to(self.load.dtype)
            self.load = self.load + load_E
            self.load_balancing_loss = load_balancing_loss(scores_NE, load_E)
        routed_BTD = self._run_experts(x_BTD.flatten(0, 1), weights_NK, experts_NK).view_as(x_BTD)
        return routed_BTD if shared_BTD is None else routed_BTD + shared_BTD

    def logits(self, x_ND: Tensor) -> Tensor:
        """The router's logits, in float32 or better: the choice depends on small differences."""
        exact = torch.promote_types(x_ND.dtype, torch.float32)
        weight, bias = self.router.weight, self.router.bias
        with torch.autocast(x_ND.device.type, enabled=False):
            return F.linear(x_ND.to(exact), weight.to(exact), None if bias is None else bias.to(exact))

    # How many tokens an expert gets is known only at run time: compiled, each number would be a new program.
    @torch.compiler.disable
    def _run_experts(self, x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor) -> Tensor:
        """The weighted sum of the outputs of each token's experts."""
        n_experts, n_per_token = self.moe.n_experts, experts_NK.shape[1]
        order = experts_NK.flatten().argsort(stable=True)
        tokens_per_expert = torch.bincount(experts_NK.flatten(), minlength=n_experts).tolist()
        # An expert without tokens runs on an empty part, so that its weights get a gradient of 0 and not
        # None.
        parts = x_ND[order // n_per_token].split(tokens_per_expert)
        outputs = torch.cat(self.experts(parts))
        outputs_NKD = outputs[order.argsort()].unflatten(0, (-1, n_per_token))
        return (outputs_NKD * weights_NK.unsqueeze(-1).to(outputs.dtype)).sum(1)


class SeparateExperts(nn.ModuleList):
    """A feed-forward network for each expert."""

    def __init__(self, m: ModelConfig, moe: MoEConfig) -> None:
        width, bias = moe.expert_intermediate_size, moe.expert_bias
        super().__init__(FeedForward(m, width, bias=bias) for _ in range(moe.n_experts))

    def forward(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Each expert's output for its own tokens, (n, D) each."""
        return [expert(part_ND) for expert, part_ND in zip(self, parts, strict=True)]


class FusedExperts(nn.Module):
    """The same networks, each matrix of all experts in one tensor."""

    def __init__(self, m: ModelConfig, moe: MoEConfig) -> None:
        super().__init__()
        width, bias = moe.expert_intermediate_size, moe.expert_bias
        self.activation = FFNActivation(m)
        self.gate = StackedLinear(moe.n_experts, m.dim, width, bias=bias) if m.gated else None
        self.up = StackedLinear(moe.n_experts, m.dim, width, bias=bias)
        self.down = StackedLinear(moe.n_experts, width, m.dim, bias=bias)

    def forward(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Each expert's output for its own tokens, (n, D) each."""
        gates = [None] * len(parts) if self.gate is None else self.gate(parts)
        return self.down([self.activation(gate, up) for gate, up in zip(gates, self.up(parts), strict=True)])


class StackedLinear(nn.Module):
    """A linear map for each expert, all weights in one tensor."""

    def __init__(self, n_experts: int, into: int, out: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_experts, out, into))
        self.bias = nn.Parameter(torch.zeros(n_experts, out)) if bias else None
        nn.init.normal_(self.weight, 0.0, into**-0.5)

    def forward(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Each expert's map of its own part."""
        # Unbound at once: the gradient of a single slice would have the size of the whole tensor.
        biases = [None] * len(parts) if self.bias is None else self.bias.unbind()
        return [F.linear(*args) for args in zip(parts, self.weight.unbind(), biases, strict=True)]


def select_experts(scores_NE: Tensor, correction_E: Tensor | None, moe: MoEConfig) -> tuple[Tensor, Tensor]:
    """The weights of each token's experts, and which experts they are, (N, K) each.

    Sources: Jiang et al. 2024 (Mixtral), arXiv 2401.04088, section 2.1; DeepSeek-AI 2024 (V2 and V3), arXiv
    2405.04434, section 2.2, and 2412.19437, section 2.1.2, for expert groups and the correction.
    """
    choice_NE = scores_NE.detach() if correction_E is None else scores_NE.detach() + correction_E
    if moe.n_groups_per_token < moe.n_expert_groups:
        choice_NE = _restrict_to_best_groups(choice_NE, moe)
    experts_NK = choice_NE.topk(moe.n_experts_per_token, sorted=False).indices
    weights_NK = scores_NE.gather(-1, experts_NK)
    if moe.norm_expert_weights:
        weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20)
    return weights_NK * moe.routing_multiplier, experts_NK


def router_scores(logits_NE: Tensor, moe: MoEConfig) -> Tensor:
    """The router's score of each expert for each token, between 0 and 1."""
    return logits_NE.sigmoid() if moe.router_scores == "sigmoid" else logits_NE.softmax(-1)


def load_balancing_loss(scores_NE: Tensor, load_E: Tensor) -> Tensor:
    """The number of experts times the sum, over experts, of the share of tokens times the mean share of
    scores.

    1 when all experts get equally many tokens, up to the number of experts when one gets them all. The
    gradient flows through the scores alone.

    Source: Fedus et al. 2021 (Switch Transformer), arXiv 2101.03961, section 2.2; for sigmoid scores
    DeepSeek-AI 2024 (V3), arXiv 2412.19437, section 2.1.2.
    """
    share_NE = scores_NE / scores_NE.sum(-1, keepdim=True)
    return len(load_E) * (load_E / load_E.sum() * share_NE.mean(0)).sum()


def _restrict_to_best_groups(choice_NE: Tensor, moe: MoEConfig) -> Tensor:
    """The scores, minus infinity outside each token's best groups."""
    grouped = choice_NE.unflatten(-1, (moe.n_expert_groups, -1))
    n_counted = 2 if moe.router_scores == "sigmoid" else 1
    group_scores = grouped.topk(min(n_counted, grouped.shape[-1])).values.sum(-1)
    best = group_scores.topk(moe.n_groups_per_token, sorted=False).indices
    excluded = torch.ones_like(group_scores, dtype=torch.bool).scatter(-1, best, False)
    return grouped.masked_fill(excluded.unsqueeze(-1), -torch.inf).flatten(-2)
