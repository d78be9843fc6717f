"""The published dense decoders of `arch.presets`: choices shared by a family, then one row per model.

A row says what differs from the defaults of `arch.defaults.complete`; what a family shares stands once above.
Every count is that of the instantiated Hugging Face class (transformers 5, unique parameters), never ours.

Left unsaid, because `ModelConfig` has no word for it and it has no parameters: sliding windows (GPT-Neo,
Mistral 7B v0.1, Ministral, Gemma 2 and 3, Phi-3-mini, StarCoder2), rescaled rotary frequencies (Llama 3.1 and
later, Phi-4-mini), the second rotary base of Gemma 3, layers without positions (SmolLM3), soft-capped scores
(Gemma 2), the logit scale of Granite and Cohere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import complete


@dataclass(frozen=True)
class Preset:
    """One published model."""

    name: str
    given: Mapping[str, Any]
    """What the model states; the rest are defaults."""
    published_count: int
    """Unique parameters of the published model, a tied head once."""
    source: str
    """Where the configuration was published, and what was counted."""

    @cached_property
    def model(self) -> ModelConfig:
        """The complete model, validated when first asked for: the table itself stays free to import."""
        return complete(self.given).model


def _family(owner: str, counted: str, paper: str, **shared: Any) -> Callable[..., Preset]:
    """A function that makes the rows of one family, in the order of the table's columns."""

    def row(
        name: str, repo: str, published_count: int,
        n_layers: int, dim: int, n_heads: int, n_kv_heads: int, intermediate_size: int, **own: Any,
    ) -> Preset:  # fmt: skip
        sizes = {
            "n_layers": n_layers, "dim": dim, "n_heads": n_heads, "n_kv_heads": n_kv_heads,
            "intermediate_size": intermediate_size,
        }  # fmt: skip
        source = f"huggingface.co/{owner}/{repo} config.json ({paper}); counted: {counted}"
        return Preset(name, MappingProxyType(shared | sizes | own), published_count, source)

    return row


# Two matrices, LayerNorm, a bias everywhere: the GPT-2 kind.
_BIASED: Final[dict[str, Any]] = dict(
    norm="layernorm", gated=False, qkv_bias=True, attention_out_bias=True, ffn_bias=True
)
# GPT-J and its children: one norm for both branches, bias in the FFN and the head.
_GPTJ: Final[dict[str, Any]] = dict(
    norm="layernorm", block="parallel_shared_norm", gated=False, activation="gelu_tanh", ffn_bias=True,
    head_bias=True, tied=False, context_length=2048,
)  # fmt: skip

# fmt: off
_gpt2 = _family("openai-community", "GPT2LMHeadModel", "Radford et al. 2019",
    **_BIASED, position="learned", activation="gelu_tanh")
_cerebras = _family("cerebras", "GPT2LMHeadModel", "arXiv 2304.03208",
    **_BIASED, position="learned", context_length=2048)
_neo = _family("EleutherAI", "GPTNeoForCausalLM", "Black et al. 2021",
    **_BIASED | dict(qkv_bias=False), position="learned", activation="gelu_tanh", attention_multiplier=1.0,
    context_length=2048)
_gptj = _family("EleutherAI", "GPTJForCausalLM", "Wang and Komatsuzaki 2021", **_GPTJ, vocab_size=50400)
_codegen = _family("Salesforce", "CodeGenForCausalLM", "arXiv 2203.13474", **_GPTJ, vocab_size=51200)
_pythia = _family("EleutherAI", "GPTNeoXForCausalLM", "arXiv 2304.01373; GPT-NeoX: 2204.06745",
    **_BIASED, block="parallel", tied=False, rotary_fraction=0.25, vocab_size=50304, context_length=2048)
_starcoder = _family("bigcode", "GPTBigCodeForCausalLM", "arXiv 2305.06161",
    **_BIASED, position="learned", activation="gelu_tanh", vocab_size=49152, context_length=8192)
