"""How long an update of the bundled trainer takes: a roofline for every matmul and every memory-bound part.

    matmul         2 M K N / matmul_flops + traffic * (M K + K N + M N) elements / bandwidth, per pass
    attention      the scores under the causal mask, backward 2.5 times forward, / attention_flops, less with
                   narrow heads; with another mask all of them at another speed; eager attention: see
                   `_attention_row_seconds`; the scans of other mixers (`cost.speed.scans`)
    elementwise    norms, residuals, activations, rotations: bytes per output of a layer's matmuls / bandwidth
    loss           softmax and its gradient: bytes per token and entry of the vocabulary / bandwidth
    weights        casts of the weights to bfloat16 and of their gradients back, and adding gradients up; one
                   process alone casts its weights once an update, several in every micro-step
    kernel_launch  seconds per micro-step and layer; those of experts that run in turn, unless their matmuls
                   hide them; and what the host takes longer to launch a layer's kernels than they run
    optimizer      the bytes of AdamW and of clipping; Muon's momentum and its Newton-Schulz products
    communication  what is not hidden of the all-reduce of gradients, or with shards of the all-gathers and
                   the reduce-scatter, and of the all-reduce between replicas of the shards; each collective's
                   wait for every process; Muon's exchange of updates

What is recomputed within an activation memory budget is counted as in cost/memory/recompute.py: its matmuls,
attention, and the elementwise work of a whole forward pass as soon as there is any. That is an estimate by
FLOPs and bytes; no device has measured it.

The parts are added: on one device they follow each other. The constants are a `DeviceProfile`. Sizes may be
NumPy arrays, so that many models are evaluated in one call. Of experts every weight is moved, and every token
is multiplied with those that it is routed to; all are assumed to get equally many tokens.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np

from parambudget.arch.dims import Dims, Size, chooses_keys, expert_dim
from parambudget.arch.layers import (
    AttentionKind,
    attention_kinds,
    needs_mask,
    uses_eager_attention,
)
from parambudget.arch.table import Tensor
from parambudget.arch.tensors import tensors
from parambudget.cost.flops import (
    PASSES,
    PASSES_WITH_RECOMPUTE,
    flops_per_token,
    forward_equivalents,
    n_scores,
)
from parambudget.cost.memory.graph import largest
from parambudget.cost.memory.recompute import NOTHING, Recomputation, recomputation
from parambudget.cost.memory.state import trained_parameters
from parambudget.cost.speed.profile import ATTENTION_WIDTH, LAUNCH_SECONDS, DeviceProfile
from parambudget.cost.speed.scans import scan_launch_seconds, scan_seconds
from parambudget.cost.step import StepConfig
from parambudget.errors import InputError

FLASH_BACKWARD: Final = 2.5
"""Of a flash attention's forward FLOPs. Dao et al. 2022, arXiv 2205.14135."""
MASKED_SHARE: Final = {"bfloat16": 0.5, "float16": 0.5, "float32": 1.6}
"""Speed per score with a mask, relative to that without one. On a GPU it is assumed: the kernels that take a
mask are of the generation before FlashAttention 2, which is about twice as fast (Dao 2023, arXiv 2307.08691).
On a CPU, whose causal kernel does not stop at the diagonal, 1.4 to 2.0 at 1024 and 256 tokens (torch 2.13,
one thread)."""
BLOCK_MASK_SHARE: Final = 0.6
"""Speed per score of FlexAttention, relative to that without a mask. Assumed, not measured: 0.85 to 0.9 of
FlashAttention 2 (Dong et al. 2024, arXiv 2412.05496), which takes 1.4 times as long as cuDNN on Hopper."""
INDEXER_BYTES: Final = 32
"""Per score of an indexer's head, in float32. Counted, not measured."""
CLIP_BYTES: Final = 12
"""Per parameter: the gradient is read for its norm, and read and written by the scaling."""
ADAMW_BYTES: Final = 28
"""Per parameter, fused: weight, gradient and two moments are read, all but the gradient written."""
MUON_BYTES: Final = 54
"""Per parameter of Muon beside its products: momentum 12, Nesterov 12, to bfloat16 and back 12, norm and
division 6, decay and update 12."""
CAST_BYTES: Final = 12
"""Per weight: float32 to bfloat16, and its gradient back. In every micro-step under autocast, once an update
where the trainer keeps bfloat16 copies (`training.bf16_weights`)."""
ACCUMULATE_BYTES: Final = 12
"""Per parameter and micro-step, except the first: two float32 are read and one is written."""
ACCUMULATE_COPY_BYTES: Final = 10
"""The same of a weight with such a copy: its bfloat16 gradient is added without a cast."""
NEWTON_SCHULZ_STEPS: Final = 5
KERNELS_PER_EXPERT_MATRIX: Final = 3
"""The products, forward and backward; everything else is done for all experts at once. Counted, not
measured."""
PERMUTED_VALUES: Final = 3
"""Times that the values of every token and routed expert are moved: sorted, put back, and weighted."""
COLLECTIVES_PER_LAYER: Final = 3
"""Of shards: two all-gathers and a reduce-scatter."""
COLLECTIVE_SECONDS: Final = 2.2e-6
"""Per process that a collective of shards passes through, not hidden: from MPT-1B on 16, 128 and 512 H100s
(46.0k, 44.1k and 39.8k tokens/s each; llm-foundry), whose update lengthens in proportion to the GPUs."""
SHARD_BYTES: Final = 2 + 2 + 4
"""Per parameter and micro-step: gathered twice in bfloat16, and its gradient reduced in float32."""
GRADIENT_BYTES: Final = 4
"""Per parameter: gradients are averaged in float32."""
BUCKET_BYTES: Final = 25 * 2**20
"""Of DDP's buckets of gradients: torch's default."""
BACKWARD_SHARE: Final = 2 / 3
"""Of a micro-step: two of three passes."""


