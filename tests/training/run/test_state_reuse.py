"""A trial and the run share one state: compiled once, and the same to the bit as a new one."""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from support.training_data import small_config, small_model

from parambudget.arch.config import ModelConfig
from parambudget.text.token_cache import TokenData
from parambudget.training import loop
from parambudget.training.device import Compute, select_device
from parambudget.training.distributed import SINGLE_PROCESS
from parambudget.training.loop import TrainJob, train, train_steps
from parambudget.training.metrics import StepMetrics, read_run
from parambudget.training.run import autotune
from parambudget.training.run.autotune import settings_for_hours, settings_that_fit
from parambudget.training.run.defaults import ResolvedTrainConfig, with_train_defaults
from parambudget.training.run.state_reuse import ReusableState
from parambudget.training.train_state import TrainState, init_train_state

pytestmark = pytest.mark.usefixtures("one_thread")

COMPILED = Compute(torch.device("cpu"), "CPU", bf16=False, compiled=True, peak_flops=None)
CPU = replace(COMPILED, compiled=False)
MATMUL = torch.backends.cuda.matmul
EXPERTS = {"n_experts": 4, "n_experts_per_token": 2, "expert_intermediate_size": 32, "correction_bias": True}


def content(state: TrainState) -> dict[str, torch.Tensor]:
    return state.module.state_dict() | {
        f"load {i}": layer.load for i, layer in enumerate(state.balancer.layers) if layer.load is not None
    }


@pytest.mark.parametrize(
    "changes",
    [{}, {"qkv_bias": True, "ffn_bias": True, "norm": "layernorm", "norm_bias": True}, EXPERTS],
    ids=["dense", "bias", "experts"],
)
def test_a_state_that_has_been_trained_serves_again_as_a_new_one(data, changes):
    model, config, states = small_model(**changes), small_config(steps=3, optimizer="muon"), ReusableState()
    first = states.take(model, config, CPU)
    for _ in loop.train_steps(first, model, config, data, 0, loop.Clock(1, 1, None)):
        pass
    states.give_back(first, config)
    hotter = config.replace(learning_rate=0.02, seed=1)
    again, new = states.take(model, hotter, CPU), init_train_state(model, hotter, CPU)
    assert again.module is first.module
    expected = content(new)
    assert content(again).keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in content(again).items())
    assert all(parameter.grad is None for parameter in again.module.parameters())
    assert [group["lr"] for group in again.optimizer.param_groups] == [
        group["lr"] for group in new.optimizer.param_groups
    ]
    assert not again.optimizer.state


