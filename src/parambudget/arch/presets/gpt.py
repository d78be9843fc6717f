"""Published dense decoders in the line of GPT: first what a family shares, then one row per model.

A row gives what differs from the defaults of `arch.defaults.with_defaults`. Every count is that of the
instantiated Hugging Face class (transformers 5, unique parameters), never ours.
"""

from typing import Any, Final

from parambudget.arch.presets.row import dense_family

# As in GPT-2: two matrices, LayerNorm, biases everywhere.
_BIASED: Final[dict[str, Any]] = dict(
    norm="layernorm", gated=False, qkv_bias=True, attention_out_bias=True, ffn_bias=True
)
# GPT-J and its descendants: one norm for both branches, biases in the FFN and the head.
_GPTJ: Final[dict[str, Any]] = dict(
    norm="layernorm", block="parallel_shared_norm", gated=False, activation="gelu_tanh", ffn_bias=True,
    head_bias=True, tied=False, context_length=2048, rotary_interleaved=True,
)  # fmt: skip

# fmt: off
_gpt2 = dense_family("openai-community", "GPT2LMHeadModel", "Radford et al. 2019",
    **_BIASED, position="learned", activation="gelu_tanh")
_cerebras = dense_family("cerebras", "GPT2LMHeadModel", "arXiv 2304.03208",
    **_BIASED, position="learned", context_length=2048)
_neo = dense_family("EleutherAI", "GPTNeoForCausalLM", "Black et al. 2021",
    **_BIASED | dict(qkv_bias=False), position="learned", activation="gelu_tanh", attention_multiplier=1.0,
    context_length=2048, window=256, window_pattern=("global", "local"))
_opt = dense_family("facebook", "OPTForCausalLM", "arXiv 2205.01068",
    **_BIASED, position="learned", position_offset=2, activation="relu", vocab_size=50272,
    context_length=2048)
_bloom = dense_family("bigscience", "BloomForCausalLM", "arXiv 2211.05100",
    **_BIASED, position="alibi", embedding_norm=True, activation="gelu_tanh", vocab_size=250880,
    context_length=2048)
_mpt = dense_family("mosaicml", "MptForCausalLM", "MosaicML 2023, model card",
    norm="layernorm", norm_bias=False, gated=False, position="alibi", vocab_size=50432, context_length=2048)
_gptj = dense_family("EleutherAI", "GPTJForCausalLM", "Wang and Komatsuzaki 2021", **_GPTJ, vocab_size=50400)
_codegen = dense_family("Salesforce", "CodeGenForCausalLM", "arXiv 2203.13474", **_GPTJ, vocab_size=51200)
_pythia = dense_family("EleutherAI", "GPTNeoXForCausalLM", "arXiv 2304.01373; GPT-NeoX: 2204.06745",
    **_BIASED, block="parallel", tied=False, rotary_fraction=0.25, vocab_size=50304, context_length=2048)
_starcoder = dense_family("bigcode", "GPTBigCodeForCausalLM", "arXiv 2305.06161",
    **_BIASED, position="learned", activation="gelu_tanh", vocab_size=49152, context_length=8192)
_starcoder2 = dense_family("bigcode", "Starcoder2ForCausalLM", "arXiv 2402.19173",
    **_BIASED, activation="gelu_tanh", vocab_size=49152, context_length=16384, window=4096,
    init_std=0.018042)
_falcon = dense_family("tiiuae", "FalconForCausalLM", "arXiv 2311.16867",
    norm="layernorm", block="parallel", gated=False, vocab_size=65024, context_length=2048)
_phi = dense_family("microsoft", "PhiForCausalLM", "arXiv 2309.05463",
    **_BIASED, block="parallel_shared_norm", activation="gelu_tanh", head_bias=True, tied=False,
    vocab_size=51200, context_length=2048)

ROWS: Final = (
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
    _opt("opt-125m", "opt-125m", 125_239_296, 12, 768, 12, 12, 3072),
    _opt("opt-350m", "opt-350m", 331_196_416, 24, 1024, 16, 16, 4096, embedding_dim=512,
         norm_placement="post"),
    _opt("opt-1.3b", "opt-1.3b", 1_315_758_080, 24, 2048, 32, 32, 8192),
    _opt("opt-2.7b", "opt-2.7b", 2_651_596_800, 32, 2560, 32, 32, 10240),
    _opt("opt-6.7b", "opt-6.7b", 6_658_473_984, 32, 4096, 32, 32, 16384),
    _opt("opt-13b", "opt-13b", 12_853_473_280, 40, 5120, 40, 40, 20480),
    _opt("opt-30b", "opt-30b", 29_974_540_288, 48, 7168, 56, 56, 28672),
    _opt("opt-66b", "opt-66b", 65_719_701_504, 64, 9216, 72, 72, 36864),
    _bloom("bloom-560m", "bloom-560m", 559_214_592, 24, 1024, 16, 16, 4096),
    _bloom("bloom-1b1", "bloom-1b1", 1_065_314_304, 24, 1536, 16, 16, 6144),
    _bloom("bloom-1b7", "bloom-1b7", 1_722_408_960, 24, 2048, 16, 16, 8192),
    _bloom("bloom-3b", "bloom-3b", 3_002_557_440, 30, 2560, 32, 32, 10240),
    _bloom("bloom-7b1", "bloom-7b1", 7_069_016_064, 30, 4096, 32, 32, 16384),
    _bloom("bloom-176b", "bloom", 176_247_271_424, 70, 14336, 112, 112, 57344),
    _mpt("mpt-7b", "mpt-7b", 6_649_286_656, 32, 4096, 32, 32, 16384),
    _mpt("mpt-30b", "mpt-30b", 29_957_200_896, 48, 7168, 64, 64, 28672, context_length=8192),
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
)
# fmt: on
