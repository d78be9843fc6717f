"""Multi-head latent attention: published counts, what is cached, and that a latent is all that is kept."""

import pytest
import torch
from support.published_counts import PUBLISHED
from support.tiny_model import SMALL, built, random_tokens

import parambudget as pb
from parambudget.arch.layers import attention_kinds
from parambudget.errors import ConfigError
from parambudget.nn.kv_cache import kv_cache
from parambudget.nn.verify import verify

LATENT = pb.model(
    dim=32, n_layers=2, n_heads=4, kv_lora_rank=10, q_lora_rank=12, qk_nope_head_dim=6, qk_rope_head_dim=4,
    v_head_dim=5, intermediate_size=48, vocab_size=50, context_length=12,
)  # fmt: skip

OF_8 = {"kv_lora_rank": 8}


@pytest.mark.parametrize("name", ["deepseek-v2-lite", "deepseek-v3"])
def test_a_published_model_is_built_as_counted(name: str):
    assert verify(PUBLISHED[name].model.replace(fused_experts=True)).differences == ()


def test_a_token_of_deepseek_v3_is_576_cached_elements_a_layer():
    # DeepSeek-AI 2024 (V2), arXiv 2405.04434, table 1: 9/2 of a head's 128, for every layer.
    (row,) = attention_kinds(PUBLISHED["deepseek-v3"].model)
    assert (row.cached, row.copies) == (576, 61)
    assert (row.n_heads, row.qk_dim, row.v_dim) == (128, 192, 128)


def test_the_latent_and_one_rotated_key_are_all_that_is_remembered():
    module = built(LATENT)
    with torch.no_grad(), kv_cache(module, 12) as hidden:
        hidden(random_tokens(LATENT))
        kept = module.layers[0].attention.cache
    assert [tuple(each.shape) for each in kept] == [(2, 1, 12, 10), (2, 1, 12, 4)]
    assert sum(each[0, :, 0].numel() for each in kept) == attention_kinds(LATENT)[0].cached


def test_a_bias_on_queries_keys_and_values_is_one_on_what_leads_to_the_latents():
    names = {row.name for row in pb.count(LATENT.replace(qkv_bias=True)).tensors if row.role == "bias"}
    assert names == {"layers.*.attention.q_down.bias", "layers.*.attention.kv_down.bias"}
    at_once = LATENT.replace(qkv_bias=True, q_lora_rank=None)
    assert {row.name for row in pb.count(at_once).tensors if row.role == "bias"} == {
        "layers.*.attention.kv_down.bias"
    }


def test_heads_are_half_as_wide_for_the_position_and_fill_the_width_without_it():
    model = pb.model(dim=4096, n_layers=2, kv_lora_rank=512)
    assert (model.mla.qk_nope_head_dim, model.mla.qk_rope_head_dim, model.mla.v_head_dim) == (128, 64, 128)
    assert (model.n_heads, model.n_kv_heads, model.head_dim) == (32, 32, 192)
    assert pb.model(dim=512, n_layers=2, kv_lora_rank=64).mla.qk_nope_head_dim == 64


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"q_lora_rank": 8}, "kv_lora_rank is missing (width of the latent that keys and values are proj"),
        ({"kv_lora_rank": 0}, "kv_lora_rank is 0; it must be greater than or equal to 1"),
        ({**OF_8, "head_dim": 64}, "head_dim=64 is not qk_nope_head_dim + qk_rope_head_dim = 96; "),
        ({**OF_8, "n_kv_heads": 1}, "n_kv_heads=1 differs from n_heads=4, but in latent attention "),
        ({**OF_8, "qk_norm": "head"}, "qk_norm='head' is not defined in latent attention, which "),
        ({**OF_8, "qk_rope_head_dim": 1}, "rotary positions need 2 or more of qk_rope_head_dim=1 "),
        ({**OF_8, "qk_rope_head_dim": 5}, "rotary positions rotate pairs, and 5 of qk_rope_head_dim=5"),
        ({**OF_8, "qk_nope_head_dim": 100}, "n_heads is missing, and qk_nope_head_dim=100 does not "),
        ({**OF_8, "qk_nope_head_dim": "8"}, "qk_nope_head_dim is '8'; it must be a valid integer"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(fields: dict[str, object], says: str):
    with pytest.raises(ConfigError) as caught:
        pb.model(dim=256, n_layers=4, **fields)
    assert str(caught.value).startswith(says)


def test_neighbours_that_turn_together_are_halves_in_another_order():
    halves, neighbours = built(SMALL), built(SMALL.replace(rotary_interleaved=True))
    weights = halves.state_dict()
    order = torch.arange(16).view(2, 8).T.flatten()  # 0, 8, 1, 9, ...
    for name, weight in weights.items():
        if name.endswith((".q.weight", ".k.weight")):
            weights[name] = weight.unflatten(0, (-1, 16))[:, order].flatten(0, 1)
    neighbours.load_state_dict(weights)
    tokens = random_tokens(SMALL)
    torch.testing.assert_close(neighbours(tokens), halves(tokens))
