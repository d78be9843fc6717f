"""Several processes that train one model: which one this is, and how they communicate.

`torchrun` starts them and sets the environment variables that say who is who. Each computes its own share of
the micro-steps of every update. Either all hold the whole model, and DistributedDataParallel averages the
gradients in the last micro-step; or each holds a part of it (`fsdp`), of one copy for all of them or for each
group of so many.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Timer
from traceback import clear_frames
from typing import Final, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from parambudget.cost.step import Sharding, read_step_fields
from parambudget.errors import InputError, ParambudgetError, ReportedElsewhere
from parambudget.training.config import TrainConfig
from parambudget.training.device import Compute
from parambudget.training.launch import launched_processes
from parambudget.training.run.signals import stopped_by_the_system
from parambudget.units import shorten

Value = TypeVar("Value")
# The main process may tokenize a large text, or consolidate a large checkpoint, while the others wait.
TIMEOUT: Final = timedelta(hours=6)
QUIET_WAIT_SECONDS: Final = 5.0
"""How long a process waits for the others before it says so: each takes some seconds to start."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that train together."""

    rank: int = 0
    world_size: int = 1
    torch_group: dist.ProcessGroup | None = None
    """The torch group that they communicate over; None for the default one."""

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def own_micro_steps(self, config: TrainConfig) -> range:
        """The micro-steps of an update that this process computes."""
        return range(self.rank, config.step.gradient_accumulation_steps, self.world_size)

    def executed_config(
        self, config: TrainConfig, compute: Compute, *, sharding: Sharding | None = None
    ) -> TrainConfig:
        """The settings with the step as these processes execute it on their devices.

        Without `sharding`, the model is divided among them as the step says.
        """
        sharding = config.step.sharding if sharding is None else sharding
        self.require_possible(sharding)
        return config.replace(world_size=self.world_size, backend=compute.backend, **vars(sharding))

    def require_possible(self, sharding: Sharding | None) -> None:
        """Refuse a sharding that these processes cannot have."""
        if sharding is not None and sharding.shard and self.world_size == 1:
            raise InputError(
                "`shard=True` splits the model among several processes and there is only one; start it with "
                "torchrun --nproc-per-node N --no-python, or leave `shard` out"
            )
        if sharding is not None:
            read_step_fields(vars(sharding), world_size=self.world_size)

    def peak_flops(self, compute: Compute) -> float | None:
        """Dense bfloat16 FLOP/s of all devices together, if that of one is known."""
        return None if compute.peak_flops is None else compute.peak_flops * self.world_size

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """The mean of all processes' values, the same on each."""
        if self.world_size == 1:
            return value
        dist.all_reduce(value, group=self.torch_group)
        return value / self.world_size

    def all_reduce_any(self, flag: bool) -> bool:
        """Whether the flag is true on at least one process."""
        return flag if self.world_size == 1 else any(self._all_gather(flag))

    def broadcast(self, value: Value) -> Value:
        """The main process's value."""
        return value if self.world_size == 1 else self._all_gather(value)[0]

    def main_process_first(self, make: Callable[[], Value]) -> Value:
        """What every process makes, the main process first: the others find in the cache what it put
        there."""
        made = make() if self.is_main else None
        self.barrier()
        return make() if made is None else made

    def barrier(self) -> None:
        """Wait until every process has come this far."""
        self.broadcast(None)

    @contextmanager
    def synced_errors(self) -> Iterator[None]:
        """An error in one process ends all of them, and the main process alone reports it.

        For what comes before the updates: the other processes learn of the error when they next communicate.
        """
        try:
            try:
                yield
            except (ParambudgetError, OSError) as error:
                if self.world_size == 1:
                    raise
                self._all_gather(error if isinstance(error, ParambudgetError) else InputError(str(error)))
        except _SyncedError as synced:
            raise synced.error if self.is_main else ReportedElsewhere(synced.error.exit_code) from None

    def _all_gather(self, value: Value) -> list[Value]:
        values = [value] * self.world_size
        dist.all_gather_object(values, value, group=self.torch_group)
        for gathered in values:
            if isinstance(gathered, ParambudgetError):
                raise _SyncedError(gathered)
        return values

    def device_mesh(self, device: torch.device, n_shards: int | None = None) -> DeviceMesh:
        """These processes as the mesh over which a tensor is sharded: among all of them, or among `n_shards`
        that follow each other, and replicated between these groups. `torchrun` counts node by node."""
        n_shards = self.world_size if n_shards is None else n_shards
        shape, names = (self.world_size // n_shards, n_shards), ("replicate", "shard")
        if shape[0] == 1:
            if self.torch_group is None:
                return init_device_mesh(device.type, (self.world_size,))
            return DeviceMesh.from_group(self.torch_group, device.type)
        if self.torch_group is None:
            return init_device_mesh(device.type, shape, mesh_dim_names=names)
        ranks = torch.arange(self.world_size).view(shape)
        replica, shard = divmod(self.rank, n_shards)
        backend = dist.get_backend(self.torch_group)
        groups = [
            cast(dist.ProcessGroup, dist.new_group(own.tolist(), backend=backend))
            for own in (ranks[:, shard], ranks[replica])
        ]
        return DeviceMesh.from_group(groups, device.type, mesh=ranks, mesh_dim_names=names)

    def fake_group(self) -> "ProcessGroup":
        """A group of the same size in which only this process exists: it waits for nobody and receives zeros.

        For trying out what fits: memory is used as in the real group, and any process may fail alone.
        """
        if self.world_size == 1:
            return self
        import torch.testing._internal.distributed.fake_pg  # noqa: F401  registers the backend

        return replace(self, torch_group=cast(dist.ProcessGroup, dist.new_group(backend="fake")))

    def data_parallel(
        self, module: nn.Module, loss_fn: Callable[[Tensor], Tensor]
    ) -> Callable[[Tensor], Tensor]:
        """The loss as a module whose backward pass averages the gradients of all processes."""
        if self.world_size == 1:
            return loss_fn
        with warnings.catch_warnings():
            # The name that all versions know; torch 2.15 announces another one.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            # Buffers are the same without being sent: tables of angles, and the corrections of routers, which
            # each process computes from the counts of all.
            return DistributedDataParallel(
                LossModule(module, loss_fn), process_group=self.torch_group, gradient_as_bucket_view=True,
                broadcast_buffers=False,
            )  # fmt: skip

    @staticmethod
    def no_sync(loss_fn: Callable[[Tensor], Tensor], *, last: bool) -> AbstractContextManager[None]:
        """The context of a micro-step: only the last one of an update averages gradients between processes
        that hold the same parameters."""
        if hasattr(loss_fn, "set_requires_all_reduce"):  # FSDP2's; by attribute, as its import takes seconds
            loss_fn.set_requires_all_reduce(last)
            return nullcontext()
        if last or not isinstance(loss_fn, DistributedDataParallel):
            return nullcontext()
        context: AbstractContextManager[None] = loss_fn.no_sync()
        return context


SINGLE_PROCESS: Final = ProcessGroup()


class _SyncedError(Exception):
    """One of the processes has failed, and all of them know."""

    def __init__(self, error: ParambudgetError) -> None:
        super().__init__(str(error))
        self.error = error


class LossModule(nn.Module):
    """The parameters and their loss in one module, as torch's wrappers for several processes need it."""

    def __init__(self, module: nn.Module, loss_fn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.loss_fn = module, loss_fn

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """The mean loss of token windows."""
        return self.loss_fn(tokens_BT)


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds only a part of it. By attribute: importing DTensor can take two seconds."""
    return hasattr(tensor, "full_tensor")


@contextmanager
def join_process_group(
    device: str, on_notice: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[ProcessGroup, str]]:
    """The group that `torchrun` started this process in, and its own device; else a group of one."""
    world_size = launched_processes()
    if world_size == 1:
        yield SINGLE_PROCESS, device
        return
    if device.startswith("mps"):
        raise InputError(
            f"`device={device}` is one GPU that {world_size} processes would share; start one process, "
            "without torchrun"
        )
    on_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_cuda:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    with _told_if_long(world_size, on_notice), stopped_by_the_system():
        _init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), world_size), device
    except BaseException as error:
        # Modules that communicate must be freed before their group: in the other order its shutdown can hang.
        clear_frames(error.__traceback__)
        raise
    finally:
        dist.destroy_process_group()


def _init_process_group(backend: str) -> None:
    """Wait for the other processes, at the address that the environment names."""
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (dist.DistError, ValueError) as error:
        reason = shorten(str(error).splitlines()[0], 120)
        raise InputError(
            f"the processes cannot meet at {_meeting_place()} ({reason}); start them with torchrun "
            "--nproc-per-node N --no-python, or unset WORLD_SIZE"
        ) from None


@contextmanager
def _told_if_long(world_size: int, on_notice: Callable[[str], None]) -> Iterator[None]:
    """Say what is waited for, if that takes long."""
    notice = (
        f"waiting at {_meeting_place()} for the others of {world_size} processes (WORLD_SIZE); Ctrl-C or "
        "SIGTERM ends this one"
    )
    timer = Timer(QUIET_WAIT_SECONDS, on_notice, [notice])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _meeting_place() -> str:
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
