"""Published decoders with a mixture of experts: first what a family shares, then one row per model.

A row gives what differs from the defaults of `arch.defaults.with_defaults`. Every count is that of the
instantiated Hugging Face class (transformers 5, unique parameters; active: without the routed experts that a
token does not use), never ours. Left out, because the classes have none: multi-token prediction layers. Phi's
LongRoPE is left out because its factors are in no source that we could read.
"""

from typing import Any, Final

from parambudget.arch.presets.row import moe_family
from parambudget.arch.rope_scaling import yarn_attention_factor

# DeepSeek-V2 and its descendants: latent attention, a dense first layer, and their own norm epsilon.
_LATENT: Final[dict[str, Any]] = dict(
    kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, rotary_interleaved=True,
    n_first_dense=1, tied=False, norm_eps=1e-6,
)  # fmt: skip
_SIGMOID: Final[dict[str, Any]] = dict(router_scores="sigmoid", correction_bias=True)


def _deepseek_yarn(factor: float, mscale: float = 1.0, **more: float) -> dict[str, Any]:
    """YaRN whose attention factor is squared on all scores, not on those of the rotated part alone: the
    configs have `mscale` twice."""
    score_scale = yarn_attention_factor(factor, mscale) ** 2
    return dict(
        rope_type="yarn", rope_factor=factor, rope_original_context=4096, rope_attention_factor=1.0,
        attention_multiplier=192**-0.5 * score_scale, **more,
    )  # fmt: skip


# fmt: off
_mixtral = moe_family("mistralai", "MixtralForCausalLM", "arXiv 2401.04088",
    tied=False, vocab_size=32000, context_length=32768, rope_theta=1_000_000.0)
_qwen2 = moe_family("Qwen", "Qwen2MoeForCausalLM", "arXiv 2407.10671",
    qkv_bias=True, norm_expert_weights=False, n_shared_experts=1, shared_expert_gate=True, tied=False,
    vocab_size=151936, rope_theta=1_000_000.0, norm_eps=1e-6)
_qwen3 = moe_family("Qwen", "Qwen3MoeForCausalLM", "arXiv 2505.09388",
    qk_norm="head", head_dim=128, tied=False, vocab_size=151936, context_length=40960,
    rope_theta=1_000_000.0, norm_eps=1e-6)
_phi = moe_family("microsoft", "PhimoeForCausalLM", "arXiv 2404.14219",
    ("rescaled rotary frequencies (longrope)",), router_scores="sparsemixer",
    norm="layernorm", qkv_bias=True, attention_out_bias=True, head_bias=True, norm_expert_weights=False,
    tied=False, vocab_size=32064, context_length=131072, window=131072)
_olmoe = moe_family("allenai", "OlmoeForCausalLM", "arXiv 2409.02060",
    qk_norm="full", norm_expert_weights=False, tied=False, vocab_size=50304, context_length=4096)
_granite = moe_family("ibm-granite", "GraniteMoeForCausalLM", "model card",
    vocab_size=49155, context_length=4096, norm_eps=1e-6, embedding_multiplier=12.0, residual_multiplier=0.22,
    attention_multiplier=1 / 64, logit_multiplier=1 / 6)
_glm = moe_family("zai-org", "Glm4MoeForCausalLM", "arXiv 2508.06471",
    **_SIGMOID, qkv_bias=True, head_dim=128, rotary_fraction=0.5, n_shared_experts=1, tied=False,
    vocab_size=151552, context_length=131072, rope_theta=1_000_000.0)
_gpt_oss = moe_family("openai", "GptOssForCausalLM", "arXiv 2508.10925",
    qkv_bias=True, attention_out_bias=True, attention_sinks=True, head_dim=64, window=128,
    window_pattern=("local", "global"), activation="quick_gelu", ffn_clamp=7.0, expert_bias=True,
    router_bias=True, tied=False, vocab_size=201088, context_length=131072, rope_theta=150_000.0,
    rope_type="yarn", rope_factor=32.0, rope_original_context=4096, rope_truncate=False)
_deepseek2 = moe_family("deepseek-ai", "DeepseekV2ForCausalLM", "arXiv 2405.04434",
    **_LATENT, n_shared_experts=2, norm_expert_weights=False, vocab_size=102400, context_length=163840)
_deepseek3 = moe_family("deepseek-ai", "DeepseekV3ForCausalLM", "arXiv 2412.19437",
    **_LATENT | dict(n_first_dense=3), **_SIGMOID, q_lora_rank=1536, n_shared_experts=1, n_expert_groups=8,
    n_groups_per_token=4, routing_multiplier=2.5, vocab_size=129280, context_length=163840,
    **_deepseek_yarn(40.0))
_deepseek32 = moe_family("deepseek-ai", "DeepseekV32ForCausalLM", "arXiv 2512.02556",
    **_LATENT | dict(n_first_dense=3), **_SIGMOID, q_lora_rank=1536, n_shared_experts=1, n_expert_groups=8,
    n_groups_per_token=4, routing_multiplier=2.5, vocab_size=129280, context_length=163840,
    n_index_heads=64, index_head_dim=128, index_top_k=2048, **_deepseek_yarn(40.0))