@dataclass(frozen=True, eq=False)
class _TimedUpdate:
    """What all parts of an update are computed from, read from the table of tensors once."""

    m: Dims
    step: StepConfig
    profile: DeviceProfile
    products: list["WeightMatrix"]
    n_parameters: Size
    n_tokens: int
    """Of a micro-step."""
    again: Recomputation

    @classmethod
    def of(cls, m: Dims, step: StepConfig, profile: DeviceProfile) -> Self:
        """An update of the model."""
        n_tokens = step.batch_size * int(m.context_length)
        n_parameters = trained_parameters(m)
        return cls(m, step, profile, matrices(m), n_parameters, n_tokens, recomputation(m, step))

    @property
    def hidden_matrices(self) -> list["WeightMatrix"]:
        """Those between the embedding and the output head, which Muon trains."""
        return [matrix for matrix in self.products if matrix.row.is_hidden_matrix]


def step_seconds(m: Dims, step: StepConfig, profile: DeviceProfile) -> dict[str, Size]:
    """Expected seconds of one update, part by part; arrays where the sizes are."""
    update = _TimedUpdate.of(m, step, profile)
    attention = attention_seconds(
        m, profile, recompute=step.gradient_checkpointing, mask_documents=step.mask_documents
    )
    if step.activation_memory_budget < 1:
        budgeted = attention_seconds(m, profile, recompute=True, mask_documents=step.mask_documents)
        attention = attention + update.again.reaches("all but matmuls") * (budgeted - attention)
    attention = attention + scan_seconds(m, profile, recompute=step.gradient_checkpointing)
    micro = {
        "matmuls": _matmul_total(update),
        "attention": step.batch_size * attention,
        "elementwise": _elementwise(update),
        "loss": _loss(update),
        "weights": _weights(update),
    }
    passes = _n_layer_passes(step) / PASSES
    launched = profile.host_layer_seconds * m.n_layers
    if profile.host_layer_seconds:
        launched = launched + scan_launch_seconds(m)
    not_hidden = passes * launched - sum(micro.values())
    micro["kernel_launch"] = (
        profile.micro_seconds
        + passes * profile.layer_seconds * m.n_layers
        + np.maximum(not_hidden, 0.0)
        + _expert_kernel_launch(update)
    )
    once = {
        "optimizer": _optimizer(update),
        "communication": _communication(update, sum(micro.values())),
    }
    parts = {name: step.micro_steps_per_device * seconds for name, seconds in micro.items()} | once
    if profile.mfu is None:
        return parts
    scale = _seconds_at(profile.mfu, m, step, profile) / sum(parts.values())
    return {name: scale * seconds for name, seconds in parts.items()}


