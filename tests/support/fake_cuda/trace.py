"""What an update of the trainer launches, waits for, compiles and holds on a GPU, counted without one.

Run with the library of build.py preloaded. The kernels of its device do nothing: numbers are zeros, and times
say nothing; all else is real (dynamo, AOTAutograd, inductor, triton for sm_90, the caching allocator, the
order of launches and waits). Prints one JSON object.

    eval "$(python tests/support/fake_cuda/build.py /tmp/fake_cuda)"
    python tests/support/fake_cuda/trace.py --layers 2 --dim 128 --heads 2 --ffn 512 --vocab 1000 --ctx 128 \\
        --batch 2 --accum 2
"""

import argparse
import ctypes
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

import torch
import torch._dynamo
import torch._inductor.config
import torch.distributed as dist
from torch._inductor.graph import GraphLowering
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from training_speed import random_tokens

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.cost.flops import flops_per_token
from parambudget.cost.step import Sharding
from parambudget.training.config import TrainConfig
from parambudget.training.device import select_device
from parambudget.training.distributed import SINGLE_PROCESS, ProcessGroup
from parambudget.training.loop import Clock, train_steps
from parambudget.training.run.forecast import predict_run
from parambudget.training.train_state import TrainState, init_train_state

KINDS: Final = {
    "triton:": "triton",
    "nccl:": "collective",
    "cudnn": "attention",
    "flash": "attention",
    "fmha": "attention",
    "gemm": "gemm",
    "cutlass": "gemm",
    "multi_tensor": "foreach",
}
"""What a part of a kernel's name says about who made it; the first that fits. All others are aten's own."""
DYNAMO_COUNTERS: Final = ("stats", "graph_break", "unimplemented")


@dataclass(frozen=True)
class Update:
    """What was counted in one update."""

    launches: int
    by_kind: dict[str, int]
    optimizer_launches: int
    """Of them, those of the optimizer's step."""
    sync: int
    """Times that the host waited for a stream or for the device."""
    event_sync: int
    """Times that it waited for an event."""
    queued: int
    """Launches that the device still had before it when the host went on after its last wait."""
    malloc: int
    """Calls of cudaMalloc."""
    gemm_tflop: float
    """Of cuBLAS; the kernels of grouped matmuls do not say theirs."""
    copies_to_device: int
    copies_to_host: int
    copies_on_device: int
    memsets: int
    collectives: int
    collective_bytes: int
    peak_bytes: int
    """Of allocated tensors."""
    reserved_bytes: int
    wall_seconds: float
    cpu_seconds: float
    """Of the host; the first updates compile."""

    @property
    def waits(self) -> int:
        """Times that the host waited for the device."""
        return self.sync + self.event_sync


@dataclass(frozen=True)
class Trace:
    """Some updates of one model, in the order in which they were made."""

    device: str
    parameters: int
    parameters_by_optimizer: dict[str, int]
    """By the class of each of the optimizer's parts."""
    updates: list[Update]
    planned_peak_bytes: int
    planned_tokens_per_second: float | None
    flops_per_update: float
    graphs: int
    """Pieces of code that inductor made of the loss: its forward and backward pass are one each."""
    optimizer_graphs: int
    """Pieces of code that inductor made for the optimizer."""
    graph_breaks: int
    recompiles: list[str]
    """Why dynamo compiled a function of the loss again."""
    dynamo: dict[str, dict[str, int]]
    top_kernels: dict[str, int] = field(default_factory=dict)
    """Launches in the last update, the most frequent first."""


@dataclass(frozen=True)
class Counts:
    """What the device has counted since it was reset."""

    numbers: dict[str, list[float]]
    kernels: Counter[str]

    @classmethod
    def read(cls, device: ctypes.CDLL) -> "Counts":
        """Read them from the preloaded library."""
        with tempfile.NamedTemporaryFile("r") as file:
            device.fake_dump(file.name.encode())
            lines = [line.rstrip("\n").split("\t") for line in file]
        kernels: Counter[str] = Counter()
        for name, *rest in lines:
            if name == "kernel":
                kernels[rest[1]] += int(rest[0])
        numbers = {name: [float(x) for x in rest] for name, *rest in lines if name != "kernel"}
        return cls(numbers, kernels)

    def __getitem__(self, name: str) -> int:
        return int(self.numbers[name][0])


