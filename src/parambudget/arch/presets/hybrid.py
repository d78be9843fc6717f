"""Published decoders with mixers other than attention: first what a family shares, then one row per model.

A row gives what differs from the defaults of `arch.defaults.with_defaults`. Every count is that of the
instantiated Hugging Face class (transformers 5, unique parameters; active: without the routed experts that a
token does not use), never ours.
"""

from collections.abc import Collection
from typing import Any, Final

from parambudget.arch.dims import LayerMixer
from parambudget.arch.presets.row import dense_family, moe_family

_QWEN: Final[dict[str, Any]] = dict(
    mixer_pattern=("gated_delta_net", "gated_delta_net", "gated_delta_net", "attention"), head_dim=256,
    delta_n_key_heads=16, delta_n_value_heads=32, qk_norm="head", attention_gate="element",
    rotary_fraction=0.25, tied=False, norm_eps=1e-6, rope_theta=10_000_000.0, context_length=262144,
)  # fmt: skip
_CONVOLUTIONS: Final[dict[str, Any]] = dict(
    qk_norm="head", vocab_size=65536, context_length=128_000, rope_theta=1_000_000.0, short_conv_width=3
)


def _attention_at(layers: Collection[int], n_layers: int, other: LayerMixer) -> tuple[LayerMixer, ...]:
    """Attention in those layers, counted from 0, and the other mixer elsewhere."""
    return tuple("attention" if layer in layers else other for layer in range(n_layers))


# fmt: off
_qwen3_5 = dense_family("Qwen", "Qwen3_5ForCausalLM", "model card; its language model", **_QWEN,
    vocab_size=248320)
_qwen3_next = moe_family("Qwen", "Qwen3NextForCausalLM", "model card", **_QWEN,
    vocab_size=151936, n_shared_experts=1, shared_intermediate_size=512, shared_expert_gate=True)
_lfm2 = dense_family("LiquidAI", "Lfm2ForCausalLM", "arXiv 2511.23404", **_CONVOLUTIONS,
    mixer_pattern=_attention_at((2, 5, 8, 10, 12, 14), 16, "short_convolution"))
_lfm2_moe = moe_family("LiquidAI", "Lfm2MoeForCausalLM", "arXiv 2511.23404", **_CONVOLUTIONS,
    mixer_pattern=_attention_at((2, 6, 10, 14, 18, 21), 24, "short_convolution"), n_first_dense=2,
    router_scores="sigmoid", correction_bias=True)
_kimi = moe_family("moonshotai", "KimiLinearForCausalLM", "arXiv 2510.26692",
    mixer_pattern=_attention_at((3, 7, 11, 15, 19, 23, 26), 27, "gated_delta_net"), position="none",
    delta_n_key_heads=32, delta_n_value_heads=32, delta_gate_rank=128, delta_channel_decay=True,
    delta_gate_activation="sigmoid", kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64,
    v_head_dim=128, latent_norm_eps=1e-6, n_first_dense=1, n_shared_experts=1, router_scores="sigmoid",
    correction_bias=True, routing_multiplier=2.446, tied=False, vocab_size=163840, context_length=1048576)
_minimax = moe_family("MiniMaxAI", "MiniMaxForCausalLM", "arXiv 2501.08313",
    ("rotary positions on half of each head",),
    mixer_pattern=("lightning_attention",) * 7 + ("attention",), lightning_n_heads=64,
    lightning_norm_eps=1e-6, head_dim=128, norm_placement="stream", stream_multiplier=3.5565588200778455,
    tied=False, vocab_size=200064, context_length=10_240_000, rope_theta=10_000_000.0)
_griffin = dense_family("google", "RecurrentGemmaForCausalLM", "arXiv 2404.07839",
    mixer_pattern=("rg_lru", "rg_lru", "attention"), lru_block_width=256, window=2048, rotary_fraction=0.5,
    activation="gelu_tanh", attention_out_bias=True, ffn_bias=True, logit_softcap=30.0, norm_eps=1e-6,
    vocab_size=256000, context_length=8192)

ROWS: Final = (
    _qwen3_5("qwen3.5-9b", "Qwen3.5-9B", 8_953_803_264, 32, 4096, 16, 4, 12288),
    _qwen3_next("qwen3-next-80b-a3b", "Qwen3-Next-80B-A3B-Instruct", 79_674_391_296, 3_874_929_408,
                48, 2048, (16, 2), 512, 10, 512),
    _lfm2("lfm2-350m", "LFM2-350M", 354_483_968, 16, 1024, 16, 8, 4608),
    _lfm2("lfm2-700m", "LFM2-700M", 742_489_344, 16, 1536, 24, 8, 6912),
    _lfm2("lfm2-1.2b", "LFM2-1.2B", 1_170_340_608, 16, 2048, 32, 8, 8192),
    _lfm2_moe("lfm2-8b-a1b", "LFM2-8B-A1B", 8_339_929_856, 1_557_740_288,
              24, 2048, (32, 8), 32, 4, 1792, intermediate_size=7168),
    _kimi("kimi-linear-48b-a3b", "Kimi-Linear-48B-A3B-Instruct", 49_122_675_072, 3_484_453_248,
          27, 2304, 32, 256, 8, 1024, intermediate_size=9216),
    _minimax("minimax-text-01", "MiniMax-Text-01", 456_089_655_296, 48_403_306_496,
             80, 6144, (64, 8), 32, 2, 9216),
    _griffin("recurrentgemma-2b", "recurrentgemma-2b", 2_682_862_080, 26, 2560, 10, 1, 7680,
             lru_n_blocks=10, embedding_multiplier=50.5),
    _griffin("recurrentgemma-9b", "recurrentgemma-9b", 8_579_977_216, 38, 4096, 16, 1, 12288,
             lru_n_blocks=16, embedding_multiplier=64.0),
)
# fmt: on