def _seconds_at(mfu: float, m: Dims, step: StepConfig, profile: DeviceProfile) -> Size:
    """Of an update at a given utilization of the dense peak."""
    if profile.peak_flops is None:
        raise InputError(f"`mfu={mfu:g}` is a share of the peak, and none is known for {profile.device}")
    flops = flops_per_token(m) * step.tokens_per_update(m.context_length)
    return flops / (mfu * profile.peak_flops * step.world_size)


def tokens_per_second(m: Dims, step: StepConfig, profile: DeviceProfile) -> Size:
    """Expected training tokens per second of all devices together; arrays where the sizes are."""
    return step.tokens_per_update(m.context_length) / sum(step_seconds(m, step, profile).values())


def matmul_seconds(profile: DeviceProfile, flops: float, m: Size, k: Size, n: Size) -> Size:
    """One product of (m, k) and (k, n), its arithmetic at `flops` per second."""
    moved = profile.matmul_traffic * profile.element_size * (m * k + k * n + m * n)
    return 2.0 * m * k * n / flops + moved / profile.bandwidth_bytes


class WeightMatrix(NamedTuple):
    """A matmul row of the table: `n_matrices` of (out_dim, in_dim), each multiplied with a share of the
    tokens."""

    row: Tensor
    out_dim: Size
    in_dim: Size
    n_matrices: Size
    token_share: Size

    @property
    def is_routed(self) -> bool:
        """Whether it belongs to routed experts."""
        return self.row.routed_active is not None


def matrices(m: Dims) -> list[WeightMatrix]:
    """The matmul rows of the table; a tensor of all experts of a layer is as many matrices."""
    rows = []
    for row in tensors(m):
        if row.role == "matmul":
            *stacked, out_dim, in_dim = row.shape
            share = 1 if row.routed_active is None else m.moe.n_experts_per_token / m.moe.n_experts
            n_matrices = row.copies * (stacked[0] if stacked else 1)
            rows.append(WeightMatrix(row, out_dim, in_dim, n_matrices, share))
    return rows


def attention_seconds(
    m: Dims, profile: DeviceProfile, *, recompute: bool, mask_documents: bool = False
) -> Size:
    """Of one sequence of full context, forward and backward; with `recompute` forward once more.

    With masked documents as if the whole context were one: shorter ones have fewer scores.
    """
    return sum(
        _attention_row_seconds(m, row, profile, recompute=recompute, mask_documents=mask_documents)
        for row in attention_kinds(m)
    )


def _attention_row_seconds(
    m: Dims, row: AttentionKind, profile: DeviceProfile, *, recompute: bool, mask_documents: bool
) -> Size:
    length, whole = int(m.context_length), int(m.context_length) ** 2
    if not row.trained:
        return _indexer_seconds(m, row, profile, runs=2 if recompute else 1)
    if uses_eager_attention(m):
        runs = PASSES_WITH_RECOMPUTE if recompute else PASSES
        products = runs * 2.0 * row.score_width * whole / profile.matmul_flops
        moved = _n_softmax_kernels(m, profile) * profile.logit_bytes * row.copies * row.n_heads * whole
        return products + runs / PASSES * moved / profile.bandwidth_bytes
    # Heads of two widths are computed as if both were the wider.
    head_dim = largest((row.qk_dim, row.v_dim))
    width = row.copies * row.n_heads * 2 * head_dim
    if mask_documents and profile.element_size == 2:
        seen = n_scores(length, row.window, "causal", chunked=row.chunked) / BLOCK_MASK_SHARE
    elif mask_documents or needs_mask(m, row.window):
        seen = whole / MASKED_SHARE[profile.dtype]
    else:
        seen = n_scores(length, None, "causal")
    forward = 2 if recompute else 1
    flops = profile.attention_flops * attention_share(head_dim, profile.attention_half_width)
    return (forward + FLASH_BACKWARD) * 2.0 * width * seen / flops


