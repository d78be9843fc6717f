"""Where to compute and in which precision: decided once and passed on."""

import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from parambudget._version import __version__
from parambudget.cost.hardware import find_accelerator
from parambudget.cost.step import Backend
from parambudget.errors import InputError
from parambudget.nn.attention import NO_KERNEL, prefer_flash_3
from parambudget.training.config import TrainConfig


@dataclass(frozen=True)
class Compute:
    """A device and what follows from it."""

    device: torch.device
    name: str
    bf16: bool
    """Matrices are multiplied in bfloat16 under autocast; the weights stay float32."""
    compiled: bool
    """The step runs through torch.compile."""
    peak_flops: float | None
    """Dense bfloat16 FLOP/s of the device, where it is known."""

    @property
    def backend(self) -> Backend:
        """The same as the memory model knows it."""
        return Backend(
            "cuda" if self.device.type == "cuda" else "cpu", bf16=self.bf16, compiled=self.compiled
        )

    def autocast(self) -> AbstractContextManager[None]:
        """The precision that forward passes run in."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def peak_memory_bytes(self) -> int | None:
        """The most that torch has held on the accelerator; on a CPU the most that this process has held,
        Python and the text included."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if sys.platform == "win32":
            return None
        import resource  # not there on Windows

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def choose(asked: str = "auto") -> Compute:
    """The device asked for, or for `auto` a CUDA device if there is one, else the CPU."""
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise InputError(f"device {asked!r} is not one; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cpu" and device.index is None:
        return Compute(device, "CPU", bf16=False, compiled=False, peak_flops=None)
    if device.type != "cuda":
        raise InputError(f"device {asked!r} is not supported; use auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise InputError(
            f"device {asked!r} is not there: torch {torch.__version__} finds no CUDA here; use cpu or auto"
        )
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise InputError(
            f"device {asked!r} is not there; torch finds {torch.cuda.device_count()}, from cuda:0 on"
        )
    name = torch.cuda.get_device_name(device)
    known = find_accelerator(name)
    prefer_flash_3(device)
    return Compute(device, name, bf16=True, compiled=True, peak_flops=known.bf16_flops if known else None)


@contextmanager
def kernels_told() -> Iterator[None]:
    """A model that no fused attention kernel can compute is one line that says what to change."""
    try:
        yield
    except RuntimeError as error:
        if not any(said in str(error) for said in NO_KERNEL):
            raise
        raise InputError(
            "no fused attention kernel of this GPU can compute these heads; use a head_dim of 64 or 128, "
            "or as many kv heads as heads"
        ) from None


@contextmanager
def memory_told(config: TrainConfig) -> Iterator[None]:
    """A batch that does not fit is one line that says what to change."""
    try:
        yield
    except RuntimeError as error:
        on_cpu = "can't allocate memory" in str(error)
        if not (isinstance(error, torch.OutOfMemoryError) or on_cpu):
            raise
        less = "--gradient-checkpointing" if config.batch_size == 1 else "a smaller --batch-size"
        raise InputError(
            f"batch_size={config.batch_size} does not fit in the memory of the {'CPU' if on_cpu else 'GPU'}; "
            f"use {less}, with more gradient_accumulation_steps for the same batch"
        ) from None


def surroundings(device: str, n_processes: int = 1, *, shard: bool = False) -> dict[str, Any]:
    """What bit-exact repetition depends on besides the settings."""
    return {
        "device": device,
        "processes": n_processes,
        "shard": shard,
        "threads": torch.get_num_threads(),
        "parambudget": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
    }