_starcoder2 = _family("bigcode", "Starcoder2ForCausalLM", "arXiv 2402.19173",
    **_BIASED, activation="gelu_tanh", vocab_size=49152, context_length=16384)
_falcon = _family("tiiuae", "FalconForCausalLM", "arXiv 2311.16867",
    norm="layernorm", block="parallel", gated=False, vocab_size=65024, context_length=2048)
_phi = _family("microsoft", "PhiForCausalLM", "arXiv 2309.05463",
    **_BIASED, block="parallel_shared_norm", activation="gelu_tanh", head_bias=True, tied=False,
    vocab_size=51200, context_length=2048)
_phi3 = _family("microsoft", "Phi3ForCausalLM", "arXiv 2404.14219, 2412.08905, 2503.01743",
    tied=False, vocab_size=32064, context_length=4096)
_llama = _family("huggyllama", "LlamaForCausalLM", "arXiv 2302.13971",
    tied=False, vocab_size=32000, context_length=2048, norm_eps=1e-6)
_llama2 = _family("meta-llama", "LlamaForCausalLM", "arXiv 2307.09288",
    tied=False, vocab_size=32000, context_length=4096)
_llama3 = _family("meta-llama", "LlamaForCausalLM", "arXiv 2407.21783",
    tied=False, vocab_size=128256, context_length=131072, rope_theta=500_000.0)
_tinyllama = _family("TinyLlama", "LlamaForCausalLM", "arXiv 2401.02385",
    tied=False, vocab_size=32000, context_length=2048)
_smollm2 = _family("HuggingFaceTB", "LlamaForCausalLM", "arXiv 2502.02737",
    vocab_size=49152, context_length=8192, rope_theta=100_000.0)
_smollm3 = _family("HuggingFaceTB", "SmolLM3ForCausalLM", "model card",
    vocab_size=128256, context_length=65536, rope_theta=5_000_000.0, norm_eps=1e-6)
_mobilellm = _family("facebook", "LlamaForCausalLM", "arXiv 2402.14905",
    vocab_size=32000, context_length=2048)
_mistral = _family("mistralai", "MistralForCausalLM", "arXiv 2310.06825 and model cards",
    tied=False, vocab_size=32768, context_length=32768, rope_theta=1_000_000.0)
_qwen25 = _family("Qwen", "Qwen2ForCausalLM", "arXiv 2412.15115",
    qkv_bias=True, vocab_size=151936, context_length=32768, rope_theta=1_000_000.0, norm_eps=1e-6)
_QWEN25_LARGE: Final[dict[str, Any]] = dict(tied=False, vocab_size=152064, context_length=131072)
_qwen3 = _family("Qwen", "Qwen3ForCausalLM", "arXiv 2505.09388",
    qk_norm="head", head_dim=128, vocab_size=151936, context_length=40960, rope_theta=1_000_000.0,
    norm_eps=1e-6)
_gemma = _family("google", "GemmaForCausalLM", "arXiv 2403.08295",
    head_dim=256, activation="gelu_tanh", vocab_size=256000, context_length=8192, norm_eps=1e-6)
_gemma2 = _family("google", "Gemma2ForCausalLM", "arXiv 2408.00118",
    norm_placement="sandwich", logit_softcap=30.0, activation="gelu_tanh", vocab_size=256000,
    context_length=8192, norm_eps=1e-6)
_gemma3 = _family("google", "Gemma3ForCausalLM", "arXiv 2503.19786",
    norm_placement="sandwich", qk_norm="head", head_dim=256, activation="gelu_tanh", vocab_size=262144,
    context_length=32768, rope_theta=1_000_000.0, norm_eps=1e-6)
_olmo = _family("allenai", "OlmoForCausalLM", "arXiv 2402.00838",
    norm="layernorm", norm_weight=False, vocab_size=50304, context_length=2048)
_olmo2 = _family("allenai", "Olmo2ForCausalLM", "arXiv 2501.00656",
    norm_placement="reordered", qk_norm="full", tied=False, vocab_size=100352, context_length=4096,
    rope_theta=500_000.0, norm_eps=1e-6)
