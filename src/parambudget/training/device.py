"""The device to compute on and its precision: decided once and passed on."""

import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Final

import psutil
import torch

from parambudget._version import __version__
from parambudget.cost.hardware import find_accelerator
from parambudget.cost.step import Backend
from parambudget.errors import InputError
from parambudget.nn.attention import NO_KERNEL, prefer_flash_3
from parambudget.training.config import TrainConfig

MPS_NAME: Final = "Apple GPU (MPS)"
_BFLOAT16_CAPABILITY: Final = (8, 0)
"""Compute capability from which a GPU multiplies in bfloat16."""


@dataclass(frozen=True)
class Compute:
    """A device, and the precision and compilation that follow from it."""

    device: torch.device
    name: str
    bf16: bool
    """Matrices are multiplied in bfloat16 under autocast; the weights stay float32."""
    compiled: bool
    """The loss is compiled with torch.compile."""
    peak_flops: float | None
    """Dense bfloat16 FLOP/s of the device; None if not known."""

    @property
    def backend(self) -> Backend:
        """The same as the memory model knows it."""
        return Backend(
            "cuda" if self.device.type == "cuda" else "cpu", bf16=self.bf16, compiled=self.compiled
        )

    @property
    def is_asynchronous(self) -> bool:
        """The host launches what the device computes later."""
        return self.device.type == "cuda"

    def autocast(self) -> AbstractContextManager[None]:
        """The context for forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def peak_memory_bytes(self) -> int | None:
        """The most that torch has allocated on the accelerator, None where it does not say; on a CPU the peak
        of this process, with Python and the text in it."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self.device.type == "mps":
            return None  # torch knows what is allocated there, but not what was
        if sys.platform == "win32":
            return int(psutil.Process().memory_info().peak_wset)
        import resource  # not there on Windows

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def record_event(self) -> torch.cuda.Event | None:
        """An event for when the device, which need not be torch's current one, has done what was launched so
        far; None where that is now."""
        if not self.is_asynchronous:
            return None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event

    def reset_peak_memory(self) -> None:
        """Count the peak on an accelerator from now on; that of a process cannot be reset."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    @contextmanager
    def fixed_arithmetic(self) -> Iterator[None]:
        """On CUDA, float32 matmuls in full precision and fused multiply-adds, whatever the process has set;
        and none of the compilers' advice about either.

        Under autocast only a router multiplies in float32, and which experts it chooses depends on small
        differences. TensorFloat32 has bfloat16's range with 10 bits of fraction: it would change the choice
        and speed up nothing else.
        """
        if self.device.type != "cuda":
            yield
            return
        # The kernels are compiled in other processes, which triton warns in as well. This is its default so
        # far.
        os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
            warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
            warnings.filterwarnings("ignore", message="Please use the new API settings to control TF32")
            with _full_precision_matmuls():
                yield


@contextmanager
def _full_precision_matmuls() -> Iterator[None]:
    """Float32 matmuls without TensorFloat32, and then as before.

    By the setting that covers all others: torch refuses to multiply where a process has set it and only the
    newer one, of CUDA alone, says something else.
    """
    # torch puts an object in the place of its module mkldnn.
    newer = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = [each.fp32_precision for each in newer]
    try:
        covering = torch.get_float32_matmul_precision()
    except RuntimeError:  # it has set only the newer ones
        covering = "highest"
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(covering)
        for each, precision in zip(newer, before, strict=True):
            each.fp32_precision = precision


def select_device(name: str = "auto") -> Compute:
    """The device of that name; `auto` is a CUDA device if there is one, else the CPU.

    `mps`, Apple's GPU, computes by the plain path, float32 and eager, as a CPU does. It is untried.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"{name!r} is not a device; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cpu" and device.index is None:
        return Compute(device, "CPU", bf16=False, compiled=False, peak_flops=None)
    if device.type == "mps" and device.index in (None, 0):
        if not torch.backends.mps.is_available():
            raise InputError(
                f"device {name!r} was not found: torch {torch.__version__} sees no Apple GPU; use cpu or auto"
            )
        return Compute(device, MPS_NAME, bf16=False, compiled=False, peak_flops=None)
    if device.type != "cuda":
        raise InputError(f"device {name!r} is not supported; use auto, cpu, cuda, cuda:N or mps")
    if not torch.cuda.is_available():
        raise InputError(
            f"device {name!r} was not found: torch {torch.__version__} sees no CUDA GPU; use cpu or auto"
        )
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise InputError(
            f"device {name!r} was not found; torch sees {torch.cuda.device_count()}, from cuda:0 on"
        )
    gpu, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    if capability < _BFLOAT16_CAPABILITY:
        raise InputError(
            f"the {gpu} has compute capability {capability[0]}.{capability[1]} and no bfloat16, which this "
            "trainer multiplies in (8.0 and newer have it); use another GPU, or `device=cpu`"
        )
    accelerator = find_accelerator(gpu)
    prefer_flash_3(device)
    peak_flops = accelerator.peak_flops if accelerator else None
    return Compute(device, gpu, bf16=True, compiled=True, peak_flops=peak_flops)


