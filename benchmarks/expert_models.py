"""Published models with experts that are no presets, as their config.json on huggingface.co says them, and
the counts that their authors give in billions.

Shapes and vocabulary alone: what else they have is less than a thousandth of their counts. Every total is the
authors' to within one percent; what they call active is rounded more (A3B, A10B), to within twelve.
"""

from dataclasses import dataclass
from typing import Any, Final

import parambudget as pb
from parambudget.arch.config import ModelConfig


@dataclass(frozen=True)
class Row:
    """One model: its fields, and the total and active parameters its authors give, in billions."""

    model: ModelConfig
    total: float
    active: float


def _row(
    total: float, active: float, dim: int, n_layers: int, heads: str, experts: str, width: int,
    vocab_size: int, *, tied: bool = False, **others: Any,
) -> Row:  # fmt: skip
    """`heads` is query/kv heads x width; `experts` is experts/per token[+shared]."""
    layout, head_dim = heads.split("x")
    n_heads, n_kv_heads = map(int, layout.split("/"))
    n_experts, of_token = experts.split("/")
    chosen, _, shared = of_token.partition("+")
    fields = dict(
        dim=dim, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=int(head_dim),
        n_experts=int(n_experts), n_experts_per_token=int(chosen), n_shared_experts=int(shared or 0),
        expert_intermediate_size=width, vocab_size=vocab_size, tied=tied,
    )  # fmt: skip
    return Row(pb.model(**fields | others), total, active)


ROWS: Final = {
    "dbrx": _row(132, 36, 6144, 40, "48/8x128", "16/4", 10752, 100352),
    "dots-llm1": _row(142, 14, 4096, 62, "32/32x128", "128/6+2", 1408, 152064,
                      n_first_dense=1, intermediate_size=10944),
    "ernie-4.5-21b": _row(21.8, 3, 2560, 28, "20/4x128", "64/6+2", 1536, 103424, tied=True,
                          n_first_dense=1, intermediate_size=12288),
    "ernie-4.5-300b": _row(300, 47, 8192, 54, "64/8x128", "64/8", 3584, 103424,
                           n_first_dense=3, intermediate_size=28672),
    "grok-1": _row(314, 86, 6144, 64, "48/8x128", "8/2", 32768, 131072, tied=True),
    "hunyuan-a13b": _row(80, 13, 4096, 32, "32/8x128", "64/8+1", 3072, 128167, tied=True),
    "ling-lite": _row(16.8, 2.75, 2048, 28, "16/4x128", "64/6+2", 1408, 126464),
    "llama-4-scout": _row(108, 17, 5120, 48, "40/8x128", "16/1+1", 8192, 202048),
    "minimax-m2": _row(230, 10, 3072, 62, "48/8x128", "256/8", 1536, 200064),
    "skywork-moe": _row(146, 22, 4608, 52, "36/36x128", "16/2", 12288, 65532),
}  # fmt: skip
