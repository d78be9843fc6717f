"""What an update of the trainer launches, waits for, compiles and holds on a GPU, counted without one.

Run with the library of build.py preloaded. The kernels of its device do nothing: numbers are zeros, and times
say nothing; all else is real (dynamo, AOTAutograd, inductor, triton's and ptxas's code for sm_90, the caching
allocator, the order of launches and waits). Prints one JSON object.

    LD_PRELOAD=DIR/libcuda.so.1 TRITON_LIBCUDA_PATH=DIR OMP_NUM_THREADS=1 \\
        python tests/support/fake_cuda/trace.py --layers 2 --dim 128 --heads 2 --ffn 512 --vocab 1000 \\
        --ctx 128 --batch 2 --accum 2
"""

import argparse
import ctypes
import json
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

import torch
import torch._dynamo
import torch._inductor.config
from torch._inductor.graph import GraphLowering

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from training_speed import random_tokens

import parambudget as pb
from parambudget.cost.flops import flops_per_token
from parambudget.training.config import TrainConfig
from parambudget.training.device import select_device
from parambudget.training.loop import Clock, train_steps
from parambudget.training.run.forecast import predict_run
from parambudget.training.train_state import init_train_state

LIBRARY: Final = ctypes.CDLL(None)
DYNAMO_COUNTERS: Final = ("stats", "graph_break", "recompiles", "recompile_limit", "unimplemented")


@dataclass(frozen=True)
class Update:
    """What was counted in one update."""

    launches: int
    by_kind: dict[str, int]
    sync: int
    """Times that the host waited for a stream or for the device."""
    event_sync: int
    """Times that it waited for an event."""
    malloc: int
    """Calls of cudaMalloc."""
    gemm_tflop: float
    copies_to_device: int
    copies_to_host: int
    copies_on_device: int
    memsets: int
    peak_bytes: int
    """Of allocated tensors."""
    reserved_bytes: int
    wall_seconds: float
    cpu_seconds: float
    """Of the host: the launches' own time, and compilation in the first updates."""


@dataclass(frozen=True)
class Trace:
    """Some updates of one model, in the order in which they were made."""

    device: str
    parameters: int
    updates: list[Update]
    planned_peak_bytes: int
    planned_tokens_per_second: float | None
    flops_per_update: float
    graphs: int
    """Pieces of code that inductor generated: forward and backward are one each."""
    graph_breaks: int
    recompiles: int
    dynamo: dict[str, dict[str, int]]
    top_kernels: dict[str, int] = field(default_factory=dict)
    """Launches in the last update, the most frequent first."""


def counts() -> tuple[dict[str, float], Counter[str]]:
    """What the device has counted since `fake_reset`: by name, and launches by kernel."""
    with tempfile.NamedTemporaryFile("r") as file:
        LIBRARY.fake_dump(file.name.encode())
        lines = [line.rstrip("\n").split("\t") for line in file]
    named = {name: float(rest[0]) for name, *rest in lines if name != "kernel"}
    kernels: Counter[str] = Counter()
    for name, *rest in lines:
        if name == "kernel":
            kernels[rest[1]] += int(rest[0])
    return named, kernels


def kind_of(kernel: str) -> str:
    """Who made the kernel: inductor, the matmul library, attention, a fused optimizer or aten itself."""
    if kernel.startswith("triton:"):
        return "triton"
    kinds = {
        "gemm": "gemm",
        "cudnn": "attention",
        "flash": "attention",
        "fmha": "attention",
        "multi_tensor": "foreach",
    }
    return next((kind for part, kind in kinds.items() if part in kernel), "aten")


