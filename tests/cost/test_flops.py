import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.flops_oracle import hardware_flops_per_token, indexer_flops, sequence_flops
from support.hybrids import LINEAR_MIXERS
from support.strategies import models, with_channel_mix
from support.tiny_model import SMALL, built, random_tokens
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import parambudget as pb
from parambudget.arch.sizes import with_sizes
from parambudget.cost import flops
from parambudget.cost.flops import flops_per_token, matmul_parameters

# No deadline: the first forward pass of a process takes seconds.
some = settings(max_examples=30, deadline=None)


def counted() -> FlopCounterMode:
    return FlopCounterMode(display=False)


def seeing_all(model):
    """The model without its window: what a mask hides, the math backend computes all the same."""
    return model.replace(window=None, window_pattern=("local",), rope_theta_local=None)


def zeros(model):
    """Multiply-adds per query and key with the zeros that heads of two widths end in, where kernels want one
    width: work of the module, and none of the model. Scores that are written out need none."""
    if model.mla is None or model.attention_softcap or model.attention_sinks:
        return 0
    qk, v = model.head_dim, model.mla.v_head_dim
    return model.n_layers * model.n_heads * (2 * max(qk, v) - qk - v)


def left_out(model, n_tokens):
    """Multiply-adds per query of pairs that an indexer leaves out and the module masks."""
    if model.indexer is None:
        return 0
    width = model.n_layers * model.n_heads * (model.head_dim + model.mla.v_head_dim)
    return width * max(n_tokens - model.indexer.index_top_k, 0)


@some
@given(models())
def test_training_costs_the_flops_that_the_table_says(model):
    module, tokens = built(model), random_tokens(model)
    # On CPU torch counts only the math backend's attention; flash attention it counts as nothing.
    with sdpa_kernel(SDPBackend.MATH), counted() as counter:
        module(tokens).sum().backward()
    of_one = flops_per_token(seeing_all(model)) + 6 * zeros(model) * tokens.shape[1]
    of_one += 6 * left_out(model, tokens.shape[1])
    assert counter.get_total_flops() == of_one * tokens.numel()


@given(models())
def test_a_window_saves_the_scores_that_it_hides_in_local_layers_alone(model):
    saved = flops_per_token(seeing_all(model)) - flops_per_token(model)
    hidden = 0 if model.window is None else max(model.context_length - model.window, 0)
    qk, v = (model.head_dim, model.mla.v_head_dim if model.mla else model.head_dim)
    assert saved == 6 * model.n_local_layers * model.n_heads * (qk + v) * hidden


@some
@given(models())
def test_a_forward_pass_of_any_length_costs_the_flops_that_the_table_says(model):
    tokens = random_tokens(model)[:, :-1]
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counted() as counter:
        built(model)(tokens)
    n = tokens.shape[1]
    of_one = sequence_flops(seeing_all(model), n_tokens=n) + 2 * zeros(model) * n * n
    of_one += 2 * left_out(model, n) * n
    assert counter.get_total_flops() == len(tokens) * of_one


@some
@given(models() | models(experts=False).map(with_channel_mix), st.booleans(), st.booleans())
def test_what_is_recomputed_costs_the_hardware_flops_that_the_table_says(
    model, checkpointing, recompute_logits
):
    module, tokens = built(model), random_tokens(model)

    def loss(hidden):
        return module.logits(hidden).logsumexp(-1).sum()

    with sdpa_kernel(SDPBackend.MATH), counted() as counter:
        hidden = module.hidden_states(tokens, gradient_checkpointing=checkpointing)
        part = checkpoint(loss, hidden, use_reentrant=False) if recompute_logits else loss(hidden)
        part.backward()
    per_token = hardware_flops_per_token(
        model, checkpointing=checkpointing, recompute_logits=recompute_logits
    )
    again = (6 + 2 * checkpointing) * zeros(model) * tokens.shape[1]
    assert counter.get_total_flops() == (per_token + again) * tokens.numel()


