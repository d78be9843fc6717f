"""Which part of an update a kernel or an operator belongs to, by its name.

The parts are those that `cost.speed.roofline` predicts, so that the two can stand side by side, and what it
does not predict: clipping on its own, copies, waiting for batches, and time without work for the device.
"""

import re
from typing import Final, Literal, get_args

Part = Literal[
    "matmuls", "attention", "elementwise", "loss", "weights", "clip", "optimizer", "communication",
    "copies", "data", "idle",
]  # fmt: skip
PARTS: Final[tuple[Part, ...]] = get_args(Part)

UPDATE: Final = "parambudget.update"
CLIP: Final = "parambudget.clip"
DATA: Final = "parambudget.data"
"""The names under which the trainer marks, in a trace, an update, its clipping and the making of a batch."""
OPTIMIZER_STEP: Final = "Optimizer.step#"
"""How torch marks the step of every optimizer; the name of its class follows."""
ACCUMULATION: Final = "AccumulateGrad"
"""In the name of the autograd node that adds a gradient to a parameter's."""

_DEVICE: Final[tuple[tuple[Part, str], ...]] = (
    ("communication", r"nccl"),
    ("copies", r"^mem(cpy|set)\b"),
    ("attention", r"flash|fmha|sdpa|_attention|attn"),
    ("loss", r"log_softmax|nll_loss|logsumexp|cross_entropy|softmaxforward|softmaxbackward"),
    ("optimizer", r"adam|newton_schulz"),
    ("clip", r"lpnorm|foreach_norm|clip_grad"),
    ("matmuls", r"nvjet|gemm|cutlass|xmma|cublas|gemv|splitk|triton_tem_fused\w*mm|^triton_mm|wgmma"),
    # What inductor fuses of casts and transpositions alone, eager casts, and adding to a gradient.
    ("weights", r"^triton_poi_fused_(_to_copy|_?t|transpose|cat|constant_pad_nd|_)+(_\d+)?$"),
    ("weights", r"cudafunctor_add<float>|multi_tensor_apply_kernel.*(copy|binaryoplistalpha)"),
    ("clip", r"multi_tensor_apply_kernel.*binaryopscalartensor"),
)
_OPERATORS: Final[tuple[tuple[Part, str], ...]] = (
    ("communication", r"^(c10d|gloo|nccl)\b|allreduce|all_reduce|allgather|all_gather|reduce_scatter"),
    ("attention", r"scaled_dot_product|flash_attention"),
    ("loss", r"log_softmax|nll_loss|logsumexp|cross_entropy"),
    ("matmuls", r"::(_?(addmm|baddbmm|bmm|mm|grouped_mm|linear|linear_pointwise|matmul|addmv|mv|dot))(_|$)"),
    ("matmuls", r"convolution"),
)
_RULES: Final = {
    kind: tuple((part, re.compile(pattern)) for part, pattern in rules)
    for kind, rules in (("kernel", _DEVICE), ("operator", _OPERATORS))
}


def part_of_kernel(name: str) -> Part:
    """The part of a kernel on a GPU. A matmul of Muon looks like one of the model: it is known by when it is
    launched."""
    return _first_match("kernel", name)


def part_of_operator(name: str) -> Part:
    """The part of an operator on a CPU. Time of no operator, as in Python and autograd, is `idle`."""
    if "::" not in name or name.startswith(("autograd::", "torch::")):
        return "idle"
    return _first_match("operator", name)


def _first_match(kind: str, name: str) -> Part:
    lower = name.lower()
    return next((part for part, pattern in _RULES[kind] if pattern.search(lower)), "elementwise")
