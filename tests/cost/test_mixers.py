"""Mixers other than attention in counts, FLOPs, memory and speed, each held against an enumeration."""

import numpy as np
import pytest
import torch
from support.hybrids import HYBRID, LINEAR_MIXERS, MAMBA, MAMBA2, SIDE_BY_SIDE, STATE_SPACES
from support.saved_activations import saved_activations
from support.saved_tensors import kept_by_autograd
from torch.utils.flop_counter import FlopCounterMode

import parambudget as pb
from parambudget.arch.mixers.scans import mixer_scan
from parambudget.cost.flops import attention_flops_per_token, flops_per_token, matmul_parameters
from parambudget.cost.memory.state import inference_memory
from parambudget.cost.step import Backend
from parambudget.nn.transformer import Transformer
from parambudget.training.run.defaults import with_train_defaults

MODELS = {
    **LINEAR_MIXERS,
    "without an FFN": HYBRID.replace(ffn_pattern=["ffn", "none", "ffn"]),
    "without a mixer": HYBRID.replace(mixer_pattern=["gated_delta_net", "none", "attention"]),
    "gates of heads": HYBRID.replace(attention_gate="head", qkv_bias=True),
    **STATE_SPACES,
    # A factor on the gates keeps them twice where they are part of one product; that is not counted.
    "side by side": SIDE_BY_SIDE.replace(ffn_gate_multiplier=1.0),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_count_is_that_of_the_module_and_of_the_formula(name):
    model = MODELS[name]
    module = Transformer(model, device="meta")
    counted = pb.count(model)
    assert counted.total == sum(parameter.numel() for parameter in module.parameters())
    assert counted.by_component["mixer"] == sum(
        parameter.numel() for path, parameter in module.named_parameters() if ".mixer." in path
    ) - sum(p.numel() for path, p in module.named_parameters() if ".mixer." in path and "_norm." in path)
    formula = pb.formula(model)
    assert formula.evaluate() == counted.total
    assert formula.evaluate(dim=64) == pb.count(model.replace(dim=64)).total
    assert pb.verify(model).differences == ()


def test_a_recurrence_multiplies_as_often_as_a_loop_over_its_tokens():
    """The delta rule token by token, every multiply-add of a sum or an addition to the state counted."""
    net, counted = HYBRID.gated_delta_net, 0
    state = np.zeros((net.delta_n_value_heads, net.delta_key_dim, net.delta_value_dim))
    for head in state:
        counted += head.size  # what the state holds for the key: a sum over keys for each value
        counted += head.size  # the correction is added: key times value
        counted += head.size  # what it holds for the query
    scan = mixer_scan(HYBRID)
    assert (scan.copies, scan.multiply_adds, scan.state) == (4, counted, state.size)
    kernels = 4 * (2 * 16 + 48) * net.delta_conv_width
    per_token = 6 * (matmul_parameters(HYBRID) + kernels + 4 * counted)
    assert flops_per_token(HYBRID) == per_token + attention_flops_per_token(HYBRID)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bf16", [False, True])
def test_a_forward_pass_keeps_about_what_the_table_says(name, bf16):
    model = MODELS[name]
    tokens_BT = torch.randint(model.vocab_size, (2, model.context_length + 1))
    kept = kept_by_autograd(model, tokens_BT, bf16=bf16)
    rows = saved_activations(model, Backend("cpu", bf16=bf16, compiled=False))
    predicted = sum(row.bytes(2 * model.context_length) for row in rows)
    assert predicted == pytest.approx(sum(size * many for (_, size), many in kept.items()), rel=0.03)


@pytest.mark.parametrize("model", [MAMBA, MAMBA2, SIDE_BY_SIDE])
def test_a_state_space_writes_and_reads_each_element_of_its_state_once(model):
    """Token by token: what is added to an element of the state, and its product in what is read."""
    ssm, mamba = model.mamba2, model.mamba
    channels = mamba.mamba_inner_size if mamba else ssm.mamba2_n_heads * ssm.mamba2_head_dim
    state = np.zeros((channels, mamba.mamba_state_dim if mamba else ssm.mamba2_state_dim))
    counted = sum(2 * channel.size for channel in state)
    scan = mixer_scan(model)
    assert (scan.multiply_adds, scan.state) == (counted, state.size)
    convolved = channels if mamba else channels + 2 * ssm.mamba2_n_groups * ssm.mamba2_state_dim
    assert scan.convolved == 3 * convolved
    n_layers = model.n_mixer_layers
    per_token = 6 * (matmul_parameters(model) + n_layers * (4 * convolved + counted))
    assert flops_per_token(model) == per_token + attention_flops_per_token(model)


def test_generation_keeps_a_state_of_fixed_size():
    net = HYBRID.gated_delta_net
    channels = 2 * net.delta_n_key_heads * net.delta_key_dim + net.delta_n_value_heads * net.delta_value_dim
    state = net.delta_n_value_heads * net.delta_key_dim * net.delta_value_dim
    of_mixers = 4 * (4 * state + 2 * channels * (net.delta_conv_width - 1))
    for n_tokens in (1, 100):
        keys_and_values = 2 * 2 * (2 * 2 * 12) * n_tokens
        assert inference_memory(HYBRID, 3, n_tokens).cache_bytes == 3 * (keys_and_values + of_mixers)


def test_rwkv_computes_nothing_but_matrices_and_keeps_five_vectors_of_a_layer():
    model = LINEAR_MIXERS["rwkv alone"].replace(channel_mix=True)
    per_layer = 4 * 56 * 48 + 2 * model.intermediate_size * 48 + 48 * 48
    assert flops_per_token(model) == 6 * (6 * per_layer + 96 * 48)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Transformer(model)(torch.zeros(2, 50, dtype=torch.long))
    assert 3 * counter.get_total_flops() == 2 * 50 * flops_per_token(model)
    for n_tokens in (1, 100):
        # Three sums in float32 for each channel, and the last token for the mixer and the FFN, in bfloat16.
        assert inference_memory(model, 3, n_tokens).cache_bytes == 3 * 6 * (3 * 56 * 4 + 2 * 48 * 2)


def test_a_plan_says_what_is_assumed_of_mixers():
    plan = pb.plan(HYBRID, "h100", hours=1)
    assert any(
        "4 layers with the mixer gated_delta_net run a scan in plain torch" in note for note in plan.warnings
    )
    assert any("figures are not for them" in note for note in plan.warnings)
    assert any("the law knows no others" in note for note in plan.warnings)
    short = pb.plan("lfm2-350m", "h100", hours=1)
    assert any("short_convolution run a convolution in plain torch" in note for note in short.warnings)
    no_package_has_it = pb.plan("rwkv-4-169m", "h100", hours=1)
    assert not any("fused kernels" in note for note in no_package_has_it.warnings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mixer_pattern": ["attention"], "gated_delta_net": HYBRID.gated_delta_net},
            "gated_delta_net is in no layer of mixer_pattern=attention",
        ),
        ({"mixer_pattern": ["none"], "gated_delta_net": None}, "only layers without a mixer"),
        ({"gated_delta_net": None}, "mixer_pattern names gated_delta_net, whose sizes are missing"),
        ({"delta_n_key_heads": 3}, "delta_n_key_heads=3 does not divide delta_n_value_heads=4"),
        (
            {"mixer_pattern": ["none", "gated_delta_net"], "ffn_pattern": ["none", "ffn"]},
            "layer 0 has neither a mixer nor an FFN",
        ),
        ({"block": "parallel"}, "block='parallel' is for layers of attention and an FFN"),
        ({"norm_placement": "post", "final_norm": False}, "norm_placement='post' is for layers of"),
    ],
)  # fmt: skip
def test_mixers_that_make_no_model_are_refused(changes, message):
    with pytest.raises(pb.ConfigError, match=message):
        HYBRID.replace(**changes)


CHANNEL_MIX = LINEAR_MIXERS["rwkv"].replace(mixer_pattern=["attention"], rwkv=None)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (HYBRID, "whose state goes on from one document to the next"),
        (CHANNEL_MIX, "which mixes the first token of a document with the last of the one before"),
    ],
)
def test_masked_documents_are_refused(model, why):
    with pytest.raises(pb.ConfigError, match=why):
        with_train_defaults({"mask_documents": True}, model, 10_000, on_cpu=True)
