"""How long an update of the bundled trainer takes: a roofline for every matmul and every memory-bound part.

    matmul       2 M K N / matmul_flops + traffic * (M K + K N + M N) elements / bandwidth, per pass
    attention    the scores under the causal mask, backward 2.5 times forward, / attention_flops; with another
                 mask all of them at another speed, and those that are written out: see `cost.speed.roofline`
    elementwise  norms, residuals, activations, rotations: bytes per output of a layer's matmuls / bandwidth
    loss         softmax and its gradient: bytes per token and entry of the vocabulary / bandwidth
    weights      casts of the weights to bfloat16 and of their gradients back, and adding gradients up
    launches     seconds per micro-step and layer; those of experts, as far as their matmuls do not hide them
    optimizer    the bytes of AdamW and of clipping; Muon's momentum and its Newton-Schulz products
    exchange     the all-reduce of gradients, or with shards the all-gathers and the reduce-scatter

The parts are added up: on one device they follow each other. The constants are a `Stack`. Sizes may be NumPy
arrays, so that a lattice is evaluated in one call. Of experts every weight is moved, and every token is
multiplied with those that it meets; each is taken to get as many tokens as any other.
"""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np

from parambudget.arch.dims import Dims, Size
from parambudget.arch.layers import (
    AttentionKind,
    attention_kinds,
    needs_mask,
    uses_eager_attention,
)
from parambudget.arch.tensors import Tensor, tensors
from parambudget.cost.flops import RECOMPUTED, TRAINING, passes, scores
from parambudget.cost.memory.graph import largest
from parambudget.cost.params import total
from parambudget.cost.speed.profile import LAUNCH_SECONDS, Stack
from parambudget.errors import InputError

FLASH_BACKWARD: Final = 2.5
"""Of a flash attention's forward FLOPs. Dao et al. 2022, arXiv 2205.14135."""
MASKED_SHARE: Final = {"bfloat16": 0.5, "float32": 1.6}
"""Speed per score with a mask, of that without one. On a GPU assumed: the kernels that take a mask are of the
generation before FlashAttention 2, which is about twice as fast (Dao 2023, arXiv 2307.08691). On a CPU, which
does not stop at the diagonal sooner, 1.4 to 2.0 at 1024 and 256 tokens (torch 2.13, one thread)."""


def attention_seconds(m: Dims, stack: Stack, *, again: bool) -> Size:
    """Of one sequence of full context, forward and backward; with `again` forward once more."""
    return sum(_seconds(m, row, stack, again=again) for row in attention_kinds(m))


def _seconds(m: Dims, row: AttentionKind, stack: Stack, *, again: bool) -> Size:
    length, whole = int(m.context_length), int(m.context_length) ** 2
    if uses_eager_attention(m):
        runs = RECOMPUTED if again else TRAINING
        products = runs * 2.0 * row.score_width * whole / stack.matmul_flops
        moved = _steps(m, stack) * stack.logit_bytes * row.copies * row.n_heads * whole
        return products + runs / TRAINING * moved / stack.bandwidth_bytes
    # Heads of two widths are computed as if both were the wider.
    width = row.copies * row.n_heads * 2 * largest((row.qk_dim, row.v_dim))
    seen = whole / MASKED_SHARE[stack.dtype] if needs_mask(m, row.window) else scores(length, None, "causal")
    forward = 2 if again else 1
    return (forward + FLASH_BACKWARD) * 2.0 * width * seen / stack.attention_flops


def _steps(m: Dims, stack: Stack) -> int:
    """Kernels between the two products: compiled, one of them all."""
    if stack.dtype == "bfloat16":
        return 1
    return 3 + (3 if m.attention_softcap is not None else 0) + (2 if m.attention_sinks else 0)


CLIP_BYTES: Final = 12
"""Per parameter: the gradient is read for its norm, and read and written by the scaling."""
ADAMW_BYTES: Final = 28
"""Per parameter, fused: weight, gradient and two moments are read, all but the gradient written."""
MUON_BYTES: Final = 54
"""Per parameter of torch.optim.Muon beside its products: momentum 12, Nesterov 12, to bfloat16 6, norm and
division 6, decay 8, update 10."""
CAST_BYTES: Final = 12
"""Per weight and micro-step under autocast: float32 to bfloat16, and its gradient back."""
ACCUMULATE_BYTES: Final = 12
"""Per parameter and micro-step but the first."""
NEWTON_SCHULZ_STEPS: Final = 5
KERNELS_OF_A_MATRIX: Final = 7
"""Of an expert, forward and backward: three products, two casts, and its share of what lies between. Counted,
not measured."""
ORDERED: Final = 3
"""Values of every token and chosen expert that are put in order, put back, and weighted."""


