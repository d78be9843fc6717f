"""What an update of the trainer holds at its peak as the CPU's allocator tells it: on real tensors, with what
kernels take for themselves."""

from itertools import chain

import torch
from support.storage_tracker import state_of, update, windows
from support.training_data import small_config
from torch.profiler import ProfilerActivity, profile

from parambudget.arch.config import ModelConfig
from parambudget.training.bf16_weights import RefreshedLoss
from parambudget.training.config import TrainConfig
from parambudget.training.train_state import TrainState


def peak_of_a_real_update(
    model: ModelConfig, *, bf16: bool = False, compiled: bool = False, **settings: object
) -> int:
    """The most bytes in the third update, when the optimizer has its state and all is compiled."""
    config = small_config(**settings)
    state, batches = state_of(model, config, bf16=bf16, compiled=compiled), windows(model, config)
    for _ in range(2):
        update(state, config, batches)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        update(state, config, batches)
    events = [each for each in seen.profiler.kineto_results.events() if each.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return held_between_updates(state, config) + most


def held_between_updates(state: TrainState, config: TrainConfig) -> int:
    """Parameters, buffers, bfloat16 weights, the optimizer's state and the windows of the next micro-step."""
    loss_fn, module = state.loss_fn, state.module
    copies = loss_fn.weights.copies if isinstance(loss_fn, RefreshedLoss) else ()
    of_optimizer = chain.from_iterable(s.values() for s in state.optimizer.state.values())
    tensors = chain(module.parameters(), module.buffers(), copies, filter(torch.is_tensor, of_optimizer))
    next_windows = config.step.batch_size * (module.model.context_length + 1) * torch.int64.itemsize
    return sum(t.numel() * t.element_size() for t in tensors) + next_windows
