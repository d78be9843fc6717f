"""Mixers that are linear in what they keep: their chunks against loops over tokens."""

import pytest
import torch

from parambudget.nn.mixers.lightning_attention import decaying_attention
from parambudget.nn.mixers.rg_lru import linear_recurrence

lengths = pytest.mark.parametrize("n_tokens", [1, 63, 64, 150])


@lengths
def test_lightning_attention_in_chunks_gives_what_a_loop_gives(n_tokens):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n_tokens, 3, 8) for _ in range(3))
    decay, state, read = -torch.rand(3), torch.zeros(2, 3, 8, 8), []
    for i in range(n_tokens):
        state = state * decay[:, None, None].exp() + torch.einsum("bhk,bhv->bhkv", k[:, i], v[:, i])
        read.append(torch.einsum("bhk,bhkv->bhv", q[:, i], state))
    ours, memory = decaying_attention(q, k, v, decay, None)
    torch.testing.assert_close(ours, torch.stack(read, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(memory, state, rtol=1e-4, atol=1e-4)


@lengths
def test_the_linear_recurrence_in_chunks_gives_what_a_loop_gives(n_tokens):
    torch.manual_seed(0)
    x, decay = torch.randn(2, n_tokens, 5), -torch.rand(2, n_tokens, 5)
    states = [x[:, 0]]
    for i in range(1, n_tokens):
        kept = decay[:, i].exp()
        states.append(kept * states[-1] + (1 - kept**2).sqrt() * x[:, i])
    ours, memory = linear_recurrence(x, decay, None)
    torch.testing.assert_close(ours, torch.stack(states, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(memory, states[-1], rtol=1e-4, atol=1e-5)


def test_a_channel_that_keeps_all_it_has_has_a_finite_gradient():
    decay = torch.zeros(1, 3, 2, requires_grad=True)
    linear_recurrence(torch.ones(1, 3, 2), decay, None)[0].sum().backward()
    assert decay.grad is not None
    assert decay.grad.isfinite().all()
