"""Mamba and Mamba-2: their chunks against loops over tokens."""

import pytest
import torch

from parambudget.nn.mixers.mamba import selective_scan
from parambudget.nn.mixers.mamba2 import state_space_scan

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("n_tokens", [1, 63, 64, 150])
def test_chunks_of_heads_give_what_a_loop_over_tokens_gives(n_tokens):
    torch.manual_seed(0)
    x, dt, log_rate = torch.randn(2, n_tokens, 4, 6), torch.rand(2, n_tokens, 4), torch.randn(4)
    b, c = torch.randn(2, n_tokens, 2, 5), torch.randn(2, n_tokens, 2, 5)
    state, read = torch.zeros(2, 4, 5, 6), []
    for i in range(n_tokens):
        write_along, read_along = (each[:, i].repeat_interleave(2, dim=1) for each in (b, c))
        state = state * torch.exp(-dt[:, i] * log_rate.exp())[..., None, None]
        state = state + torch.einsum("bh,bhn,bhp->bhnp", dt[:, i], write_along, x[:, i])
        read.append(torch.einsum("bhn,bhnp->bhp", read_along, state))
    found, memory = state_space_scan(x, dt, log_rate, b, c, None)
    torch.testing.assert_close(found, torch.stack(read, 1), rtol=1e-4, atol=1e-4)
    heads_last = memory.transpose(2, 3).flatten(1, 2)  # (B, G, N, R, P) to (B, H, N, P)
    torch.testing.assert_close(heads_last, state, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_tokens", [1, 16, 17, 300])
def test_blocks_of_channels_give_what_a_loop_over_tokens_gives(n_tokens):
    torch.manual_seed(0)
    x, dt, log_rate = torch.randn(2, n_tokens, 7), torch.rand(2, n_tokens, 7), torch.randn(7, 3)
    b, c = torch.randn(2, n_tokens, 3), torch.randn(2, n_tokens, 3)
    state, read = torch.zeros(2, 7, 3), []
    for i in range(n_tokens):
        state = state * torch.exp(-dt[:, i, :, None] * log_rate.exp())
        state = state + (dt[:, i] * x[:, i])[..., None] * b[:, i, None]
        read.append((state * c[:, i, None]).sum(-1))
    found, memory = selective_scan(x, dt, log_rate, b, c, None)
    torch.testing.assert_close(found, torch.stack(read, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(memory, state, rtol=1e-4, atol=1e-4)
