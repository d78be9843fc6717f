"""The bfloat16 leaves of matmuls: the numbers of autocast, and never older than the parameters."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from support.training_data import small_config, small_model
from torch._dynamo.utils import counters

from parambudget.arch.config import ModelConfig
from parambudget.nn import mlp
from parambudget.nn.mlp import GroupedLinear, StackedLinear
from parambudget.nn.transformer import Transformer
from parambudget.training import bf16_weights, loop
from parambudget.training.bf16_weights import BFloat16Weights, RefreshedLoss, matmuls
from parambudget.training.device import select_device
from parambudget.training.distributed import SINGLE_PROCESS
from parambudget.training.loop import TrainJob, accumulate_gradients, train
from parambudget.training.loss import build_loss
from parambudget.training.train_state import TrainState, init_module, init_train_state, with_bf16_weights

pytestmark = pytest.mark.usefixtures("one_thread")

BF16 = replace(select_device("cpu"), bf16=True)
Gradients = dict[str, torch.Tensor]
LATENT = {
    "n_kv_heads": 2, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}  # fmt: skip
BIASES = {"qkv_bias": True, "attention_out_bias": True, "ffn_bias": True, "head_bias": True, "tied": False}
MODELS = {
    "default": {},
    "untied": {"tied": False},
    "biases": BIASES,
    "grouped": {"n_kv_heads": 1},
    "latent": LATENT,
    "parallel": {"block": "parallel_shared_norm", "qk_norm": "head"},
    "gpt2": {"gated": False, "activation": "gelu", "position": "learned", "norm": "layernorm"},
    "projected": {"embedding_dim": 20, "embedding_norm": True, "qkv_clip": 0.5},
    "experts": {
        "n_experts": 4, "n_experts_per_token": 2, "expert_intermediate_size": 24, "n_shared_experts": 1
    },
}  # fmt: skip


def bf16_state(model: ModelConfig, **settings: object) -> TrainState:
    return init_train_state(model, small_config(**settings), BF16)


def weights_of(state: TrainState) -> BFloat16Weights:
    assert isinstance(state.loss_fn, RefreshedLoss)
    return state.loss_fn.weights


def windows(model: ModelConfig, n: int = 3) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    shape = (4, model.context_length + 1)
    return [torch.randint(model.vocab_size, shape, generator=draw) for _ in range(n)]


def leaves(module: Transformer) -> Callable[[torch.Tensor], torch.Tensor]:
    return with_bf16_weights(module, autocast_alone(module), BF16)


def joined_in_the_step(module: Transformer) -> Callable[[torch.Tensor], torch.Tensor]:
    return with_bf16_weights(module, autocast_alone(module), BF16, replace(SINGLE_PROCESS, world_size=2))


def autocast_alone(module: Transformer) -> Callable[[torch.Tensor], torch.Tensor]:
    return build_loss(module, small_config(), BF16)


def learned(
    model: ModelConfig, way: Callable[[Transformer], Callable[[torch.Tensor], torch.Tensor]],
    micro_steps: int = 3,
) -> tuple[torch.Tensor, Gradients]:  # fmt: skip
    """The loss and the gradients of an update of several micro-steps."""
    module = init_module(model, 0, BF16)
    config = small_config(gradient_accumulation_steps=micro_steps)
    loss = accumulate_gradients(way(module), iter(windows(model, micro_steps)), config, BF16)
    return loss, {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_leaves_have_the_loss_and_gradients_of_parameters_joined_in_the_step(changes):
    model = small_model(**changes)
    (loss, gradients), (expected, parameters) = learned(model, leaves), learned(model, joined_in_the_step)
    assert loss == expected
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    for name, gradient in gradients.items():
        # A tied table gets two gradients, which are added to the sum one by one or added to each other first.
        within = 1e-6 if model.tied and name == "embed.weight" else 0
        torch.testing.assert_close(gradient, parameters[name], rtol=within, atol=within)


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_joined_matmuls_have_the_gradients_of_separate_ones_up_to_the_rounding_of_one_sum(changes):
    """The gradient of their input is summed in float32 and rounded once, not after each product: 8 bits."""
    model = small_model(**changes)
    (loss, joined), (expected, separate) = (learned(model, way, 1) for way in (leaves, autocast_alone))
    assert loss == pytest.approx(expected.item(), abs=1e-3)
    for name, gradient in joined.items():
        error = (gradient - separate[name]).norm() / separate[name].norm()
        assert error < 2**-5, f"{name} is off by {error:.1e}"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_leaves_are_never_older_than_the_parameters(optimizer):
    model = small_model(tied=False)
    state = bf16_state(model, optimizer=optimizer)
    weights, before = weights_of(state), None
    for tokens_BT in windows(model):
        with BF16.autocast():
            loss = state.loss_fn(tokens_BT)
        now = [copy.clone() for copy in weights.copies]
        for copy, parameter in zip(now, weights.parameters, strict=True):
            torch.testing.assert_close(copy, parameter.detach().bfloat16(), rtol=0, atol=0)
        assert before is None or all(
            not torch.equal(a, b) for a, b in zip(before, now, strict=True)
        )  # the rate moves every matrix by more than its 8 bits
        torch.autograd.backward(loss)
        state.optimizer.step()
        state.optimizer.zero_grad()
        before = now


def test_leaves_are_cast_again_when_weights_were_loaded():
    model = small_model()
    state, other = bf16_state(model), init_module(model, 1, BF16)
    with BF16.autocast(), torch.no_grad():
        first = state.loss_fn(windows(model)[0])
        state.module.load_state_dict(other.state_dict())
        assert state.loss_fn(windows(model)[0]) != first
    for copy, parameter in zip(weights_of(state).copies, weights_of(state).parameters, strict=True):
        assert torch.equal(copy, parameter.bfloat16())


def test_between_optimizer_steps_leaves_are_cast_once(monkeypatch):
    model, calls = small_model(), []
    state, cast = bf16_state(model), BFloat16Weights.refresh
    monkeypatch.setattr(BFloat16Weights, "refresh", lambda weights: calls.append(1) or cast(weights))
    config = small_config(gradient_accumulation_steps=3)
    accumulate_gradients(state.loss_fn, iter(windows(model)), config, BF16)
    assert calls == [1]


def test_the_gradients_of_a_joined_matmul_are_parts_of_one_tensor_and_are_freed_with_it():
    state = bf16_state(small_model())
    attention = state.module.layers[0].attention
    for tokens_BT in windows(state.module.model):
        with BF16.autocast():
            loss = state.loss_fn(tokens_BT)
        torch.autograd.backward(loss)
        gradients = [part.weight.grad for part in (attention.q, attention.k)]
        assert len({gradient.untyped_storage().data_ptr() for gradient in gradients}) == 1
        assert attention.qk.compute_weight.grad is None
    state.optimizer.zero_grad()
    assert [part.weight.grad for part in (attention.q, attention.k)] == [None] * 2


def test_gradients_that_were_replaced_are_added_to_where_they_are():
    model = small_model()
    whole, replaced = (bf16_state(model) for _ in range(2))
    for tokens_BT in windows(model):
        for state in (whole, replaced):
            with BF16.autocast():
                loss = state.loss_fn(tokens_BT)
            torch.autograd.backward(loss)
        gate = replaced.module.layers[1].ffn.gate.weight
        gate.grad = gate.grad.clone()
    for one, other in zip(whole.module.parameters(), replaced.module.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("changes", [{}, BIASES], ids=["tied", "untied"])
def test_a_head_with_padded_rows_has_the_same_logits_and_gradients(changes):
    model = small_model(**changes)
    x_BTD, gradients = torch.randn(2, 5, model.dim), []
    logits = []
    for head_multiple in (1, 64):
        module = init_module(model, 0, BF16)
        weights = BFloat16Weights.attach(module, head_multiple=head_multiple)
        weights.refresh()
        with BF16.autocast():
            logits.append(module.logits(x_BTD, multiple=head_multiple))
        logits[-1].float().square().sum().backward()
        gradients.append(module.lm_head.weight.grad)
    assert len(module.lm_head.compute_weight) == 320
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=0)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    "settings", [{}, {"gradient_checkpointing": True, "loss_chunks": 2, "z_loss": 1e-4}], ids=["plain", "all"]
)
def test_a_loss_with_leaves_is_one_graph_for_training_and_one_for_evaluations(settings):
    """Traced and differentiated as inductor has it, without its kernels."""
    model, config = small_model(n_kv_heads=1), small_config(gradient_accumulation_steps=3, **settings)
    losses = []
    for traced in (False, True):
        torch.compiler.reset()
        counters.clear()
        module = init_module(model, 0, BF16)
        loss_fn = build_loss(module, config, BF16)
        if traced:
            loss_fn = torch.compile(loss_fn, dynamic=False, fullgraph=True, backend="aot_eager")
        loss_fn = with_bf16_weights(module, loss_fn, BF16)
        losses.append([accumulate_gradients(loss_fn, iter(windows(model)), config, BF16)])
        with torch.no_grad(), BF16.autocast():
            losses[-1].append(loss_fn(windows(model)[0]))
    assert counters["stats"]["unique_graphs"] == 2
    assert losses[1] == losses[0]
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_every_matrix_that_all_tokens_pass_through_has_a_leaf_and_no_name():
    model = small_model(**MODELS["experts"])
    module = init_module(model, 0, BF16)
    names, matrices = list(module.state_dict()), {id(p) for p in BFloat16Weights.attach(module).parameters}
    assert list(module.state_dict()) == names
    without = {name for name, p in module.named_parameters() if p.ndim > 1 and id(p) not in matrices}
    assert {name.split(".", 2)[-1] for name in without if ".experts." not in name} == {"ffn.router.weight"}
    assert len(list(matmuls(module))) == 2 * 5 + 1


def test_float32_has_no_leaves():
    state = init_train_state(small_model(), small_config(), select_device("cpu"))
    assert not isinstance(state.loss_fn, RefreshedLoss)
    assert not state.module.layers[0].attention.qk.is_joined


def test_a_bf16_run_that_is_resumed_ends_with_the_same_bits(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "select_device", lambda _: BF16)
    config, model = small_config(gradient_accumulation_steps=2, optimizer="muon"), small_model()
    whole = TrainJob(model, config, data, tmp_path / "whole")
    stopped = TrainJob(model, config, data, tmp_path / "stopped")
    train(whole)
    seen: list[int] = []
    train(stopped, on_step=lambda step: seen.append(step.step), stop_requested=lambda: 4 in seen)
    assert seen[-1] == 4
    train(replace(stopped, resume=True))
    ends = [(job.checkpoints / "step-6" / "model.safetensors").read_bytes() for job in (whole, stopped)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_experts_that_run_at_once_have_leaves_with_the_gradients_of_autocast(fused, monkeypatch):
    monkeypatch.setattr(mlp, "runs_at_once", lambda *_, **__: True)
    model = small_model(**MODELS["experts"], fused_experts=fused, expert_bias=True)
    loss, gradients = learned(model, autocast_alone)
    monkeypatch.setattr(bf16_weights, "runs_at_once", lambda *_, **__: True)

    def of_experts(module: Transformer) -> list[GroupedLinear | StackedLinear]:
        """Alone: with those of the other matmuls, tokens would be sent to other experts here and there."""
        return [one for one in matmuls(module) if isinstance(one, GroupedLinear | StackedLinear)]

    assert len(of_experts(init_module(model, 0, BF16))) == model.n_layers * (3 if fused else 2)
    monkeypatch.setattr(bf16_weights, "matmuls", of_experts)
    of_leaves, found = learned(model, leaves)
    assert torch.equal(of_leaves, loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=0.01, atol=1e-5, msg=name)