def mps_notice(asked: str, compute: Compute) -> str | None:
    """What to say of Apple's GPU: that it is untried where it was asked for, and that it is there where the
    choice was left open; None where there is nothing to say."""
    if compute.device.type == "mps":
        return "MPS is untried: compare the first losses with those of `device=cpu`, which is float32 too"
    if asked == "auto" and compute.device.type == "cpu" and torch.backends.mps.is_available():
        return "this machine has an Apple GPU: `device=mps` computes on it, which is untried"
    return None


@contextmanager
def explain_missing_kernel() -> Iterator[None]:
    """Turn torch's error about a model that no fused attention kernel takes into advice."""
    try:
        yield
    except RuntimeError as error:
        if not any(message in str(error) for message in NO_KERNEL):
            raise
        raise InputError(
            "no fused attention kernel of this GPU supports these heads; use a head_dim of 64 or 128, "
            "or as many kv heads as query heads"
        ) from None


@contextmanager
def explain_out_of_memory(config: TrainConfig) -> Iterator[None]:
    """Turn an out-of-memory error into advice."""
    try:
        yield
    except RuntimeError as error:
        on_cpu = "can't allocate memory" in str(error)
        on_mps = "MPS backend out of memory" in str(error)
        if not (isinstance(error, torch.OutOfMemoryError) or on_cpu or on_mps):
            raise
        size = config.step.batch_size
        remedy = "`gradient_checkpointing=True`" if size == 1 else "a smaller `batch_size`"
        raise InputError(
            f"batch_size={size} does not fit in the memory of the {'CPU' if on_cpu else 'GPU'}; "
            f"use {remedy}, with more gradient_accumulation_steps for the same batch"
        ) from None


@dataclass(frozen=True)
class Environment:
    """What a bit-exact repetition depends on besides the settings."""

    device: str
    world_size: int = 1
    n_shards: int = 1
    """Into which the state of one copy of the model is divided."""
    mixers: str = ""
    """What computes the mixers other than attention; empty without any."""
    threads: int = field(default_factory=torch.get_num_threads)
    parambudget: str = __version__
    torch_version: str = torch.__version__
    python: str = field(default_factory=platform.python_version)
    machine: str = field(default_factory=platform.machine)
    processor: str = field(default_factory=torch.backends.cpu.get_cpu_capability)

    def as_dict(self) -> dict[str, str | int]:
        """Plain JSON values, under the names in a checkpoint's state.json."""
        names = {"world_size": "processes", "n_shards": "shards", "torch_version": "torch"}
        values = {names.get(name, name): value for name, value in asdict(self).items()}
        return values if self.mixers else {name: values[name] for name in values if name != "mixers"}