_moonshot = moe_family("moonshotai", "DeepseekV3ForCausalLM", "arXiv 2502.16982, 2507.20534",
    **_LATENT, **_SIGMOID, vocab_size=163840, context_length=8192, rope_theta=50_000.0)
_glm_flash = moe_family("zai-org", "Glm4MoeLiteForCausalLM", "model card",
    **_SIGMOID, kv_lora_rank=512, q_lora_rank=768, qk_nope_head_dim=192, qk_rope_head_dim=64, v_head_dim=256,
    latent_norm_eps=1e-6, rotary_interleaved=True, n_first_dense=1, n_shared_experts=1, tied=False,
    vocab_size=154880, context_length=202752, rope_theta=1_000_000.0)
_glm5 = moe_family("zai-org", "GlmMoeDsaForCausalLM", "model card",
    **_SIGMOID, kv_lora_rank=512, q_lora_rank=2048, qk_nope_head_dim=192, qk_rope_head_dim=64, v_head_dim=256,
    latent_norm_eps=1e-6, rotary_interleaved=True, n_index_heads=32, index_head_dim=128, index_top_k=2048,
    index_rotary_interleaved=True, n_first_dense=3, n_shared_experts=1, routing_multiplier=2.5, tied=False,
    vocab_size=154880, context_length=202752, rope_theta=1_000_000.0)
_dots = moe_family("rednote-hilab", "Dots1ForCausalLM", "arXiv 2506.05767",
    **_SIGMOID, qk_norm="head", n_first_dense=1, n_shared_experts=2, routing_multiplier=2.5, tied=False,
    vocab_size=152064, context_length=32768, rope_theta=10_000_000.0, norm_eps=1e-6)
_minimax = moe_family("MiniMaxAI", "MiniMaxM2ForCausalLM", "model card",
    **_SIGMOID, qk_norm="full", head_dim=128, rotary_fraction=0.5, tied=False, vocab_size=200064,
    context_length=196608, rope_theta=5_000_000.0, norm_eps=1e-6)
_solar = moe_family("upstage", "SolarOpenForCausalLM", "model card",
    **_SIGMOID, head_dim=128, n_shared_experts=1, tied=False, vocab_size=196608, context_length=131072,
    rope_theta=1_000_000.0)
_ernie = moe_family("baidu", "Ernie4_5_MoeForCausalLM", "model card",
    correction_bias=True, correction_counted=True, n_first_dense=1, n_shared_experts=2,
    rotary_interleaved=True, tied=True, vocab_size=103424, context_length=131072, rope_theta=500_000.0)
_flex_olmo = moe_family("allenai", "FlexOlmoForCausalLM", "arXiv 2507.07024",
    qk_norm="full", norm_placement="reordered", norm_expert_weights=False, tied=False, vocab_size=100352,
    context_length=4096, rope_theta=500_000.0, norm_eps=1e-6)
_hunyuan = moe_family("tencent", "HYV3ForCausalLM", "model card",
    **_SIGMOID, qk_norm="head", head_dim=128, n_first_dense=1, n_shared_experts=1, routing_multiplier=2.826,
    tied=False, vocab_size=120832, context_length=131072, rope_theta=11_158_840.0)