@pytest.mark.parametrize(
    "mixers",
    [
        SMALL.replace(n_layers=4),
        LINEAR_MIXERS["rwkv alone"].replace(n_layers=3, channel_mix=True),
    ],
    ids=["attention", "rwkv"],
)
def test_a_layer_without_an_ffn_is_recomputed_up_to_what_its_last_matrix_reads(mixers):
    model = mixers.replace(ffn_pattern=["ffn", "none", "none"])
    module, tokens = built(model), random_tokens(model)
    with sdpa_kernel(SDPBackend.MATH), counted() as counter:
        module.hidden_states(tokens, gradient_checkpointing=True).sum().backward()
    head = 6 * model.dim * model.vocab_size
    per_token = hardware_flops_per_token(model, checkpointing=True) - head
    assert counter.get_total_flops() == pytest.approx(per_token * tokens.numel(), rel=1e-14)


def test_arrays_of_depths_recompute_as_each_of_them():
    model = LINEAR_MIXERS["rg_lru"].replace(ffn_pattern=["ffn", "none"])
    depths = [1, 2, 3, 4, 7]
    whole = hardware_flops_per_token(with_sizes(model, n_layers=np.array(depths)), checkpointing=True)
    each = [hardware_flops_per_token(model.replace(n_layers=n), checkpointing=True) for n in depths]
    assert whole.tolist() == pytest.approx(each)


@given(st.integers(1, 40), st.none() | st.integers(1, 50))
def test_scores_are_the_pairs_that_a_mask_leaves(n_tokens, window):
    pairs = [(q, k) for q in range(n_tokens) for k in range(q + 1) if window is None or q - k < window]
    assert flops.n_scores(n_tokens, window, "causal") == len(pairs)
    assert flops.n_scores(n_tokens, window, "full") == n_tokens * min(n_tokens, window or n_tokens)


def test_the_flops_of_the_planning_notes_first_option_are_as_published():
    model = pb.model(dim=896, n_layers=24, n_heads=14, intermediate_size=3584)
    assert flops_per_token(model) == 2_384_110_848


def test_causal_counting_halves_the_scores_and_nothing_else():
    model = pb.model("gpt2")
    scores = flops_per_token(model) - 6 * matmul_parameters(model)
    assert scores == 12 * 12 * 768 * 1024
    assert flops_per_token(model, "causal") == 6 * matmul_parameters(model) + scores // 2 + 6 * 12 * 768


@given(models(), st.sampled_from(["full", "causal"]))
def test_a_token_costs_a_sequences_share(model, convention):
    # An indexer runs forward only.
    whole = flops.PASSES * sequence_flops(model, convention) - 2 * indexer_flops(model, convention)
    of_one = flops_per_token(model, convention)
    if (model.window is None and model.indexer is None) or convention == "full":
        assert of_one * model.context_length == whole
        assert isinstance(of_one, int)
    else:
        assert of_one * model.context_length == pytest.approx(whole, rel=1e-14)


def test_an_array_of_widths_costs_what_each_of_them_does():
    widths = [16, 32, 48]
    whole = flops_per_token(with_sizes(SMALL, dim=np.array(widths)), "causal")
    assert whole.tolist() == [flops_per_token(SMALL.replace(dim=width), "causal") for width in widths]


def test_a_run_of_any_length_does_not_overflow():
    model = pb.preset("llama-3-70b")
    assert flops.training_flops(model, 15 * 10**12) == flops_per_token(model) * 15 * 10**12
    assert flops.training_flops(model, 15 * 10**12) > 2**63


def test_a_mean_that_is_no_whole_number_is_not_rounded():
    model = SMALL.replace(head_dim=2, n_heads=1, n_kv_heads=1, n_layers=1, context_length=12)
    assert flops_per_token(model, "causal") - 6 * matmul_parameters(model) == 6 * 2 * 2 * 13 / 2
    assert flops._exact_product(3, flops.Fraction(1, 2)) == pytest.approx(1.5)
