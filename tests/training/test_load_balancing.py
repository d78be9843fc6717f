"""Experts are kept busy: the loss on the router, the correction of the choice, and what a run says of it."""

import pytest
import torch
from safetensors.torch import load_file
from support.training_data import small_config, small_model

from parambudget.errors import ConfigError
from parambudget.nn.mlp import load_balancing_loss
from parambudget.training import loop
from parambudget.training.device import select_device
from parambudget.training.loop import accumulate_gradients
from parambudget.training.loss import ROUTER_BIAS_STEP
from parambudget.training.run.defaults import with_train_defaults
from parambudget.training.train_state import TrainState, init_train_state

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = select_device("cpu")
EXPERTS = small_model(n_experts=4, n_experts_per_token=2, expert_intermediate_size=16)
CORRECTED = EXPERTS.replace(correction_bias=True, router_scores="sigmoid", n_first_dense=1)
TOKENS = torch.randint(300, (4, 17), generator=torch.Generator().manual_seed(0))


def state_of(model=EXPERTS, **settings) -> TrainState:
    return init_train_state(model, small_config(**settings), CPU)


def gradients(state: TrainState) -> dict[str, torch.Tensor]:
    state.loss_fn(TOKENS).backward()
    return {name: parameter.grad for name, parameter in state.module.named_parameters()}


def test_unevenness_is_1_where_all_get_as_much_and_the_number_of_experts_where_one_gets_all():
    even, one = torch.full((6, 4), 0.25), torch.eye(4)[[2] * 6]
    assert load_balancing_loss(even, torch.full((4,), 3.0)).item() == 1
    assert load_balancing_loss(one, torch.tensor([0.0, 0, 12, 0])).item() == 4


def test_sigmoid_scores_are_shares_of_their_sum():
    assert load_balancing_loss(torch.full((6, 4), 0.7), torch.tensor([1.0, 5, 0, 0])).item() == pytest.approx(
        1
    )


@pytest.mark.parametrize("way", [{}, {"gradient_checkpointing": True}, {"loss_chunks": 3, "z_loss": 0.1}])
def test_the_balance_adds_its_gradient_and_leaves_the_loss(way):
    plain, balanced = state_of(**way), state_of(balance_loss=0.5, **way)
    assert torch.equal(plain.loss_fn(TOKENS), balanced.loss_fn(TOKENS))
    alone = state_of()
    alone.module.hidden_states(TOKENS[:, :-1])
    alone.balancer.take_load_balancing_loss().mul(0.5).backward()
    of_plain, of_balanced = gradients(plain), gradients(balanced)
    for name, parameter in alone.module.named_parameters():
        added = 0.0 if parameter.grad is None else parameter.grad
        torch.testing.assert_close(of_balanced[name], of_plain[name] + added, msg=name)
    assert alone.module.layers[1].ffn.router.weight.grad.abs().sum() > 0


def test_validation_has_no_balance_in_it_and_counts_no_tokens():
    state = state_of(balance_loss=0.5)
    with torch.no_grad():
        assert torch.equal(state.loss_fn(TOKENS), state_of().loss_fn(TOKENS))
    assert sum(layer.load.sum() for layer in state.balancer.layers) == 0


def test_the_busiest_expert_is_that_of_all_micro_steps():
    state = state_of()
    config = small_config(batch_size=2, gradient_accumulation_steps=2)
    accumulate_gradients(state.loss_fn, [TOKENS[:2], TOKENS[2:]], config, CPU)
    loads = torch.stack([layer.load for layer in state.balancer.layers])
    assert loads.sum(-1).tolist() == [4 * 16 * 2] * 2  # tokens x experts of each
    (busiest,) = state.balancer.busiest_expert()
    assert busiest.item() == (loads / 32).max().item()
    state.balancer.reset_load()
    assert state.balancer.layers[0].load.sum() == 0


def test_experts_with_less_than_their_share_become_likelier():
    state = state_of(CORRECTED)
    (layer,) = state.balancer.layers
    layer.load = torch.tensor([9.0, 1, 4, 2])
    state.balancer.update_router_bias(torch.tensor(0.0))
    assert (layer.correction / ROUTER_BIAS_STEP).tolist() == [-1, 1, 0, 1]


def busiest_after(model, n: int, improve) -> float:
    """Of the same tokens, after `n` improvements of a router that sends all to two of four experts."""
    state = state_of(model.replace(router_bias=True, n_layers=2, n_first_dense=1))
    (layer,) = state.balancer.layers
    layer.router.bias.data = torch.tensor([1.0, 1, 0, 0])
    descent = torch.optim.SGD(layer.router.parameters(), lr=0.5)
    for _ in range(n + 1):
        state.balancer.reset_load()
        state.module.hidden_states(TOKENS[:, :-1])
        (busiest,) = state.balancer.busiest_expert()
        improve(state.balancer, descent)
    return busiest.item()


def descended(balance, descent) -> None:
    descent.zero_grad()
    balance.take_load_balancing_loss().backward()
    descent.step()


def test_its_gradient_leads_a_router_to_even_shares():
    assert busiest_after(EXPERTS, 0, descended) > 1.9
    assert busiest_after(EXPERTS, 200, descended) < 1.2


def test_corrections_lead_a_choice_to_even_shares():
    def corrected(balance, _) -> None:
        balance.update_router_bias(torch.tensor(0.0))

    assert busiest_after(CORRECTED, 0, corrected) > 1.9
    assert busiest_after(CORRECTED, 200, corrected) < 1.2


def test_a_resumed_run_has_the_same_corrections_bit_for_bit(data, tmp_path):
    config = small_config(steps=6, save_every=3, balance_loss=1e-4)
    loop.train(loop.TrainJob(CORRECTED, config, data, tmp_path / "whole"), device="cpu")
    loop.train(
        loop.TrainJob(CORRECTED, config, data, tmp_path / "parts"),
        device="cpu",
        stop_requested=iter([False] * 3 + [True]).__next__,
    )
    loop.train(loop.TrainJob(CORRECTED, config, data, tmp_path / "parts", resume=True), device="cpu")
    whole, parts = (
        load_file(tmp_path / name / "checkpoints/step-6/model.safetensors") for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    corrections = [value for name, value in whole.items() if name.endswith("correction")]
    assert len(corrections) == 1
    assert corrections[0].abs().max() > 0


def test_a_dense_run_says_nothing_of_experts(data, tmp_path):
    loop.train(
        loop.TrainJob(small_model(), small_config(steps=1, warmup_steps=1), data, tmp_path / "run"),
        device="cpu",
    )
    assert "busiest_expert" not in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("model", "weight"),
    [(small_model(), 0.0), (EXPERTS, 0.01), (CORRECTED, 1e-4)],
    ids=["dense", "loss", "correction"],
)
def test_its_weight_follows_from_the_model(model, weight):
    found = with_train_defaults({}, model, 10**6, on_cpu=True)
    assert found.config.balance_loss == weight
    assert found.reasons["balance_loss"]


def test_a_dense_model_has_nothing_to_balance():
    with pytest.raises(ConfigError, match="balances experts, but this model has none; leave it out"):
        with_train_defaults({"balance_loss": 0.01}, small_model(), 10**6, on_cpu=True)
