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

from typing import Final, NamedTuple

import numpy as np

from parambudget.arch.dims import Dims, Size
from parambudget.arch.layers import Mixer, masked, mixers, written_out
from parambudget.arch.tensors import Tensor, tensors
from parambudget.cost.flops import RECOMPUTED, TRAINING, passes, scores
from parambudget.cost.memory.graph import largest
from parambudget.cost.params import total
from parambudget.cost.speed.profile import LAUNCH_SECONDS, DeviceProfile
from parambudget.cost.step import StepConfig
from parambudget.errors import InputError

FLASH_BACKWARD: Final = 2.5
"""Of a flash attention's forward FLOPs. Dao et al. 2022, arXiv 2205.14135."""
MASKED_SHARE: Final = {"bfloat16": 0.5, "float32": 1.6}
"""Speed per score with a mask, of that without one. On a GPU assumed: the kernels that take a mask are of the
generation before FlashAttention 2, which is about twice as fast (Dao 2023, arXiv 2307.08691). On a CPU, which
does not stop at the diagonal sooner, 1.4 to 2.0 at 1024 and 256 tokens (torch 2.13, one thread)."""


def attention_seconds(m: Dims, profile: DeviceProfile, *, again: bool) -> Size:
    """Of one sequence of full context, forward and backward; with `again` forward once more."""
    return sum(_attention_row_seconds(m, row, profile, again=again) for row in mixers(m))


def _attention_row_seconds(m: Dims, row: Mixer, profile: DeviceProfile, *, again: bool) -> Size:
    length, whole = int(m.context_length), int(m.context_length) ** 2
    if written_out(m):
        runs = RECOMPUTED if again else TRAINING
        products = runs * 2.0 * row.score_width * whole / profile.matmul_flops
        moved = _n_softmax_kernels(m, profile) * profile.logit_bytes * row.copies * row.n_heads * whole
        return products + runs / TRAINING * moved / profile.bandwidth_bytes
    # Heads of two widths are computed as if both were the wider.
    width = row.copies * row.n_heads * 2 * largest((row.qk_dim, row.v_dim))
    seen = whole / MASKED_SHARE[profile.dtype] if masked(m, row.window) else scores(length, None, "causal")
    forward = 2 if again else 1
    return (forward + FLASH_BACKWARD) * 2.0 * width * seen / profile.attention_flops


def _n_softmax_kernels(m: Dims, profile: DeviceProfile) -> int:
    """Kernels between the two products: compiled, one of them all."""
    if profile.dtype == "bfloat16":
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
KERNELS_PER_EXPERT_MATRIX: Final = 7
"""Of an expert, forward and backward: three products, two casts, and its share of what lies between. Counted,
not measured."""
PERMUTED_VALUES: Final = 3
"""Values of every token and chosen expert that are put in order, put back, and weighted."""


def step_seconds(m: Dims, step: StepConfig, profile: DeviceProfile) -> dict[str, Size]:
    """Expected seconds of one update, part by part; arrays where the sizes are."""
    n_tokens = step.batch_size * int(m.context_length)
    micro = {
        "matmuls": _matmul_total(m, step, profile, n_tokens),
        "attention": step.batch_size * attention_seconds(m, profile, again=step.gradient_checkpointing),
        "elementwise": _elementwise(m, step, profile, n_tokens),
        "loss": _loss(m, step, profile, n_tokens),
        "weights": _weights(m, step, profile),
        "launches": profile.micro_seconds
        + _n_layer_passes(step) / TRAINING * profile.layer_seconds * m.n_layers
        + _expert_kernel_launch(m, step, profile, n_tokens),
    }
    once = {
        "optimizer": _optimizer(m, step, profile) / (step.world_size if step.shard else 1),
        "exchange": _communication(m, step, profile, sum(micro.values())),
    }
    return {name: step.micro_steps_per_device * seconds for name, seconds in micro.items()} | once


def tokens_per_second(m: Dims, step: StepConfig, profile: DeviceProfile) -> Size:
    """Expected training tokens per second of all ranks together; arrays where the sizes are."""
    return step.tokens_per_update(m.context_length) / sum(step_seconds(m, step, profile).values())


def matmul_seconds(profile: DeviceProfile, flops: float, m: Size, k: Size, n: Size) -> Size:
    """One product of (m, k) and (k, n), its arithmetic at `flops` per second."""
    moved = profile.matmul_traffic * profile.element_size * (m * k + k * n + m * n)
    return 2.0 * m * k * n / flops + moved / profile.bandwidth_bytes


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
        return self.row.chosen is not None


def matrices(m: Dims) -> list[Matrix]:
    """The matmul rows of the table; all experts of a layer in one tensor are as many matrices."""
    found = []
    for row in tensors(m):
        if row.role == "matmul":
            *stacked, out, into = row.shape
            share = 1 if row.chosen is None else m.moe.n_experts_per_token / m.moe.n_experts
            found.append(Matrix(row, out, into, row.copies * (stacked[0] if stacked else 1), share))
    return found


