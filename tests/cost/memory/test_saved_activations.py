"""The table of what is kept for the backward pass, held against autograd."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.saved_activations import saved_activations
from support.saved_tensors import Kept, kept_by_autograd, kept_compiled
from support.steps import step_of
from support.strategies import models
from support.tiny_model import SMALL

from parambudget.arch.config import ModelConfig
from parambudget.arch.layers import layer_kind_counts
from parambudget.arch.sizes import with_sizes
from parambudget.cost.flops import head_parameters
from parambudget.cost.memory.forward import forward
from parambudget.cost.memory.recompute import STAGES, recomputation
from parambudget.cost.memory.state import trained_parameters
from parambudget.cost.step import Backend
from parambudget.nn import mlp
from parambudget.training import bf16_weights

some = settings(max_examples=60, deadline=None)
BATCH = 3
SHARES = [percent / 100 for percent in range(1, 100)]


def together(kept: Kept) -> Counter[str, int]:
    """The bytes of each module in all: what an expert keeps depends on how many tokens chose it, what all of
    them do, does not."""
    bytes_of = Counter()
    for (name, size), many in kept.items():
        bytes_of[name] += size * many
    return +bytes_of


def in_the_table(model: ModelConfig, backend: Backend, **asked: bool) -> Kept:
    """The rows as autograd could show them: a module, a size, how often."""
    rows, n_tokens = Counter(), BATCH * model.context_length
    for row in saved_activations(model, backend, **asked):
        if row.copies:
            rows[row.name.rpartition(".")[0], row.bytes(n_tokens) // row.copies] += row.copies
    return rows


def tokens_of(model: ModelConfig) -> torch.Tensor:
    return torch.randint(model.vocab_size, (BATCH, model.context_length + 1))


@some
@pytest.mark.parametrize("bf16", [False, True])
@given(model=models(), checkpointing=st.booleans())
def test_a_forward_pass_keeps_what_the_table_says(model, bf16, checkpointing):
    kept = kept_by_autograd(model, tokens_of(model), bf16=bf16, gradient_checkpointing=checkpointing)
    backend = Backend("cpu", bf16=bf16, compiled=False)
    table = in_the_table(model, backend, checkpointing=checkpointing)
    assert together(kept) == together(table)
    assert model.moe is not None or kept == table


def test_a_loss_in_chunks_keeps_what_the_head_multiplies_and_the_targets():
    kept = kept_by_autograd(SMALL, tokens_of(SMALL), bf16=True, loss_chunks=4)
    backend = Backend("cpu", bf16=True, compiled=False)
    assert kept == in_the_table(SMALL, backend, loss_in_chunks=True)


class OneRMSNorm(torch.autograd.Function):
    """RMSNorm as CUDA computes it: in one kernel, which keeps its input and one number per row."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        rstd = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
        ctx.save_for_backward(x, rstd, weight)
        return x * rstd if weight is None else x * rstd * weight


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Norms as on CUDA: RMSNorm in one kernel (derivatives.yaml, _fused_rms_norm), and under autocast both
    kinds in float32 (ATen/autocast_mode.h)."""
    layer_norm = F.layer_norm

    def widened(x):
        return x.float() if torch.is_autocast_enabled("cpu") else x

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "rms_norm", lambda x, _, weight, eps: OneRMSNorm.apply(widened(x), weight, eps))
        patch.setattr(F, "layer_norm", lambda x, *rest: layer_norm(widened(x), *rest))
        yield


@some
@pytest.mark.parametrize("bf16", [False, True])
@given(model=models(), checkpointing=st.booleans())
def test_with_the_norms_of_cuda_a_forward_pass_keeps_what_the_table_says(model, bf16, checkpointing):
    with as_on_cuda():
        kept = kept_by_autograd(model, tokens_of(model), bf16=bf16, gradient_checkpointing=checkpointing)
    backend = Backend("cuda", bf16=bf16, compiled=False)
    table = in_the_table(model, backend, checkpointing=checkpointing)
    assert together(kept) == together(table)
    assert model.moe is not None or kept == table


COMPILED = (
    {},
    {"norm": "layernorm", "norm_bias": True, "gated": False, "activation": "gelu", "position": "learned"},
    {"qk_norm": "head", "norm_placement": "sandwich", "logit_softcap": 30.0, "tied": False},
    {"gated": False, "activation": "xielu"},
    {"gated": False, "activation": "relu", "block": "parallel", "residual_multiplier": 0.5},
    {"embedding_dim": 20, "embedding_norm": True, "ffn_clamp": 7.0, "attention_sinks": True},
    {"qkv_clip": 8.0, "qk_norm": "head", "activation": "quick_gelu", "attention_softcap": 5.0},
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("changes", COMPILED, ids=str)
def test_a_compiled_pass_keeps_what_the_table_says_but_for_one_residual_at_most(changes):
    """The min-cut partitioner may leave out one residual of all layers where
    the sum that it comes from is as quickly computed again; and of one layer the soft-capped scores."""
    model = SMALL.replace(n_layers=3, intermediate_size=70, **changes)
    torch.compiler.reset()
    kept = kept_compiled(model, tokens_of(model))
    n_tokens = BATCH * model.context_length
    planned = sum(row.bytes(n_tokens) for row in saved_activations(model, Backend("cpu")))
    statistics = 4 * n_tokens * (4 * model.n_layers + 2)
    scores = 4 * model.n_heads * model.context_length * n_tokens if model.attention_softcap else 0
    assert planned - 2 * model.dim * n_tokens - statistics - scores <= kept <= planned


WITHIN_A_BUDGET = (
    ({}, "elementwise", 1),
    ({}, "all but matmuls", 1),
    (COMPILED[1], "elementwise", 1),
    (COMPILED[1], "all but matmuls", 1),
    ({"qk_norm": "head", "position": "learned"}, "all but matmuls", 1),
    ({"norm_placement": "sandwich", "tied": False}, "elementwise", 0.93),
    ({"window": 4, "window_pattern": ("local", "global")}, "elementwise", 0.95),
    (COMPILED[4], "elementwise", 0.9),
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("changes", "recomputed", "least"), WITHIN_A_BUDGET, ids=str)
def test_within_a_budget_a_compiled_pass_keeps_at_most_what_the_table_says(changes, recomputed, least):
    """The table has what can be left out one by one. Torch may find something narrower to keep instead."""
    model = SMALL.replace(n_layers=3, intermediate_size=70, **changes)
    step = step_of(BATCH, backend=Backend("cpu"))
    whole = {share: recomputation(model, step.replace(activation_memory_budget=share)) for share in SHARES}
    budget = max(share for share, found in whole.items() if STAGES[found.stage] == recomputed)
    torch.compiler.reset()
    kept = kept_compiled(model, tokens_of(model), budget)
    rows = saved_activations(model, Backend("cpu"), recomputed=recomputed)
    planned = sum(row.bytes(BATCH * model.context_length) for row in rows)
    first_input = 2 * model.dim * BATCH * model.context_length  # from the embedding, looked up again
    if recomputed == "elementwise":
        first_input = 0
    assert least * planned - first_input <= kept <= planned


@some
@given(models())
def test_the_operations_multiply_and_add_every_trained_parameter_of_the_table(model):
    passed = forward(model, Backend(), head_rows=model.vocab_size)
    once = sum(part.parameters for part in (passed.embedding, passed.end, passed.loss))
    tied = head_parameters(model) if model.tied else 0
    layers = sum(many * passed.layers[kind].parameters for kind, many in layer_kind_counts(model).items())
    assert once + layers == trained_parameters(model) + tied


def test_arrays_of_sizes_keep_what_each_of_them_does():
    widths = [16, 32, 48]
    whole = sum(row.bytes(7) for row in saved_activations(with_sizes(SMALL, dim=np.array(widths)), Backend()))
    each = [
        sum(row.bytes(7) for row in saved_activations(SMALL.replace(dim=width), Backend()))
        for width in widths
    ]
    assert whole.tolist() == each


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fused_experts": True, "n_shared_experts": 1},
        {"gated": False, "router_scores": "sigmoid", "norm_expert_weights": False},
    ],
    ids=str,
)
def test_a_compiled_pass_with_experts_at_once_keeps_what_the_table_says(changes, monkeypatch):
    for place in (mlp, bf16_weights):
        monkeypatch.setattr(place, "runs_at_once", lambda *_, **__: True)
    model = SMALL.replace(
        n_layers=3, n_experts=4, n_experts_per_token=2, expert_intermediate_size=24, **changes
    )
    torch.compiler.reset()
    kept = kept_compiled(model, tokens_of(model))
    n_tokens = BATCH * model.context_length
    planned = sum(row.bytes(n_tokens) for row in saved_activations(model, Backend("cuda")))
    statistics = 4 * n_tokens * (4 * model.n_layers + 2)
    assert planned - 4 * model.dim * n_tokens - statistics <= kept <= planned
