"""The table of what is kept for the backward pass, held against autograd."""

from collections import Counter

import pytest
import torch
from autograd import Kept, kept_by_autograd
from hypothesis import given, settings
from hypothesis import strategies as st
from small import SMALL
from strategies import models

from parambudget.arch.config import ModelConfig
from parambudget.cost.saved import saved
from parambudget.cost.tape import Kernels

some = settings(max_examples=60, deadline=None)
BATCH = 3


def in_the_table(model: ModelConfig, kernels: Kernels, **asked: bool) -> Kept:
    """The rows as autograd could show them: a module, a size, how often."""
    rows, n_tokens = Counter(), BATCH * model.context_length
    for row in saved(model, kernels, **asked):
        rows[row.name.rpartition(".")[0], row.bytes(n_tokens) // row.copies] += row.copies
    return rows


def tokens_of(model: ModelConfig) -> torch.Tensor:
    return torch.randint(model.vocab_size, (BATCH, model.context_length + 1))


@some
@pytest.mark.parametrize("bf16", [False, True])
@given(model=models(told=True), checkpointing=st.booleans())
def test_a_forward_pass_keeps_what_the_table_says(model, bf16, checkpointing):
    kept = kept_by_autograd(model, tokens_of(model), bf16=bf16, gradient_checkpointing=checkpointing)
    kernels = Kernels("cpu", bf16=bf16, compiled=False)
    assert kept == in_the_table(model, kernels, checkpointing=checkpointing)


def test_a_loss_in_parts_keeps_what_the_head_multiplies_and_the_targets():
    kept = kept_by_autograd(SMALL, tokens_of(SMALL), bf16=True, loss_chunks=4)
    kernels = Kernels("cpu", bf16=True, compiled=False)
    assert kept == in_the_table(SMALL, kernels, loss_in_parts=True)
