"""Parts that few models have: the module has the tensors of the table, generates with a cache as without one,
and keeps what the memory model says."""

import math

import pytest
import torch
from support.saved_activations import saved_activations
from support.saved_tensors import kept_by_autograd
from support.tiny_model import built

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.arch.layers import attention_kinds
from parambudget.cost.flops import n_scores
from parambudget.cost.formula import formula
from parambudget.cost.step import Backend
from parambudget.errors import ConfigError
from parambudget.nn.attention import attention_mask
from parambudget.nn.kv_cache import kv_cache
from parambudget.nn.rotary import query_factors
from parambudget.nn.verify import verify

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = 24
TINY = {
    "dim": 32, "n_layers": 6, "n_heads": 4, "intermediate_size": 48, "vocab_size": 50,
    "context_length": TOKENS,
}  # fmt: skip
WINDOWS = {"window": 8, "window_pattern": ("local", "local", "global")}
EXPERTS = {"n_experts": 4, "n_experts_per_token": 2, "expert_intermediate_size": 8}
PARTS = {
    "chunks": WINDOWS | {
        "window_kind": "chunked", "query_scale": "log_next", "query_scale_length": 4, "qk_norm": "l2",
        "rotary_pattern": ("rotary", "none"),
    },
    "channel mix": {"channel_mix": True, "gated": False, "activation": "relu2", "ffn_bias": True},
    "differential attention": {"differential_attention": True},
    "experts beside the FFN": EXPERTS | {"experts_beside_ffn": True, "norm_placement": "sandwich"},
    "gates": {"attention_gate": "head", "attention_gate_activation": "softplus"},
    "heads of global layers": WINDOWS | {
        "n_kv_heads": 2, "global_n_heads": 2, "global_n_kv_heads": 1, "global_head_dim": 16,
        "rotary_fraction_local": 0.5,
    },
    "keys as values": WINDOWS | {"global_keys_as_values": True, "qk_norm": "head", "value_norm": True},
    "keys of earlier layers": WINDOWS | {
        "n_kv_shared_layers": 3, "kv_shared_ffn_factor": 2, "global_head_dim": 16, "layer_scale": True,
    },
    "norms before last projections": {"sub_norms": True},
    "norms behind the rotation": {"qk_norm": "head", "qk_norm_after_rotation": True},
    "per-layer embeddings": {"per_layer_embedding_dim": 8, "per_layer_vocab_size": 40},
    "sinks of local layers": WINDOWS | {
        "local_sinks": True, "global_n_kv_heads": 2, "value_head_dim": 4, "value_multiplier": 0.7,
    },
    "sinusoidal positions": {"position": "sinusoidal", "position_offset": 2},
    "sparse mixer": EXPERTS | {
        "router_scores": "sparsemixer", "norm_expert_weights": False, "weights_on_inputs": True,
        "experts_out_norm": True,
    },
}  # fmt: skip
every_part = pytest.mark.parametrize("fields", PARTS.values(), ids=PARTS)


def tiny(**fields: object) -> ModelConfig:
    return pb.model(**TINY | fields)


@every_part
def test_the_module_has_the_tensors_of_the_table_and_the_formula_counts_them(fields):
    model = tiny(**fields)
    found = verify(model)
    assert not found.differences
    assert formula(model).evaluate() == found.total


