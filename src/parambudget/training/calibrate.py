"""Measure the constants of the throughput model on this machine, in about a minute.

Kernels timed alone give the rates. What they cannot show, how much slower matmuls are within a step and what
everything else costs, comes from updates of small models with the trainer itself: the time of an update is
linear in these constants, and each model differs from the others in one of them.
"""

import math
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import median
from time import perf_counter
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import with_defaults
from parambudget.cost.hardware import find_accelerator
from parambudget.cost.speed.profile import ATTENTION_HALF_WIDTH, LINK_SHARE, SOFTWARE, DeviceProfile
from parambudget.cost.speed.roofline import (
    FLASH_BACKWARD,
    NEWTON_SCHULZ_STEPS,
    attention_share,
    step_seconds,
)
from parambudget.cost.step import StepConfig
from parambudget.errors import InputError
from parambudget.text.token_cache import TokenData
from parambudget.training.config import TrainConfig
from parambudget.training.device import Compute
from parambudget.training.optimization.muon import Muon
from parambudget.training.run.autotune import timed_update_seconds

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

FEWEST_RUNS: Final = 3
COPIED_BYTES: Final = {"cpu": 2**28, "cuda": 2**30}
MATMULS: Final = {
    "cpu": ((512, 256, 1024), (1024, 512, 512), (1024, 1024, 1024)),
    "cuda": ((8192, 1024, 4096), (16384, 2048, 2048), (8192, 4096, 8192)),
}
"""(tokens, in, out), as in layers."""
ATTENTION: Final = {"cpu": (4, 4, 256, 64), "cuda": (16, 16, 1024, 64)}
"""Sequences, heads, length, head_dim."""
ORTHOGONALISED: Final = {"cpu": (256, 1024), "cuda": (1024, 4096)}
SMALLEST: Final = (64, 64)


@dataclass(frozen=True)
class MeasuredRates:
    """Rates and times that kernels alone show, as in `cost.speed.profile.DeviceProfile`."""

    bandwidth_bytes: float
    matmul_flops: float
    """Of the fastest shape; how much slower others are shows in training."""
    attention_flops: float
    newton_schulz_flops: float
    matrix_seconds: float


def measure_rates(compute: Compute, seconds: float, on_kernel: Callable[[int, str], None]) -> MeasuredRates:
    """Time the four kinds of kernels in about `seconds`; `on_kernel` gets the number and name of the next
    one."""
    kind, kernel_seconds = compute.device.type, seconds / 7
    on_kernel(0, "copying memory")
    copied = median_seconds(_copy(compute), compute, kernel_seconds)
    on_kernel(1, "matmuls")
    matmul_flops = max(
        2 * math.prod(shape) / median_seconds(_matmul(shape, compute), compute, kernel_seconds)
        for shape in MATMULS[kind]
    )
    on_kernel(2, "attention")
    attention = median_seconds(_attention(compute), compute, kernel_seconds)
    on_kernel(3, "Muon")
    large = median_seconds(_muon(ORTHOGONALISED[kind], compute), compute, kernel_seconds)
    smallest = median_seconds(_muon(SMALLEST, compute), compute, kernel_seconds)
    return MeasuredRates(
        2 * COPIED_BYTES[kind] / copied, matmul_flops, _attention_flops(kind) / attention,
        _newton_schulz_flops(kind) / large, smallest,
    )  # fmt: skip


def median_seconds(run: Callable[[], object], compute: Compute, seconds: float) -> float:
    """The median time of a run, over as many runs as fit into `seconds`; the first one is warm-up."""
    wait = torch.cuda.synchronize if compute.device.type == "cuda" else lambda: None
    run()
    wait()
    times: list[float] = []
    while len(times) < FEWEST_RUNS or sum(times) < seconds:
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
    return Muon([matrix], lr=0.0, weight_decay=0.0, momentum=0.95).step


def _newton_schulz_flops(kind: str) -> float:
    short, long = ORTHOGONALISED[kind]
    return NEWTON_SCHULZ_STEPS * (4 * short**2 * long + 2 * short**3)