@dataclass(frozen=True)
class Work:
    """How an update is computed; the words are those of the trainer's settings."""

    batch_size: int
    """Sequences per micro-step and device."""
    gradient_accumulation_steps: int = 1
    """Micro-steps per update, of all ranks together."""
    optimizer: Literal["muon", "adamw"] = "muon"
    gradient_checkpointing: bool = False
    loss_chunks: int = 1
    ranks: int = 1
    """Accelerators of one machine."""
    sharded: bool = False
    """Weights, gradients and optimizer state are divided among the ranks (FSDP, ZeRO-3)."""

    @property
    def own_steps(self) -> int:
        """Micro-steps per update that each rank computes."""
        own, left = divmod(self.gradient_accumulation_steps, self.ranks)
        if left:
            raise InputError(
                f"gradient_accumulation_steps={self.gradient_accumulation_steps} cannot be shared out evenly "
                f"among {self.ranks} ranks; use {(own + 1) * self.ranks}"
            )
        return own


def parts(m: Dims, work: Work, stack: Stack) -> dict[str, Size]:
    """Expected seconds of one update, part by part; arrays where the sizes are."""
    n_tokens = work.batch_size * int(m.context_length)
    micro = {
        "matmuls": _matmuls(m, work, stack, n_tokens),
        "attention": work.batch_size * attention_seconds(m, stack, again=work.gradient_checkpointing),
        "elementwise": _elementwise(m, work, stack, n_tokens),
        "loss": _loss(m, work, stack, n_tokens),
        "weights": _weights(m, work, stack),
        "launches": stack.micro_seconds
        + _runs(work) / TRAINING * stack.layer_seconds * m.n_layers
        + _launches_of_experts(m, work, stack, n_tokens),
    }
    once = {
        "optimizer": _optimizer(m, work, stack) / (work.ranks if work.sharded else 1),
        "exchange": _exchange(m, work, stack, sum(micro.values())),
    }
    return {name: work.own_steps * seconds for name, seconds in micro.items()} | once


def tokens_per_second(m: Dims, work: Work, stack: Stack) -> Size:
    """Expected training tokens per second of all ranks together; arrays where the sizes are."""
    return update_tokens(m, work) / sum(parts(m, work, stack).values())


def update_tokens(m: Dims, work: Work) -> int:
    """Tokens of one update, of all ranks together."""
    return work.batch_size * work.gradient_accumulation_steps * int(m.context_length)


def matmul_seconds(stack: Stack, flops: float, m: Size, k: Size, n: Size) -> Size:
    """One product of (m, k) and (k, n), its arithmetic at `flops` per second."""
    moved = stack.matmul_traffic * stack.element_size * (m * k + k * n + m * n)
    return 2.0 * m * k * n / flops + moved / stack.bandwidth_bytes


class Matrix(NamedTuple):
    """A matmul row of the table: so many matrices of (out, into), each met by a share of the tokens."""

    row: Tensor
    out: Size
    into: Size
    many: Size
    share: Size

    @property
    def routed(self) -> bool:
        """Whether it is of routed experts."""
        return self.row.routed_active is not None


def matrices(m: Dims) -> list[Matrix]:
    """The matmul rows of the table; all experts of a layer in one tensor are as many matrices."""
    found = []
    for row in tensors(m):
        if row.role == "matmul":
            *stacked, out, into = row.shape
            share = 1 if row.routed_active is None else m.moe.n_experts_per_token / m.moe.n_experts
            found.append(Matrix(row, out, into, row.copies * (stacked[0] if stacked else 1), share))
    return found


def _matmuls(m: Dims, work: Work, stack: Stack, n_tokens: int) -> Size:
    return sum(_product_seconds(each, m, work, stack, n_tokens) for each in matrices(m))