ROWS: Final = (
    # name  repository  parameters  active  layers  dim  heads or (heads, kv heads)  experts  per token  width
    _mixtral("mixtral-8x7b-v0.1", "Mixtral-8x7B-v0.1", 46_702_792_704, 12_879_925_248,
             32, 4096, (32, 8), 8, 2, 14336),
    _mixtral("mixtral-8x22b-v0.1", "Mixtral-8x22B-v0.1", 140_620_634_112, 39_152_031_744,
             56, 6144, (48, 8), 8, 2, 16384, context_length=65536),
    _qwen2("qwen1.5-moe-a2.7b", "Qwen1.5-MoE-A2.7B", 14_315_784_192, 2_689_173_504,
           24, 2048, 16, 60, 4, 1408, shared_intermediate_size=5632, context_length=8192),
    _qwen2("qwen2-57b-a14b", "Qwen2-57B-A14B", 57_408_658_944, 14_249_270_784,
           28, 3584, (28, 4), 64, 8, 2560, shared_intermediate_size=20480, context_length=131072),
    _qwen3("qwen3-30b-a3b", "Qwen3-30B-A3B", 30_532_122_624, 3_353_032_704, 48, 2048, (32, 4), 128, 8, 768),
    _qwen3("qwen3-235b-a22b", "Qwen3-235B-A22B", 235_093_634_560, 22_190_763_520,
           94, 4096, (64, 4), 128, 8, 1536),
    _qwen3("qwen3-coder-480b-a35b", "Qwen3-Coder-480B-A35B-Instruct", 480_154_875_392, 35_474_765_312,
           62, 6144, (96, 8), 160, 8, 2560, context_length=262144, rope_theta=10_000_000.0),
    _phi("phi-3.5-moe", "Phi-3.5-MoE-instruct", 41_873_153_344, 6_640_999_744,
         32, 4096, (32, 8), 16, 2, 6400),
    _olmoe("olmoe-1b-7b", "OLMoE-1B-7B-0924", 6_919_161_856, 1_282_017_280, 16, 2048, 16, 64, 8, 1024),
    _granite("granite-3.0-1b-a400m", "granite-3.0-1b-a400m-base", 1_334_628_352, 428_658_688,
             24, 1024, (16, 8), 32, 8, 512),
    _granite("granite-3.0-3b-a800m", "granite-3.0-3b-a800m-base", 3_298_793_472, 882_874_368,
             32, 1536, (24, 8), 40, 8, 512),
    _glm("glm-4.5-air", "GLM-4.5-Air", 106_852_245_504, 13_424_123_904,
         46, 4096, (96, 8), 128, 8, 1408, intermediate_size=10944, n_first_dense=1),
    _glm("glm-4.5", "GLM-4.5", 352_797_814_784, 33_632_251_904,
         92, 5120, (96, 8), 160, 8, 1536, intermediate_size=12288, n_first_dense=3, qk_norm="head",
         routing_multiplier=2.5),
    _gpt_oss("gpt-oss-20b", "gpt-oss-20b", 20_914_757_184, 4_187_440_704, 24, 2880, (64, 8), 32, 4, 2880),
    _gpt_oss("gpt-oss-120b", "gpt-oss-120b", 116_829_156_672, 5_711_982_912, 36, 2880, (64, 8), 128, 4, 2880),
    _deepseek2("deepseek-v2-lite", "DeepSeek-V2-Lite", 15_706_484_224, 2_661_150_208,
               27, 2048, 16, 64, 6, 1408, intermediate_size=10944, **_deepseek_yarn(40.0, 0.707)),
    _deepseek2("deepseek-v2", "DeepSeek-V2", 235_741_434_880, 21_375_800_320,
               60, 5120, 128, 160, 6, 1536, intermediate_size=12288, q_lora_rank=1536, n_expert_groups=8,
               n_groups_per_token=3, routing_multiplier=16.0, **_deepseek_yarn(40.0)),
    _deepseek3("deepseek-v3", "DeepSeek-V3", 671_026_404_352, 37_552_282_624,
               61, 7168, 128, 256, 8, 2048, intermediate_size=18432),
    _deepseek3("deepseek-r1", "DeepSeek-R1", 671_026_404_352, 37_552_282_624,
               61, 7168, 128, 256, 8, 2048, intermediate_size=18432),
    _deepseek32("deepseek-v3.2", "DeepSeek-V3.2", 671_877_929_216, 38_403_807_488,
                61, 7168, 128, 256, 8, 2048, intermediate_size=18432),
    _deepseek32("deepseek-v3.2-exp", "DeepSeek-V3.2-Exp", 671_877_929_216, 38_403_807_488,
                61, 7168, 128, 256, 8, 2048, intermediate_size=18432),
    _moonshot("moonlight-16b-a3b", "Moonlight-16B-A3B", 15_960_108_544, 2_914_774_528,
              27, 2048, 16, 64, 6, 1408, intermediate_size=11264, n_shared_experts=2,
              routing_multiplier=2.446, norm_eps=1e-5, latent_norm_eps=1e-6),
    _moonshot("kimi-k2", "Kimi-K2-Instruct", 1_026_408_209_408, 32_861_477_888,
              61, 7168, 64, 384, 8, 2048, intermediate_size=18432, q_lora_rank=1536, n_shared_experts=1,
              routing_multiplier=2.827, context_length=131072,
              **_deepseek_yarn(32.0, rope_beta_fast=1.0)),
    _glm_flash("glm-4.7-flash", "GLM-4.7-Flash", 29_943_390_976, 3_896_763_136,
               47, 2048, 20, 64, 4, 1536, intermediate_size=10240, routing_multiplier=1.8),
    _glm5("glm-5", "GLM-5", 743_911_199_232, 41_784_709_632,
          78, 6144, 64, 256, 8, 2048, intermediate_size=12288),
    _dots("dots.llm1", "dots.llm1.base", 142_774_373_888, 14_016_581_120,
          62, 4096, 32, 128, 6, 1408, intermediate_size=10944),
    _minimax("minimax-m2", "MiniMax-M2", 228_689_748_992, 11_030_537_216, 62, 3072, (48, 8), 256, 8, 1536),
    _solar("solar-open-100b", "Solar-Open-100B", 102_651_793_408, 12_054_827_008,
           48, 4096, (64, 8), 128, 8, 1280),
    _ernie("ernie-4.5-21b-a3b", "ERNIE-4.5-21B-A3B-PT", 21_825_437_888, 3_352_150_208,
           28, 2560, (20, 4), 64, 6, 1536, intermediate_size=12288),
    _flex_olmo("flex-olmo-7x7b", "FlexOlmo-7x7B-1T", 33_270_665_216, 24_613_621_760,
               32, 4096, 32, 7, 5, 11008),
    _hunyuan("hy3-preview", "Hy3-preview", 295_033_528_320, 20_675_715_072,
             80, 4096, (64, 8), 192, 8, 1536, intermediate_size=13312),
)
# fmt: on
