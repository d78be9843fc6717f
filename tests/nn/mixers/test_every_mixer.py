"""Every mixer beside attention: generation from its state, initial weights, and training."""

import pytest
import torch
from support.hybrids import LINEAR_MIXERS, MAMBA, STATE_SPACES

from parambudget.arch.config import ModelConfig
from parambudget.nn.kv_cache import kv_cache
from parambudget.nn.transformer import Transformer

pytestmark = pytest.mark.usefixtures("one_thread")
MODELS = LINEAR_MIXERS | STATE_SPACES
every_mixer = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def built(model: ModelConfig) -> Transformer:
    module = Transformer(model)
    module.init_weights(torch.Generator().manual_seed(0))
    return module


@every_mixer
@torch.no_grad()
def test_tokens_one_by_one_give_what_all_at_once_give(model):
    module, tokens = built(model), torch.randint(model.vocab_size, (2, 90))
    expected = module.hidden_states(tokens)
    with kv_cache(module, 90) as advance:
        parts = [advance(tokens[:, :70]), *(advance(tokens[:, i : i + 1]) for i in range(70, 90))]
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-4, atol=1e-4)


@every_mixer
def test_a_few_steps_lower_the_loss(model):
    module = built(model)
    tokens = torch.randint(model.vocab_size, (2, 33), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        logits = module(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    assert all(parameter.grad is not None for parameter in module.parameters())


@every_mixer
def test_a_module_from_the_meta_device_gets_the_same_initial_weights(model):
    """None is left as `to_empty` has it."""
    filled = Transformer(model, device="meta").to_empty(device="cpu")
    for parameter in filled.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    filled.init_weights(torch.Generator().manual_seed(0))
    for name, parameter in built(model).named_parameters():
        torch.testing.assert_close(filled.get_parameter(name), parameter, msg=name)


def test_initial_steps_are_short_and_rates_differ():
    mixer = built(MAMBA).layers[0].mixer
    steps = torch.nn.functional.softplus(mixer.dt_bias)
    assert 0.9e-3 < steps.min() < steps.max() < 0.11
    torch.testing.assert_close(mixer.log_rate[0].exp(), torch.arange(1.0, 9.0))
