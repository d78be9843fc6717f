"""Experts are kept in use: the balancing loss, the correction, and what is said of them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import SMALL, random_tokens
from training_data import small_config, small_data, small_model

from parambudget.arch.config import ModelConfig
from parambudget.build.experts import imbalance
from parambudget.train import balance
from parambudget.train.defaults import complete
from parambudget.train.device import choose
from parambudget.train.distributed import ALONE
from parambudget.train.learner import Learner, prepared
from parambudget.train.loop import train

CPU = choose("cpu")
CHOICES = {"n_experts": 4, "n_experts_per_token": 2, "expert_intermediate_size": 16}
EXPERTS = SMALL.replace(**CHOICES)
CORRECTED = EXPERTS.replace(correction_bias=True, router_scores="sigmoid")


def router_gradient(model: ModelConfig, **settings: object) -> tuple[float, torch.Tensor]:
    learner = prepared(model, small_config(**settings), CPU)
    loss = learner.loss_of(random_tokens(model))
    loss.backward()
    return loss.item(), learner.module.layers[0].ffn.router.weight.grad


def test_the_loss_is_one_where_all_is_even_and_the_number_of_experts_where_one_does_all():
    even, one = torch.full((5, 4), 0.25), torch.eye(4)[[2] * 5]
    assert imbalance(even, torch.tensor([3, 3, 3, 3])).item() == 1
    assert imbalance(one, torch.tensor([0, 0, 5, 0])).item() == 4
    # Scores are taken as shares of their sum: (3/4, 1/4), of which 2 of 3 chose the first.
    assert imbalance(torch.tensor([[0.6, 0.2]]), torch.tensor([2, 1])).item() == pytest.approx(2 * 7 / 12)


@pytest.mark.parametrize("model", [EXPERTS, CORRECTED, EXPERTS.replace(fused_experts=True)], ids=str)
def test_the_balancing_loss_changes_the_gradient_of_the_router_and_no_loss(model):
    (loss, plain), (same, pushed), (_, twice) = (
        router_gradient(model, balance_loss=weight) for weight in (0.0, 0.5, 1.0)
    )
    assert loss == same
    assert not torch.allclose(plain, pushed)
    torch.testing.assert_close(twice - plain, 2 * (pushed - plain), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("ways", [{"gradient_checkpointing": True}, {"loss_chunks": 3}], ids=str)
def test_it_is_the_same_however_the_gradient_is_computed(ways):
    expected = router_gradient(EXPERTS, balance_loss=0.5)[1]
    torch.testing.assert_close(router_gradient(EXPERTS, balance_loss=0.5, **ways)[1], expected)


def test_micro_steps_share_its_weight():
    learner = prepared(EXPERTS, small_config(balance_loss=0.5, gradient_accumulation_steps=4), CPU)
    assert learner.module.layers[0].ffn.balance_weight == 0.125


def test_a_correction_falls_for_whom_too_many_come_and_rises_for_the_others():
    module = prepared(CORRECTED, small_config(), CPU).module
    balance.correct(module, torch.tensor([[9.0, 1.0, 1.0, 1.0], [3.0, 3.0, 3.0, 3.0]]))
    first, second = (layer.ffn.correction.tolist() for layer in module.layers)
    assert first == pytest.approx([-1e-3, 1e-3, 1e-3, 1e-3])
    assert second == [0, 0, 0, 0]


def skewed(learner: Learner) -> None:
    """Nearly all tokens go to the same experts."""
    with torch.no_grad():
        for layer in learner.module.layers:
            layer.ffn.router.bias += torch.tensor([1.0, 1.0, 0.0, 0.0])


def busiest_after(model: ModelConfig, balance_loss: float, n_updates: int) -> float:
    learner = prepared(model.replace(router_bias=True), small_config(balance_loss=balance_loss), CPU)
    skewed(learner)
    loads = None
    for _ in range(n_updates):
        learner.loss_of(random_tokens(model)).backward()
        loads = balance.loads(learner.module, ALONE)
        learner.optimizer.step()
        learner.optimizer.zero_grad()
        balance.correct(learner.module, loads)
    return balance.busiest(loads).item()


def test_a_router_that_prefers_some_experts_learns_to_use_all():
    assert busiest_after(EXPERTS, 0.0, 1) > 1.8
    assert busiest_after(EXPERTS, 0.0, 150) > 1.5
    assert busiest_after(EXPERTS, 1.0, 150) < 1.3


@pytest.mark.parametrize("changes", [{}, {"correction_bias": True, "fused_experts": True}], ids=str)
def test_a_run_with_experts_says_how_even_they_are_and_goes_on_as_if_never_stopped(tmp_path: Path, changes):
    model, data = small_model(**CHOICES, **changes), small_data(tmp_path)
    settings = {"balance_loss": 0.01, "gradient_checkpointing": True}
    runs = {}
    for name, stops in (("whole", (6,)), ("stopped", (3, 6))):
        for n in stops:
            left = iter(range(n))
            train(
                model, small_config(**settings), data, tmp_path / name, device="cpu", resume=True,
                stopped=lambda left=left: next(left, None) is None,
            )  # fmt: skip
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        weights = load_file(tmp_path / name / "checkpoints/step-6/model.safetensors")
        runs[name] = [row | {"tokens_per_second": None} for row in rows], weights
    (rows, weights), (others, same) = runs.values()
    assert rows == others
    assert len(rows) == 6
    assert all(1 <= row["busiest_expert"] <= 2 for row in rows)
    assert weights.keys() == same.keys()
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    moved = {name: tensor for name, tensor in weights.items() if name.endswith(".correction")}
    assert bool(moved) == ("correction_bias" in changes)
    assert all(tensor.abs().max() >= 1e-3 for tensor in moved.values())


def test_a_run_without_experts_says_nothing_of_them(tmp_path: Path):
    train(
        small_model(),
        small_config(steps=2, warmup_steps=1),
        small_data(tmp_path),
        tmp_path / "run",
        device="cpu",
    )
    assert "busiest_expert" not in (tmp_path / "run/metrics.jsonl").read_text()


def test_the_weight_is_that_of_switch_transformers_unless_a_correction_does_it():
    found = [complete({}, model, 10**6, on_cpu=True) for model in (SMALL, EXPERTS, CORRECTED)]
    assert [each.config.balance_loss for each in found] == [0, 0.01, 0]
    assert "Fedus" in found[1].reasons["balance_loss"]
    assert "DeepSeek-V3" in found[2].reasons["balance_loss"]
