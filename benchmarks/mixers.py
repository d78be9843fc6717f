"""Speed of the mixers beside attention in plain torch against the classes of transformers, on a CPU.

    python benchmarks/mixers.py

Both have the same weights and two layers of that mixer with an FFN; each step is a forward and a backward
pass over one sequence. They are timed in turns, so that whatever else the machine does falls on both, and the
table has the medians. The classes run their own torch path, as they do where no fused package is installed.
"""

import logging
import statistics
import time
from collections.abc import Callable
from typing import Final

import torch
import transformers as hf

from parambudget.arch.defaults import with_defaults
from parambudget.formats.hf.importer import from_hf
from parambudget.nn.transformer import Transformer

LENGTH: Final = 512
ROUNDS: Final = 7
SIZES: Final = {
    "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 512, "intermediate_size": 256, "max_position_embeddings": 1024, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
DELTA_HEADS: Final = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}  # fmt: skip
CONFIGS: Final = {
    "gated delta net (qwen3_5_text)": {
        "model_type": "qwen3_5_text", "head_dim": 32, "layer_types": ["linear_attention"] * 2, **DELTA_HEADS,
    },
    "Mamba (mamba)": {"model_type": "mamba", "state_size": 16, "intermediate_size": 256},
    "Mamba-2 (mamba2)": {
        "model_type": "mamba2", "num_heads": 8, "head_dim": 32, "state_size": 64, "n_groups": 1,
    },
    "short convolution (lfm2)": {"model_type": "lfm2", "layer_types": ["conv"] * 2},
    "lightning attention (minimax)": {
        "model_type": "minimax", "head_dim": 32, "layer_types": ["linear_attention"] * 2,
        "num_local_experts": 1, "num_experts_per_tok": 1, "num_key_value_heads": 4,
    },
    "RG-LRU (recurrent_gemma)": {
        "model_type": "recurrent_gemma", "lru_width": 128, "block_types": ["recurrent"], "head_dim": 32,
    },
    "RWKV (rwkv)": {"model_type": "rwkv", "context_length": 1024},
}  # fmt: skip
"""Small models of nothing but that mixer and an FFN, if the type has one."""


def main() -> None:
    """Print the table in Markdown."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    tokens = torch.randint(SIZES["vocab_size"], (1, LENGTH), generator=torch.Generator().manual_seed(0))
    print("| mixer (class) | class, ms | here, ms | class / here |")
    print("|---|---|---|---|")
    for name, own in CONFIGS.items():
        config = {**SIZES, **own}
        theirs = hf.AutoModelForCausalLM.from_config(hf.AutoConfig.for_model(**config)).train()
        ours = Transformer(with_defaults(from_hf(config, name).fields).model)
        ours.init_weights(torch.Generator().manual_seed(0))
        of_class, here = in_turns(
            lambda theirs=theirs: theirs(tokens, use_cache=False).logits, lambda ours=ours: ours(tokens)
        )
        print(f"| {name} | {1000 * of_class:.0f} | {1000 * here:.0f} | {of_class / here:.1f} |", flush=True)


def in_turns(*forwards: Callable[[], torch.Tensor]) -> list[float]:
    """Median seconds of a forward and a backward pass of each."""
    seconds: list[list[float]] = [[] for _ in forwards]
    for turn in range(ROUNDS + 1):
        for times, forward in zip(seconds, forwards, strict=True):
            start = time.perf_counter()
            forward().float().square().mean().backward()
            if turn:  # the first one warms up
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


if __name__ == "__main__":
    main()
