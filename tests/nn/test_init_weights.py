import pytest
import torch
from support.tiny_model import SMALL, built, random_tokens

from parambudget.nn.transformer import Transformer


def test_the_same_seed_gives_the_same_weights():
    torch.testing.assert_close(built(SMALL).state_dict(), built(SMALL).state_dict(), rtol=0, atol=0)


def test_another_seed_gives_other_weights():
    assert not torch.equal(built(SMALL).embed.weight, built(SMALL, seed=1).embed.weight)


def test_initialisation_leaves_the_global_random_state_alone():
    module, before = Transformer(SMALL), torch.get_rng_state()
    module.init_weights(torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("embed", 0.1),
        ("layers.0.attention.q", 0.1),
        ("layers.0.ffn.up", 0.1),
        ("layers.1.attention.out", 0.05),
        ("layers.1.ffn.down", 0.05),
        ("lm_head", 0.1),
    ],
)
def test_weights_start_with_the_spread_of_the_config(name, std):
    wide = SMALL.replace(dim=128, intermediate_size=256, vocab_size=200, init_std=0.1, tied=False)
    # 8192 values at the least: their spread is within 5 % of the true one in more than 6 standard errors.
    assert built(wide).get_submodule(name).weight.std().item() == pytest.approx(std, rel=0.05)


def test_biases_start_at_zero_and_norms_at_one():
    biased = SMALL.replace(norm="layernorm", norm_bias=True, qkv_bias=True, ffn_bias=True, head_bias=True)
    module = built(biased)
    parameters = dict(module.named_parameters())
    assert all((p == 0).all() for name, p in parameters.items() if name.endswith("bias"))
    assert all((p == 1).all() for name, p in parameters.items() if name.endswith("norm.weight"))


def test_zero_initialised_outputs_make_every_block_the_identity():
    module, tokens = built(SMALL.replace(zero_init_out=True)), random_tokens(SMALL)
    assert torch.equal(module.hidden_states(tokens), module.norm(module.embed(tokens)))