SECONDS: Final = 60.0
SLOWEST, FASTEST = 0.85, 1.15
"""The interval given after a calibration; docs/throughput.md has the measurements behind it."""
_SHAPES: Final[dict[str, tuple[tuple[int, ...], ...]]] = {
    # dim, layers, heads, vocabulary, context, batch: launches, layers, width, and the loss at two widths
    "cpu": (
        (64, 2, 1, 512, 32, 1), (64, 8, 1, 512, 32, 1), (64, 4, 1, 512, 128, 8), (256, 2, 4, 512, 128, 4),
        (64, 1, 1, 8192, 64, 8), (256, 1, 4, 8192, 128, 2),
    ),
    "cuda": (
        (512, 2, 8, 4096, 256, 1), (512, 8, 8, 4096, 256, 1), (512, 4, 8, 4096, 1024, 16),
        (2048, 2, 16, 4096, 1024, 8), (512, 1, 8, 50304, 1024, 8), (2048, 1, 16, 50304, 1024, 4),
    ),
}  # fmt: skip
_EXPECTED: Final = {
    "cpu": (1.1, 1.5, 20.0, 100.0, 1e-3, 1e-3), "cuda": (1.1, 1.5, 4.5, 7.0, 1e-3, 1e-4),
}  # fmt: skip
"""How much slower matmuls are than alone, and the other constants of `DeviceProfile` that only training
shows. They are a weak prior of the least-squares fit: what the measured models cannot tell apart stays
here."""
_PRIOR_WEIGHT: Final = 0.03


@dataclass(frozen=True)
class CalibrationProgress:
    """The share of a calibration that is done, and what comes next."""

    share: float
    doing: str


def calibrate(
    compute: Compute,
    *,
    seconds: float = SECONDS,
    on_stage: Callable[[CalibrationProgress], None] = lambda _: None,
) -> DeviceProfile:
    """Measure this device in about `seconds`, not counting compilation; the result is not stored here."""
    if compute.device.type not in _SHAPES:
        raise InputError(
            f"{compute.name} cannot be measured: nothing is predicted for it; use a CPU or CUDA GPU"
        )

    def on_kernel(nth: int, doing: str) -> None:
        on_stage(CalibrationProgress(nth / 12, doing))

    start = _profile_of_kernels(compute, measure_rates(compute, seconds / 3, on_kernel))
    shapes, runs = _SHAPES[compute.device.type], []
    for i, shape in enumerate(shapes):
        on_stage(
            CalibrationProgress(
                1 / 3 + 2 / 3 * i / len(shapes), f"training, {i + 1} of {len(shapes)} small models"
            )
        )
        model, step = (
            _model(shape),
            StepConfig(batch_size=shape[-1], gradient_accumulation_steps=1, optimizer="adamw"),
        )
        model_seconds = 2 / 3 * seconds / len(shapes)
        taken = timed_update_seconds(
            model, timing_config(step), random_text(model), compute, seconds=model_seconds
        )
        torch.compiler.reset()
        runs.append((model, step, taken))
    return fit_constants(start, runs, _EXPECTED[compute.device.type])


def fit_constants(
    start: DeviceProfile, runs: list[tuple[ModelConfig, StepConfig, float]], expected: tuple[float, ...]
) -> DeviceProfile:
    """`start` with the constants that best explain the measured times of the updates."""
    scale, taken = np.array(expected), np.array([seconds for _, _, seconds in runs])
    unknown, known = zip(*(_seconds_per_unit(start, model, step) for model, step, _ in runs), strict=True)
    columns = np.array(unknown, float) / taken[:, None] * scale
    found = _nonnegative_least_squares(columns, 1 - np.array(known, float) / taken) * scale
    slower, traffic, element_bytes, logit_bytes, micro_seconds, layer_seconds = found.tolist()
    return replace(
        start, matmul_flops=start.matmul_flops / max(slower, 1e-3), matmul_traffic=traffic,
        element_bytes=element_bytes, logit_bytes=logit_bytes, micro_seconds=micro_seconds,
        layer_seconds=layer_seconds,
    )  # fmt: skip


