"""What a device's kernels reach by themselves: matmuls, attention, copies and Muon, each timed alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.cost.speed.roofline import FLASH_BACKWARD, NEWTON_SCHULZ_STEPS
from parambudget.training.device import Compute

FEWEST: Final = 3
COPIED_BYTES: Final = {"cpu": 2**28, "cuda": 2**30}
MATMULS: Final = {
    "cpu": ((512, 256, 1024), (1024, 512, 512), (1024, 1024, 1024)),
    "cuda": ((8192, 1024, 4096), (16384, 2048, 2048), (8192, 4096, 8192)),
}
"""(tokens, in, out): shapes of layers."""
ATTENTION: Final = {"cpu": (4, 4, 256, 64), "cuda": (16, 16, 1024, 64)}
"""Sequences, heads, length, head_dim."""
ORTHOGONALISED: Final = {"cpu": (256, 1024), "cuda": (1024, 4096)}
SMALLEST: Final = (64, 64)


@dataclass(frozen=True)
class Kernels:
    """Rates and times as in `cost.speed.profile.Stack`."""

    bandwidth_bytes: float
    matmul_flops: float
    """Of the shape that reaches most; how much less others reach shows in training."""
    attention_flops: float
    newton_schulz_flops: float
    matrix_seconds: float


def measured(compute: Compute, seconds: float, on_kernel: Callable[[int, str], None]) -> Kernels:
    """Time the four kinds of kernels within about `seconds`; `on_kernel` hears which comes next."""
    kind, each = compute.device.type, seconds / 7
    on_kernel(0, "copying memory")
    copied = median_seconds(_copy(compute), compute, each)
    on_kernel(1, "matmuls")
    matmul_flops = max(
        2 * math.prod(shape) / median_seconds(_matmul(shape, compute), compute, each)
        for shape in MATMULS[kind]
    )
    on_kernel(2, "attention")
    attention = median_seconds(_attention(compute), compute, each)
    on_kernel(3, "Muon")
    large = median_seconds(_muon(ORTHOGONALISED[kind], compute), compute, each)
    smallest = median_seconds(_muon(SMALLEST, compute), compute, each)
    return Kernels(
        2 * COPIED_BYTES[kind] / copied, matmul_flops, _attention_flops(kind) / attention,
        _newton_schulz_flops(kind) / large, smallest,
    )  # fmt: skip


def median_seconds(run: Callable[[], object], compute: Compute, seconds: float) -> float:
    """The median time of one run, over as many as `seconds` have room for; the first one warms up."""
    wait = torch.cuda.synchronize if compute.device.type == "cuda" else lambda: None
    run()
    wait()
    times: list[float] = []
    while len(times) < FEWEST or sum(times) < seconds:
        started = perf_counter()
        run()
        wait()
        times.append(perf_counter() - started)
    return median(times)


def _random(*shape: int, compute: Compute) -> Tensor:
    return torch.randn(shape, device=compute.device, dtype=torch.bfloat16 if compute.bf16 else torch.float32)


def _copy(compute: Compute) -> Callable[[], object]:
    source = torch.zeros(COPIED_BYTES[compute.device.type] // 4, device=compute.device)
    target = torch.ones_like(source)
    return lambda: target.copy_(source)


def _matmul(shape: tuple[int, int, int], compute: Compute) -> Callable[[], object]:
    m, k, n = shape
    x, weight = _random(m, k, compute=compute), _random(n, k, compute=compute)
    return lambda: F.linear(x, weight)


def _attention(compute: Compute) -> Callable[[], object]:
    shape = ATTENTION[compute.device.type]
    q, k, v = (_random(*shape, compute=compute).requires_grad_() for _ in range(3))
    gradient = _random(*shape, compute=compute)

    def run() -> None:
        torch.autograd.backward(F.scaled_dot_product_attention(q, k, v, is_causal=True), gradient)

    return run


def _attention_flops(kind: str) -> float:
    n, heads, length, width = ATTENTION[kind]
    return (1 + FLASH_BACKWARD) * 4 * n * heads * width * length * (length + 1) / 2


def _muon(shape: tuple[int, int], compute: Compute) -> Callable[[], object]:
    matrix = nn.Parameter(torch.randn(shape, device=compute.device))
    matrix.grad = torch.randn_like(matrix)
    return torch.optim.Muon([matrix], lr=0.0).step


def _newton_schulz_flops(kind: str) -> float:
    short, long = ORTHOGONALISED[kind]
    return NEWTON_SCHULZ_STEPS * (4 * short**2 * long + 2 * short**3)
