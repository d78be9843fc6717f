"""A share of the activations is kept, the rest recomputed: the same losses and gradients for less memory."""

from dataclasses import replace

import pytest
import torch
from support.steps import step_of
from support.tiny_model import SMALL, built
from support.training_data import small_config
from torch._functorch import config as functorch_config

from parambudget.cost.memory.recompute import recomputation
from parambudget.cost.step import Backend
from parambudget.training import activation_budget
from parambudget.training.activation_budget import SaveResidualStream, within_budget
from parambudget.training.bf16_weights import BFloat16Weights
from parambudget.training.device import select_device
from parambudget.training.loss import build_loss
from parambudget.training.run.defaults import ResolvedTrainConfig, settings_without_effect

pytestmark = [
    pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::DeprecationWarning")
]  # fmt: skip
MODEL = SMALL.replace(n_layers=4, intermediate_size=96)
BATCH = 3
TOKENS = torch.randint(
    MODEL.vocab_size, (BATCH, MODEL.context_length + 1), generator=torch.Generator().manual_seed(1)
)
BF16 = replace(select_device("cpu"), bf16=True)


class WatchedSolver(SaveResidualStream):
    """Remembers what it decided."""

    def __call__(self, memory, joint_graph, max_memory, node_info, all_recomputable_banned_nodes):
        self.saved, self.recomputed = super().__call__(
            memory, joint_graph, max_memory, node_info, all_recomputable_banned_nodes
        )
        self.memory, self.budget, self.nodes = memory, max_memory, all_recomputable_banned_nodes
        return self.saved, self.recomputed

    @property
    def is_residual(self) -> list[bool]:
        """Of every node, whether it is as wide as the residual stream and has matrices behind it that are
        not: the outputs of attention and of the FFN."""
        return [activation_budget._is_added(node) and len(node.meta["val"].shape) == 2 for node in self.nodes]


def learned(budget: float, *, bf16: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of a step that is cut in two by torch's partitioner and then run as it is."""
    torch.compiler.reset()
    module, compute = built(MODEL), BF16 if bf16 else select_device("cpu")
    if bf16:
        BFloat16Weights.attach(module).refresh()
    plain = build_loss(module, small_config(), compute)
    loss_fn = within_budget(torch.compile(plain, backend="aot_eager_decomp_partition"), budget)
    with compute.autocast():
        loss = loss_fn(TOKENS)
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("budget", [0.75, 0.5, 0.25, 0.1])
def test_what_is_recomputed_is_the_same(budget):
    torch.testing.assert_close(learned(budget), learned(1), rtol=1e-5, atol=1e-7)


def test_the_setting_of_the_process_is_as_before():
    learned(0.5)
    assert functorch_config.activation_memory_budget == 1
    assert functorch_config.activation_memory_budget_solver == "dp"


@pytest.mark.parametrize("budget", [0.5, 0.4, 0.3, 0.2])
def test_the_residual_stream_is_saved_first_and_as_much_else_as_planned(budget, monkeypatch):
    solver = WatchedSolver()
    monkeypatch.setattr(activation_budget, "SaveResidualStream", lambda: solver)
    learned(budget, bf16=True)
    assert sum(solver.memory[i] for i in solver.saved) <= solver.budget == budget
    assert sorted(solver.saved + solver.recomputed) == list(range(len(solver.nodes)))
    residual = [i for i, is_residual in enumerate(solver.is_residual) if is_residual]
    assert len(residual) == 2 * MODEL.n_layers
    assert set(residual) <= set(solver.saved)
    # Of the rest, what is wider than a number for each row and head.
    wide = [i for i in range(len(solver.nodes)) if solver.nodes[i].meta["val"].shape[-1] > MODEL.n_heads]
    inner = [i for i in wide if i not in residual and solver.nodes[i].meta["val"].shape[-1] != 50]
    again = sum(solver.memory[i] for i in inner if i in solver.recomputed)
    step = step_of(BATCH, activation_memory_budget=budget, backend=Backend("cpu"))
    planned = recomputation(MODEL, step)
    whole = sum(solver.memory[i] for i in inner)
    one = max(solver.memory[i] for i in inner)
    assert planned.stage == 3
    assert again / whole == pytest.approx(float(planned.inner_share), abs=one / whole)


def test_where_the_embedding_is_larger_than_all_activations_nothing_is_recomputed_and_the_run_says_so():
    wide = MODEL.replace(vocab_size=100_000)
    step = step_of(1, activation_memory_budget=0.5, loss_chunks=8)
    assert recomputation(wide, step).stage == 0
    resolved = ResolvedTrainConfig(
        small_config(batch_size=1, loss_chunks=8, activation_memory_budget=0.5),
        frozenset({"activation_memory_budget"}), {},
    )  # fmt: skip
    (sentence,) = settings_without_effect(resolved, wide)
    assert "activation_memory_budget=0.5" in sentence
