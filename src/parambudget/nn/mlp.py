"""The feed-forward network of a layer, dense or a mixture of experts: each token on its own.

B batch   T tokens   D dim   F width between the matrices
N tokens of all sequences   E experts   K experts per token
M rows, one for each token and expert of it   I, O columns into and out of a matrix
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.arch.blocks import MoEConfig
from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import expert_dim
from parambudget.nn.linear import JoinedLinear, Linear
from parambudget.nn.norms import Norm

ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}
SPARSE_MIXER_JITTER: Final = 0.01
"""Half the relative distance from the best logit up to which others count, as in Phi-3.5-MoE."""
_XIELU_BETA: Final = 0.5
_ROW_MULTIPLE: Final = 8
"""Elements of bfloat16 in 16 bytes."""


class FeedForward(nn.Module):
    """Two matrices around an activation, or three with a gate."""

    def __init__(self, m: ModelConfig, width: int, *, bias: bool, dim: int | None = None) -> None:
        super().__init__()
        dim = m.dim if dim is None else dim
        self.activation = XIELU() if m.activation == "xielu" else FFNActivation(m)
        self.gate = Linear(dim, width, bias=bias) if m.gated else None
        self.up = Linear(dim, width, bias=bias)
        self.sub_norm = Norm(m, width) if m.sub_norms else nn.Identity()
        self.down = Linear(width, dim, bias=bias)
        self.gate_up = JoinedLinear(self.gate, self.up) if self.gate is not None else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Each token on its own, (B, T, D)."""
        if self.gate_up is None:
            return self.down(self.sub_norm(self.activation(None, self.up(x_BTD))))
        gate_BTF, up_BTF = self.gate_up(x_BTD)
        return self.down(self.sub_norm(self.activation(gate_BTF, up_BTF)))


class FFNActivation:
    """What happens between the matrices: the activation, the gate and the clamp."""

    def __init__(self, m: ModelConfig) -> None:
        self.activation, self.clamp = ACTIVATIONS[m.activation], m.ffn_clamp
        self.gate_multiplier = m.multipliers.ffn_gate_multiplier if m.multipliers else 1.0

    def __call__(self, gate: Tensor | None, up: Tensor) -> Tensor:
        """The activation of `up`; with a gate `up` times the activation of the gate."""
        if gate is None:
            return self.activation(up)
        if self.gate_multiplier != 1:
            gate = gate * self.gate_multiplier
        if self.clamp is not None:
            gate, up = gate.clamp(max=self.clamp), up.clamp(-self.clamp, self.clamp) + 1
        return self.activation(gate) * up


