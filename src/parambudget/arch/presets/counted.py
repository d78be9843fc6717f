"""Published language models of image-text models: first what a family shares, then one row per model.

A row gives what differs from the defaults of `arch.defaults.with_defaults`. Every count is that of the
instantiated Hugging Face class (transformers 5, unique parameters; active: without the routed experts that a
token does not use), never ours. Of multimodal models it is the language model's.

What `ModelConfig` has no field for, and what has no module, stands in the `unsupported` of a family, in the
words of an import. Llama 4 Maverick has no norms on queries and keys, as its class in transformers says.
"""

from math import sqrt
from typing import Any, Final

from parambudget.arch.presets.row import dense_family, moe_family

_GEMMA: Final[dict[str, Any]] = dict(
    norm_placement="sandwich", qk_norm="head", attention_multiplier=1.0, head_dim=256, norm_eps=1e-6,
    activation="gelu_tanh", logit_softcap=30.0, rope_theta=1_000_000.0, rope_theta_local=10_000.0, tied=True,
    value_norm=True,
)  # fmt: skip
_PER_LAYER: Final[dict[str, Any]] = dict(per_layer_embedding_dim=256, per_layer_vocab_size=262144)
_GEMMA4: Final[dict[str, Any]] = _GEMMA | dict(
    vocab_size=262144,
    global_head_dim=512,
    rope_type="proportional",
    rope_proportion=0.25,
    layer_scale=True,
)
_KEYS_AS_VALUES: Final[dict[str, Any]] = dict(global_keys_as_values=True, window=1024, context_length=262144)


def _locals_and_a_global(n_local: int) -> dict[str, Any]:
    return {"window_pattern": ("local",) * n_local + ("global",)}


# fmt: off
_gemma3n = dense_family("google", "Gemma3nForCausalLM", "model card",
    ("AltUp", "LAuReL", "sparse activations of the first layers"),
    **_GEMMA, **_PER_LAYER, **_locals_and_a_global(4), vocab_size=262400, context_length=32768, window=512,
    embedding_multiplier=sqrt(2048), n_altup_streams=4, laurel_rank=64)
_gemma4_small = dense_family("google", "Gemma4ForCausalLM", "model card",
    **_GEMMA4, **_PER_LAYER, window=512, context_length=131072)
_gemma4 = dense_family("google", "Gemma4ForCausalLM", "model card", **_GEMMA4)
_gemma4_unified = dense_family("google", "Gemma4UnifiedForCausalLM", "model card", **_GEMMA4)
_gemma4_moe = moe_family("google", "Gemma4ForCausalLM", "model card", **_GEMMA4, experts_beside_ffn=True)
_llama4 = moe_family("meta-llama", "Llama4ForCausalLM", "model card",
    n_shared_experts=1, router_scores="sigmoid", norm_expert_weights=False, weights_on_inputs=True,
    rotary_interleaved=True, rotary_pattern=("rotary", "rotary", "rotary", "none"), window=8192,
    **_locals_and_a_global(3), window_kind="chunked", query_scale="log_next", query_scale_strength=0.1,
    query_scale_length=8192,
    intermediate_size=16384, head_dim=128, tied=False, vocab_size=202048, rope_theta=500_000.0)
_mimo = moe_family("XiaomiMiMo", "MiMoV2FlashForCausalLM", "model card",
    router_scores="sigmoid", correction_bias=True, n_first_dense=1, head_dim=192, value_head_dim=128,
    value_multiplier=0.707,
    global_n_kv_heads=4, local_sinks=True, rotary_fraction=0.334, rope_theta=5_000_000.0,
    rope_theta_local=10_000.0, window=129, tied=False, vocab_size=152576, context_length=131072)

ROWS: Final = (
    # name  repository  parameters  layers  dim  heads  kv heads  FFN width
    _gemma3n("gemma-3n-e2b", "gemma-3n-E2B", 4_435_182_688, 30, 2048, 8, 2, 8192, n_kv_shared_layers=10),
    _gemma3n("gemma-3n-e4b", "gemma-3n-E4B", 6_835_235_568, 35, 2048, 8, 2, 16384, n_kv_shared_layers=15),
    _gemma4_small("gemma-4-e2b", "gemma-4-E2B", 4_628_569_344, 35, 1536, 8, 1, 6144,
                  **_locals_and_a_global(4), embedding_multiplier=sqrt(1536), n_kv_shared_layers=20,
                  kv_shared_ffn_factor=2),
    _gemma4_small("gemma-4-e4b", "gemma-4-E4B", 7_463_013_376, 42, 2560, 8, 2, 10240,
                  **_locals_and_a_global(5), embedding_multiplier=sqrt(2560), n_kv_shared_layers=18),
    _gemma4_unified("gemma-4-12b", "gemma-4-12B", 11_907_350_272, 48, 3840, 16, 8, 15360, **_KEYS_AS_VALUES,
            **_locals_and_a_global(5), embedding_multiplier=sqrt(3840), global_n_kv_heads=1),
    _gemma4("gemma-4-31b", "gemma-4-31B", 30_697_345_280, 60, 5376, 32, 16, 21504, **_KEYS_AS_VALUES,
            **_locals_and_a_global(5), embedding_multiplier=sqrt(5376), global_n_kv_heads=4),
    # name  repository  parameters  active  layers  dim  heads or (heads, kv heads)  experts  per token  width
    _gemma4_moe("gemma-4-26b-a4b", "gemma-4-26B-A4B", 25_233_141_760, 3_822_530_560,
                30, 2816, (16, 8), 128, 8, 704, intermediate_size=2112, **_KEYS_AS_VALUES,
                **_locals_and_a_global(5), embedding_multiplier=sqrt(2816), global_n_kv_heads=2),
    _llama4("llama-4-scout", "Llama-4-Scout-17B-16E", 107_769_861_120, 17_172_894_720,
            48, 5120, (40, 8), 16, 1, 8192, context_length=262144, rope_type="llama3", rope_factor=8.0,
            rope_original_context=8192, qk_norm="l2"),
    _llama4("llama-4-maverick", "Llama-4-Maverick-17B-128E-Instruct", 400_711_848_960, 17_184_691_200,
            48, 5120, (40, 8), 128, 1, 8192, context_length=1_048_576, moe_pattern=("dense", "experts")),
    _mimo("mimo-v2-flash", "MiMo-V2-Flash", 308_778_768_832, 15_445_924_288,
          48, 4096, (64, 8), 256, 8, 2048, intermediate_size=16384,
          window_pattern=("global", *("local",) * 4, *(("global",) + ("local",) * 5) * 7, "global")),
)
# fmt: on