_deepseek = _family("deepseek-ai", "LlamaForCausalLM", "arXiv 2401.02954",
    tied=False, vocab_size=102400, context_length=4096, norm_eps=1e-6)
_baichuan = _family("baichuan-inc", "LlamaForCausalLM", "model card",
    tied=False, vocab_size=64000, context_length=4096, norm_eps=1e-6)
_yi = _family("01-ai", "LlamaForCausalLM", "arXiv 2403.04652",
    tied=False, vocab_size=64000, context_length=4096, rope_theta=5_000_000.0)
_stablelm = _family("stabilityai", "StableLmForCausalLM", "arXiv 2402.17834",
    norm="layernorm", tied=False, rotary_fraction=0.25, vocab_size=50304, context_length=4096)
_granite = _family("ibm-granite", "GraniteForCausalLM", "model card",
    vocab_size=49155, context_length=131072, embedding_multiplier=12.0, residual_multiplier=0.22)
_cohere = _family("CohereLabs", "CohereForCausalLM", "model card",
    norm="layernorm", norm_bias=False, block="parallel_shared_norm", vocab_size=256000, context_length=8192)
_glm = _family("zai-org", "GlmForCausalLM", "arXiv 2406.12793",
    qkv_bias=True, tied=False, rotary_fraction=0.5, vocab_size=151552)
_glm0414 = _family("zai-org", "Glm4ForCausalLM", "arXiv 2406.12793",
    norm_placement="sandwich", qkv_bias=True, tied=False, rotary_fraction=0.5, vocab_size=151552)