def _seconds_per_unit(
    start: DeviceProfile, model: ModelConfig, step: StepConfig
) -> tuple[list[float], float]:
    """Seconds of an update per unit of each unknown constant, and the seconds that are already known."""
    one = replace(
        start, matmul_traffic=0.0, element_bytes=1.0, logit_bytes=1.0, micro_seconds=1.0, layer_seconds=0.0
    )
    of = step_seconds(model, step, one)
    moved = step_seconds(model, step, replace(one, matmul_traffic=1.0))["matmuls"] - of["matmuls"]
    layers = step.micro_steps_per_device * model.n_layers
    unknown = [of["matmuls"], moved, of["elementwise"], of["loss"], of["kernel_launch"], layers]
    return unknown, of["attention"] + of["weights"] + of["optimizer"]


def random_text(model: ModelConfig, n_tokens: int = 2**20) -> TokenData:
    """Random tokens, for updates that are only timed."""
    ids = np.random.default_rng(0).integers(0, model.vocab_size, n_tokens).astype(np.uint32)
    return TokenData(
        name="random", sha256="", n_documents=1, n_held_out=1, entries=model.vocab_size, train=ids,
        validation=ids[: model.context_length + 1], train_bytes=n_tokens, validation_bytes=1,
        bytes_of_token=np.ones(model.vocab_size, np.int64), tokenizer_json="", tokens_sha256="",
    )  # fmt: skip


def timing_config(step: StepConfig) -> TrainConfig:
    """Settings for updates that are only timed: no evaluation, no checkpoint, a tiny learning rate."""
    return TrainConfig(
        steps=2**31, step=step, learning_rate=1e-5, final_learning_rate=0.0, warmup_steps=0, eval_every=2**31,
        eval_tokens=1, save_every=2**31,
    )  # fmt: skip


def _nonnegative_least_squares(columns: Floats, target: Floats) -> Floats:
    """The least-squares solution near 1 without negative entries: those are set to 0."""
    size = columns.shape[1]
    columns = np.vstack((columns, _PRIOR_WEIGHT * np.eye(size)))
    target = np.concatenate((target, np.full(size, _PRIOR_WEIGHT)))
    used = np.ones(size, bool)
    while True:
        solution = np.zeros(size)
        solution[used] = np.linalg.lstsq(columns[:, used], target, rcond=None)[0]
        if (solution >= 0).all():
            return solution
        used &= solution > 0


def _model(shape: tuple[int, ...]) -> ModelConfig:
    dim, n_layers, n_heads, vocab_size, context_length, _ = shape
    return with_defaults({
        "dim": dim, "n_layers": n_layers, "n_heads": n_heads, "intermediate_size": 4 * dim,
        "vocab_size": vocab_size, "context_length": context_length,
    }).model  # fmt: skip


def _profile_of_kernels(compute: Compute, rates: MeasuredRates) -> DeviceProfile:
    """The constants that the kernels alone give, and where they were measured."""
    on_cpu, n_threads = compute.device.type == "cpu", torch.get_num_threads()
    known = find_accelerator(compute.name)
    threads = f"{n_threads} thread{'s' if n_threads > 1 else ''}"
    half_width = 0.0 if on_cpu else ATTENTION_HALF_WIDTH
    share = attention_share(ATTENTION[compute.device.type][-1], half_width)
    rates = replace(rates, attention_flops=rates.attention_flops / float(share))
    where = f"{platform.machine()}, {threads}" if on_cpu else compute.name
    return DeviceProfile(
        device=compute.name, name=f"eager, {threads}" if on_cpu else SOFTWARE,
        dtype="bfloat16" if compute.bf16 else "float32", peak_flops=compute.peak_flops, **vars(rates),
        matmul_traffic=0.0, element_bytes=0.0, logit_bytes=0.0, micro_seconds=0.0, layer_seconds=0.0,
        host_layer_seconds=0.0, attention_half_width=half_width,
        link_bytes=LINK_SHARE * known.link_bytes if known else 0.0, slowest=SLOWEST, fastest=FASTEST,
        source=f"measured on this machine ({where}), torch {torch.__version__}",
        measured_on=f"{datetime.now(UTC):%Y-%m-%d}",
    )  # fmt: skip
