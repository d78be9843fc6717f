"""Published models that are no presets, as fields of ours, and their exact counts.

Fields: the models' config.json on huggingface.co. Counts: unique parameters of the instantiated Hugging Face
classes (transformers 5.23 on the meta device), and of those what one token meets: all but the routed experts
that are not chosen.
"""

from typing import Any, NamedTuple

import parambudget as pb
from parambudget.arch.config import ModelConfig


class Published(NamedTuple):
    """One model and its counts."""

    fields: dict[str, Any]
    total: int
    active: int
    router: int = 0

    @property
    def model(self) -> ModelConfig:
        return pb.model(**self.fields)


BIASED = dict(
    norm="layernorm", gated=False, qkv_bias=True, attention_out_bias=True, ffn_bias=True, context_length=2048
)
OPT = BIASED | dict(position="learned", position_offset=2, activation="relu", vocab_size=50272)
BLOOM = BIASED | dict(position="alibi", embedding_norm=True, activation="gelu_tanh", vocab_size=250880)

PUBLISHED = {
    "mixtral-8x7b-v0.1": Published(
        dict(dim=4096, n_layers=32, n_heads=32, n_kv_heads=8, n_experts=8, n_experts_per_token=2,
             expert_intermediate_size=14336, vocab_size=32000, context_length=32768, tied=False,
             rope_theta=1e6),
        46_702_792_704, 12_879_925_248, 1_048_576,
    ),
    "qwen3-30b-a3b": Published(
        dict(dim=2048, n_layers=48, n_heads=32, n_kv_heads=4, head_dim=128, qk_norm="head", n_experts=128,
             n_experts_per_token=8, expert_intermediate_size=768, vocab_size=151936, context_length=40960,
             tied=False, rope_theta=1e6, norm_eps=1e-6),
        30_532_122_624, 3_353_032_704, 12_582_912,
    ),
    "qwen1.5-moe-a2.7b": Published(
        dict(dim=2048, n_layers=24, n_heads=16, qkv_bias=True, n_experts=60, n_experts_per_token=4,
             expert_intermediate_size=1408, n_shared_experts=1, shared_intermediate_size=5632,
             shared_expert_gate=True, norm_expert_weights=False, vocab_size=151936, context_length=8192,
             tied=False, rope_theta=1e6, norm_eps=1e-6),
        14_315_784_192, 2_689_173_504, 2_998_272,
    ),
    "phi-3.5-moe": Published(
        dict(dim=4096, n_layers=32, n_heads=32, n_kv_heads=8, norm="layernorm", qkv_bias=True,
             attention_out_bias=True, head_bias=True, n_experts=16, n_experts_per_token=2,
             expert_intermediate_size=6400, vocab_size=32064, context_length=131072, tied=False),
        41_873_153_344, 6_640_999_744, 2_097_152,
    ),
    "olmoe-1b-7b": Published(
        dict(dim=2048, n_layers=16, n_heads=16, qk_norm="full", n_experts=64, n_experts_per_token=8,
             expert_intermediate_size=1024, norm_expert_weights=False, vocab_size=50304,
             context_length=4096, tied=False),
        6_919_161_856, 1_282_017_280, 2_097_152,
    ),
    "granite-3.0-1b-a400m": Published(
        dict(dim=1024, n_layers=24, n_heads=16, n_kv_heads=8, n_experts=32, n_experts_per_token=8,
             expert_intermediate_size=512, vocab_size=49155, context_length=4096, tied=True,
             norm_eps=1e-6, attention_multiplier=1 / 64, embedding_multiplier=12.0,
             residual_multiplier=0.22, logit_multiplier=1 / 6),
        1_334_628_352, 428_658_688, 786_432,
    ),
    "glm-4.5-air": Published(
        dict(dim=4096, n_layers=46, n_heads=96, n_kv_heads=8, head_dim=128, qkv_bias=True,
             rotary_fraction=0.5, intermediate_size=10944, n_experts=128, n_experts_per_token=8,
             expert_intermediate_size=1408, n_shared_experts=1, n_first_dense=1, router_scores="sigmoid",
             correction_bias=True, vocab_size=151552, context_length=131072, tied=False, rope_theta=1e6),
        106_852_245_504, 13_424_123_904, 23_592_960,
    ),
    "gpt-oss-20b": Published(
        dict(dim=2880, n_layers=24, n_heads=64, n_kv_heads=8, head_dim=64, qkv_bias=True,
             attention_out_bias=True, attention_sinks=True, window=128, window_pattern=("local", "global"),
             activation="quick_gelu", ffn_clamp=7.0, n_experts=32, n_experts_per_token=4,
             expert_intermediate_size=2880, expert_bias=True, router_bias=True, rope_theta=150_000.0,
             vocab_size=201088, context_length=131072, tied=False),
        20_914_757_184, 4_187_440_704, 2_212_608,
    ),
    "opt-125m": Published(
        OPT | dict(dim=768, n_layers=12, n_heads=12, intermediate_size=3072), 125_239_296, 125_239_296,
    ),
    "opt-350m": Published(
        OPT | dict(dim=1024, n_layers=24, n_heads=16, intermediate_size=4096, embedding_dim=512,
                   norm_placement="post"),
        331_196_416, 331_196_416,
    ),
    "bloom-560m": Published(BLOOM | dict(dim=1024, n_layers=24, n_heads=16), 559_214_592, 559_214_592),
    "bloom-7b1": Published(BLOOM | dict(dim=4096, n_layers=30, n_heads=32), 7_069_016_064, 7_069_016_064),
    "mpt-7b": Published(
        dict(dim=4096, n_layers=32, n_heads=32, position="alibi", norm="layernorm", norm_bias=False,
             gated=False, vocab_size=50432, context_length=2048),
        6_649_286_656, 6_649_286_656,
    ),
    "deepseek-v2-lite": Published(
        dict(dim=2048, n_layers=27, n_heads=16, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64,
             v_head_dim=128, rotary_interleaved=True, intermediate_size=10944, n_experts=64,
             n_experts_per_token=6, expert_intermediate_size=1408, n_shared_experts=2, n_first_dense=1,
             norm_expert_weights=False, vocab_size=102400, context_length=163840, tied=False, norm_eps=1e-6),
        15_706_484_224, 2_661_150_208, 3_407_872,
    ),
    "deepseek-v3": Published(
        dict(dim=7168, n_layers=61, n_heads=128, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128,
             qk_rope_head_dim=64, v_head_dim=128, rotary_interleaved=True, intermediate_size=18432,
             n_experts=256, n_experts_per_token=8, expert_intermediate_size=2048, n_shared_experts=1,
             n_first_dense=3, n_expert_groups=8, n_groups_per_token=4, router_scores="sigmoid",
             correction_bias=True, routing_multiplier=2.5, vocab_size=129280, context_length=163840,
             tied=False, norm_eps=1e-6),
        671_026_404_352, 37_552_282_624, 106_430_464,
    ),
    "kimi-k2": Published(
        dict(dim=7168, n_layers=61, n_heads=64, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128,
             qk_rope_head_dim=64, v_head_dim=128, rotary_interleaved=True, intermediate_size=18432,
             n_experts=384, n_experts_per_token=8, expert_intermediate_size=2048, n_shared_experts=1,
             n_first_dense=1, router_scores="sigmoid", correction_bias=True, routing_multiplier=2.827,
             rope_theta=50_000.0, vocab_size=163840, context_length=131072, tied=False, norm_eps=1e-6),
        1_026_408_209_408, 32_861_477_888, 165_150_720,
    ),
}  # fmt: skip