def _matmul_total(m: Dims, step: StepConfig, profile: DeviceProfile, n_tokens: int) -> Size:
    return sum(_weight_product_seconds(each, m, step, profile, n_tokens) for each in matrices(m))


def _weight_product_seconds(
    matrix: Matrix, m: Dims, step: StepConfig, profile: DeviceProfile, n_tokens: int
) -> Size:
    # A pass is worth one product of the same three sizes: forward, and backward to the input and the weight.
    one = matmul_seconds(profile, profile.matmul_flops, n_tokens * matrix.share, matrix.into, matrix.out)
    return _n_passes(matrix.row, m, step) * matrix.many * one


def _expert_kernel_launch(m: Dims, step: StepConfig, profile: DeviceProfile, n_tokens: int) -> Size:
    """Experts run one after the other: the host waits to hear how many tokens each got, and then starts the
    kernels of one matrix after another. What their matmuls take hides that."""
    routed = [each for each in matrices(m) if each.routed]
    if not routed:
        return 0.0
    kernels = KERNELS_PER_EXPERT_MATRIX * sum(each.many for each in routed)
    hidden = sum(_weight_product_seconds(each, m, step, profile, n_tokens) for each in routed)
    return np.maximum(_n_layer_passes(step) / TRAINING * kernels * LAUNCH_SECONDS - hidden, 0.0)


def _elementwise(m: Dims, step: StepConfig, profile: DeviceProfile, n_tokens: int) -> Size:
    outputs = sum(
        _n_passes(each.row, m, step) / TRAINING * each.out * each.many * each.share
        for each in matrices(m)
        if each.row.component != "lm_head"
    )
    if m.moe:
        ordered = PERMUTED_VALUES * m.n_moe_layers * m.moe.n_experts_per_token * m.dim
        outputs = outputs + _n_layer_passes(step) / TRAINING * ordered
    return outputs * (n_tokens * profile.element_bytes / profile.bandwidth_bytes)


def _loss(m: Dims, step: StepConfig, profile: DeviceProfile, n_tokens: int) -> Size:
    again = (RECOMPUTED if step.loss_chunks > 1 else TRAINING) / TRAINING
    return m.vocab_size * (again * n_tokens * profile.logit_bytes / profile.bandwidth_bytes)


def _weights(m: Dims, step: StepConfig, profile: DeviceProfile) -> Size:
    added_up = ACCUMULATE_BYTES * (step.micro_steps_per_device - 1) / step.micro_steps_per_device * total(m)
    cast = CAST_BYTES * sum(each.row.elements for each in matrices(m)) if profile.element_size == 2 else 0
    return (cast + added_up) / profile.bandwidth_bytes


def _optimizer(m: Dims, step: StepConfig, profile: DeviceProfile) -> Size:
    hidden = [each for each in matrices(m) if each.row.hidden]
    if step.optimizer == "adamw":
        hidden = []
    n_hidden = sum(each.row.elements for each in hidden)
    moved = (CLIP_BYTES + ADAMW_BYTES) * (total(m) - n_hidden) + (CLIP_BYTES + MUON_BYTES) * n_hidden
    products = sum(
        each.many * np.maximum(_newton_schulz(profile, each.out, each.into), profile.matrix_seconds)
        for each in hidden
    )
    return moved / profile.bandwidth_bytes + products


def _newton_schulz(profile: DeviceProfile, out: Size, into: Size) -> Size:
    """The products of one matrix: Jordan 2024, as torch.optim.Muon has them."""
    short, long, flops = np.minimum(out, into), np.maximum(out, into), profile.newton_schulz_flops
    gram = matmul_seconds(profile, flops, short, long, short)
    square = matmul_seconds(profile, flops, short, short, short)
    back = matmul_seconds(profile, flops, short, short, long)
    return NEWTON_SCHULZ_STEPS * (gram + square + back)


def _communication(m: Dims, step: StepConfig, profile: DeviceProfile, micro_seconds: Size) -> Size:
    """What the ranks wait for each other, in an update.

    The all-reduce of float32 gradients hides behind nothing: a compiled step hands them over all at once.
    Shards travel in bfloat16, twice gathered and once reduced in every micro-step, behind the arithmetic.
    """
    if step.world_size == 1:
        return 0.0
    if not profile.link_bytes:
        raise InputError(f"nothing is known of the link between several {profile.device}; use world_size=1")
    ring = (step.world_size - 1) / step.world_size * total(m) / profile.link_bytes
    if not step.shard:
        return 2 * 4 * ring
    return step.micro_steps_per_device * np.maximum(3 * 2 * ring - micro_seconds, 0.0)


def _n_layer_passes(step: StepConfig) -> int:
    return RECOMPUTED if step.gradient_checkpointing else TRAINING


def _n_passes(row: Tensor, m: Dims, step: StepConfig) -> int:
    return passes(row, m, checkpointing=step.gradient_checkpointing, logits_again=step.loss_chunks > 1)