class XIELU(nn.Module):
    """xIELU: quadratic above zero and exponential below, with a learned strength each, plus beta * x.

    Source: Huang and Schlag 2024, arXiv 2411.13010. As in its class in transformers, constants are buffers.
    """

    beta: Tensor
    eps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.alpha_p, self.alpha_n = nn.Parameter(torch.empty(1)), nn.Parameter(torch.empty(1))
        self.register_buffer("beta", torch.empty(()))
        self.register_buffer("eps", torch.empty(()))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Strengths of 0.8 on both sides."""
        self.beta.fill_(_XIELU_BETA)
        self.eps.fill_(-1e-6)
        for parameter, strength in ((self.alpha_p, 0.8), (self.alpha_n, 0.8 - _XIELU_BETA)):
            parameter.fill_(math.log(math.expm1(strength)))

    def forward(self, _: None, x: Tensor) -> Tensor:
        """The activation of an FFN without gate, in the dtype of `x`."""
        above = F.softplus(self.alpha_p.squeeze())
        below = self.beta + F.softplus(self.alpha_n.squeeze())
        positive = above.to(x.dtype) * x.square()
        negative = below.to(x.dtype) * (torch.expm1(torch.minimum(x, self.eps.to(x.dtype))) - x)
        return torch.where(x > 0, positive, negative) + self.beta.to(x.dtype) * x


class Routing(NamedTuple):
    """Where the tokens of one forward pass were sent."""

    load_E: Tensor
    """Tokens sent to each expert."""
    load_balancing_loss: Tensor


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
        latent, width = moe.expert_latent_size, moe.shared_expert_width
        self.latent_in = Linear(m.dim, latent, bias=m.ffn_bias) if latent else nn.Identity()
        self.latent_out = Linear(latent, m.dim, bias=m.ffn_bias) if latent else nn.Identity()
        self.shared = FeedForward(m, width, bias=m.ffn_bias) if width else None
        self.shared_gate = nn.Linear(m.dim, 1, bias=False) if moe.shared_expert_gate else None
        self.out_norm = Norm(m, m.dim) if moe.experts_out_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, router_BTD: Tensor | None = None) -> tuple[Tensor, Routing | None]:
        """Each token through its own experts, (B, T, D), and where the tokens were sent if they are to be
        counted. The router reads what its experts read, unless it is given something else.

        The caller counts them, with `count`: this runs twice where a layer is recomputed.
        """
        shared_BTD = self.shared(x_BTD) if self.shared is not None else None
        if shared_BTD is not None and self.shared_gate is not None:
            shared_BTD = torch.sigmoid(self.shared_gate(x_BTD)) * shared_BTD
        x_ND = x_BTD.flatten(0, 1)
        logits_NE = self.logits(x_ND if router_BTD is None else router_BTD.flatten(0, 1))
        scores_NE = router_scores(logits_NE, self.moe)
        weights_NK, experts_NK = self.select(logits_NE, scores_NE)
        order, routing = ExpertOrder.of(experts_NK, self.moe.n_experts), None
        if self.load is not None and torch.is_grad_enabled():
            load_E = order.tokens_per_expert().to(self.load.dtype)
            routing = Routing(load_E, load_balancing_loss(scores_NE, load_E))
        at_once = runs_at_once(x_ND.device.type, x_ND.dtype, experts_NK.numel(), self.moe.n_experts)
        run = self._run_at_once if at_once else self._run_in_turn
        routed_BTD = self.latent_out(run(self.latent_in(x_ND), weights_NK, order)).view_as(x_BTD)
        summed_BTD = routed_BTD if shared_BTD is None else routed_BTD + shared_BTD
        return self.out_norm(summed_BTD), routing

    def select(self, logits_NE: Tensor, scores_NE: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of each token's experts, and which experts they are, (N, K) each."""
        if self.moe.router_scores == "sparsemixer":
            return sparse_mixer(logits_NE, self.moe)
        choice_NE = logits_NE if self.moe.correction_on_logits else scores_NE
        return select_experts(scores_NE, self.correction, self.moe, choice_NE)

    def count(self, routing: Routing) -> None:
        """Add a forward pass to what is counted."""
        assert self.load is not None
        self.load = self.load + routing.load_E
        self.load_balancing_loss = routing.load_balancing_loss

    def logits(self, x_ND: Tensor) -> Tensor:
        """The router's logits, in float32 or better: the choice depends on small differences."""
        exact = torch.promote_types(x_ND.dtype, torch.float32)
        weight, bias = self.router.weight, self.router.bias
        with torch.autocast(x_ND.device.type, enabled=False):
            return F.linear(x_ND.to(exact), weight.to(exact), None if bias is None else bias.to(exact))

    def _run_at_once(self, x_ND: Tensor, weights_NK: Tensor, order: "ExpertOrder") -> Tensor:
        """The weighted sum of the outputs of each token's experts. The host waits for nothing: all shapes are
        known before it is known how many tokens an expert gets."""
        n_per_token = weights_NK.shape[1]
        by_token_MD = x_ND.unsqueeze(1).expand(-1, n_per_token, -1)
        if self.moe.weights_on_inputs:
            by_token_MD = by_token_MD * weights_NK.unsqueeze(-1).to(x_ND.dtype)
        by_token_MD = by_token_MD.flatten(0, 1)
        by_expert_MD = permute_rows(by_token_MD, order.by_expert, order.by_token)
        outputs_MD = self.experts.run_at_once(by_expert_MD, order.ends)
        outputs_MD = permute_rows(outputs_MD, order.by_token, order.by_expert)
        return self._sum_of_outputs(outputs_MD, weights_NK)

    # How many tokens an expert gets is known only at run time: compiled, each number would be a new program.
    @torch.compiler.disable
    def _run_in_turn(self, x_ND: Tensor, weights_NK: Tensor, order: "ExpertOrder") -> Tensor:
        """The same, one expert after another."""
        # An expert without tokens runs on an empty part, so that its weights get a gradient of 0 and not
        # None.
        rows_MD = x_ND[order.by_expert // weights_NK.shape[1]]
        if self.moe.weights_on_inputs:
            rows_MD = rows_MD * weights_NK.flatten()[order.by_expert].unsqueeze(-1).to(rows_MD.dtype)
        outputs = torch.cat(self.experts(rows_MD.split(order.tokens_per_expert().tolist())))
        return self._sum_of_outputs(outputs[order.by_token], weights_NK)

    def _sum_of_outputs(self, outputs_MD: Tensor, weights_NK: Tensor) -> Tensor:
        """Of each token's experts; weighted, unless their inputs were."""
        outputs_NKD = outputs_MD.unflatten(0, weights_NK.shape)
        if self.moe.weights_on_inputs:
            return outputs_NKD.sum(1)
        return (outputs_NKD * weights_NK.unsqueeze(-1).to(outputs_NKD.dtype)).sum(1)


class ExpertsBesideFFN(MixtureOfExperts):
    """Experts beside a dense FFN: their router reads the residual stream itself, normalized and with a
    learned scale, and each expert has a learned factor."""

    def __init__(self, m: ModelConfig, moe: MoEConfig) -> None:
        super().__init__(m, moe)
        self.input_norm = Norm(m, m.dim, weight=False, bias=False)
        self.input_scale = nn.Parameter(torch.ones(m.dim))
        self.expert_scale = nn.Parameter(torch.ones(moe.n_experts))

    def logits(self, x_ND: Tensor) -> Tensor:
        """The router's logits of the residual stream."""
        width = x_ND.shape[-1]
        return super().logits(self.input_norm(x_ND) * self.input_scale * width**-0.5)

    def select(self, logits_NE: Tensor, scores_NE: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of each token's experts, and which experts they are, (N, K) each."""
        weights_NK, experts_NK = super().select(logits_NE, scores_NE)
        return weights_NK * self.expert_scale[experts_NK], experts_NK


def runs_at_once(device_type: str, dtype: torch.dtype, n_rows: int, n_experts: int) -> bool:
    """Whether experts are multiplied by one grouped matmul: in bfloat16 on a GPU.

    Not where there are fewer rows than experts, as when text is generated: most experts would have nothing to
    do, and the weights of all would be cast for it.
    """
    return device_type == "cuda" and dtype is torch.bfloat16 and n_rows >= n_experts


class ExpertOrder(NamedTuple):
    """The M = N * K pairs of a token and an expert of it, brought together by expert."""

    by_expert: Tensor
    """Which pair, counted token by token, stands at each place, (M,)."""
    by_token: Tensor
    """The place of each pair, (M,)."""
    ends: Tensor
    """The place behind the last pair of each expert, (E,), int32."""

    @classmethod
    def of(cls, experts_NK: Tensor, n_experts: int) -> Self:
        """The order for the experts that were chosen."""
        sorted_M, by_expert = experts_NK.flatten().sort(stable=True)
        places = torch.arange(len(by_expert), device=by_expert.device)
        by_token = torch.empty_like(by_expert).scatter_(0, by_expert, places)
        # Looked up and not counted: the host would wait for bincount, whose result can be of any size.
        numbers = torch.arange(n_experts, device=by_expert.device)
        return cls(by_expert, by_token, torch.searchsorted(sorted_M, numbers, right=True, out_int32=True))

    def tokens_per_expert(self) -> Tensor:
        """How many tokens each expert gets, (E,)."""
        return self.ends.diff(prepend=self.ends.new_zeros(1))


def permute_rows(x_MD: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """The rows in another order. Their gradients are put back in the inverse one: torch, which does not know
    that no row occurs twice, would add them up one by one."""
    return cast(Tensor, _PermuteRows.apply(x_MD, order, inverse))


class _PermuteRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x_MD[order]

    @staticmethod
    def backward(ctx: Any, gradient_MD: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradient_MD[inverse], None, None


def grouped_linear(x_MI: Tensor, weight_EOI: Tensor, bias_EO: Tensor | None, ends: Tensor) -> Tensor:
    """Every row times the matrix of its own expert, (M, O), by torch's grouped matmul: expert e has the rows
    before `ends[e]` that no expert before it has.

    The operator takes no bias, and only rows of a multiple of 16 bytes. So the bias is one more column of the
    matrix, for an input that is always 1, and columns and rows of zeros make up the rest. On GPUs of compute
    capability 9.0 and 10.0 it is one kernel; on others torch waits for `ends` and multiplies the groups one
    after another.

    Source: aten/src/ATen/native/cuda/GroupedBlas.cpp of PyTorch, commit 00d4eaf.
    """
    n_out = weight_EOI.shape[1]
    if bias_EO is not None:
        x_MI, weight_EOI = F.pad(x_MI, (0, 1), value=1.0), torch.cat((weight_EOI, bias_EO.unsqueeze(-1)), -1)
    missing_in, missing_out = (-n % _ROW_MULTIPLE for n in (weight_EOI.shape[2], n_out))
    if missing_in:
        x_MI = F.pad(x_MI, (0, missing_in))
    if missing_in or missing_out:
        weight_EOI = F.pad(weight_EOI, (0, missing_in, 0, missing_out))
    return F.grouped_mm(x_MI, weight_EOI.transpose(1, 2), offs=ends)[:, :n_out]


class GroupedLinear:
    """One or more linear maps of each expert, given expert by expert, multiplied as one matrix each. No
    module: the parts belong to the experts."""

    def __init__(self, n_experts: int, parts: Sequence[Linear]) -> None:
        self.n_experts, self.parts = n_experts, tuple(parts)
        self.compute_weight: Tensor | None = None
        """A leaf that stands for the rows of all parts in lower precision."""

    def __call__(self, x_MI: Tensor, ends: Tensor) -> Tensor:
        """The maps of rows that are sorted by expert, (M, O)."""
        weight, shape = self.compute_weight, (self.n_experts, -1)
        if weight is None:
            weight = torch.cat([part.weight.to(x_MI.dtype) for part in self.parts])
        biases = [part.bias.to(x_MI.dtype) for part in self.parts if part.bias is not None]
        bias_EO = torch.cat(biases).unflatten(0, shape) if biases else None
        return grouped_linear(x_MI, weight.unflatten(0, shape), bias_EO, ends)


class SeparateExperts(nn.ModuleList):
    """A feed-forward network for each expert."""

    def __init__(self, m: ModelConfig, moe: MoEConfig) -> None:
        width, bias = moe.expert_intermediate_size, moe.expert_bias
        dim = moe.expert_latent_size
        experts = [FeedForward(m, width, bias=bias, dim=dim) for _ in range(moe.n_experts)]
        super().__init__(experts)
        self.activation, self.is_gated = FFNActivation(m), m.gated
        into = [part for expert in experts for part in (expert.gate, expert.up) if part is not None]
        self.into = GroupedLinear(moe.n_experts, into)
        self.down = GroupedLinear(moe.n_experts, [expert.down for expert in experts])

    def forward(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Each expert's output for its own tokens, (n, D) each."""
        return [expert(part_ND) for expert, part_ND in zip(self, parts, strict=True)]

    def run_at_once(self, x_MD: Tensor, ends: Tensor) -> Tensor:
        """The outputs of rows that are sorted by expert, (M, D)."""
        into = self.into(x_MD, ends)
        gate, up = into.chunk(2, dim=-1) if self.is_gated else (None, into)
        return self.down(self.activation(gate, up), ends)


class FusedExperts(nn.Module):
    """The same networks, each matrix of all experts in one tensor."""

    def __init__(self, m: ModelConfig, moe: MoEConfig) -> None:
        super().__init__()
        width, bias = moe.expert_intermediate_size, moe.expert_bias
        self.activation = FFNActivation(m)
        dim = expert_dim(m)
        self.gate = StackedLinear(moe.n_experts, dim, width, bias=bias) if m.gated else None
        self.up = StackedLinear(moe.n_experts, dim, width, bias=bias)
        self.down = StackedLinear(moe.n_experts, width, dim, bias=bias)

    def forward(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Each expert's output for its own tokens, (n, D) each."""
        gates = [None] * len(parts) if self.gate is None else self.gate(parts)
        return self.down([self.activation(gate, up) for gate, up in zip(gates, self.up(parts), strict=True)])

    def run_at_once(self, x_MD: Tensor, ends: Tensor) -> Tensor:
        """The outputs of rows that are sorted by expert, (M, D)."""
        gate = None if self.gate is None else self.gate.run_at_once(x_MD, ends)
        return self.down.run_at_once(self.activation(gate, self.up.run_at_once(x_MD, ends)), ends)


class StackedLinear(nn.Module):
    """A linear map for each expert, all weights in one tensor."""

    compute_weight: Tensor | None = None
    """A leaf that stands for the weight in lower precision, where the experts run at once."""

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

    def run_at_once(self, x_MI: Tensor, ends: Tensor) -> Tensor:
        """The maps of rows that are sorted by expert, (M, O)."""
        weight = self.weight.to(x_MI.dtype) if self.compute_weight is None else self.compute_weight
        return grouped_linear(x_MI, weight, None if self.bias is None else self.bias.to(x_MI.dtype), ends)


def select_experts(
    scores_NE: Tensor, correction_E: Tensor | None, moe: MoEConfig, choice_NE: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The weights of each token's experts, and which experts they are, (N, K) each. They are chosen by their
    scores, or by what is given in place of those.

    Sources: Jiang et al. 2024 (Mixtral), arXiv 2401.04088, section 2.1; DeepSeek-AI 2024 (V2 and V3), arXiv
    2405.04434, section 2.2, and 2412.19437, section 2.1.2, for expert groups and the correction.
    """
    choice_NE = (scores_NE if choice_NE is None else choice_NE).detach()
    choice_NE = choice_NE if correction_E is None else choice_NE + correction_E
    if moe.n_groups_per_token < moe.n_expert_groups:
        choice_NE = _restrict_to_best_groups(choice_NE, moe)
    experts_NK = choice_NE.topk(moe.n_experts_per_token, sorted=False).indices
    weights_NK = scores_NE.gather(-1, experts_NK)
    if moe.norm_expert_weights:
        weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20)
    return weights_NK * moe.routing_multiplier, experts_NK


def sparse_mixer(logits_NE: Tensor, moe: MoEConfig) -> tuple[Tensor, Tensor]:
    """The same by the sparse mixer: one expert after another, each with its share of a softmax over those
    experts not chosen before it whose logits are close to its own.

    The best is chosen in training too, where the class of Phi-3.5-MoE draws one. Source: Liu et al. 2023,
    arXiv 2310.00811, as in the class PhimoeTopKRouter of Hugging Face transformers.
    """
    left_NE = logits_NE
    weights, experts = [], []
    for _ in range(moe.n_experts_per_token):
        best_N1, expert_N1 = left_NE.max(-1, keepdim=True)
        scale_NE = logits_NE.abs().clamp(min=best_N1)
        far_NE = (best_N1 - left_NE) / scale_NE > 2 * SPARSE_MIXER_JITTER
        weights.append(left_NE.masked_fill(far_NE, -torch.inf).softmax(-1).gather(-1, expert_N1))
        experts.append(expert_N1)
        left_NE = left_NE.scatter(-1, expert_N1, -torch.inf)
    return torch.cat(weights, dim=-1) * moe.routing_multiplier, torch.cat(experts, dim=-1)


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
