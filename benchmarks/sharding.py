"""What a process needs when the whole model lies on each, and when it is shared out (`train --shard`).

Memory is what building the model and three updates add at most: of the GPU, or of the process on a CPU.
Speed on a CPU whose cores are fewer than the processes says nothing; the ratio of the two ways says little.

    python benchmarks/sharding.py 1 2 4
"""

import argparse
import json
import os
import platform
import socket
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import torch
import torch.multiprocessing as multiprocessing

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.cost.step import Sharding
from parambudget.training.config import TrainConfig
from parambudget.training.device import Compute, select_device
from parambudget.training.distributed import ProcessGroup, join_process_group
from parambudget.training.loop import accumulate_gradients, optimizer_step
from parambudget.training.optimization.optimizer import clip_grad_norm
from parambudget.training.train_state import init_train_state
from parambudget.units import format_bytes

MICRO_STEPS = 4


def main() -> None:
    """Measure each way with each number of processes, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("processes", type=int, nargs="+")
    parser.add_argument("--target", default="91M", help="parameters")
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    # Freed memory goes back to the system at once: what is measured is then what is held.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    model = pb.solve(asked.target, vocab_size=8192, context_length=64)[0].model
    n = pb.count(model).total
    print(
        f"{n:,} parameters, {asked.optimizer}, {select_device(asked.device).name}, "
        f"torch {torch.__version__}, ",
        end="",
    )
    print(f"Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    print("| processes | model | most memory of one | per parameter | update |\n|---|---|---|---|---|")
    for size in asked.processes:
        for shard in (False, True) if size > 1 else (False,):
            held_bytes, seconds = measured(size, model, asked.optimizer, asked.device, shard)
            way = "shared out" if shard else "whole"
            each = f"{held_bytes / n:.1f} bytes"
            print(f"| {size} | {way} | {format_bytes(held_bytes)} | {each} | {seconds:.2f} s |", flush=True)


def measured(size: int, model: ModelConfig, optimizer: str, device: str, shard: bool) -> tuple[int, float]:
    """Bytes and seconds of the process that needs most."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        multiprocessing.spawn(one, (size, port, model, optimizer, device, shard, Path(folder)), nprocs=size)
        found = [json.loads(path.read_text()) for path in Path(folder).iterdir()]
    return max(held for held, _ in found), max(seconds for _, seconds in found)


def one(
    rank: int, size: int, port: int, model: ModelConfig, optimizer: str, device: str, shard: bool, out: Path
) -> None:
    """One of the processes."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)

    with join_process_group(device) as (group, own):
        figures = trained(model, optimizer, select_device(own), group, shard)
    (out / f"{rank}.json").write_text(json.dumps(figures))


def trained(
    model: ModelConfig, optimizer: str, compute: Compute, group: ProcessGroup, shard: bool
) -> tuple[int, float]:
    """Most bytes held, and seconds of the quicker of the last two updates."""
    config = TrainConfig.read(
        {
            "steps": 3, "batch_size": 1, "gradient_accumulation_steps": MICRO_STEPS, "optimizer": optimizer,
            "learning_rate": 1e-3, "final_learning_rate": 0.0, "warmup_steps": 0, "eval_every": 3,
            "eval_tokens": 64, "save_every": 3,
        }
    )  # fmt: skip
    before_bytes = held_bytes(compute, "VmRSS")
    config = group.executed_config(config, compute, sharding=Sharding(shard))
    state = init_train_state(model, config, compute, group)
    draw, seconds = torch.Generator().manual_seed(0), []
    for _ in range(config.steps):
        shape = (MICRO_STEPS, 1, model.context_length + 1)
        tokens = torch.randint(model.vocab_size, shape, generator=draw).to(compute.device)
        started = perf_counter()
        own = [tokens[i] for i in group.own_micro_steps(config)]
        loss = group.all_reduce_mean(accumulate_gradients(state.loss_fn, own, config, compute, group))
        norm = clip_grad_norm(state.module.parameters(), config.grad_clip)
        optimizer_step(state.optimizer, loss, norm)
        seconds.append(perf_counter() - started)
    return held_bytes(compute, "VmHWM") - before_bytes, min(seconds[1:])


def held_bytes(compute: Compute, of_process: str) -> int:
    """The most that torch has held on the GPU; on a CPU what the system says of the process (Linux)."""
    on_gpu = compute.peak_memory_bytes()
    if on_gpu is not None:
        return on_gpu
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(of_process))


if __name__ == "__main__":
    main()
