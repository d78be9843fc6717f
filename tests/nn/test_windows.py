"""What a query sees and how positions enter: windows, ALiBi, layers without positions, sinks, soft caps."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.published_counts import PUBLISHED
from support.tiny_model import SMALL, built, random_tokens

import parambudget as pb
from parambudget.arch.dims import pattern_at
from parambudget.arch.layers import AttentionKind, attention_kinds
from parambudget.arch.sizes import with_sizes
from parambudget.errors import ConfigError
from parambudget.nn.attention import alibi_bias, visible_keys

CPU = torch.device("cpu")
GEMMA_3 = dict(window=512, window_pattern=(*["local"] * 5, "global"))


@given(
    st.lists(st.sampled_from(("local", "global")), min_size=1, max_size=7),
    st.lists(st.sampled_from(("dense", "experts")), min_size=1, max_size=5), st.integers(0, 9),
)  # fmt: skip
def test_layers_of_a_kind_are_those_that_the_patterns_give_it(windows, experts, n_first_dense):
    depths = np.arange(1, 60)
    model = pb.model(
        dim=64, n_layers=60, window=4, window_pattern=windows, n_experts=2, n_experts_per_token=1,
        n_first_dense=n_first_dense, moe_pattern=[*experts, "experts"],
    )  # fmt: skip
    counted = with_sizes(model, n_layers=depths)
    local, sparse = (
        np.array([[has(layer) for layer in range(60)]] * 59) & (np.arange(60) < depths[:, None])
        for has in (model.is_local, model.has_experts)
    )
    assert np.array_equal(np.broadcast_to(counted.n_local_layers, 59), local.sum(1))
    assert np.array_equal(np.broadcast_to(counted.n_moe_layers, 59), sparse.sum(1))
    words = [pattern_at(windows, layer) for layer in range(60)]
    assert words == (windows * 60)[:60]


def test_gemma_3_has_four_global_layers_of_26():
    model = pb.model("gemma-3-1b", **GEMMA_3)
    assert (model.n_local_layers, model.n_global_layers) == (22, 4)
    assert [layer for layer in range(26) if not model.is_local(layer)] == [5, 11, 17, 23]
    assert attention_kinds(model) == [
        AttentionKind("local attention", 22, 4, 256, 256, cached=512, window=512),
        AttentionKind("attention", 4, 4, 256, 256, cached=512),
    ]


def test_a_window_in_every_layer_leaves_no_row_without_one():
    assert [row.window for row in attention_kinds(SMALL.replace(window=4))] == [4]


@given(st.integers(1, 12), st.integers(0, 12), st.none() | st.integers(1, 30))
def test_a_query_sees_itself_and_the_keys_before_it_within_the_window(
    n_new: int, start: int, window: int | None
):
    seen = visible_keys(n_new, start, window, CPU)
    if seen is None:
        # As `attend` reads it: a causal square, or one query that sees all.
        seen = torch.ones(n_new, start + n_new, dtype=torch.bool).tril(start)
    for query in range(n_new):
        at = start + query
        keys = [key for key in range(start + n_new) if key <= at and (window is None or key > at - window)]
        assert seen[query].nonzero().flatten().tolist() == keys


def test_no_logit_depends_on_a_token_beyond_the_window():
    model = SMALL.replace(n_layers=1, window=3, init_std=0.5)
    module, tokens = built(model).double(), random_tokens(model)
    changed = tokens.clone()
    changed[:, 0] = (tokens[:, 0] + 1) % model.vocab_size
    differs = (module(changed) != module(tokens)).any(-1)[0]
    assert differs.tolist() == [True] * 3 + [False] * 9


def test_a_window_as_long_as_the_sequence_hides_nothing():
    tokens = random_tokens(SMALL)
    assert torch.equal(built(SMALL.replace(window=12))(tokens), built(SMALL)(tokens))


def test_the_slopes_of_alibi_are_the_published_ones():
    # Press et al. 2022, section 3: for 8 heads 1/2, 1/4, ..., 1/256.
    assert alibi_bias(8, 1, 1, CPU)[0, :, 0, 0].tolist() == [-(0.5**i) for i in range(1, 9)]
    # The published code's for 12 heads: those of 8, then every other one of 16.
    of_12 = [0.5**i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    assert alibi_bias(12, 1, 1, CPU)[0, :, 0, 0].tolist() == pytest.approx([-slope for slope in of_12])


def test_alibi_lowers_a_score_in_proportion_to_the_distance():
    assert alibi_bias(1, 2, 1, CPU)[0, 0].tolist() == [[-(2**-8), 0, 2**-8], [-(2**-7), -(2**-8), 0]]


def test_with_alibi_a_sequence_may_be_longer_than_the_context():
    module = built(SMALL.replace(position="alibi"))
    assert module(torch.zeros(1, 13, dtype=torch.long)).shape == (1, 13, 50)


def test_a_layer_without_positions_does_not_know_the_order_of_what_it_sees():
    model = SMALL.replace(n_layers=1, rotary_pattern=("none", "rotary"), init_std=0.5)
    tokens = random_tokens(model)
    reordered = torch.cat((tokens[:, :-1].flip(1), tokens[:, -1:]), dim=1)
    torch.testing.assert_close(built(model)(reordered)[:, -1], built(model)(tokens)[:, -1])
    rotary = built(model.replace(rotary_pattern=("rotary",)))
    assert not torch.allclose(rotary(reordered)[:, -1], rotary(tokens)[:, -1], atol=1e-3)


def test_local_layers_may_have_a_base_of_their_own():
    model, tokens = SMALL.replace(window=12, init_std=0.5), random_tokens(SMALL)
    own, all_of_it = built(model.replace(rope_theta_local=50.0)), built(model.replace(rope_theta=50.0))
    assert torch.equal(own(tokens), all_of_it(tokens))
    assert not torch.equal(own(tokens), built(model)(tokens))


def test_scores_that_are_written_out_are_those_of_the_kernel():
    tokens = random_tokens(SMALL)
    for choices in ({}, {"window": 5}, {"position": "alibi"}, {"attention_multiplier": 0.3}):
        model = SMALL.replace(init_std=0.5, **choices)
        uncapped = built(model.replace(attention_softcap=1e6))
        torch.testing.assert_close(uncapped(tokens), built(model)(tokens), rtol=1e-4, atol=1e-4)


def test_a_soft_cap_bounds_the_scores():
    # With scores near 0 every key counts the same.
    model, tokens = SMALL.replace(n_layers=1, position="none", init_std=0.5), random_tokens(SMALL)
    capped, even = built(model.replace(attention_softcap=1e-6)), built(model)
    even.layers[0].attention.q.weight.data.zero_()
    torch.testing.assert_close(capped(tokens), even(tokens), rtol=1e-4, atol=1e-4)


def test_a_sink_takes_weight_from_every_key_and_a_deep_one_none():
    model, tokens = SMALL.replace(n_layers=1, init_std=0.5), random_tokens(SMALL)
    with_sinks, without = built(model.replace(attention_sinks=True)), built(model)
    sinks = with_sinks.layers[0].attention.sinks
    assert torch.equal(sinks, torch.zeros(4))
    sinks.data.fill_(-1e4)
    torch.testing.assert_close(with_sinks(tokens), without(tokens))
    sinks.data.fill_(1e4)
    without.layers[0].attention.out.weight.data.zero_()
    torch.testing.assert_close(with_sinks(tokens), without(tokens))


def test_rows_before_the_first_position_are_counted_and_never_looked_up():
    model = SMALL.replace(position="learned", position_offset=2)
    module = built(model)
    assert pb.count(model).by_component["position_embedding"] == (12 + 2) * 32
    module(random_tokens(model)).sum().backward()
    assert (module.position.weight.grad.abs().sum(1) > 0).tolist() == [False] * 2 + [True] * 12


def test_projections_of_the_embedding_are_their_own_component_and_in_the_body():
    counted = pb.count(PUBLISHED["opt-350m"].model)
    assert counted.by_component["embedding_projection"] == 2 * 512 * 1024
    assert counted.total - counted.body == 27_838_464


def test_what_is_clipped_stays_within():
    module = built(SMALL.replace(qkv_clip=0.01, position="none", init_std=1.0))
    q, kept = module.layers[0].attention.project_qkv(torch.randn(1, 3, 32), None)
    assert max(each.abs().max() for each in (q, *kept)) <= 0.01


def test_a_clamped_gate_is_cut_off_above_and_up_on_both_sides():
    activation = built(SMALL.replace(activation="quick_gelu", ffn_clamp=7.0)).layers[0].ffn.activation
    gate, up = torch.tensor([9.0, -9.0]), torch.tensor([9.0, -9.0])
    assert activation(gate, up).tolist() == pytest.approx(
        [7 / (1 + 2.718281828 ** (-1.702 * 7)) * 8, 0], abs=1e-4
    )


def test_logits_are_scaled_before_they_are_capped():
    tokens, model = random_tokens(SMALL), SMALL.replace(init_std=0.5)
    plain, scaled = (
        built(model)(tokens),
        built(model.replace(logit_multiplier=0.5, logit_softcap=2.0))(tokens),
    )
    torch.testing.assert_close(scaled, 2 * torch.tanh(plain / 4))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"window_pattern": ["local", "global"]}, "window_pattern=local,global needs a window; set its "),
        ({"window_pattern": ["near"]}, "window_pattern is 'near'; it must be \"local\" or \"global\""),
        ({"window": 0}, "window is 0; it must be greater than or equal to 1"),
        ({"rope_theta_local": 1e4}, "rope_theta_local is for rotary positions in local layers, and there "),
        ({"rotary_pattern": ["none"]}, "rotary_pattern has no rotary layer; set position='none' instead"),
        ({"rotary_pattern": ["none", "rotary"], "position": "alibi"}, "rotary_pattern=none,rotary needs pos"),
        ({"position_offset": 2}, "position_offset=2 needs position='learned' or 'sinusoidal', not 'rotary'"),
        ({"embedding_dim": 256}, "embedding_dim=256 equals dim, so nothing is projected; leave it out"),
        ({"ffn_clamp": 7.0, "gated": False}, "ffn_clamp clamps the gate, and gated=false has none; leave "),
        ({"qk_norm_bias": True, "qk_norm": "head"}, "qk_norm_bias=true needs a qk_norm with norm='layern"),
        ({"kv_lora_rank": 8, "qkv_clip": 1.0}, "qkv_clip=1.0 is not defined in latent attention; leave"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(fields: dict[str, object], says: str):
    with pytest.raises(ConfigError) as caught:
        pb.model(dim=256, n_layers=4, **fields)
    assert str(caught.value).startswith(says)