def _product_seconds(matrix: Matrix, m: Dims, work: Work, stack: Stack, n_tokens: int) -> Size:
    # A pass is worth one product of the same three sizes: forward, and backward to the input and the weight.
    one = matmul_seconds(stack, stack.matmul_flops, n_tokens * matrix.share, matrix.into, matrix.out)
    return _passes(matrix.row, m, work) * matrix.many * one


def _launches_of_experts(m: Dims, work: Work, stack: Stack, n_tokens: int) -> Size:
    """Experts run one after the other: the host waits to hear how many tokens each got, and then starts the
    kernels of one matrix after another. What their matmuls take hides that."""
    routed = [each for each in matrices(m) if each.routed]
    if not routed:
        return 0.0
    kernels = KERNELS_OF_A_MATRIX * sum(each.many for each in routed)
    hidden = sum(_product_seconds(each, m, work, stack, n_tokens) for each in routed)
    return np.maximum(_runs(work) / TRAINING * kernels * LAUNCH_SECONDS - hidden, 0.0)


def _elementwise(m: Dims, work: Work, stack: Stack, n_tokens: int) -> Size:
    outputs = sum(
        _passes(each.row, m, work) / TRAINING * each.out * each.many * each.share
        for each in matrices(m)
        if each.row.component != "lm_head"
    )
    if m.moe:
        ordered = ORDERED * m.n_moe_layers * m.moe.n_experts_per_token * m.dim
        outputs = outputs + _runs(work) / TRAINING * ordered
    return outputs * (n_tokens * stack.element_bytes / stack.bandwidth_bytes)


def _loss(m: Dims, work: Work, stack: Stack, n_tokens: int) -> Size:
    again = (RECOMPUTED if work.loss_chunks > 1 else TRAINING) / TRAINING
    return m.vocab_size * (again * n_tokens * stack.logit_bytes / stack.bandwidth_bytes)


def _weights(m: Dims, work: Work, stack: Stack) -> Size:
    added_up = ACCUMULATE_BYTES * (work.own_steps - 1) / work.own_steps * total(m)
    cast = CAST_BYTES * sum(each.row.elements for each in matrices(m)) if stack.element_size == 2 else 0
    return (cast + added_up) / stack.bandwidth_bytes


def _optimizer(m: Dims, work: Work, stack: Stack) -> Size:
    hidden = [each for each in matrices(m) if each.row.is_hidden_matrix]
    if work.optimizer == "adamw":
        hidden = []
    n_hidden = sum(each.row.elements for each in hidden)
    moved = (CLIP_BYTES + ADAMW_BYTES) * (total(m) - n_hidden) + (CLIP_BYTES + MUON_BYTES) * n_hidden
    products = sum(
        each.many * np.maximum(_newton_schulz(stack, each.out, each.into), stack.matrix_seconds)
        for each in hidden
    )
    return moved / stack.bandwidth_bytes + products


def _newton_schulz(stack: Stack, out: Size, into: Size) -> Size:
    """The products of one matrix: Jordan 2024, as torch.optim.Muon has them."""
    short, long, flops = np.minimum(out, into), np.maximum(out, into), stack.newton_schulz_flops
    gram = matmul_seconds(stack, flops, short, long, short)
    square = matmul_seconds(stack, flops, short, short, short)
    back = matmul_seconds(stack, flops, short, short, long)
    return NEWTON_SCHULZ_STEPS * (gram + square + back)


def _exchange(m: Dims, work: Work, stack: Stack, micro_seconds: Size) -> Size:
    """What the ranks wait for each other, in an update.

    The all-reduce of float32 gradients hides behind nothing: a compiled step hands them over all at once.
    Shards travel in bfloat16, twice gathered and once reduced in every micro-step, behind the arithmetic.
    """
    if work.ranks == 1:
        return 0.0
    if not stack.link_bytes:
        raise InputError(f"nothing is known of the link between several {stack.device}; use ranks=1")
    ring = (work.ranks - 1) / work.ranks * total(m) / stack.link_bytes
    if not work.sharded:
        return 2 * 4 * ring
    return work.own_steps * np.maximum(3 * 2 * ring - micro_seconds, 0.0)


def _runs(work: Work) -> int:
    return RECOMPUTED if work.gradient_checkpointing else TRAINING


def _passes(row: Tensor, m: Dims, work: Work) -> int:
    return passes(row, m, checkpointing=work.gradient_checkpointing, logits_again=work.loss_chunks > 1)
