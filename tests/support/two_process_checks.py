"""What is true of two processes that compute together, and of four that hold two copies of a model: called by
each of them, raising where it is not."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from support.training_data import small_config, small_data, small_model
from torch import Tensor, nn
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.testing import assert_close

from parambudget.cost.step import Sharding
from parambudget.training.calibrate import random_text
from parambudget.training.config import TrainConfig
from parambudget.training.device import Compute, select_device
from parambudget.training.distributed import ProcessGroup
from parambudget.training.fsdp import ShardedMuon, sharing_group
from parambudget.training.loop import Clock, TrainJob, accumulate_gradients, train, train_steps
from parambudget.training.optimization.muon import Muon
from parambudget.training.optimization.optimizer import clip_grad_norm
from parambudget.training.run.autotune import _try, attempts, first_that_fits, settings_that_fit
from parambudget.training.run.defaults import with_train_defaults
from parambudget.training.run.state_reuse import ReusableState
from parambudget.training.train_state import TrainState, init_train_state

CPU = select_device("cpu")
UNEVEN = small_model(
    dim=30, n_heads=3, head_dim=10, n_layers=2, intermediate_size=47, vocab_size=301, qk_norm="per_head"
)
"""Two processes can share out evenly neither its rows nor its heads."""


TWO_SHARDS = Sharding(True, 2)
WAYS = (Sharding(False), TWO_SHARDS)


def sharded(config: TrainConfig, group: ProcessGroup, compute: Compute = CPU) -> TrainConfig:
    """The settings of a model that is divided among two processes."""
    return group.executed_config(config, compute, sharding=TWO_SHARDS)


def weights_drawn_in_pieces_are_those_of_one_process(group: ProcessGroup, _: Path) -> None:
    for model in (UNEVEN, UNEVEN.replace(tied=False, head_bias=True, zero_init_out=True)):
        config = small_config(gradient_accumulation_steps=4)
        whole = init_train_state(model, config, CPU).module
        shared = init_train_state(model, sharded(config, group), CPU, group).module
        for (name, expected), parameter in zip(whole.named_parameters(), shared.parameters(), strict=True):
            assert parameter.to_local().numel() <= expected.numel() * 2 / 3, name
            assert torch.equal(parameter.full_tensor(), expected), name
        assert (shared.lm_head.weight is shared.embed.weight) == model.tied


def every_choice_gives_the_gradient_of_one_process(group: ProcessGroup, _: Path) -> None:
    for model in (UNEVEN, UNEVEN.replace(tied=False)):
        for choices in ({}, {"z_loss": 0.1, "loss_chunks": 3, "gradient_checkpointing": True}):
            config = small_config(batch_size=2, gradient_accumulation_steps=8, **choices)
            whole, shared = (
                init_train_state(model, config, CPU),
                init_train_state(model, sharded(config, group), CPU, group),
            )
            loss, norm = accumulated(whole, config)
            own_loss, shared_norm = accumulated(shared, config)
            assert_close(group.all_reduce_mean(own_loss), loss)
            assert_close(shared_norm, norm)
            for (name, expected), parameter in zip(
                whole.module.named_parameters(), shared.module.parameters(), strict=True
            ):
                assert_close(parameter.grad.full_tensor(), expected.grad, msg=name)


def experts_learn_as_in_one_process(group: ProcessGroup, _: Path) -> None:
    """The same gradient, the balance's in it, the same counts of tokens and the same correction."""
    model = small_model(n_experts=4, n_experts_per_token=2, expert_intermediate_size=18, correction_bias=True)
    config = small_config(batch_size=2, gradient_accumulation_steps=4, balance_loss=0.5)
    whole = init_train_state(model, config, CPU)
    loss, norm = accumulated(whole, config)
    busiest = whole.balancer.busiest_expert()
    whole.balancer.update_router_bias(torch.tensor(0.0))
    for sharding in WAYS:
        executed = group.executed_config(config, CPU, sharding=sharding)
        shared = init_train_state(model, executed, CPU, group)
        own_loss, shared_norm = accumulated(shared, config)
        assert_close(group.all_reduce_mean(own_loss), loss)
        assert_close(shared_norm, norm)
        assert_close(shared.balancer.busiest_expert(group), busiest)
        shared.balancer.update_router_bias(torch.tensor(0.0))
        for layer, expected in zip(shared.balancer.layers, whole.balancer.layers, strict=True):
            assert torch.equal(layer.correction, expected.correction)
            assert expected.correction.any()


def buffers_stay_the_same_although_they_are_never_sent(group: ProcessGroup, _: Path) -> None:
    """The corrections of routers, after updates in which each process has seen tokens of its own."""
    model = small_model(n_experts=4, n_experts_per_token=2, expert_intermediate_size=18, correction_bias=True)
    for sharding in WAYS:
        config = small_config(gradient_accumulation_steps=4)
        config = group.executed_config(config, CPU, sharding=sharding)
        state = init_train_state(model, config, CPU, group)
        data = random_text(model, 2_000)
        for _step in islice(train_steps(state, model, config, data, 0, Clock(1, 1, None)), 3):
            pass
        for name, buffer in state.module.named_buffers():
            of_main = buffer.clone()
            dist.broadcast(of_main, 0)
            assert torch.equal(buffer, of_main), name
            assert "correction" not in name or buffer.any()


