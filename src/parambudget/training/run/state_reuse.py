"""One state for the trials of a run and for the run itself, so that its loss is compiled once."""

import gc
from dataclasses import dataclass

import torch

from parambudget.arch.config import ModelConfig
from parambudget.cost.step import StepConfig
from parambudget.training.config import TrainConfig
from parambudget.training.device import Compute
from parambudget.training.distributed import SINGLE_PROCESS, ProcessGroup
from parambudget.training.train_state import TrainState, init_train_state, reset_train_state


@dataclass(frozen=True)
class _CompiledFor:
    """Everything that a loss depends on besides the weights. Two of these that are equal have one loss."""

    model: ModelConfig
    step: StepConfig
    """As if every process made one micro-step: their number is no part of the loss."""
    balance_loss: float
    compute: Compute
    group: ProcessGroup
    end_of_text: int | None
    """The token before a document."""

    @classmethod
    def of(
        cls, model: ModelConfig, config: TrainConfig, compute: Compute, group: ProcessGroup,
        end_of_text: int | None,
    ) -> "_CompiledFor":  # fmt: skip
        step = config.step.replace(gradient_accumulation_steps=config.step.world_size)
        return cls(model, step, config.balance_loss, compute, group, end_of_text)


class ReusableState:
    """Hands out states of training, one at a time; one that is given back serves again for the same loss.

    A state that is handed out is the same to the bit, whether it is new or has served before.
    """

    def __init__(self) -> None:
        self._kept: tuple[_CompiledFor, TrainState] | None = None

    def take(
        self, model: ModelConfig, config: TrainConfig, compute: Compute,
        group: ProcessGroup = SINGLE_PROCESS, *, end_of_text: int | None = None,
    ) -> TrainState:  # fmt: skip
        """A state as `init_train_state` makes it. One that was given back and cannot serve is freed first."""
        if self._kept is not None and self.is_ready_for(
            model, config, compute, group, end_of_text=end_of_text
        ):
            (_, state), self._kept = self._kept, None
            return reset_train_state(state, model, config)
        self.free()
        return init_train_state(model, config, compute, group, end_of_text=end_of_text)

    def give_back(self, state: TrainState, config: TrainConfig, *, end_of_text: int | None = None) -> None:
        """Keep a state that nobody uses any more."""
        kept = _CompiledFor.of(state.module.model, config, state.compute, state.group, end_of_text)
        self._kept = kept, state

    def is_ready_for(
        self, model: ModelConfig, config: TrainConfig, compute: Compute,
        group: ProcessGroup = SINGLE_PROCESS, *, end_of_text: int | None = None,
    ) -> bool:  # fmt: skip
        """Whether the state that is kept has the loss of these settings, compiled if it is to be."""
        wanted = _CompiledFor.of(model, config, compute, group, end_of_text)
        return self._kept is not None and self._kept[0] == wanted

    def free(self) -> None:
        """Let go of the state that is kept, of what was compiled for it, and of its memory."""
        if self._kept is None:
            return
        self._kept = None
        torch.compiler.reset()
        free_memory()


def free_memory() -> None:
    """Return to the device what only garbage holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