def _indexer_seconds(m: Dims, row: AttentionKind, profile: DeviceProfile, *, runs: int) -> Size:
    """Of the scores of indexers, forward only, where keys are chosen. Each is written by the product and by
    its ReLU, and read by that and by the sum over heads; choosing is assumed to take as long again."""
    whole = int(m.context_length) ** 2
    products = 2.0 * row.score_width * whole / profile.matmul_flops
    moved = INDEXER_BYTES * row.copies * row.n_heads * whole / profile.bandwidth_bytes
    return runs * chooses_keys(m) * (products + moved)


def attention_share(head_dim: Size, half_width: float) -> Size:
    """Speed of attention with such heads, relative to `ATTENTION_WIDTH`: narrow ones leave matmuls too short
    to hide the softmax."""
    return head_dim / (head_dim + half_width) * (ATTENTION_WIDTH + half_width) / ATTENTION_WIDTH


def _n_softmax_kernels(m: Dims, profile: DeviceProfile) -> int:
    """Kernels between the two products; compiled, they are one."""
    if profile.element_size == 2:
        return 1
    return 3 + (3 if m.attention_softcap is not None else 0) + (2 if m.attention_sinks else 0)


def _matmul_total(update: _TimedUpdate) -> Size:
    return sum(_weight_product_seconds(matrix, update, update.again) for matrix in update.products)


def _weight_product_seconds(matrix: WeightMatrix, update: _TimedUpdate, again: Recomputation) -> Size:
    # Every pass is a product of the same three sizes: forward, and backward to the input and to the weight.
    profile, n_tokens = update.profile, update.n_tokens * matrix.token_share
    one = matmul_seconds(profile, profile.matmul_flops, n_tokens, matrix.in_dim, matrix.out_dim)
    return (_n_passes(matrix.row, update) + _share_again(matrix, again)) * matrix.n_matrices * one


def _share_again(matrix: WeightMatrix, again: Recomputation) -> Size:
    """Of a matrix's forward products: those that are computed again within a budget."""
    if matrix.row.component == "lm_head":
        return again.head_share
    if matrix.row.component == "embedding_projection" or not matrix.row.trained:
        return 0
    if matrix.is_routed:
        return again.reaches("all but matmuls")
    is_added = matrix.row.name.endswith((".out.weight", ".down.weight"))
    return 0 if is_added else again.inner_share


def _expert_kernel_launch(update: _TimedUpdate) -> Size:
    """Where experts run one after another: the host waits for the number of tokens of each, and then launches
    the kernels of one matrix after another. The time of their matmuls hides that."""
    routed = [matrix for matrix in update.products if matrix.is_routed]
    if not routed or update.profile.runs_experts_at_once:
        return 0.0
    kernels = KERNELS_PER_EXPERT_MATRIX * sum(matrix.n_matrices for matrix in routed)
    hidden = sum(_weight_product_seconds(matrix, update, NOTHING) for matrix in routed)
    return np.maximum(_n_layer_passes(update.step) / PASSES * kernels * LAUNCH_SECONDS - hidden, 0.0)


def _elementwise(update: _TimedUpdate) -> Size:
    m, profile = update.m, update.profile
    once_more = update.again.reaches("elementwise")
    outputs = sum(
        (_n_passes(matrix.row, update) + once_more)
        / PASSES
        * matrix.out_dim
        * matrix.n_matrices
        * matrix.token_share
        for matrix in update.products
        if matrix.row.component != "lm_head"
    )
    if m.moe:
        permuted = PERMUTED_VALUES * m.n_moe_layers * m.moe.n_experts_per_token * expert_dim(m)
        outputs = outputs + (_n_layer_passes(update.step) + once_more) / PASSES * permuted
    return outputs * (update.n_tokens * profile.element_bytes / profile.bandwidth_bytes)