class _OptimizerWatch:
    """Knows what belongs to the optimizer's step: its launches, and the code that is generated in it."""

    def __init__(self, state: TrainState, device: ctypes.CDLL) -> None:
        self.inside, self.launches, self.device = False, 0, device
        step = state.optimizer.step

        def watched(*args: Any, **options: Any) -> object:
            with self.step():
                return step(*args, **options)

        state.optimizer.step = watched  # type: ignore[method-assign]

    @contextmanager
    def step(self) -> Iterator[None]:
        before, self.inside = Counts.read(self.device).kernels.total(), True
        try:
            yield
        finally:
            self.inside = False
            self.launches = Counts.read(self.device).kernels.total() - before


def trace(
    model: ModelConfig, config: TrainConfig, n_updates: int, group: ProcessGroup = SINGLE_PROCESS, *,
    shard: bool = False, code: Path | None = None, chrome: Path | None = None,
) -> Trace:  # fmt: skip
    """Make some updates. Keeps the generated code in the folder `code`, and the operations of the last update
    with their shapes in the file `chrome`."""
    device = ctypes.CDLL(None)
    compute = select_device("cuda")
    config = group.executed_config(config, compute, sharding=Sharding(shard))
    planned = predict_run(model, config, compute)
    state = init_train_state(model, config, compute, group)
    watch = _OptimizerWatch(state, device)
    generated: list[tuple[bool, str]] = []
    torch._inductor.config.fx_graph_cache = False  # a graph from the cache has no code to show
    GraphLowering.save_output_code = staticmethod(lambda text: generated.append((watch.inside, text)))
    update_tokens = config.step.tokens_per_update(model.context_length)
    clock = Clock(update_tokens, flops_per_token(model), compute.peak_flops)
    steps = train_steps(state, model, config, random_tokens(model), 0, clock)
    updates, counts = [], Counts({}, Counter())
    for i in range(n_updates):
        device.fake_reset()
        torch.cuda.reset_peak_memory_stats()
        last = chrome is not None and i == n_updates - 1
        wall, cpu = perf_counter(), process_time()
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) if last else nullcontext() as ran:
            next(steps)
        wall, cpu = perf_counter() - wall, process_time() - cpu
        counts = Counts.read(device)
        updates.append(_update(counts, watch.launches, wall, cpu))
        if last:
            assert ran is not None
            ran.export_chrome_trace(str(chrome))
    if code is not None:
        code.mkdir(parents=True, exist_ok=True)
        for i, (of_optimizer, text) in enumerate(generated):
            (code / f"{'optimizer' if of_optimizer else 'graph'}{i}.py").write_text(text)
    parts = getattr(state.optimizer, "parts", (state.optimizer,))
    counters = torch._dynamo.utils.counters
    dynamo = {name: dict(counters[name]) for name in DYNAMO_COUNTERS}
    compilations = torch._dynamo.utils.get_compilation_metrics()
    return Trace(
        device=compute.name, parameters=sum(p.numel() for p in state.module.parameters()),
        parameters_by_optimizer={type(part).__name__: n_elements(part) for part in parts}, updates=updates,
        planned_peak_bytes=planned.peak_memory_bytes, planned_tokens_per_second=planned.tokens_per_second,
        flops_per_update=float(flops_per_token(model) * update_tokens),
        graphs=sum(not of_optimizer for of_optimizer, _ in generated),
        optimizer_graphs=sum(of_optimizer for of_optimizer, _ in generated),
        graph_breaks=sum(dynamo["graph_break"].values()),
        recompiles=[
            f"{each.co_name}: {each.recompile_reason}" for each in compilations
            if each.recompile_reason and "optimiz" not in str(each.co_filename)
        ],
        dynamo=dynamo, top_kernels=dict(counts.kernels.most_common(60)),
    )  # fmt: skip


