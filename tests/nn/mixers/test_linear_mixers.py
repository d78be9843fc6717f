"""Mixers that are linear in what they keep: their chunks against loops over tokens."""

import pytest
import torch

from parambudget.nn.mixers.lightning_attention import decaying_attention
from parambudget.nn.mixers.rg_lru import linear_recurrence
from parambudget.nn.mixers.rwkv import weighted_means

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


def means_one_by_one(k, v, log_rate, bonus):
    """Every mean by itself: all weights up to its token, in float64."""
    k, v, rate, bonus = k.double(), v.double(), log_rate.double().exp(), bonus.double()
    means = []
    for t in range(k.shape[1]):
        since = torch.arange(t - 1, -1, -1).unsqueeze(1) * rate
        exponents = torch.cat((k[:, :t] - since, k[:, t : t + 1] + bonus), dim=1)
        means.append((exponents.softmax(1) * v[:, : t + 1]).sum(1))
    return torch.stack(means, 1)


@pytest.mark.parametrize("n_tokens", [1, 31, 32, 33, 150])
@pytest.mark.parametrize("size", [1, 300], ids=["usual keys", "keys that overflow float32"])
def test_weighted_means_in_blocks_are_those_of_all_weights(n_tokens, size):
    torch.manual_seed(0)
    k, v = size * torch.randn(2, n_tokens, 7), torch.randn(2, n_tokens, 7)
    log_rate, bonus = torch.linspace(-8, 4, 7), torch.randn(7)
    ours, _ = weighted_means(k, v, log_rate, bonus, None)
    torch.testing.assert_close(ours.double(), means_one_by_one(k, v, log_rate, bonus), rtol=1e-3, atol=1e-4)


def test_weighted_means_go_on_from_the_memory_of_earlier_tokens():
    torch.manual_seed(0)
    k, v, log_rate, bonus = 5 * torch.randn(2, 90, 6), torch.randn(2, 90, 6), torch.randn(6), torch.randn(6)
    whole, memory = weighted_means(k, v, log_rate, bonus, None)
    first, between = weighted_means(k[:, :50], v[:, :50], log_rate, bonus, None)
    second, after = weighted_means(k[:, 50:], v[:, 50:], log_rate, bonus, between)
    torch.testing.assert_close(torch.cat((first, second), 1), whole)
    torch.testing.assert_close(after, memory)


def test_the_gradients_of_weighted_means_are_those_of_all_weights():
    torch.manual_seed(0)
    inputs = [torch.randn(1, 40, 3), torch.randn(1, 40, 3), torch.randn(3), torch.randn(3)]
    towards = torch.randn(1, 40, 3)
    gradients = []
    for means in (lambda *x: weighted_means(*x, None)[0], means_one_by_one):
        leaves = [x.clone().requires_grad_() for x in inputs]
        (means(*leaves) * towards).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_a_channel_that_keeps_all_it_has_has_a_finite_gradient():
    decay = torch.zeros(1, 3, 2, requires_grad=True)
    linear_recurrence(torch.ones(1, 3, 2), decay, None)[0].sum().backward()
    assert decay.grad is not None
    assert decay.grad.isfinite().all()