def _loss(update: _TimedUpdate) -> Size:
    profile = update.profile
    passes = (PASSES_WITH_RECOMPUTE if update.step.loss_chunks > 1 else PASSES) / PASSES
    return update.m.vocab_size * (passes * update.n_tokens * profile.logit_bytes / profile.bandwidth_bytes)


def _weights(update: _TimedUpdate) -> Size:
    """Of a micro-step, on the average over an update."""
    step, profile = update.step, update.profile
    rows = [matrix.row for matrix in update.products] if profile.element_size == 2 else []
    copied = [row for row in rows if _has_copy(row, step, profile)]
    n_steps, n_copied = step.micro_steps_per_device, sum(row.elements for row in copied)
    # A tied output head has a gradient beside that of its copy: the embedding's.
    n_others = update.n_parameters - sum(row.elements for row in copied if row.shared_with is None)
    moved = n_copied * (CAST_BYTES + ACCUMULATE_COPY_BYTES * (n_steps - 1))
    moved = moved + CAST_BYTES * n_steps * (sum(row.elements for row in rows) - n_copied)
    moved = moved + ACCUMULATE_BYTES * (n_steps - 1) * n_others
    return moved / n_steps / profile.bandwidth_bytes


def _has_copy(row: Tensor, step: StepConfig, profile: DeviceProfile) -> bool:
    """Whether the trainer keeps a bfloat16 copy of a matmul's weights, cast once an update."""
    in_turn = row.routed_active is not None and not profile.runs_experts_at_once
    return step.matmul_weights == "leaves" and not in_turn


def _optimizer(update: _TimedUpdate) -> Size:
    step, profile = update.step, update.profile
    hidden = [] if step.optimizer == "adamw" else update.hidden_matrices
    n_hidden = sum(matrix.row.elements for matrix in hidden)
    n_others = update.n_parameters - n_hidden
    moved = (CLIP_BYTES + ADAMW_BYTES) * n_others + (CLIP_BYTES + MUON_BYTES) * n_hidden
    n_sharing = _n_sharing(step, profile)
    products = sum(
        np.maximum(
            matrix.n_matrices * _newton_schulz(profile, matrix.out_dim, matrix.in_dim) / n_sharing,
            profile.matrix_seconds,
        )
        for matrix in hidden
    )
    return moved / (n_sharing if step.shard else 1) / profile.bandwidth_bytes + products


def _n_sharing(step: StepConfig, profile: DeviceProfile) -> int:
    """Processes among which work is counted as shared out: see `DeviceProfile.gpus_per_node`."""
    return min(step.n_sharing_muon, profile.gpus_per_node)


def clip_seconds(m: Dims, step: StepConfig, profile: DeviceProfile) -> Size:
    """Of the optimizer's seconds in an update, those for the norm of the gradient and its scaling."""
    n_sharing = _n_sharing(step, profile) if step.shard else 1
    return CLIP_BYTES * trained_parameters(m) / profile.bandwidth_bytes / n_sharing


def _newton_schulz(profile: DeviceProfile, out: Size, into: Size) -> Size:
    """The products of one matrix: Jordan 2024, as `training.optimization.muon` has them."""
    short, long, flops = np.minimum(out, into), np.maximum(out, into), profile.newton_schulz_flops
    gram = matmul_seconds(profile, flops, short, long, short)
    square = matmul_seconds(profile, flops, short, short, short)
    back = matmul_seconds(profile, flops, short, short, long)
    return NEWTON_SCHULZ_STEPS * (gram + square + back)