def trace(model: pb.ModelConfig, config: TrainConfig, n_updates: int, generated: list[str]) -> Trace:
    """Make some updates; appends inductor's generated code to `generated`."""
    torch._inductor.config.fx_graph_cache = False  # a graph from the cache has no code to show
    GraphLowering.save_output_code = staticmethod(generated.append)
    compute = select_device("cuda")
    config = config.replace(backend=compute.backend)
    planned = predict_run(model, config, compute)
    state = init_train_state(model, config, compute)
    clock = Clock(
        config.step.tokens_per_update(model.context_length), flops_per_token(model), compute.peak_flops
    )
    steps = train_steps(state, model, config, random_tokens(model), 0, clock)
    updates, kernels = [], Counter[str]()
    for _ in range(n_updates):
        LIBRARY.fake_reset()
        torch.cuda.reset_peak_memory_stats()
        wall, cpu = perf_counter(), process_time()
        next(steps)
        wall, cpu = perf_counter() - wall, process_time() - cpu
        named, kernels = counts()
        by_kind: Counter[str] = Counter()
        for name, n in kernels.items():
            by_kind[kind_of(name)] += n
        updates.append(
            Update(
                launches=kernels.total(),
                by_kind=dict(by_kind),
                sync=int(named["sync"]),
                event_sync=int(named["event_sync"]),
                malloc=int(named["malloc"]),
                gemm_tflop=named["gemm_flops"] / 1e12,
                copies_to_device=int(named["h2d"]),
                copies_to_host=int(named["d2h"]),
                copies_on_device=int(named["d2d"]),
                memsets=int(named["memset"]),
                peak_bytes=torch.cuda.max_memory_allocated(),
                reserved_bytes=torch.cuda.memory_reserved(),
                wall_seconds=wall,
                cpu_seconds=cpu,
            )
        )
    dynamo = {name: dict(torch._dynamo.utils.counters[name]) for name in DYNAMO_COUNTERS}
    return Trace(
        device=compute.name,
        parameters=sum(p.numel() for p in state.module.parameters()),
        updates=updates,
        planned_peak_bytes=planned.peak_memory_bytes,
        planned_tokens_per_second=planned.tokens_per_second,
        flops_per_update=float(flops_per_token(model) * clock.tokens_per_update),
        graphs=len(generated),
        graph_breaks=sum(dynamo["graph_break"].values()),
        recompiles=sum(dynamo["recompiles"].values()),
        dynamo=dynamo,
        top_kernels=dict(kernels.most_common(60)),
    )


def main() -> None:
    """Trace the model of the flags, which are those of the planning note unless given."""
    parser = argparse.ArgumentParser(
        description="Count what the trainer's update does on a GPU that is not there."
    )
    sizes = {
        "dim": 896,
        "layers": 24,
        "heads": 14,
        "ffn": 3584,
        "vocab": 50257,
        "ctx": 1024,
        "batch": 16,
        "accum": 8,
        "chunks": 1,
        "updates": 3,
    }
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--optimizer", default="muon")
    parser.add_argument("--ac", action="store_true", help="gradient checkpointing")
    parser.add_argument("--eval", action="store_true", help="evaluate every other update")
    parser.add_argument("--model", type=json.loads, default={}, help="JSON of further model fields")
    parser.add_argument("--train", type=json.loads, default={}, help="JSON of further settings")
    parser.add_argument("--code", type=Path, help="keep inductor's code in this folder")
    asked = parser.parse_args()
    model = pb.model(
        **{
            "dim": asked.dim,
            "n_layers": asked.layers,
            "n_heads": asked.heads,
            "intermediate_size": asked.ffn,
            "vocab_size": asked.vocab,
            "context_length": asked.ctx,
        }
        | asked.model
    )
    settings: dict[str, Any] = {
        "steps": 100,
        "batch_size": asked.batch,
        "gradient_accumulation_steps": asked.accum,
        "optimizer": asked.optimizer,
        "learning_rate": 1e-3,
        "final_learning_rate": 0.0,
        "warmup_steps": 0,
        "eval_every": 2 if asked.eval else 2**31,
        "eval_tokens": asked.batch * asked.ctx * 2,
        "save_every": 2**31,
        "loss_chunks": asked.chunks,
        "gradient_checkpointing": asked.ac,
    }
    generated: list[str] = []
    traced = trace(model, TrainConfig.read(settings | asked.train), asked.updates, generated)
    if asked.code is not None:
        asked.code.mkdir(parents=True, exist_ok=True)
        for i, code in enumerate(generated):
            (asked.code / f"graph{i}.py").write_text(code)
    sys.stdout.write(json.dumps(asdict(traced), indent=1) + "\n")


if __name__ == "__main__":
    main()
