"""Published models with experts, as their config.json on huggingface.co says them, and the counts that their
authors give in billions: what the lattice and the shape score of experts were fitted to and are held against.

Shapes and vocabulary alone: what else they have (sinks, biases, gates of shared experts) is less than a
thousandth of their counts. The figures are the names' or the model cards' own; a row whose count is not
theirs to within three percent would be a misread config, see `tests/test_expert_models.py`.
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


_LATENTS: Final = dict(kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
_COMPRESSED: Final = _LATENTS | dict(q_lora_rank=1536)

ROWS: Final = {
    "dbrx": _row(132, 36, 6144, 40, "48/8x128", "16/4", 10752, 100352),
    "deepseek-moe-16b": _row(16.4, 2.8, 2048, 28, "16/16x128", "64/6+2", 1408, 102400,
                             n_first_dense=1, intermediate_size=10944),
    "deepseek-v2": _row(236, 21, 5120, 60, "128/128x192", "160/6+2", 1536, 102400,
                        n_first_dense=1, intermediate_size=12288, **_COMPRESSED),
    "deepseek-v2-lite": _row(15.7, 2.7, 2048, 27, "16/16x192", "64/6+2", 1408, 102400,
                             n_first_dense=1, intermediate_size=10944, **_LATENTS),
    "deepseek-v3": _row(671, 37, 7168, 61, "128/128x192", "256/8+1", 2048, 129280,
                        n_first_dense=3, intermediate_size=18432, **_COMPRESSED),
    "dots-llm1": _row(142, 14, 4096, 62, "32/32x128", "128/6+2", 1408, 152064,
                      n_first_dense=1, intermediate_size=10944),
    "ernie-4.5-21b": _row(21.8, 3, 2560, 28, "20/4x128", "64/6+2", 1536, 103424, tied=True,
                          n_first_dense=1, intermediate_size=12288),
    "ernie-4.5-300b": _row(300, 47, 8192, 54, "64/8x128", "64/8", 3584, 103424,
                           n_first_dense=3, intermediate_size=28672),
    "glm-4.5": _row(353, 32, 5120, 92, "96/8x128", "160/8+1", 1536, 151552,
                    n_first_dense=3, intermediate_size=12288),
    "glm-4.5-air": _row(106, 13, 4096, 46, "96/8x128", "128/8+1", 1408, 151552,
                        n_first_dense=1, intermediate_size=10944),
    "gpt-oss-120b": _row(117, 5.7, 2880, 36, "64/8x64", "128/4", 2880, 201088),
    "gpt-oss-20b": _row(20.9, 4.2, 2880, 24, "64/8x64", "32/4", 2880, 201088),
    "granite-3.0-1b-a400m": _row(1.33, 0.43, 1024, 24, "16/8x64", "32/8", 512, 49155, tied=True),
    "granite-3.0-3b-a800m": _row(3.37, 0.88, 1536, 32, "24/8x64", "40/8", 512, 49155, tied=True),
    "grok-1": _row(314, 86, 6144, 64, "48/8x128", "8/2", 32768, 131072, tied=True),
    "hunyuan-a13b": _row(80, 13, 4096, 32, "32/8x128", "64/8+1", 3072, 128167, tied=True),
    "kimi-k2": _row(1026, 32.9, 7168, 61, "64/64x192", "384/8+1", 2048, 163840,
                    n_first_dense=1, intermediate_size=18432, **_COMPRESSED),
    "ling-lite": _row(16.8, 2.75, 2048, 28, "16/4x128", "64/6+2", 1408, 126464),
    "llama-4-scout": _row(108, 17, 5120, 48, "40/8x128", "16/1+1", 8192, 202048),
    "minimax-m2": _row(230, 10, 3072, 62, "48/8x128", "256/8", 1536, 200064),
    "mixtral-8x22b": _row(141, 39, 6144, 56, "48/8x128", "8/2", 16384, 32768),
    "mixtral-8x7b": _row(46.7, 12.9, 4096, 32, "32/8x128", "8/2", 14336, 32000),
    "moonlight-16b": _row(16, 2.9, 2048, 27, "16/16x192", "64/6+2", 1408, 163840,
                          n_first_dense=1, intermediate_size=11264, **_LATENTS),
    "olmoe-1b-7b": _row(6.92, 1.28, 2048, 16, "16/16x128", "64/8", 1024, 50304),
    "phi-3.5-moe": _row(41.9, 6.6, 4096, 32, "32/8x128", "16/2", 6400, 32064),
    "qwen1.5-moe-a2.7b": _row(14.3, 2.7, 2048, 24, "16/16x128", "60/4+1", 1408, 151936,
                              shared_intermediate_size=5632),
    "qwen2-57b-a14b": _row(57.4, 14.2, 3584, 28, "28/4x128", "64/8+1", 2560, 151936,
                           shared_intermediate_size=20480),
    "qwen3-235b-a22b": _row(235, 22, 4096, 94, "64/4x128", "128/8", 1536, 151936),
    "qwen3-30b-a3b": _row(30.5, 3.3, 2048, 48, "32/4x128", "128/8", 768, 151936),
    "qwen3-coder-480b": _row(480, 35, 6144, 62, "96/8x128", "160/8", 2560, 151936),
    "skywork-moe": _row(146, 22, 4608, 52, "36/36x128", "16/2", 12288, 65532),
    "smallthinker-21b": _row(21.5, 3, 2560, 52, "28/4x128", "64/6", 768, 151936),
    "smallthinker-4b": _row(4.27, 0.8, 1536, 32, "12/2x128", "32/4", 768, 151936, tied=True),
}  # fmt: skip
