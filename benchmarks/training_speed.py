"""How fast is the trainer's step, beside what one would write or pick instead, in turns in one process?

On a CUDA device: dim 896, 24 layers, 14 heads, SwiGLU 3584, vocabulary 50,257, context 1024, micro-batch 16,
accumulation 8, against Hugging Face LlamaForCausalLM under torch.compile with fused AdamW, bfloat16 autocast.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --alone --optimizer muon       # the trainer and nothing beside it

`--small` on a CPU: a small model against a plain eager loop of the same module, float32.

    python benchmarks/training_speed.py --small
"""

import argparse
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from statistics import median
from time import perf_counter, process_time
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.cost.flops import flops_per_token
from parambudget.cost.step import OptimizerName
from parambudget.text.token_cache import TokenData
from parambudget.training.config import TrainConfig
from parambudget.training.dataloader import TokenWindows
from parambudget.training.device import Compute, select_device
from parambudget.training.loop import Clock, train_steps
from parambudget.training.train_state import init_module, init_train_state

LARGE = {"dim": 896, "n_layers": 24, "n_heads": 14, "intermediate_size": 3584, "vocab_size": 50257}
SMALL = {"dim": 128, "n_layers": 4, "n_heads": 4, "intermediate_size": 512, "vocab_size": 4096}


