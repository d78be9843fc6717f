"""How long attention takes: by a kernel that stops at the diagonal, by one that takes a mask, or written out.

    causal       the scores under the causal mask / attention_flops
    masked       all scores, also those that a mask hides, / attention_flops, at MASKED_SHARE of its speed
    written out  two products of all scores, and for each step between them what the loss moves per entry

With a kernel the backward pass takes 2.5 times as long as the forward one: it computes the scores again.
"""

from typing import Final

from parambudget.arch.dims import Dims, Size
from parambudget.arch.layers import Mixer, masked, mixers, written_out
from parambudget.cost.flops import RECOMPUTED, TRAINING, scores
from parambudget.cost.memory.graph import largest
from parambudget.cost.speed.profile import Stack

FLASH_BACKWARD: Final = 2.5
"""Of a flash attention's forward FLOPs. Dao et al. 2022, arXiv 2205.14135."""
MASKED_SHARE: Final = {"bfloat16": 0.5, "float32": 1.6}
"""Speed per score with a mask, of that without one. On a GPU assumed: the kernels that take a mask are of the
generation before FlashAttention 2, which is about twice as fast (Dao 2023, arXiv 2307.08691). On a CPU, which
does not stop at the diagonal sooner, 1.4 to 2.0 at 1024 and 256 tokens (torch 2.13, one thread)."""


def attention_seconds(m: Dims, stack: Stack, *, again: bool) -> Size:
    """Of one sequence of full context, forward and backward; with `again` forward once more."""
    return sum(_seconds(m, row, stack, again=again) for row in mixers(m))


def _seconds(m: Dims, row: Mixer, stack: Stack, *, again: bool) -> Size:
    length, whole = int(m.context_length), int(m.context_length) ** 2
    if written_out(m):
        runs = RECOMPUTED if again else TRAINING
        products = runs * 2.0 * row.score_width * whole / stack.matmul_flops
        moved = _steps(m, stack) * stack.logit_bytes * row.copies * row.n_heads * whole
        return products + runs / TRAINING * moved / stack.bandwidth_bytes
    # Heads of two widths are computed as if both were the wider.
    width = row.copies * row.n_heads * 2 * largest((row.qk_dim, row.v_dim))
    seen = whole / MASKED_SHARE[stack.dtype] if masked(m, row.window) else scores(length, None, "causal")
    forward = 2 if again else 1
    return (forward + FLASH_BACKWARD) * 2.0 * width * seen / stack.attention_flops


def _steps(m: Dims, stack: Stack) -> int:
    """Kernels between the two products: compiled, one of them all."""
    if stack.dtype == "bfloat16":
        return 1
    return 3 + (3 if m.attention_softcap is not None else 0) + (2 if m.attention_sinks else 0)