def n_elements(optimizer: torch.optim.Optimizer) -> int:
    """Of all parameters of an optimizer."""
    return sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])


def kind_of(kernel: str) -> str:
    """Who made a kernel: inductor, the matmul library, attention, fused loops over tensors, or aten."""
    return next((kind for part, kind in KINDS.items() if part in kernel), "aten")


def _update(counts: Counts, optimizer_launches: int, wall: float, cpu: float) -> Update:
    by_kind: Counter[str] = Counter()
    for name, n in counts.kernels.items():
        by_kind[kind_of(name)] += n
    return Update(
        launches=counts.kernels.total(), by_kind=dict(by_kind), optimizer_launches=optimizer_launches,
        sync=counts["sync"], event_sync=counts["event_sync"], queued=counts["queued"],
        malloc=counts["malloc"],
        gemm_tflop=counts.numbers["gemm_flops"][0] / 1e12, copies_to_device=counts["h2d"],
        copies_to_host=counts["d2h"], copies_on_device=counts["d2d"], memsets=counts["memset"],
        collectives=counts["collective"], collective_bytes=int(counts.numbers["collective"][1]),
        peak_bytes=torch.cuda.max_memory_allocated(), reserved_bytes=torch.cuda.memory_reserved(),
        wall_seconds=wall, cpu_seconds=cpu,
    )  # fmt: skip


@contextmanager
def only_process_of(n_processes: int) -> Iterator[ProcessGroup]:
    """The first of so many processes, of which the others do not exist: NCCL of the device asks nobody."""
    if n_processes == 1:
        yield SINGLE_PROCESS
        return
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=n_processes)
    try:
        yield ProcessGroup(0, n_processes)
    finally:
        dist.destroy_process_group()


def main() -> None:
    """Trace the model of the flags, which are those of the planning note unless given."""
    parser = argparse.ArgumentParser(description="Count what an update does on a GPU that is not there.")
    sizes = {
        "dim": 896, "layers": 24, "heads": 14, "ffn": 3584, "vocab": 50257, "ctx": 1024, "batch": 16,
        "accum": 8, "chunks": 1, "updates": 3, "processes": 1,
    }  # fmt: skip
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--optimizer", default="muon")
    parser.add_argument("--ac", action="store_true", help="gradient checkpointing")
    parser.add_argument("--shard", action="store_true", help="FSDP2 instead of DDP among the processes")
    parser.add_argument("--eval", action="store_true", help="evaluate every other update")
    parser.add_argument("--model", type=json.loads, default={}, help="JSON of further model fields")
    parser.add_argument("--train", type=json.loads, default={}, help="JSON of further settings")
    parser.add_argument("--code", type=Path, help="keep inductor's code in this folder")
    parser.add_argument("--chrome", type=Path, help="profile the last update into this file")
    asked = parser.parse_args()
    shape = {
        "dim": asked.dim, "n_layers": asked.layers, "n_heads": asked.heads, "intermediate_size": asked.ffn,
        "vocab_size": asked.vocab, "context_length": asked.ctx,
    }  # fmt: skip
    settings = {
        "steps": 100, "batch_size": asked.batch, "gradient_accumulation_steps": asked.accum,
        "optimizer": asked.optimizer, "learning_rate": 1e-3, "final_learning_rate": 0.0, "warmup_steps": 0,
        "eval_every": 2 if asked.eval else 2**31, "eval_tokens": asked.batch * asked.ctx * 2,
        "save_every": 2**31, "loss_chunks": asked.chunks, "gradient_checkpointing": asked.ac,
    }  # fmt: skip
    with only_process_of(asked.processes) as group:
        traced = trace(
            pb.model(**(shape | asked.model)), TrainConfig.read(settings | asked.train), asked.updates, group,
            shard=asked.shard, code=asked.code, chrome=asked.chrome,
        )  # fmt: skip
    sys.stdout.write(json.dumps(asdict(traced), indent=1) + "\n")


if __name__ == "__main__":
    main()