@dataclass
class Contender:
    """Something that trains: a name, its next update, and what it took."""

    name: str
    update: Callable[[], object]
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    """Of all threads: what other programs on the machine do disturbs them less."""
    peak_bytes: int | None = None

    def timed(self, compute: Compute) -> None:
        """One update."""
        started, processor_started = perf_counter(), process_time()
        self.update()
        if compute.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(perf_counter() - started)
        self.processor_seconds.append(process_time() - processor_started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The trainer's step against another one's.")
    parser.add_argument("--small", action="store_true", help="a small model, for a CPU")
    parser.add_argument("--alone", action="store_true", help="the trainer alone, beside nothing")
    parser.add_argument("--optimizer", choices=get_args(OptimizerName), default="adamw", help="the trainer's")
    parser.add_argument("--updates", type=int, default=20, help="timed updates of each")
    parser.add_argument("--warm-up", type=int, default=3, help="updates before them")
    asked = parser.parse_args()
    compute = select_device("cpu" if asked.small else "cuda")
    model = pb.model(**(SMALL if asked.small else LARGE), context_length=256 if asked.small else 1024)
    sizes = (2, 2) if asked.small else (16, 8)
    config = settings(*sizes, asked.optimizer)
    data = random_tokens(model)
    makers = [ours] if asked.alone else [ours, eager_loop if asked.small else hugging_face]
    contenders = [warmed_up(make(model, config, data, compute), asked.warm_up, compute) for make in makers]
    for turn in range(asked.updates):
        for contender in contenders if turn % 2 else reversed(contenders):
            contender.timed(compute)
    report(contenders, model, config, compute)


def settings(
    batch_size: int, gradient_accumulation_steps: int, optimizer: OptimizerName = "adamw"
) -> TrainConfig:
    """A learning rate that changes little; no evaluation and no save in between."""
    return TrainConfig(
        steps=2**31, batch_size=batch_size, gradient_accumulation_steps=gradient_accumulation_steps,
        optimizer=optimizer, learning_rate=1e-5, final_learning_rate=0.0, warmup_steps=0, eval_every=2**31,
        eval_tokens=1, save_every=2**31,
    )  # fmt: skip


def random_tokens(model: ModelConfig) -> TokenData:
    """Text for a run of any length that nothing can be learned from."""
    ids = np.random.default_rng(0).integers(0, model.vocab_size, 2_000_000).astype(np.uint16)
    return TokenData(
        name="random", sha256="", n_documents=1, n_held_out=1, entries=model.vocab_size, train=ids,
        validation=ids[:10_000], train_bytes=len(ids), validation_bytes=10_000,
        bytes_of_token=np.ones(model.vocab_size, np.int64), tokenizer_json="", tokens_sha256="",
    )  # fmt: skip


def warmed_up(contender: Contender, n_updates: int, compute: Compute) -> Contender:
    """After a few updates, with the memory that they took at most beyond what others hold."""
    for _ in range(n_updates):
        contender.timed(compute)
    contender.seconds.clear()
    contender.processor_seconds.clear()
    peak = compute.peak_memory_bytes()
    return replace(contender, peak_bytes=None if peak is None else peak - (contender.peak_bytes or 0))


def held_by_others(compute: Compute) -> int | None:
    """Bytes on the device before a contender is made; its own peak is counted from there."""
    if compute.device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(compute.device)
    return torch.cuda.memory_allocated(compute.device)


def ours(model: ModelConfig, config: TrainConfig, data: TokenData, compute: Compute) -> Contender:
    """The trainer itself: batches, step, clipping, the check for what is not finite, metrics."""
    before = held_by_others(compute)
    clock = Clock(config.step.tokens_per_update(model.context_length), flops_per_token(model), None)
    steps = train_steps(init_train_state(model, config, compute), model, config, data, 0, clock)
    return Contender("parambudget", lambda: next(steps), peak_bytes=before)


def eager_loop(model: ModelConfig, config: TrainConfig, data: TokenData, compute: Compute) -> Contender:
    """The loop that one would write first, around the same module."""
    before = held_by_others(compute)
    module = init_module(model, 0, compute)

    def loss_of(tokens_BT: Tensor) -> Tensor:
        return F.cross_entropy(module(tokens_BT[:, :-1]).flatten(0, 1), tokens_BT[:, 1:].flatten())

    update = plain_updates(module, loss_of, model, config, data, compute)
    return Contender("plain eager loop", update, peak_bytes=before)


def hugging_face(model: ModelConfig, config: TrainConfig, data: TokenData, compute: Compute) -> Contender:
    """LlamaForCausalLM, compiled, as a user would pick it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    before = held_by_others(compute)
    shape = LlamaConfig(
        hidden_size=model.dim, num_hidden_layers=model.n_layers, num_attention_heads=model.n_heads,
        num_key_value_heads=model.n_kv_heads, intermediate_size=model.intermediate_size,
        vocab_size=model.vocab_size, max_position_embeddings=model.context_length,
        tie_word_embeddings=model.tied, attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    module = LlamaForCausalLM(shape).to(compute.device)
    compiled: Any = torch.compile(module)

    def loss_of(tokens_BT: Tensor) -> Tensor:
        # It shifts the labels itself: as many targets as ours.
        loss: Tensor = compiled(input_ids=tokens_BT, labels=tokens_BT).loss
        return loss

    update = plain_updates(module, loss_of, model, config, data, compute)
    return Contender("LlamaForCausalLM, compiled", update, peak_bytes=before)


def plain_updates(
    module: nn.Module, loss_of: Callable[[Tensor], Tensor], model: ModelConfig, config: TrainConfig,
    data: TokenData, compute: Compute,
) -> Callable[[], None]:  # fmt: skip
    """Accumulate, clip, fused AdamW; the loss is read once per update."""
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    batches = plain_batches(TokenWindows(data.train, model.context_length, 0), config, compute)

    def update() -> None:
        whole = torch.zeros((), device=compute.device)
        for _ in range(config.step.gradient_accumulation_steps):
            with compute.autocast():
                loss = loss_of(next(batches)) / config.step.gradient_accumulation_steps
            loss.backward()
            whole += loss.detach()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        whole.item()

    return update


def plain_batches(text: TokenWindows, config: TrainConfig, compute: Compute) -> Iterator[Tensor]:
    """The same windows that the trainer takes."""
    size = config.step.batch_size
    for first in count(0, size):
        yield torch.from_numpy(text.batch(first, size)).to(compute.device, non_blocking=True)


def report(contenders: list[Contender], model: ModelConfig, config: TrainConfig, compute: Compute) -> None:
    """One line each, medians; then the ratio."""
    update_tokens = config.step.tokens_per_update(model.context_length)
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, torch {torch.__version__}, {compute.name}, ", end="")
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {pb.count(model).total:,} parameters")
    shape = f"{config.step.gradient_accumulation_steps} x {config.step.batch_size} x {model.context_length}"
    timed = len(contenders[0].seconds)
    print(f"{update_tokens:,} tokens an update ({shape}); medians of {timed}, interleaved")
    for contender in contenders:
        rate = update_tokens / median(contender.seconds)
        line = f"{contender.name:28} {median(contender.seconds):8.4f} s  {rate:>10,.0f} tokens/s"
        if compute.peak_flops:
            line += f"  MFU {rate * flops_per_token(model) / compute.peak_flops:.1%}"
            line += f" (full, {compute.peak_flops / 1e12:,.0f} TFLOP/s dense)"
        if contender.peak_bytes is not None:
            line += f"  peak {contender.peak_bytes / 2**30:.1f} GiB"
        print(line)
    if len(contenders) == 1:
        return
    print(f"time of {contenders[0].name} / {contenders[1].name}, medians of pairs (95 % interval): ", end="")
    print(_ratio(*(contender.seconds for contender in contenders)), end="")
    if compute.device.type == "cpu":
        times = (contender.processor_seconds for contender in contenders)
        print(f" on the wall, {_ratio(*times)} of the processor", end="")
    print()


def _ratio(ones: list[float], others: list[float]) -> str:
    """The median of the pairs' ratios, and between which values it lies in 95 % of 2,000 resamples."""
    ratios = np.array(ones) / np.array(others)
    drawn = np.random.default_rng(0).choice(ratios, (2_000, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return f"{np.median(ratios):.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
