"""Several processes that train one model: which one this is, and what they tell each other.

`torchrun` starts them and says in the environment who is who. Each computes its share of the micro-steps of
every update. Either all hold the whole model, and DistributedDataParallel averages the gradients in the last
micro-step; or each holds a part of it (`sharded`).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from traceback import clear_frames
from typing import Any, Final, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from parambudget.errors import InputError, ParambudgetError, ReportedElsewhere
from parambudget.training.config import TrainConfig
from parambudget.training.device import Compute

Value = TypeVar("Value")
# The leading process may tokenize a large text, or join a large checkpoint, while the others wait.
PATIENCE: Final = timedelta(hours=6)


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    """What they talk over; None for the one that all are in."""

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def own_steps(self, config: TrainConfig) -> range:
        """The micro-steps of an update that this process computes."""
        return range(self.rank, config.gradient_accumulation_steps, self.size)

    def require_even(self, config: TrainConfig) -> None:
        """Refuse an update that cannot be shared out evenly."""
        steps = config.gradient_accumulation_steps
        if steps % self.size:
            raise InputError(
                f"gradient_accumulation_steps={steps} cannot be shared out evenly among {self.size} "
                f"processes; use {(steps // self.size + 1) * self.size}"
            )

    def peak_flops(self, compute: Compute) -> float | None:
        """Dense bfloat16 FLOP/s of all devices together, where that of one is known."""
        return None if compute.peak_flops is None else compute.peak_flops * self.size

    def require_others(self) -> None:
        """Refuse to share a model out where there is nobody to share it with."""
        if self.size == 1:
            raise InputError(
                "--shard shares the model out among several processes and there is one; start it with "
                "torchrun --nproc-per-node N --no-python, or leave --shard out"
            )

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all processes' values, the same on each."""
        if self.size == 1:
            return value
        dist.all_reduce(value, group=self.group)
        return value / self.size

    def any(self, flag: bool) -> bool:
        """Whether it is true on at least one of them."""
        return flag if self.size == 1 else any(self._gathered(flag))

    def first(self, value: Value) -> Value:
        """The value of the leading process."""
        return value if self.size == 1 else cast(Value, self._gathered(value)[0])

    def leader_first(self, make: Callable[[], Value]) -> Value:
        """What every process makes, the leading one first: the others find in the cache what it put there."""
        made = make() if self.leads else None
        self.first(None)
        return make() if made is None else made

    def meet(self) -> None:
        """Wait until all have come this far."""
        self.first(None)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """What one process finds wrong ends all of them, and the leading one alone has it to tell.

        For what comes before the updates: the others hear of it where they next exchange values.
        """
        try:
            try:
                yield
            except (ParambudgetError, OSError) as error:
                if self.size == 1:
                    raise
                self._gathered(error if isinstance(error, ParambudgetError) else InputError(str(error)))
        except _Ended as ended:
            raise ended.error if self.leads else ReportedElsewhere(ended.error.exit_code) from None

    def _gathered(self, value: Any) -> list[Any]:
        values = [value] * self.size
        dist.all_gather_object(values, value, group=self.group)
        for found in values:
            if isinstance(found, ParambudgetError):
                raise _Ended(found)
        return values

    def mesh(self, device: torch.device) -> DeviceMesh:
        """These processes as what a tensor is shared out over."""
        if self.group is None:
            return init_device_mesh(device.type, (self.size,))
        return DeviceMesh.from_group(self.group, device.type)

    def imagined(self) -> "Ranks":
        """As many, of which only this one is there: nobody is waited for, and what the others say is made up.

        For trying what fits: memory is used as among the others, and whoever runs out of it may give up.
        """
        if self.size == 1:
            return self
        import torch.testing._internal.distributed.fake_pg  # noqa: F401  makes the backend known

        return replace(self, group=cast(dist.ProcessGroup, dist.new_group(backend="fake")))

    def averaging(self, module: nn.Module, loss_of: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The loss as a module whose backward pass averages the gradients of all processes."""
        if self.size == 1:
            return loss_of
        return DistributedDataParallel(Loss(module, loss_of), process_group=self.group)

    @staticmethod
    def apart(loss_of: Callable[[Tensor], Tensor], *, last: bool) -> AbstractContextManager[None]:
        """Around a micro-step: only the last one of an update averages gradients."""
        if last or not isinstance(loss_of, DistributedDataParallel):
            return nullcontext()
        quiet: AbstractContextManager[None] = loss_of.no_sync()
        return quiet


ALONE: Final = Ranks()


class _Ended(Exception):
    """One of the processes has found something wrong, and all know."""

    def __init__(self, error: ParambudgetError) -> None:
        super().__init__(str(error))
        self.error = error


class Loss(nn.Module):
    """The parameters and the loss of them in one module, as torch wants it where several processes train."""

    def __init__(self, module: nn.Module, loss_of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.loss_of = module, loss_of

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """The mean loss of token windows."""
        return self.loss_of(tokens_BT)


def is_piece(tensor: Tensor) -> bool:
    """Whether this process holds only a part of it. By name: to import DTensor takes two seconds."""
    return hasattr(tensor, "full_tensor")


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """Who this process is, and its own device; alone unless `torchrun` started it beside others."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE, device
        return
    on_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_cuda:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_cuda else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), size), device
    except BaseException as error:
        # What was trained goes before the group that it talks over: the other way round, its end can hang.
        clear_frames(error.__traceback__)
        raise
    finally:
        dist.destroy_process_group()