@every_part
def test_a_cache_changes_nothing_and_every_parameter_gets_a_gradient(fields):
    module = built(tiny(**fields))
    tokens = torch.randint(50, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    whole = module.hidden_states(tokens, gradient_checkpointing=True)
    whole.square().sum().backward()
    assert [name for name, one in module.named_parameters() if one.grad is None] == ["lm_head.weight"] * (
        not module.model.tied
    )
    with torch.no_grad(), kv_cache(module, TOKENS) as next_states:
        cuts = (5, 9, *[1] * (TOKENS - 14))
        parts = torch.cat([next_states(part) for part in tokens.split(cuts, dim=1)], dim=1)
    torch.testing.assert_close(parts, whole.detach(), rtol=0, atol=1e-5)


@every_part
def test_memory_is_known_to_within_a_few_percent(fields):
    model = tiny(**fields)
    tokens = torch.randint(50, (3, TOKENS + 1), generator=torch.Generator().manual_seed(0))
    kept = kept_by_autograd(model, tokens, bf16=True)
    in_all = sum(size * many for (_, size), many in kept.items())
    rows = saved_activations(model, Backend("cpu", bf16=True, compiled=False))
    in_table = sum(row.bytes(3 * TOKENS) for row in rows if row.copies)
    # The sparse mixer's masks, as wide as the router, are not in the table: with 4 experts they show.
    assert in_table == pytest.approx(in_all, rel=0.1 if model.moe and model.moe.weights_on_inputs else 0.03)


def test_chunks_end_at_multiples_of_the_window():
    model = tiny(**PARTS["chunks"])
    like = torch.zeros(1)
    positions = torch.arange(TOKENS)
    query, key = positions.unsqueeze(1), positions
    expected = (key <= query) & (key // 8 == query // 8)
    whole = attention_mask(model, TOKENS, 0, local=True, like=like)
    assert torch.equal(whole == 0, expected)
    # One token more than 12: those from 8 on are seen, of the 7 before it that are cached.
    later = attention_mask(model, 1, 12, local=True, like=like)
    assert torch.equal(later[0] == 0, expected[12, 5:13])
    (local, _) = attention_kinds(model)
    assert local.chunked
    assert n_scores(TOKENS, 8, "causal", chunked=True) == int(expected.sum())
    assert n_scores(21, 8, "causal", chunked=True) == int(expected[:21, :21].sum())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("log", [1, 1, 1 + 0.5 * math.log(2), 1 + 0.5 * math.log(2), 1 + 0.5 * math.log(3)]),
        ("log_next", [1, 1 + 0.5 * math.log(2), 1 + 0.5 * math.log(2), 1 + 0.5 * math.log(3)]),
        ("power", [1, 1.5**0.5, 2**0.5]),
    ],
)
def test_queries_grow_with_their_positions(kind, expected):
    model = tiny(query_scale=kind, query_scale_strength=0.5, query_scale_length=2)
    factors = query_factors(model, len(expected), 0, torch.device("cpu")).flatten()
    torch.testing.assert_close(factors, torch.tensor(expected))


def test_where_some_layers_rotate_the_queries_of_the_others_grow():
    model = tiny(query_scale="log", rotary_pattern=("rotary", "none"))
    assert [model.scales_queries(layer) for layer in range(4)] == [False, True, False, True]
    assert tiny(query_scale="log").scales_queries(0)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"n_kv_shared_layers": 6}, "n_kv_shared_layers=6 of n_layers=6 leave no earlier layer"),
        ({"n_kv_shared_layers": 4, **WINDOWS}, "leave no earlier layer without a window whose keys"),
        ({"kv_shared_ffn_factor": 2}, "kv_shared_ffn_factor=2 is for layers that share keys and values"),
        ({"per_layer_vocab_size": 9}, "per_layer_vocab_size needs per_layer_embedding_dim"),
        ({"global_head_dim": 16}, "global_head_dim needs layers with a window and without"),
        (WINDOWS | {"global_n_kv_heads": 3}, "global_n_kv_heads=3 does not divide the 4 query heads of glo"),
        ({"window_kind": "chunked"}, "window_kind='chunked' needs a window"),
        ({"position": "sinusoidal", "dim": 31, "head_dim": 8}, "dim=31 is odd; make it even"),
        ({"qk_norm": "full", "qk_norm_after_rotation": True}, "qk_norm is 'full'; use 'head' or 'per_head'"),
        ({"qk_norm": "l2", "position": "none"}, "qk_norm='l2' is for rotated heads"),
        ({"value_norm": True, "norm": "layernorm"}, "value_norm needs norm='rmsnorm'"),
        ({"sub_norms": True, **EXPERTS}, "sub_norms go with one dense FFN in every layer"),
        ({"differential_attention": True, "n_heads": 1, "head_dim": 8}, "n_kv_heads=1 is odd"),
        ({"value_head_dim": 8, "kv_lora_rank": 8}, "value_head_dim is for attention over heads"),
        ({"attention_gate_biased": True}, "attention_gate_biased is for gates"),
        ({"channel_mix": True}, "channel_mix is two matrices and a gate, not defined with gated=true"),
        ({"channel_mix": True, "gated": False, **EXPERTS}, "not defined with experts"),
        ({"channel_mix": True, "gated": False, "sub_norms": True}, "not defined with sub_norms"),
        ({"channel_mix": True, "gated": False, "activation": "xielu"}, "with activation='xielu'"),
        (EXPERTS | {"experts_beside_ffn": True}, "set norm_placement='sandwich'"),
        (EXPERTS | {"router_scores": "sparsemixer"}, "is not defined with norm_expert_weights"),
        (EXPERTS | {"correction_on_logits": True}, "correction_on_logits needs a correction_bias"),
    ],
)  # fmt: skip
def test_what_contradicts_the_model_is_refused_in_one_line(fields, says):
    with pytest.raises(ConfigError, match=says) as refused:
        tiny(**fields)
    assert "\n" not in str(refused.value)
