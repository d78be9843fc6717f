"""Published dense decoders in the line of Llama: first what a family shares, then one row per model.

A row gives what differs from the defaults of `arch.defaults.with_defaults`. Every count is that of the
instantiated Hugging Face class (transformers 5, unique parameters), never ours.
"""

from typing import Any, Final

from parambudget.arch.presets.row import dense_family
from parambudget.arch.rope_scaling import longrope_attention_factor

_LLAMA31: Final[dict[str, Any]] = dict(rope_type="llama3", rope_factor=8.0, rope_original_context=8192)
_LLAMA32: Final[dict[str, Any]] = _LLAMA31 | dict(rope_factor=32.0)
_PHI4_MINI: Final[dict[str, Any]] = dict(
    rope_type="longrope", rope_original_context=4096, rope_recompute_cache=True,
    rope_attention_factor=longrope_attention_factor(131072 / 4096, 4096),
    rope_short_factors=(1.0,) * 48,
    rope_long_factors=(
        1.0, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649,
        2.446418898, 2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845,
        5.351743533, 5.984965424, 6.693110555, 7.485043894, 8.370679318, 9.36110372, 10.4687158, 11.70738129,
        13.09260651, 14.64173252, 16.37415215, 18.31155283, 20.47818807, 22.90118105, 25.61086418,
        28.64115884, 32.03, 32.1, 32.13, 32.23, 32.6, 32.61, 32.64, 32.66, 32.7, 32.71, 32.93, 32.97, 33.28,
        33.49, 33.5, 44.16, 47.77,
    ),
)  # fmt: skip

# fmt: off
_phi3 = dense_family("microsoft", "Phi3ForCausalLM", "arXiv 2404.14219, 2412.08905, 2503.01743",
    tied=False, vocab_size=32064, context_length=4096, window=2047)
_llama = dense_family("huggyllama", "LlamaForCausalLM", "arXiv 2302.13971",
    tied=False, vocab_size=32000, context_length=2048, norm_eps=1e-6)
_llama2 = dense_family("meta-llama", "LlamaForCausalLM", "arXiv 2307.09288",
    tied=False, vocab_size=32000, context_length=4096)
_llama3 = dense_family("meta-llama", "LlamaForCausalLM", "arXiv 2407.21783",
    tied=False, vocab_size=128256, context_length=131072, rope_theta=500_000.0)
_tinyllama = dense_family("TinyLlama", "LlamaForCausalLM", "arXiv 2401.02385",
    tied=False, vocab_size=32000, context_length=2048)
_smollm2 = dense_family("HuggingFaceTB", "LlamaForCausalLM", "arXiv 2502.02737",
    vocab_size=49152, context_length=8192, rope_theta=100_000.0)
_smollm3 = dense_family("HuggingFaceTB", "SmolLM3ForCausalLM", "model card",
    vocab_size=128256, context_length=65536, rope_theta=5_000_000.0, norm_eps=1e-6,
    rotary_pattern=("rotary", "rotary", "rotary", "none"))
_mobilellm = dense_family("facebook", "LlamaForCausalLM", "arXiv 2402.14905",
    vocab_size=32000, context_length=2048)
_mistral = dense_family("mistralai", "MistralForCausalLM", "arXiv 2310.06825 and model cards",
    tied=False, vocab_size=32768, context_length=32768, rope_theta=1_000_000.0)
_qwen25 = dense_family("Qwen", "Qwen2ForCausalLM", "arXiv 2412.15115",
    qkv_bias=True, vocab_size=151936, context_length=32768, rope_theta=1_000_000.0, norm_eps=1e-6)
_QWEN25_LARGE: Final[dict[str, Any]] = dict(tied=False, vocab_size=152064, context_length=131072)
_qwen3 = dense_family("Qwen", "Qwen3ForCausalLM", "arXiv 2505.09388",
    qk_norm="head", head_dim=128, vocab_size=151936, context_length=40960, rope_theta=1_000_000.0,
    norm_eps=1e-6)
_gemma = dense_family("google", "GemmaForCausalLM", "arXiv 2403.08295",
    head_dim=256, activation="gelu_tanh", vocab_size=256000, context_length=8192, norm_eps=1e-6)
_gemma2 = dense_family("google", "Gemma2ForCausalLM", "arXiv 2408.00118",
    norm_placement="sandwich", logit_softcap=30.0, activation="gelu_tanh", vocab_size=256000,
    context_length=8192, norm_eps=1e-6, attention_softcap=50.0, window=4096,
    window_pattern=("local", "global"))
