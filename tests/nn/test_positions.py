import pytest
import torch
from support.tiny_model import SMALL, built, random_tokens

from parambudget.errors import InputError
from parambudget.nn.rotary import Rotary, apply_rotary
from parambudget.nn.transformer import Transformer


@pytest.mark.parametrize("rotary_fraction", [1.0, 0.25])
def test_rotary_scores_depend_on_the_distance_alone(rotary_fraction):
    model = SMALL.replace(rotary_fraction=rotary_fraction)
    n_tokens, rotation = model.context_length, Rotary(model)(model.context_length)
    query, key = torch.randn(2, 1, 1, 1, model.head_dim, generator=torch.Generator().manual_seed(0))
    queries = apply_rotary(query.expand(1, n_tokens, 1, -1), rotation)[0, :, 0]
    keys = apply_rotary(key.expand(1, n_tokens, 1, -1), rotation)[0, :, 0]
    scores = queries @ keys.T
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1], rtol=0, atol=1e-5)


def test_rotary_leaves_the_rest_of_the_head_alone():
    model = SMALL.replace(rotary_fraction=0.25)
    heads = torch.randn(1, 12, 4, 16)
    turned = apply_rotary(heads, Rotary(model)(12))
    assert torch.equal(turned[..., 4:], heads[..., 4:])


def test_rotary_tables_stay_float32_in_a_bf16_model():
    assert torch.equal(Transformer(SMALL, dtype=torch.bfloat16).rotary.cos, Rotary(SMALL).cos)


def test_rotary_tables_are_not_saved():
    assert not [name for name in Transformer(SMALL).state_dict() if "rotary" in name]


@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_a_sequence_longer_than_the_context_is_refused(position):
    with pytest.raises(InputError, match="13 tokens exceed context_length=12"):
        Transformer(SMALL.replace(position=position))(torch.zeros(1, 13, dtype=torch.long))


def test_without_positions_any_length_runs():
    assert Transformer(SMALL.replace(position="none"))(torch.zeros(1, 13, dtype=torch.long)).shape[1] == 13


@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_a_shorter_sequence_gets_the_logits_of_its_prefix(position):
    module, tokens = built(SMALL.replace(position=position)), random_tokens(SMALL)
    torch.testing.assert_close(module(tokens[:, :7]), module(tokens)[:, :7])


# Rescaled angles

CONTEXT = SMALL.context_length
LONG = SMALL.replace(
    rope_type="longrope", rope_original_context=5, rope_short_factors=(1.0,) * 8, rope_long_factors=(4.0,) * 8
)
DYNAMIC = SMALL.replace(rope_type="dynamic", rope_factor=2.0)


def frequencies(model, n_tokens=CONTEXT):
    """The angles of the second token of a sequence."""
    cos, sin, _ = Rotary(model)(n_tokens)
    return torch.atan2(sin, cos)[1, 0]


def test_a_linear_rescaling_divides_every_angle():
    quarter = SMALL.replace(rope_type="linear", rope_factor=4.0)
    torch.testing.assert_close(frequencies(quarter), frequencies(SMALL) / 4)


def test_llama_3_divides_the_slow_pairs_and_keeps_the_fast_ones():
    """A pair of frequency f turns f * 100 / 2 pi times in 100 tokens: once and 4 times are the bounds."""
    model = SMALL.replace(rope_type="llama3", rope_factor=8.0, rope_original_context=100, rope_theta=1e4)
    plain = frequencies(SMALL)
    turns = plain * 100 / (2 * torch.pi)
    share = frequencies(model) / plain
    torch.testing.assert_close(share[turns > 4], torch.ones(int((turns > 4).sum())))
    torch.testing.assert_close(share[turns < 1], torch.full((int((turns < 1).sum()),), 1 / 8))
    assert 1 / 8 < share[(turns > 1) & (turns < 4)].item() < 1


def test_yarn_scales_queries_and_keys():
    model = SMALL.replace(rope_type="yarn", rope_factor=4.0, rope_original_context=3)
    cos, sin, _ = Rotary(model)(CONTEXT)
    torch.testing.assert_close(cos.square() + sin.square(), torch.full_like(cos, model.rotary_scale**2))


def test_a_sequence_longer_than_the_original_context_has_the_long_factors():
    torch.testing.assert_close(frequencies(LONG, 5) / frequencies(LONG, 6), torch.full((8,), 4.0))


def test_the_angles_of_a_token_do_not_depend_on_how_many_come_at_once():
    for model, total in ((LONG, 4), (LONG, CONTEXT), (DYNAMIC, CONTEXT), (DYNAMIC, 30)):
        whole, last = Rotary(model)(total), Rotary(model)(1, total - 1)
        torch.testing.assert_close(whole.cos[-1:], last.cos)


def test_dynamic_angles_allow_sequences_beyond_the_context():
    """At twice the context, with a factor of 2, the base is that for (2 * 2 - 1) ** (8 / 7)."""
    stretched = SMALL.replace(rope_theta=SMALL.rope_theta * 3 ** (8 / 7), context_length=2 * CONTEXT)
    torch.testing.assert_close(frequencies(DYNAMIC, 2 * CONTEXT), frequencies(stretched, 2 * CONTEXT))
    assert torch.equal(frequencies(DYNAMIC), frequencies(SMALL))
    assert Transformer(DYNAMIC)(torch.zeros(1, 30, dtype=torch.long)).shape == (1, 30, SMALL.vocab_size)
    assert (DYNAMIC.longest_generation, LONG.longest_generation) == (2 * CONTEXT, CONTEXT)


def test_local_layers_with_a_base_of_their_own_are_not_rescaled():
    local = dict(window=3, window_pattern=("local", "global"), rope_type="linear", rope_factor=4.0)
    shared = Transformer(SMALL.replace(**local))
    own = Transformer(SMALL.replace(**local, rope_theta_local=1e4))
    assert shared.rotary_local is None
    assert torch.equal(own.rotary_local.cos, Rotary(SMALL).cos)
    assert not torch.equal(own.rotary.cos, own.rotary_local.cos)


def test_the_pairs_beyond_the_proportion_are_not_rotated():
    half = SMALL.replace(rope_type="proportional", rope_proportion=0.5)
    torch.testing.assert_close(frequencies(half)[:4], frequencies(SMALL)[:4])
    assert torch.equal(frequencies(half)[4:], torch.zeros(4))