def all_stop_after_the_same_update(group: ProcessGroup, folder: Path) -> None:
    """Whoever is asked, and whether figures are read late or at once."""
    data, config = (
        group.main_process_first(lambda: small_data(folder)),
        small_config(steps=50, gradient_accumulation_steps=2, eval_every=50, save_every=50),
    )
    for late in (False, True):
        for asked in (0, 1):
            answers = iter([False] * 4 + [group.rank == asked] + [False] * 9)
            result = train(
                TrainJob(small_model(), config, data, folder / f"{late}-{asked}"), device="cpu", group=group,
                read_late=late, stop_requested=answers.__next__,
            )  # fmt: skip
            # Asked once before the first update, and then in each.
            assert (result.steps, result.finished) == (5 if late else 4, False)


def layers_that_travel_in_bfloat16_give_nearly_the_loss_of_one_process(group: ProcessGroup, _: Path) -> None:
    """As on a GPU. Both round to 8 bits, at places that are not all the same."""
    compute = Compute(torch.device("cpu"), "CPU", bf16=True, compiled=False, peak_flops=None)
    config = small_config(batch_size=2, gradient_accumulation_steps=4)
    whole = init_train_state(UNEVEN, config, compute)
    shared = init_train_state(UNEVEN, sharded(config, group, compute), compute, group)
    loss, norm = accumulated(whole, config)
    own_loss, shared_norm = accumulated(shared, config)
    assert_close(group.all_reduce_mean(own_loss), loss, rtol=1e-4, atol=0)
    assert_close(shared_norm, norm, rtol=1e-2, atol=0)
    assert {parameter.grad.dtype for parameter in shared.module.parameters()} == {torch.float32}


def accumulated(state: TrainState, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """An update's loss, of this process's micro-steps, and the norm of its whole gradient."""
    n_micro_steps = config.step.gradient_accumulation_steps
    tokens = torch.randint(300, (n_micro_steps, 2, 17), generator=torch.Generator().manual_seed(1))
    own = [tokens[i] for i in state.group.own_micro_steps(config)]
    loss = accumulate_gradients(state.loss_fn, own, config, state.compute, state.group)
    return loss, clip_grad_norm(state.module.parameters(), 1.0)


def muon_makes_the_update_of_whole_matrices(group: ProcessGroup, _: Path) -> None:
    """Tall, wide and square ones, more and fewer than processes, one with a single row, and experts in one
    tensor; with a step that is skipped. Processes that hold all of them have the same bits."""
    draw, mesh = torch.Generator().manual_seed(0), group.device_mesh(torch.device("cpu"), 2)
    placements = [*[Replicate()] * (mesh.ndim - 1), Shard(0)]
    shapes = [(31, 20)] * 5 + [(20, 31)] * 2 + [(16, 16)] * 3 + [(1, 8), (3, 31, 20), (1, 20, 31)]
    first = [torch.randn(shape, generator=draw) for shape in shapes]
    alone, each, shared = (
        [nn.Parameter(make(matrix)) for matrix in first]
        for make in (Tensor.clone, Tensor.clone, lambda matrix: distribute_tensor(matrix, mesh, placements))
    )
    settings = {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.95}
    optimizers = (
        Muon(alone, **settings), Muon(each, **settings, group=group),
        ShardedMuon(shared, **settings, group=sharing_group(shared[0])),
    )  # fmt: skip
    for skipped in (0.0, 1.0, 0.0, 0.0):
        for *whole, piece in zip(alone, each, shared, strict=True):
            gradient = torch.randn(piece.shape, generator=draw) + (torch.nan if skipped else 0)
            for matrix in whole:
                matrix.grad = gradient.clone()
            piece.grad = distribute_tensor(gradient, mesh, placements)
        for optimizer in optimizers:
            optimizer.found_inf = torch.tensor(skipped)
            optimizer.step()
    for expected, whole, piece in zip(alone, each, shared, strict=True):
        assert_close(whole, expected, rtol=1e-5, atol=1e-6)
        assert_close(piece.full_tensor(), expected, rtol=1e-5, atol=1e-6)
        of_main = whole.detach().clone()
        dist.broadcast(of_main, 0)
        assert torch.equal(whole, of_main)


def settings_that_fit_are_agreed_on(group: ProcessGroup, folder: Path) -> None:
    """Only the second process has too little memory, in the middle of what the other one goes on trying."""
    model, data = small_model(), group.main_process_first(lambda: small_data(folder))
    config = small_config(batch_size=8, gradient_accumulation_steps=4)
    tried = []

    def try_one(config: TrainConfig) -> None:
        tried.append(config.step.batch_size)
        _try(model, data, CPU, group, ReusableState(), config)
        if group.rank == 1 and config.step.batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    for sharding in WAYS:
        executed = group.executed_config(config, CPU, sharding=sharding)
        sizes = attempts(executed, {"loss_chunks", "gradient_checkpointing"}, 1024)
        assert first_that_fits(sizes, try_one, group).step.batch_size == 2
    assert tried == [8, 4, 2, 8, 4, 2]
    found = with_train_defaults({"gradient_accumulation_steps": 4}, model, len(data.train), on_cpu=True)
    found = replace(found, config=sharded(found.config, group))
    assert settings_that_fit(found, model, data, CPU, group).config == found.config
