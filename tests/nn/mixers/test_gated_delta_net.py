"""The gated delta net: its chunks against a loop over tokens."""

import pytest
import torch

from parambudget.nn.mixers.gated_delta_net import gated_delta_rule


def token_by_token(q, k, v, decay, beta):
    """The recurrence as it is defined: decay, correct, read."""
    group = v.shape[2] // q.shape[2]
    q, k = (torch.nn.functional.normalize(x, dim=-1, eps=1e-3).repeat_interleave(group, 2) for x in (q, k))
    state = torch.zeros(v.shape[0], v.shape[2], k.shape[-1], v.shape[-1], dtype=v.dtype)
    read = []
    for i in range(v.shape[1]):
        state = state * decay[:, i, :, :, None].exp()
        held = torch.einsum("bhk,bhkv->bhv", k[:, i], state)
        correction = beta[:, i, :, None] * (v[:, i] - held)
        state = state + k[:, i, :, :, None] * correction[:, :, None]
        read.append(torch.einsum("bhk,bhkv->bhv", q[:, i] * q.shape[-1] ** -0.5, state))
    return torch.stack(read, 1), state


@pytest.mark.parametrize("n_tokens", [1, 63, 64, 150])
@pytest.mark.parametrize("width", [1, 8], ids=["one decay", "a decay for each channel"])
def test_chunks_give_what_a_loop_over_tokens_gives(n_tokens, width):
    torch.manual_seed(0)
    q, k = torch.randn(2, n_tokens, 2, 8), torch.randn(2, n_tokens, 2, 8)
    v, decay = torch.randn(2, n_tokens, 4, 12), -3 * torch.rand(2, n_tokens, 4, width)
    beta = torch.rand(2, n_tokens, 4)
    expected = token_by_token(q, k, v, decay, beta)
    for ours, theirs in zip(gated_delta_rule(q, k, v, decay, beta, None), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_decays_that_would_overflow_between_subchunks_are_still_right():
    """A channel that decays by e^-30 per token: the inverse of its decay over a chunk is no float32."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 64, 1, 8) for _ in range(3))
    decay, beta = -30 * torch.rand(1, 64, 1, 8), torch.rand(1, 64, 1)
    expected, _ = token_by_token(q, k, v, decay, beta)
    torch.testing.assert_close(
        gated_delta_rule(q, k, v, decay, beta, None)[0], expected, rtol=1e-4, atol=1e-5
    )
