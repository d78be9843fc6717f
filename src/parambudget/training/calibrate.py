"""The constants of the throughput model, measured on this machine in about a minute.

Kernels by themselves give the rates. What they cannot show, how much slower matmuls are within a step and
what everything else costs, comes from updates of small models through the trainer itself: the time of an
update is linear in these constants, and each model differs from the others in one of them.
"""

import math
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import median
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import complete
from parambudget.cost.hardware import find_accelerator
from parambudget.cost.speed.profile import LINK_SHARE, SOFTWARE, DeviceProfile
from parambudget.cost.speed.roofline import FLASH_BACKWARD, NEWTON_SCHULZ_STEPS, step_seconds
from parambudget.cost.step import StepConfig
from parambudget.text.token_cache import TokenData
from parambudget.training.autotune import timed_update_seconds
from parambudget.training.config import TrainConfig
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


SECONDS: Final = 60.0
SLOWEST, FASTEST = 0.85, 1.15
"""The interval that is claimed after a calibration; see docs/throughput.md for what was measured."""
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
"""How much slower matmuls are than alone, and the constants of `Stack` that training has to tell. The
least-squares solution is drawn to them, a little: what the measured models do not tell apart stays here."""
_DRAWN: Final = 0.03


@dataclass(frozen=True)
class Stage:
    """How far a calibration has come."""

    share: float
    doing: str


def calibrate(
    compute: Compute, *, seconds: float = SECONDS, on_stage: Callable[[Stage], None] = lambda _: None
) -> DeviceProfile:
    """Measure this device for about that long, compiling not counted; the outcome is not kept here."""

    def on_kernel(nth: int, doing: str) -> None:
        on_stage(Stage(nth / 12, doing))

    start = _stack(compute, measured(compute, seconds / 3, on_kernel))
    shapes, runs = _SHAPES[compute.device.type], []
    for i, shape in enumerate(shapes):
        on_stage(Stage(1 / 3 + 2 / 3 * i / len(shapes), f"training, {i + 1} of {len(shapes)} small models"))
        model = _model(shape)
        work = StepConfig(batch_size=shape[-1], gradient_accumulation_steps=1, optimizer="adamw")
        each = 2 / 3 * seconds / len(shapes)
        taken = timed_update_seconds(model, settings_of(work), random_text(model), compute, seconds=each)
        torch.compiler.reset()
        runs.append((model, work, taken))
    return explained(start, runs, _EXPECTED[compute.device.type])


def explained(
    start: DeviceProfile, runs: list[tuple[ModelConfig, StepConfig, float]], expected: tuple[float, ...]
) -> DeviceProfile:
    """`start` with the constants under which the measured updates take the time that they took."""
    scale, taken = np.array(expected), np.array([seconds for _, _, seconds in runs])
    unknown, known = zip(*(_columns(start, model, work) for model, work, _ in runs), strict=True)
    columns = np.array(unknown, float) / taken[:, None] * scale
    found = _not_negative(columns, 1 - np.array(known, float) / taken) * scale
    slower, traffic, element_bytes, logit_bytes, micro_seconds, layer_seconds = found.tolist()
    return replace(
        start, matmul_flops=start.matmul_flops / max(slower, 1e-3), matmul_traffic=traffic,
        element_bytes=element_bytes, logit_bytes=logit_bytes, micro_seconds=micro_seconds,
        layer_seconds=layer_seconds,
    )  # fmt: skip


def _columns(start: DeviceProfile, model: ModelConfig, work: StepConfig) -> tuple[list[float], float]:
    """Seconds of an update per unit of each unknown, and those that are known already."""
    one = replace(
        start, matmul_traffic=0.0, element_bytes=1.0, logit_bytes=1.0, micro_seconds=1.0, layer_seconds=0.0
    )
    of = step_seconds(model, work, one)
    moved = step_seconds(model, work, replace(one, matmul_traffic=1.0))["matmuls"] - of["matmuls"]
    layers = work.micro_steps_per_device * model.n_layers
    unknown = [of["matmuls"], moved, of["elementwise"], of["loss"], of["launches"], layers]
    return unknown, of["attention"] + of["weights"] + of["optimizer"]


def random_text(model: ModelConfig, n_tokens: int = 2**20) -> TokenData:
    """Text for updates that are only timed: nothing can be learned from it."""
    ids = np.random.default_rng(0).integers(0, model.vocab_size, n_tokens).astype(np.uint32)
    return TokenData(
        name="random", sha256="", n_documents=1, n_held_out=1, entries=model.vocab_size, train=ids,
        validation=ids[: model.context_length + 1], train_bytes=n_tokens, validation_bytes=1,
        bytes_of_token=np.ones(model.vocab_size, np.int64), tokenizer_json="", tokens_sha256="",
    )  # fmt: skip


def settings_of(step: StepConfig) -> TrainConfig:
    """The trainer's settings for updates that are only timed: no evaluation, no save, hardly any learning."""
    return TrainConfig(
        steps=2**31, step=step, learning_rate=1e-5, final_learning_rate=0.0, warmup_steps=0, eval_every=2**31,
        eval_tokens=1, save_every=2**31,
    )  # fmt: skip


def _not_negative(columns: np.ndarray[Any, Any], wished: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The least-squares solution near 1 without negative entries: those that would be are 0."""
    size = columns.shape[1]
    columns = np.vstack((columns, _DRAWN * np.eye(size)))
    wished = np.concatenate((wished, np.full(size, _DRAWN)))
    used = np.ones(size, bool)
    while True:
        solution = np.zeros(size)
        solution[used] = np.linalg.lstsq(columns[:, used], wished, rcond=None)[0]
        if (solution >= 0).all():
            return solution
        used &= solution > 0


def _model(shape: tuple[int, ...]) -> ModelConfig:
    dim, n_layers, n_heads, vocab_size, context_length, _ = shape
    return complete({
        "dim": dim, "n_layers": n_layers, "n_heads": n_heads, "intermediate_size": 4 * dim,
        "vocab_size": vocab_size, "context_length": context_length,
    }).model  # fmt: skip


def _stack(compute: Compute, kernels: Kernels) -> DeviceProfile:
    """What the kernels alone tell, and who measured it."""
    on_cpu, known, n_threads = (
        compute.device.type == "cpu",
        find_accelerator(compute.name),
        torch.get_num_threads(),
    )
    threads = f"{n_threads} thread{'s' if n_threads > 1 else ''}"
    where = f"{platform.machine()}, {threads}" if on_cpu else compute.name
    return DeviceProfile(
        device=compute.name, name=f"eager, {threads}" if on_cpu else SOFTWARE,
        dtype="bfloat16" if compute.bf16 else "float32", peak_flops=compute.peak_flops, **vars(kernels),
        matmul_traffic=0.0, element_bytes=0.0, logit_bytes=0.0, micro_seconds=0.0, layer_seconds=0.0,
        link_bytes=LINK_SHARE * known.link_bytes if known else 0.0, slowest=SLOWEST, fastest=FASTEST,
        source=f"measured on this machine ({where}), torch {torch.__version__}",
        measured_on=f"{datetime.now(UTC):%Y-%m-%d}",
    )  # fmt: skip
