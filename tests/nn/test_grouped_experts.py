"""Experts that run at once, by one grouped matmul: as one after another, in one graph, counted once."""

import pytest
import torch
from support.tiny_model import SMALL, built, random_tokens
from support.training_data import small_config
from torch._dynamo.testing import CompileCounterWithBackend

from parambudget.arch.config import ModelConfig
from parambudget.nn import mlp
from parambudget.nn.mlp import ExpertOrder, runs_at_once
from parambudget.nn.transformer import Transformer
from parambudget.training.device import select_device
from parambudget.training.loss import ExpertLoadBalancer, build_loss

pytestmark = pytest.mark.usefixtures("one_thread")
EXPERTS = SMALL.replace(n_experts=6, n_experts_per_token=2, expert_intermediate_size=20, n_layers=2)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU too, whose experts run one after another otherwise."""
    monkeypatch.setattr(mlp, "runs_at_once", lambda *_, **__: True)


def logits_and_gradients(module: Transformer, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    module.zero_grad()
    logits = module(tokens)
    logits.square().mean().backward()
    return {"logits": logits} | {name: p.grad.clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fused_experts": True},
        {"expert_bias": True},
        {"fused_experts": True, "expert_bias": True, "expert_intermediate_size": 24},
        {"fused_experts": True, "expert_bias": True, "ffn_clamp": 0.02},
        {"gated": False, "activation": "relu2", "dim": 36, "expert_intermediate_size": 13},
        {"gated": False, "fused_experts": True, "expert_bias": True},
        {"n_shared_experts": 1, "shared_expert_gate": True, "correction_bias": True},
        {"n_expert_groups": 3, "n_groups_per_token": 1, "router_scores": "sigmoid"},
        {"n_experts": 40},
    ],
    ids=lambda changes: "-".join(map(str, changes)) or "plain",
)
def test_experts_at_once_compute_what_they_do_one_after_another(changes, monkeypatch):
    module = built(EXPERTS.replace(**changes))
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0.0, 0.1)
    tokens = random_tokens(module.model)
    expected = logits_and_gradients(module, tokens)
    monkeypatch.setattr(mlp, "runs_at_once", lambda *_, **__: True)
    found = logits_and_gradients(module, tokens)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_in_bfloat16_they_differ_by_its_rounding_alone(monkeypatch):
    module = built(EXPERTS.replace(fused_experts=True))
    tokens = random_tokens(module.model)
    exact = logits_and_gradients(module, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        in_turn = logits_and_gradients(module, tokens)
        monkeypatch.setattr(mlp, "runs_at_once", lambda *_, **__: True)
        at_once = logits_and_gradients(module, tokens)
    for name, value in exact.items():
        scale = value.norm()
        error = (at_once[name] - value).norm() / scale
        assert error <= 2 * (in_turn[name] - value).norm() / scale + 1e-3, name


def test_pairs_are_sorted_by_expert_and_put_back():
    order = ExpertOrder.of(torch.tensor([[2, 0], [0, 4], [2, 4]]), n_experts=6)
    assert order.by_expert.tolist() == [1, 2, 0, 4, 3, 5]
    assert order.by_expert[order.by_token].tolist() == [0, 1, 2, 3, 4, 5]
    assert order.ends.tolist() == [2, 2, 4, 4, 6, 6]
    assert order.tokens_per_expert().tolist() == [2, 0, 2, 0, 2, 0]


@pytest.mark.parametrize(
    ("device", "dtype", "n_rows", "expected"),
    [
        ("cuda", torch.bfloat16, 64, True),
        ("cuda", torch.bfloat16, 63, False),  # as when text is generated
        ("cuda", torch.float32, 64, False),
        ("cpu", torch.bfloat16, 64, False),
    ],
)
def test_they_run_at_once_in_bfloat16_on_a_gpu_where_there_is_a_row_for_each(device, dtype, n_rows, expected):
    assert runs_at_once(device, dtype, n_rows, n_experts=64) is expected


def loss_of(model: ModelConfig, **settings: object):
    module = built(model)
    balancer = ExpertLoadBalancer.of(module)
    balancer.reset_load()
    return module, balancer, build_loss(module, small_config(**settings), select_device("cpu"), balancer)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_a_training_step_is_one_graph_without_recompiles(recompute, fused):
    torch.compiler.reset()
    model = EXPERTS.replace(fused_experts=fused, correction_bias=True, n_shared_experts=1)
    way = {"balance_loss": 0.1, "gradient_checkpointing": recompute}
    eager, eager_balancer, eager_loss = loss_of(model, **way)
    module, balancer, loss_fn = loss_of(model, **way)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss_fn, backend=counter, fullgraph=True, dynamic=False)
    for _ in range(2):
        for _ in range(2):
            for fn in (eager_loss, compiled):
                loss = fn(random_tokens(model))
                loss.backward()
        loads = [torch.stack([layer.load for layer in one.layers]) for one in (eager_balancer, balancer)]
        assert loads[1].sum().item() == 2 * random_tokens(model)[:, 1:].numel() * 2 * model.n_layers
        assert torch.equal(*loads)
        for one in (eager_balancer, balancer):
            one.busiest_expert()
            one.update_router_bias(torch.zeros(()))
            one.reset_load()
    assert counter.frame_count == 1
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, eager.get_parameter(name).grad, msg=name)