def _communication(update: _TimedUpdate, micro_seconds: Size) -> Size:
    """Seconds of an update that are spent waiting for other devices.

    Shards travel as the trainer's do (gathered twice in bfloat16, reduced once in float32, per micro-step),
    among the processes that hold a copy of the state, behind the arithmetic for as long as there is any.
    Float32 gradients are averaged bucket by bucket behind the backward pass of the last micro-step, all but
    the last bucket; that they are hidden so far has not been measured.
    """
    m, step, profile = update.m, update.step, update.profile
    if step.world_size == 1:
        return 0.0
    if not profile.link_bytes:
        raise InputError(
            f"the speed of the link between several {profile.device} is unknown; use world_size=1"
        )
    muon = _muon_exchange(update) if step.optimizer == "muon" else 0.0
    if step.shard:
        n = step.n_shards
        waiting = COLLECTIVES_PER_LAYER * (m.n_layers + 1) * n * COLLECTIVE_SECONDS
        ring = (n - 1) / n * SHARD_BYTES * update.n_parameters / profile.ring_bytes(n)
        exposed = np.maximum(ring - micro_seconds, 0.0)
        replicas = _replica_average(update, micro_seconds)
        return step.micro_steps_per_device * (exposed + waiting) + replicas + muon
    n_buckets = np.ceil(GRADIENT_BYTES * update.n_parameters / BUCKET_BYTES)
    bucket_seconds = _all_reduce_seconds(BUCKET_BYTES, step.world_size, profile.ring_bytes(step.world_size))
    hidden = BACKWARD_SHARE * micro_seconds
    return bucket_seconds + np.maximum((n_buckets - 1) * bucket_seconds - hidden, 0.0) + muon


def _replica_average(update: _TimedUpdate, micro_seconds: Size) -> Size:
    """Seconds of an update in which replicas average the gradients of their shards, each layer's when it is
    reduced in the last micro-step: behind the rest of the backward pass, but for what is outside the layers.
    """
    m, step, profile = update.m, update.step, update.profile
    if step.n_replicas == 1:
        return 0.0
    rate = profile.link_bytes
    if profile.network_bytes is not None:
        # All processes of a node exchange their shards at once, and share its ports.
        rate = min(rate, profile.network_bytes / min(profile.gpus_per_node, step.n_shards))
    n_collectives = m.n_layers + 1
    shard_bytes = GRADIENT_BYTES * update.n_parameters / step.n_shards
    every = n_collectives * _all_reduce_seconds(shard_bytes / n_collectives, step.n_replicas, rate)
    outside = sum(row.parameters for row in tensors(m) if not row.name.startswith("layers."))
    last = _all_reduce_seconds(GRADIENT_BYTES * outside / step.n_shards, step.n_replicas, rate)
    return np.maximum(every - BACKWARD_SHARE * micro_seconds, last)


def _all_reduce_seconds(size_bytes: Size, n_processes: int, rate: float) -> Size:
    """Of a ring's bytes, and of a tree's messages: twice its depth, up and down."""
    ring = 2 * (n_processes - 1) / n_processes * size_bytes / rate
    return ring + 2 * math.log2(n_processes) * COLLECTIVE_SECONDS


def _muon_exchange(update: _TimedUpdate) -> Size:
    """Updates in bfloat16 that every process gathers; with shards the rows of a matrix travel to the process
    that has it whole, and back. The products of the next stack hide none of it here."""
    step, profile = update.step, update.profile
    moved = 2 * sum(matrix.row.elements for matrix in update.hidden_matrices)
    n = step.n_sharing_muon
    there_and_back = 2 / _n_sharing(step, profile) if step.shard else 1
    return (n - 1) / n * moved * there_and_back / profile.ring_bytes(n)


def _n_layer_passes(step: StepConfig) -> int:
    return PASSES_WITH_RECOMPUTE if step.gradient_checkpointing else PASSES


def _n_passes(row: Tensor, update: _TimedUpdate) -> Size:
    return forward_equivalents(
        row, update.m, checkpointing=update.step.gradient_checkpointing,
        recompute_logits=update.step.loss_chunks > 1,
    )  # fmt: skip
