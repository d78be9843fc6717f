"""Muon in stacks makes the updates of torch's own, and a skipped update leaves nothing, on the device alone;
figures that are read late are the same ones."""

import json
import math
from pathlib import Path

import pytest
import torch
from support.training_data import small_config, small_model
from torch import Tensor, nn

from parambudget.cost.memory import state as memory
from parambudget.training import loop
from parambudget.training.device import select_device
from parambudget.training.optimization.muon import Muon
from parambudget.training.optimization.optimizer import build_optimizer
from parambudget.training.train_state import init_module, init_train_state

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = select_device("cpu")
SETTINGS = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95}
SHAPES = [(12, 20)] * 3 + [(20, 12)] * 2 + [(16, 16)] + [(1, 8)]


def with_gradients(parameters: list[nn.Parameter], draw: torch.Generator) -> None:
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=draw)


def matrices(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]


def updated(optimizer: torch.optim.Optimizer, n: int = 3) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    (group,) = optimizer.param_groups
    for i in range(n):
        group["lr"], group["momentum"] = 0.02 / (i + 1), 0.9 + 0.02 * i  # as schedules change them
        with_gradients(group["params"], draw)
        optimizer.step()
    return [parameter.detach() for parameter in group["params"]]


def difference(one: list[Tensor], other: list[Tensor], first: list[Tensor]) -> float:
    """The largest, relative to how far the matrix has moved."""
    return max(
        ((a - b).norm() / (a - start).norm()).item() for a, b, start in zip(one, other, first, strict=True)
    )


@pytest.mark.parametrize("most", [2**27, 1], ids=["stacks", "one at a time"])
def test_the_updates_are_those_of_torchs_muon(monkeypatch, most):
    """torch iterates in bfloat16, with 8 bits; a wrong sign or factor is a difference of 0.1 or more."""
    monkeypatch.setattr(memory, "STACK_ELEMENTS", most)
    first = [matrix.detach().clone() for matrix in matrices(SHAPES)]
    own = updated(Muon(matrices(SHAPES), **SETTINGS))
    of_torch = updated(torch.optim.Muon(matrices(SHAPES), **SETTINGS, adjust_lr_fn="match_rms_adamw"))
    assert difference(own, of_torch, first) < 0.02


def test_experts_in_one_tensor_move_as_separate_ones(monkeypatch):
    """In stacks that end in the middle of a tensor, too."""
    for most in (2**27, 2 * 12 * 20):
        monkeypatch.setattr(memory, "STACK_ELEMENTS", most)
        together = updated(Muon(matrices([(3, 12, 20), (2, 12, 20)]), **SETTINGS))
        apart = updated(Muon(matrices([(12, 20)] * 5), **SETTINGS))
        torch.testing.assert_close(torch.cat(together), torch.stack(apart), rtol=1e-5, atol=1e-6)


def test_a_stack_holds_equally_many_for_each_process_and_is_not_too_large():
    assert memory.matrices_per_stack(896, 896, 96) == 96
    assert memory.matrices_per_stack(3584, 896, 48) == 24
    assert memory.matrices_per_stack(4096, 14336, 64, n_processes=8) == 8
    assert memory.matrices_per_stack(896, 896, 97, n_processes=8) == 104
    for n in (0, 1, 5, 41):
        size = memory.matrices_per_stack(4096, 4096, n, n_processes=2)
        assert size % 2 == 0
        assert size <= math.ceil(n / 2) * 2
        assert size * 4096 * 4096 <= memory.STACK_ELEMENTS


