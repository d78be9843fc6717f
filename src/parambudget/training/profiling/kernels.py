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

_Rules = tuple[tuple[Part, re.Pattern[str]], ...]


def _rules(*rules: tuple[Part, str]) -> _Rules:
    return tuple((part, re.compile(pattern)) for part, pattern in rules)


_GENERATED: Final = re.compile(r"^triton_(poi|red|per|mix)_fused_")
"""Inductor's own kernels, named by the operators in them: also by those that a library computes, whose inputs
they arrange. Casts and transpositions alone are of weights, mostly."""
_GENERATED_RULES: Final = _rules(
    ("loss", r"log_softmax|nll_loss|logsumexp|^(?!.*fused__softmax).*prepare_softmax_online"),
    ("weights", r"_fused(_(_to_copy|t|transpose|slice|cat|constant_pad_nd))+(_\d+)?$"),
)
_KERNEL_RULES: Final = _rules(
    ("communication", r"nccl"),
    ("copies", r"^mem(cpy|set)\b"),
    ("attention", r"flash|fmha|sdpa|attention|attn|cudnn::fusion"),
    ("loss", r"logsoftmax|log_softmax|nll_loss|logsumexp|cross_entropy"),
    ("optimizer", r"adam"),
    ("clip", r"lpnorm"),
    ("matmuls", r"nvjet|gemm|cutlass|xmma|cublas|gemv|splitk|^triton_(tem_fused_)?\w*mm"),
    # Eager: adding to a gradient, and casts of lists.
    ("weights", r"cudafunctor_add<float>|multi_tensor_apply_kernel.*(copy|binaryoplistalpha)"),
    ("clip", r"multi_tensor_apply_kernel.*binaryopscalartensor"),
)
_OPERATOR_RULES: Final = _rules(
    ("communication", r"^c10d::"),
    ("attention", r"scaled_dot_product|flash_attention"),
    ("loss", r"log_softmax|nll_loss|logsumexp|cross_entropy"),
    (
        "matmuls",
        r"::_?(addmm|baddbmm|bmm|mm|grouped_mm|linear|linear_pointwise|matmul|addmv|mv|dot)(_|$)|convolution",
    ),
)


def part_of_kernel(name: str) -> Part:
    """The part of a kernel on a GPU. A matmul of Muon looks like one of the model: it is known by when it is
    launched."""
    return _first_match(_GENERATED_RULES if _GENERATED.match(name) else _KERNEL_RULES, name)


def part_of_operator(name: str) -> Part:
    """The part of an operator on a CPU. Time of no operator, as in Python and autograd, is `idle`."""
    if "::" not in name or name.startswith(("autograd::", "torch::")):
        return "idle"
    return _first_match(_OPERATOR_RULES, name)


def _first_match(rules: _Rules, name: str) -> Part:
    lower = name.lower()
    return next((part for part, pattern in rules if pattern.search(lower)), "elementwise")
