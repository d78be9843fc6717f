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