def state_of(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Every tensor that an update changes."""
    held = {name: value.detach().clone() for name, value in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        held |= {f"{kind}/{name}": value.clone() for kind, value in optimizer.state[parameter].items()}
    return held


@pytest.mark.parametrize("optimizer_name", ["muon", "adamw"])
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1.0), (1.0, math.nan), (-math.inf, 1.0), (1.0, math.inf)]
)
def test_a_skipped_update_leaves_every_bit(optimizer_name, fused, loss, norm):
    model = small_model(n_experts=2, n_experts_per_token=1, fused_experts=fused, expert_intermediate_size=24)
    config = small_config(optimizer=optimizer_name)
    module = init_module(model, 0, CPU)
    optimizer, draw = build_optimizer(module, model, config), torch.Generator().manual_seed(2)
    parameters = list(module.parameters())

    def step(loss: float, norm: float) -> float:
        with_gradients(parameters, draw)
        if not math.isfinite(loss + norm):
            for i, parameter in enumerate(parameters):
                parameter.grad.flatten()[-1] = (math.nan, math.inf, -math.inf)[i % 3]
        return loop.optimizer_step(optimizer, torch.tensor(loss), torch.tensor(norm)).item()

    assert step(1.0, 1.0) == 0
    before = state_of(optimizer, module)
    assert step(loss, norm) == 1
    after = state_of(optimizer, module)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value.view(torch.int32), after[name].view(torch.int32)), name
    assert step(1.0, 1.0) == 0
    assert all(not torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_experts_that_adamw_has_trained_go_on_from_its_running_mean():
    """A checkpoint of an earlier version, whose Muon took no stacked experts."""
    (experts,) = matrices([(2, 6, 4)])
    optimizer = Muon([experts], **SETTINGS)
    mean = torch.randn(2, 6, 4)
    optimizer.state[experts] |= {
        "step": torch.tensor(3.0), "exp_avg": mean.clone(), "exp_avg_sq": torch.ones(2, 6, 4)
    }  # fmt: skip
    experts.grad = torch.zeros_like(experts)
    optimizer.step()
    assert optimizer.state[experts].keys() == {"momentum_buffer"}
    torch.testing.assert_close(optimizer.state[experts]["momentum_buffer"], 0.95 * mean)


# Figures that are read late


def rows_of(out: Path) -> list[dict]:
    """Without times."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("tokens_per_second", "mfu")} for row in rows]


def run(data, out: Path, late: bool, **changes) -> tuple[list[dict], dict[str, bytes], list[int]]:
    """Rows, the tensors of every checkpoint, and the steps in the order in which they were told."""
    stops, told = iter(changes.pop("stops", [])), []
    config = small_config(**{"steps": 7, "save_every": 3, "eval_every": 2, "keep": 9} | changes)
    for resume in (False, True):
        result = loop.train(
            loop.TrainJob(small_model(), config, data, out, resume=resume), device="cpu", read_late=late,
            stop_requested=lambda: next(stops, False), on_step=lambda step: told.append(step.step),
        )  # fmt: skip
    assert result.finished
    saved = {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.safetensors"))}
    return rows_of(out), saved, told


@pytest.mark.parametrize("stops", [[], [False] * 4 + [True], [False, True]], ids=["whole", "at 4", "at 1"])
def test_figures_read_late_change_nothing(data, tmp_path, stops):
    at_once, late = (
        run(data, tmp_path / str(late), late, stops=stops, optimizer="muon") for late in (False, True)
    )
    assert at_once == late
    assert late[2] == [1, 2, 3, 4, 5, 6, 7]
    assert len(late[1]) == 2 * (3 + bool(stops))


def test_a_run_that_diverges_ends_with_the_same_row(data, tmp_path):
    errors, rows = [], []
    for late in (False, True):
        config = small_config(steps=30, warmup_steps=0, weight_decay=1e5, save_every=1, eval_every=3)
        with pytest.raises(loop.CheckFailed) as caught:
            loop.train(
                loop.TrainJob(small_model(), config, data, tmp_path / str(late)), device="cpu", read_late=late
            )
        errors.append(str(caught.value).replace(str(tmp_path / str(late)), ""))
        rows.append(rows_of(tmp_path / str(late)))
    assert errors[0] == errors[1]
    assert rows[0] == rows[1]
    assert [row.get("skipped") for row in rows[0][-5:]] == [True] * 5


def test_the_next_update_is_launched_before_the_figures_are_read(data):
    config = small_config(steps=6, eval_every=3)
    for late, n_launched in ((False, [1, 2, 3, 4]), (True, [2, 3, 3, 5])):
        made = init_train_state(small_model(), config, CPU)
        steps, seen = (
            loop.train_steps(made, small_model(), config, data, 0, loop.Clock(64, 1, None), read_late=late),
            [],
        )
        for _ in range(4):
            next(steps)
            seen.append(int(made.optimizer.state[made.module.embed.weight]["step"]))
        assert seen == n_launched


def test_an_update_is_timed_from_the_end_of_the_one_before(monkeypatch):
    now = iter([10.0, 20.0, 21.0])
    clock = loop.Clock(100, 1, None)
    monkeypatch.setattr(clock, "now", lambda: next(now))
    clock.add_update(8.0)
    clock.add_update(9.0)  # launched while the first was under way
    clock.add_update(20.5)  # after a pause
    assert clock.update_seconds() == 2 + 10 + 0.5