@pytest.mark.parametrize(
    ("changes", "serves"),
    [
        ({"gradient_accumulation_steps": 8, "learning_rate": 0.5, "steps": 9}, True),
        ({"batch_size": 2}, False),
        ({"loss_chunks": 8}, False),
        ({"gradient_checkpointing": True}, False),
        ({"z_loss": 1e-4}, False),
        ({"activation_memory_budget": 0.5}, False),
        ({"balance_loss": 0.01}, False),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_only_the_same_loss_is_used_again(changes, serves):
    states, config = ReusableState(), small_config()
    state = states.take(small_model(), config, CPU)
    states.give_back(state, config)
    changed = config.replace(**changes)
    assert states.is_ready_for(small_model(), changed, CPU) == serves
    assert not states.is_ready_for(small_model(dim=64), config, CPU)
    assert not states.is_ready_for(small_model(), config, COMPILED)
    assert not states.is_ready_for(small_model(), config, CPU, end_of_text=0)
    assert (states.take(small_model(), changed, CPU).module is state.module) == serves
    assert not states.is_ready_for(small_model(), config, CPU)  # it has been taken


class CountingBackend:
    """Compiles nothing; remembers of every graph whether it was made for training."""

    def __init__(self) -> None:
        self.graphs: list[bool] = []

    def __call__(self, graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., object]:
        """What torch.compile calls with every graph that it finds."""
        self.graphs.append(torch.is_grad_enabled())
        return graph.forward


@pytest.fixture
def backend(monkeypatch) -> Iterator[CountingBackend]:
    backend = CountingBackend()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr(loop, "select_device", lambda _: COMPILED)
    torch.compiler.reset()
    yield backend
    torch.compiler.reset()


def resolved_settings(model: ModelConfig, data: TokenData, **fields: object) -> ResolvedTrainConfig:
    resolved = with_train_defaults(
        {"batch_size": 4, "steps": 4, **fields}, model, len(data.train), on_cpu=True
    )
    executed = SINGLE_PROCESS.executed_config(resolved.config, COMPILED)
    return replace(resolved, config=executed, given=frozenset({"batch_size"}))


def losses(job: TrainJob, states: ReusableState | None) -> list[float | None]:
    train(job, states=states)
    return [step.loss for step in read_run(job.out).steps]


def test_a_run_with_trials_compiles_once_and_learns_as_one_without(data, tmp_path, backend, monkeypatch):
    monkeypatch.setattr(autotune, "TIMED_SECONDS", 0.0)
    model, states, fields = small_model(), ReusableState(), {"gradient_accumulation_steps": 2}
    resolved = resolved_settings(model, data, **fields)
    said: list[str] = []
    resolved = settings_that_fit(resolved, model, data, COMPILED, states=states, on_status=said.append)
    assert backend.graphs == [True]
    settings_for_hours(resolved, fields, model, data, COMPILED, 1.0, None, states=states)
    assert backend.graphs == [True]
    job = TrainJob(model, resolved.config, data, tmp_path / "tried")
    tried = losses(job, states)
    assert backend.graphs == [True, False]  # the second is the evaluation
    assert said == ["trying what fits in memory, compiling first: batch_size=4"]
    torch.compiler.reset()
    assert losses(replace(job, out=tmp_path / "new"), None) == tried
    assert backend.graphs == [True, False] * 2  # the count can rise


def test_a_trial_that_runs_out_of_memory_keeps_nothing(data, monkeypatch):
    model, states = small_model(), ReusableState()
    modules: list[weakref.ref[torch.nn.Module]] = []

    def out_of_memory_once(state: TrainState, *others: object) -> Iterator[StepMetrics]:
        modules.append(weakref.ref(state.module))
        if len(modules) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        assert modules[0]() is None
        return train_steps(state, *others)

    monkeypatch.setattr(autotune, "train_steps", out_of_memory_once)
    found = settings_that_fit(resolved_settings(model, data), model, data, CPU, states=states)
    assert found.config.step.loss_chunks == 8
    assert states.is_ready_for(model, found.config, CPU, end_of_text=data.end_of_text_id)
    assert len(modules) == 2


def precisions() -> tuple[str, ...]:
    """What each of torch's settings says of float32 matmuls; torch refuses to read those that are a mix."""
    found = [torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision]
    for read in (torch.get_float32_matmul_precision, lambda: str(torch.backends.cuda.matmul.allow_tf32)):
        try:
            found.append(read())
        except RuntimeError:
            found.append("mixed")
    return tuple(found)


@pytest.mark.filterwarnings("ignore:Please use the new API settings")
@pytest.mark.parametrize(
    ("set_before", "expected"),
    [
        (lambda: None, ("none", "none", "highest", "False")),
        (lambda: torch.set_float32_matmul_precision("high"), ("tf32", "tf32", "high", "True")),
        (lambda: torch.set_float32_matmul_precision("medium"), ("tf32", "bf16", "medium", "True")),
        (lambda: setattr(MATMUL, "allow_tf32", True), ("tf32", "none", "high", "True")),
        (lambda: setattr(MATMUL, "fp32_precision", "tf32"), ("tf32", "none", "mixed", "mixed")),
    ],
    ids=["nothing", "high", "medium", "allow_tf32", "fp32_precision"],
)
def test_the_arithmetic_of_a_run_on_cuda_is_fixed_and_then_as_before(set_before, expected, monkeypatch):
    cuda = replace(COMPILED, device=torch.device("cuda"))
    monkeypatch.delenv("TRITON_DEFAULT_FP_FUSION", raising=False)
    try:
        set_before()
        assert precisions() == expected
        with select_device("cpu").fixed_arithmetic():
            assert precisions() == expected
        with cuda.fixed_arithmetic():
            assert precisions() == ("ieee", "ieee", "highest", "False")
        assert precisions() == expected
    finally:
        torch.set_float32_matmul_precision("highest")
        MATMUL.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"


def test_an_event_is_recorded_on_the_device_of_the_run_and_not_on_the_current_one(monkeypatch):
    recorded = []

    class Event:
        def record(self, stream: str) -> None:
            recorded.append(stream)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    second = replace(COMPILED, device=torch.device("cuda:1"))
    assert isinstance(second.record_event(), Event)
    assert recorded == ["stream of cuda:1"]
    assert select_device("cpu").record_event() is None