_gemma3 = dense_family("google", "Gemma3ForCausalLM", "arXiv 2503.19786",
    norm_placement="sandwich", qk_norm="head", head_dim=256, activation="gelu_tanh", vocab_size=262144,
    context_length=32768, rope_theta=1_000_000.0, norm_eps=1e-6, rope_theta_local=10_000.0, window=512,
    window_pattern=("local",) * 5 + ("global",))
_olmo = dense_family("allenai", "OlmoForCausalLM", "arXiv 2402.00838",
    norm="layernorm", norm_weight=False, vocab_size=50304, context_length=2048)
_olmo2 = dense_family("allenai", "Olmo2ForCausalLM", "arXiv 2501.00656",
    norm_placement="reordered", qk_norm="full", tied=False, vocab_size=100352, context_length=4096,
    rope_theta=500_000.0, norm_eps=1e-6)
_olmo3 = dense_family("allenai", "Olmo3ForCausalLM", "model card",
    norm_placement="reordered", qk_norm="full", tied=False, vocab_size=100278, context_length=65536,
    rope_theta=500_000.0, rope_theta_local=500_000.0, norm_eps=1e-6, window=4096,
    window_pattern=("local",) * 3 + ("global",), rope_type="yarn", rope_factor=8.0,
    rope_original_context=8192)
_ernie = dense_family("baidu", "Ernie4_5ForCausalLM", "model card",
    head_dim=128, vocab_size=103424, context_length=131072, rope_theta=500_000.0, rotary_interleaved=True)
_nanochat = dense_family("karpathy", "NanoChatForCausalLM", "model card",
    norm_weight=False, embedding_norm=True, qk_norm="head", gated=False, activation="relu2", tied=False,
    vocab_size=65536, context_length=2048, logit_softcap=15.0, norm_eps=1e-6)
_deepseek = dense_family("deepseek-ai", "LlamaForCausalLM", "arXiv 2401.02954",
    tied=False, vocab_size=102400, context_length=4096, norm_eps=1e-6)
_baichuan = dense_family("baichuan-inc", "LlamaForCausalLM", "model card",
    tied=False, vocab_size=64000, context_length=4096, norm_eps=1e-6)
_yi = dense_family("01-ai", "LlamaForCausalLM", "arXiv 2403.04652",
    tied=False, vocab_size=64000, context_length=4096, rope_theta=5_000_000.0)
_stablelm = dense_family("stabilityai", "StableLmForCausalLM", "arXiv 2402.17834",
    norm="layernorm", tied=False, rotary_fraction=0.25, vocab_size=50304, context_length=4096)
_granite = dense_family("ibm-granite", "GraniteForCausalLM", "model card",
    vocab_size=49155, context_length=131072, embedding_multiplier=12.0, residual_multiplier=0.22)
_cohere = dense_family("CohereLabs", "CohereForCausalLM", "model card",
    norm="layernorm", norm_bias=False, block="parallel_shared_norm", vocab_size=256000, context_length=8192,
    rotary_interleaved=True)
_cohere2 = dense_family("CohereLabs", "Cohere2ForCausalLM", "model card",
    norm="layernorm", norm_bias=False, block="parallel_shared_norm", vocab_size=256000, context_length=8192,
    rotary_interleaved=True, window=4096, window_pattern=("local",) * 3 + ("global",),
    rotary_pattern=("rotary",) * 3 + ("none",))
_minitron = dense_family("nvidia", "NemotronForCausalLM", "arXiv 2407.14679",
    norm="layernorm", gated=False, activation="relu2", tied=False, head_dim=128, rotary_fraction=0.5,
    vocab_size=256000, context_length=4096)
_glm = dense_family("zai-org", "GlmForCausalLM", "arXiv 2406.12793",
    qkv_bias=True, tied=False, rotary_fraction=0.5, vocab_size=151552, rotary_interleaved=True)
_glm0414 = dense_family("zai-org", "Glm4ForCausalLM", "arXiv 2406.12793",
    norm_placement="sandwich", qkv_bias=True, tied=False, rotary_fraction=0.5, vocab_size=151552,
    rotary_interleaved=True)

