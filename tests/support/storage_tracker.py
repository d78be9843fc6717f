"""What an update of the trainer really holds at its peak: torch's storages, followed from operation to
operation on fake tensors, which have sizes and no contents."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from support.training_data import small_config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from parambudget.arch.config import ModelConfig
from parambudget.nn.transformer import Transformer
from parambudget.training.config import TrainConfig
from parambudget.training.device import select_device
from parambudget.training.loop import accumulate_gradients, prefetch
from parambudget.training.loss import build_loss
from parambudget.training.optimization.optimizer import build_optimizer, clip_grad_norm
from parambudget.training.train_state import TrainState, with_bf16_weights


class Storages(TorchDispatchMode):
    """Bytes of all storages that have been made since, and their most."""

    def __init__(self) -> None:
        super().__init__()
        self.held_bytes = self.most_bytes = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor) and (storage := each.untyped_storage()) not in self._known:
                self._known[storage] = True
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return made

    def _add(self, n_bytes: int) -> None:
        self.held_bytes += n_bytes
        self.most_bytes = max(self.most_bytes, self.held_bytes)


def state_of(model: ModelConfig, config: TrainConfig, *, bf16: bool, compiled: bool = False) -> TrainState:
    """What `training.train_state.prepared` makes, but for the weights' values: fake tensors have none."""
    compute, module = replace(select_device("cpu"), bf16=bf16, compiled=compiled), Transformer(model)
    optimizer, loss_fn = build_optimizer(module, model, config), build_loss(module, config, compute)
    if bf16:
        loss_fn = with_bf16_weights(module, loss_fn, compute)
    return TrainState(module, optimizer, loss_fn, compute)


def windows(model: ModelConfig, config: TrainConfig) -> Iterator[torch.Tensor]:
    """Token windows as the trainer has them on the device: one batch ahead."""
    shape = (config.step.batch_size, model.context_length + 1)
    return prefetch(torch.zeros(shape, dtype=torch.int64) for _ in iter(int, 1))


def update(state: TrainState, config: TrainConfig, batches: Iterator[torch.Tensor]) -> None:
    """What `training.loop.updates` does for one step."""
    accumulate_gradients(state.loss_fn, batches, config, state.compute)
    clip_grad_norm(state.module.parameters(), config.grad_clip)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)


def peak_of_an_update(model: ModelConfig, *, bf16: bool = False, **settings: object) -> int:
    """The most bytes of all tensors in the second update, when the optimizer has its state."""
    config = small_config(**settings)
    with FakeTensorMode(), Storages() as storages:
        state = state_of(model, config, bf16=bf16)
        batches = windows(model, config)
        update(state, config, batches)
        storages.most_bytes = 0
        update(state, config, batches)
    return storages.most_bytes