TABLE: Final = (
    #         name  repository  unique parameters  layers  dim  heads  kv heads  FFN width  what else differs
    _gpt2("gpt2", "gpt2", 124_439_808, 12, 768, 12, 12, 3072),
    _gpt2("gpt2-medium", "gpt2-medium", 354_823_168, 24, 1024, 16, 16, 4096),
    _gpt2("gpt2-large", "gpt2-large", 774_030_080, 36, 1280, 20, 20, 5120),
    _gpt2("gpt2-xl", "gpt2-xl", 1_557_611_200, 48, 1600, 25, 25, 6400),
    _cerebras("cerebras-gpt-111m", "Cerebras-GPT-111M", 111_050_496, 10, 768, 12, 12, 3072),
    _cerebras("cerebras-gpt-256m", "Cerebras-GPT-256M", 255_977_024, 14, 1088, 17, 17, 4352),
    _cerebras("cerebras-gpt-590m", "Cerebras-GPT-590M", 590_310_912, 18, 1536, 12, 12, 6144),
    _cerebras("cerebras-gpt-1.3b", "Cerebras-GPT-1.3B", 1_315_723_264, 24, 2048, 16, 16, 8192),
    _cerebras("cerebras-gpt-2.7b", "Cerebras-GPT-2.7B", 2_651_553_280, 32, 2560, 32, 32, 10240),
    _cerebras("cerebras-gpt-6.7b", "Cerebras-GPT-6.7B", 6_658_404_352, 32, 4096, 32, 32, 16384),
    _cerebras("cerebras-gpt-13b", "Cerebras-GPT-13B", 12_853_386_240, 40, 5120, 40, 40, 20480),
    _neo("gpt-neo-125m", "gpt-neo-125m", 125_198_592, 12, 768, 12, 12, 3072),
    _neo("gpt-neo-1.3b", "gpt-neo-1.3B", 1_315_575_808, 24, 2048, 16, 16, 8192),
    _neo("gpt-neo-2.7b", "gpt-neo-2.7B", 2_651_307_520, 32, 2560, 20, 20, 10240),
    _gptj("gpt-j-6b", "gpt-j-6b", 6_050_882_784, 28, 4096, 16, 16, 16384, rotary_fraction=0.25),
    _codegen("codegen-350m", "codegen-350M-mono", 356_712_448, 20, 1024, 16, 16, 4096, rotary_fraction=0.5),
    _pythia("pythia-14m", "pythia-14m", 14_067_712, 6, 128, 4, 4, 512),
    _pythia("pythia-31m", "pythia-31m", 30_494_720, 6, 256, 8, 8, 1024),
    _pythia("pythia-70m", "pythia-70m", 70_426_624, 6, 512, 8, 8, 2048),
    _pythia("pythia-160m", "pythia-160m", 162_322_944, 12, 768, 12, 12, 3072),
    _pythia("pythia-410m", "pythia-410m", 405_334_016, 24, 1024, 16, 16, 4096),
    _pythia("pythia-1b", "pythia-1b", 1_011_781_632, 16, 2048, 8, 8, 8192),
    _pythia("pythia-1.4b", "pythia-1.4b", 1_414_647_808, 24, 2048, 16, 16, 8192),
    _pythia("pythia-2.8b", "pythia-2.8b", 2_775_208_960, 32, 2560, 32, 32, 10240),
    _pythia("pythia-6.9b", "pythia-6.9b", 6_857_302_016, 32, 4096, 32, 32, 16384, vocab_size=50432),
    _pythia("pythia-12b", "pythia-12b", 11_846_072_320, 36, 5120, 40, 40, 20480, vocab_size=50688),
    _pythia("gpt-neox-20b", "gpt-neox-20b", 20_554_567_680, 44, 6144, 64, 64, 24576, vocab_size=50432,
            activation="gelu_tanh"),
    _starcoder("starcoderbase-1b", "starcoderbase-1b", 1_137_207_296, 24, 2048, 16, 1, 8192),
    _starcoder("starcoderbase-15.5b", "starcoderbase", 15_517_456_384, 40, 6144, 48, 1, 24576),
    _starcoder2("starcoder2-3b", "starcoder2-3b", 3_030_371_328, 30, 3072, 24, 2, 12288,
                rope_theta=999999.4420358813),
    _falcon("falcon-7b", "falcon-7b", 6_921_720_704, 32, 4544, 71, 1, 18176, block="parallel_shared_norm"),
    _falcon("falcon-40b", "falcon-40b", 41_303_293_952, 60, 8192, 128, 8, 32768),
    _falcon("falcon-180b", "falcon-180B", 178_557_088_768, 80, 14848, 232, 8, 59392),
    _phi("phi-1.5", "phi-1_5", 1_418_270_720, 24, 2048, 32, 32, 8192, rotary_fraction=0.5),
    _phi("phi-2", "phi-2", 2_779_683_840, 32, 2560, 32, 32, 10240, rotary_fraction=0.4),
    _phi3("phi-3-mini", "Phi-3-mini-4k-instruct", 3_821_079_552, 32, 3072, 32, 32, 8192),
    _phi3("phi-3-medium", "Phi-3-medium-4k-instruct", 13_960_238_080, 40, 5120, 40, 10, 17920),
    _phi3("phi-4", "phi-4", 14_659_507_200, 40, 5120, 40, 10, 17920, vocab_size=100352, context_length=16384,
          rope_theta=250_000.0),
    _phi3("phi-4-mini", "Phi-4-mini-instruct", 3_836_021_760, 32, 3072, 24, 8, 8192, tied=True,
          vocab_size=200064, context_length=131072, rotary_fraction=0.75),
    _llama("llama-7b", "llama-7b", 6_738_415_616, 32, 4096, 32, 32, 11008),
    _llama("llama-13b", "llama-13b", 13_015_864_320, 40, 5120, 40, 40, 13824),
    _llama("llama-33b", "llama-30b", 32_528_943_616, 60, 6656, 52, 52, 17920),
    _llama("llama-65b", "llama-65b", 65_285_660_672, 80, 8192, 64, 64, 22016, norm_eps=1e-5),
    _llama2("llama-2-7b", "Llama-2-7b-hf", 6_738_415_616, 32, 4096, 32, 32, 11008),
    _llama2("llama-2-13b", "Llama-2-13b-hf", 13_015_864_320, 40, 5120, 40, 40, 13824),
    _llama2("llama-2-70b", "Llama-2-70b-hf", 68_976_648_192, 80, 8192, 64, 8, 28672),
    _llama3("llama-3-8b", "Meta-Llama-3-8B", 8_030_261_248, 32, 4096, 32, 8, 14336, context_length=8192),
    _llama3("llama-3-70b", "Meta-Llama-3-70B", 70_553_706_496, 80, 8192, 64, 8, 28672, context_length=8192),
    _llama3("llama-3.1-8b", "Llama-3.1-8B", 8_030_261_248, 32, 4096, 32, 8, 14336),
    _llama3("llama-3.1-70b", "Llama-3.1-70B", 70_553_706_496, 80, 8192, 64, 8, 28672),
    _llama3("llama-3.1-405b", "Llama-3.1-405B", 405_853_388_800, 126, 16384, 128, 8, 53248),
    _llama3("llama-3.2-1b", "Llama-3.2-1B", 1_235_814_400, 16, 2048, 32, 8, 8192, tied=True),
    _llama3("llama-3.2-3b", "Llama-3.2-3B", 3_212_749_824, 28, 3072, 24, 8, 8192, tied=True),
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
             rope_theta=10_000.0),
    _mistral("mistral-7b-v0.3", "Mistral-7B-v0.3", 7_248_023_552, 32, 4096, 32, 8, 14336),
    _mistral("ministral-8b", "Ministral-8B-Instruct-2410", 8_019_808_256, 36, 4096, 32, 8, 12288,
             vocab_size=131072, rope_theta=100_000_000.0),
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
    _deepseek("deepseek-7b", "deepseek-llm-7b-base", 6_910_365_696, 30, 4096, 32, 32, 11008),
    _deepseek("deepseek-67b", "deepseek-llm-67b-base", 67_425_001_472, 95, 8192, 64, 8, 22016),
    _baichuan("baichuan-7b", "Baichuan-7B", 7_000_559_616, 32, 4096, 32, 32, 11008),
    _yi("yi-6b", "Yi-6B", 6_061_035_520, 32, 4096, 32, 4, 11008),
    _yi("yi-34b", "Yi-34B", 34_388_917_248, 60, 7168, 56, 8, 20480),
    _stablelm("stablelm-3b", "stablelm-3b-4e1t", 2_795_443_200, 32, 2560, 32, 32, 6912),
    _stablelm("stablelm-2-1.6b", "stablelm-2-1_6b", 1_644_515_328, 24, 2048, 32, 32, 5632, qkv_bias=True,
              vocab_size=100352),
    _granite("granite-3.1-2b", "granite-3.1-2b-base", 2_533_531_648, 40, 2048, 32, 8, 8192,
             rope_theta=5_000_000.0, attention_multiplier=1 / 64),
    _granite("granite-3.1-8b", "granite-3.1-8b-base", 8_170_848_256, 40, 4096, 32, 8, 12800,
             rope_theta=10_000_000.0, attention_multiplier=1 / 128),
    _cohere("command-r", "c4ai-command-r-v01", 34_980_831_232, 40, 8192, 64, 64, 22528,
            rope_theta=8_000_000.0),
    _cohere("command-r-plus", "c4ai-command-r-plus", 103_810_674_688, 64, 12288, 96, 8, 33792,
            qk_norm="per_head", rope_theta=75_000_000.0),
    _cohere("aya-expanse-8b", "aya-expanse-8b", 8_028_033_024, 32, 4096, 32, 8, 14336),
    _glm("glm-4-9b", "glm-4-9b-chat-hf", 9_399_951_360, 40, 4096, 32, 2, 13696, norm_eps=1.5625e-7,
         context_length=131072),
    _glm0414("glm-4-9b-0414", "GLM-4-9B-0414", 9_400_279_040, 40, 4096, 32, 2, 13696, context_length=32768),
)
# fmt: on