ROWS: Final = (
    _phi3("phi-3-mini", "Phi-3-mini-4k-instruct", 3_821_079_552, 32, 3072, 32, 32, 8192),
    _phi3("phi-3-medium", "Phi-3-medium-4k-instruct", 13_960_238_080, 40, 5120, 40, 10, 17920),
    _phi3("phi-4", "phi-4", 14_659_507_200, 40, 5120, 40, 10, 17920, vocab_size=100352, context_length=16384,
          rope_theta=250_000.0, window=None),
    _phi3("phi-4-mini", "Phi-4-mini-instruct", 3_836_021_760, 32, 3072, 24, 8, 8192, tied=True,
          vocab_size=200064, context_length=131072, rotary_fraction=0.75, window=262144, **_PHI4_MINI),
    _llama("llama-7b", "llama-7b", 6_738_415_616, 32, 4096, 32, 32, 11008),
    _llama("llama-13b", "llama-13b", 13_015_864_320, 40, 5120, 40, 40, 13824),
    _llama("llama-33b", "llama-30b", 32_528_943_616, 60, 6656, 52, 52, 17920),
    _llama("llama-65b", "llama-65b", 65_285_660_672, 80, 8192, 64, 64, 22016, norm_eps=1e-5),
    _llama2("llama-2-7b", "Llama-2-7b-hf", 6_738_415_616, 32, 4096, 32, 32, 11008),
    _llama2("llama-2-13b", "Llama-2-13b-hf", 13_015_864_320, 40, 5120, 40, 40, 13824),
    _llama2("llama-2-70b", "Llama-2-70b-hf", 68_976_648_192, 80, 8192, 64, 8, 28672),
    _llama3("llama-3-8b", "Meta-Llama-3-8B", 8_030_261_248, 32, 4096, 32, 8, 14336, context_length=8192),
    _llama3("llama-3-70b", "Meta-Llama-3-70B", 70_553_706_496, 80, 8192, 64, 8, 28672, context_length=8192),
    _llama3("llama-3.1-8b", "Llama-3.1-8B", 8_030_261_248, 32, 4096, 32, 8, 14336, **_LLAMA31),
    _llama3("llama-3.1-70b", "Llama-3.1-70B", 70_553_706_496, 80, 8192, 64, 8, 28672, **_LLAMA31),
    _llama3("llama-3.1-405b", "Llama-3.1-405B", 405_853_388_800, 126, 16384, 128, 8, 53248, **_LLAMA31),
    _llama3("llama-3.2-1b", "Llama-3.2-1B", 1_235_814_400, 16, 2048, 32, 8, 8192, tied=True, **_LLAMA32),
    _llama3("llama-3.2-3b", "Llama-3.2-3B", 3_212_749_824, 28, 3072, 24, 8, 8192, tied=True, **_LLAMA32),
    _tinyllama("tinyllama-1.1b", "TinyLlama-1.1B-intermediate-step-1431k-3T", 1_100_048_384,
               22, 2048, 32, 4, 5632),
    _smollm2("smollm2-135m", "SmolLM2-135M", 134_515_008, 30, 576, 9, 3, 1536),
    _smollm2("smollm2-360m", "SmolLM2-360M", 361_821_120, 32, 960, 15, 5, 2560),
    _smollm2("smollm2-1.7b", "SmolLM2-1.7B", 1_711_376_384, 24, 2048, 32, 32, 8192, rope_theta=130_000.0),
    _smollm3("smollm3-3b", "SmolLM3-3B", 3_075_098_624, 36, 2048, 16, 4, 11008),
    _mobilellm("mobilellm-125m", "MobileLLM-125M", 124_635_456, 30, 576, 9, 3, 1536),
    _mobilellm("mobilellm-350m", "MobileLLM-350M", 345_355_200, 32, 960, 15, 5, 2560),
    _mobilellm("mobilellm-600m", "MobileLLM-600M", 603_188_352, 40, 1152, 18, 6, 3072),
    _mobilellm("mobilellm-1b", "MobileLLM-1B", 1_005_461_760, 54, 1280, 20, 5, 3584),
    _mobilellm("mobilellm-1.5b", "MobileLLM-1.5B", 1_511_188_800, 54, 1600, 25, 5, 4352),
    _mistral("mistral-7b-v0.1", "Mistral-7B-v0.1", 7_241_732_096, 32, 4096, 32, 8, 14336, vocab_size=32000,
             rope_theta=10_000.0, window=4096),
    _mistral("mistral-7b-v0.3", "Mistral-7B-v0.3", 7_248_023_552, 32, 4096, 32, 8, 14336),
    _mistral("ministral-8b", "Ministral-8B-Instruct-2410", 8_019_808_256, 36, 4096, 32, 8, 12288,
             vocab_size=131072, rope_theta=100_000_000.0, window=32768),
    _mistral("mistral-nemo-12b", "Mistral-Nemo-Base-2407", 12_247_782_400, 40, 5120, 32, 8, 14336,
             head_dim=128, vocab_size=131072, context_length=131072),
    _mistral("mistral-small-24b", "Mistral-Small-24B-Base-2501", 23_572_403_200, 40, 5120, 32, 8, 32768,
             head_dim=128, vocab_size=131072, rope_theta=100_000_000.0),
    _mistral("codestral-22b", "Codestral-22B-v0.1", 22_247_282_688, 56, 6144, 48, 8, 16384),
    _mistral("mistral-large-123b", "Mistral-Large-Instruct-2407", 122_610_069_504, 88, 12288, 96, 8, 28672,
             context_length=131072),
    _qwen25("qwen2.5-0.5b", "Qwen2.5-0.5B", 494_032_768, 24, 896, 14, 2, 4864),
    _qwen25("qwen2.5-1.5b", "Qwen2.5-1.5B", 1_543_714_304, 28, 1536, 12, 2, 8960),
    _qwen25("qwen2.5-3b", "Qwen2.5-3B", 3_085_938_688, 36, 2048, 16, 2, 11008),
    _qwen25("qwen2.5-7b", "Qwen2.5-7B", 7_615_616_512, 28, 3584, 28, 4, 18944, **_QWEN25_LARGE),
    _qwen25("qwen2.5-14b", "Qwen2.5-14B", 14_770_033_664, 48, 5120, 40, 8, 13824, **_QWEN25_LARGE),
    _qwen25("qwen2.5-32b", "Qwen2.5-32B", 32_763_876_352, 64, 5120, 40, 8, 27648, **_QWEN25_LARGE),
    _qwen25("qwen2.5-72b", "Qwen2.5-72B", 72_706_203_648, 80, 8192, 64, 8, 29568, **_QWEN25_LARGE),
    _qwen3("qwen3-0.6b", "Qwen3-0.6B", 596_049_920, 28, 1024, 16, 8, 3072),
    _qwen3("qwen3-1.7b", "Qwen3-1.7B", 1_720_574_976, 28, 2048, 16, 8, 6144),
    _qwen3("qwen3-4b", "Qwen3-4B", 4_022_468_096, 36, 2560, 32, 8, 9728),
    _qwen3("qwen3-8b", "Qwen3-8B", 8_190_735_360, 36, 4096, 32, 8, 12288, tied=False),
    _qwen3("qwen3-14b", "Qwen3-14B", 14_768_307_200, 40, 5120, 40, 8, 17408, tied=False),
    _qwen3("qwen3-32b", "Qwen3-32B", 32_762_123_264, 64, 5120, 64, 8, 25600, tied=False),
    _gemma("gemma-2b", "gemma-2b", 2_506_172_416, 18, 2048, 8, 1, 16384, embedding_multiplier=2048**0.5),
    _gemma("gemma-7b", "gemma-7b", 8_537_680_896, 28, 3072, 16, 16, 24576, embedding_multiplier=3072**0.5),
    _gemma2("gemma-2-2b", "gemma-2-2b", 2_614_341_888, 26, 2304, 8, 4, 9216, head_dim=256,
            embedding_multiplier=2304**0.5),
    _gemma2("gemma-2-9b", "gemma-2-9b", 9_241_705_984, 42, 3584, 16, 8, 14336, head_dim=256,
            embedding_multiplier=3584**0.5),
    _gemma2("gemma-2-27b", "gemma-2-27b", 27_227_128_320, 46, 4608, 32, 16, 36864, head_dim=128,
            embedding_multiplier=4608**0.5, attention_multiplier=1 / 12),
    _gemma3("gemma-3-270m", "gemma-3-270m", 268_098_176, 18, 640, 4, 1, 2048, embedding_multiplier=640**0.5),
    _gemma3("gemma-3-1b", "gemma-3-1b-pt", 999_885_952, 26, 1152, 4, 1, 6912, embedding_multiplier=1152**0.5),
    _olmo("olmo-1b", "OLMo-1B-hf", 1_176_764_416, 16, 2048, 16, 16, 8192),
    _olmo("olmo-7b", "OLMo-7B-hf", 6_888_095_744, 32, 4096, 32, 32, 11008, tied=False),
    _olmo2("olmo-2-1b", "OLMo-2-0425-1B", 1_484_916_736, 16, 2048, 16, 16, 8192),
    _olmo2("olmo-2-7b", "OLMo-2-1124-7B", 7_298_617_344, 32, 4096, 32, 32, 11008),
    _olmo2("olmo-2-13b", "OLMo-2-1124-13B", 13_716_198_400, 40, 5120, 40, 40, 13824),
    _olmo2("olmo-2-32b", "OLMo-2-0325-32B", 32_234_279_936, 64, 5120, 40, 8, 27648),
    _olmo3("olmo-3-7b", "Olmo-3-1025-7B", 7_298_011_136, 32, 4096, 32, 32, 11008),
    _olmo3("olmo-3-32b", "Olmo-3-1125-32B", 32_233_522_176, 64, 5120, 40, 8, 27648),
    _ernie("ernie-4.5-0.3b", "ERNIE-4.5-0.3B-PT", 360_748_032, 18, 1024, 16, 2, 3072),
    _nanochat("nanochat-d20", "nanochat", 560_988_160, 20, 1280, 10, 10, 5120),
    _deepseek("deepseek-7b", "deepseek-llm-7b-base", 6_910_365_696, 30, 4096, 32, 32, 11008),
    _deepseek("deepseek-67b", "deepseek-llm-67b-base", 67_425_001_472, 95, 8192, 64, 8, 22016),
    _baichuan("baichuan-7b", "Baichuan-7B", 7_000_559_616, 32, 4096, 32, 32, 11008),
    _yi("yi-6b", "Yi-6B", 6_061_035_520, 32, 4096, 32, 4, 11008),
    _yi("yi-34b", "Yi-34B", 34_388_917_248, 60, 7168, 56, 8, 20480),
    _stablelm("stablelm-3b", "stablelm-3b-4e1t", 2_795_443_200, 32, 2560, 32, 32, 6912),
    _stablelm("stablelm-2-1.6b", "stablelm-2-1_6b", 1_644_515_328, 24, 2048, 32, 32, 5632, qkv_bias=True,
              vocab_size=100352),
    _granite("granite-3.1-2b", "granite-3.1-2b-base", 2_533_531_648, 40, 2048, 32, 8, 8192,
             rope_theta=5_000_000.0, attention_multiplier=1 / 64, logit_multiplier=1 / 8),
    _granite("granite-3.1-8b", "granite-3.1-8b-base", 8_170_848_256, 40, 4096, 32, 8, 12800,
             rope_theta=10_000_000.0, attention_multiplier=1 / 128, logit_multiplier=1 / 16),
    _cohere("command-r", "c4ai-command-r-v01", 34_980_831_232, 40, 8192, 64, 64, 22528,
            rope_theta=8_000_000.0, logit_multiplier=0.0625),
    _cohere("command-r-plus", "c4ai-command-r-plus", 103_810_674_688, 64, 12288, 96, 8, 33792,
            qk_norm="per_head", rope_theta=75_000_000.0, logit_multiplier=0.8333333333333334),
    _cohere("aya-expanse-8b", "aya-expanse-8b", 8_028_033_024, 32, 4096, 32, 8, 14336,
            logit_multiplier=0.125),
    _cohere2("command-r7b", "c4ai-command-r7b-12-2024", 8_028_033_024, 32, 4096, 32, 8, 14336,
             rope_theta=50_000.0, logit_multiplier=0.25),
    _minitron("minitron-4b", "Minitron-4B-Base", 4_190_509_056, 32, 3072, 24, 8, 9216),
    _minitron("minitron-8b", "Minitron-8B-Base", 8_271_699_968, 32, 4096, 48, 8, 16384),
    _glm("glm-4-9b", "glm-4-9b-chat-hf", 9_399_951_360, 40, 4096, 32, 2, 13696, norm_eps=1.5625e-7,
         context_length=131072),
    _glm0414("glm-4-9b-0414", "GLM-4-9B-0414", 9_400_279_040, 40, 4096, 32, 2, 13696, context_length=32768),
)
# fmt: on
